//! Probes on the hypervisor's own code, under a tiny guest that knows how often it calls.

use anyhow::{Context, Result, ensure};
use e2e::tiny::{World, truth};
use e2e::{Probe, case_list, suite};
use std::process::ExitCode;
use xtask::build::Program;

fn main() -> ExitCode {
    suite(
        World::boot,
        case_list![
            hypercalls_are_counted_exactly,
            every_instruction_of_a_function_is_counted,
            programs_see_the_arguments,
            returns_are_paired_with_their_entries,
            exits_survive_probes_on_their_way,
            hprobes_come_and_go_under_running_code,
            hits_inside_a_probe_are_missed,
            what_cannot_be_probed_is_refused,
            places_are_completed,
            short_names_are_enough,
            everything_that_can_be_probed_is_probed,
            no_hprobe_is_left_behind,
        ],
    )
}

/// `fn_hvc` makes one hypercall a call: on one vCPU, on the other, on both at once.
fn hypercalls_are_counted_exactly(world: &World) -> Result<()> {
    world.with(|tiny, shell| {
        let call = shell.hprobe("hyp:psci::call", "count")?;
        let exits = shell.hprobe("handle_guest_exit", "")?;
        let returns = shell.hretprobe("hyp:psci::call", "count")?;
        let mut calls = 0;
        for (command, more) in [
            ("call fn_hvc 1 0", 1),
            ("call fn_hvc 500 0", 500),
            ("call fn_hvc 501 1", 501),
            ("callboth fn_hvc 5000", 10_000),
        ] {
            truth::expect(tiny, command, &[("bad", 0)])?;
            calls += more;
            let hits = shell.own_hits(call)?;
            ensure!(hits == (calls, 0), "`{command}`: {hits:?}, not {calls}");
        }
        // Where it leaves by a tail call, the first call shows where that returns.
        let (seen, missed) = shell.own_hits(returns)?;
        ensure!(
            seen + missed == calls && missed < calls / 2,
            "{seen} returns and {missed} missed of {calls}"
        );
        shell.unhprobe(returns)?;
        let exits = shell.unhprobe(exits)?;
        ensure!(exits >= calls, "{exits} exits in {calls} hypercalls");
        let hits = shell.unhprobe(call)?;
        ensure!(hits == calls, "{hits} hits at the end, not {calls}");
        truth::expect(tiny, "callboth fn_hvc 100", &[("bad", 0)])
    })
}

/// The beginning of a function executes once a call, whatever its instructions are.
fn every_instruction_of_a_function_is_counted(world: &World) -> Result<()> {
    const INSTRUCTIONS: u64 = 6;
    world.with(|tiny, shell| {
        let offsets = (0..INSTRUCTIONS).map(|index| 4 * index);
        let probes: Vec<Probe> = offsets
            .map(|offset| shell.hprobe(&format!("hyp:psci::call+{offset}"), "count"))
            .collect::<Result<_>>()?;
        truth::expect(tiny, "callboth fn_hvc 300", &[("bad", 0)])?;
        for (index, probe) in probes.into_iter().enumerate() {
            let hits = shell.unhprobe(probe)?;
            ensure!(hits == 600, "instruction {index}: {hits} hits");
        }
        Ok(())
    })
}

/// `psci::call` gets the guest's registers in x1: the vCPU's frame on the stack of its CPU.
fn programs_see_the_arguments(world: &World) -> Result<()> {
    world.with(|tiny, shell| {
        let probe = shell.hprobe("psci::call", "args")?;
        truth::expect(tiny, "call fn_hvc 5 1", &[("bad", 0)])?;
        let hits = shell.unhprobe(probe)?;
        ensure!(hits == 5, "{hits} hits");
        let lines = shell.run("trace stream -n 10")?;
        let said: Vec<&str> = lines
            .lines()
            .filter(|line| line.contains(" print ") && line.contains("psci::call"))
            .collect();
        ensure!(said.len() == 5, "{} lines:\n{lines}", said.len());
        for line in said {
            let argument = |name: &str| {
                let words = line.split_whitespace();
                let value = words.filter_map(|word| word.strip_prefix(name)).next();
                let value = value.and_then(|text| text.strip_prefix("=0x"));
                let digits = value.with_context(|| format!("no {name} in `{line}`"))?;
                anyhow::Ok(u64::from_str_radix(digits.trim_end_matches(','), 16)?)
            };
            let (vcpu, frame) = (argument("x0")?, argument("x1")?);
            ensure!(vcpu % 8 == 0 && vcpu > 0x4000_0000, "`{line}`");
            ensure!(frame % 16 == 0 && frame > 0x4020_0000, "`{line}`");
        }
        Ok(())
    })
}

