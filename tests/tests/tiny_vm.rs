//! The tiny guest under the hypervisor: what it must reply, alone and beside probes, and what the
//! probes must count.

use anyhow::{Context, Result, ensure};
use e2e::tiny::{Kind, Subject, Tiny, World, addresses, truth};
use e2e::{Probe, Shell, case_list, suite};
use std::process::ExitCode;
use std::time::{Duration, Instant};

fn main() -> ExitCode {
    suite(
        World::boot,
        case_list![
            commands_without_a_debugger,
            every_subject_is_counted_exactly,
            every_instruction_of_a_function_is_counted,
            exclusive_sequences_refuse_probes_inside,
            every_return_of_every_subject_is_counted_exactly,
            recursion_returns_at_every_depth,
            tail_calls_return_behind_the_call,
            calls_that_never_return_are_missed,
            several_probes_share_a_site,
            commands_beside_probes_everywhere,
            probes_come_and_go_under_running_code,
            the_guest_reads_its_own_text,
            the_guest_debugs_what_is_probed,
            the_guest_patches_what_is_probed,
            nothing_is_left_behind,
        ],
    )
}

fn commands_without_a_debugger(world: &World) -> Result<()> {
    world.with(|tiny, _| truth::check(tiny))
}

/// How often interrupts may disturb an exclusive sequence during calls on one vCPU.
const INTERRUPTED: u64 = 5;

/// Whether a loop of the subject can go through its first instruction more than once a call.
fn retries(subject: &Subject) -> bool {
    matches!(subject.name.as_str(), "fn_ldxr" | "fn_ldxr_outer")
}

fn every_subject_is_counted_exactly(world: &World) -> Result<()> {
    world.with(|tiny, shell| {
        for subject in world.runnable() {
            let probe = shell.kprobe(subject.address, "count")?;
            count_calls(tiny, shell, subject, probe)
                .with_context(|| format!("a probe on {}", subject.name))?;
        }
        Ok(())
    })
}

/// Calls a subject in every way, and compares the hits of the probe on it, which goes.
fn count_calls(
    tiny: &mut Tiny<'_>,
    shell: &mut Shell,
    subject: &Subject,
    probe: Probe,
) -> Result<()> {
    let name = &subject.name;
    let mut before = 0;
    let mut check = |shell: &mut Shell, command: &str, calls: u64| {
        let hits = shell.hits(probe)?;
        let counted = hits - before;
        before = hits;
        // On one vCPU only an interrupt between the load and the store makes the loop go round again.
        let more = match (retries(subject), command.starts_with("callboth")) {
            (true, true) => u64::MAX,
            (true, false) => INTERRUPTED,
            (false, _) => 0,
        };
        let right = (calls..=calls.saturating_add(more)).contains(&counted);
        ensure!(right, "`{command}`: {counted} hits, not {calls}");
        Ok(())
    };
    for (place, calls) in [
        ("0", 1),
        ("0", 500),
        ("1", 501),
        ("0 high", 50),
        ("1 high", 7),
    ] {
        let command = format!("call {name} {calls} {place}");
        let fields = [
            ("count", subject.count(calls)),
            ("sum", subject.sum(calls)),
            ("bad", 0),
            ("shared", subject.shared(calls)),
        ];
        truth::expect(tiny, &command, &fields)?;
        check(shell, &command, calls)?;
    }
    let both = format!("callboth {name} 1000");
    let fields = [
        ("count", 2 * subject.count(1000)),
        ("sum", subject.sum(1000).wrapping_mul(2)),
        ("bad", 0),
        ("shared", subject.shared(2000)),
    ];
    truth::expect(tiny, &both, &fields)?;
    check(shell, &both, 2000)?;
    if subject.runs_unmapped() {
        let command = format!("mmuoff {name} 50");
        let fields = [("sum", subject.sum(50)), ("bad", 0)];
        truth::expect(tiny, &command, &fields)?;
        check(shell, &command, 50)?;
    }
    let last = shell.detach(probe)?;
    ensure!(last == before, "{last} hits at the end, {before} before");
    truth::expect(tiny, &format!("call {name} 3"), &[("bad", 0)])
}

/// The first twelve instructions of these functions, stack and all, execute once a call each.
fn every_instruction_of_a_function_is_counted(world: &World) -> Result<()> {
    const INSTRUCTIONS: u64 = 12;
    world.with(|tiny, shell| {
        for name in ["fn_stp", "fn_sub_sp", "fn_paciasp"] {
            let subject = world.subject(name)?;
            let offsets = (0..INSTRUCTIONS).map(|index| 4 * index);
            let probes: Result<Vec<Probe>> = offsets
                .map(|offset| shell.kprobe(subject.address + offset, "count"))
                .collect();
            let fields = [("bad", 0), ("count", 600)];
            truth::expect(tiny, &format!("callboth {name} 300"), &fields)?;
            for (index, probe) in probes?.into_iter().enumerate() {
                let hits = shell.detach(probe)?;
                ensure!(hits == 600, "instruction {index} of {name}: {hits} hits");
            }
        }
        Ok(())
    })
}

