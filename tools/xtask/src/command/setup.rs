//! `cargo xtask setup`.

use crate::guest::{self, Freshness, Release};
use crate::report::Report;
use crate::setup::packages;
use crate::setup::toolchain::BareToolchain;
use anyhow::Result;

/// Find or install everything the project needs: toolchain, QEMU, debuggers, guest kernels, eBPF tools.
#[derive(clap::Args)]
pub struct Args {
    /// Look for newer guest kernels than the cached ones.
    #[arg(long)]
    refresh: bool,
    /// Also fetch oldstable's kernel (6.1).
    #[arg(long)]
    oldstable: bool,
}

/// Runs the subcommand.
pub fn run(args: &Args) -> Result<()> {
    let report = Report::new();
    let toolchain = BareToolchain::find_or_install(&report)?;
    report.done("toolchain", &toolchain.describe());
    packages::find_or_install(&report)?;
    let freshness = if args.refresh {
        Freshness::Newest
    } else {
        Freshness::Cached
    };
    let mut releases = vec![Release::Stable];
    if args.oldstable {
        releases.push(Release::Oldstable);
    }
    for release in releases {
        let linux = guest::linux(&report, release, freshness)?;
        report.done("guest kernel", &linux.describe()?);
    }
    guest::libbpf_tools(&report, freshness)?;
    Ok(())
}
