//! Verification of a program before it is run.
//!
//! First the [`structure`]: instructions, jumps and calls are ones that there are. Then every path
//! is followed, each register and each byte of the stack holding what is known of it on that path:
//! a set of numbers ([`domain`]) or a pointer with the set of offsets that it may have
//! ([`value`]). An instruction is accepted if nothing that it may do with any of these is unsafe.
//! A path ends at the program's exit, or where an explored one includes it ([`checkpoint`],
//! [`prune`]), or where it cannot go ([`domain`]'s `assume`).
//!
//! What is accepted: all that Linux 6.12 accepts of a privileged kprobe program and that there is
//! here (`kernel/bpf/verifier.c`, with `allow_ptr_leaks` and `allow_uninit_stack`), and little more.
//! What an accepted program cannot do, whatever the guest's registers, memory and the maps hold:
//! access anything but its context, its stack and whole values of maps, or write what is read-only;
//! hand a helper what it does not take; execute more instructions than were explored, the cost of
//! helpers aside; use more stack than there is; keep what it must give back.

mod access;
mod arithmetic;
mod branch;
mod call;
mod callback;
mod checkpoint;
mod domain;
mod heap;
mod log;
mod output;
mod prune;
mod reason;
mod stack;
mod state;
mod structure;
mod touched;
mod value;
mod verifier;

use crate::btf::Btf;
use crate::decode;
use crate::insn::Text;
use crate::linked::{Linked, ProgramDef, Types};
use crate::map::MapDef;
use crate::memory::CONTEXT_SIZE;
use crate::signature::Signature;
use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;
pub use log::{Log, Observer, Silent, Step};
pub use output::{MemoryKind, Verified};
pub use reason::Reason;

/// What a program may cost to verify.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Instructions that are followed, on all paths together (Linux: 1,000,000,
    /// `BPF_COMPLEXITY_LIMIT_INSNS`).
    pub insns: usize,
    /// Bytes that remembered states take, about.
    pub memory: usize,
    /// How much work all that is together: an instruction that is followed is 1, and so are a few
    /// places of a state that is copied, compared or searched.
    pub work: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            insns: 1_000_000,
            memory: 8 << 20,
            work: 2_000_000,
        }
    }
}

/// What a program is verified against.
#[derive(Clone, Copy)]
struct Environment<'a> {
    maps: &'a [MapDef],
    limits: Limits,
    /// What the context is, where it is a function's arguments.
    signature: Option<Signature>,
}

impl Environment<'_> {
    /// Bytes of the context.
    fn context_size(&self) -> usize {
        self.signature
            .map_or(CONTEXT_SIZE, |signature| 8 * signature.values())
    }
}

/// A refused program: where and why. `Display` is what a user reads.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VerifyError {
    /// The section of the program, or its name where it has none.
    pub program: String,
    /// The number of the instruction.
    pub insn: usize,
    /// That instruction as text.
    pub text: String,
    /// The line of the source that it comes from, if the object says ([`VerifyError::in_source`]).
    pub line: Option<Box<str>>,
    /// What is wrong with it.
    pub reason: Reason,
    /// How a path came there, and what was known then. None where no path matters.
    pub path: Option<Box<Path>>,
}

/// How a path came to an instruction.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Path {
    /// The last stretches of instructions that it went through.
    pub steps: String,
    /// Registers and stack before the instruction.
    pub state: String,
}

impl fmt::Display for VerifyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, instruction {}", self.program, self.insn)?;
        if let Some(line) = &self.line {
            write!(f, " ({line})")?;
        }
        write!(f, "\n  {}\n  {}", self.text, self.reason)?;
        match &self.path {
            Some(path) => write!(f, "\n  known: {}\n  path: {}", path.state, path.steps),
            None => Ok(()),
        }
    }
}

impl core::error::Error for VerifyError {}

/// Characters of a source line that a message shows at most.
const LINE: usize = 160;

impl VerifyError {
    /// The same with the line of the source, if `types` has the strings of the program's lines.
    pub fn in_source(mut self, program: &ProgramDef, types: &Types) -> Self {
        let line = program.line(self.insn);
        let strings = Btf::parse(&types.btf).ok();
        self.line = line.zip(strings).map(|(line, strings)| {
            let file = String::from_utf8_lossy(strings.string(line.file));
            let file = file.rsplit('/').next().unwrap_or_default();
            let text = String::from_utf8_lossy(strings.string(line.text).trim_ascii());
            let line = format!("{file}:{}: {text}", line.number());
            let shown = line.chars().filter(|character| !character.is_control());
            shown.take(LINE).collect()
        });
        self
    }
}

/// Verifies all programs of an object whose parts agree ([`Linked::check`]). The limit of work is for all
/// of them together.
pub fn verify_object(linked: &Linked) -> Result<Vec<Verified>, VerifyError> {
    let all = Limits::default();
    let mut left = all;
    let verify = |program| {
        let verified = verify_with(program, &linked.maps, left, &mut Silent);
        let verified = verified.map_err(|mut error| {
            if let Reason::TooMuchWork(limit) = &mut error.reason {
                *limit = all.work;
            }
            error.in_source(program, &linked.types)
        })?;
        left.work -= verified.work;
        Ok(verified)
    };
    linked.programs.iter().map(verify).collect()
}

/// Verifies a program that may refer to `maps`.
pub fn verify(program: &ProgramDef, maps: &[MapDef]) -> Result<Verified, VerifyError> {
    verify_with(program, maps, Limits::default(), &mut Silent)
}

/// The same, within other limits, and telling an observer every step.
pub fn verify_with(
    program: &ProgramDef,
    maps: &[MapDef],
    limits: Limits,
    observer: &mut dyn Observer,
) -> Result<Verified, VerifyError> {
    let environment = Environment {
        maps,
        limits,
        signature: program.signature,
    };
    check(program, environment, observer).map_err(|error| VerifyError {
        program: program.label().into(),
        insn: error.insn,
        text: Text::new(&program.insns, error.insn).to_string(),
        line: None,
        reason: error.reason,
        path: error.path,
    })
}

/// A reason, the instruction that it is about, and how it was reached.
#[derive(Debug)]
struct Refused {
    insn: usize,
    reason: Reason,
    path: Option<Box<Path>>,
}

fn check(
    program: &ProgramDef,
    environment: Environment<'_>,
    observer: &mut dyn Observer,
) -> Result<Verified, Refused> {
    let insns = &program.insns;
    let mut environment = environment;
    let wanted = environment.limits.memory;
    environment.limits.memory = heap::room(wanted, insns.len()).ok_or(Refused {
        insn: 0,
        reason: Reason::OutOfMemory,
        path: None,
    })?;
    let functions =
        structure::check(insns, environment.maps).map_err(|(insn, reason)| Refused {
            insn,
            reason,
            path: None,
        })?;
    // Addresses of map values do not matter here: the maps need not exist.
    let steps = decode::decode(insns, &[]);
    let verifier = verifier::Verifier::new(insns, &steps, &functions, environment, observer);
    verifier.run().map_err(|refused| match refused.reason {
        Reason::TooMuchMemory(limit) if limit < wanted => Refused {
            reason: Reason::OutOfMemory,
            ..refused
        },
        _ => refused,
    })
}

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) use tests::assemble;
