//! `cargo xtask bench`.

use super::machine_args::MachineArgs;
use crate::guest::READY_MARKER;
use crate::machine::{self, Config, Emulator, Machine, Transcript};
use crate::report::Report;
use anyhow::{Context, Result};
use clap::Subcommand;
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// Bound for one boot.
const BOOT_LIMIT: Duration = Duration::from_secs(180);

/// Measure.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
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
        What::Boot(args) => boot(args),
    }
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
