//! The kernel in a guest's memory: where to look for it.
//!
//! `VBAR_EL1` points into the kernel's text, and in guest-physical memory the kernel is one piece
//! (`arch/arm64/kernel/head.S`): its tables lie behind its text. So the search begins at what
//! `VBAR_EL1` translates to, and one pair of addresses tells where the rest is mapped.
//!
//! Except under KPTI: a vCPU at EL0 then has its vectors in the trampoline, which is the kernel's
//! memory by another address, and nothing else of the kernel is mapped. The memory is found all
//! the same, and that user code runs says that the kernel has relocated itself.

use super::{FindError, ImageReader, Kernel, Placement, Unreadable, find};
use crate::addr::{Gpa, Gva};
use crate::machine::{Machine, Power, VcpuId};
use crate::regs::SysReg;
use crate::translate::{TranslationRegs, translate};
use alloc::vec::Vec;

/// Memory that is searched: distribution kernels take 28 to 32 MiB.
const SEARCHED: u64 = 64 << 20;
/// How a kernel is aligned (Linux' `Documentation/arch/arm64/booting.rst`).
const ALIGN: u64 = 2 << 20;
/// Places that are searched at most; an honest guest has one.
const MAX_SIGHTINGS: usize = 4;

/// Finds the symbols of the Linux kernel that runs in a guest. Holds the VM while it looks at the
/// vCPUs, not while it searches memory, which takes a second or so in an emulator.
pub fn find_in_guest(machine: &dyn Machine) -> Result<Kernel, FindError> {
    machine.hold();
    let sightings = sightings(machine);
    machine.release();
    let mut result = Err(FindError::NoKernelCode);
    for sighting in sightings {
        let image = GuestImage {
            machine,
            start: sighting.start,
        };
        result = find(&image, sighting.placement);
        if result.is_ok() {
            break;
        }
    }
    result
}

/// Guest-physical memory where kernel text is.
#[derive(Clone, Copy)]
struct Sighting {
    start: Gpa,
    placement: Placement,
}

/// Where the vCPUs say that kernel text is. The VM is held.
fn sightings(machine: &dyn Machine) -> Vec<Sighting> {
    let mut sightings: Vec<Sighting> = Vec::new();
    let count = u8::try_from(machine.vcpu_count()).unwrap_or(u8::MAX);
    for sighting in (0..count).filter_map(|vcpu| sighting(machine, VcpuId(vcpu))) {
        let is_known = sightings
            .iter()
            .any(|known| known.start == sighting.start && known.placement == sighting.placement);
        if !is_known && sightings.len() < MAX_SIGHTINGS {
            sightings.push(sighting);
        }
    }
    sightings
}

fn sighting(machine: &dyn Machine, vcpu: VcpuId) -> Option<Sighting> {
    if machine.power(vcpu) == Power::Off {
        return None;
    }
    let core = machine.core(vcpu).ok()?;
    let sys = machine.sys(vcpu).ok()?;
    let vectors = Gva(sys.get(SysReg::VbarEl1));
    if vectors.0 >> 63 == 0 {
        return None;
    }
    let at = translate(&TranslationRegs::from(&sys), machine, vectors)
        .ok()?
        .gpa;
    let start = Gpa(at.0 & !(ALIGN - 1));
    let placement = if core.at_el0() {
        Placement::Relocated
    } else {
        Placement::Running {
            start: Gva(vectors.0.checked_sub(at.0 - start.0)?),
        }
    };
    Some(Sighting { start, placement })
}

/// A guest's memory from some address on.
struct GuestImage<'a> {
    machine: &'a dyn Machine,
    start: Gpa,
}

impl ImageReader for GuestImage<'_> {
    fn size(&self) -> u64 {
        SEARCHED
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Unreadable> {
        let gpa = self.start.checked_add(offset).ok_or(Unreadable)?;
        self.machine.read_phys(gpa, buffer).map_err(|_| Unreadable)
    }
}
