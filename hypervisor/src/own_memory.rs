//! The hypervisor's own memory for the debugger and for programs: what this CPU's MMU says may be read, and is no device.

use crate::vectors::Frame;
use crate::{fp, live, own_sys, sysreg};
use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};
use probes::addr::{Gva, Hpa, PAGE_SIZE};
use probes::machine::{GuestFault, LiveMemory};
use probes::regs::{CoreRegs, FpRegs, SysReg};

/// What an access does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Reads.
    Read,
    /// Writes.
    Write,
}

/// What is at an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// Memory.
    Memory,
    /// A device: reading it could have side effects.
    Device,
    /// Nothing, or nothing that may be accessed so.
    Nothing,
}

/// What `access` of `address` would find.
pub fn probe(address: u64, access: Access) -> Place {
    /// `PAR_EL1.F`: the translation failed.
    const FAILED: u64 = 1;
    let guest_par = sysreg::read!("par_el1");
    // SAFETY: address translation changes PAR_EL1 only, which is put back below.
    unsafe {
        match access {
            Access::Read => {
                asm!("at s1e2r, {}", in(reg) address, options(nostack, preserves_flags))
            }
            Access::Write => {
                asm!("at s1e2w, {}", in(reg) address, options(nostack, preserves_flags))
            }
        }
    }
    sysreg::isb();
    let par = sysreg::read!("par_el1");
    // SAFETY: puts the guest's value back.
    unsafe { sysreg::write!("par_el1", guest_par) };
    // `PAR_EL1.ATTR` is the MAIR attribute: device memory has 0b0000 in its upper half.
    match par {
        _ if par & FAILED != 0 => Place::Nothing,
        _ if par >> 60 == 0 => Place::Device,
        _ => Place::Memory,
    }
}

/// Whether `access` of all of `address..address + length` is one of memory; if not, where it fails and why.
pub fn check(address: u64, length: usize, access: Access) -> Result<(), (u64, Place)> {
    let mut at = address;
    let mut rest = length as u64;
    while rest > 0 {
        match probe(at, access) {
            Place::Memory => {}
            other => return Err((at, other)),
        }
        let here = (PAGE_SIZE - at % PAGE_SIZE).min(rest);
        rest -= here;
        at = at.checked_add(here).ok_or((at, Place::Nothing))?;
    }
    Ok(())
}

/// What programs and simulations at EL2 read. They write nothing: a displaced store executes out of line.
pub struct OwnMemory;

impl LiveMemory for OwnMemory {
    fn task(&self) -> u64 {
        // A thread of execution of the hypervisor is a CPU.
        0
    }

    /// The guest's, which EL2 code leaves alone.
    fn store_fp(&self, place: &[AtomicU64; FpRegs::WORDS]) {
        fp::store(place);
    }

    /// The EL1 registers of the CPU, which are the guest's, and its own at EL2, where those that an exception sets are
    /// those of the hit.
    fn store_sys(&self, core: &CoreRegs, place: &[AtomicU64]) {
        let frame = Frame {
            regs: *core,
            syndrome: sysreg::read!("esr_el2"),
            fault_address: sysreg::read!("far_el2"),
            fault_page: sysreg::read!("hpfar_el2"),
        };
        let regs = own_sys::save(&frame);
        for (place, register) in place.iter().zip(SysReg::ALL) {
            place.store(regs.get(*register), Ordering::Relaxed);
        }
    }

    fn read(&self, gva: Gva, buffer: &mut [u8]) -> Result<(), GuestFault> {
        check(gva.0, buffer.len(), Access::Read).map_err(|(address, _)| GuestFault {
            address: Gva(address),
        })?;
        live::copy_from(Hpa(gva.0), buffer);
        Ok(())
    }

    fn write(&self, gva: Gva, _: &[u8]) -> Result<(), GuestFault> {
        Err(GuestFault { address: gva })
    }
}
