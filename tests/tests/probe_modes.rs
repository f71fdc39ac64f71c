//! Modes and options of probes, on a tiny guest that counts exactly on both vCPUs.

use anyhow::{Context, Result, bail, ensure};
use e2e::tiny::{Tiny, World, truth};
use e2e::{Probe, Shell, case_list, suite};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// How long the server may take to disarm a probe that is done.
const SOON: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    suite(
        World::boot,
        case_list![
            every_mode_counts_exactly,
            modes_share_an_address_and_a_page,
            hardware_breakpoints_run_out,
            the_guest_patches_a_page_that_is_not_executable,
            a_probe_takes_the_hits_of_one_vcpu,
            a_probe_ends_after_its_last_hit,
            probes_are_switched_while_both_vcpus_run,
            data_is_refused,
        ],
    )
}

/// Calls a subject on both vCPUs at once; the guest must find nothing odd.
fn call_both(tiny: &mut Tiny<'_>, name: &str, calls: u64) -> Result<()> {
    let fields = [("count", 2 * calls), ("bad", 0)];
    truth::expect(tiny, &format!("callboth {name} {calls}"), &fields)
}

fn expect_hits(shell: &mut Shell, probe: Probe, expected: u64, what: &str) -> Result<()> {
    let hits = shell.hits(probe)?;
    ensure!(hits == expected, "{what}: {hits} hits, not {expected}");
    Ok(())
}

/// The row of a probe in `trace list`.
fn row(shell: &mut Shell, probe: Probe) -> Result<String> {
    let list = shell.run("trace list")?;
    let id = probe.id().to_string();
    let mut rows = list.lines();
    let row = rows.find(|row| row.split_whitespace().next() == Some(&id));
    Ok(row.with_context(|| format!("no {id} in {list}"))?.into())
}

/// At entries of all kinds and behind them, two probes at each place.
fn every_mode_counts_exactly(world: &World) -> Result<()> {
    const CALLS: u64 = 100;
    world.with(|tiny, shell| {
        for mode in ["hvc", "xn", "hw"] {
            for name in [
                "fn_nop",
                "fn_stp",
                "fn_sub_sp",
                "fn_paciasp",
                "fn_svc",
                "fn_msr",
            ] {
                let entry = world.subject(name)?.address;
                let options = format!("--mode {mode}");
                let first = shell.kprobe(entry, &options)?;
                let second = shell.kprobe(entry, &format!("count {options}"))?;
                let behind = shell.kprobe(entry + 4, &options)?;
                let row = row(shell, first)?;
                ensure!(row.contains(&format!(" {mode} ")), "{row}");
                call_both(tiny, name, CALLS).with_context(|| format!("{mode} probes on {name}"))?;
                truth::expect(tiny, &format!("call {name} 3 1 high"), &[("bad", 0)])?;
                // A hardware breakpoint is one of an address, not of a word in memory.
                let high = if mode == "hw" { 0 } else { 3 };
                for (probe, what) in [(first, "entry"), (second, "entry"), (behind, "entry+4")] {
                    expect_hits(
                        shell,
                        probe,
                        2 * CALLS + high,
                        &format!("{mode} {name} {what}"),
                    )?;
                    shell.detach(probe)?;
                }
            }
        }
        Ok(())
    })
}

fn modes_share_an_address_and_a_page(world: &World) -> Result<()> {
    world.with(|tiny, shell| {
        let entry = world.subject("fn_stp")?.address;
        let other = world.subject("fn_sub_sp")?.address;
        let [hvc, xn, hw] =
            ["hvc", "xn", "hw"].map(|mode| shell.kprobe(entry, &format!("--mode {mode}")));
        let (hvc, xn, hw) = (hvc?, xn?, hw?);
        let beside = shell.kprobe(other, "count")?;
        call_both(tiny, "fn_stp", 50)?;
        call_both(tiny, "fn_sub_sp", 50)?;
        let before = tiny.run("checksum")?.text;
        shell.detach(xn)?;
        call_both(tiny, "fn_stp", 50)?;
        call_both(tiny, "fn_sub_sp", 50)?;
        for (probe, what) in [(hvc, "hvc"), (hw, "hw"), (beside, "beside")] {
            expect_hits(shell, probe, 200, what)?;
            shell.detach(probe)?;
        }
        let after = tiny.run("checksum")?.text;
        ensure!(before == after, "{after}, not {before}");
        Ok(())
    })
}

fn hardware_breakpoints_run_out(world: &World) -> Result<()> {
    world.with(|tiny, shell| {
        let entry = world.subject("fn_stp")?.address;
        let mut probes = Vec::new();
        let refusal = loop {
            let address = entry + 4 * probes.len() as u64;
            let said = shell.run(&format!("trace kprobe vm1:{address:#x} --mode hw"))?;
            match Probe::attached(&said) {
                Ok(probe) => probes.push(probe),
                Err(_) => break said,
            }
            // The architecture allows no more.
            ensure!(probes.len() <= 16, "more than 16 hardware breakpoints");
        };
        let reason = format!("all {} hardware registers", probes.len());
        ensure!(refusal.contains(&reason), "{refusal}");
        call_both(tiny, "fn_stp", 20)?;
        for probe in probes {
            expect_hits(shell, probe, 40, "one of many")?;
            shell.detach(probe)?;
        }
        Ok(())
    })
}

