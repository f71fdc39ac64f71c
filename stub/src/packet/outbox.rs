//! What goes to the client: packets in their frames, acknowledgements, and what the channel has not taken yet.

use super::{Bodies, Incoming, frame, hex_encode, unframe};
use crate::channel::ByteChannel;
use alloc::collections::VecDeque;
use alloc::vec::Vec;

/// Above this many queued bytes the client does not read what it asked for.
const FULL: usize = 256 * 1024;

/// Whether packets are acknowledged (GDB manual, E.11 "Packet Acknowledgment").
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum AckMode {
    /// Each packet waits for the `+` of the one before.
    Acks,
    /// After `QStartNoAckMode`.
    NoAcks,
}

/// What a client says that somebody has to answer. Packets are to be [accepted](Outbox::accept).
pub(crate) enum Heard {
    /// Ctrl-C.
    Interrupt,
    /// A packet longer than the layer takes.
    Oversize,
    /// The body of a packet, still escaped.
    Packet(Vec<u8>),
}

/// The output side of a session. Packets leave in order; in [`AckMode::Acks`] one at a time.
pub(crate) struct Outbox {
    mode: AckMode,
    /// Packets in their frames; the first is the one in flight, if one is.
    packets: VecDeque<Vec<u8>>,
    in_flight: bool,
    /// Bytes on their way out.
    bytes: VecDeque<u8>,
    /// Bytes in `packets`.
    queued: usize,
}

impl Outbox {
    /// An empty outbox that expects acknowledgements.
    pub(crate) fn new() -> Self {
        Self {
            mode: AckMode::Acks,
            packets: VecDeque::new(),
            in_flight: false,
            bytes: VecDeque::new(),
            queued: 0,
        }
    }

    /// Queues a packet; `body` is already escaped.
    pub(crate) fn packet(&mut self, body: &[u8]) {
        let framed = frame(body);
        self.queued += framed.len();
        self.packets.push_back(framed);
        self.pump();
    }

    /// Queues console output: an `O` packet.
    pub(crate) fn console(&mut self, text: &[u8]) {
        let mut body = Vec::with_capacity(1 + 2 * text.len());
        body.push(b'O');
        hex_encode(text, &mut body);
        self.packet(&body);
    }

    /// Takes what is about packets of ours, or about none; what is left is for who answers. A client that does not read gets
    /// no more to read.
    pub(crate) fn hear(&mut self, incoming: Incoming) -> Option<Heard> {
        match incoming {
            Incoming::Ack => self.acked(),
            Incoming::Nack => self.nacked(),
            Incoming::BadChecksum => self.refuse(),
            Incoming::Interrupt => return Some(Heard::Interrupt),
            Incoming::Oversize | Incoming::Packet(_) if self.is_full() => {}
            Incoming::Oversize => return Some(Heard::Oversize),
            Incoming::Packet(body) => return Some(Heard::Packet(body)),
        }
        None
    }

    /// Acknowledges a packet of the client, where that is the custom. The packet also shows that the client has got
    /// what was in flight, even if its `+` was lost.
    pub(crate) fn accept(&mut self) {
        self.acked();
        if self.mode == AckMode::Acks {
            self.bytes.push_back(b'+');
        }
    }

    /// Asks the client for its packet again. Without acknowledgements it cannot be asked.
    fn refuse(&mut self) {
        if self.mode == AckMode::Acks {
            self.bytes.push_back(b'-');
        }
    }

    /// The client has what is in flight.
    fn acked(&mut self) {
        if !self.in_flight {
            return;
        }
        self.in_flight = false;
        self.drop_first();
        self.pump();
    }

    /// The client wants what is in flight again.
    fn nacked(&mut self) {
        if self.in_flight {
            self.in_flight = false;
            self.pump();
        }
    }

    /// Ends acknowledgements. What is queued leaves at once.
    pub(crate) fn stop_acks(&mut self) {
        self.mode = AckMode::NoAcks;
        self.pump();
    }

