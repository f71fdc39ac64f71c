//! The guest's memory as the vCPU on this CPU sees it now, for the hit path: the MMU itself translates (`AT`).

use crate::stage2::Port;
use crate::{fp, guest_sys, sysreg};
use core::arch::asm;
use core::ptr;
use core::sync::atomic::AtomicU64;
use probes::addr::{Gpa, Gva, Hpa, PAGE_SIZE};
use probes::machine::{GuestFault, LiveMemory};
use probes::regs::{CoreRegs, FpRegs, SysReg, pstate};
use probes::stage2::Memory;
use probes::view::Roots;

/// Which permission a translation asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage1 {
    /// Read by EL1.
    Read,
    /// Write by EL1.
    Write,
    /// Read by EL0.
    UserRead,
}

/// The memory of the vCPU that trapped on this CPU.
#[derive(Clone, Copy)]
pub struct Live<'a> {
    /// `PSTATE` of the vCPU: with PAN set, EL1 may not touch what EL0 may.
    pub pstate: u64,
    /// The VM's tables.
    pub roots: &'a Roots,
    /// Reads them.
    pub port: &'a Port,
}

/// Where `gva` is in guest-physical memory, by the stage 1 that is live on this CPU.
pub fn translate(gva: Gva, access: Stage1) -> Option<Gpa> {
    let guest_par = sysreg::read!("par_el1");
    // SAFETY: address translation changes PAR_EL1 only, which is put back below.
    unsafe {
        match access {
            Stage1::Read => asm!("at s1e1r, {}", in(reg) gva.0, options(nostack, preserves_flags)),
            Stage1::Write => asm!("at s1e1w, {}", in(reg) gva.0, options(nostack, preserves_flags)),
            Stage1::UserRead => {
                asm!("at s1e0r, {}", in(reg) gva.0, options(nostack, preserves_flags))
            }
        }
    }
    sysreg::isb();
    let par = sysreg::read!("par_el1");
    // SAFETY: puts the guest's value back.
    unsafe { sysreg::write!("par_el1", guest_par) };
    let failed = par & 1 != 0;
    (!failed).then_some(Gpa(par & 0x000f_ffff_ffff_f000 | gva.page_offset()))
}

impl Live<'_> {
    /// Where a load or store of EL1 leads.
    fn ram(&self, gva: Gva, access: Stage1) -> Result<(Gpa, Hpa), GuestFault> {
        let is_user_page = || translate(gva, Stage1::UserRead).is_some();
        if self.pstate & pstate::PAN != 0 && is_user_page() {
            return Err(GuestFault { address: gva });
        }
        self.ram_without_pan(gva, access)
    }

    fn ram_without_pan(&self, gva: Gva, access: Stage1) -> Result<(Gpa, Hpa), GuestFault> {
        let fault = GuestFault { address: gva };
        let gpa = translate(gva, access).ok_or(fault)?;
        match self.roots.translate(self.port, gpa) {
            Some(mapping) if mapping.memory == Memory::Ram => Ok((gpa, mapping.hpa)),
            _ => Err(fault),
        }
    }

    /// The pieces of `length` bytes from `gva`, each within a page: address and range in the buffer.
    fn pieces(gva: Gva, length: usize) -> impl Iterator<Item = (Gva, core::ops::Range<usize>)> {
        let mut done = 0;
        core::iter::from_fn(move || {
            if done == length {
                return None;
            }
            let at = Gva(gva.0.wrapping_add(done as u64));
            let room = (PAGE_SIZE - at.page_offset()) as usize;
            let range = done..(done + room.min(length - done));
            done = range.end;
            Some((at, range))
        })
    }
}

