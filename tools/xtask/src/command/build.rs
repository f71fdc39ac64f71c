//! `cargo xtask build`.

use crate::build::Program;
use crate::report::Report;
use crate::setup::toolchain::BareToolchain;
use anyhow::Result;
use std::path::Path;

/// Build the hypervisor and what runs in guests of tests, and make boot images.
#[derive(clap::Args)]
pub struct Args {}

/// Runs the subcommand.
pub fn run(_args: &Args) -> Result<()> {
    let report = Report::new();
    let toolchain = BareToolchain::find_or_install(&report)?;
    report.done("toolchain", &toolchain.describe());
    for program in Program::ALL {
        program.build(&toolchain)?;
        let image = program.image();
        report.done(
            program.name(),
            &format!("{}  {}", size(&image)?, image.display()),
        );
    }
    Ok(())
}

/// A file's size in words.
pub fn size(path: &Path) -> Result<String> {
    Ok(indicatif::HumanBytes(path.metadata()?.len()).to_string())
}
