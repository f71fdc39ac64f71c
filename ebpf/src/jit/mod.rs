//! The compiler to A64.
//!
//! It translates the decoded steps that the interpreter runs, one after another, into code that
//! does the same: same results, same memory, same budget, same errors. No optimisation looks
//! further than one instruction; registers map to registers ([`registers`]).
//!
//! # What compiled code can reach
//!
//! * The arena of its object, relative to a base that never leaves its register. With
//!   [`Checks::Every`] each access outside the frame is compared with the bounds of the arena, and
//!   a program that leaves them ends with the interpreter's error: a program that only the
//!   structural checks have seen is safe for the hypervisor. With [`Checks::Window`] the offset is
//!   32 bits and nothing is compared: an access is confined to the 4 GiB from the arena's base, not
//!   to the object, and only a program that the verifier has proved is in bounds.
//! * The context, at constant offsets that are checked here ([`flow`]).
//! * Its frame, at constant offsets that are checked here.
//! * The stack of the CPU, by code of ours: one frame of saved registers for each function.
//! * One function of the hypervisor, [`Runtime::helper_entry`].
//!
//! No register holds anything of the hypervisor's when a program can read it: [`flow`] refuses
//! programs that read what they have not written.
//!
//! # Calling convention
//!
//! Code is a function, an [`EntryPoint`]; who installs it ([`Compiler`]) calls its first instruction.

mod access;
mod alu;
mod asm;
mod call;
mod callback;
mod emit;
mod flow;
mod immediate;
mod jump;
mod listing;
mod native;
mod registers;

pub use listing::Listing;
pub use native::{Call, Compiler, EntryPoint, HelperOutcome, Native, Outcome, helper};
pub(crate) use native::{run, run_alone};

use crate::decode::Step;
use crate::map::Map;
use alloc::boxed::Box;
use core::fmt;

/// What compiled code needs to know of the machine under it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Runtime {
    /// The address of an `extern "C"` function that calls [`helper`] with its arguments.
    pub helper_entry: u64,
    /// Which atomic instructions the CPUs have.
    pub atomics: Atomics,
}

/// How atomic operations are done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Atomics {
    /// By pairs of exclusive instructions, which every CPU has.
    Exclusives,
    /// By the instructions of FEAT_LSE: every CPU must have it (`ID_AA64ISAR0_EL1.Atomic`).
    Lse,
}

/// Which accesses are checked when they are done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Checks {
    /// All that are not known to be in bounds: for programs that are not proved.
    Every,
    /// None: for programs that the verifier has proved. They are confined to 4 GiB from the base of
    /// the arena.
    Window,
}

/// Whether constants of the program appear in the code.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Blinding {
    /// As they are.
    Off,
    /// Each as two numbers that the exclusive or makes one of, from this seed (not 0): no constant
    /// that a program chooses is found in executable memory. Offsets and shift counts, which are
    /// small, are not hidden.
    Seed(u64),
}

/// What a program finds on its stack.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum StackAtEntry {
    /// What the run before has left.
    AsItIs,
    /// Zeros: it may read what it has not written.
    Cleared,
}

/// How a program is compiled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options {
    /// The machine.
    pub runtime: Runtime,
    /// Which accesses are checked.
    pub checks: Checks,
    /// Whether constants are hidden.
    pub blinding: Blinding,
}

/// Where the code of an instruction begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Line {
    /// The index of the A64 word.
    pub word: u32,
    /// The number of the eBPF instruction; `None` for what belongs to none.
    pub insn: Option<u32>,
}

/// A compiled program.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Code {
    words: Box<[u32]>,
    lines: Box<[Line]>,
}

impl Code {
    /// The A64 instructions. They may be anywhere, in one piece and 4-byte aligned.
    pub fn words(&self) -> &[u32] {
        &self.words
    }

    /// The line table, in the order of the words: each entry is good up to the next.
    pub fn lines(&self) -> &[Line] {
        &self.lines
    }

    /// The eBPF instruction that a word belongs to.
    pub fn insn_at(&self, word: usize) -> Option<u32> {
        let after = self
            .lines
            .partition_point(|line| line.word as usize <= word);
        self.lines.get(after.checked_sub(1)?)?.insn
    }
}

/// Why a program is not compiled. It is interpreted then.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NotCompiled {
    /// The compiler cannot translate an instruction.
    Refused {
        /// Its number.
        insn: u32,
        /// Why.
        error: CompileError,
    },
    /// There is no room for the code.
    NoRoom,
}

impl fmt::Display for NotCompiled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused { insn, error } => write!(f, "instruction {insn}: {error}"),
            Self::NoRoom => f.write_str("there is no room for more compiled programs"),
        }
    }
}

impl core::error::Error for NotCompiled {}

/// Why an instruction is not translated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CompileError {
    /// A register is read that nothing was written to.
    Uninitialized(u8),
    /// An access by a number that may be an address in the context or something else.
    Mixed,
    /// A store into the context.
    ContextWritten,
    /// An address in the context goes to memory, or out of a function.
    ContextStored,
    /// A load that leaves the context.
    ContextBounds,
    /// A helper may call one function or another.
    Function,
    /// The code is longer than its branches reach, 1 MiB.
    TooLong,
    /// An instruction that the verifier excludes.
    Invalid,
}

impl fmt::Display for CompileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uninitialized(register) => {
                write!(f, "r{register} is read before anything is written to it")
            }
            Self::Mixed => f.write_str("this may access the context or other memory"),
            Self::ContextWritten => f.write_str("this writes the context"),
            Self::ContextStored => f.write_str("this stores or returns an address in the context"),
            Self::Function => f.write_str("which function this calls is not certain"),
            Self::ContextBounds => f.write_str("this reads outside the context"),
            Self::TooLong => f.write_str("the compiled program would be longer than 1 MiB"),
            Self::Invalid => f.write_str("there is no such instruction"),
        }
    }
}

impl core::error::Error for CompileError {}

/// Compiles a program that has passed the structural checks and refers to `maps`, whose arena has
/// `arena_size` bytes, `stack_size` of them for each CPU's stack.
pub(crate) fn compile(
    steps: &[Step],
    maps: &[Map],
    arena_size: usize,
    stack_size: usize,
    stack: StackAtEntry,
    options: &Options,
) -> Result<Code, NotCompiled> {
    let refused = |(insn, error)| NotCompiled::Refused {
        insn: insn as u32,
        error,
    };
    let flow = flow::Flow::of(steps).map_err(refused)?;
    let emitter = emit::Emitter::new(steps, maps, arena_size, stack_size, stack, options);
    emitter.program(&flow).map_err(refused)
}

#[cfg(test)]
mod tests;
