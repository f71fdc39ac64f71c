//! Conditions and commands of GDB's breakpoints, evaluated at EL2 on the tiny guest, which counts what might be lost.

use anyhow::{Context, Result, ensure};
use e2e::tiny::{Kind, Subject, Tiny, World, truth};
use e2e::{Gdb, MOMENT, Probe, case_list, suite};
use std::process::ExitCode;

/// Calls of a function in most cases.
const CALLS: u64 = 200;
/// Calls on each vCPU where both call.
const MANY: u64 = 5000;
/// Mapped by nobody.
const UNMAPPED: u64 = 0x7fff_0000_0000;

fn main() -> ExitCode {
    suite(
        World::boot,
        case_list![
            false_conditions_change_nothing,
            both_vcpus_stop_where_it_is_true,
            several_conditions_at_one_address,
            dprintf_prints_while_the_guest_runs,
            what_cannot_be_evaluated_stops_and_says_so,
            conditions_see_the_vcpus_system_registers,
            watchpoints_are_passed_where_it_is_false,
            nothing_is_left_behind,
        ],
    )
}

/// Every condition was evaluated here and none by GDB, which says nothing where it cannot compile one.
fn check_evaluated_here(gdb: &mut Gdb) -> Result<()> {
    let told = gdb.console("info breakpoints")?;
    ensure!(!told.contains("(host evals)"), "{told}");
    Ok(())
}

