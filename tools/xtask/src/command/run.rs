//! `cargo xtask run`.

use super::machine_args::MachineArgs;
use crate::machine::{Config, Machine, Ports};
use crate::report::Report;
use anyhow::{Context, Result, bail};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

/// Bound for the hypervisor's own start.
const READY_LIMIT: Duration = Duration::from_secs(60);
/// Run guests under the hypervisor in QEMU.
///
/// Endpoints on 127.0.0.1: vm1 at 1234, vm2 at 1235, …; the hypervisor (hyp) at 1230; its shell on this terminal (at 1231
/// with --headless); guest consoles at 1334, 1335, …. Attach with `gdb-multiarch -ex 'target remote :1234'`.
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
        bridge_shell(config.ports)?;
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

/// Connects this terminal with the hypervisor's shell. Ctrl-C ends the machine.
fn bridge_shell(ports: Ports) -> Result<()> {
    let mut shell = TcpStream::connect(("127.0.0.1", ports.shell()))
        .context("cannot connect to the hypervisor's shell")?;
    let from_shell = shell.try_clone()?;
    thread::spawn(move || copy(from_shell, io::stdout()));
    // Asks for a prompt.
    shell.write_all(b"\n")?;
    thread::spawn(move || copy(io::stdin(), shell));
    Ok(())
}

/// Copies until one side ends. Either end is the end of the session, not an error.
fn copy(mut from: impl Read, mut to: impl Write) {
    let mut buffer = [0; 4096];
    while let Ok(count) = from.read(&mut buffer) {
        if count == 0
            || to
                .write_all(&buffer[..count])
                .and_then(|()| to.flush())
                .is_err()
        {
            return;
        }
    }
}
