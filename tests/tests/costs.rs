//! Costs that do not depend on the machine that runs the tests: instructions.

use anyhow::{Context, Result, ensure};
use e2e::tiny::World;
use e2e::{Gdb, MOMENT, Shell, Spec, bench, cases, named};
use object::{Object, ObjectSymbol};
use std::fs;
use std::ops::Range;
use std::process::ExitCode;
use xtask::build::Program;

/// What a hit of a kprobe without a program may cost, from the trap to the instruction behind the site.
const SIMULATED_KPROBE: f64 = 250.0;
/// The same with the program `count`: half of what the guest's own kprobe costs with a program of its own that counts,
/// compiled by Linux (`guest.kprobe-ebpf` in docs/perf-baseline.md).
const COUNTING_KPROBE: f64 = 363.0;
/// How many times as much as a kprobe that counts a GDB tracepoint may cost that collects all registers.
const FRAME: f64 = 3.0;
/// What a tracepoint that is off may cost.
const TRACEPOINT_OFF: f64 = 3.0;

/// How many instructions a hit that runs a compiled program may take before the first of the program: from the decision
/// to run it, all that is made for helpers, and what the program's code saves.
const SETUP: usize = 60;
/// The function that is called with that decision.
const RUN: &str = "run_at";
/// Built-in programs: one that uses nothing, and one with a stack and registers that calls keep.
const ENTERED: [&str; 2] = ["count", "args"];

/// How many times as often as GDB at the emulator's stub we evaluate a condition.
const FASTER_CONDITIONS: f64 = 500.0;

/// How many times fewer instructions a compiled program takes than an interpreted one.
const COMPILED: f64 = 10.0;

fn main() -> ExitCode {
    cases(vec![
        named("probes_cost_few_instructions", probes_cost_few_instructions),
        named("compiled_programs_are_faster", compiled_programs_are_faster),
        named("programs_are_entered_soon", programs_are_entered_soon),
        named(
            "conditions_are_evaluated_fast",
            conditions_are_evaluated_fast,
        ),
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
        frame,
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
    println!(
        "instructions: a kprobe {kprobe}, with a program that counts {counting}, a frame with all registers {frame}"
    );
    ensure!(
        frame <= FRAME * counting,
        "a frame with all registers costs {frame} instructions, more than {FRAME} times {counting}"
    );
    // As many stores as there are registers.
    ensure!(frame >= kprobe, "a frame costs only {frame} instructions");
    ensure!(
        (1.0..=TRACEPOINT_OFF).contains(&tracepoint),
        "a tracepoint that is off costs {tracepoint} instructions, at most {TRACEPOINT_OFF} are allowed"
    );
    Ok(())
}

/// By the clock on the wall, in turns of one run, by the best turn of either: what else the machine does makes turns worse,
/// and not both sides alike.
fn conditions_are_evaluated_fast() -> Result<()> {
    let rates = bench::condition_rates()?;
    let (here, elsewhere) = (rates.here.largest(), rates.emulator.largest());
    println!("{here:.0} evaluations a second, {elsewhere:.0} by QEMU's stub and GDB");
    ensure!(
        here >= FASTER_CONDITIONS * elsewhere,
        "{here:.0} evaluations a second are not {FASTER_CONDITIONS} times {elsewhere:.0}"
    );
    Ok(())
}

/// Steps through the hypervisor with the emulator's stub.
fn programs_are_entered_soon() -> Result<()> {
    let world = World::boot_on(Spec::hypervisor().emulator_stub())?;
    let places = Places::of_the_hypervisor()?;
    let address = world.subject("fn_nop")?.address;
    world.with(|tiny, shell| {
        for program in ENTERED {
            let prologue = prologue(shell, program)?;
            let probe = shell.kprobe(address, program)?;
            let mut gdb = Gdb::start()?;
            gdb.connect(world.machine().ports().emulator())?;
            gdb.console(&format!("hbreak *{:#x}", places.run))?;
            tiny.send("call fn_nop 1 1")?;
            gdb.resume_until_stop(MOMENT)?;
            let before = instructions_before(&mut gdb, &places)?;
            gdb.console("delete")?;
            gdb.detach()?;
            tiny.reply()?;
            ensure!(shell.detach(probe)? == 1, "hits");
            let setup = before + prologue;
            println!("{program}: {setup} instructions, {prologue} of them in its own code");
            ensure!(
                (20..SETUP).contains(&setup),
                "{program} is entered after {setup} instructions, not fewer than {SETUP}"
            );
        }
        Ok(())
    })
}

/// Addresses in the hypervisor.
struct Places {
    /// The function that runs programs.
    run: u64,
    /// The code of compiled programs.
    native: Range<u64>,
}

impl Places {
    fn of_the_hypervisor() -> Result<Self> {
        let bytes = fs::read(Program::Hypervisor.elf())?;
        let elf = object::File::parse(bytes.as_slice())?;
        let address = |is_it: &dyn Fn(&str) -> bool| {
            let found = elf.symbols().find(|symbol| symbol.name().is_ok_and(is_it));
            found.map(|symbol| symbol.address())
        };
        let named = |name: &str| address(&|found| found == name).context("no such symbol");
        Ok(Self {
            run: address(&|found| found.contains(RUN)).context("nothing runs programs")?,
            native: named("__native_start")?..named("__native_end")?,
        })
    }
}

/// How many instructions the CPU that has stopped at a function executes before it is in a program's code.
fn instructions_before(gdb: &mut Gdb, places: &Places) -> Result<usize> {
    gdb.console("set scheduler-locking on")?;
    for count in 0..10 * SETUP {
        if places.native.contains(&gdb.value("(unsigned long)$pc")?) {
            gdb.console("set scheduler-locking off")?;
            return Ok(count);
        }
        gdb.mi("-exec-step-instruction")?;
        gdb.wait_stop(MOMENT)?;
    }
    anyhow::bail!("no program was entered")
}

/// How many A64 instructions stand before the first of the program.
fn prologue(shell: &mut Shell, program: &str) -> Result<usize> {
    let listing = shell.run(&format!("ebpf dump {program} --jit"))?;
    let lines = listing.lines().map(str::trim_start);
    let before = lines.take_while(|line| !line.starts_with("0: "));
    let count = before.filter(|line| line.starts_with("0x")).count();
    ensure!(count > 0, "{program}: {listing}");
    Ok(count)
}
