//! The clients that people use, each driven without a screen as its user would: a breakpoint with a condition on a function
//! of a stock kernel, the stack, registers, a probe whose lines come to the debug console, and leaving.

mod adapters;
mod cppdbg;
mod generations;

use adapters::{cdt_gdb_adapter, gdbs_own_adapter, lldb_dap};
use anyhow::{Result, ensure};
use cppdbg::vscode_cppdbg;
use e2e::{Linux, Spec, SymbolFile, TestMachine, case_list, suite};
use generations::{gdb_of_debian_13, lldb_of_debian_12};
use std::process::ExitCode;
use xtask::guest::Release;
use xtask::machine::Start;

fn main() -> ExitCode {
    suite(
        World::boot,
        case_list![
            vscode_cppdbg,
            cdt_gdb_adapter,
            lldb_dap,
            gdbs_own_adapter,
            gdb_of_debian_13,
            lldb_of_debian_12,
        ],
    )
}

/// The function where clients stop, the condition that they give it, and a function with a probe.
const FUNCTION: &str = "do_sys_openat2";
/// `AT_FDCWD`, which `openat` gets for a path: -100 (uapi/linux/fcntl.h). In C for every client's parser.
const CONDITION: &str = "(int)$x0 == -100";
const PROBED: &str = "vfs_read";
/// What makes the guest call both.
const COMMAND: &str = "cat /etc/inittab";

/// A Debian guest.
struct World {
    machine: TestMachine,
    symbols: SymbolFile,
}

impl World {
    fn boot() -> Result<Self> {
        let spec = Spec::hypervisor().linux(Release::Stable, 2, Start::Immediately)?;
        let machine = TestMachine::start(spec)?;
        let symbols = SymbolFile::make()?;
        machine.wait_for_shell(1)?;
        Linux::new(machine.console(1)?).quieten()?;
        Ok(Self { machine, symbols })
    }

    fn linux(&self) -> Result<Linux<'_>> {
        Ok(Linux::new(self.machine.console(1)?))
    }

    fn port(&self) -> u16 {
        self.machine.ports().vm(1)
    }

    /// Nothing of a client is left, and the guest goes on.
    fn is_as_before(&self) -> Result<()> {
        let mut shell = self.machine.shell()?;
        let list = shell.run("trace list")?;
        ensure!(!list.contains("break"), "{list}");
        // A probe stays when its client goes.
        if list.contains(PROBED) {
            shell.run(&format!("trace unkprobe vm1:{PROBED}"))?;
        }
        ensure!(self.linux()?.run("echo alive")?.trim() == "alive");
        Ok(())
    }
}
