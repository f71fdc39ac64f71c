//! Keys and values, as users write and read them.

use super::super::{Problem, number};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use probes::addr::Gva;
use probes::symbols::Symbols;

/// What has the size of an integer as that integer, anything else byte by byte.
pub(super) fn show(bytes: &[u8]) -> String {
    match integer(bytes) {
        Some(integer) => integer.to_string(),
        None => bytes
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<Vec<_>>()
            .join(" "),
    }
}

/// A backtrace, innermost address first, with the symbols that are known.
pub(super) fn backtrace(bytes: &[u8], symbols: Option<&dyn Symbols>) -> String {
    let (words, _) = bytes.as_chunks::<8>();
    let addresses = words.iter().map(|word| u64::from_le_bytes(*word));
    let names = addresses
        .take_while(|&address| address != 0)
        .map(|address| {
            let located = symbols.and_then(|symbols| symbols.by_address(Gva(address)));
            match located {
                Some(at) => format!("{}+{:#x}", at.name, at.offset),
                None => format!("{address:#x}"),
            }
        });
    names.collect::<Vec<_>>().join(" < ")
}

/// What has the size of an integer, as that.
pub(super) fn integer(bytes: &[u8]) -> Option<u64> {
    matches!(bytes.len(), 1 | 2 | 4 | 8).then(|| {
        let mut buffer = [0; 8];
        buffer[..bytes.len()].copy_from_slice(bytes);
        u64::from_le_bytes(buffer)
    })
}

/// A key or a value (`what`) of `size` bytes: a number (`7`, `-1`, `0x10`) where it has the size of
/// an integer, or all its bytes (`01:ff:00`).
pub(super) fn parse(text: &str, size: usize, what: &str) -> Result<Vec<u8>, Problem> {
    if text.contains(':') {
        return parse_bytes(text, size, what);
    }
    if !matches!(size, 1 | 2 | 4 | 8) {
        return Err(Problem::Usage(format!(
            "a {what} of this map has {size} bytes: write them as 01:ff:00 and so on."
        )));
    }
    let (digits, negative) = match text.strip_prefix('-') {
        Some(digits) => (digits, Sign::Negative),
        None => (text, Sign::Positive),
    };
    let magnitude = number::parse(digits).ok_or_else(|| {
        Problem::Usage(format!(
            "{text:?} is no {what}: write a number, or its bytes as 01:ff:00."
        ))
    })?;
    let bits = 8 * size as u32;
    let (fits, value) = match negative {
        Sign::Positive => (magnitude <= u64::MAX >> (64 - bits), magnitude),
        Sign::Negative => (magnitude <= 1 << (bits - 1), magnitude.wrapping_neg()),
    };
    if !fits {
        return Err(Problem::Usage(format!(
            "{text} does not fit into a {what} of this map, which has {size} bytes."
        )));
    }
    Ok(value.to_le_bytes()[..size].to_vec())
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Sign {
    Positive,
    Negative,
}

fn parse_bytes(text: &str, size: usize, what: &str) -> Result<Vec<u8>, Problem> {
    let byte = |text: &str| match text.len() {
        1 | 2 if !text.starts_with('+') => u8::from_str_radix(text, 16).ok(),
        _ => None,
    };
    let bytes: Option<Vec<u8>> = text.split(':').map(byte).collect();
    let Some(bytes) = bytes else {
        return Err(Problem::Usage(format!(
            "{text:?} is no {what}: write bytes as two hexadecimal digits each, as in 01:ff:00."
        )));
    };
    if bytes.len() != size {
        return Err(Problem::Usage(format!(
            "a {what} of this map has {size} bytes, and these are {}.",
            bytes.len()
        )));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    #[test]
    fn integers_and_bytes_are_shown() {
        assert_eq!(show(&[1, 1, 0, 0]), "257");
        assert_eq!(show(&u64::MAX.to_le_bytes()), "18446744073709551615");
        assert_eq!(show(&[1, 0xff, 0]), "01 ff 00");
        assert_eq!(show(&[]), "");
    }

    #[test]
    fn what_is_shown_can_be_said() {
        assert_eq!(parse("257", 4, "key"), Ok(vec![1, 1, 0, 0]));
        assert_eq!(parse("0x10", 2, "key"), Ok(vec![16, 0]));
        assert_eq!(parse("-1", 8, "key"), Ok(vec![255; 8]));
        assert_eq!(parse("-128", 1, "key"), Ok(vec![128]));
        assert_eq!(parse("01:ff:0", 3, "key"), Ok(vec![1, 255, 0]));
        let wrong = [
            ("256", 1),
            ("-129", 1),
            ("x", 4),
            ("", 4),
            ("1", 3),
            ("1:2", 3),
            ("01:gg", 2),
            ("01:+1", 2),
            ("001:1", 2),
        ];
        for (text, size) in wrong {
            assert!(
                matches!(parse(text, size, "key"), Err(Problem::Usage(_))),
                "{text}"
            );
        }
    }
}
