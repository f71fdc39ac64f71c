//! skeleton
#![allow(missing_docs, unused_variables)]
#[derive(Debug)]
pub struct Vuart {}
impl Vuart {
    pub fn new() -> Self {
        todo!()
    }
    pub fn read(&mut self, offset: u64, size: usize) -> u64 {
        todo!()
    }
    pub fn write(&mut self, offset: u64, size: usize, value: u64) {
        todo!()
    }
    pub fn push_rx(&mut self, bytes: &[u8]) -> usize {
        todo!()
    }
    pub fn take_tx(&mut self, buffer: &mut [u8]) -> usize {
        todo!()
    }
    pub fn irq_level(&self) -> bool {
        todo!()
    }
}