fn exclusive_sequences_refuse_probes_inside(world: &World) -> Result<()> {
    world.with(|_, shell| {
        let inside = world.subject("fn_ldxr_outer")?.address + 4;
        let said = shell.run(&format!("trace kprobe vm1:{inside:#x} count"))?;
        let reason = format!("{inside:#x} is between a load-exclusive and its store-exclusive");
        ensure!(said.contains(&reason), "{said}");
        // The CBNZ behind the STXR.
        let after = format!("use {:#x}", inside + 8);
        ensure!(said.contains(&after), "{said}");
        Ok(())
    })
}

/// Whether nothing but the place behind its call shows that the subject returns.
fn leaves_by_register(subject: &Subject) -> bool {
    subject.name == "fn_br"
}

fn every_return_of_every_subject_is_counted_exactly(world: &World) -> Result<()> {
    world.with(|tiny, shell| {
        for subject in world.runnable() {
            let name = &subject.name;
            let probe = shell.kretprobe(subject.address, "count")?;
            let unseen = if leaves_by_register(subject) {
                learn_return_site(tiny, shell, &format!("call {name} 1"))?;
                1
            } else {
                0
            };
            let mut calls = 0;
            for (command, more) in [
                (format!("call {name} 300"), 300),
                (format!("call {name} 301 1"), 301),
                (format!("call {name} 50 1 high"), 50),
                (format!("callboth {name} 1000"), 2000),
                (format!("callboth {name} 1000 high"), 2000),
            ] {
                truth::expect(tiny, &command, &[("bad", 0)])?;
                calls += more;
                let (hits, missed) = shell.hits_and_misses(probe)?;
                ensure!(hits == calls, "`{command}`: {hits} returns, not {calls}");
                // Every time round the loop begins at the entry.
                let right = missed == unseen || retries(subject);
                ensure!(right, "`{command}`: {missed} missed");
            }
            if subject.runs_unmapped() {
                truth::expect(tiny, &format!("mmuoff {name} 50"), &[("bad", 0)])?;
                let (hits, _) = shell.hits_and_misses(probe)?;
                ensure!(hits == calls + 50, "MMU off: {} returns", hits - calls);
            }
            shell.detach(probe)?;
        }
        Ok(())
    })
}

/// Lets the guest give a command that calls the only probed function from one place, and waits
/// until it is armed behind the call. The entry is the only site before.
fn learn_return_site(tiny: &mut Tiny<'_>, shell: &mut Shell, command: &str) -> Result<()> {
    const PATIENCE: Duration = Duration::from_secs(20);
    let [before, ..] = shell.memory()?;
    tiny.run(command)?;
    let deadline = Instant::now() + PATIENCE;
    while shell.memory()?[0] == before {
        ensure!(Instant::now() < deadline, "nothing armed after `{command}`");
    }
    Ok(())
}

fn recursion_returns_at_every_depth(world: &World) -> Result<()> {
    const DEPTH: u64 = 8;
    const CALLS: u64 = (2 << DEPTH) - 1;
    let [tree] = addresses(["tree"])?;
    world.with(|tiny, shell| {
        let entries = shell.kprobe(tree, "count")?;
        let returns = shell.kretprobe(tree, "count")?;
        let line = format!("trace kprobe vm1:{tree:#x} count --ret --maxactive 5");
        let few = Probe::attached(&shell.run(&line)?)?;
        let printing = shell.kretprobe(tree, "ret")?;
        let command = format!("leave tree {DEPTH} both");
        truth::expect(tiny, &command, &[("result", 2 * CALLS)])?;
        ensure!(shell.hits(entries)? == 2 * CALLS, "entries");
        let all = (2 * CALLS, 0);
        ensure!(shell.hits_and_misses(returns)? == all, "not {all:?}");
        let (hits, missed) = shell.hits_and_misses(few)?;
        ensure!(
            hits + missed == 2 * CALLS && missed > 0,
            "room for 5: {hits} returns, {missed} missed"
        );
        // The last return of all is one of the two outermost.
        let said = shell.run("trace stream -n 1")?;
        let result = format!("x0={CALLS:#x} after ");
        let duration = said.trim_end().split_once(&result);
        let duration = duration.and_then(|(_, rest)| rest.strip_suffix(" ns"));
        let duration: u64 = duration.with_context(|| said.clone())?.parse()?;
        ensure!(duration > CALLS, "{CALLS} calls in {duration} ns");
        for probe in [entries, returns, few, printing] {
            shell.detach(probe)?;
        }
        truth::expect(tiny, &command, &[("result", 2 * CALLS)])
    })
}

