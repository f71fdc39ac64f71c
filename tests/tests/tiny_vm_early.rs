//! The tiny guest from before its first instruction: breakpoints on code that is not mapped yet,
//! and on code that runs with the MMU off.

use anyhow::{Result, ensure};
use e2e::tiny::{Tiny, truth};
use e2e::{Gdb, LONG, MOMENT, Probe, Spec, TestMachine, case_list, suite};
use std::process::ExitCode;
use xtask::build::Program;
use xtask::machine::Start;

/// Where the guest's image begins.
const ENTRY: u64 = 0x4020_0000;
/// The guest's high alias of all memory.
const HIGH: u64 = 0xffff_0000_0000_0000;

fn main() -> ExitCode {
    suite(
        || TestMachine::start(Spec::hypervisor().tiny_guest(2, Start::Halted)),
        case_list![
            breakpoints_from_the_first_instruction,
            code_stops_with_the_mmu_off,
            probes_survive_a_reset,
        ],
    )
}

/// A GDB that knows the guest's symbols and has stopped the guest.
fn attach(machine: &TestMachine) -> Result<Gdb> {
    let mut gdb = Gdb::with_symbols(&Program::TinyGuest.elf())?;
    gdb.connect(machine.ports().vm(1))?;
    Ok(gdb)
}

/// The guest waits for its debugger. Breakpoints in physical memory stop at once, those in an alias
/// that no table maps yet when it does.
fn breakpoints_from_the_first_instruction(machine: &TestMachine) -> Result<()> {
    let mut console = machine.console(1)?;
    let mut tiny = Tiny::new(&mut console);
    let mut gdb = attach(machine)?;
    ensure!(gdb.value("$pc")? == ENTRY, "the first instruction");
    ensure!(gdb.value("$sctlr_el1 & 1")? == 0, "the MMU is on");
    ensure!(gdb.value("$x0")? != 0, "no device tree");
    let early = gdb.value("(long)&early_entry")?;
    let aliased = gdb.value("(long)&fn_stp")? | HIGH;
    gdb.console("hbreak *early_entry")?;
    gdb.console(&format!("break *{aliased:#x}"))?;
    let conditional = gdb.value("(long)&fn_nop")? | HIGH;
    gdb.console(&format!("break *{conditional:#x} if $x0 == 4"))?;
    let stop = gdb.resume_until_stop(MOMENT)?;
    ensure!(
        stop.pc()? == early && stop.reason() == "breakpoint-hit",
        "{stop:?}"
    );
    ensure!(gdb.value("$sctlr_el1 & 1")? == 0, "the MMU is on");
    gdb.resume()?;
    ensure!(tiny.wait_ready()? == 2, "vCPUs");
    tiny.send("call fn_nop 5 1 high")?;
    let stop = gdb.wait_stop(MOMENT)?;
    ensure!(
        stop.pc()? == conditional && gdb.value("$x0")? == 4,
        "{stop:?}"
    );
    let told = gdb.console("info breakpoints")?;
    ensure!(told.contains("$x0 == 4 (target evals)"), "{told}");
    gdb.resume()?;
    ensure!(tiny.reply()?.number("bad")? == 0, "calls");
    tiny.send("call fn_stp 2 1 high")?;
    for _ in 0..2 {
        let stop = gdb.wait_stop(MOMENT)?;
        ensure!(
            stop.pc()? == aliased && stop.reason() == "breakpoint-hit",
            "{stop:?}"
        );
        gdb.resume()?;
    }
    ensure!(tiny.reply()?.number("count")? == 2, "calls");
    gdb.interrupt()?;
    gdb.detach()?;
    truth::expect(
        &mut tiny,
        "callboth fn_stp 10 high",
        &[("count", 20), ("bad", 0)],
    )
}

fn code_stops_with_the_mmu_off(machine: &TestMachine) -> Result<()> {
    let mut console = machine.console(1)?;
    let mut tiny = Tiny::new(&mut console);
    let mut gdb = attach(machine)?;
    for name in ["fn_stp", "fn_svc", "fn_msr"] {
        gdb.console(&format!("break *{name}"))?;
        let address = gdb.value(&format!("(long)&{name}"))?;
        tiny.send(&format!("mmuoff {name} 2"))?;
        for call in 1..=2 {
            let stop = gdb.resume_until_stop(MOMENT)?;
            ensure!(stop.pc()? == address, "call {call}: {stop:?}");
            ensure!(gdb.value("$sctlr_el1 & 1")? == 0, "the MMU is on");
            ensure!(gdb.value("$x19")? == call, "argument of call {call}");
        }
        gdb.console("delete")?;
        gdb.resume()?;
        ensure!(tiny.reply()?.number("bad")? == 0, "{name}");
        gdb.interrupt()?;
    }
    gdb.detach()
}

/// The guest resets itself under a debugger: probes count on, from the first pass through code that
/// has been loaded again.
fn probes_survive_a_reset(machine: &TestMachine) -> Result<()> {
    let mut console = machine.console(1)?;
    let mut tiny = Tiny::new(&mut console);
    let mut gdb = attach(machine)?;
    let early = gdb.value("(long)&early_entry")?;
    let said = gdb.console(&format!("monitor trace kprobe vm1:{early:#x} count"))?;
    let probe = Probe::attached(&said)?;
    gdb.resume()?;
    tiny.send("reset")?;
    ensure!(tiny.wait_ready()? == 2, "vCPUs after the reset");
    truth::expect(
        &mut tiny,
        "callboth fn_stp 10",
        &[("count", 20), ("bad", 0)],
    )?;
    gdb.interrupt()?;
    let list = gdb.console_within("monitor trace list", LONG)?;
    ensure!(probe.hits_in(&list)? == 1, "{list}");
    gdb.console(&format!("monitor trace unkprobe {}", probe.id()))?;
    gdb.detach()
}
