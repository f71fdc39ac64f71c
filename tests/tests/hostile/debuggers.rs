//! A real GDB: killed at bad moments, and asked for what cannot be done.

use crate::world::World;
use anyhow::{Context, Result, ensure};
use e2e::MOMENT;
use std::time::Duration;

/// The GIC's distributor and the UART, as the guests have them mapped.
const DEVICES: [u64; 2] = [0x0800_0000, 0x0900_0000];

/// `kill -9` while the VM stands, at a breakpoint of its own.
pub fn killed_while_stopped(world: &World) -> Result<()> {
    for _ in 0..3 {
        let mut gdb = world.machine.gdb(1)?;
        gdb.console(&format!("break *{:#x}", world.subject.address))?;
        gdb.mi("-exec-step-instruction")?;
        gdb.wait_stop(MOMENT)?;
    }
    Ok(())
}

/// `kill -9` while the VM runs.
pub fn killed_while_running(world: &World) -> Result<()> {
    for _ in 0..3 {
        let mut gdb = world.machine.gdb(1)?;
        gdb.console(&format!("break *{:#x}", world.subject.address))?;
        gdb.resume()?;
        gdb.expect_running(Duration::from_millis(50))?;
    }
    Ok(())
}

/// `kill -9` at about the moment of a step.
pub fn killed_while_stepping(world: &World) -> Result<()> {
    for patience in [0, 1, 3, 10] {
        let mut gdb = world.machine.gdb(1)?;
        gdb.console(&format!("break *{:#x}", world.subject.address))?;
        gdb.mi("-exec-step-instruction 1000")?;
        std::thread::sleep(Duration::from_millis(patience));
    }
    Ok(())
}

/// Breakpoints where there is no memory, or a device. What GDB sets is refused or waits; the guest goes on either way.
pub fn breakpoints_nowhere(world: &World) -> Result<()> {
    let mut gdb = world.machine.gdb(1)?;
    for address in DEVICES {
        gdb.console(&format!("break *{address:#x}"))?;
        // GDB inserts when the target is to go on.
        gdb.mi("-exec-continue")?;
        gdb.wait_warning(
            &format!("Cannot access memory at address {address:#x}"),
            MOMENT,
        )
        .with_context(|| format!("break *{address:#x} is taken"))?;
        gdb.console("delete")?;
    }
    gdb.console(&format!("break *{:#x}", World::NOWHERE))?;
    gdb.resume()?;
    gdb.expect_running(Duration::from_millis(100))?;
    // GDB takes it out at every stop.
    let list = world.machine.shell()?.run("trace list")?;
    ensure!(list.contains("pending"), "{list}");
    gdb.interrupt()?;
    gdb.console("delete")?;
    gdb.detach()
}

/// Commands and places that do not exist. The answer says what is wrong, and names what there is.
pub fn commands(world: &World) -> Result<()> {
    let mut gdb = world.machine.gdb(1)?;
    for (command, wanted) in [
        ("nonsense", "`help` shows"),
        ("trace", "One of"),
        ("trace nonsense", "no command trace nonsense"),
        ("trace kprobe", "usage: trace kprobe"),
        ("trace kprobe vm0:f count", "hypervisor"),
        ("trace kprobe hyp:f count", "hypervisor"),
        ("trace kprobe vm9:f count", "vm1"),
        ("trace kprobe 0x40200000 nonsense", "nonsense"),
        ("trace kprobe 0x40200001 count", "0x40200001"),
        ("trace kprobe 0x8000000 count", "0x8000000"),
        (
            "trace kprobe 99999999999999999999 count",
            "99999999999999999999",
        ),
        ("trace unkprobe 99", "99"),
        ("trace unkprobe -1", "-1"),
        ("trace unload nonsense", "nonsense"),
        ("trace unload count", "count"),
        ("map dump count nonsense", "nonsense"),
        ("map dump nonsense 0", "nonsense"),
        ("map dump count 4294967296", "4294967296"),
        ("vm start vm0", "hypervisor"),
        ("vm stop vm7", "vm1"),
        ("gsym nonsense", "no symbols"),
        ("phys zz", "zz"),
        ("phys 0xffffffffffffffff", "end of the address space"),
        ("trace list too many words", "argument"),
    ] {
        let answer = gdb
            .console(&format!("monitor {command}"))
            .with_context(|| format!("`monitor {command}`"))?;
        ensure!(answer.contains(wanted), "`monitor {command}`: {answer}");
        ensure!(answer.lines().count() <= 3, "`monitor {command}`: {answer}");
    }
    gdb.detach()
}
