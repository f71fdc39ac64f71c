//! `cargo xtask bench`.

use super::machine_args::MachineArgs;
use crate::build::Program;
use crate::guest::READY_MARKER;
use crate::machine::{self, Config, Emulator, Machine, Transcript};
use crate::process;
use crate::report::Report;
use crate::setup::packages;
use crate::setup::toolchain::BareToolchain;
use anyhow::{Context, Result};
use clap::Subcommand;
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// Bound for one boot.
const BOOT_LIMIT: Duration = Duration::from_secs(180);

/// Measure what Periscope costs: the rows of docs/perf-baseline.md.
///
/// Everything is built first. Two machines measure, one that counts instructions and one that runs freely; docs/perf-baseline.md
/// says how.
#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    #[command(subcommand)]
    what: Option<What>,
    /// Only rows whose ids begin with one of these, such as `kprobe.` or `trap.floor`.
    names: Vec<String>,
    /// Print the rows as JSON.
    #[arg(long)]
    json: bool,
    /// Update docs/perf-baseline.md and docs/perf-baseline.json. Rows that are not measured now stay.
    #[arg(long)]
    write: bool,
}

#[derive(Subcommand)]
enum What {
    /// Time from QEMU's start to the guest's shell, bare and under the hypervisor, in turn.
    Boot(BootArgs),
}

#[derive(clap::Args)]
struct BootArgs {
    /// How often each; the fastest counts.
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    #[command(flatten)]
    machine: MachineArgs,
}

/// Runs the subcommand.
pub fn run(args: &Args) -> Result<()> {
    match &args.what {
        Some(What::Boot(args)) => boot(args),
        None => baseline(args),
    }
}

/// The measurements are a program of the tests' package, which knows guests, shells and consoles.
fn baseline(args: &Args) -> Result<()> {
    let report = Report::new();
    let toolchain = BareToolchain::find_or_install(&report)?;
    packages::find_or_install(&report)?;
    // Its place in cargo's directory is that of the hypervisor, which comes after it.
    Program::HypervisorAlone.build(&toolchain)?;
    for program in Program::ALL {
        program.build(&toolchain)?;
    }
    let mut command = process::cargo();
    command.args(["run", "--quiet", "--package", "e2e", "--bin", "bench", "--"]);
    command.args(args.json.then_some("--json"));
    command.args(args.write.then_some("--write"));
    process::run(command.args(&args.names))
}

fn boot(args: &BootArgs) -> Result<()> {
    let report = Report::new();
    let config = args.machine.config(&report)?;
    let mut bare = Vec::new();
    let mut hosted = Vec::new();
    // In turn, so that whatever else the machine does falls on both.
    for round in 1..=args.rounds {
        let step = report.step("boot", &format!("round {round}, bare QEMU"));
        bare.push(boot_bare(&config)?);
        step.detail(&format!("round {round}, hypervisor"));
        hosted.push(boot_hosted(&config)?);
    }
    let bare = fastest(&bare)?;
    let hosted = fastest(&hosted)?;
    println!("bare QEMU    {:6.2} s", bare.as_secs_f64());
    println!("hypervisor   {:6.2} s", hosted.as_secs_f64());
    println!(
        "ratio        {:6.2}",
        hosted.as_secs_f64() / bare.as_secs_f64()
    );
    Ok(())
}

/// The same guest on the same kind of machine, at EL1 from the start.
fn boot_bare(config: &Config) -> Result<Duration> {
    let started = Instant::now();
    let emulator = Emulator::start(machine::bare_command(config)?)?;
    emulator
        .wait_for(&emulator.serial, 0, READY_MARKER, BOOT_LIMIT)
        .context("the guest does not boot on bare QEMU")?;
    Ok(started.elapsed())
}

fn boot_hosted(config: &Config) -> Result<Duration> {
    let started = Instant::now();
    let machine = Machine::start(config)?;
    machine.wait_ready(BOOT_LIMIT)?;
    let console = Transcript::follow(TcpStream::connect(("127.0.0.1", config.ports.console(1)))?);
    machine
        .emulator
        .wait_for(&console, 0, READY_MARKER, BOOT_LIMIT)
        .with_context(|| format!("vm1 does not boot; its console:\n{}", console.text_from(0)))?;
    Ok(started.elapsed())
}

fn fastest(times: &[Duration]) -> Result<Duration> {
    times.iter().min().copied().context("nothing was measured")
}
