//! The Linux kernel that runs in a VM, and what it says of itself.

use crate::addr::Gva;
use crate::kallsyms::{self, FindError, Kernel};
use crate::machine::{Machine, Power, VcpuId, VmState};
use crate::regs::SysReg;
use crate::symbols::Symbols;
use crate::translate::{TranslationRegs, translate};
use alloc::vec;
use core::fmt;

/// Where the vectors of a kernel are (`arch/arm64/kernel/entry.S`).
pub(crate) const VECTORS: &str = "vectors";
/// What a kernel says of itself (`init/version-timestamp.c`).
pub(crate) const BANNER: &str = "linux_banner";

/// Why there is no kernel to take symbols from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoKernel {
    /// The VM is off or has not started.
    NotRunning,
    /// The guest has not booted far enough: no vCPU has exception vectors.
    NotUp,
    /// The hypervisor itself, whose image carries no table.
    Hypervisor,
    /// What runs there has no symbols that can be used, or not yet.
    NoSymbols(FindError),
    /// The kernel that runs is not the one whose symbols were loaded, or has not booted yet.
    OtherKernel,
}

impl fmt::Display for NoKernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotRunning => f.write_str("the VM does not run"),
            Self::NotUp => f.write_str("no Linux kernel is up yet; try again in a moment"),
            Self::Hypervisor => f.write_str(
                "the hypervisor's image carries no symbols: `cargo xtask build` makes one that does",
            ),
            Self::NoSymbols(error) => write!(f, "{error}"),
            Self::OtherKernel => f.write_str(
                "the loaded symbols do not fit the kernel that runs, or no vCPU is in the kernel: \
                 try again, or load those of this kernel",
            ),
        }
    }
}

impl core::error::Error for NoKernel {}

/// Finds the kernel of a running VM. Holds the VM for a moment only; the search itself goes over
/// memory that a kernel does not change.
pub(crate) fn find(machine: &dyn Machine) -> Result<Kernel, NoKernel> {
    if machine.vm().is_hypervisor() {
        return Err(NoKernel::Hypervisor);
    }
    if machine.state() != VmState::Running {
        return Err(NoKernel::NotRunning);
    }
    kallsyms::find_in_guest(machine).map_err(|error| match error {
        FindError::NoKernelCode => NoKernel::NotUp,
        other => NoKernel::NoSymbols(other),
    })
}

/// Whether a vCPU that is in its kernel runs the one of these symbols: its vectors are where they say, and so is the
/// banner, where both are known. The VM is held.
pub(crate) fn still_runs(
    machine: &dyn Machine,
    symbols: &dyn Symbols,
    banner: Option<&str>,
) -> bool {
    let count = u8::try_from(machine.vcpu_count()).unwrap_or(u8::MAX);
    (0..count).any(|vcpu| runs_on(machine, VcpuId(vcpu), symbols, banner))
}

fn runs_on(
    machine: &dyn Machine,
    vcpu: VcpuId,
    symbols: &dyn Symbols,
    banner: Option<&str>,
) -> bool {
    if machine.power(vcpu) == Power::Off {
        return false;
    }
    let Ok(sys) = machine.sys(vcpu) else {
        return false;
    };
    if symbols.by_name(VECTORS) != Some(Gva(sys.get(SysReg::VbarEl1))) {
        return false;
    }
    let (Some(banner), Some(at)) = (banner, symbols.by_name(BANNER)) else {
        return true;
    };
    let Ok(at) = translate(&TranslationRegs::from(&sys), machine, at) else {
        return false;
    };
    let mut text = vec![0; banner.len()];
    machine.read_phys(at.gpa, &mut text).is_ok() && text == banner.as_bytes()
}