fn tail_calls_return_behind_the_call(world: &World) -> Result<()> {
    const CALLS: u64 = 500;
    let [relay, relay_end] = addresses(["relay", "relay_end"])?;
    world.with(|tiny, shell| {
        let relayed = shell.kretprobe(relay, "count")?;
        learn_return_site(tiny, shell, "leave relay 1")?;
        let end = shell.kretprobe(relay_end, "count")?;
        let sum = CALLS * (CALLS + 3);
        for (place, factor) in [("0", 1), ("1", 1), ("both", 2)] {
            let command = format!("leave relay {CALLS} {place}");
            truth::expect(tiny, &command, &[("result", factor * sum)])?;
        }
        for (probe, expected) in [(relayed, (4 * CALLS, 1)), (end, (4 * CALLS, 0))] {
            let counts = shell.hits_and_misses(probe)?;
            ensure!(counts == expected, "{counts:?}, not {expected:?}");
            shell.detach(probe)?;
        }
        Ok(())
    })
}

fn calls_that_never_return_are_missed(world: &World) -> Result<()> {
    const CALLS: u64 = 500;
    let [bolt] = addresses(["bolt"])?;
    world.with(|tiny, shell| {
        let probe = shell.kretprobe(bolt, "count")?;
        let command = format!("leave bolt {CALLS}");
        truth::expect(tiny, &command, &[("result", CALLS / 2)])?;
        // One more, which shows that the last has not returned.
        truth::expect(tiny, "leave bolt 1", &[("result", 1)])?;
        let counts = shell.hits_and_misses(probe)?;
        let expected = (CALLS / 2 + 1, CALLS / 2);
        ensure!(counts == expected, "{counts:?}, not {expected:?}");
        shell.detach(probe)?;
        Ok(())
    })
}

fn several_probes_share_a_site(world: &World) -> Result<()> {
    world.with(|tiny, shell| {
        let address = world.subject("fn_bl")?.address;
        let first = shell.kprobe(address, "count")?;
        truth::expect(tiny, "callboth fn_bl 10", &[("bad", 0)])?;
        let second = shell.kprobe(address, "count")?;
        truth::expect(tiny, "callboth fn_bl 100", &[("bad", 0)])?;
        let hits = shell.detach(first)?;
        ensure!(hits == 220, "{hits} hits of the first");
        truth::expect(tiny, "callboth fn_bl 1000", &[("bad", 0)])?;
        let hits = shell.detach(second)?;
        ensure!(hits == 2200, "{hits} hits of the second");
        Ok(())
    })
}

/// All the guest's commands with a probe on every subject. The guest's own counters say how often
/// each was called.
fn commands_beside_probes_everywhere(world: &World) -> Result<()> {
    world.with(|tiny, shell| {
        let mut probed = Vec::new();
        for subject in world.runnable() {
            let before = calls_so_far(tiny, subject)?;
            probed.push((subject, before, shell.kprobe(subject.address, "count")?));
        }
        truth::check(tiny)?;
        for (subject, before, probe) in probed {
            let hits = shell.detach(probe)?;
            let calls = calls_so_far(tiny, subject)? - before;
            let right = hits == calls || hits > calls && retries(subject);
            // `fn_ret` has no counter.
            ensure!(
                right || subject.kind == Kind::Bare && hits > 0,
                "{}: {hits} hits in {calls} calls",
                subject.name
            );
        }
        Ok(())
    })
}

fn calls_so_far(tiny: &mut Tiny<'_>, subject: &Subject) -> Result<u64> {
    let counts = tiny.run(&format!("counts {}", subject.name))?;
    Ok(counts.number("count0")? + counts.number("count1")?)
}

/// One CPU spins in a function and the other calls it, while a probe on it comes and goes.
fn probes_come_and_go_under_running_code(world: &World) -> Result<()> {
    const CALLS: u64 = 20_000;
    world.with(|tiny, shell| {
        for name in [
            "fn_stp",
            "fn_svc",
            "fn_paciasp",
            "fn_ldxr",
            "fn_msr",
            "fn_hvc",
            "fn_brk",
        ] {
            let subject = world.subject(name)?;
            tiny.run(&format!("spin {name}"))?;
            tiny.send(&format!("call {name} {CALLS}"))?;
            for _ in 0..5 {
                let probe = shell.kprobe(subject.address, "count")?;
                // The CPU that spins comes by in any case.
                while shell.hits(probe)? == 0 {}
                shell.detach(probe)?;
            }
            let called = tiny.reply()?;
            ensure!(called.number("bad")? == 0, "{name}: {}", called.text);
            ensure!(
                called.number("sum")? == subject.sum(CALLS),
                "{name}: {}",
                called.text
            );
            let spun = tiny.run("stop")?;
            ensure!(spun.number("bad")? == 0, "{name}: {}", spun.text);
            ensure!(
                spun.number("calls")? == spun.number("count")?,
                "{name}: {}",
                spun.text
            );
        }
        Ok(())
    })
}