impl LiveMemory for Live<'_> {
    fn task(&self) -> u64 {
        let on_sp_el1 = self.pstate & pstate::MODE_MASK == pstate::EL1H;
        // The guest's: EL2 has a stack pointer of its own.
        if on_sp_el1 {
            sysreg::read!("sp_el0")
        } else {
            0
        }
    }

    fn exit_syndrome(&self) -> u64 {
        // Exceptions that EL2 takes itself put it back.
        sysreg::read!("esr_el2")
    }

    fn store_fp(&self, place: &[AtomicU64; FpRegs::WORDS]) {
        fp::store(place);
    }

    fn store_sys(&self, core: &CoreRegs, place: &[AtomicU64]) {
        guest_sys::store(core, place);
    }

    fn system(&self, register: SysReg) -> Option<u64> {
        guest_sys::read_live(register)
    }

    fn read(&self, gva: Gva, buffer: &mut [u8]) -> Result<(), GuestFault> {
        for (at, range) in Self::pieces(gva, buffer.len()) {
            let (_, hpa) = self.ram(at, Stage1::Read)?;
            copy_from(hpa, &mut buffer[range]);
        }
        Ok(())
    }

    fn inspect(&self, gva: Gva, buffer: &mut [u8]) -> Result<(), GuestFault> {
        for (at, range) in Self::pieces(gva, buffer.len()) {
            let (_, hpa) = self.ram_without_pan(at, Stage1::Read)?;
            copy_from(hpa, &mut buffer[range]);
        }
        Ok(())
    }

    fn write(&self, gva: Gva, bytes: &[u8]) -> Result<(), GuestFault> {
        // All pages are checked before the first byte changes.
        for (at, _) in Self::pieces(gva, bytes.len()) {
            let (gpa, _) = self.ram(at, Stage1::Write)?;
            if self.roots.is_shadowed(self.port, gpa) {
                return Err(GuestFault { address: at });
            }
        }
        for (at, range) in Self::pieces(gva, bytes.len()) {
            let (_, hpa) = self.ram(at, Stage1::Write)?;
            copy_to(hpa, &bytes[range]);
        }
        Ok(())
    }
}

/// Copies out of guest RAM. Aligned words and halves of them go in one access each, as the guest's own loads would.
pub fn copy_from(hpa: Hpa, buffer: &mut [u8]) {
    let mut at = hpa.0;
    let mut rest = buffer;
    // SAFETY: `hpa` and what follows, for the length of the buffer, is guest RAM by the stage-2 tables or the VM's
    // partition, identity mapped at EL2. Guests may write it at the same time, so every access is volatile.
    unsafe {
        while !rest.is_empty() {
            let taken = if at.is_multiple_of(8) && rest.len() >= 8 {
                rest[..8].copy_from_slice(&ptr::read_volatile(at as *const u64).to_le_bytes());
                8
            } else if at.is_multiple_of(4) && rest.len() >= 4 {
                rest[..4].copy_from_slice(&ptr::read_volatile(at as *const u32).to_le_bytes());
                4
            } else {
                rest[0] = ptr::read_volatile(at as *const u8);
                1
            };
            at += taken as u64;
            rest = &mut rest[taken..];
        }
    }
}

/// Copies into guest RAM, in the same units.
pub fn copy_to(hpa: Hpa, bytes: &[u8]) {
    let mut at = hpa.0;
    let mut rest = bytes;
    // SAFETY: as in `copy_from`.
    unsafe {
        while !rest.is_empty() {
            if at.is_multiple_of(8)
                && let Some((word, after)) = rest.split_first_chunk::<8>()
            {
                ptr::write_volatile(at as *mut u64, u64::from_le_bytes(*word));
                (at, rest) = (at + 8, after);
            } else if at.is_multiple_of(4)
                && let Some((word, after)) = rest.split_first_chunk::<4>()
            {
                ptr::write_volatile(at as *mut u32, u32::from_le_bytes(*word));
                (at, rest) = (at + 4, after);
            } else {
                ptr::write_volatile(at as *mut u8, rest[0]);
                (at, rest) = (at + 1, &rest[1..]);
            }
        }
    }
}
