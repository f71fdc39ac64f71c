//! Programs of the `periscope` command's examples, compiled and linked as a user does it.

use anyhow::Result;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use xtask::guest::{self, Freshness, Release};
use xtask::report::Report;
use xtask::{process, workspace};

/// Compiles and links the example NAME in `directory`, and returns the linked program.
pub fn link_example(name: &str, directory: &Path) -> Result<PathBuf> {
    link(name, directory, &[])
}

/// The same for a kernel's types: those of the stable release.
pub fn link_example_for_linux(name: &str, directory: &Path) -> Result<PathBuf> {
    let linux = guest::linux(&Report::new(), Release::Stable, Freshness::Cached)?;
    link(
        name,
        directory,
        &["--kernel".as_ref(), linux.kernel.as_os_str()],
    )
}

fn link(name: &str, directory: &Path, options: &[&OsStr]) -> Result<PathBuf> {
    let object = directory.join(format!("{name}.bpf.o"));
    let linked = directory.join(format!("{name}.lp"));
    let sources = workspace::root().join("tools/periscope/examples");
    let mut clang = Command::new("clang");
    clang.args(["-O2", "-g", "-target", "bpf", "-c"]);
    clang.arg(sources.join(format!("{name}.bpf.c")));
    process::run(clang.arg("-o").arg(&object))?;
    let mut periscope = process::cargo();
    periscope.args(["run", "--quiet", "--package", "periscope", "--", "link"]);
    periscope.arg(&object).arg("-o").arg(&linked).args(options);
    process::run(&mut periscope)?;
    Ok(linked)
}
