//! Costs by a Debian guest, which times its own system calls and its own work (`tests/programs`, `system-cost`).

use super::{Page, Sample, Unit, Wanted};
use crate::{LONG, Linux, Probe, Shell, Spec, TestMachine};
use anyhow::{Context, Result, ensure};
use xtask::build::Program;
use xtask::guest::Release;
use xtask::machine::Start;

/// A system call that does nothing.
const FUNCTION: &str = "__arm64_sys_getppid";
/// Where functions are that a fork, an exec and opened files go through, by how their names begin.
const PATHS: &str =
    "copy_|dup_|exec_|bprm_|path_|link_path|lookup_|vfs_|mmap_|exit_|wait_|do_sys_open";
/// How many of these are probed.
const MANY: usize = 100;

/// Nanoseconds of an increment of the counter, and instructions under `-icount` (see `tiny`).
const INCREMENT: f64 = 16.0;

/// Without it, each system call draws a random number until Linux takes its generator to be ready, which costs more than
/// all the rest.
const QUIET: &str = "randomize_kstack_offset=off";

/// How often is measured: runs, batches in each, and calls in each of these. A run has fewer hits than a ring holds, and
/// under `-icount` most batches are over before the service CPU, whose instructions count too, looks at the ring.
fn batches(unit: Unit) -> (u64, u64, u64) {
    match unit {
        Unit::Instructions => (5, 40, 50),
        Unit::Ns | Unit::PerSecond => (4, 3000, 1),
    }
}

/// Runs of the load, and rounds in each.
fn rounds(unit: Unit) -> (u64, u64) {
    match unit {
        Unit::Instructions => (2, 10),
        Unit::Ns | Unit::PerSecond => (5, 20),
    }
}

/// A machine with a Debian guest on one vCPU.
struct Bench {
    machine: TestMachine,
    unit: Unit,
}

impl Bench {
    fn boot(spec: Spec, unit: Unit) -> Result<Self> {
        let spec = match unit {
            Unit::Instructions => spec.icount(),
            Unit::Ns | Unit::PerSecond => spec,
        };
        let programs = [Program::SystemCost];
        let spec = spec.linux_with(&programs, Release::Stable, 1, Start::Immediately)?;
        let machine = TestMachine::start(spec.guest_words(QUIET))?;
        machine.wait_for_shell(1)?;
        Linux::new(machine.console(1)?).quieten()?;
        Ok(Self { machine, unit })
    }

    /// What the guest says that its batches took.
    fn time(&self, command: &str) -> Result<Vec<f64>> {
        let mut linux = Linux::new(self.machine.console(1)?);
        let said = linux.run_within(&format!("system-cost {command}"), LONG)?;
        let lines = said.lines().map(str::trim).filter(|line| !line.is_empty());
        let times = lines.filter(|line| !line.starts_with("hits="));
        let times = times.map(|line| {
            let increments: f64 = line
                .parse()
                .with_context(|| format!("`system-cost {command}` said: {line}"))?;
            Ok(increments * INCREMENT)
        });
        times.collect()
    }

    /// One run of a system call: its times, batch by batch.
    fn call(&self, words: &str) -> Result<Sample> {
        let (_, count, calls) = batches(self.unit);
        let times = self.time(&format!("calls {count} {calls} {words}"))?;
        let sample = Sample::new(times).context("nothing was measured")?;
        Ok(sample.map(|time| time / calls as f64))
    }

    /// What a system call costs more with something than without, which take turns: how fast the machine is may change.
    fn difference(&self, mut with: impl FnMut() -> Result<Sample>) -> Result<Sample> {
        let (runs, ..) = batches(self.unit);
        let runs = (0..runs).map(|_| {
            let without = self.call("")?.median();
            Ok(with()?.above(without))
        });
        Sample::all(runs.collect::<Result<_>>()?).context("nothing was measured")
    }

    /// One run of the load.
    fn load(&self) -> Result<Sample> {
        let (_, rounds) = rounds(self.unit);
        let times = self.time(&format!("load {rounds}"))?;
        Sample::new(times).context("nothing was measured")
    }

    /// What a hit of ours on [`FUNCTION`] costs.
    fn hit(&self, shell: &mut Shell, program: &str) -> Result<Sample> {
        let (_, count, calls) = batches(self.unit);
        let made = count * calls;
        self.difference(|| {
            let said = shell.run(&format!("trace kprobe vm1:{FUNCTION} {program}"))?;
            // While the guest is in user code its kernel may be unmapped: then the probe arms itself in a moment.
            let probe = Probe::accepted(&said)?;
            let with = self.call("")?;
            let hits = shell.detach(probe)?;
            ensure!(hits >= made, "{hits} hits in {made} calls");
            Ok(with)
        })
    }