/// Text as data is the original through every alias, before, beside and after probes.
fn the_guest_reads_its_own_text(world: &World) -> Result<()> {
    world.with(|tiny, shell| {
        let mut probed = Vec::new();
        let before = tiny.run("checksum")?.text;
        for subject in world.runnable() {
            let words = tiny.run(&format!("read {}", subject.name))?.text;
            let probe = shell.kprobe(subject.address, "count")?;
            probed.push((subject, words, probe));
        }
        for (subject, words, _) in &probed {
            for alias in ["", " high"] {
                let read = tiny.run(&format!("read {}{alias}", subject.name))?.text;
                ensure!(
                    read == *words,
                    "{}{alias}: {read}, not {words}",
                    subject.name
                );
            }
        }
        for alias in ["low", "high", "writable"] {
            let beside = tiny.run(&format!("checksum {alias}"))?.text;
            ensure!(beside == before, "{alias}: {beside}, not {before}");
        }
        for (_, _, probe) in probed {
            shell.detach(probe)?;
        }
        let after = tiny.run("checksum")?.text;
        ensure!(after == before, "{after}, not {before}");
        Ok(())
    })
}

/// The guest steps through instructions that carry probes, and has its hardware breakpoint where a
/// probe is.
fn the_guest_debugs_what_is_probed(world: &World) -> Result<()> {
    let [step_loop, target] = addresses(["step_loop", "hwbp_target"])?;
    world.with(|tiny, shell| {
        let [cbnz, add, branch] = [0, 4, 8].map(|offset| shell.kprobe(step_loop + offset, "count"));
        let (first, second) = (
            shell.kprobe(target, "count")?,
            shell.kprobe(target + 4, "count")?,
        );
        truth::own_debug(tiny)?;
        // `own_debug` steps 1 + 2 + 3 + 100 instructions on either CPU; the CBNZ that ends the loop
        // executes once more, unstepped.
        let rounds = 2 * (1..=4).count() as u64;
        let adds = 2 * [1, 2, 3, 100].map(e2e::tiny::step_adds).iter().sum::<u64>();
        let steps = 2 * (1 + 2 + 3 + 100);
        let hits = [
            shell.detach(cbnz?)?,
            shell.detach(add?)?,
            shell.detach(branch?)?,
        ];
        ensure!(hits[1] == adds, "ADD: {hits:?} hits, {adds} executed");
        let executed: u64 = hits.iter().sum();
        ensure!(executed >= steps + rounds, "{hits:?} hits in {steps} steps");
        let calls = 2 * (1 + 2 + 3 + 100);
        let hits = [shell.detach(first)?, shell.detach(second)?];
        ensure!(hits[1] == calls, "{hits:?} hits in {calls} calls");
        ensure!(hits[0] == calls, "{hits:?} hits in {calls} calls");
        Ok(())
    })
}

/// The site adopts what the guest writes there.
fn the_guest_patches_what_is_probed(world: &World) -> Result<()> {
    let [patched] = addresses(["fn_patch"])?;
    world.with(|tiny, shell| {
        let probe = shell.kprobe(patched, "count")?;
        truth::patching(tiny)?;
        // Four kinds on two CPUs, 50 times there and back; then two calls in each of five states.
        let calls = 4 * 2 * 50 * 2 + 5 * 2;
        let hits = shell.detach(probe)?;
        ensure!(hits == calls, "{hits} hits in {calls} calls");
        // A probe that comes while the patch is there, and stays when it goes.
        for (command, adds) in [
            ("patch-now b", 0),
            ("patch-now add", 0x11),
            ("patch-now brk", 0x21),
            ("patch-now bl", 0x101),
        ] {
            tiny.run(command)?;
            let probe = shell.kprobe(patched, "count")?;
            truth::expect(tiny, "patch-call 5", &[("result", 5 + adds)])?;
            tiny.run("patch-undo")?;
            truth::expect(tiny, "patch-call 5 1", &[("result", 6)])?;
            let hits = shell.detach(probe)?;
            ensure!(hits == 2, "{command}: {hits} hits");
        }
        Ok(())
    })
}

fn nothing_is_left_behind(world: &World) -> Result<()> {
    world.check_nothing_left()
}