/// Stores to such a page do not trap; the next hit executes what is there then.
fn the_guest_patches_a_page_that_is_not_executable(world: &World) -> Result<()> {
    world.with(|tiny, shell| {
        let patched = tiny.run("patch-now add")?.number("address")?;
        tiny.run("patch-undo")?;
        let probe = shell.kprobe(patched, "count --mode xn")?;
        truth::expect(tiny, "patch 20 add 1", &[("patches", 40), ("bad", 0)])?;
        truth::expect(tiny, "patch 20 brk 1", &[("patches", 40), ("bad", 0)])?;
        expect_hits(shell, probe, 80, "patched and back")?;
        let beside = shell.kprobe(patched, "count")?;
        tiny.run("patch-now add")?;
        shell.detach(probe)?;
        // It has a shadow now, with what the guest has written meanwhile behind the probe.
        truth::expect(tiny, "patch-call 5", &[("result", 5 + 0x11)])?;
        tiny.run("patch-undo")?;
        truth::expect(tiny, "patch-call 5 1", &[("result", 6)])?;
        let hits = shell.detach(beside)?;
        ensure!(hits == 2, "{hits} hits beside");
        Ok(())
    })
}

fn a_probe_takes_the_hits_of_one_vcpu(world: &World) -> Result<()> {
    world.with(|tiny, shell| {
        let entry = world.subject("fn_stp")?.address;
        for mode in ["hvc", "xn", "hw"] {
            let first = shell.kprobe(entry, &format!("count --vcpu 0 --mode {mode}"))?;
            let second = shell.kprobe(entry, &format!("--vcpu 1 --mode {mode}"))?;
            call_both(tiny, "fn_stp", 100)?;
            truth::expect(tiny, "call fn_stp 7 1", &[("bad", 0)])?;
            expect_hits(shell, first, 100, mode)?;
            expect_hits(shell, second, 107, mode)?;
            shell.detach(first)?;
            shell.detach(second)?;
        }
        let said = shell.run(&format!("trace kprobe vm1:{entry:#x} --vcpu 2"))?;
        ensure!(
            said.contains("vm1/vcpu2 is off or does not exist"),
            "{said}"
        );
        Ok(())
    })
}

/// Both vCPUs run into the limit at once, and it is exact.
fn a_probe_ends_after_its_last_hit(world: &World) -> Result<()> {
    world.with(|tiny, shell| {
        let entry = world.subject("fn_stp")?.address;
        for (options, limit) in [
            ("--once", 1),
            ("count --count 150", 150),
            ("--count 37 --mode xn", 37),
            ("--count 9 --mode hw", 9),
        ] {
            let probe = shell.kprobe(entry, options)?;
            call_both(tiny, "fn_stp", 300)?;
            expect_hits(shell, probe, limit, options)?;
            wait_done(world, shell, probe)?;
            let said = shell.run(&format!("trace enable vm1:{}", probe.id()))?;
            ensure!(said.contains(" is on at "), "{said}");
            call_both(tiny, "fn_stp", 300)?;
            expect_hits(shell, probe, 2 * limit, options)?;
            shell.detach(probe)?;
        }
        Ok(())
    })
}

/// Waits until nothing is armed any more.
fn wait_done(world: &World, shell: &mut Shell, probe: Probe) -> Result<()> {
    let row = row(shell, probe)?;
    ensure!(row.contains(" done "), "{row}");
    let begin = Instant::now();
    while shell.memory()? != world.unprobed() {
        if begin.elapsed() > SOON {
            bail!("a probe that is done stays armed");
        }
    }
    Ok(())
}

/// One vCPU spins in a function, the other calls it, and a probe is switched off and on.
fn probes_are_switched_while_both_vcpus_run(world: &World) -> Result<()> {
    const CALLS: u64 = 20_000;
    world.with(|tiny, shell| {
        let entry = world.subject("fn_stp")?.address;
        let always = shell.kprobe(entry, "count")?;
        let probe = shell.kprobe(entry, "count")?;
        tiny.run("spin fn_stp")?;
        tiny.send(&format!("call fn_stp {CALLS}"))?;
        let id = probe.id();
        for _ in 0..10 {
            shell.run(&format!("trace disable vm1:{id}"))?;
            let off = shell.hits(probe)?;
            let running = shell.hits(always)?;
            // The vCPU that spins comes by in any case.
            while shell.hits(always)? == running {}
            expect_hits(shell, probe, off, "a probe that is off")?;
            shell.run(&format!("trace enable vm1:{id}"))?;
            while shell.hits(probe)? == off {}
        }
        let called = tiny.reply()?;
        let spun = tiny.run("stop")?;
        ensure!(called.number("bad")? == 0, "{}", called.text);
        ensure!(spun.number("bad")? == 0, "{}", spun.text);
        let all = CALLS + spun.number("calls")?;
        let hits = (shell.detach(always)?, shell.detach(probe)?);
        ensure!(hits.0 == all && hits.1 < all, "{hits:?} hits, {all} calls");
        Ok(())
    })
}

fn data_is_refused(world: &World) -> Result<()> {
    world.with(|tiny, shell| {
        let watched = tiny.run("touch 1")?.number("address")?;
        for mode in ["hvc", "xn", "hw"] {
            let said = shell.run(&format!("trace kprobe vm1:{watched:#x} --mode {mode}"))?;
            ensure!(said.contains(&format!("{watched:#x} is data")), "{said}");
        }
        Ok(())
    })
}
