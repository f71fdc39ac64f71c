//! Packets about more memory than fits a reply: `qSearch:memory`, `qCRC`.

use super::memory::range;
use super::{Request, split_at};
use crate::packet::{hex_number, unescape};

/// The longest pattern: GDB's own limit is 1000 bytes.
const MAX_PATTERN: usize = 1024;

/// `qSearch:memory:address;length;pattern`, the pattern in binary.
pub(super) fn search(bytes: &[u8]) -> Option<Request> {
    let bytes = bytes.strip_prefix(b"memory:")?;
    let (address, rest) = split_at(bytes, b';')?;
    let (length, pattern) = split_at(rest, b';')?;
    let (address, length) = (hex_number(address)?, hex_number(length)?);
    let pattern = unescape(pattern)?;
    let fits = !pattern.is_empty() && pattern.len() <= MAX_PATTERN;
    let last = address.saturating_add(length.checked_sub(1)?);
    fits.then_some(Request::Search {
        first: address,
        last,
        pattern,
    })
}

/// `qCRC:address,length`.
pub(super) fn checksum(bytes: &[u8]) -> Option<Request> {
    let (first, length) = range(bytes)?;
    let last = first.checked_add(length.checked_sub(1)?)?;
    Some(Request::Checksum { first, last })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::request::{MALFORMED, parse};

    #[test]
    fn searches() {
        assert_eq!(
            parse(b"qSearch:memory:40000000;1000;a;}\x03"),
            Request::Search {
                first: 0x4000_0000,
                last: 0x4000_0fff,
                pattern: b"a;#".to_vec()
            }
        );
        assert_eq!(parse(b"qSearch:memory:40000000;1000;"), MALFORMED);
        assert_eq!(parse(b"qSearch:memory:40000000;0;a"), MALFORMED);
        assert_eq!(parse(b"qSearch:memory:40000000;10"), MALFORMED);
        assert_eq!(parse(b"qSearch:memory:40000000;10;a}"), MALFORMED);
        assert_eq!(parse(b"qSearch:registers:"), MALFORMED);
    }

    #[test]
    fn checksums() {
        let all = Request::Checksum {
            first: 0x1000,
            last: 0x10ff,
        };
        assert_eq!(parse(b"qCRC:1000,100"), all);
        assert_eq!(parse(b"qCRC:1000,0"), MALFORMED);
        assert_eq!(parse(b"qCRC:ffffffffffffffff,2"), MALFORMED);
        assert_eq!(parse(b"qCRC:1000"), MALFORMED);
    }
}
