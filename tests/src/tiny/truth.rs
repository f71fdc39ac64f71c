//! What every command of the tiny guest must reply, bare or under the hypervisor, with or without
//! probes.

use super::{Kind, Subject, Tiny, step_adds, step_sum};
use anyhow::{Result, ensure};

/// Every command once and again, but `reset` and `off`. The guest has just booted, on two CPUs.
pub fn check(tiny: &mut Tiny<'_>) -> Result<()> {
    ensure!(tiny.run("version")?.number("early")? == 1, "early_entry");
    subjects(tiny)?;
    own_debug(tiny)?;
    patching(tiny)?;
    text_as_data(tiny)?;
    exclusives(tiny)?;
    under_ticks(tiny)?;
    interrupts(tiny)?;
    faults(tiny)?;
    spinning(tiny)?;
    power(tiny)?;
    refusals(tiny)
}

/// Runs `command`, and compares fields of its reply.
pub fn expect(tiny: &mut Tiny<'_>, command: &str, fields: &[(&str, u64)]) -> Result<()> {
    let reply = tiny.run(command)?;
    for &(name, wanted) in fields {
        let found = reply.number(name)?;
        ensure!(
            found == wanted,
            "`{command}`: {name}={found:#x}, not {wanted:#x}"
        );
    }
    Ok(())
}

/// Every subject, every way it can be called.
pub fn subjects(tiny: &mut Tiny<'_>) -> Result<()> {
    let subjects = tiny.subjects()?;
    ensure!(subjects.len() >= 40, "only {} subjects", subjects.len());
    let lse = tiny.run("version")?.number("lse")? == 1;
    for subject in &subjects {
        if subject.kind == Kind::Atomic && !lse {
            let refusal = tiny.refused(&format!("call {} 1", subject.name))?;
            ensure!(refusal.contains("FEAT_LSE"), "{refusal}");
        } else {
            calls(tiny, subject)?;
        }
    }
    Ok(())
}

/// A subject on either CPU, through the high alias, on both CPUs at once, and with the MMU off.
fn calls(tiny: &mut Tiny<'_>, subject: &Subject) -> Result<()> {
    let name = &subject.name;
    let truth = |calls: u64| {
        [
            ("calls", calls),
            ("count", subject.count(calls)),
            ("sum", subject.sum(calls)),
            ("bad", 0),
        ]
    };
    for (place, calls) in [
        ("0", 1),
        ("0", 1000),
        ("1", 1001),
        ("0 high", 100),
        ("1 high", 7),
    ] {
        let command = format!("call {name} {calls} {place}");
        expect(tiny, &command, &truth(calls))?;
    }
    expect(
        tiny,
        &format!("call {name} 9"),
        &[("shared", subject.shared(9))],
    )?;

    let both = format!("callboth {name} 2000");
    let twice = |value: u64| value.wrapping_mul(2);
    let each = subject.count(2000);
    let fields = [
        ("count", twice(each)),
        ("sum", twice(subject.sum(2000))),
        ("bad", 0),
        ("shared", subject.shared(4000)),
        ("count0", each),
        ("count1", each),
    ];
    expect(tiny, &both, &fields)?;
    expect(tiny, &format!("{both} high"), &fields)?;

    let unmapped = format!("mmuoff {name} 50");
    if subject.runs_unmapped() {
        expect(tiny, &unmapped, &truth(50))
    } else {
        tiny.refused(&unmapped).map(drop)
    }
}

