//! A program as text: each instruction, and the A64 instructions that it became.

use super::Code;
use crate::insn::{Insn, Text};
use core::fmt;
use yaxpeax_arch::{Decoder, U8Reader};
use yaxpeax_arm::armv8::a64::InstDecoder;

/// A program, with its code if it is compiled. `Display` writes a line for each instruction of
/// either kind: an eBPF instruction after its number, an A64 instruction after its distance from
/// the code's first byte.
#[derive(Clone, Copy, Debug)]
pub struct Listing<'a> {
    /// The program.
    pub insns: &'a [Insn],
    /// What it was compiled to.
    pub code: Option<&'a Code>,
}

impl fmt::Display for Listing<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(code) = self.code else {
            return self.insns(f, 0, self.insns.len());
        };
        let mut next = 0;
        let ends = code.lines().iter().skip(1).map(|line| line.word as usize);
        let ends = ends.chain([code.words().len()]);
        for (line, end) in code.lines().iter().zip(ends) {
            match line.insn.map(|insn| insn as usize) {
                // Instructions on the way that have no code are dead.
                Some(insn) if insn >= next => {
                    self.insns(f, next, insn + 1)?;
                    next = insn + 1;
                }
                Some(insn) => writeln!(f, "{insn:>5}: where it fails")?,
                None if line.word as usize == end => {}
                None => writeln!(f, "       (around the program)")?,
            }
            for word in line.word as usize..end {
                writeln!(f, "        {:#06x}  {}", 4 * word, A64(code.words()[word]))?;
            }
        }
        Ok(())
    }
}

impl Listing<'_> {
    fn insns(&self, f: &mut fmt::Formatter<'_>, start: usize, end: usize) -> fmt::Result {
        for index in start..end {
            let is_second_slot = index > 0 && self.insns[index - 1].is_wide();
            if !is_second_slot {
                writeln!(f, "{index:>5}: {}", Text::new(self.insns, index))?;
            }
        }
        Ok(())
    }
}

/// The text of an A64 instruction.
struct A64(u32);

impl fmt::Display for A64 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.0.to_le_bytes();
        match InstDecoder::default().decode(&mut U8Reader::new(&bytes)) {
            Ok(instruction) => instruction.fmt(f),
            Err(_) => write!(f, ".inst {:#010x}", self.0),
        }
    }
}
