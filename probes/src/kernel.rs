//! The Linux kernel that runs in a VM: where it is, and what it says of itself.

use crate::addr::{Gpa, Gva};
use crate::kallsyms::{self, FindError, Kernel, RunningImage};
use crate::machine::{Machine, Power, VcpuId, VmState};
use crate::regs::SysReg;
use crate::translate::{TranslationRegs, translate};
use core::fmt;

/// `SCTLR_EL1.M`: stage 1 is on.
const SCTLR_M: u64 = 1;
/// How finely the end of RAM is looked for, in bytes.
const STRIDE: u64 = 2 << 20;
/// No kernel image is larger.
const MAX_IMAGE: u64 = 64 << 20;

/// Why there is no kernel to take symbols from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoKernel {
    /// The VM is off or has not started.
    NotRunning,
    /// No vCPU executes kernel code with its MMU on just now: early in boot, or all are in user code.
    NotUp,
    /// Something runs there that has no symbols we understand.
    NoSymbols(FindError),
}

impl fmt::Display for NoKernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotRunning => f.write_str("the VM does not run"),
            Self::NotUp => f.write_str("no Linux kernel is up yet; try again in a moment"),
            Self::NoSymbols(error) => write!(f, "{error}"),
        }
    }
}

impl core::error::Error for NoKernel {}

/// Finds the kernel of a running VM. Holds the VM for a moment only; the search itself goes over memory that a kernel
/// does not change.
pub(crate) fn find(machine: &dyn Machine) -> Result<Kernel, NoKernel> {
    if machine.state() != VmState::Running {
        return Err(NoKernel::NotRunning);
    }
    machine.hold();
    let vectors = vectors(machine);
    machine.release();
    let (address, gpa) = vectors.ok_or(NoKernel::NotUp)?;
    let image = RunningImage::around(machine, address, gpa, ram_end(machine, gpa));
    let image = image.ok_or(NoKernel::NotUp)?;
    kallsyms::find(&image, image.placement()).map_err(NoKernel::NoSymbols)
}

/// The exception vectors of the kernel: a part of its image, at the address that the image has. That holds only of a
/// vCPU at EL1: while user code runs, a kernel with page-table isolation has its vectors at an alias (`TRAMP_VALIAS`).
fn vectors(machine: &dyn Machine) -> Option<(Gva, Gpa)> {
    let count = u8::try_from(machine.vcpu_count()).unwrap_or(u8::MAX);
    (0..count).map(VcpuId).find_map(|vcpu| {
        if machine.power(vcpu) == Power::Off || machine.core(vcpu).ok()?.at_el0() {
            return None;
        }
        let sys = machine.sys(vcpu).ok()?;
        let address = Gva(sys.get(SysReg::VbarEl1));
        let mmu_on = sys.get(SysReg::SctlrEl1) & SCTLR_M != 0;
        let in_kernel_half = address.0 >> 63 == 1;
        if !mmu_on || !in_kernel_half {
            return None;
        }
        let at = translate(&TranslationRegs::from(&sys), machine, address).ok()?;
        Some((address, at.gpa))
    })
}

/// The end of the RAM that begins before `gpa`, or as far as an image can reach.
fn ram_end(machine: &dyn Machine, gpa: Gpa) -> Gpa {
    let start = gpa.0 & !(STRIDE - 1);
    let is_ram = |offset: &u64| {
        machine
            .read_phys(Gpa(start.saturating_add(*offset)), &mut [0])
            .is_ok()
    };
    let length = (0..=MAX_IMAGE)
        .step_by(STRIDE as usize)
        .take_while(is_ram)
        .last();
    Gpa(start.saturating_add(length.map_or(0, |last| last + STRIDE)))
}
