//! Pages for code, of Linux (`include/uapi/asm-generic/mman-common.h`).

use core::arch::asm;
use guest_programs::linux::syscall;

const MUNMAP: usize = 215;
const MMAP: usize = 222;
const MPROTECT: usize = 226;

const PROT_READ: usize = 1;
const PROT_WRITE: usize = 2;
const PROT_EXEC: usize = 4;
const MAP_PRIVATE: usize = 0x02;
const MAP_ANONYMOUS: usize = 0x20;

/// Pages with code. They are never writable and executable at once.
#[derive(Debug)]
pub struct CodePages {
    start: *const u32,
    bytes: usize,
}

impl CodePages {
    /// Pages that hold `words` and can be executed.
    pub fn new(words: &[u32]) -> Option<Self> {
        let bytes = size_of_val(words);
        let flags = MAP_PRIVATE | MAP_ANONYMOUS;
        let request = [0, bytes, PROT_READ | PROT_WRITE, flags, usize::MAX];
        // SAFETY: new pages, wherever there is room.
        let start = unsafe { syscall(MMAP, request) }.ok()?;
        let pages = Self {
            start: start as *const u32,
            bytes,
        };
        let target = start as *mut u32;
        // SAFETY: these pages are that long, and nobody else knows them.
        unsafe { target.copy_from_nonoverlapping(words.as_ptr(), words.len()) };
        // SAFETY: nothing but the copy above has used these pages.
        unsafe { syscall(MPROTECT, [start, bytes, PROT_READ | PROT_EXEC, 0, 0]) }.ok()?;
        pages.synchronize();
        Some(pages)
    }

    /// Where they are.
    pub fn start(&self) -> *const u32 {
        self.start
    }

    /// Makes instruction fetches see what has been written (Arm ARM B2.4.4).
    fn synchronize(&self) {
        // Both kinds of cache lines are at least so long.
        const LINE: usize = 16;
        let start = self.start as usize;
        for address in (start..start + self.bytes).step_by(LINE) {
            // SAFETY: cleaning a line of our own changes nothing.
            unsafe { asm!("dc cvau, {0}", in(reg) address, options(nostack)) };
        }
        // SAFETY: a barrier.
        unsafe { asm!("dsb ish", options(nostack)) };
        for address in (start..start + self.bytes).step_by(LINE) {
            // SAFETY: as above.
            unsafe { asm!("ic ivau, {0}", in(reg) address, options(nostack)) };
        }
        // SAFETY: barriers.
        unsafe { asm!("dsb ish", "isb", options(nostack)) };
    }
}

impl Drop for CodePages {
    fn drop(&mut self) {
        // SAFETY: who drops them does not execute them any more.
        let _ = unsafe { syscall(MUNMAP, [self.start as usize, self.bytes, 0, 0, 0]) };
    }
}