/// Runs a case with a GDB that has the target evaluate, and has stopped the guest. Afterwards the guest must do what it
/// always does.
fn debug(world: &World, case: impl FnOnce(&mut Gdb, &mut Tiny<'_>) -> Result<()>) -> Result<()> {
    world.with(|tiny, _| {
        let mut gdb = world.attach()?;
        gdb.console("set breakpoint condition-evaluation target")?;
        gdb.console("set dprintf-style agent")?;
        case(&mut gdb, tiny)?;
        check_evaluated_here(&mut gdb)?;
        gdb.console("delete")?;
        gdb.detach()?;
        truth::expect(tiny, "callboth fn_stp 10", &[("count", 20), ("bad", 0)])
    })
}

/// Hits of the breakpoint at an address, as `trace list` has them.
fn hits(gdb: &mut Gdb, address: u64) -> Result<u64> {
    let list = gdb.console("monitor trace list")?;
    let site = format!("vm1:{address:#x}");
    let mut lines = list.lines().map(str::split_whitespace);
    let mut columns = lines
        .find(|columns| columns.clone().any(|word| word == site))
        .with_context(|| format!("no {site} in:\n{list}"))?;
    let hits = columns.nth_back(1).unwrap_or_default().replace(',', "");
    hits.parse().with_context(|| list.clone())
}

/// Functions whose first instructions are simulated in registers, simulated in memory, and stepped, one of them inside a
/// loop of exclusives: each way past a breakpoint.
fn false_conditions_change_nothing(world: &World) -> Result<()> {
    // GDB takes a BRK of the program where it has a breakpoint for its own.
    let subjects: Vec<&Subject> = world
        .runnable()
        .filter(|subject| subject.name != "fn_brk")
        .collect();
    debug(world, |gdb, tiny| {
        for subject in &subjects {
            gdb.console(&format!("break *{:#x} if $x0 == 0", subject.address))?;
        }
        gdb.resume()?;
        for subject in &subjects {
            let fields = [
                ("count", subject.count(CALLS)),
                ("sum", subject.sum(CALLS)),
                ("shared", subject.shared(CALLS)),
                ("bad", 0),
            ];
            for cpu in 0..2 {
                let command = format!("call {} {CALLS} {cpu}", subject.name);
                truth::expect(tiny, &command, &fields)?;
            }
        }
        gdb.interrupt()?;
        for subject in subjects {
            let found = hits(gdb, subject.address)?;
            // Some call others of them.
            ensure!(
                found >= 2 * CALLS && (subject.kind != Kind::Plain || found == 2 * CALLS),
                "{found} evaluations at {}",
                subject.name
            );
        }
        Ok(())
    })
}

/// Thousands of evaluations on both vCPUs, beside a probe at the same place: none is lost, and each vCPU stops where the
/// condition is true.
fn both_vcpus_stop_where_it_is_true(world: &World) -> Result<()> {
    let address = world.subject("fn_nop")?.address;
    debug(world, |gdb, tiny| {
        gdb.console(&format!("break *{address:#x} if $x0 == {}", MANY / 2))?;
        let said = gdb.console(&format!("monitor trace kprobe vm1:{address:#x} count"))?;
        let probe = Probe::attached(&said)?;
        tiny.send(&format!("callboth fn_nop {MANY}"))?;
        let mut threads = Vec::new();
        for _ in 0..2 {
            let stop = gdb.resume_until_stop(MOMENT)?;
            ensure!(stop.reason() == "breakpoint-hit", "{stop:?}");
            ensure!(gdb.value("$x0")? == MANY / 2, "{stop:?}");
            threads.extend(stop.field("thread-id"));
        }
        threads.sort();
        ensure!(threads == ["1", "2"], "{threads:?}");
        gdb.resume()?;
        let reply = tiny.reply()?;
        ensure!(
            reply.number("count")? == 2 * MANY && reply.number("bad")? == 0,
            "{}",
            reply.text
        );
        gdb.interrupt()?;
        let found = hits(gdb, address)?;
        ensure!(found == 2 * MANY, "{found} evaluations");
        let said = gdb.console(&format!("monitor trace unkprobe {}", probe.id()))?;
        ensure!(Probe::detached(&said)? == 2 * MANY, "{said}");
        Ok(())
    })
}

fn several_conditions_at_one_address(world: &World) -> Result<()> {
    let address = world.subject("fn_stp")?.address;
    debug(world, |gdb, tiny| {
        gdb.console(&format!("break *{address:#x} if $x0 == 70"))?;
        gdb.console(&format!("break *{address:#x} if $x0 == 30"))?;
        gdb.console(&format!("hbreak *{address:#x} if $x0 == 50"))?;
        tiny.send("call fn_stp 100")?;
        for wanted in [30, 50, 70] {
            gdb.resume_until_stop(MOMENT)?;
            let found = gdb.value("$x0")?;
            ensure!(found == wanted, "stopped at {found}, not {wanted}");
        }
        gdb.resume()?;
        let reply = tiny.reply()?;
        ensure!(reply.number("count")? == 100, "{}", reply.text);
        gdb.interrupt().map(drop)
    })
}

fn dprintf_prints_while_the_guest_runs(world: &World) -> Result<()> {
    let [stp, nop] = [
        world.subject("fn_stp")?.address,
        world.subject("fn_nop")?.address,
    ];
    debug(world, |gdb, tiny| {
        gdb.console(&format!(
            "dprintf *{stp:#x},\"stp %d of %#lx\\n\", $x0, $pc"
        ))?;
        gdb.console(&format!("dprintf *{nop:#x},\"nop %ld\\n\", $x0 * 2"))?;
        gdb.console("condition $bpnum $x0 % 50 == 0")?;
        gdb.resume()?;
        truth::expect(tiny, "callboth fn_stp 100", &[("count", 200), ("bad", 0)])?;
        truth::expect(tiny, "call fn_nop 100", &[("count", 100), ("bad", 0)])?;
        let said = gdb.wait_target_output("nop 200\n", MOMENT)?;
        for call in 1..=100 {
            let line = format!("stp {call} of {stp:#x}\n");
            let found = said.matches(&line).count();
            ensure!(found == 2, "{found} times `{line}` in:\n{said}");
        }
        ensure!(said.matches("nop ").count() == 2, "{said}");
        ensure!(!said.contains("lost"), "{said}");
        gdb.interrupt().map(drop)
    })
}

fn what_cannot_be_evaluated_stops_and_says_so(world: &World) -> Result<()> {
    let address = world.subject("fn_nop")?.address;
    debug(world, |gdb, tiny| {
        gdb.console(&format!(
            "break *{address:#x} if $x0 == 7 && *(long *)({UNMAPPED:#x} + $x0) == 1"
        ))?;
        tiny.send("call fn_nop 20")?;
        gdb.resume_until_stop(MOMENT)?;
        ensure!(gdb.value("$x0")? == 7, "not at the seventh call");
        check_evaluated_here(gdb)?;
        gdb.wait_target_output("cannot read 8 bytes at 0x7fff00000007", MOMENT)?;
        gdb.console("delete")?;
        gdb.console(&format!(
            "dprintf *{address:#x},\"%s\\n\", ($x0 / 12) * {UNMAPPED:#x}"
        ))?;
        let stop = gdb.resume_until_stop(MOMENT)?;
        ensure!(gdb.value("$x0")? == 12, "{stop:?}");
        let said = gdb.wait_target_output("cannot read the string at 0x7fff00000000", MOMENT)?;
        ensure!(said.matches("(null)\n").count() == 4, "{said}");
        gdb.console("delete")?;
        gdb.resume()?;
        let reply = tiny.reply()?;
        ensure!(reply.number("count")? == 20, "{}", reply.text);
        gdb.interrupt().map(drop)
    })
}

fn conditions_see_the_vcpus_system_registers(world: &World) -> Result<()> {
    let address = world.subject("fn_nop")?.address;
    debug(world, |gdb, tiny| {
        let vectors = gdb.value("$vbar_el1")?;
        gdb.console(&format!(
            "break *{address:#x} if $vbar_el1 == {vectors:#x} && $x0 == 3"
        ))?;
        tiny.send("call fn_nop 5")?;
        gdb.resume_until_stop(MOMENT)?;
        ensure!(gdb.value("$x0")? == 3, "not at the third call");
        gdb.resume()?;
        tiny.reply()?;
        gdb.interrupt().map(drop)
    })
}

/// GDB itself evaluates conditions of watchpoints, after the access. The protocol's are evaluated before it. `touch`
/// stores and loads, `ldxr` loads and stores exclusively, where a trap between the two would make the store fail for ever.
fn watchpoints_are_passed_where_it_is_false(world: &World) -> Result<()> {
    // x29 == 1: never.
    const FALSE: &str = "X7,26001d22011327";
    debug(world, |gdb, tiny| {
        let touched = gdb.value("(long)&watched_word")?;
        gdb.console("break *fn_ldxr")?;
        tiny.send("ldxr 1")?;
        gdb.resume_until_stop(MOMENT)?;
        let shared = gdb.value("$x3")?;
        gdb.console("delete")?;
        gdb.resume()?;
        tiny.reply()?;
        gdb.interrupt()?;
        for address in [touched, shared] {
            let said = gdb.console(&format!("maint packet Z4,{address:x},8;{FALSE}"))?;
            ensure!(said.contains("\"OK\""), "{said}");
        }
        gdb.resume()?;
        truth::expect(tiny, "touch 100", &[("result", 100)])?;
        truth::expect(tiny, "ldxr 100 both", &[("added", 200)])?;
        gdb.interrupt()?;
        for address in [touched, shared] {
            gdb.console(&format!("maint packet z4,{address:x},8"))?;
        }
        Ok(())
    })
}

fn nothing_is_left_behind(world: &World) -> Result<()> {
    world.check_nothing_left()
}
