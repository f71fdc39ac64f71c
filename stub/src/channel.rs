//! The way to a client and from it.

/// The output side of an endpoint: a virtio-console port, a PL011, a socket in a test.
pub trait ByteChannel {
    /// Takes as many of `bytes` as there is room for and says how many. Never waits.
    fn write(&mut self, bytes: &[u8]) -> usize;
}

/// Who serves the client of a channel: a session of one space, or that of the whole machine.
pub trait Endpoint {
    /// The channel says that a client came. Nothing is sent, and nothing stops before it speaks.
    fn opened(&mut self);
    /// The channel says that another client has come in the place of the last one, and that it cannot tell whose bytes
    /// come next. What comes before an introduction is not answered.
    fn replaced(&mut self);
    /// The channel says that the client is gone. What it stopped goes on.
    fn closed(&mut self);
    /// Takes bytes from the channel.
    fn receive(&mut self, bytes: &[u8]);
    /// Looks for stops and for output of programs. Cheap where there is nothing.
    fn poll(&mut self);
    /// Gives the channel what it takes of what waits for the client.
    fn flush(&mut self, channel: &mut dyn ByteChannel);
    /// Whether there may be something to do without a byte from the client: a stop to report, live output to send. The
    /// hypervisor polls at least while this is true.
    fn wants_poll(&self) -> bool;
}
