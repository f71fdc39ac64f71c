//! Bytes as the protocol writes them: hexadecimal, and binary with escapes.

use alloc::vec::Vec;

/// Appends two lower-case digits for each byte.
pub(crate) fn hex_encode(bytes: &[u8], out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    // Whole replies of memory pass here: room is made once.
    let begin = out.len();
    out.resize(begin + 2 * bytes.len(), 0);
    for (pair, byte) in out[begin..].chunks_exact_mut(2).zip(bytes) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 0xf)];
    }
}

/// Appends binary data as the protocol writes it (GDB manual, E.1 "Binary Data"). `*` is escaped because a reply may not
/// hold one that means no repetition.
pub(crate) fn escape(bytes: &[u8], out: &mut Vec<u8>) {
    escape_within(usize::MAX, bytes, out);
}

/// The same with as many bytes as take at most `room` with their escapes; returns how many.
pub(crate) fn escape_within(room: usize, bytes: &[u8], out: &mut Vec<u8>) -> usize {
    let end = out.len().saturating_add(room);
    for (count, byte) in bytes.iter().enumerate() {
        let is_special = matches!(byte, b'#' | b'$' | b'}' | b'*');
        if out.len() + 1 + usize::from(is_special) > end {
            return count;
        }
        if is_special {
            out.push(b'}');
            out.push(byte ^ 0x20);
        } else {
            out.push(*byte);
        }
    }
    bytes.len()
}

/// What escaped binary data stands for; `None` where an escape has no byte after it.
pub(crate) fn unescape(data: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = data.iter();
    let mut plain = Vec::with_capacity(data.len());
    while let Some(byte) = bytes.next() {
        plain.push(match byte {
            b'}' => bytes.next()? ^ 0x20,
            byte => *byte,
        });
    }
    Some(plain)
}

/// The bytes that pairs of digits stand for, or `None` where something else is there.
pub(crate) fn hex_decode(digits: &[u8]) -> Option<Vec<u8>> {
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    digits
        .chunks_exact(2)
        .map(|pair| Some(hex_digit(pair[0])? << 4 | hex_digit(pair[1])?))
        .collect()
}

/// The number that 1 to 16 significant digits stand for.
pub(crate) fn hex_number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |number, digit| {
        let fits = number >> 60 == 0;
        fits.then_some(number << 4 | u64::from(hex_digit(*digit)?))
    })
}

/// The value of one digit.
pub(crate) fn hex_digit(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|value| value as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binary_data_is_escaped_as_far_as_it_fits() {
        let mut out = Vec::from(*b"F4;");
        assert_eq!(escape_within(6, b"a$b}", &mut out), 4);
        assert_eq!(out, b"F4;a}\x04b}]");
        for (room, fits) in [(0, 0), (1, 1), (2, 1), (3, 2), (4, 3), (5, 3)] {
            let mut out = Vec::new();
            assert_eq!(escape_within(room, b"a$b}", &mut out), fits);
            assert!(out.len() <= room);
        }
    }

    #[test]
    fn numbers() {
        assert_eq!(hex_number(b"0"), Some(0));
        assert_eq!(hex_number(b"ffffffffffffffff"), Some(u64::MAX));
        assert_eq!(hex_number(b"00000000000000000001"), Some(1));
        assert_eq!(hex_number(b"10000000000000000"), None);
        assert_eq!(hex_number(b""), None);
        assert_eq!(hex_number(b"-1"), None);
        assert_eq!(hex_number(b"0x1"), None);
    }

    #[test]
    fn escapes() {
        let mut out = Vec::new();
        escape(b"a#$}*z", &mut out);
        assert_eq!(out, b"a}\x03}\x04}]}\nz");
        assert_eq!(unescape(&out).as_deref(), Some(&b"a#$}*z"[..]));
        assert_eq!(unescape(b"a}"), None);
    }

    #[test]
    fn bytes_round_trip() {
        let mut digits = Vec::new();
        hex_encode(&[0, 0x7f, 0xff], &mut digits);
        assert_eq!(digits, b"007fff");
        assert_eq!(hex_decode(&digits), Some(alloc::vec![0, 0x7f, 0xff]));
        assert_eq!(hex_decode(b"7"), None);
        assert_eq!(hex_decode(b"zz"), None);
    }
}
