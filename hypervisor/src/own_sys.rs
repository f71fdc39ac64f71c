//! The system registers of a CPU at EL2, for the debugger to show.

use crate::vectors::Frame;
use crate::{guest_sys, sysreg};
use probes::regs::{CoreRegs, SysReg, SysRegs, pstate};

macro_rules! save {
    ($regs:expr, $($variant:ident $register:literal,)*) => {
        $($regs.set(SysReg::$variant, sysreg::read!($register));)*
    };
}

/// The EL1 registers of the calling CPU, which are its guest's, and its own. What the exception of `frame` has told is in
/// there: exceptions since may have overwritten the registers.
pub fn save(frame: &Frame) -> SysRegs {
    let guest = CoreRegs {
        sp: sysreg::read!("sp_el1"),
        pstate: pstate::EL1H,
        ..CoreRegs::default()
    };
    let mut regs = guest_sys::save(&guest, sysreg::read!("mdscr_el1"));
    save!(
        regs,
        HcrEl2 "hcr_el2",
        VttbrEl2 "vttbr_el2",
        VtcrEl2 "vtcr_el2",
        Ttbr0El2 "ttbr0_el2",
        TcrEl2 "tcr_el2",
        MairEl2 "mair_el2",
        SctlrEl2 "sctlr_el2",
        VbarEl2 "vbar_el2",
        TpidrEl2 "tpidr_el2",
        CptrEl2 "cptr_el2",
        MdcrEl2 "mdcr_el2",
        VmpidrEl2 "vmpidr_el2",
        VpidrEl2 "vpidr_el2",
        CnthctlEl2 "cnthctl_el2",
        CntvoffEl2 "cntvoff_el2",
        CnthpCtlEl2 "cnthp_ctl_el2",
        CnthpCvalEl2 "cnthp_cval_el2",
        IchHcrEl2 "ich_hcr_el2",
        IchVmcrEl2 "ich_vmcr_el2",
        CurrentEl "currentel",
        // Not what a guest is told.
        MpidrEl1 "mpidr_el1",
        MidrEl1 "midr_el1",
    );
    let told = [
        (SysReg::EsrEl2, frame.syndrome),
        (SysReg::FarEl2, frame.fault_address),
        (SysReg::HpfarEl2, frame.fault_page),
        (SysReg::ElrEl2, frame.regs.pc),
        (SysReg::SpsrEl2, frame.regs.pstate),
    ];
    for (register, value) in told {
        regs.set(register, value);
    }
    regs
}
