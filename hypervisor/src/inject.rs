//! Exceptions that the guest must take: what the hardware would do on the way to EL1 (Arm ARM D1.3.2).

use crate::sysreg;
use probes::regs::{CoreRegs, pstate};

/// `SCTLR_EL1.SPAN`: an exception leaves PSTATE.PAN alone.
const SPAN: u64 = 1 << 23;
/// `SCTLR_EL1.DSSBS`: value of PSTATE.SSBS in the handler.
const DSSBS: u64 = 1 << 44;
const PSTATE_SSBS: u64 = 1 << 12;
const PSTATE_DIT: u64 = 1 << 24;
const PSTATE_TCO: u64 = 1 << 25;

/// Exception classes that we give to guests.
mod ec {
    pub const UNKNOWN: u64 = 0x00;
    pub const INSTRUCTION_ABORT_LOWER: u64 = 0x20;
    pub const DATA_ABORT_LOWER: u64 = 0x24;
    pub const BRK: u64 = 0x3c;
}

/// Instruction length bit of a syndrome.
const IL: u64 = 1 << 25;
/// Fault status code of a synchronous external abort, not on a walk.
const EXTERNAL_ABORT: u64 = 0x10;
const WNR: u64 = 1 << 6;

/// Which access an abort is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Instruction fetch.
    Fetch,
    /// Load.
    Read,
    /// Store.
    Write,
}

/// The instruction at the PC is undefined.
pub fn undefined(regs: &mut CoreRegs) {
    synchronous(regs, ec::UNKNOWN << 26 | IL, None);
}

/// The guest's own BRK.
pub fn breakpoint(regs: &mut CoreRegs, immediate: u16) {
    synchronous(regs, ec::BRK << 26 | IL | u64::from(immediate), None);
}

/// Nothing answers at the address that `far` leads to.
pub fn external_abort(regs: &mut CoreRegs, far: u64, access: Access) {
    // From the same level, a class is one more than from a lower one.
    let same_level = u64::from(!regs.at_el0());
    let (class, wnr) = match access {
        Access::Fetch => (ec::INSTRUCTION_ABORT_LOWER, 0),
        Access::Read => (ec::DATA_ABORT_LOWER, 0),
        Access::Write => (ec::DATA_ABORT_LOWER, WNR),
    };
    synchronous(
        regs,
        (class + same_level) << 26 | IL | wnr | EXTERNAL_ABORT,
        Some(far),
    );
}

/// A debug exception that was routed to us and is the guest's: `esr` is the syndrome that EL2 got.
pub fn debug_exception(regs: &mut CoreRegs, esr: u64, far: u64) {
    // The classes 0x30, 0x32, 0x34 are "from a lower level"; to EL1 from EL1 they are one more. BRK has one class only.
    let class = crate::esr::class(esr);
    let class = if class != ec::BRK && !regs.at_el0() {
        class + 1
    } else {
        class
    };
    synchronous(regs, class << 26 | esr & 0x3ff_ffff, Some(far));
}

/// Takes a synchronous exception to EL1 with syndrome `esr`.
fn synchronous(regs: &mut CoreRegs, esr: u64, far: Option<u64>) {
    // SAFETY: registers of the guest only, set as the exception sets them.
    unsafe {
        sysreg::write!("esr_el1", esr);
        sysreg::write!("elr_el1", regs.pc);
        sysreg::write!("spsr_el1", regs.pstate);
        if let Some(far) = far {
            sysreg::write!("far_el1", far);
        }
    }
    let offset = match regs.pstate & (pstate::MODE_MASK | pstate::AARCH32) {
        pstate::EL1H => 0x200,
        pstate::EL1T => 0x000,
        mode if mode & pstate::AARCH32 != 0 => 0x600,
        _ => 0x400,
    };
    let used_sp_el0 = regs.pstate & 1 == 0;
    if used_sp_el0 {
        // SAFETY: as above.
        unsafe { sysreg::write!("sp_el0", regs.sp) };
        regs.sp = sysreg::read!("sp_el1");
    }
    let sctlr = sysreg::read!("sctlr_el1");
    let mut new =
        regs.pstate & (pstate::N | pstate::Z | pstate::C | pstate::V | pstate::PAN | PSTATE_DIT);
    new |= pstate::EL1H | pstate::D | pstate::A | pstate::I | pstate::F;
    let features = sysreg::read!("id_aa64mmfr1_el1");
    let has_pan = features >> 20 & 0xf != 0;
    if has_pan && sctlr & SPAN == 0 {
        new |= pstate::PAN;
    }
    if sctlr & DSSBS != 0 {
        new |= PSTATE_SSBS;
    }
    let has_mte = sysreg::read!("id_aa64pfr1_el1") >> 8 & 0xf >= 2;
    if has_mte {
        new |= PSTATE_TCO;
    }
    regs.pstate = new;
    regs.pc = sysreg::read!("vbar_el1") + offset;
}
