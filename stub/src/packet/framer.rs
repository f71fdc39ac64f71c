//! Finds packets in a stream of bytes that may hold anything.

use super::MAX_BODY;
use super::bytes::hex_digit;
use alloc::vec::Vec;
use core::mem;

/// What the bytes so far turned out to be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Incoming {
    /// A packet with a good checksum: its body, still escaped.
    Packet(Vec<u8>),
    /// A packet whose checksum is wrong, or not two digits.
    BadChecksum,
    /// A packet longer than the layer takes. Its body is lost.
    Oversize,
    /// `+`: the client has our last packet.
    Ack,
    /// `-`: the client wants our last packet again.
    Nack,
    /// Byte 0x03 between packets: Ctrl-C.
    Interrupt,
}

/// Where in a packet the next byte belongs.
enum Place {
    /// Between packets. Bytes that mean nothing here are skipped.
    Between,
    /// After the `$`.
    Body,
    /// After the `#`.
    Checksum,
    /// After the first digit of the checksum.
    ChecksumLow(Option<u8>),
}

/// A state machine that takes one byte at a time and holds at most one packet.
///
/// An unescaped `$` always begins a packet: the protocol escapes it inside one. So a client that died in mid-packet
/// costs its successor nothing.
pub(crate) struct Framer {
    place: Place,
    body: Vec<u8>,
    sum: u8,
    oversize: bool,
}

impl Framer {
    /// A framer between packets.
    pub(crate) fn new() -> Self {
        Self {
            place: Place::Between,
            body: Vec::new(),
            sum: 0,
            oversize: false,
        }
    }

    /// Forgets a packet that has begun.
    fn reset(&mut self) {
        *self = Self::new();
    }

    /// Takes the next byte.
    pub(crate) fn push(&mut self, byte: u8) -> Option<Incoming> {
        if byte == b'$' {
            self.reset();
            self.place = Place::Body;
            return None;
        }
        match self.place {
            Place::Between => between(byte),
            Place::Body => {
                self.push_body(byte);
                None
            }
            Place::Checksum => {
                self.place = Place::ChecksumLow(hex_digit(byte));
                None
            }
            Place::ChecksumLow(high) => Some(self.finish(high, hex_digit(byte))),
        }
    }

    fn push_body(&mut self, byte: u8) {
        if byte == b'#' {
            self.place = Place::Checksum;
            return;
        }
        self.sum = self.sum.wrapping_add(byte);
        if self.body.len() == MAX_BODY {
            self.oversize = true;
        } else {
            self.body.push(byte);
        }
    }

    fn finish(&mut self, high: Option<u8>, low: Option<u8>) -> Incoming {
        let received = high.zip(low).map(|(high, low)| high << 4 | low);
        let incoming = if received != Some(self.sum) {
            Incoming::BadChecksum
        } else if self.oversize {
            Incoming::Oversize
        } else {
            Incoming::Packet(mem::take(&mut self.body))
        };
        self.reset();
        incoming
    }
}

fn between(byte: u8) -> Option<Incoming> {
    match byte {
        b'+' => Some(Incoming::Ack),
        b'-' => Some(Incoming::Nack),
        0x03 => Some(Incoming::Interrupt),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::frame;
    use alloc::vec;

    fn feed(bytes: &[u8]) -> Vec<Incoming> {
        let mut framer = Framer::new();
        bytes.iter().filter_map(|byte| framer.push(*byte)).collect()
    }

    fn packet(body: &[u8]) -> Incoming {
        Incoming::Packet(body.to_vec())
    }

    #[test]
    fn packets_acks_and_interrupts() {
        assert_eq!(
            feed(b"+$g#67-\x03$#00"),
            [
                Incoming::Ack,
                packet(b"g"),
                Incoming::Nack,
                Incoming::Interrupt,
                packet(b"")
            ]
        );
    }

    #[test]
    fn garbage_between_packets_is_skipped() {
        assert_eq!(feed(b"\r\nhello #99 \x00$g#67\n"), [packet(b"g")]);
    }

    #[test]
    fn a_dollar_begins_anew_wherever_it_comes() {
        assert_eq!(feed(b"$vFile:pwr$g#67"), [packet(b"g")]);
        assert_eq!(feed(b"$m#$g#67"), [packet(b"g")]);
        assert_eq!(feed(b"$m#6$g#67"), [packet(b"g")]);
    }

    #[test]
    fn a_bad_checksum_is_told() {
        assert_eq!(feed(b"$g#68$g#67"), [Incoming::BadChecksum, packet(b"g")]);
        assert_eq!(feed(b"$g#zz$g#67"), [Incoming::BadChecksum, packet(b"g")]);
    }

    #[test]
    fn an_interrupt_byte_inside_a_packet_is_data() {
        assert_eq!(feed(&frame(b"X0,1:\x03")), [packet(b"X0,1:\x03")]);
    }

    #[test]
    fn the_limit() {
        let longest = vec![b'a'; MAX_BODY];
        assert_eq!(feed(&frame(&longest)), [packet(&longest)]);
        let mut bytes = frame(&vec![b'a'; MAX_BODY + 1]);
        bytes.extend_from_slice(b"$g#67");
        assert_eq!(feed(&bytes), [Incoming::Oversize, packet(b"g")]);
    }
}