/// A probe at the entry of a function that both CPUs execute, and one at its returns, with the time between.
fn returns_are_paired_with_their_entries(world: &World) -> Result<()> {
    world.with(|tiny, shell| {
        let entries = shell.hprobe("psci::call", "count")?;
        let returns = shell.run("trace hretprobe psci::call ret")?;
        ensure!(returns.contains("hretprobe hyp:psci::call"), "{returns}");
        let returns = Probe::attached(&returns)?;
        let mut tries = 0;
        // Where the function leaves by a tail call, the first call shows where that returns.
        while shell.own_hits(returns)?.0 == 0 {
            ensure!(tries < 20, "no return in {tries} calls");
            tries += 1;
            truth::expect(tiny, "call fn_hvc 1 0", &[("bad", 0)])?;
        }
        let (first, unknown) = shell.own_hits(returns)?;
        truth::expect(tiny, "callboth fn_hvc 500", &[("bad", 0)])?;
        let both = [shell.own_hits(entries)?, shell.own_hits(returns)?];
        let all = 1000 + first;
        ensure!(
            both == [(all + unknown, 0), (all, unknown)],
            "entries, returns: {both:?} after {tries} calls"
        );
        let said = shell.run("trace stream -n 20 --filter print")?;
        let line = said.lines().rfind(|line| line.contains("psci::call"));
        let line = line.with_context(|| format!("no return in\n{said}"))?;
        let duration = line.rsplit(" after ").next();
        let duration = duration.and_then(|text| text.trim().strip_suffix(" ns"));
        let duration: u64 = duration.with_context(|| line.to_owned())?.parse()?;
        ensure!((1..1_000_000_000).contains(&duration), "{line}");
        shell.unhprobe(entries)?;
        let hits = shell.unhprobe(returns)?;
        ensure!(hits == all, "{hits} returns");
        Ok(())
    })
}

/// Aborts, system registers, debug exceptions and interrupts with probes on the functions that serve them: the guest
/// notices nothing.
fn exits_survive_probes_on_their_way(world: &World) -> Result<()> {
    const MOST_OF_THEM: usize = 7;
    world.with(|tiny, shell| {
        let places = [
            "handle_guest_exit",
            "exits::emulate",
            "step::advance",
            "step::begin",
            "step::finish_hit",
            "Vcpu::before_entry",
            "interrupts::serve",
            "interrupts::read_list_registers",
            "interrupts::write_list_registers",
            "Vgic::sync",
            "Vgic::flush",
        ];
        let mut probes = Vec::new();
        for place in places {
            match shell.hprobe(place, "count") {
                Ok(probe) => probes.push((place, probe)),
                // What is inlined changes with the compiler.
                Err(refusal) if refusal.to_string().contains("is inlined") => {}
                Err(refusal) => return Err(refusal),
            }
        }
        ensure!(probes.len() >= MOST_OF_THEM, "{} probes", probes.len());
        let stepped = world.subject("fn_msr")?.address;
        let guest_probe = shell.kprobe(stepped, "count")?;
        truth::check(tiny)?;
        truth::expect(tiny, "callboth fn_msr 200", &[("bad", 0)])?;
        ensure!(shell.detach(guest_probe)? >= 400, "hits in the guest");
        for (place, probe) in probes {
            let hits = shell.unhprobe(probe)?;
            ensure!(hits > 0, "{place} was not hit");
        }
        Ok(())
    })
}

/// Attached and detached while both vCPUs go through the function.
fn hprobes_come_and_go_under_running_code(world: &World) -> Result<()> {
    const CALLS: u64 = 60_000;
    world.with(|tiny, shell| {
        tiny.send(&format!("callboth fn_hvc {CALLS}"))?;
        for _ in 0..40 {
            let entry = shell.hprobe("psci::call", "count")?;
            let later = shell.hprobe("psci::call+8", "count")?;
            let (hits, others) = (shell.unhprobe(entry)?, shell.unhprobe(later)?);
            ensure!(hits <= 2 * CALLS && others <= 2 * CALLS, "{hits}, {others}");
        }
        let called = tiny.reply()?;
        ensure!(called.number("bad")? == 0, "{}", called.text);
        let sum = world.subject("fn_hvc")?.sum(CALLS).wrapping_mul(2);
        ensure!(called.number("sum")? == sum, "{}", called.text);
        Ok(())
    })
}

