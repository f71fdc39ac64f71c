//! Eclipse's debug adapter for GDB, which comes from the npm registry: for a test that drives it.

use super::packages;
use crate::report::Report;
use crate::{process, workspace};
use anyhow::{Context, Result, ensure};
use std::path::PathBuf;
use std::process::Command;

/// The adapter's package. Within one major version its requests stay what they are.
const PACKAGE: &str = "cdt-gdb-adapter@1";

/// The adapter's program for remote targets, to be run by `node`. Fetched where it is not there.
pub fn cdt_gdb_adapter(report: &Report) -> Result<PathBuf> {
    let root = workspace::target_dir().join("npm");
    let program = root.join("node_modules/cdt-gdb-adapter/dist/debugTargetAdapter.js");
    if !program.is_file() {
        packages::require(report, &[("node", "nodejs"), ("npm", "npm")])?;
        let step = report.step("cdt-gdb-adapter", "npm install");
        let mut install = Command::new("npm");
        // Its native part is for serial lines and terminals. Without, nothing has to be compiled.
        install.args(["install", "--ignore-scripts", "--no-audit", "--no-fund"]);
        process::output(install.arg("--prefix").arg(&root).arg(PACKAGE))
            .context("cannot fetch cdt-gdb-adapter from the npm registry")?;
        step.done(PACKAGE);
    }
    ensure!(
        program.is_file(),
        "{PACKAGE} has no {}: it has changed, and this file has to follow",
        program.display()
    );
    Ok(program)
}
