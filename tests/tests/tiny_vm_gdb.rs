//! Real GDB attached to the tiny guest, which counts what a debugger might lose.

use anyhow::{Context, Result, ensure};
use e2e::remote::{Remote, frame};
use e2e::tiny::{Kind, Subject, Tiny, World, time_stands_still, truth};
use e2e::{Gdb, MOMENT, Probe, Stop, case_list, link_example, suite};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

/// The guest's high alias of all memory.
const HIGH: u64 = 0xffff_0000_0000_0000;
/// The guest's writable alias of its image.
const WRITABLE: u64 = 0xffff_8000_0000_0000;

fn main() -> ExitCode {
    suite(
        World::boot,
        case_list![
            registers_read_true,
            registers_can_be_written,
            memory_is_seen_through_every_alias,
            code_written_by_gdb_executes,
            breakpoints_stop_through_an_alias,
            hardware_breakpoints_and_their_limit,
            watchpoints_show_old_and_new,
            watchpoints_run_out_with_an_error,
            a_watched_store_at_a_probe_counts_once,
            stepping_over_every_kind_of_entry,
            backtrace_finish_and_nexti,
            source_lines_are_stepped,
            threads_and_scheduler_locking,
            control_c_stops_what_runs,
            both_vcpus_hit_and_no_stop_is_lost,
            guest_time_stands_still,
            a_call_takes_no_longer_for_a_stop,
            actions_on_breakpoints,
            stop_probes_name_themselves,
            a_linked_program_counts,
            clients_come_and_go,
            a_step_ends_with_its_client,
            a_step_ends_when_all_go_on,
            interrupts_wait_for_steps_or_are_let_in,
            nothing_is_left_behind,
        ],
    )
}

