//! Why an expression cannot be compiled.

use super::opcode::Opcode;
use super::{MAX_ARGUMENTS, MAX_DEPTH, MAX_EXPRESSIONS, MAX_LENGTH, Purpose};
use crate::helper::BadFormat;
use alloc::string::String;
use core::fmt;

/// What is wrong with an expression.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reason {
    /// It has no bytes.
    Empty,
    /// It has more than [`MAX_LENGTH`].
    TooLong,
    /// There are more than [`MAX_EXPRESSIONS`], or what they compile to is too long.
    TooMany,
    /// No bytecode has that number.
    NoSuchOpcode(u8),
    /// A bytecode for floating-point numbers.
    FloatingPoint,
    /// Something is collected where nothing can be.
    CollectsIn(Purpose),
    /// The operand, or the bytecode that should follow, is behind the end of the expression.
    CutOff,
    /// It takes more values than there are.
    Underflow {
        /// How many it wants.
        wanted: usize,
        /// How many there are.
        depth: usize,
    },
    /// There would be more than [`MAX_DEPTH`] values.
    Overflow,
    /// Ways that lead there leave different numbers of values.
    Depths(usize, usize),
    /// A jump behind the end, or into the middle of a bytecode.
    BadTarget(u16),
    /// No register has that number.
    NoSuchRegister(u16),
    /// That register cannot be had while a program runs.
    Register(String),
    /// More values to print than [`MAX_ARGUMENTS`].
    Arguments(usize),
    /// The text that says how to print is no good.
    Format(BadFormat),
    /// It may run for ever, or do what else no program may: the verifier says so.
    Verifier(String),
    /// There is no memory for it.
    OutOfMemory,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("it is empty"),
            Self::TooLong => write!(f, "it is longer than {MAX_LENGTH} bytes"),
            Self::TooMany => write!(
                f,
                "with it there are more than {MAX_EXPRESSIONS} expressions at one place, or they are too \
                 long together"
            ),
            Self::NoSuchOpcode(byte) => write!(f, "no bytecode is {byte:#04x}"),
            Self::FloatingPoint => {
                f.write_str("floating-point numbers cannot be computed with at EL2")
            }
            Self::CollectsIn(purpose) => write!(
                f,
                "it collects into a trace frame, which a {purpose} has none of"
            ),
            Self::CutOff => f.write_str("the expression is cut off behind it"),
            Self::Underflow { wanted, depth } => {
                write!(f, "it wants {wanted} values and there are {depth}")
            }
            Self::Overflow => write!(f, "there would be more than {MAX_DEPTH} values"),
            Self::Depths(one, other) => write!(
                f,
                "one way there leaves {one} values and another one {other}"
            ),
            Self::BadTarget(target) => {
                write!(f, "it jumps to offset {target}, where no bytecode begins")
            }
            Self::NoSuchRegister(number) => write!(f, "there is no register {number}"),
            Self::Register(name) => write!(
                f,
                "{name} cannot be read where expressions run: x0 to x30, sp, pc, cpsr and the system \
                 registers of EL1 can"
            ),
            Self::Arguments(count) => {
                write!(
                    f,
                    "it prints {count} values, and at most {MAX_ARGUMENTS} are possible"
                )
            }
            Self::Format(error) => error.fmt(f),
            Self::Verifier(reason) => f.write_str(reason),
            Self::OutOfMemory => f.write_str("there is no memory for it"),
        }
    }
}

/// A refused expression: what is wrong, and where. `Display` tells the user.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refused {
    /// What the expression is for.
    pub purpose: Purpose,
    /// The bytecode, where one is to blame.
    pub opcode: Option<Opcode>,
    /// Its offset in the expression.
    pub offset: usize,
    /// What is wrong.
    pub reason: Reason,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the {} cannot be compiled: ", self.purpose)?;
        if let Some(opcode) = self.opcode {
            write!(f, "{} at offset {}: ", opcode.name(), self.offset)?;
        } else if self.offset > 0 {
            write!(f, "at offset {}: ", self.offset)?;
        }
        self.reason.fmt(f)
    }
}

impl core::error::Error for Refused {}
