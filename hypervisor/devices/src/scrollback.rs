//! The last that a guest has written to its console: for who connects later, and for who wants to read it again.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

/// Bytes that are kept.
pub const CAPACITY: usize = 256 * 1024;

/// A text without a beginning. Positions in it count from the first byte that was ever written.
#[derive(Debug, Default)]
pub struct Scrollback {
    kept: VecDeque<u8>,
    /// The position after the last byte.
    end: u64,
}

impl Scrollback {
    /// Writes at the end. What is older than [`CAPACITY`] bytes goes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.end += bytes.len() as u64;
        let bytes = &bytes[bytes.len().saturating_sub(CAPACITY)..];
        let excess = (self.kept.len() + bytes.len()).saturating_sub(CAPACITY);
        self.kept.drain(..excess);
        self.kept.extend(bytes);
    }

    /// All that is kept.
    pub fn contents(&self) -> Vec<u8> {
        self.kept.iter().copied().collect()
    }

    /// The position after the last byte.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Moves what is at `position` to the front of `buffer`, or, where that has gone, the oldest there is. Returns where it
    /// stood, and how many bytes.
    pub fn read(&self, position: u64, buffer: &mut [u8]) -> (u64, usize) {
        let first = self.end - self.kept.len() as u64;
        let start = position.clamp(first, self.end);
        let skipped = (start - first) as usize;
        let count = buffer.len().min(self.kept.len() - skipped);
        for (place, byte) in buffer.iter_mut().zip(self.kept.range(skipped..)) {
            *place = *byte;
        }
        (start, count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_goes_on_where_it_was() {
        let mut console = Scrollback::default();
        let mut buffer = [0; 4];
        assert_eq!(console.read(0, &mut buffer), (0, 0));
        console.push(b"hello ");
        assert_eq!(console.read(0, &mut buffer), (0, 4));
        assert_eq!(&buffer, b"hell");
        console.push(b"world");
        assert_eq!(console.read(4, &mut buffer), (4, 4));
        assert_eq!(&buffer, b"o wo");
        assert_eq!(console.read(8, &mut buffer), (8, 3));
        assert_eq!(&buffer[..3], b"rld");
        assert_eq!(console.read(console.end(), &mut buffer), (11, 0));
        assert_eq!(console.contents(), b"hello world");
    }

    #[test]
    fn the_oldest_goes_first() {
        let mut console = Scrollback::default();
        for piece in 0..=CAPACITY / 1000 {
            console.push(&[piece as u8; 1000]);
        }
        let kept = console.contents();
        assert_eq!(kept.len(), CAPACITY);
        assert_eq!(kept.last(), Some(&((CAPACITY / 1000) as u8)));
        let mut buffer = [0; 8];
        let first = console.end() - CAPACITY as u64;
        assert_eq!(console.read(0, &mut buffer), (first, 8), "it has gone");
        assert_eq!(console.read(u64::MAX, &mut buffer), (console.end(), 0));
        console.push(&[7; CAPACITY + 1]);
        assert_eq!(console.contents(), [7; CAPACITY]);
    }
}
