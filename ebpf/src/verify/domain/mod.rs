//! The abstract domain of numbers: what is known of a scalar.
//!
//! Three views of one number, each sharpening the others: single bits ([`Tnum`]), ranges of all 64
//! bits and ranges of the lower 32 ([`range::Range`], each signed and unsigned). After
//! `kernel/bpf/tnum.c` and the scalar half of `kernel/bpf/verifier.c`; the deductions are those of
//! `reg_bounds_sync`. Every operation contains what the machine's contains: the tests hold each
//! against the interpreter's arithmetic.

mod arithmetic;
mod bounds;
mod compare;
mod range;
mod tnum;

pub(crate) use arithmetic::apply;
pub(crate) use bounds::Bounds;
pub(crate) use compare::{Outcome, assume};
pub(crate) use range::Bits;

#[cfg(test)]
use tnum::Tnum;

#[cfg(test)]
mod tests;