/// The displaced store of a guest's function goes through `Live::write`, which carries a probe itself.
fn hits_inside_a_probe_are_missed(world: &World) -> Result<()> {
    world.with(|tiny, shell| {
        let inner = shell.hprobe("Live::write", "count")?;
        let stores = shell.kprobe(world.subject("fn_stp")?.address, "count")?;
        truth::expect(tiny, "callboth fn_stp 300", &[("bad", 0)])?;
        ensure!(shell.detach(stores)? == 600, "hits in the guest");
        let hits = shell.own_hits(inner)?;
        ensure!(hits == (0, 600), "hits and missed: {hits:?}");
        shell.unhprobe(inner)?;
        Ok(())
    })
}

fn what_cannot_be_probed_is_refused(world: &World) -> Result<()> {
    world.with(|_, shell| {
        let mut refused = |place: &str, reason: &str| {
            let said = shell.run(&format!("trace hprobe {place} count"))?;
            ensure!(said.contains(reason), "`{place}`: {said}");
            anyhow::Ok(())
        };
        let serves = "serves probes itself and cannot be probed";
        refused("memcpy", serves)?;
        refused("handle_el2_exception", serves)?;
        refused("hyp:rendezvous::rest", serves)?;
        refused("0x10", serves)?;
        refused("psci::call+1", "no multiple of 4")?;
        refused("psci::cal", "Did you mean")?;
        refused("run", "can be several symbols of hyp")?;
        refused("vm1:psci::call", "use `trace kprobe` for vm1")?;
        let said = shell.run("trace unhprobe hyp:psci::call")?;
        ensure!(said.contains("hyp has no probe at psci::call"), "{said}");
        Ok(())
    })
}

/// What the shell's Tab key asks: functions by as many words as were typed, none that serves probes.
fn places_are_completed(world: &World) -> Result<()> {
    world.with(|_, shell| {
        let mut complete = |line: &str| shell.run(&format!("complete {line}"));
        let said = complete("trace hprobe psci::ca")?;
        ensure!(said.trim() == "psci::call", "{said}");
        let said = complete("trace hretprobe hyp:psci::ca")?;
        ensure!(said.trim() == "hyp:psci::call", "{said}");
        let said = complete("trace hprobe handle_guest")?;
        ensure!(said.trim() == "handle_guest_exit", "{said}");
        let said = complete("trace hprobe hypervisor::vcpu::Vcpu::before")?;
        ensure!(
            said.trim() == "hypervisor::vcpu::Vcpu::before_entry",
            "{said}"
        );
        for nothing in ["rendezvous::re", "memcp", "psci::nothing"] {
            let said = complete(&format!("trace hprobe {nothing}"))?;
            ensure!(said.trim().is_empty(), "{nothing}: {said}");
        }
        let said = complete("trace hprobe psci::call co")?;
        ensure!(said.contains("count"), "{said}");
        Ok(())
    })
}

/// A method of a trait of a generic type, and a generic function: neither arguments nor trait need be typed.
fn short_names_are_enough(world: &World) -> Result<()> {
    world.with(|_, shell| {
        let said = shell.run("ksym lookup Pl011::take_event")?;
        ensure!(
            said.contains("<devices::uart::Pl011<") && said.contains(">::take_event"),
            "{said}"
        );
        let said = shell.run("ksym lookup interrupts::update")?;
        ensure!(said.contains("hypervisor::interrupts::update::<"), "{said}");
        Ok(())
    })
}

/// A probe on every function that can have one, all at once, under all that the guest can do.
fn everything_that_can_be_probed_is_probed(world: &World) -> Result<()> {
    world.with(|tiny, shell| {
        let mut probes = Vec::new();
        let mut refused = 0;
        for (name, address) in Program::Hypervisor.functions()? {
            let said = shell.run(&format!("trace hprobe {address:#x}"))?;
            if let Ok(probe) = Probe::attached(&said) {
                probes.push((name, probe));
                continue;
            }
            ensure!(said.contains("serves probes itself"), "{name}: {said}");
            let is_ours = name.starts_with("hypervisor::exits");
            ensure!(!is_ours, "{name}: {said}");
            refused += 1;
        }
        ensure!(probes.len() > 60, "only {} probes", probes.len());
        ensure!(refused > 100, "only {refused} refused");
        truth::check(tiny)?;
        truth::expect(tiny, "callboth fn_hvc 1000", &[("bad", 0)])?;
        let mut hit = 0;
        for (_, probe) in &probes {
            hit += u64::from(shell.unhprobe(*probe)? > 0);
        }
        ensure!(hit > 30, "only {hit} functions were hit");
        Ok(())
    })
}

fn no_hprobe_is_left_behind(world: &World) -> Result<()> {
    world.check_nothing_left()
}