/// Runs a case with a GDB that has stopped the guest, and the guest's console. Afterwards GDB
/// detaches, and the guest must do what it always does.
fn debug(world: &World, case: impl FnOnce(&mut Gdb, &mut Tiny<'_>) -> Result<()>) -> Result<()> {
    world.with(|tiny, _| {
        let mut gdb = world.attach()?;
        case(&mut gdb, tiny)?;
        gdb.detach()?;
        truth::expect(tiny, "callboth fn_stp 10", &[("count", 20), ("bad", 0)])
    })
}

/// Deletes all breakpoints, lets the guest run, and checks its reply to the command sent before.
fn finish_command(gdb: &mut Gdb, tiny: &mut Tiny<'_>, fields: &[(&str, u64)]) -> Result<()> {
    gdb.console("delete")?;
    gdb.resume()?;
    let reply = tiny.reply()?;
    for &(name, wanted) in fields {
        let found = reply.number(name)?;
        ensure!(found == wanted, "{name}={found:#x}, not {wanted:#x}");
    }
    gdb.interrupt().map(drop)
}

/// Sends a command, resumes, and waits for the stop that it makes.
fn run_into_stop(gdb: &mut Gdb, tiny: &mut Tiny<'_>, command: &str) -> Result<Stop> {
    tiny.send(command)?;
    gdb.resume_until_stop(MOMENT)
        .with_context(|| format!("`{command}` makes no stop"))
}

fn expect_stop(stop: &Stop, reason: &str, pc: u64) -> Result<()> {
    ensure!(
        stop.reason() == reason && stop.pc()? == pc,
        "not {reason} at {pc:#x}: {stop:?}"
    );
    Ok(())
}

fn pattern(byte: u64) -> u64 {
    byte * 0x0101_0101_0101_0101
}

fn registers_read_true(world: &World) -> Result<()> {
    debug(world, |gdb, tiny| {
        gdb.console("break *fn_regs")?;
        let stop = run_into_stop(gdb, tiny, "regs 1")?;
        expect_stop(&stop, "breakpoint-hit", gdb.value("(long)&fn_regs")?)?;
        for number in 0..29 {
            let value = gdb.value(&format!("$x{number}"))?;
            ensure!(value == pattern(number + 1), "x{number} is {value:#x}");
        }
        for number in 0..32 {
            for half in 0..2 {
                let value = gdb.value(&format!("$v{number}.d.u[{half}]"))?;
                let wanted = pattern(number + 0x81);
                ensure!(value == wanted, "v{number}.d.u[{half}] is {value:#x}");
            }
        }
        // The guest computes nothing with floating point: both are as after reset.
        ensure!(
            gdb.value("$fpsr")? == 0 && gdb.value("$fpcr")? == 0,
            "FPSR, FPCR"
        );
        let (pc, sp) = (gdb.value("$pc")?, gdb.value("$sp")?);
        ensure!(
            pc == stop.pc()? && sp.is_multiple_of(16),
            "pc {pc:#x}, sp {sp:#x}"
        );
        // EL1h.
        ensure!(gdb.value("$cpsr & 0xf")? == 5, "CPSR");

        // The MMU, caches and stack alignment checks are on (`mmu.rs` of the guest).
        ensure!(gdb.value("$sctlr_el1 & 0x100d")? == 0x100d, "SCTLR_EL1");
        let vectors = gdb.value("(long)&vectors")?;
        ensure!(gdb.value("$vbar_el1")? == vectors, "VBAR_EL1");
        for register in ["ttbr0_el1", "ttbr1_el1"] {
            let symbol = gdb.console(&format!("info symbol ${register}"))?;
            ensure!(symbol.contains("TABLES"), "{register}: {symbol}");
        }
        ensure!(gdb.value("$mair_el1")? == 0xff04, "MAIR_EL1");
        let system = gdb.console("info registers system")?;
        for register in [
            "sctlr_el1",
            "vbar_el1",
            "tcr_el1",
            "esr_el1",
            "far_el1",
            "tpidr_el1",
        ] {
            ensure!(system.contains(register), "no {register} in {system}");
        }
        finish_command(gdb, tiny, &[("changed", 0)])
    })
}

fn registers_can_be_written(world: &World) -> Result<()> {
    debug(world, |gdb, tiny| {
        for (command, number, value) in [
            ("set $x3 = 0xdead0003", 3, 0xdead_0003),
            ("set $x28 = -1", 28, u64::MAX),
            ("set $v0.d.u[0] = 0xbeef", 32, 0xbeef),
            ("set $v31.d.u[0] = 0x1234567890", 32 + 31, 0x12_3456_7890),
        ] {
            gdb.console("break *fn_regs")?;
            run_into_stop(gdb, tiny, "regs 1 1")?;
            gdb.console(command)?;
            let fields = [("changed", 1), ("last", number), ("value", value)];
            finish_command(gdb, tiny, &fields).context(command)?;
        }
        // System registers and the floating-point controls keep what is written until the guest
        // writes them.
        for (register, value) in [
            ("tpidr_el0", 0x1122_3344_5566_7788),
            ("contextidr_el1", 0x42),
            ("fpcr", 0x0100_0000),
            ("fpsr", 0x1f),
        ] {
            gdb.console("thread 1")?;
            let before = gdb.value(&format!("${register}"))?;
            gdb.console(&format!("set ${register} = {value:#x}"))?;
            gdb.resume()?;
            gdb.interrupt()?;
            gdb.console("thread 1")?;
            let found = gdb.value(&format!("${register}"))?;
            ensure!(found == value, "{register} is {found:#x}");
            gdb.console(&format!("set ${register} = {before:#x}"))?;
        }
        Ok(())
    })
}

fn memory_is_seen_through_every_alias(world: &World) -> Result<()> {
    debug(world, |gdb, _| {
        let word = gdb.value("(long)&watched_word")?;
        let value = 0x0123_4567_89ab_cdef;
        gdb.console(&format!("set {{long}}{:#x} = {value:#x}", word | WRITABLE))?;
        for alias in [0, HIGH, WRITABLE] {
            let found = gdb.value(&format!("{{long}}{:#x}", word | alias))?;
            ensure!(found == value, "through {alias:#x}: {found:#x}");
        }
        let said = gdb.console(&format!("monitor phys {word:#x} 8"))?;
        ensure!(said.contains("ef cd ab 89 67 45 23 01"), "{said}");
        gdb.console(&format!("set {{char}}{:#x} = 0x55", (word | HIGH) + 7))?;
        let found = gdb.value(&format!("{{long}}{word:#x}"))?;
        ensure!(found == 0x5523_4567_89ab_cdef, "{found:#x}");
        for (what, error) in [
            // Not mapped by the guest; the other half's hole; a device.
            ("{long}0x7fff00000000", "Cannot access memory"),
            ("{long}0x0000800000000000", "Cannot access memory"),
            ("{int}0x09000000", "Cannot access memory"),
        ] {
            let refused = gdb.value(what).expect_err(what).to_string();
            ensure!(refused.contains(error), "{what}: {refused}");
        }
        let said = gdb.console("monitor phys 0x1000")?;
        ensure!(
            said.contains("no memory at guest-physical 0x1000"),
            "{said}"
        );
        let said = gdb.console("monitor phys 0x09000000")?;
        ensure!(said.contains("is a device"), "{said}");
        Ok(())
    })
}

fn code_written_by_gdb_executes(world: &World) -> Result<()> {
    const ADD_16: u32 = 0x9100_4000;
    debug(world, |gdb, tiny| {
        let nop = gdb.value("{int}&fn_patch")?;
        let patched = gdb.value("(long)&fn_patch")?;
        let said = gdb.console(&format!("monitor trace kprobe vm1:{patched:#x} count"))?;
        let probe = Probe::attached(&said)?;
        // Text is read-only to the guest, not to a debugger.
        gdb.console(&format!("set {{int}}&fn_patch = {ADD_16:#x}"))?;
        tiny.send("patch-call 5")?;
        finish_command(gdb, tiny, &[("result", 5 + 0x11)])?;
        gdb.console(&format!("set {{int}}&fn_patch = {nop:#x}"))?;
        tiny.send("patch-call 5 1")?;
        finish_command(gdb, tiny, &[("result", 6)])?;
        let said = gdb.console(&format!("monitor trace unkprobe {}", probe.id()))?;
        ensure!(said.contains("2 hits"), "{said}");
        Ok(())
    })
}

/// A breakpoint belongs to a page, however it is mapped; the PC tells which mapping was executed.
fn breakpoints_stop_through_an_alias(world: &World) -> Result<()> {
    debug(world, |gdb, tiny| {
        let low = world.subject("fn_bl")?.address;
        let high = low | HIGH;
        gdb.console(&format!("break *{high:#x}"))?;
        for calls in 1..=2 {
            let stop = if calls == 1 {
                run_into_stop(gdb, tiny, "call fn_bl 2 1 high")?
            } else {
                gdb.resume_until_stop(MOMENT)?
            };
            expect_stop(&stop, "breakpoint-hit", high)?;
            ensure!(gdb.value("$x0")? == calls, "argument of call {calls}");
        }
        let fields = [
            ("count", 2),
            ("bad", 0),
            ("sum", world.subject("fn_bl")?.sum(2)),
        ];
        finish_command(gdb, tiny, &fields)?;
        // Through the other alias the guest goes on.
        gdb.console(&format!("break *{high:#x}"))?;
        tiny.send("call fn_bl 3")?;
        gdb.resume()?;
        let reply = tiny.reply()?;
        ensure!(reply.number("bad")? == 0, "{}", reply.text);
        gdb.interrupt().map(drop)
    })
}

fn hardware_breakpoints_and_their_limit(world: &World) -> Result<()> {
    debug(world, |gdb, tiny| {
        for name in ["fn_stp", "fn_svc", "fn_ldxr"] {
            let subject = world.subject(name)?;
            gdb.console(&format!("hbreak *{:#x}", subject.address))?;
            let stop = run_into_stop(gdb, tiny, &format!("call {} 2 1", subject.name))?;
            expect_stop(&stop, "breakpoint-hit", subject.address)?;
            let stop = gdb.resume_until_stop(MOMENT)?;
            expect_stop(&stop, "breakpoint-hit", subject.address)?;
            finish_command(gdb, tiny, &[("bad", 0), ("sum", subject.sum(2))])?;
        }
        // A cortex-a72 has six.
        for subject in &world.subjects()[..7] {
            gdb.console(&format!("hbreak *{:#x}", subject.address))?;
        }
        gdb.mi("-exec-continue")?;
        gdb.wait_warning("too many hardware breakpoints", MOMENT)?;
        gdb.console("delete").map(drop)
    })
}

fn watchpoints_show_old_and_new(world: &World) -> Result<()> {
    debug(world, |gdb, tiny| {
        gdb.console("set {long}&watched_word = 0")?;
        gdb.console("watch *(long*)&watched_word")?;
        let stop = run_into_stop(gdb, tiny, "touch 2 1")?;
        ensure!(stop.reason() == "watchpoint-trigger", "{stop:?}");
        let values = (stop.field("old"), stop.field("new"));
        ensure!(values == (Some("0".into()), Some("1".into())), "{stop:?}");
        let stop = gdb.resume_until_stop(MOMENT)?;
        let values = (stop.field("old"), stop.field("new"));
        ensure!(values == (Some("1".into()), Some("2".into())), "{stop:?}");
        finish_command(gdb, tiny, &[("result", 2)])?;

        gdb.console("rwatch *(long*)&watched_word")?;
        let stop = run_into_stop(gdb, tiny, "touch 1")?;
        ensure!(stop.reason() == "read-watchpoint-trigger", "{stop:?}");
        ensure!(stop.field("value") == Some("1".into()), "{stop:?}");
        finish_command(gdb, tiny, &[("result", 1)])?;

        gdb.console("awatch *(long*)&watched_word")?;
        let mut stop = run_into_stop(gdb, tiny, "touch 2")?;
        for access in 1..=4 {
            ensure!(
                stop.reason() == "access-watchpoint-trigger",
                "access {access}: {stop:?}"
            );
            if access < 4 {
                stop = gdb.resume_until_stop(MOMENT)?;
            }
        }
        finish_command(gdb, tiny, &[("result", 2)])
    })
}

fn watchpoints_run_out_with_an_error(world: &World) -> Result<()> {
    debug(world, |gdb, _| {
        let scratch = gdb.value("(long)&watched_word")?;
        // A cortex-a72 has four.
        for index in 0..5 {
            gdb.console(&format!("watch *(long*){:#x}", scratch + 8 * index))?;
        }
        gdb.mi("-exec-continue")?;
        gdb.wait_warning("Could not insert hardware watchpoint", MOMENT)?;
        gdb.console("delete").map(drop)
    })
}

/// The store of `fn_str` is what its probe displaces, and is watched: it is stepped, and the
/// watchpoint ends that step before the store. The probe counts the call once all the same.
fn a_watched_store_at_a_probe_counts_once(world: &World) -> Result<()> {
    debug(world, |gdb, tiny| {
        let subject = world.subject("fn_str")?;
        gdb.console(&format!("break *{:#x}", subject.address))?;
        run_into_stop(gdb, tiny, "call fn_str 3 1")?;
        // `fn_str` stores its argument there first, and then zero.
        let stored = gdb.value("$x2 + 8")?;
        gdb.console("delete")?;
        let said = gdb.console(&format!(
            "monitor trace kprobe vm1:{:#x} count",
            subject.address
        ))?;
        let probe = Probe::attached(&said)?;
        gdb.console(&format!("watch *(long*){stored:#x}"))?;
        for (old, new) in [(0, 1), (1, 0), (0, 2), (2, 0), (0, 3), (3, 0)] {
            let stop = gdb.resume_until_stop(MOMENT)?;
            let found = (stop.field("old"), stop.field("new"));
            let wanted = (Some(format!("{old}")), Some(format!("{new}")));
            ensure!(found == wanted, "not {old} to {new}: {stop:?}");
        }
        finish_command(gdb, tiny, &[("bad", 0), ("sum", subject.sum(3))])?;
        let said = gdb.console(&format!("monitor trace unkprobe {}", probe.id()))?;
        // The first call was the breakpoint's: it stood there when the probe came.
        ensure!(said.contains(" 2 hits"), "{said}");
        Ok(())
    })
}

fn stepping_over_every_kind_of_entry(world: &World) -> Result<()> {
    debug(world, |gdb, tiny| {
        let vector = gdb.value("$vbar_el1 + 0x200")?;
        // GDB takes a BRK of the program where it has a breakpoint for its own, and skips it.
        let steppable =
            |subject: &&Subject| subject.kind != Kind::Atomic && subject.name != "fn_brk";
        for subject in world.subjects().iter().filter(steppable) {
            step_through(gdb, tiny, subject, vector)
                .with_context(|| format!("stepping {}", subject.name))?;
        }
        Ok(())
    })
}

/// Stops at a subject's entry, steps some instructions, and lets it finish.
fn step_through(gdb: &mut Gdb, tiny: &mut Tiny<'_>, subject: &Subject, vector: u64) -> Result<()> {
    gdb.console(&format!("break *{:#x}", subject.address))?;
    let stop = run_into_stop(gdb, tiny, &format!("call {} 1 1", subject.name))?;
    expect_stop(&stop, "breakpoint-hit", subject.address)?;
    let offset = first_step(&subject.name);
    for step in 0..3 {
        gdb.mi("-exec-step-instruction")?;
        let stop = gdb.wait_stop(MOMENT)?;
        ensure!(stop.reason() == "end-stepping-range", "{stop:?}");
        let pc = stop.pc()?;
        let right = match offset {
            _ if step > 0 => true,
            Entry::Next(offset) => pc == subject.address + offset,
            Entry::Vector => pc == vector,
            Entry::Return => pc == gdb.value("$x30")?,
        };
        ensure!(right, "the first step led to {pc:#x}, not to {offset:?}");
    }
    finish_command(gdb, tiny, &[("bad", 0), ("sum", subject.sum(1))])
}

/// Where the first instruction of a subject leads.
#[derive(Clone, Copy, Debug)]
enum Entry {
    /// So far from the entry.
    Next(u64),
    /// To the guest's vector for synchronous exceptions.
    Vector,
    /// Back to the caller.
    Return,
}

/// Where a call with the argument 1 goes by the first instruction. Z is clear, x1 is 1. `finish!` of
/// the guest is seven instructions.
fn first_step(name: &str) -> Entry {
    const FINISH: u64 = 7 * 4;
    match name {
        "fn_b" => Entry::Next(8 + FINISH),
        "fn_bl" => Entry::Next(8 + FINISH),
        "fn_cbnz" | "fn_tbnz" => Entry::Next(12 + FINISH),
        "fn_br" => Entry::Next(64),
        "fn_ret" => Entry::Return,
        "fn_svc" | "fn_ldr_fault" => Entry::Vector,
        // The sequence is one step: LDXR, ADD, STXR.
        "fn_ldxr" | "fn_ldxr_outer" => Entry::Next(12),
        _ => Entry::Next(4),
    }
}

fn backtrace_finish_and_nexti(world: &World) -> Result<()> {
    debug(world, |gdb, tiny| {
        gdb.console("break *chain_c")?;
        run_into_stop(gdb, tiny, "stack 1")?;
        let frames = gdb.console("backtrace 3")?;
        let at = |name: &str| frames.find(name).unwrap_or(usize::MAX);
        let ordered = at("chain_c") < at("chain_b") && at("chain_b") < at("chain_a");
        ensure!(ordered && at("chain_a") != usize::MAX, "{frames}");
        let call = gdb.value("(long)&chain_b + 12")?;
        gdb.mi("-exec-finish")?;
        let stop = gdb.wait_stop(MOMENT)?;
        ensure!(stop.pc()? == call + 4, "after finish: {stop:?}");
        ensure!(gdb.value("$x0")? == 0x111, "x0 after chain_c");
        finish_command(gdb, tiny, &[("result", 0x122)])?;

        gdb.console(&format!("break *{call:#x}"))?;
        run_into_stop(gdb, tiny, "stack 1 1")?;
        gdb.mi("-exec-next-instruction")?;
        expect_stop(&gdb.wait_stop(MOMENT)?, "end-stepping-range", call + 4)?;
        ensure!(gdb.value("$x0")? == 0x111, "x0 after the call");
        let outer = gdb.value("(long)&chain_a + 16")?;
        gdb.mi(&format!("-exec-until *{outer:#x}"))?;
        let stop = gdb.wait_stop(MOMENT)?;
        ensure!(stop.pc()? == outer, "after until: {stop:?}");
        ensure!(gdb.value("$x0")? == 0x121, "x0 in chain_a");
        finish_command(gdb, tiny, &[("result", 0x122)])
    })
}

/// `next` and `step` by lines: ranges that the server steps through by itself.
fn source_lines_are_stepped(world: &World) -> Result<()> {
    debug(world, |gdb, tiny| {
        gdb.console("break tiny_guest::routines::run_chain")?;
        let stop = run_into_stop(gdb, tiny, "stack 5 1")?;
        ensure!(stop.reason() == "breakpoint-hit", "{stop:?}");
        gdb.console("delete")?;
        for command in ["-exec-next", "-exec-next", "-exec-step"] {
            gdb.mi(command)?;
            let stop = gdb.wait_stop(MOMENT)?;
            ensure!(stop.reason() == "end-stepping-range", "{command}: {stop:?}");
            ensure!(stop.field("line").is_some(), "{command}: {stop:?}");
        }
        finish_command(gdb, tiny, &[("result", 0x122)])
    })
}

fn threads_and_scheduler_locking(world: &World) -> Result<()> {
    debug(world, |gdb, tiny| {
        let threads = gdb.console("info threads")?;
        for name in ["vm1/vcpu0", "vm1/vcpu1"] {
            ensure!(threads.contains(name), "no {name} in {threads}");
        }
        gdb.console("break *fn_mul")?;
        let stop = run_into_stop(gdb, tiny, "call fn_mul 2 1")?;
        ensure!(stop.field("thread-id") == Some("2".into()), "{stop:?}");
        gdb.console("delete")?;
        let pcs = |gdb: &mut Gdb| -> Result<[u64; 2]> {
            gdb.console("thread 1")?;
            let first = gdb.value("$pc")?;
            gdb.console("thread 2")?;
            Ok([first, gdb.value("$pc")?])
        };
        let [waiting, called] = pcs(gdb)?;
        for mode in ["on", "step"] {
            gdb.console(&format!("set scheduler-locking {mode}"))?;
            let before = pcs(gdb)?;
            gdb.mi("-exec-step-instruction")?;
            gdb.wait_stop(MOMENT)?;
            let after = pcs(gdb)?;
            ensure!(after == [before[0], before[1] + 4], "{mode}: {after:x?}");
        }
        ensure!(
            called + 8 == pcs(gdb)?[1] && waiting == pcs(gdb)?[0],
            "two steps"
        );
        // The other way round: vCPU 0, which waits for vCPU 1, runs alone and waits on.
        gdb.console("set scheduler-locking on")?;
        gdb.console("thread 1")?;
        gdb.mi("-exec-continue --thread 1")?;
        gdb.expect_running(Duration::from_millis(200))?;
        gdb.interrupt()?;
        ensure!(pcs(gdb)?[1] == called + 8, "vCPU 1 has moved");
        gdb.console("set scheduler-locking off")?;
        finish_command(gdb, tiny, &[("count", 2), ("bad", 0)])
    })
}

fn control_c_stops_what_runs(world: &World) -> Result<()> {
    debug(world, |gdb, tiny| {
        tiny.send("spin fn_stp")?;
        for _ in 0..5 {
            gdb.resume()?;
            gdb.expect_running(Duration::from_millis(50))?;
            let stop = gdb.interrupt()?;
            ensure!(
                stop.field("signal-name") == Some("SIGINT".into()),
                "{stop:?}"
            );
        }
        gdb.resume()?;
        tiny.reply()?;
        let spun = tiny.run("stop")?;
        ensure!(spun.number("bad")? == 0, "{}", spun.text);
        ensure!(
            spun.number("calls")? == spun.number("count")?,
            "{}",
            spun.text
        );
        gdb.interrupt().map(drop)
    })
}

fn both_vcpus_hit_and_no_stop_is_lost(world: &World) -> Result<()> {
    const CALLS: u64 = 15;
    debug(world, |gdb, tiny| {
        for name in ["fn_stp", "fn_svc"] {
            gdb.console(&format!("break *{:#x}", world.subject(name)?.address))?;
            tiny.send(&format!("callboth {name} {CALLS}"))?;
            let mut stops = [0; 2];
            for _ in 0..2 * CALLS {
                let stop = gdb.resume_until_stop(MOMENT)?;
                ensure!(stop.reason() == "breakpoint-hit", "{stop:?}");
                let thread = stop.field("thread-id").unwrap_or_default();
                stops[usize::from(thread == "2")] += 1;
            }
            ensure!(stops == [CALLS; 2], "{name}: {stops:?} stops");
            let list = gdb.console("monitor trace list")?;
            let row = list.lines().find(|line| line.contains("break"));
            let hits = row.and_then(|row| row.split_whitespace().rev().nth(1));
            ensure!(hits == Some(&(2 * CALLS).to_string()), "{list}");
            let fields = [("bad", 0), ("count0", CALLS), ("count1", CALLS)];
            finish_command(gdb, tiny, &fields)?;
        }
        Ok(())
    })
}

fn guest_time_stands_still(world: &World) -> Result<()> {
    debug(world, |gdb, tiny| time_stands_still(tiny, gdb))
}

/// A return probe measures a call that GDB has stopped in the middle.
fn a_call_takes_no_longer_for_a_stop(world: &World) -> Result<()> {
    const STOP: Duration = Duration::from_secs(2);
    debug(world, |gdb, tiny| {
        let function = gdb.value("(long)&chain_a")?;
        let said = gdb.console(&format!("monitor trace kprobe vm1:{function:#x} ret --ret"))?;
        let probe = Probe::attached(&said)?;
        gdb.console("break *chain_c")?;
        run_into_stop(gdb, tiny, "stack 1")?;
        thread::sleep(STOP);
        finish_command(gdb, tiny, &[("result", 0x122)])?;
        let said = gdb.console("monitor trace stream -n 1 --filter print")?;
        let duration = said.trim_end().split_once("x0=0x122 after ");
        let duration = duration.and_then(|(_, rest)| rest.strip_suffix(" ns"));
        let duration: u128 = duration.with_context(|| said.clone())?.parse()?;
        ensure!(
            duration < STOP.as_nanos(),
            "{duration} ns, {STOP:?} of them in the stop"
        );
        let said = gdb.console(&format!("monitor trace unkprobe {}", probe.id()))?;
        ensure!(said.contains(" 1 hits"), "{said}");
        Ok(())
    })
}

/// GDB takes its breakpoints out at every stop; what is on them stays.
fn actions_on_breakpoints(world: &World) -> Result<()> {
    debug(world, |gdb, tiny| {
        let address = world.subject("fn_sub_sp")?.address;
        gdb.console(&format!("break *{address:#x}"))?;
        let said = gdb.console(&format!("monitor trace attach {address:#x} count"))?;
        let action = Probe::attached(&said)?;
        let mut stop = run_into_stop(gdb, tiny, "callboth fn_sub_sp 3")?;
        for call in 1..=6 {
            expect_stop(&stop, "breakpoint-hit", address)?;
            let hits = action.hits_in(&gdb.console("monitor trace list")?)?;
            // The other vCPU may have come there as well.
            ensure!((call..=6).contains(&hits), "{hits} hits at stop {call}");
            if call < 6 {
                stop = gdb.resume_until_stop(MOMENT)?;
            }
        }
        gdb.resume()?;
        let reply = tiny.reply()?;
        ensure!(reply.number("bad")? == 0, "{}", reply.text);
        gdb.interrupt()?;
        let list = gdb.console("monitor trace list")?;
        ensure!(action.hits_in(&list)? == 6, "{list}");
        gdb.console(&format!("monitor trace unkprobe {}", action.id()))?;

        let said = gdb.console(&format!("monitor trace attach {address:#x} count --go"))?;
        let action = Probe::attached(&said)?;
        tiny.send("callboth fn_sub_sp 500")?;
        gdb.resume()?;
        let reply = tiny.reply()?;
        ensure!(reply.number("bad")? == 0, "{}", reply.text);
        gdb.interrupt()?;
        let list = gdb.console("monitor trace list")?;
        ensure!(action.hits_in(&list)? == 1000, "{list}");
        gdb.console(&format!("monitor trace unkprobe {}", action.id()))?;
        gdb.console("delete").map(drop)
    })
}

fn stop_probes_name_themselves(world: &World) -> Result<()> {
    debug(world, |gdb, tiny| {
        for name in ["fn_adr", "fn_svc", "fn_brk", "fn_hvc", "fn_ldxr"] {
            stop_by_probe(gdb, tiny, world.subject(name)?).with_context(|| name.to_owned())?;
        }
        Ok(())
    })
}

fn stop_by_probe(gdb: &mut Gdb, tiny: &mut Tiny<'_>, subject: &Subject) -> Result<()> {
    let address = subject.address;
    let said = gdb.console(&format!(
        "monitor trace kprobe vm1:{address:#x} args --stop"
    ))?;
    let probe = Probe::attached(&said)?;
    tiny.send(&format!("call {} 2 1", subject.name))?;
    for call in 1..=2 {
        gdb.wait_target_output("", MOMENT)?;
        let stop = gdb.resume_until_stop(MOMENT)?;
        ensure!(
            stop.field("signal-name") == Some("SIGTRAP".into()),
            "{stop:?}"
        );
        ensure!(stop.pc()? == address, "{stop:?}");
        let name = format!(
            "probe {}: kprobe vm1:{address:#x} stopped vcpu1",
            probe.id()
        );
        gdb.wait_target_output(&name, MOMENT)?;
        ensure!(gdb.value("$x19")? == call, "argument of call {call}");
    }
    let said = gdb.console(&format!("monitor trace unkprobe {}", probe.id()))?;
    ensure!(said.contains("2 hits"), "{said}");
    finish_command(gdb, tiny, &[("bad", 0), ("count", 2)])
}

/// What clang compiles and `periscope link` links counts in its map.
fn a_linked_program_counts(world: &World) -> Result<()> {
    let linked = link_example("calls", Path::new(env!("CARGO_TARGET_TMPDIR")))?;
    debug(world, |gdb, tiny| {
        let subject = world.subject("fn_cbz")?;
        gdb.console(&format!("remote put {} calls.lp", linked.display()))?;
        let said = gdb.console(&format!(
            "monitor trace kprobe vm1:{:#x} calls",
            subject.address
        ))?;
        let probe = Probe::attached(&said)?;
        tiny.send("callboth fn_cbz 40")?;
        finish_command(gdb, tiny, &[("bad", 0)])?;
        tiny.send("call fn_cbz 3 1")?;
        finish_command(gdb, tiny, &[("bad", 0)])?;
        let dump = gdb.console("monitor map dump calls counts")?;
        let rows = dump.lines().skip(1).filter(|line| !line.is_empty());
        let rows: Result<Vec<(u64, u64)>> = rows.map(key_and_value).collect();
        let mut rows = rows?;
        rows.sort_unstable();
        let wanted = (1..=40).map(|argument| (argument, if argument <= 3 { 3 } else { 2 }));
        ensure!(rows.iter().copied().eq(wanted), "{dump}");
        gdb.console(&format!("monitor trace unkprobe {}", probe.id()))?;
        gdb.console("monitor trace unload calls").map(drop)
    })
}

fn key_and_value(row: &str) -> Result<(u64, u64)> {
    let mut numbers = row.split_whitespace().map(str::parse);
    let (Some(key), Some(value), None) = (numbers.next(), numbers.next(), numbers.next()) else {
        anyhow::bail!("no key and value: `{row}`");
    };
    Ok((key?, value?))
}

/// Clients detach, kill, end, and break off in the middle of a packet: the guest goes on, and the
/// next one is served.
fn clients_come_and_go(world: &World) -> Result<()> {
    let mut console = world.machine().console(1)?;
    let mut tiny = Tiny::new(&mut console);
    tiny.settle()?;
    let port = world.machine().ports().vm(1);
    let goes_on = |tiny: &mut Tiny<'_>, after: &str| {
        truth::expect(tiny, "callboth fn_stp 10", &[("count", 20), ("bad", 0)])
            .with_context(|| format!("the guest after {after}"))
    };

    // At a breakpoint, with that set.
    for command in ["-target-detach", "kill"] {
        let mut gdb = world.attach()?;
        gdb.console("break *fn_stp")?;
        run_into_stop(&mut gdb, &mut tiny, "call fn_stp 5")?;
        gdb.mi(command)?;
        ensure!(tiny.reply()?.number("count")? == 5, "{command}");
        goes_on(&mut tiny, command)?;
    }
    // Killed itself, standing and running.
    let mut gdb = world.attach()?;
    gdb.console("break *fn_stp")?;
    run_into_stop(&mut gdb, &mut tiny, "call fn_stp 5")?;
    drop(gdb);
    ensure!(tiny.reply()?.number("count")? == 5, "a client that ended");
    let mut gdb = world.attach()?;
    gdb.resume()?;
    drop(gdb);
    goes_on(&mut tiny, "a client that ended")?;

    // In the middle of a packet, before and after its first.
    for bytes in [
        &b"$qSuppo"[..],
        b"$qSupported:xmlRegisters=i386#",
        b"+$?#3f$m40200000,10",
        b"$?#3f+$vCont;c#a8$Z0,402",
        b"\x03\x03garbage$$$##}}",
    ] {
        let mut client = TcpStream::connect(("127.0.0.1", port))?;
        client.write_all(bytes)?;
        client.set_read_timeout(Some(Duration::from_millis(100)))?;
        // What the server says to that, if anything, is of no interest.
        let _ = client.read(&mut [0; 512]);
        drop(client);
        let what = String::from_utf8_lossy(bytes).into_owned();
        goes_on(&mut tiny, &what)?;
        let mut gdb = world
            .attach()
            .with_context(|| format!("the client after {what}"))?;
        ensure!(gdb.value("$pc")? != 0, "the client after {what}");
        gdb.detach()?;
    }
    goes_on(&mut tiny, "all clients")
}

