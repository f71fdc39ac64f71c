//! Programs of the `periscope` command's examples, compiled and linked as a user does it.

use anyhow::Result;
use std::path::{Path, PathBuf};
use std::process::Command;
use xtask::{process, workspace};

/// Compiles and links the example NAME in `directory`, and returns the linked program.
pub fn link_example(name: &str, directory: &Path) -> Result<PathBuf> {
    let object = directory.join(format!("{name}.bpf.o"));
    let linked = directory.join(format!("{name}.lp"));
    let sources = workspace::root().join("tools/periscope/examples");
    let mut clang = Command::new("clang");
    clang.args(["-O2", "-g", "-target", "bpf", "-c"]);
    clang.arg(sources.join(format!("{name}.bpf.c")));
    process::run(clang.arg("-o").arg(&object))?;
    let mut periscope = process::cargo();
    periscope.args(["run", "--quiet", "--package", "periscope", "--", "link"]);
    process::run(periscope.arg(&object).arg("-o").arg(&linked))?;
    Ok(linked)
}
