//! Registers of a physical device.

use core::ptr;

/// Access to the 32-bit registers of one device. Handles to the same device are cheap to copy.
pub trait Mmio: Clone {
    /// Reads the register at `offset`, in bytes from the start of the device.
    fn read(&self, offset: usize) -> u32;
    /// Writes the register at `offset`. Stores to memory before this call are visible to the device before the write.
    fn write(&self, offset: usize, value: u32);
}

/// Registers in the address space of the running program.
#[derive(Clone, Copy, Debug)]
pub struct MmioRegion {
    base: usize,
    length: usize,
}

impl MmioRegion {
    /// The registers at `base..base + length`.
    ///
    /// # Safety
    /// For as long as the value or a copy of it is used, the range is mapped as device memory, read and write, at this
    /// address, and its registers do not make the device access memory that Rust code owns, other than what the driver
    /// hands to it. `base` is a multiple of 4.
    pub const unsafe fn new(base: usize, length: usize) -> Self {
        Self { base, length }
    }

    fn register(&self, offset: usize) -> *mut u32 {
        assert!(
            offset.is_multiple_of(4) && offset < self.length,
            "device register offset out of range"
        );
        ptr::with_exposed_provenance_mut(self.base + offset)
    }
}

impl Mmio for MmioRegion {
    fn read(&self, offset: usize) -> u32 {
        // SAFETY: aligned and inside the range that `new`'s caller vouches for.
        unsafe { self.register(offset).read_volatile() }
    }

    fn write(&self, offset: usize, value: u32) {
        barrier::before_device_write();
        // SAFETY: aligned and inside the range that `new`'s caller vouches for.
        unsafe { self.register(offset).write_volatile(value) }
    }
}

mod barrier {
    /// Orders stores to normal memory before a store to a device (Linux `writel`: `__dma_wmb`, arm64 `dmb oshst`).
    #[cfg(target_arch = "aarch64")]
    pub fn before_device_write() {
        // SAFETY: a barrier has no operands and changes no state.
        unsafe { core::arch::asm!("dmb oshst", options(nostack, preserves_flags)) }
    }

    /// Orders stores to normal memory before a store to a device.
    #[cfg(not(target_arch = "aarch64"))]
    pub fn before_device_write() {
        core::sync::atomic::fence(core::sync::atomic::Ordering::SeqCst);
    }
}