/// A range that the PC cannot leave: such a step has no end of its own.
const ENDLESS_STEP: &[u8] = b"vCont;r0,ffffffffffffffff:1";

/// What a client has begun does not outlive it.
fn a_step_ends_with_its_client(world: &World) -> Result<()> {
    with_interrupted_step(world, |mut client| {
        client.send(frame(ENDLESS_STEP))?;
        drop(client);
        Ok(())
    })
    .context("a client that goes in the middle of a step")?;
    with_interrupted_step(world, |client| {
        drop(client);
        Ok(())
    })
    .context("a client that goes after a step")
}

/// A step that something else has stopped is over: the client may let the vCPU go on freely.
fn a_step_ends_when_all_go_on(world: &World) -> Result<()> {
    with_interrupted_step(world, |mut client| {
        client.send(frame(b"vCont;c"))?;
        ensure!(client.is_silent(), "the guest stops by itself");
        client.send("\x03")?;
        let stop = client.packet()?;
        ensure!(stop.starts_with("T02"), "not stopped by Ctrl-C: {stop}");
        ensure!(client.ask("D")? == "OK", "detach");
        Ok(())
    })
}

/// Runs a case with a client that has interrupted a step without end. Afterwards the guest, which is told by interrupts
/// that there is something to do, does what it always does. A vCPU that is stepped takes none.
fn with_interrupted_step(world: &World, case: impl FnOnce(Remote) -> Result<()>) -> Result<()> {
    let mut console = world.machine().console(1)?;
    let mut tiny = Tiny::new(&mut console);
    tiny.settle()?;
    tiny.run("rx irq")?;
    let mut client = Remote::attach(world.machine().ports().vm(1))?;
    client.send(frame(ENDLESS_STEP))?;
    ensure!(client.is_silent(), "the step has an end");
    client.send("\x03")?;
    let stop = client.packet()?;
    ensure!(stop.starts_with("T02"), "not stopped by Ctrl-C: {stop}");
    case(client)?;
    truth::expect(
        &mut tiny,
        "callboth fn_stp 10",
        &[("count", 20), ("bad", 0)],
    )?;
    tiny.run("rx poll").map(drop)
}

