//! End-to-end test support: machines under QEMU, their consoles, and real debuggers that drive them.
//!
//! A test file is a list of cases over one machine ([`suite`]) or over machines of their own ([`cases`]). Every wait is
//! bounded and says what it waited for; every process ends with the test that started it.

pub mod bench;
mod console;
mod dap;
mod gdb;
mod linux;
mod lldb;
mod machine;
mod program;
mod random;
pub mod remote;
mod shell;
mod suite;
pub mod tiny;
mod trace;

pub use console::Console;
pub use dap::Dap;
pub use gdb::{Gdb, Stop};
pub use linux::{Linux, SymbolFile};
pub use lldb::Lldb;
pub use machine::{Spec, TestMachine};
pub use program::{compile_example, link_example, link_example_with, link_source, periscope};
pub use random::Random;
pub use shell::{Probe, Shell};
pub use suite::{Case, Named, Scope, cases, named, scope, suite, suite_of};
pub use trace::{Ended, Trace};

use std::time::Duration;

/// Bound for what takes a moment: a debugger's command, a shell's prompt.
pub const MOMENT: Duration = Duration::from_secs(30);
/// Bound for what takes long: a guest's boot.
pub const LONG: Duration = Duration::from_secs(120);
