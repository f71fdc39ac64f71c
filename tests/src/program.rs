//! Programs of the `periscope` command's examples, compiled and linked as a user does it.

use anyhow::Result;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use xtask::{process, workspace};

/// Compiles the example NAME in `directory`, and returns the object.
pub fn compile_example(name: &str, directory: &Path) -> Result<PathBuf> {
    let object = directory.join(format!("{name}.bpf.o"));
    let sources = workspace::root().join("tools/periscope/examples");
    let mut clang = Command::new("clang");
    clang.args(["-O2", "-g", "-target", "bpf", "-c"]);
    clang.arg(sources.join(format!("{name}.bpf.c")));
    process::run(clang.arg("-o").arg(&object))?;
    Ok(object)
}

/// Compiles and links the example NAME in `directory`, and returns the linked program.
pub fn link_example(name: &str, directory: &Path) -> Result<PathBuf> {
    link_example_with(name, directory, &[])
}

/// The same with more options of `periscope link`.
pub fn link_example_with(name: &str, directory: &Path, options: &[&str]) -> Result<PathBuf> {
    let object = compile_example(name, directory)?;
    let linked = directory.join(format!("{name}.lp"));
    let mut words = vec!["link".as_ref(), object.as_os_str()];
    words.extend(["-o".as_ref(), linked.as_os_str()]);
    words.extend(options.iter().map(OsStr::new));
    periscope(&words)?;
    Ok(linked)
}

/// Runs the `periscope` command.
pub fn periscope(words: &[&OsStr]) -> Result<()> {
    let mut periscope = process::cargo();
    periscope.args(["run", "--quiet", "--package", "periscope", "--"]);
    process::run(periscope.args(words))
}
