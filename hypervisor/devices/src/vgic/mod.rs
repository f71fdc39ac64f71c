//! skeleton
#![allow(missing_docs, unused_variables)]
mod lr;
pub use lr::{ListRegs, MAX_LIST_REGS, hcr};

/// A set of vCPUs: bit n stands for vCPU n. Those that a call returns must be *kicked*: made to pass through `sync` and
/// `flush` soon (woken when they wait in WFI, interrupted when they run).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[must_use = "vCPUs that are not kicked do not see the change"]
pub struct VcpuMask(pub u8);

/// Most vCPUs of a VM.
pub const MAX_VCPUS: usize = 8;
/// SPIs of a VM: INTIDs 32 to 95.
pub const SPIS: usize = 64;
/// INTID of the EL1 virtual timer, for the guest and for the physical GIC.
pub const VTIMER_INTID: u32 = 27;
/// Bytes of GICD registers.
pub const GICD_SIZE: u64 = 0x1_0000;
/// Bytes of GICR registers for each vCPU.
pub const GICR_STRIDE: u64 = 0x2_0000;

/// Whether `flush` gives pending interrupts to the vCPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Delivery {
    /// Pending and active interrupts.
    Normal,
    /// Active ones only: the vCPU executes one instruction without being interrupted.
    Withheld,
}

/// What the caller of `flush` does to the physical virtual-timer interrupt of its CPU before it enters the guest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use = "a timer interrupt that is not deactivated never fires again"]
pub enum PhysicalTimer {
    /// Nothing.
    Keep,
    /// Deactivate it (`ICC_DIR_EL1` with INTID 27).
    Deactivate,
}

#[derive(Debug)]
pub struct Vgic {}

impl Vgic {
    /// `vcpus` 1..=8; vCPU n has affinity 0.0.0.n.
    pub fn new(vcpus: usize) -> Self {
        todo!()
    }
    pub fn reset(&mut self) {
        todo!()
    }
    pub fn dist_read(&self, offset: u64, size: usize) -> u64 {
        todo!()
    }
    pub fn dist_write(&mut self, offset: u64, size: usize, value: u64) -> VcpuMask {
        todo!()
    }
    /// offset from the start of the whole GICR region.
    pub fn redist_read(&self, offset: u64, size: usize) -> u64 {
        todo!()
    }
    pub fn redist_write(&mut self, offset: u64, size: usize, value: u64) -> VcpuMask {
        todo!()
    }
    /// Trapped write of ICC_SGI1R_EL1 by `vcpu`.
    pub fn sgi1r(&mut self, vcpu: usize, value: u64) -> VcpuMask {
        todo!()
    }
    pub fn set_spi_level(&mut self, intid: u32, level: bool) -> VcpuMask {
        todo!()
    }
    pub fn set_private_level(&mut self, vcpu: usize, intid: u32, level: bool) -> VcpuMask {
        todo!()
    }
    pub fn pulse_private(&mut self, vcpu: usize, intid: u32) -> VcpuMask {
        todo!()
    }
    /// Physical INTID 27 was acknowledged, priority-dropped (EOImode 1) and left active by the CPU that runs `vcpu`.
    pub fn timer_fired(&mut self, vcpu: usize) -> VcpuMask {
        todo!()
    }
    /// Between sync and flush: `asserted` = CNTV_CTL ENABLE && !IMASK && ISTATUS. Withdraws a timer interrupt not yet
    /// taken whose condition has gone; `flush` then says to deactivate.
    pub fn timer_sample(&mut self, vcpu: usize, asserted: bool) {
        todo!()
    }
    /// After an exit, from hardware.
    pub fn sync(&mut self, vcpu: usize, regs: &ListRegs) -> VcpuMask {
        todo!()
    }
    /// Before an entry.
    pub fn flush(&mut self, vcpu: usize, regs: &mut ListRegs, delivery: Delivery) -> PhysicalTimer {
        todo!()
    }
    /// Whether anything is deliverable: ends a WFI.
    pub fn has_pending(&self, vcpu: usize) -> bool {
        todo!()
    }
}

impl VcpuMask {
    pub const NONE: VcpuMask = VcpuMask(0);
    pub fn is_empty(self) -> bool {
        todo!()
    }
    pub fn iter(self) -> impl Iterator<Item = usize> {
        (0..8).filter(move |n| self.0 >> n & 1 == 1)
    }
}
