//! Backtraces of EL2 code. Without a symbol table, addresses are shown bare.

use crate::platform::Range;
use crate::{cpu, ksyms};
use core::fmt;

unsafe extern "C" {
    static __text_start: u8;
    static __text_end: u8;
}

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
            match ksyms::table().and_then(|table| table.holding(pc)) {
                Some(function) => {
                    let offset = pc - function.address;
                    writeln!(f, "  #{number:<2} {pc:#x} {}+{offset:#x}", function.name)
                }
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
