//! Debian's kernels: symbols from memory, a breakpoint, and probes on the very instructions that the guest's own
//! kprobes and function tracer patch, while those come and go.

use crate::guest::{self, TRACING, Text};
use anyhow::{Context, Result, ensure};
use e2e::{LONG, Linux, MOMENT, Probe, Shell, Spec, TestMachine};
use xtask::guest::Release;
use xtask::machine::Start;

/// Calls of [`FUNCTION`] on each vCPU, both at once.
const CALLS: u64 = 50;
/// What the guest traces.
const FUNCTION: &str = "vfs_mkdir";
/// Makes and removes directories on both vCPUs.
const WORKLOAD: &str = "for mask in 1 2; do taskset $mask sh -c \
    'for i in $(seq 50); do mkdir /tmp/d$0.$i; rmdir /tmp/d$0.$i; done' $mask & done; wait";

/// What a kernel must say of itself.
pub struct Kernel {
    pub release: Release,
    /// The CPU model that it needs, where the one of all tests will not do.
    pub cpu: Option<&'static str>,
    /// Its pages, as `/proc/self/smaps` says it.
    pub page_size: &'static str,
    /// Its version begins so.
    pub version: &'static str,
    /// It has at least so many symbols.
    pub symbols: u64,
}

/// Boots it and runs everything.
pub fn check(kernel: &Kernel) -> Result<()> {
    let mut spec = Spec::hypervisor();
    if let Some(model) = kernel.cpu {
        spec = spec.cpu(model);
    }
    let machine = TestMachine::start(spec.linux(kernel.release, 2, Start::Immediately)?)?;
    machine.wait_for_shell(1)?;
    let mut shell = machine.shell()?;
    let mut linux = Linux::new(machine.console(1)?);
    linux.quieten()?;
    let pages = linux.run("grep -m 1 KernelPageSize /proc/self/smaps")?;
    ensure!(pages.trim().ends_with(kernel.page_size), "{pages}");
    symbols(&mut shell, &mut linux, kernel)?;
    breakpoint(&machine, &mut linux)?;
    beside_the_guests_tracers(&mut shell, &mut linux)?;
    guest::expect_clean_log(&mut linux)
}

/// Symbols come from memory, and are where the guest's own table has them.
fn symbols(shell: &mut Shell, linux: &mut Linux<'_>, kernel: &Kernel) -> Result<()> {
    let said = shell.run("vm info vm1")?;
    ensure!(
        said.contains(&format!("Linux {}", kernel.version)),
        "{said}"
    );
    let count = said.trim_end().strip_suffix(" symbols");
    let count = count.and_then(|text| text.rsplit(' ').next());
    let count: u64 = count
        .with_context(|| format!("no number of symbols in {said}"))?
        .parse()?;
    ensure!(
        count >= kernel.symbols,
        "{count} symbols, not {}",
        kernel.symbols
    );
    for function in [FUNCTION, "do_sys_openat2", "vfs_read", "kernel_clone"] {
        let theirs = linux.address(function)?;
        let ours = address(shell, function)?;
        ensure!(
            ours == theirs,
            "{function} at {ours:#x}, the guest has it at {theirs:#x}"
        );
    }
    Ok(())
}

fn address(shell: &mut Shell, function: &str) -> Result<u64> {
    let said = shell.run(&format!("gsym vm1:{function}"))?;
    let digits = said.split(' ').next().unwrap_or_default();
    let digits = digits.trim_start_matches("0x");
    u64::from_str_radix(digits, 16).with_context(|| said.clone())
}

fn breakpoint(machine: &TestMachine, linux: &mut Linux<'_>) -> Result<()> {
    let function = linux.address(FUNCTION)?;
    let mut gdb = machine.gdb(1)?;
    gdb.console(&format!("break *{function:#x}"))?;
    linux.begin("mkdir /tmp/stop; rmdir /tmp/stop")?;
    let stop = gdb.resume_until_stop(MOMENT)?;
    ensure!(
        stop.reason() == "breakpoint-hit" && stop.pc()? == function,
        "{stop:?}"
    );
    let mode = gdb.value("$x3")?;
    ensure!(mode == 0o777, "vfs_mkdir's mode is {mode:#o}");
    gdb.console("delete")?;
    gdb.detach()?;
    linux.finish().map(drop)
}

/// Who in the guest traces the function as well.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Tracer {
    /// A kprobe: a BRK in place of the first instruction.
    Kprobe,
    /// The function tracer: a BL in place of the second.
    Function,
}

impl Tracer {
    fn start(self, linux: &mut Linux<'_>) -> Result<()> {
        match self {
            Tracer::Kprobe => guest::count(linux, &[FUNCTION]),
            Tracer::Function => {
                let said = linux.run(&format!(
                    "echo {FUNCTION} > {TRACING}/set_ftrace_filter && \
                     echo function > {TRACING}/current_tracer"
                ))?;
                ensure!(said.is_empty(), "no function tracer: {said}");
                Ok(())
            }
        }
    }

