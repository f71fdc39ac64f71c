//! skeleton
#![allow(missing_docs, unused_variables)]
use crate::channel::{ByteChannel, ChannelEvent};
use crate::mmio::Mmio;
/// The device; keep it in a lock that the interrupt handler takes.
#[derive(Debug)]
pub struct Console<M> {
    mmio: M,
}
#[derive(Debug)]
pub enum ProbeError {
    NotVirtio,
    NotConsole,
    Refused,
}
impl<M: Mmio> Console<M> {
    pub fn probe(mmio: M) -> Result<Self, ProbeError> {
        todo!()
    }
    /// Acknowledges the interrupt and serves the control queue; ports then have news: poll them. Also call to poll.
    pub fn handle_interrupt(&mut self) {
        todo!()
    }
    /// Names known so far (the device announces them soon after probe: call handle_interrupt until they are there).
    pub fn port_names(&self) -> impl Iterator<Item = &str> {
        [].into_iter()
    }
    /// Opens a port; its owner needs no lock of Console's afterwards.
    pub fn take_port(&mut self, name: &str) -> Option<Port<M>> {
        todo!()
    }
}
/// One port. Send.
#[derive(Debug)]
pub struct Port<M> {
    mmio: M,
}
impl<M: Mmio> Port<M> {
    pub fn connected(&self) -> bool {
        todo!()
    }
}
impl<M: Mmio> ByteChannel for Port<M> {
    fn read(&mut self, buffer: &mut [u8]) -> usize {
        todo!()
    }
    fn write(&mut self, bytes: &[u8]) -> usize {
        todo!()
    }
    fn take_event(&mut self) -> Option<ChannelEvent> {
        todo!()
    }
}
