//! GDB's agent expressions (GDB manual, appendix F "The GDB Agent Expression Mechanism") as eBPF.
//!
//! What a client wants done at a breakpoint or tracepoint (`break f if …`, `dprintf`, `collect`) reaches a server as
//! bytecode for a machine with a stack. [`compile`] makes a program of it that is verified, compiled further and run like
//! any other. The number of values on the stack is known at every bytecode, so the stack is no memory that grows: a value
//! is in a register of its own, or in its own place of the program's frame ([`operands`]).
//!
//! What only these programs do, such as reading the guest or ending with an error, they have helpers for
//! ([`crate::helper`], numbers 240 to 248). An *evaluation error* (memory that cannot be read, a divisor of zero) ends the
//! run with [`crate::RunFault::Evaluation`], which names the bytecode and its offset.
//!
//! Where the manual leaves something open: shifts take the low six bits of their distance, as A64 does; the smallest
//! number divided by -1 is itself; `ext` and `zero_ext` of 0 bits give 0.

mod emit;
mod flow;
mod opcode;
mod operands;
mod printf;
mod refused;
#[cfg(test)]
mod tests;

pub use opcode::Opcode;
pub use refused::{Reason, Refused};

use crate::linked::{Linked, ProgramDef};
use crate::object::{LoadError, Object};
use crate::verify::VerifyError;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;
use emit::Emitter;

/// Bytes of an expression at most. What GDB sends in one packet is shorter.
pub const MAX_LENGTH: usize = 4096;
/// Values that an expression may have on its stack: as many as have room in the frame of a program.
pub const MAX_DEPTH: usize = 56;
/// Values that one `printf` may print.
pub const MAX_ARGUMENTS: usize = 32;
/// Expressions that one program may be made of.
pub const MAX_EXPRESSIONS: usize = 64;

/// What an expression is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// It says whether a breakpoint stops, or a tracepoint collects: by a value other than 0.
    Condition,
    /// It is run for what it does.
    Command,
    /// It is run for what it collects into a trace frame.
    Collection,
}

impl Purpose {
    /// Whether it leaves a value.
    const fn has_value(self) -> bool {
        matches!(self, Self::Condition)
    }
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Condition => "condition",
            Self::Command => "command",
            Self::Collection => "collection",
        })
    }
}

/// Where the value of one of the client's registers comes from while a program runs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Register {
    /// The low bits of a word of the program's context.
    Context {
        /// Which word: 0 to 30 are x0 to x30, then SP, PC, PSTATE.
        word: u8,
        /// How many of its bits, at most 64.
        bits: u8,
    },
    /// The machine knows it: [`crate::Host::register`] is asked with this number.
    Machine(u16),
    /// It cannot be had, or is no number of at most 64 bits; this is its name.
    Unavailable(String),
}

/// The registers as a client counts them.
pub trait Registers {
    /// The register of that number; `None` where there is none.
    fn register(&self, number: u16) -> Option<Register>;
}

/// A bytecode of one of the expressions that a program was made of: what an evaluation error is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// Which expression, from 0, in the order of [`Expression`]s.
    pub expression: u8,
    /// Which bytecode.
    pub opcode: Opcode,
    /// Its offset in the expression.
    pub offset: u16,
}

impl Place {
    /// As the argument of a helper.
    const fn to_word(self) -> i32 {
        (self.expression as i32) << 24 | (self.opcode as i32) << 16 | self.offset as i32
    }

    pub(crate) fn from_word(word: u64) -> Option<Self> {
        Some(Self {
            expression: (word >> 24) as u8,
            opcode: Opcode::from_byte((word >> 16) as u8)?,
            offset: word as u16,
        })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at offset {}", self.opcode.name(), self.offset)?;
        match self.expression {
            0 => Ok(()),
            number => write!(f, " of expression {}", number + 1),
        }
    }
}

/// An expression and what it is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Expression<'a> {
    /// Its bytecode.
    pub code: &'a [u8],
    /// What it is for.
    pub purpose: Purpose,
}

/// A compiled program, and where its instructions come from.
#[derive(Clone, Debug)]
pub struct Compiled {
    linked: Linked,
    /// The first instruction of each bytecode and which that is, by rising instruction.
    places: Vec<(usize, Place)>,
    purposes: Vec<Purpose>,
}

/// Compiles expressions to one program, which evaluates them one after the other. It ends as soon as a condition is true, and
/// skips the other conditions: then the commands and collections are run, in their order. Without any condition they always
/// are. Its result is 1 where a condition was true, or there is none, and there are no commands, and 0 otherwise: a
/// breakpoint with commands goes on. `name` is what users call the program.
pub fn compile(
    name: &str,
    expressions: &[Expression<'_>],
    registers: &dyn Registers,
) -> Result<Compiled, Refused> {
    let ordered = in_order(expressions);
    let (insns, maps, places) = Emitter::new(registers).program(&ordered)?;
    let program = ProgramDef {
        name: name.into(),
        insns,
        ..ProgramDef::default()
    };
    let linked = Linked {
        name: name.into(),
        license: "GPL".into(),
        maps,
        programs: alloc::vec![program],
        ..Linked::default()
    };
    Ok(Compiled {
        linked,
        places,
        purposes: ordered.iter().map(|it| it.purpose).collect(),
    })
}

/// Conditions come first: what is done depends on them.
fn in_order<'a>(expressions: &[Expression<'a>]) -> Vec<Expression<'a>> {
    let is_condition = |it: &&Expression<'_>| it.purpose == Purpose::Condition;
    let conditions = expressions.iter().filter(is_condition);
    let others = expressions.iter().filter(|it| !is_condition(it));
    conditions.chain(others).copied().collect()
}

impl Compiled {
    /// The program before it is verified.
    pub fn linked(&self) -> &Linked {
        &self.linked
    }

    /// Verifies the program and loads it, for a machine with `cpus` physical CPUs.
    pub fn load(&self, cpus: usize) -> Result<Object, Refused> {
        Object::load(&self.linked, cpus).map_err(|error| match error {
            LoadError::Verify(error) => self.not_verified(&error),
            LoadError::OutOfMemory { .. } => self.refuse(None, Reason::OutOfMemory),
            other => self.refuse(None, Reason::Verifier(other.to_string())),
        })
    }

    fn not_verified(&self, error: &VerifyError) -> Refused {
        let known = self.places.partition_point(|(insn, _)| *insn <= error.insn);
        let place = known.checked_sub(1).map(|index| self.places[index].1);
        self.refuse(place, Reason::Verifier(error.reason.to_string()))
    }

    fn refuse(&self, place: Option<Place>, reason: Reason) -> Refused {
        let expression = place.map_or(0, |place| place.expression.into());
        let purpose = self.purposes.get(expression).copied();
        Refused {
            purpose: purpose.unwrap_or(Purpose::Condition),
            opcode: place.map(|place| place.opcode),
            offset: place.map_or(0, |place| place.offset.into()),
            reason,
        }
    }
}
