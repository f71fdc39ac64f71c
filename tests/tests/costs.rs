//! Costs that do not depend on the machine that runs the tests: instructions.

use anyhow::{Result, ensure};
use e2e::{bench, cases, named};
use std::process::ExitCode;

/// What a hit of a kprobe without a program may cost, from the trap to the instruction behind the site.
const SIMULATED_KPROBE: f64 = 250.0;
/// The same with the program `count`: half of what the guest's own kprobe costs with a program of its own that counts,
/// compiled by Linux (`guest.kprobe-ebpf` in docs/perf-baseline.md).
const COUNTING_KPROBE: f64 = 363.0;
/// What a tracepoint that is off may cost.
const TRACEPOINT_OFF: f64 = 3.0;

/// How many times fewer instructions a compiled program takes than an interpreted one.
const COMPILED: f64 = 10.0;

fn main() -> ExitCode {
    cases(vec![
        named("probes_cost_few_instructions", probes_cost_few_instructions),
        named("compiled_programs_are_faster", compiled_programs_are_faster),
    ])
}

fn compiled_programs_are_faster() -> Result<()> {
    for cost in bench::mixes()? {
        let bench::MixCost {
            mix,
            interpreted,
            compiled,
        } = cost;
        // An instruction of a program becomes one of A64, or part of it: less, and it was not executed.
        ensure!(
            compiled >= 0.9 && interpreted >= COMPILED * compiled,
            "{mix}: {interpreted} instructions interpreted, {compiled} compiled"
        );
    }
    Ok(())
}

fn probes_cost_few_instructions() -> Result<()> {
    let bench::Instructions {
        kprobe,
        counting,
        tracepoint,
    } = bench::instructions()?;
    ensure!(
        kprobe <= SIMULATED_KPROBE,
        "a hit costs {kprobe} instructions, more than {SIMULATED_KPROBE}"
    );
    // Less than that cannot even save and restore the registers: then nothing was hit.
    ensure!(kprobe >= 60.0, "a hit costs only {kprobe} instructions");
    ensure!(
        counting <= COUNTING_KPROBE,
        "a hit that counts costs {counting} instructions, more than {COUNTING_KPROBE}"
    );
    ensure!(
        counting >= kprobe + 30.0,
        "a program costs only {} instructions",
        counting - kprobe
    );
    ensure!(
        (1.0..=TRACEPOINT_OFF).contains(&tracepoint),
        "a tracepoint that is off costs {tracepoint} instructions, at most {TRACEPOINT_OFF} are allowed"
    );
    Ok(())
}
