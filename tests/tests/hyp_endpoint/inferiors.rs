//! The hypervisor and its VMs as inferiors of one GDB, at the endpoint for the whole machine.

use crate::World;
use anyhow::{Context, Result, ensure};
use e2e::tiny::Tiny;
use e2e::{Gdb, MOMENT};
use xtask::build::Program;

/// GDB's numbers of the inferiors, which [`attach_all`] attaches in this order.
const VM1: u32 = 1;
const VM2: u32 = 2;
const HYP: u32 = 3;
/// The hypervisor's process id.
const HYP_PID: u32 = 100;

/// A GDB with all spaces attached, each with its own symbols; everything stands.
fn attach_all(world: &World) -> Result<Gdb> {
    let mut gdb = Gdb::with_symbols(&Program::TinyGuest.elf())?;
    gdb.connect_extended(world.machine.ports().machine())?;
    attach(&mut gdb, VM1)?;
    for (number, pid, program) in [
        (VM2, VM2, Program::TinyGuest),
        (HYP, HYP_PID, Program::Hypervisor),
    ] {
        gdb.console("add-inferior")?;
        gdb.console(&format!("inferior {number}"))?;
        gdb.console(&format!("file {}", program.elf().display()))?;
        attach(&mut gdb, pid)?;
    }
    gdb.console("set schedule-multiple on")?;
    Ok(gdb)
}

fn attach(gdb: &mut Gdb, pid: u32) -> Result<()> {
    gdb.console(&format!("attach {pid}"))?;
    gdb.wait_stop(MOMENT)
        .map(drop)
        .with_context(|| format!("attach {pid}"))
}

/// Each has its threads, registers and memory; they come and go one by one.
pub fn spaces_are_inferiors(world: &World) -> Result<()> {
    let mut gdb = attach_all(world)?;
    let inferiors = gdb.console("info inferiors")?;
    for process in ["process 1 ", "process 2 ", "process 100 "] {
        ensure!(inferiors.contains(process), "no {process}in\n{inferiors}");
    }
    let threads = gdb.console("info threads")?;
    for name in [
        "vm1/vcpu0",
        "vm1/vcpu1",
        "vm2/vcpu0",
        "hyp/cpu0",
        "hyp/cpu3",
    ] {
        ensure!(threads.contains(name), "no {name} in\n{threads}");
    }
    // Each has the target description of its kind.
    ensure!(gdb.value("$currentel")? == 2 << 2, "not at EL2");
    gdb.console(&format!("inferior {VM1}"))?;
    ensure!(gdb.value("$hcr_el2").is_err(), "HCR_EL2 of a guest");
    let here = gdb.value("$vbar_el1")?;
    gdb.console(&format!("set $vbar_el1 = {:#x}", here + 0x800))?;
    gdb.console(&format!("inferior {VM2}"))?;
    ensure!(gdb.value("$vbar_el1")? == here, "vm2 has vm1's register");
    gdb.console(&format!("inferior {VM1}"))?;
    ensure!(gdb.value("$vbar_el1")? == here + 0x800, "a lost write");
    gdb.console(&format!("set $vbar_el1 = {here:#x}"))?;
    // One goes; the endpoint of its own is free again.
    gdb.console("detach")?;
    gdb.console(&format!("inferior {HYP}"))?;
    gdb.console("detach")?;
    let mut own = world.machine.gdb(1)?;
    own.detach()?;
    gdb.console(&format!("inferior {VM2}"))?;
    gdb.console("detach")?;
    world.guests_go_on("inferiors that came and went")
}

/// A stop of one is a stop of all, and each is shown where it really is: the guest's registers are at the end of the
/// hypervisor's backtrace.
pub fn a_stop_of_one_stops_all(world: &World) -> Result<()> {
    let mut console = world.machine.console(1)?;
    let mut tiny = Tiny::new(&mut console);
    tiny.settle()?;
    let mut gdb = attach_all(world)?;
    gdb.console(&format!("inferior {VM1}"))?;
    gdb.console("break fn_stp")?;
    tiny.send("callboth fn_stp 5")?;
    for _ in 0..10 {
        let stop = gdb.resume_until_stop(MOMENT)?;
        ensure!(stop.reason() == "breakpoint-hit", "{stop:?}");
        ensure!(stop.field("func").as_deref() == Some("fn_stp"), "{stop:?}");
        the_guest_ends_the_backtrace(&mut gdb)?;
    }
    gdb.console("delete")?;
    gdb.resume()?;
    let called = tiny.reply()?;
    ensure!(
        (called.number("count")?, called.number("bad")?) == (10, 0),
        "{}",
        called.text
    );
    gdb.interrupt()?;
    drop(gdb);
    drop(console);
    world.guests_go_on("stops of everything")
}

