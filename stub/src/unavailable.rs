//! An endpoint that has nothing to offer yet, and says so.

use crate::channel::ByteChannel;
use crate::packet::{Framer, Incoming, Outbox};
use alloc::format;
use alloc::string::String;

/// Answers every packet with an error. GDB shows the text when it connects, because it expects an empty reply to
/// `vMustReplyEmpty`.
pub struct Unavailable {
    framer: Framer,
    outbox: Outbox,
    reply: String,
}

impl Unavailable {
    /// `reason` says what is missing and what to do, in one line.
    pub fn new(reason: &str) -> Self {
        Self {
            framer: Framer::new(),
            outbox: Outbox::new(),
            reply: format!("E.{reason}"),
        }
    }

    /// A client came or went.
    pub fn restart(&mut self) {
        self.framer.reset();
        self.outbox = Outbox::new();
    }

    /// Takes bytes from the channel.
    pub fn receive(&mut self, bytes: &[u8]) {
        for byte in bytes {
            match self.framer.push(*byte) {
                Some(Incoming::Packet(_) | Incoming::Oversize) if !self.outbox.is_full() => {
                    self.outbox.accept();
                    self.outbox.packet(self.reply.as_bytes());
                }
                Some(Incoming::BadChecksum) => self.outbox.refuse(),
                Some(Incoming::Ack) => self.outbox.acked(),
                Some(Incoming::Nack) => self.outbox.nacked(),
                _ => {}
            }
        }
    }

    /// Gives the channel what it takes of what waits for the client.
    pub fn flush(&mut self, channel: &mut dyn ByteChannel) {
        self.outbox.flush(channel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    struct Channel(Vec<u8>);

    impl ByteChannel for Channel {
        fn write(&mut self, bytes: &[u8]) -> usize {
            self.0.extend_from_slice(bytes);
            bytes.len()
        }
    }

    #[test]
    fn every_packet_gets_the_reason() {
        let mut endpoint = Unavailable::new("not there");
        let mut channel = Channel(Vec::new());
        endpoint.receive(b"+$vMustReplyEmpty#3a");
        endpoint.flush(&mut channel);
        assert_eq!(channel.0, b"+$E.not there#fc");
    }

    #[test]
    fn garbage_gets_nothing() {
        let mut endpoint = Unavailable::new("not there");
        let mut channel = Channel(Vec::new());
        endpoint.receive(b"\xff\n\x03hello");
        endpoint.flush(&mut channel);
        assert_eq!(channel.0, b"");
    }
}
