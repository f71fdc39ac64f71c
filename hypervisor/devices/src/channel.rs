//! The hypervisor's side of a debugger's byte channel: what [`stub::ByteChannel`] is to the server, with the ways in.

use stub::ByteChannel;

/// The other side came or went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ChannelEvent {
    /// Somebody connected.
    Opened,
    /// The peer is gone. Bytes that it sent before may still be unread.
    Closed,
}

/// A stream of bytes in both directions. No call ever waits.
pub trait Channel: ByteChannel {
    /// Moves received bytes to the front of `buffer`; returns how many, 0 when there are none.
    fn read(&mut self, buffer: &mut [u8]) -> usize;
    /// The next coming or going that nobody has taken yet. Always `None` where the carrier cannot tell.
    fn take_event(&mut self) -> Option<ChannelEvent>;
}
