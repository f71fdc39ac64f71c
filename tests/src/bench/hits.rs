//! How many hits of a breakpoint there are in a second that need no user: its condition is false, or it only collects. Here
//! that is done at EL2; at the stub of QEMU, GDB is asked at every hit.

use super::{Beside, Page, Unit, Wanted};
use crate::tiny::{Bare, Tiny, World};
use crate::{Gdb, Spec};
use anyhow::{Context, Result, ensure};
use std::time::Instant;

const CONDITION: &str = "condition.rate";
const TRACE: &str = "gdb-trace.rate";

/// In how many turns both are measured: short ones, of which a busy machine leaves some alone.
const TURNS: usize = 20;
/// Calls in a turn: what takes about as long on either side. One vCPU calls: with a processor each for GDB and for QEMU, the
/// reference has what it needs.
const CALLS_HERE: u64 = 50_000;
const CALLS_ELSEWHERE: u64 = 60;

/// Evaluations in a second of a condition that is never true.
pub fn condition_rates() -> Result<Beside> {
    rates(break_never, |gdb| {
        let said = gdb.console("monitor trace list --json")?;
        let wanted = format!("\"hits\":{}", CALLS_HERE * TURNS as u64);
        ensure!(said.contains(&wanted), "no {wanted} in {said}");
        let told = gdb.console("info breakpoints")?;
        ensure!(told.contains("(target evals)"), "{told}");
        gdb.console("delete").map(drop)
    })
}

/// Frames in a second with all general registers. QEMU's stub has no tracepoints: the reference is what comes nearest, a
/// breakpoint at which GDB fetches the registers and goes on.
fn trace_rates() -> Result<Beside> {
    let collect = |gdb: &mut Gdb| {
        gdb.console("set circular-trace-buffer on")?;
        gdb.console("trace *fn_nop")?;
        let number = gdb.value("$tpnum")?;
        gdb.mi(&format!("-break-commands {number} \"collect $regs\""))?;
        gdb.console("tstart").map(drop)
    };
    rates(collect, |gdb| {
        gdb.console("tstop")?;
        let status = gdb.mi("-trace-status")?;
        let wanted = format!("frames-created=\"{}\"", CALLS_HERE * TURNS as u64);
        ensure!(status.contains(&wanted), "no {wanted} in {status}");
        gdb.console("delete").map(drop)
    })
}

/// Measures hits of what `set` sets here, beside those of a condition that GDB evaluates. `check` looks at them all, and takes
/// them away.
fn rates(
    set: impl Fn(&mut Gdb) -> Result<()>,
    check: impl Fn(&mut Gdb) -> Result<()>,
) -> Result<Beside> {
    let world = World::boot_on(Spec::hypervisor())?;
    let mut bare = Bare::boot(Spec::hypervisor().model())?;
    let mut reference = bare.attach()?;
    break_never(&mut reference)?;
    let mut measured = None;
    world.with(|tiny, _| {
        let mut gdb = world.attach()?;
        set(&mut gdb)?;
        measured = Some(Beside::in_turns(
            TURNS,
            || rate(&mut gdb, tiny, CALLS_HERE),
            || rate(&mut reference, &mut bare.tiny(), CALLS_ELSEWHERE),
        )?);
        check(&mut gdb)?;
        gdb.detach()
    })?;
    measured.context("nothing was measured")
}

/// Sets the breakpoint whose condition is never true: the guest passes small numbers.
fn break_never(gdb: &mut Gdb) -> Result<()> {
    gdb.console("break *fn_nop if $x0 == 0x123456789abcdef")
        .map(drop)
}

/// Hits in a second while the guest makes so many calls.
fn rate(gdb: &mut Gdb, tiny: &mut Tiny<'_>, calls: u64) -> Result<f64> {
    gdb.resume()?;
    let begun = Instant::now();
    let reply = tiny.run(&format!("call fn_nop {calls}"))?;
    let took = begun.elapsed();
    ensure!(reply.number("count")? == calls, "calls: {}", reply.text);
    gdb.interrupt()?;
    Ok(calls as f64 / took.as_secs_f64())
}

/// Measures the rows that are wanted.
pub(super) fn measure(
    wanted: &Wanted<'_>,
    page: &mut Page,
    say: &mut dyn FnMut(&str),
) -> Result<()> {
    if wanted.has(CONDITION) {
        say(CONDITION);
        condition_rates()?.add_to(page, CONDITION, Unit::PerSecond);
    }
    if wanted.has(TRACE) {
        say(TRACE);
        trace_rates()?.add_to(page, TRACE, Unit::PerSecond);
    }
    Ok(())
}
