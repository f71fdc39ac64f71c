//! `cargo xtask run`.

use super::machine_args::MachineArgs;
use crate::machine::{Config, Machine};
use crate::report::Report;
use crate::shell::{self, End};
use anyhow::{Context, Result, bail};
use std::process;
use std::thread;
use std::time::Duration;

/// Bound for the hypervisor's own start.
const READY_LIMIT: Duration = Duration::from_secs(60);
/// Run guests under the hypervisor in QEMU.
///
/// Endpoints on 127.0.0.1: vm1 at 1234, vm2 at 1235, …; the hypervisor (hyp) at 1230; the whole machine at 1229; its shell on
/// this terminal (at 1231 with --headless); tools beside debuggers at 1232; guest consoles at 1334, 1335, …. Attach with
/// `gdb-multiarch -ex 'target remote :1234'`.
#[derive(clap::Args)]
pub struct Args {
    /// Keep the shell on its port; print `ready: …` once everything listens; run until killed.
    #[arg(long)]
    headless: bool,
    #[command(flatten)]
    machine: MachineArgs,
}

/// Runs the subcommand.
pub fn run(args: &Args) -> Result<()> {
    let report = Report::new();
    let config = args.machine.config(&report)?;
    let machine = boot(&report, &config)?;
    if args.headless {
        println!("ready: {}", config.ports.describe(config.vms.len())?);
    } else {
        let shell = config.ports.shell();
        // Ctrl-C at its prompt ends the machine; without input, the machine goes on.
        thread::spawn(move || match shell::serve(shell) {
            Ok(End::Closed) => {}
            Ok(End::Interrupted) => process::exit(130),
            Err(error) => eprintln!("error: {error:#}"),
        });
    }
    let status = machine.emulator.wait()?;
    let errors = machine.emulator.errors.text_from(0);
    if !status.success() {
        bail!("QEMU ended: {status}\n{errors}");
    }
    Ok(())
}

/// Starts a machine and waits until its hypervisor serves.
pub fn boot(report: &Report, config: &Config) -> Result<Machine> {
    let step = report.step("booting", &config.describe()?);
    let machine = Machine::start(config)?;
    machine.wait_ready(READY_LIMIT).with_context(|| {
        format!(
            "if a port is taken, choose others with --port-base (now {})",
            config.ports.hyp()
        )
    })?;
    step.done(&config.describe()?);
    report.done("ready", &config.ports.describe(config.vms.len())?);
    Ok(machine)
}
