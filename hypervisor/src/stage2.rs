//! The machine under the stage-2 tables of a VM: physical memory and TLB instructions for [`probes::stage2::Port`].

use crate::{heap, mmu, sysreg};
use core::arch::asm;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use probes::addr::{Gpa, Hpa};

/// A root in which nothing is valid: with it in `VTTBR_EL2`, no walk can cache anything under the VMID.
#[repr(C, align(4096))]
struct EmptyRoot([u64; 512]);

static EMPTY_ROOT: EmptyRoot = EmptyRoot([0; 512]);

/// Edits the tables of one VM.
#[derive(Clone, Copy, Debug)]
pub struct Port {
    vmid: u8,
}

impl Port {
    /// For the VM with this VMID.
    pub fn new(vmid: u8) -> Self {
        Self { vmid }
    }

    /// Runs `maintenance` with the VM's VMID in `VTTBR_EL2`, whoever lives on the calling CPU.
    fn with_vmid(&self, maintenance: impl FnOnce()) {
        let before = sysreg::read!("vttbr_el2");
        let foreign = before >> 48 != u64::from(self.vmid);
        if foreign {
            let root = EMPTY_ROOT.0.as_ptr() as u64;
            // SAFETY: EL2's own translation does not use VTTBR_EL2; no guest runs on this CPU until it is put back.
            unsafe { sysreg::write!("vttbr_el2", u64::from(self.vmid) << 48 | root) };
            sysreg::isb();
        }
        maintenance();
        if foreign {
            // SAFETY: puts back what was there.
            unsafe { sysreg::write!("vttbr_el2", before) };
            sysreg::isb();
        }
    }
}

impl probes::stage2::Port for Port {
    fn read_descriptor(&self, at: Hpa) -> u64 {
        // SAFETY: `at` lies in a frame of `allocate`, identity mapped and aligned.
        unsafe { AtomicU64::from_ptr(at.0 as *mut u64) }.load(Ordering::Relaxed)
    }

    fn write_descriptor(&self, at: Hpa, value: u64) {
        // SAFETY: as above.
        unsafe { AtomicU64::from_ptr(at.0 as *mut u64) }.store(value, Ordering::Relaxed);
    }

    fn publish(&self) {
        // SAFETY: a barrier.
        unsafe { asm!("dsb ishst", "isb", options(nostack, preserves_flags)) };
    }

    fn allocate(&self) -> Option<Hpa> {
        heap::allocate_page().map(|page| Hpa(page.as_ptr() as u64))
    }

    fn free(&self, frame: Hpa) {
        if let Some(page) = NonNull::new(frame.0 as *mut u8) {
            // SAFETY: the frame came from `allocate`, and the caller promises that no CPU can reach it.
            unsafe { heap::free_page(page) };
        }
    }

    fn read_word(&self, at: Hpa) -> u32 {
        // SAFETY: guest RAM or a frame, identity mapped. A guest may write it at the same time: the access is volatile.
        unsafe { ptr::read_volatile(at.0 as *const u32) }
    }

    fn write_word(&self, at: Hpa, word: u32) {
        // SAFETY: a frame of `allocate`; guests execute it and never write it.
        unsafe { AtomicU32::from_ptr(at.0 as *mut u32) }.store(word, Ordering::Relaxed);
    }

    fn sync_icache(&self, at: Hpa, length: u64) {
        mmu::clean_and_invalidate(at.0, length);
        mmu::sync_icache(at.0, length);
    }

    fn invalidate_ipa(&self, gpa: Gpa) {
        self.with_vmid(|| {
            // SAFETY: TLB maintenance for the guest's regime.
            unsafe {
                asm!(
                    "tlbi ipas2e1is, {page}",
                    "dsb ish",
                    "tlbi vmalle1is",
                    "dsb ish",
                    "isb",
                    page = in(reg) gpa.0 >> 12,
                    options(nostack, preserves_flags)
                );
            }
        });
    }

    fn invalidate_all(&self) {
        self.with_vmid(|| {
            // SAFETY: as above.
            unsafe {
                asm!(
                    "tlbi vmalls12e1is",
                    "dsb ish",
                    "isb",
                    options(nostack, preserves_flags)
                );
            }
        });
    }
}

/// Moves the calling CPU to the view whose `VTTBR_EL2` is `vttbr` ([`probes::view`], "Switching views").
pub fn switch_view(vttbr: u64) {
    // SAFETY: concerns the guest's translation only, and no guest runs on this CPU now.
    unsafe {
        sysreg::write!("vttbr_el2", vttbr);
        asm!(
            "isb",
            "tlbi vmalls12e1",
            "dsb nsh",
            "isb",
            options(nostack, preserves_flags)
        );
    }
}
