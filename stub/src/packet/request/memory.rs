//! Memory: `m`, `x`, `M`, `X`.

use super::{Request, UNKNOWN, split_at};
use crate::packet::{PACKET_SIZE, hex_decode, hex_number, unescape};
use alloc::format;

/// The most bytes that one `m` reads: their digits fill a packet. The protocol lets a stub answer with fewer than asked.
pub(crate) const MAX_READ: u64 = PACKET_SIZE as u64 / 2 - 8;

/// `address,length`, where the range does not wrap.
pub(super) fn range(bytes: &[u8]) -> Option<(u64, u64)> {
    let (address, length) = split_at(bytes, b',')?;
    let (address, length) = (hex_number(address)?, hex_number(length)?);
    address.checked_add(length.saturating_sub(1))?;
    Some((address, length))
}

/// `m`: gdbstub adds to the address without a check, so the end of the range is clamped to the address space.
pub(super) fn read_memory(bytes: &[u8]) -> Option<Request> {
    let (address, length) = split_at(bytes, b',')?;
    let (address, length) = (hex_number(address)?, hex_number(length)?);
    if length == 0 {
        return Some(UNKNOWN);
    }
    let to_the_end = (u64::MAX - address).saturating_add(1);
    let length = length.min(MAX_READ).min(to_the_end);
    Some(Request::Stub(
        format!("m{address:x},{length:x}").into_bytes(),
    ))
}

/// `x`: LLDB before 21 asks for no bytes at 0 to see whether there is such a packet.
pub(super) fn read_binary(bytes: &[u8]) -> Option<Request> {
    let (address, length) = split_at(bytes, b',')?;
    let (address, length) = (hex_number(address)?, hex_number(length)?);
    Some(match (address, length) {
        (0, 0) => Request::ProbeBinary,
        _ => Request::ReadBinary(address, length),
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
    fn reads_are_clamped() {
        assert_eq!(parse(b"m1000,4"), stub("m1000,4"));
        assert_eq!(parse(b"m0,ffffffffffffffff"), stub("m0,7ff8"));
        assert_eq!(parse(b"mfffffffffffffffc,100"), stub("mfffffffffffffffc,4"));
        assert_eq!(parse(b"m0,0"), UNKNOWN);
        assert_eq!(parse(b"m10000000000000000,4"), MALFORMED);
        assert_eq!(parse(b"m,4"), MALFORMED);
        assert_eq!(parse(b"m4"), MALFORMED);
    }

    #[test]
    fn binary_reads() {
        assert_eq!(parse(b"x0,0"), Request::ProbeBinary);
        assert_eq!(parse(b"x1000,8"), Request::ReadBinary(0x1000, 8));
        assert_eq!(
            parse(b"xffffffffffffffff,ffffffffffffffff"),
            Request::ReadBinary(u64::MAX, u64::MAX)
        );
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