/// A breakpoint on the hypervisor's own code, in the middle of a guest's exit.
pub fn a_guest_is_shown_while_the_hypervisor_serves_it(world: &World) -> Result<()> {
    let mut console = world.machine.console(1)?;
    let mut tiny = Tiny::new(&mut console);
    tiny.settle()?;
    let mut gdb = attach_all(world)?;
    gdb.console("break psci::call")?;
    tiny.send("psci version")?;
    let stop = gdb.resume_until_stop(MOMENT)?;
    ensure!(stop.reason() == "breakpoint-hit", "{stop:?}");
    the_guest_ends_the_backtrace(&mut gdb)?;
    gdb.console("delete")?;
    gdb.resume()?;
    ensure!(tiny.reply()?.number("version")? >= 0x1_0001, "PSCI");
    gdb.interrupt()?;
    drop(gdb);
    drop(console);
    world.guests_go_on("a stop in its exit")
}

/// vm1's first vCPU lives on CPU 1: that CPU's backtrace ends where the vCPU stands.
fn the_guest_ends_the_backtrace(gdb: &mut Gdb) -> Result<()> {
    gdb.console(&format!("thread {VM1}.1"))?;
    let (pc, sp, x5) = (gdb.value("$pc")?, gdb.value("$sp")?, gdb.value("$x5")?);
    gdb.console(&format!("thread {HYP}.2"))?;
    let backtrace = gdb.console("backtrace")?;
    ensure!(backtrace.contains("handle_guest_exit"), "{backtrace}");
    // What GDB says of the vectors' frame, as the guest has called nobody.
    let vectors = backtrace
        .lines()
        .position(|line| line.contains("<signal handler called>"))
        .with_context(|| format!("no guest in\n{backtrace}"))?;
    gdb.console(&format!("frame {}", vectors + 1))?;
    let above = (gdb.value("$pc")?, gdb.value("$sp")?, gdb.value("$x5")?);
    ensure!(
        above == (pc, sp, x5),
        "the guest is at {pc:#x}, SP {sp:#x}, x5 {x5:#x}, not at {above:x?} as in\n{backtrace}"
    );
    Ok(())
}

/// VMs run on the hypervisor: with `hyp` attached, none goes on alone. Without, one does while the other stands.
pub fn a_vm_goes_on_alone_only_without_the_hypervisor(world: &World) -> Result<()> {
    let mut gdb = attach_all(world)?;
    gdb.console("set schedule-multiple off")?;
    gdb.console(&format!("inferior {VM1}"))?;
    gdb.resume()?;
    gdb.wait_warning("schedule-multiple on", MOMENT)?;
    gdb.wait_stop(MOMENT)?;
    gdb.console(&format!("inferior {HYP}"))?;
    gdb.console("detach")?;
    gdb.console(&format!("inferior {VM1}"))?;
    gdb.resume()?;
    {
        let mut first = world.machine.console(1)?;
        Tiny::new(&mut first).settle()?;
        let mut second = world.machine.console(2)?;
        second.send("version\n")?;
        ensure!(
            second.expect("ok tiny-guest", MOMENT / 10).is_err(),
            "vm2 runs"
        );
    }
    gdb.interrupt()?;
    drop(gdb);
    let mut second = world.machine.console(2)?;
    second.expect("ok tiny-guest", MOMENT)?;
    drop(second);
    world.guests_go_on("going on alone")
}

/// The endpoints of single spaces are refused what the whole machine's client debugs.
pub fn a_space_has_one_debugger(world: &World) -> Result<()> {
    let mut gdb = attach_all(world)?;
    let ports = world.machine.ports();
    is_refused(ports.hyp(), "hyp")?;
    gdb.console("detach")?;
    is_refused(ports.vm(1), "vm1")?;
    // Killed, not detached.
    drop(gdb);
    world.guests_go_on("a killed client of the whole machine")
}

fn is_refused(port: u16, name: &str) -> Result<()> {
    let mut other = Gdb::start()?;
    let refused = other.connect(port).err().context("two debuggers")?;
    let refused = format!("{refused:#}");
    ensure!(
        refused.contains(&format!("{name} is debugged through another endpoint")),
        "{refused}"
    );
    Ok(())
}
