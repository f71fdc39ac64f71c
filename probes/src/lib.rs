//! Where programs run: the probe layer of Periscope.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod a64;
pub mod addr;
pub mod machine;
pub mod regs;
pub mod stage2;
pub mod symbols;
pub mod view;