/// A guest with a thousand ticks a second is stepped.
fn interrupts_wait_for_steps_or_are_let_in(world: &World) -> Result<()> {
    const STEPS: usize = 100;
    let mut console = world.machine().console(1)?;
    let mut tiny = Tiny::new(&mut console);
    tiny.settle()?;
    tiny.run("timer start 1000")?;
    let mut client = Remote::attach(world.machine().ports().vm(1))?;
    client.ask("?")?;
    // It may stand in the handler, which is longer than that.
    let mut leaves = 0..10 * STEPS;
    while leaves.next().is_some() && step_masked(&mut client)? {}
    for step in 0..STEPS {
        ensure!(
            !step_masked(&mut client)?,
            "step {step} is in a handler that should wait"
        );
    }
    client.monitor("step irqs on")?;
    let mut lets_in = 0..STEPS;
    while !step_masked(&mut client)? {
        ensure!(lets_in.next().is_some(), "no step has come to the handler");
    }
    client.monitor("step irqs off")?;
    ensure!(client.ask("D")? == "OK", "detach");
    tiny.run("timer stop").map(drop)
}

/// Steps vCPU 0 and says whether it then masks interrupts, as a handler does (`PSTATE.I`).
fn step_masked(client: &mut Remote) -> Result<bool> {
    let stop = client.ask("vCont;s:1")?;
    let cpsr = stop.split(";21:").nth(1).and_then(|rest| rest.get(..8));
    let cpsr = cpsr.and_then(|digits| u32::from_str_radix(digits, 16).ok());
    let cpsr = cpsr
        .with_context(|| format!("no cpsr in {stop}"))?
        .swap_bytes();
    Ok(cpsr & 1 << 7 != 0)
}

fn nothing_is_left_behind(world: &World) -> Result<()> {
    world.check_nothing_left()
}
