#![no_std]
#![forbid(unsafe_code)]
//! eBPF at EL2: the programs that run on a hit.
//!
//! The host links ([`linked`]), EL2 verifies and loads ([`verify`], [`object`]), a hit runs
//! ([`interp`]). A running program sees the registers of the vCPU that trapped, its own stack, the
//! values of its maps, and whatever the [`helper`]s fetch for it through a [`Host`]. It has no raw
//! pointer into anything: [`map`] values, stack and context have addresses of our own making that
//! mean nothing outside the object.
//!
//! Nothing on the way of a hit allocates, waits without bound, or trusts the program: what
//! [`verify`] promises, the interpreter still checks where an error would reach memory.

extern crate alloc;

mod address;
pub mod agent;
mod arena;
pub mod asm;
pub mod btf;
pub mod builtin;
mod decode;
pub mod helper;
pub mod host;
pub mod insn;
pub mod interp;
pub mod jit;
pub mod json;
pub mod linked;
pub mod map;
mod memory;
pub mod object;
mod run;
pub mod signature;
pub mod stack;
pub mod task;
pub mod verify;
mod width;

pub use host::{CollectFault, Context, Host, Lost, ReadFault};
pub use object::{EvaluationError, LoadError, Object, Program, RunError, RunFault};

#[cfg(test)]
extern crate std;
#[cfg(test)]
mod testing;
