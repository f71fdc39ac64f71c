//! Memory: `m`, `x`, `M`, `X`.

use super::{Request, UNKNOWN, split_at};
use crate::packet::{PACKET_SIZE, hex_decode, hex_number, unescape};
use alloc::format;

/// The most bytes that one packet reads: their digits fill the reply. The protocol lets a stub answer with fewer than asked.
pub(crate) const MAX_READ: u64 = PACKET_SIZE as u64 / 2 - 8;

/// How the reply to a read holds memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Encoding {
    /// `m`: two digits a byte.
    Hex,
    /// `x`: the bytes, with escapes.
    Binary,
}

/// `address,length`, where the range does not wrap.
pub(super) fn range(bytes: &[u8]) -> Option<(u64, u64)> {
    let (address, length) = split_at(bytes, b',')?;
    let (address, length) = (hex_number(address)?, hex_number(length)?);
    address.checked_add(length.saturating_sub(1))?;
    Some((address, length))
}

/// `m` and `x`. Reading is not left to gdbstub: it goes over each digit several times, and adds to the address without a
/// check. LLDB before 21 asks for no bytes at 0 to see whether there is such an `x`.
pub(super) fn read_memory(encoding: Encoding, range: &[u8]) -> Option<Request> {
    let (address, length) = split_at(range, b',')?;
    let (address, length) = (hex_number(address)?, hex_number(length)?);
    Some(match (encoding, address, length) {
        (Encoding::Hex, _, 0) => UNKNOWN,
        (Encoding::Binary, 0, 0) => Request::ProbeBinary,
        _ => Request::ReadMemory {
            address,
            length,
            encoding,
        },
    })
}

pub(super) fn write_memory(bytes: &[u8]) -> Option<Request> {
    let (place, digits) = split_at(bytes, b':')?;
    let (address, length) = range(place)?;
    let data = hex_decode(digits)?;
    if data.len() as u64 != length {
        return None;
    }
    let mut packet = format!("M{address:x},{length:x}:").into_bytes();
    packet.extend_from_slice(digits);
    Some(Request::Stub(packet))
}

pub(super) fn write_memory_binary(bytes: &[u8]) -> Option<Request> {
    let (place, data) = split_at(bytes, b':')?;
    let (address, length) = range(place)?;
    if unescape(data)?.len() as u64 != length {
        return None;
    }
    let mut packet = format!("X{address:x},{length:x}:").into_bytes();
    packet.extend_from_slice(data);
    Some(Request::Stub(packet))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::request::tests::stub;
    use crate::packet::request::{MALFORMED, parse};

    #[test]
    fn reads() {
        let read = |address, length, encoding| Request::ReadMemory {
            address,
            length,
            encoding,
        };
        assert_eq!(parse(b"m1000,4"), read(0x1000, 4, Encoding::Hex));
        assert_eq!(parse(b"x1000,8"), read(0x1000, 8, Encoding::Binary));
        assert_eq!(
            parse(b"xffffffffffffffff,ffffffffffffffff"),
            read(u64::MAX, u64::MAX, Encoding::Binary)
        );
        assert_eq!(parse(b"m0,0"), UNKNOWN);
        assert_eq!(parse(b"x0,0"), Request::ProbeBinary);
        assert_eq!(parse(b"m10000000000000000,4"), MALFORMED);
        assert_eq!(parse(b"m,4"), MALFORMED);
        assert_eq!(parse(b"m4"), MALFORMED);
        assert_eq!(parse(b"x10"), MALFORMED);
        assert_eq!(parse(b"x,4"), MALFORMED);
    }

    #[test]
    fn writes_say_what_they_hold() {
        assert_eq!(parse(b"M10,2:0102"), stub("M10,2:0102"));
        assert_eq!(parse(b"M10,3:0102"), MALFORMED);
        assert_eq!(parse(b"Mffffffffffffffff,2:0102"), MALFORMED);
        assert_eq!(
            parse(b"X10,2:}\x03a"),
            Request::Stub(b"X10,2:}\x03a".to_vec())
        );
        assert_eq!(parse(b"X10,0:"), stub("X10,0:"));
        assert_eq!(parse(b"X10,2:a}"), MALFORMED);
    }
}
