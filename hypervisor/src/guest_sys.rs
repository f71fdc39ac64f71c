//! The EL1 system registers of the vCPU that lives on this CPU: reset, save for the debugger, restore.

use crate::sysreg;
use core::sync::atomic::{AtomicU64, Ordering};
use probes::regs::{CoreRegs, SysReg, SysRegs};

macro_rules! live {
    ($($variant:ident $register:literal,)*) => {
        /// A register of the vCPU, where it is in the hardware and not kept elsewhere.
        pub fn read_live(reg: SysReg) -> Option<u64> {
            match reg {
                $(SysReg::$variant => Some(sysreg::read!($register)),)*
                _ => None,
            }
        }

        /// No number is looked at when this runs: what is left are reads and stores.
        fn store_live(places: &[AtomicU64; SysReg::GUEST.len()]) {
            $(places[SysReg::$variant as usize].store(sysreg::read!($register), Ordering::Relaxed);)*
        }

        fn write_live(reg: SysReg, value: u64) {
            match reg {
                // SAFETY: these are the guest's own registers; EL2 does not depend on them.
                $(SysReg::$variant => unsafe { sysreg::write!($register, value) },)*
                _ => {}
            }
        }
    };
}

live! {
    SpEl0 "sp_el0",
    SpEl1 "sp_el1",
    ElrEl1 "elr_el1",
    SpsrEl1 "spsr_el1",
    EsrEl1 "esr_el1",
    FarEl1 "far_el1",
    VbarEl1 "vbar_el1",
    SctlrEl1 "sctlr_el1",
    TcrEl1 "tcr_el1",
    Ttbr0El1 "ttbr0_el1",
    Ttbr1El1 "ttbr1_el1",
    MairEl1 "mair_el1",
    AmairEl1 "amair_el1",
    CpacrEl1 "cpacr_el1",
    ContextidrEl1 "contextidr_el1",
    TpidrEl0 "tpidr_el0",
    TpidrroEl0 "tpidrro_el0",
    TpidrEl1 "tpidr_el1",
    Afsr0El1 "afsr0_el1",
    Afsr1El1 "afsr1_el1",
    ParEl1 "par_el1",
    CntkctlEl1 "cntkctl_el1",
    CntvCtlEl0 "cntv_ctl_el0",
    CntvCvalEl0 "cntv_cval_el0",
}

/// All registers as the guest would read them. SP_EL0 or SP_EL1, whichever the vCPU uses, is the one in `core`.
pub fn save(core: &CoreRegs, mdscr: u64) -> SysRegs {
    let mut regs = SysRegs::default();
    for &reg in SysReg::ALL {
        if let Some(value) = read_live(reg) {
            regs.set(reg, value);
        }
    }
    regs.set(current_sp(core), core.sp);
    regs.set(SysReg::MpidrEl1, sysreg::read!("vmpidr_el2"));
    regs.set(SysReg::MidrEl1, sysreg::read!("vpidr_el2"));
    regs.set(SysReg::MdscrEl1, mdscr);
    regs.set(SysReg::IdAa64Mmfr0El1, sysreg::read!("id_aa64mmfr0_el1"));
    regs.set(SysReg::IdAa64Mmfr2El1, sysreg::read!("id_aa64mmfr2_el1"));
    regs.set(SysReg::IdAa64Pfr0El1, sysreg::read!("id_aa64pfr0_el1"));
    regs
}

/// Stores the first registers of [`SysReg::ALL`], as many as there are places, as [`save`] has them, on the way of a hit.
/// `MDSCR_EL1` is the hardware's: the debugger's, while that uses it.
pub fn store(core: &CoreRegs, places: &[AtomicU64]) {
    let Some(places) = places.first_chunk() else {
        return;
    };
    store_live(places);
    let told = |reg: SysReg, value| places[reg as usize].store(value, Ordering::Relaxed);
    told(current_sp(core), core.sp);
    told(SysReg::MpidrEl1, sysreg::read!("vmpidr_el2"));
    told(SysReg::MidrEl1, sysreg::read!("vpidr_el2"));
    told(SysReg::MdscrEl1, sysreg::read!("mdscr_el1"));
    told(SysReg::IdAa64Mmfr0El1, sysreg::read!("id_aa64mmfr0_el1"));
    told(SysReg::IdAa64Mmfr2El1, sysreg::read!("id_aa64mmfr2_el1"));
    told(SysReg::IdAa64Pfr0El1, sysreg::read!("id_aa64pfr0_el1"));
}

/// Which stack pointer `core.sp` is.
pub fn current_sp(core: &CoreRegs) -> SysReg {
    if core.pstate & 1 != 0 {
        SysReg::SpEl1
    } else {
        SysReg::SpEl0
    }
}

/// Sets the registers that can be set.
pub fn restore(regs: &SysRegs) {
    for &reg in SysReg::ALL {
        write_live(reg, regs.get(reg));
    }
    sysreg::isb();
}

/// What a CPU that comes out of reset shows its first instruction (Arm ARM D1.4.3), where a guest may rely on it.
pub fn reset() {
    /// `SCTLR_EL1`: MMU and caches off, the RES1 bits set.
    const SCTLR_RESET: u64 = 0x30d0_0800;
    for &reg in SysReg::ALL {
        write_live(reg, 0);
    }
    write_live(SysReg::SctlrEl1, SCTLR_RESET);
    sysreg::isb();
}