    /// Whether packets are acknowledged.
    pub(crate) fn expects_acks(&self) -> bool {
        self.mode == AckMode::Acks
    }

    /// Whether the client has not read for so long that nothing more should be made for it.
    pub(crate) fn is_full(&self) -> bool {
        self.queued + self.bytes.len() >= FULL
    }

    /// How many bytes wait.
    pub(crate) fn waiting(&self) -> usize {
        self.queued + self.bytes.len()
    }

    /// Gives the channel what it takes.
    pub(crate) fn flush(&mut self, channel: &mut dyn ByteChannel) {
        while !self.bytes.is_empty() {
            let (first, _) = self.bytes.as_slices();
            let taken = channel.write(first).min(first.len());
            if taken == 0 {
                return;
            }
            self.bytes.drain(..taken);
        }
    }

    /// Takes what is to be sent out of its frames, where somebody else sends it. Packets are not acknowledged there.
    pub(crate) fn take_bodies(&mut self) -> Bodies {
        let bytes: Vec<u8> = self.bytes.drain(..).collect();
        unframe(&bytes)
    }

    /// Moves packets that may leave to `bytes`.
    fn pump(&mut self) {
        while !self.in_flight {
            let Some(packet) = self.packets.front() else {
                return;
            };
            self.bytes.extend(packet);
            match self.mode {
                AckMode::Acks => self.in_flight = true,
                AckMode::NoAcks => self.drop_first(),
            }
        }
    }

    fn drop_first(&mut self) {
        if let Some(packet) = self.packets.pop_front() {
            self.queued -= packet.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes so many bytes, then no more.
    struct Narrow {
        taken: Vec<u8>,
        room: usize,
    }

    impl ByteChannel for Narrow {
        fn write(&mut self, bytes: &[u8]) -> usize {
            let count = bytes.len().min(self.room);
            self.room -= count;
            self.taken.extend_from_slice(&bytes[..count]);
            count
        }
    }

    fn drain(outbox: &mut Outbox) -> Vec<u8> {
        let mut channel = Narrow {
            taken: Vec::new(),
            room: usize::MAX,
        };
        outbox.flush(&mut channel);
        channel.taken
    }

    #[test]
    fn one_packet_at_a_time_while_they_are_acknowledged() {
        let mut outbox = Outbox::new();
        outbox.packet(b"O41");
        outbox.packet(b"OK");
        assert_eq!(drain(&mut outbox), b"$O41#b4");
        outbox.nacked();
        assert_eq!(drain(&mut outbox), b"$O41#b4");
        outbox.acked();
        assert_eq!(drain(&mut outbox), b"$OK#9a");
        outbox.acked();
        outbox.nacked();
        assert_eq!(drain(&mut outbox), b"");
    }

    #[test]
    fn the_next_packet_of_the_client_stands_for_a_lost_ack() {
        let mut outbox = Outbox::new();
        outbox.packet(b"OK");
        drain(&mut outbox);
        outbox.accept();
        outbox.packet(b"E01");
        assert_eq!(drain(&mut outbox), b"+$E01#a6");
    }

    #[test]
    fn without_acks_everything_leaves() {
        let mut outbox = Outbox::new();
        outbox.stop_acks();
        outbox.packet(b"O41");
        outbox.packet(b"OK");
        outbox.accept();
        outbox.refuse();
        assert_eq!(drain(&mut outbox), b"$O41#b4$OK#9a");
        assert_eq!(outbox.waiting(), 0);
    }

    #[test]
    fn what_the_channel_does_not_take_waits() {
        let mut outbox = Outbox::new();
        outbox.packet(b"OK");
        let mut channel = Narrow {
            taken: Vec::new(),
            room: 2,
        };
        outbox.flush(&mut channel);
        assert_eq!(channel.taken, b"$O");
        channel.room = 10;
        outbox.flush(&mut channel);
        assert_eq!(channel.taken, b"$OK#9a");
    }
}
