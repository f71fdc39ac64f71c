//! `cargo xtask demo`.

use super::machine_args::MachineArgs;
use super::run;
use crate::machine::DEFAULT_BASE;
use crate::report::Report;
use anyhow::Result;
use clap::Parser;

/// Show the project: boot the hypervisor with two Debian guests.
#[derive(clap::Args)]
pub struct Args {
    /// Port of the hyp endpoint; all others keep their distance from it.
    #[arg(long, default_value_t = DEFAULT_BASE, value_name = "P")]
    port_base: u16,
}

/// Runs the subcommand.
pub fn run(args: &Args) -> Result<()> {
    let report = Report::new();
    let port_base = args.port_base.to_string();
    let machine = MachineArgs::try_parse_from([
        "demo",
        "--vms=2",
        "--vcpus=2,1",
        "--memory=512M,256M",
        "--port-base",
        &port_base,
    ])?;
    let machine = run::boot(&report, &machine.config(&report)?)?;
    println!("\n{}", machine.emulator.serial.text_from(0).trim_end());
    Ok(())
}
