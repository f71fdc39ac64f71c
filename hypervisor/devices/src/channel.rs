//! The hypervisor's side of a debugger's byte channel: what [`stub::ByteChannel`] is to the server, with the ways in.

use alloc::boxed::Box;
use stub::ByteChannel;

/// The other side came or went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ChannelEvent {
    /// Somebody connected.
    Opened,
    /// The peer is gone. Bytes that it sent before may still be unread.
    Closed,
    /// The peer is gone and somebody else has connected, so quickly that what is read next may begin with bytes of the
    /// one who is gone.
    Replaced,
}

/// A stream of bytes in both directions. No call ever waits.
pub trait Channel: ByteChannel {
    /// Whether there is something to read, perhaps of a peer whose coming is not known yet.
    fn has_data(&self) -> bool;
    /// Moves received bytes to the front of `buffer`; returns how many, 0 when there are none.
    fn read(&mut self, buffer: &mut [u8]) -> usize;
    /// The next coming or going that nobody has taken yet. Always `None` where the carrier cannot tell.
    fn take_event(&mut self) -> Option<ChannelEvent>;
}

/// Where the carrier is known only at run time.
pub type AnyChannel = Box<dyn Channel + Send>;

impl ByteChannel for AnyChannel {
    fn write(&mut self, bytes: &[u8]) -> usize {
        (**self).write(bytes)
    }
}

impl Channel for AnyChannel {
    fn has_data(&self) -> bool {
        (**self).has_data()
    }

    fn read(&mut self, buffer: &mut [u8]) -> usize {
        (**self).read(buffer)
    }

    fn take_event(&mut self) -> Option<ChannelEvent> {
        (**self).take_event()
    }
}
