//! Clients older and newer than this machine's, from other releases of Debian.

use crate::{COMMAND, CONDITION, FUNCTION, World};
use anyhow::{Result, ensure};
use e2e::{Gdb, LONG, Lldb, MOMENT};
use xtask::report::Report;
use xtask::setup::elsewhere::Elsewhere;

/// GDB of Debian 13 (16.3) at its prompt.
pub fn gdb_of_debian_13(world: &World) -> Result<()> {
    let slide = world
        .symbols
        .slide(&world.machine.shell()?.run("vm info vm1")?)?;
    let mut linux = world.linux()?;
    let mut gdb = Gdb::start_as(Gdb::newer()?)?;
    let file = world.symbols.path().display();
    gdb.console_within(&format!("symbol-file {file} -o {slide:#x}"), LONG)?;
    gdb.connect(world.port())?;
    let threads = gdb.console("info threads")?;
    ensure!(threads.contains("\"vm1/vcpu1\""), "{threads}");
    gdb.console(&format!("break {FUNCTION} if {CONDITION}"))?;
    gdb.resume()?;
    linux.begin(COMMAND)?;
    let stop = gdb.wait_stop(MOMENT)?;
    ensure!(stop.reason() == "breakpoint-hit", "{stop:?}");
    ensure!(gdb.value("(unsigned int)$x0")? == 0xffff_ff9c, "x0");
    let backtrace = gdb.console("backtrace")?;
    ensure!(backtrace.contains(FUNCTION), "{backtrace}");
    gdb.console("delete")?;
    gdb.detach()?;
    linux.finish()?;
    drop(linux);
    world.is_as_before()
}

/// LLDB 14, Debian 12's own.
pub fn lldb_of_debian_12(world: &World) -> Result<()> {
    let mut linux = world.linux()?;
    let function = linux.address(FUNCTION)?;
    let elsewhere = Elsewhere::fetch(&Report::new(), "bookworm", "lldb-14")?;
    let mut lldb = Lldb::start_as(elsewhere.command("usr/lib/llvm-14/bin/lldb"))?;
    lldb.connect(world.port())?;
    lldb.command(&format!("breakpoint set --address {function:#x}"))?;
    lldb.resume()?;
    linux.begin(COMMAND)?;
    lldb.wait_stop(MOMENT)?;
    ensure!(lldb.register("pc")? == function, "pc at the breakpoint");
    let list = lldb.command("process plugin packet monitor trace list")?;
    ensure!(list.contains(&format!("vm1:{FUNCTION}")), "{list}");
    lldb.command("breakpoint delete --force")?;
    lldb.command("detach")?;
    linux.finish()?;
    drop(linux);
    world.is_as_before()
}
