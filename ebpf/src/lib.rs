#![no_std]
#![forbid(unsafe_code)]
//! eBPF at EL2: the programs that run on a hit.
//!
//! The host links ([`linked`]), EL2 loads and verifies ([`object`], [`verify`]), a hit runs ([`interp`]). A running
//! program sees the registers of the vCPU that trapped, its own stack, the values of its maps, and whatever the
//! [`helper`]s fetch for it through a [`Host`]. It has no raw pointer into anything.
//!
//! Nothing on the way of a hit allocates, waits without bound, or trusts the program: what [`verify`] promises, the
//! interpreter still checks where an error would reach memory.

extern crate alloc;

pub mod builtin;
pub mod helper;
pub mod host;
pub mod insn;
pub mod linked;
pub mod map;
pub mod object;

pub use host::{Context, Host, ReadFault};
pub use object::{LoadError, Object, Program, RunError};
