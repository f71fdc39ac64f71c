//! The readers of what nobody can trust, each behind one function that takes arbitrary bytes and panics where the
//! reader breaks a promise. `cargo fuzz` searches for such bytes; the tests here try random ones and repeat those that
//! were found (`regressions/READER/*`).
#![forbid(unsafe_code)]

pub mod btf;
mod input;
pub mod kallsyms;
pub mod kernel_file;
pub mod ksyms;
pub mod linked;
pub mod program;
pub mod session;
pub mod system_map;
pub mod translate;
pub mod verify_run;

#[cfg(test)]
mod tests;
