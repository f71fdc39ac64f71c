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

pub(crate) use bytes::{hex_decode, hex_encode, hex_number};
pub(crate) use framer::{Framer, Incoming};
pub(crate) use line::Line;
pub(crate) use outbox::Outbox;

use alloc::vec::Vec;

/// The largest packet a client may send, in bytes with its frame: what `qSupported` announces.
pub(crate) const PACKET_SIZE: usize = 4096;

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
