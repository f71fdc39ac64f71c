//! Numbers, as users write and read them.

use alloc::string::{String, ToString};

/// `0x…` or decimal.
pub(super) fn parse(text: &str) -> Option<u64> {
    let (digits, radix) = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => (digits, 16),
        None => (text, 10),
    };
    if digits.starts_with('+') {
        return None;
    }
    u64::from_str_radix(digits, radix).ok()
}

/// `1,204`.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parsing() {
        assert_eq!(parse("0x40000000"), Some(0x4000_0000));
        assert_eq!(parse("64"), Some(64));
        assert_eq!(parse("+1"), None);
        assert_eq!(parse("0x+1"), None);
        assert_eq!(parse("0x"), None);
        assert_eq!(parse("-1"), None);
        assert_eq!(parse("18446744073709551616"), None);
    }

    #[test]
    fn grouping() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1204), "1,204");
        assert_eq!(grouped(1_234_567), "1,234,567");
    }
}