/// The guest's own BRKs, steps, breakpoint and watchpoint.
pub fn own_debug(tiny: &mut Tiny<'_>) -> Result<()> {
    for cpu in 0..2 {
        for count in [1, 2, 3, 100] {
            let steps = [
                ("steps", count),
                ("sum", step_sum(count)),
                ("adds", step_adds(count)),
            ];
            let hits = [("hits", count), ("steps", count), ("result", count)];
            let twice = [("hits", 2 * count), ("steps", 2 * count), ("result", count)];
            expect(tiny, &format!("touch {count} {cpu}"), &[("result", count)])?;
            expect(tiny, &format!("brk {count} {cpu}"), &[("brks", count)])?;
            expect(tiny, &format!("step {count} {cpu}"), &steps)?;
            expect(tiny, &format!("hwbp {count} {cpu}"), &hits)?;
            expect(tiny, &format!("watch {count} w {cpu}"), &hits)?;
            expect(tiny, &format!("watch {count} r {cpu}"), &hits)?;
            expect(tiny, &format!("watch {count} rw {cpu}"), &twice)?;
        }
        expect(tiny, &format!("regs 10 {cpu}"), &[("changed", 0)])?;
        expect(tiny, &format!("stack 10 {cpu}"), &[("result", 0x122)])?;
    }
    Ok(())
}

/// Its patching of its own code.
pub fn patching(tiny: &mut Tiny<'_>) -> Result<()> {
    for kind in ["b", "add", "brk", "bl"] {
        for cpu in 0..2 {
            let command = format!("patch 50 {kind} {cpu}");
            expect(tiny, &command, &[("patches", 100), ("bad", 0)])?;
        }
    }
    let original = tiny.run("checksum")?.number("fnv")?;
    for (command, adds) in [
        ("patch-now", 0),
        ("patch-now add", 0x11),
        ("patch-now brk", 0x21),
        ("patch-now bl", 0x101),
        ("patch-undo", 1),
    ] {
        tiny.run(command)?;
        expect(tiny, "patch-call 5", &[("result", 5 + adds)])?;
        expect(tiny, "patch-call 5 1", &[("result", 5 + adds)])?;
        let same = tiny.run("checksum")?.number("fnv")? == original;
        ensure!(
            same == (command == "patch-undo"),
            "the text after {command}"
        );
    }
    Ok(())
}

/// The same bytes through every alias, and the words of known instructions.
pub fn text_as_data(tiny: &mut Tiny<'_>) -> Result<()> {
    let low = tiny.run("checksum low")?.text;
    for alias in ["high", "writable"] {
        let other = tiny.run(&format!("checksum {alias}"))?.text;
        ensure!(other == low, "{alias}: {other}, not {low}");
    }
    for (command, first) in [
        ("read fn_nop", "0xd503201f"),
        ("read fn_bti high", "0xd503245f"),
        ("read fn_stp", "0xa9bf7bfd"),
        ("read fn_paciasp", "0xd503233f"),
    ] {
        let words = tiny.run(command)?.text;
        ensure!(words.starts_with(first), "`{command}`: {words}");
    }
    Ok(())
}

/// Exclusive sequences, on both CPUs at once too.
pub fn exclusives(tiny: &mut Tiny<'_>) -> Result<()> {
    expect(tiny, "ldxr 1000", &[("added", 1000)])?;
    expect(tiny, "ldxr 20000 both", &[("added", 40000)])
}

/// What counts exactly counts the same while the timer interrupts both CPUs.
pub fn under_ticks(tiny: &mut Tiny<'_>) -> Result<()> {
    let before = tiny.run("timer start 1000")?;
    let slept = tiny.run("sleep 100")?;
    ensure!(
        slept.number("passed")? >= slept.number("asked")?,
        "slept too short: {}",
        slept.text
    );
    expect(
        tiny,
        "callboth fn_ldxr 20000",
        &[("count", 40000), ("shared", 40000), ("bad", 0)],
    )?;
    expect(tiny, "step 500", &[("steps", 500), ("sum", step_sum(500))])?;
    expect(
        tiny,
        "hwbp 100",
        &[("hits", 100), ("steps", 100), ("result", 100)],
    )?;
    expect(
        tiny,
        "watch 100",
        &[("hits", 100), ("steps", 100), ("result", 100)],
    )?;
    expect(tiny, "regs 100 1", &[("changed", 0)])?;
    let after = tiny.run("timer stop")?;
    let per_tick = before.number("frequency")? / 1000;
    let passed = (after.number("counter")? - before.number("counter")?) / per_tick;
    for ticks in ["ticks0", "ticks1"] {
        let counted = after.number(ticks)? - before.number(ticks)?;
        // A tick late at either end, and as many as a busy host delays the reply by.
        ensure!(
            (90..=passed + 1).contains(&counted),
            "{counted} {ticks} in {passed} ms"
        );
    }
    let still = tiny.run("timer")?;
    tiny.run("sleep 20")?;
    expect(tiny, "timer", &[("ticks0", still.number("ticks0")?)])
}

