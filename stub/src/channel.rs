//! The way to a client.

/// The output side of an endpoint: a virtio-console port, a PL011, a socket in a test.
pub trait ByteChannel {
    /// Takes as many of `bytes` as there is room for and says how many. Never waits.
    fn write(&mut self, bytes: &[u8]) -> usize;
}
