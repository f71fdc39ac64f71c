//! Stage 1 of a guest's translation, walked in software: from a GVA to a GPA (Arm ARM D8.2, D8.3).
//!
//! The debugger looks through a vCPU's own tables with [`translate`], [`read_virt`] and
//! [`write_virt`]. The tables are the guest's, so they are hostile: every table address is checked
//! by [`PhysMemory`], every walk ends after five levels.
//!
//! What is walked is VMSAv8-64 at EL1&0 with all granules, 52-bit addresses (FEAT_LVA, FEAT_LPA,
//! FEAT_LPA2) and small tables (FEAT_TTST). The contiguous bit only speaks to TLBs and is ignored.
//! A clear access flag is reported and is no fault: a debugger may look at a page that the guest
//! has not touched yet. Not known are 128-bit descriptors (FEAT_D128) and permission indirection
//! (FEAT_S1PIE), under which [`Permissions`] are not what the guest means; the address is right all
//! the same.

mod extent;
mod regime;
#[cfg(test)]
mod tests;
mod virt;
mod walk;

pub use extent::extent;
pub use virt::{AccessCause, AccessError, read_virt, write_virt};

use crate::addr::{Gpa, Gva};
use crate::machine::{PhysFault, PhysMemory};
use crate::regs::{SysReg, SysRegs};
use core::fmt;
use regime::Regime;

/// `SCTLR_EL1.M`: the MMU is on.
pub(crate) const SCTLR_M: u64 = 1 << 0;
/// `SCTLR_EL1.WXN`: what is writable does not execute.
const SCTLR_WXN: u64 = 1 << 19;
/// `SCTLR_EL1.EE`: descriptors are big-endian.
const SCTLR_EE: u64 = 1 << 25;

/// The system registers that stage 1 depends on, as the guest has set them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TranslationRegs {
    /// `SCTLR_EL1`.
    pub sctlr: u64,
    /// `TCR_EL1`.
    pub tcr: u64,
    /// `TTBR0_EL1`.
    pub ttbr0: u64,
    /// `TTBR1_EL1`.
    pub ttbr1: u64,
    /// `MAIR_EL1`.
    pub mair: u64,
    /// `ID_AA64MMFR0_EL1`: physical address size and granules.
    pub mmfr0: u64,
    /// `ID_AA64MMFR2_EL1`: 52-bit virtual addresses and small tables.
    pub mmfr2: u64,
}

impl From<&SysRegs> for TranslationRegs {
    fn from(sys: &SysRegs) -> Self {
        Self {
            sctlr: sys.get(SysReg::SctlrEl1),
            tcr: sys.get(SysReg::TcrEl1),
            ttbr0: sys.get(SysReg::Ttbr0El1),
            ttbr1: sys.get(SysReg::Ttbr1El1),
            mair: sys.get(SysReg::MairEl1),
            mmfr0: sys.get(SysReg::IdAa64Mmfr0El1),
            mmfr2: sys.get(SysReg::IdAa64Mmfr2El1),
        }
    }
}

/// What one exception level may do with a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Access {
    /// Loads.
    pub read: bool,
    /// Stores; true also for a clean page that hardware would mark dirty (`DBM` with `TCR_EL1.HD`).
    pub write: bool,
    /// Instruction fetches.
    pub execute: bool,
}

/// What stage 1 allows, without PSTATE.PAN and UAO.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Permissions {
    /// The guest's kernel.
    pub el1: Access,
    /// The guest's applications.
    pub el0: Access,
}

/// A mapped address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Translation {
    /// Where the address leads.
    pub gpa: Gpa,
    /// Bytes that the descriptor maps: a page or a block, aligned to its size in both address
    /// spaces. 4 KiB with the MMU off.
    pub size: u64,
    /// Level of the descriptor, −1 to 3; 0 with the MMU off.
    pub level: i8,
    /// The byte of `MAIR_EL1` that the descriptor selects (Arm ARM D17.2, "MAIR_EL1"); 0,
    /// Device-nGnRnE, with the MMU off.
    pub memory_attributes: u8,
    /// Who may do what.
    pub permissions: Permissions,
    /// The access flag.
    pub accessed: bool,
    /// The `GP` bit: indirect branches into the page must meet a landing pad (FEAT_BTI).
    pub guarded: bool,
}

impl Translation {
    /// Whether the guest maps the page as Device memory.
    pub const fn is_device(&self) -> bool {
        self.memory_attributes & 0xf0 == 0
    }
}

/// What is wrong with an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FaultKind {
    /// Neither in the range of `TTBR0_EL1` nor of `TTBR1_EL1`.
    NonCanonical,
    /// `TCR_EL1.EPD0` or `EPD1` switches walks of this half off.
    WalkDisabled,
    /// `TCR_EL1` asks for a granule or an address size that the CPU does not have.
    Configuration,
    /// The descriptor is invalid or reserved: nothing is mapped.
    Unmapped,
    /// The table, page or block lies beyond the physical address size.
    AddressSize,
    /// A table is not in RAM.
    Table(PhysFault),
}

/// Why an address has no translation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TranslationFault {
    /// The address.
    pub address: Gva,
    /// The level of the walk at which it ended, −1 to 3; 0 where it did not begin, as the guest's
    /// ESR would say.
    pub level: i8,
    /// What is wrong.
    pub kind: FaultKind,
}

impl fmt::Display for TranslationFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            address,
            level,
            kind,
        } = self;
        match kind {
            FaultKind::NonCanonical => write!(f, "{address} is not a canonical address"),
            FaultKind::WalkDisabled => {
                write!(
                    f,
                    "{address} is not mapped: the guest has its table disabled"
                )
            }
            FaultKind::Configuration => {
                write!(
                    f,
                    "{address}: the guest's TCR_EL1 asks for what the CPU does not have"
                )
            }
            FaultKind::Unmapped => write!(f, "{address} is not mapped (level {level})"),
            FaultKind::AddressSize => write!(
                f,
                "{address} is mapped beyond the physical address size (level {level})"
            ),
            FaultKind::Table(PhysFault::Unmapped(gpa) | PhysFault::Device(gpa)) => write!(
                f,
                "{address} is not mapped: the guest's level {level} table at {gpa} is not in RAM"
            ),
        }
    }
}

impl core::error::Error for TranslationFault {}

/// Translates `gva` as a data access of the vCPU with these registers would.
///
/// Permissions are reported, never enforced: the caller knows whose access it is.
pub fn translate<M: PhysMemory + ?Sized>(
    regs: &TranslationRegs,
    memory: &M,
    gva: Gva,
) -> Result<Translation, TranslationFault> {
    let fault = |kind| TranslationFault {
        address: gva,
        level: 0,
        kind,
    };
    if regs.sctlr & SCTLR_M == 0 {
        return regime::mmu_off(regs, gva).map_err(fault);
    }
    let regime = Regime::of(regs, gva).map_err(fault)?;
    walk::walk(&regime, memory, gva)
}