    /// What a hit of the guest's own kprobe with an eBPF program costs.
    fn own_hit(&self) -> Result<Sample> {
        self.difference(|| self.call(FUNCTION))
    }

    /// Functions of the kernel's on the way of the load, more than enough.
    fn functions(&self) -> Result<Vec<String>> {
        let mut linux = Linux::new(self.machine.console(1)?);
        let listed = linux.run(&format!(
            "grep -E ' [tT] ({PATHS})[a-z0-9_]*$' /proc/kallsyms | head -n {} | cut -d' ' -f3",
            3 * MANY
        ))?;
        Ok(listed.lines().map(|line| line.trim().to_owned()).collect())
    }
}

/// The reference, and ours beside it.
const REFERENCE: &str = "guest.kprobe-ebpf";
const OURS: [(&str, &str); 3] = [
    ("linux.kprobe.none", ""),
    ("linux.kprobe.count", "count"),
    ("linux.kprobe.args", "args"),
];

/// The guest's slow-down.
const IDLE: &str = "idle.slowdown";
const LOADS: [(&str, usize); 3] = [
    ("load.slowdown.0", 0),
    ("load.slowdown.1", 1),
    ("load.slowdown.100", MANY),
];

/// Measures what is wanted, by instructions and by time.
pub(super) fn measure(
    wanted: &Wanted<'_>,
    page: &mut Page,
    say: &mut dyn FnMut(&str),
) -> Result<()> {
    for unit in [Unit::Instructions, Unit::Ns] {
        let hits = wanted.has_any(OURS.iter().map(|(id, _)| *id).chain([REFERENCE]));
        let loads = wanted.has_any(LOADS.iter().map(|(id, _)| *id).chain([IDLE]));
        if !hits && !loads {
            return Ok(());
        }
        let bench = Bench::boot(Spec::hypervisor(), unit)?;
        let mut shell = bench.machine.shell()?;
        if hits {
            measure_hits(&bench, &mut shell, wanted, page, say)?;
        }
        if loads {
            measure_loads(&bench, &mut shell, wanted, page, say)?;
        }
    }
    Ok(())
}

fn measure_hits(
    bench: &Bench,
    shell: &mut Shell,
    wanted: &Wanted<'_>,
    page: &mut Page,
    say: &mut dyn FnMut(&str),
) -> Result<()> {
    say(REFERENCE);
    let own = bench.own_hit()?;
    // In multiples of the trap floor that the tiny guest has measured, where it has.
    let floor = page.median("trap.floor", bench.unit);
    page.add(REFERENCE, bench.unit, &own, floor);
    for (id, program) in OURS.iter().filter(|(id, _)| wanted.has(id)) {
        say(id);
        let hit = bench.hit(shell, program).with_context(|| id.to_string())?;
        page.add(id, bench.unit, &hit, Some(own.median()));
    }
    Ok(())
}

/// The load of two guests, whose runs take turns.
fn in_turn(first: &Bench, second: &Bench) -> Result<(Sample, Sample)> {
    let (runs, _) = rounds(first.unit);
    let runs = (0..runs).map(|_| Ok((first.load()?, second.load()?)));
    let (first, second) = runs.collect::<Result<(Vec<_>, Vec<_>)>>()?;
    Sample::all(first)
        .zip(Sample::all(second))
        .context("nothing was measured")
}

fn measure_loads(
    bench: &Bench,
    shell: &mut Shell,
    wanted: &Wanted<'_>,
    page: &mut Page,
    say: &mut dyn FnMut(&str),
) -> Result<()> {
    say("the load without Periscope");
    let alone = Bench::boot(Spec::hypervisor().without_periscope(), bench.unit)?;
    // The first run of each is not like the others: it reads files and faults pages in.
    alone.load()?;
    bench.load()?;
    let mut functions = bench.functions()?.into_iter();
    let mut probes = Vec::new();
    for (id, count) in LOADS {
        say(id);
        while probes.len() < count {
            let function = functions
                .next()
                .with_context(|| format!("only {} functions can be probed", probes.len()))?;
            let said = shell.run(&format!("trace kprobe vm1:{function} count"))?;
            // Some are refused: the way is there for a reason, and there are others.
            probes.extend(Probe::accepted(&said));
        }
        let (without, with) = in_turn(&alone, bench)?;
        let reference = Some(without.median());
        if count == 0 && wanted.has(IDLE) {
            page.add(IDLE, bench.unit, &with, reference);
        }
        if wanted.has(id) {
            page.add(id, bench.unit, &with, reference);
        }
    }
    for probe in probes {
        shell.detach(probe)?;
    }
    Ok(())
}
