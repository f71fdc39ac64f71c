//! Memory that the device reads and writes while the CPU does: the one place with `unsafe` in this driver.
//!
//! The hypervisor's memory is mapped one to one and the device is cache-coherent, so the address of the memory is what
//! the device is told. No reference into it ever exists; accesses are volatile, and the queue above says by barriers
//! which side owns what.

use alloc::alloc::{Layout, alloc_zeroed};
use core::ptr::{self, NonNull};

/// A range of memory shared with the device. It is never freed: a device may write to it until it is reset.
#[derive(Debug)]
pub(super) struct DmaMemory {
    base: NonNull<u8>,
    length: usize,
}

// SAFETY: the memory is reachable through this value only (and by the device, on any CPU).
unsafe impl Send for DmaMemory {}

impl DmaMemory {
    /// Allocates `length` zero bytes at a page boundary, or returns `None` where there are none.
    pub(super) fn new(length: usize) -> Option<Self> {
        let layout = Layout::from_size_align(length.max(1), 4096).ok()?;
        // SAFETY: the layout has a size of at least 1.
        let base = NonNull::new(unsafe { alloc_zeroed(layout) })?;
        Some(Self { base, length })
    }

    /// The address that the device uses for the byte at `offset`.
    pub(super) fn address(&self, offset: usize) -> u64 {
        self.at(offset, 0).expose_provenance() as u64
    }

    /// Reads a little-endian number at `offset`, a multiple of 2.
    pub(super) fn read_u16(&self, offset: usize) -> u16 {
        assert!(offset.is_multiple_of(2), "misaligned");
        // SAFETY: `at` has checked the bounds; aligned, as the base is; any bytes make a u16.
        u16::from_le(unsafe { self.at(offset, 2).cast::<u16>().read_volatile() })
    }

    /// Reads a little-endian number at `offset`, a multiple of 4.
    pub(super) fn read_u32(&self, offset: usize) -> u32 {
        assert!(offset.is_multiple_of(4), "misaligned");
        // SAFETY: `at` has checked the bounds; aligned, as the base is; any bytes make a u32.
        u32::from_le(unsafe { self.at(offset, 4).cast::<u32>().read_volatile() })
    }

    /// Writes a little-endian number at `offset`, a multiple of 2.
    pub(super) fn write_u16(&mut self, offset: usize, value: u16) {
        assert!(offset.is_multiple_of(2), "misaligned");
        // SAFETY: `at` has checked the bounds; aligned, as the base is.
        unsafe {
            self.at(offset, 2)
                .cast::<u16>()
                .write_volatile(value.to_le())
        }
    }

    /// Writes a little-endian number at `offset`, a multiple of 4.
    pub(super) fn write_u32(&mut self, offset: usize, value: u32) {
        assert!(offset.is_multiple_of(4), "misaligned");
        // SAFETY: `at` has checked the bounds; aligned, as the base is.
        unsafe {
            self.at(offset, 4)
                .cast::<u32>()
                .write_volatile(value.to_le())
        }
    }

    /// Writes a little-endian number at `offset`, a multiple of 8.
    pub(super) fn write_u64(&mut self, offset: usize, value: u64) {
        assert!(offset.is_multiple_of(8), "misaligned");
        // SAFETY: `at` has checked the bounds; aligned, as the base is.
        unsafe {
            self.at(offset, 8)
                .cast::<u64>()
                .write_volatile(value.to_le())
        }
    }

    /// Copies bytes at `offset` out. The device has given them back.
    pub(super) fn copy_out(&self, offset: usize, bytes: &mut [u8]) {
        // SAFETY: `at` has checked the bounds, and `bytes` is no part of this memory: there are no references into it.
        unsafe {
            ptr::copy_nonoverlapping(
                self.at(offset, bytes.len()),
                bytes.as_mut_ptr(),
                bytes.len(),
            )
        }
    }

    /// Copies bytes to `offset`. The device does not have them.
    pub(super) fn copy_in(&mut self, offset: usize, bytes: &[u8]) {
        // SAFETY: `at` has checked the bounds, and `bytes` is no part of this memory: there are no references into it.
        unsafe {
            ptr::copy_nonoverlapping(bytes.as_ptr(), self.at(offset, bytes.len()), bytes.len())
        }
    }

    /// A pointer to `length` bytes at `offset`, all inside.
    fn at(&self, offset: usize, length: usize) -> *mut u8 {
        let inside = offset
            .checked_add(length)
            .is_some_and(|end| end <= self.length);
        assert!(inside, "outside the queue's memory");
        // SAFETY: inside the allocation, or one past its end.
        unsafe { self.base.as_ptr().add(offset) }
    }
}
