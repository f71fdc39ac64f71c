//! skeleton
#![allow(missing_docs, unused_variables)]
use alloc::vec::Vec;
#[derive(Clone, Debug)]
pub struct GuestTree<'a> {
    pub memory_base: u64,
    pub memory_size: u64,
    pub vcpus: usize,
    pub gicd_base: u64,
    pub gicr_base: u64,
    pub uart_base: u64,
    /// SPI number (INTID - 32).
    pub uart_spi: u32,
    pub bootargs: &'a str,
    /// start..end, guest physical.
    pub initrd: Option<core::ops::Range<u64>>,
    pub kaslr_seed: Option<u64>,
    pub rng_seed: Option<&'a [u8]>,
}
#[derive(Debug)]
pub struct TreeError;
pub fn build(tree: &GuestTree) -> Result<Vec<u8>, TreeError> {
    todo!()
}
