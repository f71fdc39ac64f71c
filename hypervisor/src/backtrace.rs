//! Backtraces of EL2 code, with the names that `cargo xtask build` appends to the image.
//!
//! The symbol table at `__image_end`: `"PSYM"`, a `u32` count, then that many entries of `u64` address, `u32` offset of
//! the name and `u32` size, sorted by address; a `u32` length and that many bytes of NUL-terminated names. All little
//! endian. Without one, addresses are shown bare.

use crate::cpu;
use crate::platform::Range;
use core::fmt;
use core::ptr;

unsafe extern "C" {
    static __image_end: u8;
    static __text_start: u8;
    static __text_end: u8;
}

const HEADER: usize = 8;
const ENTRY: usize = 16;
/// No table of ours is larger; a damaged count must not send us across the address space.
const MAX_SYMBOLS: usize = 200_000;
const MAX_DEPTH: usize = 32;

/// A walk along the frame records (AAPCS64 6.4.6) of the current stack.
#[derive(Clone, Copy, Debug)]
pub struct Backtrace {
    pc: Option<u64>,
    frame: u64,
}

impl Backtrace {
    /// From an interrupted PC and its frame pointer.
    pub fn new(pc: u64, frame: u64) -> Self {
        Self {
            pc: Some(pc),
            frame,
        }
    }

    /// From a frame pointer alone.
    pub fn from_frame_pointer(frame: u64) -> Self {
        Self { pc: None, frame }
    }
}

impl fmt::Display for Backtrace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stack = cpu::stack(cpu::this().index);
        let mut depth = 0;
        let mut show = |f: &mut fmt::Formatter<'_>, pc: u64| {
            let number = depth;
            depth += 1;
            match lookup(pc) {
                Some((name, offset)) => writeln!(f, "  #{number:<2} {pc:#x} {name}+{offset:#x}"),
                None => writeln!(f, "  #{number:<2} {pc:#x}"),
            }
        };
        if let Some(pc) = self.pc {
            show(f, pc)?;
        }
        let mut frame = self.frame;
        for _ in 0..MAX_DEPTH {
            if !stack.contains(frame) || !frame.is_multiple_of(16) || frame + 16 > stack.end {
                break;
            }
            // SAFETY: both words lie in this CPU's own mapped stack.
            let (next, return_address) =
                unsafe { (*(frame as *const u64), *((frame + 8) as *const u64)) };
            if !text().contains(return_address) {
                break;
            }
            show(f, return_address - 4)?;
            if next <= frame {
                break;
            }
            frame = next;
        }
        Ok(())
    }
}

fn text() -> Range {
    Range {
        start: &raw const __text_start as u64,
        end: &raw const __text_end as u64,
    }
}

/// Size in bytes of the table at the end of the image, 0 where there is none.
pub fn table_size() -> u64 {
    let Some(count) = count() else { return 0 };
    let strings = HEADER + count * ENTRY;
    (strings + 4 + read_u32(strings) as usize) as u64
}

fn base() -> *const u8 {
    &raw const __image_end
}

fn count() -> Option<usize> {
    let magic = read_u32(0).to_le_bytes();
    let count = read_u32(4) as usize;
    (&magic == b"PSYM" && count <= MAX_SYMBOLS).then_some(count)
}

fn read_u32(offset: usize) -> u32 {
    // SAFETY: the table follows the image in mapped RAM; where there is none, what is read is RAM all the same.
    unsafe { ptr::read_unaligned(base().add(offset).cast()) }
}

fn address_of(index: usize) -> u64 {
    // SAFETY: as above; `index` is below the count.
    unsafe { ptr::read_unaligned(base().add(HEADER + index * ENTRY).cast()) }
}

/// The function that holds `address`, and how far into it that is.
pub fn lookup(address: u64) -> Option<(&'static str, u64)> {
    let count = count()?;
    let (mut low, mut high) = (0, count);
    while low < high {
        let middle = low + (high - low) / 2;
        if address_of(middle) <= address {
            low = middle + 1
        } else {
            high = middle
        }
    }
    let index = low.checked_sub(1)?;
    let entry = HEADER + index * ENTRY;
    let offset = address - address_of(index);
    if offset >= u64::from(read_u32(entry + 12)).max(4) {
        return None;
    }
    let strings = HEADER + count * ENTRY;
    let length = read_u32(strings) as usize;
    let start = read_u32(entry + 8) as usize;
    // SAFETY: the names lie right behind the entries and are `length` bytes; nobody writes them.
    let names = unsafe { core::slice::from_raw_parts(base().add(strings + 4), length) };
    let name = names.get(start..)?.split(|&byte| byte == 0).next()?;
    Some((core::str::from_utf8(name).ok()?, offset))
}
