//! `cargo xtask shell`.

use crate::machine::{DEFAULT_BASE, Ports};
use crate::shell;
use anyhow::Result;

/// The hypervisor's shell of a machine that runs (`cargo xtask run --headless`), with history and completion.
#[derive(clap::Args)]
pub struct Args {
    /// The machine's --port-base.
    #[arg(long, default_value_t = DEFAULT_BASE, value_name = "P")]
    port_base: u16,
}

/// Runs the subcommand.
pub fn run(args: &Args) -> Result<()> {
    shell::serve(Ports::new(args.port_base)?.shell())?;
    Ok(())
}
