//! The guest's memory as the vCPU on this CPU sees it now, for the hit path: the MMU itself translates (`AT`).

use crate::stage2::Port;
use crate::sysreg;
use core::arch::asm;
use core::ptr;
use probes::addr::{Gpa, Gva, Hpa, PAGE_SIZE};
use probes::machine::{GuestFault, LiveMemory};
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
pub struct Live {
    /// The VM's tables.
    pub roots: Roots,
    /// Reads them.
    pub port: Port,
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

impl Live {
    fn ram(&self, gva: Gva, access: Stage1) -> Result<(Gpa, Hpa), GuestFault> {
        let fault = GuestFault { address: gva };
        let gpa = translate(gva, access).ok_or(fault)?;
        match self.roots.translate(&self.port, gpa) {
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

impl LiveMemory for Live {
    fn read(&self, gva: Gva, buffer: &mut [u8]) -> Result<(), GuestFault> {
        for (at, range) in Self::pieces(gva, buffer.len()) {
            let (_, hpa) = self.ram(at, Stage1::Read)?;
            copy_from(hpa, &mut buffer[range]);
        }
        Ok(())
    }

    fn write(&self, gva: Gva, bytes: &[u8]) -> Result<(), GuestFault> {
        // All pages are checked before the first byte changes.
        for (at, _) in Self::pieces(gva, bytes.len()) {
            let (gpa, _) = self.ram(at, Stage1::Write)?;
            if self.roots.is_shadowed(&self.port, gpa) {
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

/// Copies out of guest RAM. Aligned words go in one access, as the guest's own loads would.
pub fn copy_from(hpa: Hpa, buffer: &mut [u8]) {
    // SAFETY: `hpa` and what follows, up to the end of its page, is guest RAM by the stage-2 tables, identity mapped at
    // EL2. Guests may write it at the same time, so every access is volatile.
    unsafe {
        match buffer.len() {
            8 if hpa.0 % 8 == 0 => {
                buffer.copy_from_slice(&ptr::read_volatile(hpa.0 as *const u64).to_le_bytes());
            }
            4 if hpa.0 % 4 == 0 => {
                buffer.copy_from_slice(&ptr::read_volatile(hpa.0 as *const u32).to_le_bytes());
            }
            _ => copy_bulk(hpa, buffer),
        }
    }
}

/// As [`copy_from`], eight bytes at a time where they are aligned.
///
/// # Safety
///
/// As in [`copy_from`].
unsafe fn copy_bulk(hpa: Hpa, buffer: &mut [u8]) {
    let head = (hpa.0.wrapping_neg() % 8).min(buffer.len() as u64) as usize;
    let (first, rest) = buffer.split_at_mut(head);
    let (words, last) = rest.as_chunks_mut::<8>();
    let mut at = hpa.0;
    // SAFETY: forwarded to the caller.
    unsafe {
        for byte in first {
            *byte = ptr::read_volatile(at as *const u8);
            at += 1;
        }
        for word in words {
            *word = ptr::read_volatile(at as *const u64).to_le_bytes();
            at += 8;
        }
        for byte in last {
            *byte = ptr::read_volatile(at as *const u8);
            at += 1;
        }
    }
}

/// Copies into guest RAM.
pub fn copy_to(hpa: Hpa, bytes: &[u8]) {
    // SAFETY: as in `copy_from`.
    unsafe {
        if let Ok(word) = <[u8; 8]>::try_from(bytes)
            && hpa.0 % 8 == 0
        {
            ptr::write_volatile(hpa.0 as *mut u64, u64::from_le_bytes(word));
        } else if let Ok(word) = <[u8; 4]>::try_from(bytes)
            && hpa.0 % 4 == 0
        {
            ptr::write_volatile(hpa.0 as *mut u32, u32::from_le_bytes(word));
        } else {
            for (offset, byte) in bytes.iter().enumerate() {
                ptr::write_volatile((hpa.0 + offset as u64) as *mut u8, *byte);
            }
        }
    }
}