/// The console by interrupt.
pub fn interrupts(tiny: &mut Tiny<'_>) -> Result<()> {
    tiny.run("rx irq")?;
    for _ in 0..20 {
        expect(tiny, "cpus", &[("cpus", 2), ("present", 2)])?;
    }
    tiny.run("rx poll").map(drop)
}

/// External aborts, translation and permission faults.
pub fn faults(tiny: &mut Tiny<'_>) -> Result<()> {
    const DATA_ABORT: u64 = 0x25 << 26 | 1 << 25;
    const WRITE: u64 = 1 << 6;
    const EXTERNAL: u64 = 0x10;
    const TRANSLATION_0: u64 = 0x04;
    const PERMISSION_3: u64 = 0x0f;
    for (command, far, status) in [
        ("fault 0x0b000000", 0x0b00_0000, EXTERNAL),
        ("fault 0x0b000000 w", 0x0b00_0000, EXTERNAL | WRITE),
        ("fault 0x7fff00000000", 0x7fff_0000_0000, TRANSLATION_0),
        ("fault 0x40200000 w", 0x4020_0000, PERMISSION_3 | WRITE),
    ] {
        expect(tiny, command, &[("esr", DATA_ABORT | status), ("far", far)])?;
    }
    expect(tiny, "fault 0x40200000", &[("esr", 0), ("far", 0)])
}

/// A CPU that calls a subject while the other does something else.
pub fn spinning(tiny: &mut Tiny<'_>) -> Result<()> {
    tiny.run("spin fn_stp")?;
    ensure!(
        tiny.refused("call fn_stp 1 1")?.contains("spins"),
        "work for a CPU that spins"
    );
    expect(tiny, "call fn_stp 1000", &[("count", 1000), ("bad", 0)])?;
    expect(tiny, "step 100", &[("steps", 100), ("sum", step_sum(100))])?;
    let reply = tiny.run("stop")?;
    let (calls, count) = (reply.number("calls")?, reply.number("count")?);
    ensure!(calls > 0 && calls == count, "{}", reply.text);
    ensure!(reply.number("bad")? == 0, "{}", reply.text);
    tiny.refused("stop").map(drop)
}

/// CPU 1 off and on.
pub fn power(tiny: &mut Tiny<'_>) -> Result<()> {
    ensure!(
        tiny.run("psci version")?.number("version")? >= 1 << 16,
        "PSCI before 1.0"
    );
    for _ in 0..3 {
        expect(tiny, "psci info 1", &[("info", 0)])?;
        expect(tiny, "psci off 1", &[("cpus", 1)])?;
        expect(tiny, "psci info 1", &[("info", 1)])?;
        tiny.refused("callboth fn_nop 1")?;
        expect(tiny, "psci on 1", &[("cpus", 2)])?;
        expect(tiny, "callboth fn_nop 10", &[("count", 20), ("bad", 0)])?;
    }
    // ALREADY_ON.
    ensure!(
        tiny.refused("psci on 1")?.contains("-4"),
        "CPU 1 is on already"
    );
    Ok(())
}

fn refusals(tiny: &mut Tiny<'_>) -> Result<()> {
    for command in [
        "foo",
        "call",
        "call fn_zzz 1",
        "call fn_nop x",
        "call fn_nop 18446744073709551616",
        "call fn_nop 1 9",
        "step",
        "watch 1 x",
        "psci off 0",
        "psci on 7",
    ] {
        tiny.refused(command)?;
    }
    Ok(())
}