    fn counted(self, linux: &mut Linux<'_>) -> Result<u64> {
        match self {
            Tracer::Kprobe => guest::counts(linux)?
                .get(FUNCTION)
                .copied()
                .context("the guest's kprobe is gone"),
            Tracer::Function => {
                let said = linux.run(&format!("grep -c ': {FUNCTION} <-' {TRACING}/trace"))?;
                said.trim().parse().with_context(|| said.clone())
            }
        }
    }

    fn stop(self, linux: &mut Linux<'_>) -> Result<()> {
        match self {
            Tracer::Kprobe => guest::stop_counting(linux),
            Tracer::Function => {
                let said = linux.run(&format!(
                    "echo nop > {TRACING}/current_tracer; echo > {TRACING}/set_ftrace_filter"
                ))?;
                ensure!(said.is_empty(), "the function tracer stays: {said}");
                Ok(())
            }
        }
    }
}

/// Our probes on the function's first two instructions count right, whichever of the guest's tracers patches them, and
/// so do those; whoever comes first.
fn beside_the_guests_tracers(shell: &mut Shell, linux: &mut Linux<'_>) -> Result<()> {
    let text = Text::find(linux)?;
    let pristine = text.hash(linux)?;
    let unprobed = shell.memory()?;
    for tracers in [
        &[Tracer::Kprobe][..],
        &[Tracer::Function],
        &[Tracer::Function, Tracer::Kprobe],
    ] {
        ours_first(shell, linux, tracers).with_context(|| format!("ours, then {tracers:?}"))?;
        theirs_first(shell, linux, tracers).with_context(|| format!("{tracers:?}, then ours"))?;
        let now = text.hash(linux)?;
        ensure!(now == pristine, "the text after {tracers:?}");
    }
    let left = shell.memory()?;
    ensure!(left == unprobed, "left behind: {left:?}, not {unprobed:?}");
    Ok(())
}

fn ours_first(shell: &mut Shell, linux: &mut Linux<'_>, tracers: &[Tracer]) -> Result<()> {
    let probes = attach(shell)?;
    for tracer in tracers {
        tracer.start(linux)?;
    }
    work(shell, linux, &probes, tracers)?;
    for tracer in tracers {
        tracer.stop(linux)?;
    }
    work(shell, linux, &probes, &[])?;
    detach(shell, &probes)
}

fn theirs_first(shell: &mut Shell, linux: &mut Linux<'_>, tracers: &[Tracer]) -> Result<()> {
    for tracer in tracers {
        tracer.start(linux)?;
    }
    let probes = attach(shell)?;
    work(shell, linux, &probes, tracers)?;
    detach(shell, &probes)?;
    work(shell, linux, &[], tracers)?;
    for tracer in tracers {
        tracer.stop(linux)?;
    }
    Ok(())
}

fn attach(shell: &mut Shell) -> Result<[Probe; 2]> {
    let mut attach = |offset: &str| {
        let said = shell.run(&format!("trace kprobe vm1:{FUNCTION}{offset} count"))?;
        Probe::accepted(&said)
    };
    Ok([attach("")?, attach("+0x4")?])
}

fn detach(shell: &mut Shell, probes: &[Probe]) -> Result<()> {
    probes
        .iter()
        .try_for_each(|probe| shell.detach(*probe).map(drop))
}

/// Runs the workload once: all must count all of its calls.
fn work(
    shell: &mut Shell,
    linux: &mut Linux<'_>,
    probes: &[Probe],
    tracers: &[Tracer],
) -> Result<()> {
    let before = counts(shell, linux, probes, tracers)?;
    linux.run_within(WORKLOAD, LONG)?;
    let after = counts(shell, linux, probes, tracers)?;
    let counted: Vec<u64> = after.iter().zip(&before).map(|(a, b)| a - b).collect();
    ensure!(
        counted.iter().all(|count| *count == 2 * CALLS),
        "{} calls; our {} probes and {tracers:?} counted {counted:?}",
        2 * CALLS,
        probes.len()
    );
    Ok(())
}

fn counts(
    shell: &mut Shell,
    linux: &mut Linux<'_>,
    probes: &[Probe],
    tracers: &[Tracer],
) -> Result<Vec<u64>> {
    let table = shell.run("trace list")?;
    let ours = probes.iter().map(|probe| probe.hits_in(&table));
    let mut counts = ours.collect::<Result<Vec<_>>>()?;
    for tracer in tracers {
        counts.push(tracer.counted(linux)?);
    }
    Ok(counts)
}
