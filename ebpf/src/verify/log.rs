//! What verification does, step by step, for those who want to see it.

use super::state::State;
use crate::insn::{Insn, Text};
use alloc::string::ToString;
use core::fmt;

/// A step of the verification.
#[derive(Debug)]
pub enum Step<'a> {
    /// The instruction is looked at next, in that state.
    Instruction(usize, Known<'a>),
    /// A path that was left for later is taken up.
    Resume(usize, Known<'a>),
    /// The path ends: an explored one includes it.
    Included(usize),
    /// The path ends: the rounds of a helper change nothing more.
    Settled(usize),
    /// The path ends: it cannot go there.
    Impossible(usize),
}

/// What is known of registers and stack. `Display` shows it as the kernel's log does.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a>(pub(super) &'a State);

impl fmt::Display for Known<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Who is told every step.
pub trait Observer {
    /// Takes a step.
    fn step(&mut self, step: Step<'_>);
}

/// Nobody.
#[derive(Clone, Copy, Debug)]
pub struct Silent;

impl Observer for Silent {
    fn step(&mut self, _: Step<'_>) {}
}

/// Writes a log like the kernel's (`log_level 2`).
#[derive(Debug)]
pub struct Log<'a, W> {
    insns: &'a [Insn],
    out: W,
    error: fmt::Result,
}

impl<'a, W: fmt::Write> Log<'a, W> {
    /// A log of the verification of these instructions.
    pub fn new(insns: &'a [Insn], out: W) -> Self {
        Self {
            insns,
            out,
            error: Ok(()),
        }
    }

    /// The first error of writing.
    pub fn finish(self) -> fmt::Result {
        self.error
    }
}

impl<W: fmt::Write> Observer for Log<'_, W> {
    fn step(&mut self, step: Step<'_>) {
        let result = match step {
            Step::Instruction(insn, known) => {
                let text = Text::new(self.insns, insn).to_string();
                writeln!(self.out, "{insn}: {text:<40} ; {known}")
            }
            Step::Resume(insn, known) => writeln!(self.out, "\nfrom {insn}: {known}"),
            Step::Included(insn) => writeln!(self.out, "{insn}: safe, as an explored path"),
            Step::Settled(insn) => writeln!(self.out, "{insn}: safe, as the rounds before"),
            Step::Impossible(insn) => writeln!(self.out, "{insn}: not possible"),
        };
        self.error = self.error.and(result);
    }
}
