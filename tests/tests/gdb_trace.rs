//! GDB tracepoints of a real GDB on the tiny guest, which knows how often its functions are called.

use anyhow::{Context, Result, ensure};
use e2e::tiny::{Tiny, World, truth};
use e2e::{Gdb, case_list, suite};
use std::process::ExitCode;

/// Calls of a function on each of the two vCPUs.
const CALLS: u64 = 50;
/// Frames with all registers that a buffer of 16 KiB holds at least.
const KEPT: u64 = 10;

fn main() -> ExitCode {
    suite(
        World::boot,
        case_list![
            both_vcpus_are_collected_exactly,
            registers_are_collected_true,
            every_step_is_collected,
            conditions_see_every_call,
            a_full_buffer_ends_the_run,
            a_pass_count_ends_the_run,
            a_run_outlives_its_client,
            nothing_is_left_behind,
        ],
    )
}

/// Runs a case with a GDB that has stopped the guest. Afterwards the guest must do what it always does.
fn traced(world: &World, case: impl FnOnce(&mut Gdb, &mut Tiny<'_>) -> Result<()>) -> Result<()> {
    world.with(|tiny, _| {
        let mut gdb = world.attach()?;
        case(&mut gdb, tiny)?;
        gdb.detach()?;
        truth::expect(tiny, "callboth fn_stp 10", &[("count", 20), ("bad", 0)])
    })
}

/// Defines a GDB tracepoint with such actions. Returns its number.
fn trace(gdb: &mut Gdb, place: &str, actions: &str) -> Result<u64> {
    gdb.console(&format!("trace {place}"))?;
    let number = gdb.value("$tpnum")?;
    let lines: Vec<String> = actions.lines().map(|line| format!("{line:?}")).collect();
    gdb.mi(&format!("-break-commands {number} {}", lines.join(" ")))?;
    Ok(number)
}

/// Starts a run, and lets the guest execute a command in it.
fn run(gdb: &mut Gdb, tiny: &mut Tiny<'_>, command: &str, truth: &[(&str, u64)]) -> Result<()> {
    gdb.console("tstart")?;
    tiny.send(command)?;
    gdb.resume()?;
    let reply = tiny.reply()?;
    for (name, wanted) in truth {
        ensure!(reply.number(name)? == *wanted, "`{command}`: {name}");
    }
    gdb.interrupt().map(drop)
}

/// Fields of `-trace-status`.
fn status(gdb: &mut Gdb, fields: &[&str]) -> Result<()> {
    let status = gdb.mi("-trace-status")?;
    for field in fields {
        ensure!(status.contains(field), "no {field} in {status}");
    }
    Ok(())
}

fn both_vcpus_are_collected_exactly(world: &World) -> Result<()> {
    traced(world, |gdb, tiny| {
        trace(gdb, "*fn_nop", "collect $regs")?;
        let truth = [("count", 2 * CALLS), ("bad", 0)];
        run(gdb, tiny, &format!("callboth fn_nop {CALLS}"), &truth)?;
        gdb.console("tstop")?;
        status(
            gdb,
            &["running=\"0\"", &format!("frames=\"{}\"", 2 * CALLS)],
        )?;
        let entry = gdb.value("(long)&fn_nop")?;
        let mut of_vcpu = [0; 2];
        let mut last = 0;
        for frame in 0..2 * CALLS {
            gdb.console(&format!("tfind {frame}"))?;
            ensure!(gdb.value("$pc")? == entry, "PC of frame {frame}");
            let vcpu = gdb.value("$trace_vcpu")?;
            *of_vcpu.get_mut(vcpu as usize).context("vCPU")? += 1;
            let time = gdb.value("$trace_timestamp")?;
            ensure!(time + 1000 >= last, "frame {frame}: {time} us after {last}");
            last = time;
        }
        ensure!(of_vcpu == [CALLS; 2], "{of_vcpu:?}");
        ensure!(gdb.console("tfind").is_err(), "there is no more");
        gdb.console("tfind none")?;
        gdb.console("delete tracepoints")?;
        Ok(())
    })
}

fn registers_are_collected_true(world: &World) -> Result<()> {
    let pattern = |byte: u64| byte * 0x0101_0101_0101_0101;
    traced(world, |gdb, tiny| {
        let word = gdb.value("(long)&watched_word")?;
        let actions = format!("collect $regs, *(long *){word:#x}");
        trace(gdb, "*fn_regs", &actions)?;
        run(gdb, tiny, "regs 1", &[("changed", 0)])?;
        gdb.console("tstop")?;
        gdb.console("tfind 0")?;
        for number in 0..29 {
            let value = gdb.value(&format!("$x{number}"))?;
            ensure!(value == pattern(number + 1), "x{number} is {value:#x}");
        }
        for number in 0..32 {
            let value = gdb.value(&format!("$v{number}.d.u[1]"))?;
            ensure!(value == pattern(number + 0x81), "v{number} is {value:#x}");
        }
        let (vectors, vbar) = (gdb.value("(long)&vectors")?, gdb.value("$vbar_el1")?);
        ensure!(vectors == vbar, "VBAR_EL1 is {vbar:#x}");
        ensure!(gdb.value("$sctlr_el1 & 0x100d")? == 0x100d, "SCTLR_EL1");
        ensure!(gdb.value("$sp")? == gdb.value("$sp_el1")?, "SP");
        gdb.value(&format!("*(long *){word:#x}"))?;
        let beside = format!("*(long *)({word:#x} + 64)");
        let other = gdb.value(&beside);
        ensure!(other.is_err(), "what was not collected: {other:?}");
        gdb.console("tfind none")?;
        gdb.value(&beside)?;
        gdb.console("delete tracepoints")?;
        Ok(())
    })
}

/// Frames follow each other as instructions do, whether these are simulated or stepped.
fn every_step_is_collected(world: &World) -> Result<()> {
    const STEPS: u64 = 3;
    traced(world, |gdb, tiny| {
        let actions = format!("while-stepping {STEPS}\ncollect $regs\nend");
        trace(gdb, "*fn_stp", &actions)?;
        let truth = [("count", 2 * CALLS), ("bad", 0)];
        run(gdb, tiny, &format!("callboth fn_stp {CALLS}"), &truth)?;
        gdb.console("tstop")?;
        let frames = (1 + STEPS) * 2 * CALLS;
        status(gdb, &[&format!("frames=\"{frames}\"")])?;
        let entry = gdb.value("(long)&fn_stp")?;
        // The frames of the two vCPUs mix; each vCPU's are in order.
        let mut next = [0; 2];
        for frame in 0..frames {
            gdb.console(&format!("tfind {frame}"))?;
            let vcpu = gdb.value("$trace_vcpu")? as usize;
            let step = next.get_mut(vcpu).context("vCPU")?;
            let pc = gdb.value("$pc")?;
            // What fn_stp goes on with is one function's text.
            ensure!(
                pc == entry + 4 * *step,
                "frame {frame}: {pc:#x} at step {step}"
            );
            *step = (*step + 1) % (1 + STEPS);
        }
        gdb.console("tfind none")?;
        gdb.console("delete tracepoints")?;
        Ok(())
    })
}

fn conditions_see_every_call(world: &World) -> Result<()> {
    traced(world, |gdb, tiny| {
        gdb.console("tvariable $seen = 0")?;
        let number = trace(gdb, "*fn_nop", "teval $seen = $seen + 1\ncollect $seen")?;
        trace(gdb, "*fn_nop if $seen % 10 == 0", "collect $seen")?;
        run(
            gdb,
            tiny,
            &format!("call fn_nop {CALLS} 0"),
            &[("count", CALLS), ("bad", 0)],
        )?;
        gdb.console("tstop")?;
        status(gdb, &[&format!("frames=\"{}\"", CALLS + CALLS / 10)])?;
        gdb.console(&format!("tfind tracepoint {}", number + 1))?;
        ensure!(
            gdb.value("$seen")? == 10,
            "the first that the condition lets through"
        );
        gdb.console("tfind none")?;
        gdb.console("delete tracepoints")?;
        Ok(())
    })
}

/// A number of the answer to `qTStatus`.
fn field(answer: &str, name: &str) -> Option<u64> {
    let (_, rest) = answer.split_once(&format!(";{name}:"))?;
    let digits = rest.split(|c: char| !c.is_ascii_hexdigit()).next()?;
    u64::from_str_radix(digits, 16).ok()
}

fn a_full_buffer_ends_the_run(world: &World) -> Result<()> {
    traced(world, |gdb, tiny| {
        trace(gdb, "*fn_nop", "collect $regs")?;
        gdb.console("set trace-buffer-size 16384")?;
        let (command, truth) = (format!("callboth fn_nop {CALLS}"), [("bad", 0)]);
        run(gdb, tiny, &command, &truth)?;
        status(gdb, &["running=\"0\"", "stop-reason=\"overflow\""])?;
        gdb.console("set circular-trace-buffer on")?;
        run(gdb, tiny, &command, &truth)?;
        status(gdb, &["running=\"1\"", "circular=\"1\""])?;
        // A vCPU that the host lets rest in the midst of its frame is in the way of the other's, round after round.
        let answer = gdb.console("maint packet qTStatus")?;
        let (created, lost) = (field(&answer, "tcreated"), field(&answer, "tlost"));
        let created = created.context("no tcreated")?;
        ensure!(created >= KEPT, "{created} frames: {answer}");
        ensure!(
            created + lost.unwrap_or(0) == 2 * CALLS,
            "{created} frames and {lost:?} lost of {}",
            2 * CALLS
        );
        gdb.console("tstop")?;
        gdb.console("tfind 0")?;
        gdb.console("tfind none")?;
        gdb.console("set circular-trace-buffer off")?;
        gdb.console("set trace-buffer-size -1")?;
        gdb.console("delete tracepoints")?;
        Ok(())
    })
}

fn a_pass_count_ends_the_run(world: &World) -> Result<()> {
    traced(world, |gdb, tiny| {
        let number = trace(gdb, "*fn_nop", "collect $pc")?;
        gdb.console(&format!("passcount 7 {number}"))?;
        run(
            gdb,
            tiny,
            &format!("callboth fn_nop {CALLS}"),
            &[("bad", 0)],
        )?;
        let stopper = format!("stopping-tracepoint=\"{number}\"");
        status(
            gdb,
            &[
                "running=\"0\"",
                "stop-reason=\"passcount\"",
                &stopper,
                "frames=\"7\"",
            ],
        )?;
        gdb.console("delete tracepoints")?;
        Ok(())
    })
}

fn a_run_outlives_its_client(world: &World) -> Result<()> {
    world.with(|tiny, _| {
        let mut gdb = world.attach()?;
        trace(&mut gdb, "*fn_nop", "collect $regs")?;
        gdb.console("set disconnected-tracing on")?;
        gdb.console("tstart")?;
        gdb.console("disconnect")?;
        drop(gdb);
        truth::expect(tiny, "callboth fn_nop 50", &[("count", 100), ("bad", 0)])?;
        let mut gdb = world.attach()?;
        status(&mut gdb, &["running=\"1\"", "frames=\"100\""])?;
        let list = gdb.console("info tracepoints")?;
        ensure!(
            list.contains("collect $regs") && list.contains("fn_nop"),
            "{list}"
        );
        gdb.console("tstop")?;
        gdb.console("tfind 99")?;
        gdb.console("tfind none")?;
        gdb.console("set disconnected-tracing off")?;
        gdb.console("delete tracepoints")?;
        gdb.detach()?;
        // A client that is killed takes its run with it.
        let mut gdb = world.attach()?;
        trace(&mut gdb, "*fn_nop", "collect $regs")?;
        gdb.console("tstart")?;
        tiny.send("call fn_nop 1000000 0")?;
        gdb.resume()?;
        drop(gdb);
        ensure!(tiny.reply()?.number("bad")? == 0, "calls");
        Ok(())
    })
}

fn nothing_is_left_behind(world: &World) -> Result<()> {
    world.check_nothing_left()
}
