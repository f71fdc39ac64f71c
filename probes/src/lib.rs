//! Where programs run: the probe layer of Periscope.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod a64;
pub mod addr;
pub mod attach_point;
pub mod build_id;
pub mod engine;
pub mod event;
#[cfg(any(test, feature = "fake"))]
pub mod fake;
mod fixed;
pub mod gdb_trace;
pub mod kallsyms;
pub mod kernel;
pub mod kernel_file;
mod kernel_memory;
pub mod kernel_types;
pub mod ksyms;
mod locate;
pub mod machine;
mod modules;
mod no_machine;
pub mod options;
pub mod own_code;
pub mod periscope;
pub mod programs;
#[cfg(test)]
mod qemu;
pub mod refusal;
mod registry;
pub mod regs;
mod returns;
pub mod similar;
mod site;
pub mod space;
pub mod stage2;
pub mod symbols;
pub mod system_map;
pub mod target;
pub mod tracepoint;
pub mod translate;
pub mod view;

#[cfg(test)]
mod tests;
