//! `cargo xtask build`.

use crate::build;
use crate::report::Report;
use crate::setup::toolchain::BareToolchain;
use anyhow::Result;
use std::path::Path;

/// Build the hypervisor and the tiny guest, and make boot images of them.
#[derive(clap::Args)]
pub struct Args {}

/// Runs the subcommand.
pub fn run(_args: &Args) -> Result<()> {
    let report = Report::new();
    let toolchain = BareToolchain::find_or_install(&report)?;
    report.done("toolchain", &toolchain.describe());
    let images = build::all(&toolchain)?;
    report.done("hypervisor", &size(&images.hypervisor)?);
    report.done("tiny guest", &size(&images.tiny_guest)?);
    println!(
        "{}\n{}",
        images.hypervisor.display(),
        images.tiny_guest.display()
    );
    Ok(())
}

/// A file's size in words.
pub fn size(path: &Path) -> Result<String> {
    Ok(indicatif::HumanBytes(path.metadata()?.len()).to_string())
}
