//! Where parts of a file are written to, or only counted.

use alloc::vec::Vec;

/// Takes bytes.
pub(super) trait Sink {
    /// Takes the next bytes.
    fn put(&mut self, bytes: &[u8]);

    /// How many bytes there are.
    fn length(&self) -> usize;

    /// A byte.
    fn byte(&mut self, value: u8) {
        self.put(&[value]);
    }

    /// A half-word, the least significant byte first, as everything here.
    fn u16(&mut self, value: u16) {
        self.put(&value.to_le_bytes());
    }

    /// A word.
    fn u32(&mut self, value: u32) {
        self.put(&value.to_le_bytes());
    }

    /// A double-word.
    fn u64(&mut self, value: u64) {
        self.put(&value.to_le_bytes());
    }

    /// Text and the zero that ends it.
    fn text(&mut self, text: &str) {
        self.put(text.as_bytes());
        self.byte(0);
    }

    /// A number in as few bytes as it takes (DWARF 5, 7.6 "Variable Length Data": unsigned LEB128).
    fn unsigned(&mut self, mut value: u64) {
        let mut bytes = [0; 10];
        let mut length = 0;
        loop {
            let low = value as u8 & 0x7f;
            value >>= 7;
            bytes[length] = low | u8::from(value != 0) << 7;
            length += 1;
            if value == 0 {
                return self.put(&bytes[..length]);
            }
        }
    }

    /// The same with a sign (signed LEB128).
    fn signed(&mut self, mut value: i64) {
        loop {
            let low = value as u8 & 0x7f;
            value >>= 7;
            let sign = low >> 6 & 1;
            let is_last = value == -i64::from(sign);
            self.byte(low | u8::from(!is_last) << 7);
            if is_last {
                return;
            }
        }
    }
}

/// Counts what would be written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Length(pub(super) usize);

impl Sink for Length {
    fn put(&mut self, bytes: &[u8]) {
        self.0 += bytes.len();
    }

    fn length(&self) -> usize {
        self.0
    }
}

impl Sink for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }

    fn length(&self) -> usize {
        self.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gimli::{EndianSlice, LittleEndian, Reader};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn numbers_read_back(unsigned: u64, signed: i64, shift in 0..64_u32) {
            let (unsigned, signed) = (unsigned >> shift, signed >> shift);
            let mut bytes = Vec::new();
            bytes.unsigned(unsigned);
            bytes.signed(signed);
            let mut length = Length::default();
            length.unsigned(unsigned);
            length.signed(signed);
            prop_assert_eq!(length.length(), bytes.len());
            let mut reader = EndianSlice::new(&bytes, LittleEndian);
            prop_assert_eq!(reader.read_uleb128(), Ok(unsigned));
            prop_assert_eq!(reader.read_sleb128(), Ok(signed));
            prop_assert!(reader.is_empty());
        }
    }
}
