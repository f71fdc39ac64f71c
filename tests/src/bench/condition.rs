//! How fast conditions of breakpoints are evaluated: here at EL2, and as a reference by GDB at the stub of QEMU itself.
//!
//! The reference is the same guest, GDB, QEMU and CPU model without a hypervisor under the guest, which is the best that
//! QEMU's stub can do: it has no cheaper way to a breakpoint, and the guest's own instructions have one stage of
//! translation less.

use super::{Page, Sample, Unit, Wanted};
use crate::tiny::{Bare, Tiny, World};
use crate::{Gdb, Spec};
use anyhow::{Context, Result, ensure};
use std::time::Instant;

const ID: &str = "condition.rate";

/// In how many turns both are measured: how fast the machine is may change meanwhile.
const TURNS: usize = 10;
/// Calls in a turn: what takes about as long on either side. One vCPU calls: with a processor each for GDB and for QEMU, the
/// reference has what it needs.
const CALLS_HERE: u64 = 150_000;
const CALLS_ELSEWHERE: u64 = 150;

/// How many evaluations there are in a second.
pub struct ConditionRates {
    /// At EL2.
    pub here: Sample,
    /// By GDB, at the emulator's stub.
    pub emulator: Sample,
}

/// Measures both in turns. The one that is not measured stands in its debugger, and takes no time.
pub fn condition_rates() -> Result<ConditionRates> {
    let world = World::boot_on(Spec::hypervisor())?;
    let cpu = Spec::hypervisor().model().to_owned();
    let mut bare = Bare::boot(&cpu)?;
    let mut reference = bare.attach()?;
    break_never(&mut reference)?;
    let mut here = Vec::new();
    let mut emulator = Vec::new();
    world.with(|tiny, _| {
        let mut gdb = world.attach()?;
        break_never(&mut gdb)?;
        for _ in 0..TURNS {
            here.push(rate(&mut gdb, tiny, CALLS_HERE)?);
            emulator.push(rate(&mut reference, &mut bare.tiny(), CALLS_ELSEWHERE)?);
        }
        check_evaluations(&mut gdb)?;
        gdb.console("delete")?;
        gdb.detach()
    })?;
    let sample = |rates| Sample::new(rates).context("nothing was measured");
    Ok(ConditionRates {
        here: sample(here)?,
        emulator: sample(emulator)?,
    })
}

/// Sets the breakpoint whose condition is never true: the guest passes small numbers.
fn break_never(gdb: &mut Gdb) -> Result<()> {
    gdb.console("break *fn_nop if $x0 == 0x123456789abcdef")
        .map(drop)
}

/// Evaluations in a second while the guest makes so many calls.
fn rate(gdb: &mut Gdb, tiny: &mut Tiny<'_>, calls: u64) -> Result<f64> {
    gdb.resume()?;
    let begun = Instant::now();
    let reply = tiny.run(&format!("call fn_nop {calls}"))?;
    let took = begun.elapsed();
    ensure!(reply.number("count")? == calls, "calls: {}", reply.text);
    gdb.interrupt()?;
    Ok(calls as f64 / took.as_secs_f64())
}

/// Every call was a hit of the breakpoint, and none was told to GDB.
fn check_evaluations(gdb: &mut Gdb) -> Result<()> {
    let said = gdb.console("monitor trace list --json")?;
    let wanted = format!("\"hits\":{}", CALLS_HERE * TURNS as u64);
    ensure!(said.contains(&wanted), "no {wanted} in {said}");
    let told = gdb.console("info breakpoints")?;
    ensure!(told.contains("(target evals)"), "{told}");
    Ok(())
}

/// Measures the row, if it is wanted.
pub(super) fn measure(
    wanted: &Wanted<'_>,
    page: &mut Page,
    say: &mut dyn FnMut(&str),
) -> Result<()> {
    if !wanted.has(ID) {
        return Ok(());
    }
    say(ID);
    let rates = condition_rates()?;
    let reference = rates.emulator.median();
    page.add(ID, Unit::PerSecond, &rates.here, Some(reference));
    Ok(())
}
