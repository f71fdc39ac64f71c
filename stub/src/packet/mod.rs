//! The packet layer: what stands between the bytes of a channel and gdbstub.
//!
//! gdbstub dies on a stray byte, a bad checksum, a `-` and several legal packets. So this layer owns the framing of the
//! remote serial protocol (GDB manual, appendix E.1 "Overview"): [`Framer`] finds packets in the bytes, [`Outbox`]
//! frames replies and keeps them until they are acknowledged, and [`request`] sorts the packets into those that
//! gdbstub may see, in the one spelling that is safe for it, and those that are answered without it.

mod bytes;
mod framer;
mod line;
mod outbox;
pub(crate) mod request;

pub(crate) use bytes::{escape, escape_within, hex_decode, hex_encode, hex_number, unescape};
pub(crate) use framer::{Framer, Incoming};
pub(crate) use line::Line;
pub(crate) use outbox::{Heard, Outbox};

use alloc::vec::Vec;

/// The largest packet, in bytes with its frame: what `qSupported` announces. A file or memory takes as many packets as this
/// says, and each a round trip.
pub(crate) const PACKET_SIZE: usize = 64 << 10;

/// What the layer itself takes: a little more than it announces, because clients count the frame differently.
const MAX_BODY: usize = PACKET_SIZE + 16;

/// The checksum of a packet: the sum of the bytes of its body modulo 256.
pub(crate) fn checksum(body: &[u8]) -> u8 {
    body.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

/// Puts a body that is already escaped into its frame: `$body#checksum`.
pub(crate) fn frame(body: &[u8]) -> Vec<u8> {
    let mut framed = Vec::with_capacity(body.len() + 4);
    framed.push(b'$');
    framed.extend_from_slice(body);
    framed.push(b'#');
    hex_encode(&[checksum(body)], &mut framed);
    framed
}

/// The reply to `qXfer` with a window, offset and length, of a document (GDB manual, E.4 "qXfer object read"): `m` where
/// more follows, `l` where not.
pub(crate) fn window(document: &[u8], (offset, length): (u64, u64)) -> Vec<u8> {
    let offset = usize::try_from(offset).unwrap_or(usize::MAX);
    let rest = document.get(offset..).unwrap_or_default();
    let count = rest
        .len()
        .min(usize::try_from(length).unwrap_or(usize::MAX));
    let more = if count < rest.len() { b'm' } else { b'l' };
    let mut body = Vec::from([more]);
    escape(&rest[..count], &mut body);
    body
}

/// Bodies of packets, in order, still escaped.
pub(crate) type Bodies = Vec<Vec<u8>>;

/// Takes packets out of their frames. `$` and `#` are escaped inside.
pub(crate) fn unframe(bytes: &[u8]) -> Bodies {
    let frames = bytes.split(|byte| *byte == b'$').skip(1);
    frames
        .filter_map(|frame| frame.split(|byte| *byte == b'#').next())
        .map(<[u8]>::to_vec)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_escaped() {
        assert_eq!(window(b"a}bc", (1, 2)), b"m}]b");
        assert_eq!(window(b"a}bc", (2, 9)), b"lbc");
        assert_eq!(window(b"a}bc", (u64::MAX, 9)), b"l");
    }

    #[test]
    fn frames_are_taken_apart() {
        assert_eq!(
            unframe(b"+$O41#b4$OK#9a"),
            [b"O41".to_vec(), b"OK".to_vec()]
        );
        assert_eq!(unframe(b"$#00"), [b"".to_vec()]);
        assert!(unframe(b"").is_empty());
    }
}
