//! Programs of the `periscope` command's examples, compiled and linked as a user does it.

use anyhow::Result;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use xtask::{process, workspace};

/// Compiles the example NAME in `directory`, and returns the object.
pub fn compile_example(name: &str, directory: &Path) -> Result<PathBuf> {
    let object = directory.join(format!("{name}.bpf.o"));
    compile(&examples().join(format!("{name}.bpf.c")), &object, &[])?;
    Ok(object)
}

/// Compiles and links the example NAME in `directory`, and returns the linked program.
pub fn link_example(name: &str, directory: &Path) -> Result<PathBuf> {
    link_example_with(name, directory, &[])
}

/// The same with more options of `periscope link`.
pub fn link_example_with(name: &str, directory: &Path, options: &[&str]) -> Result<PathBuf> {
    let linked = directory.join(format!("{name}.lp"));
    link(&compile_example(name, directory)?, &linked, options)?;
    Ok(linked)
}

/// Compiles a source with more flags, and links it with more options, into `linked`, whose name the object gets.
pub fn link_source(source: &Path, linked: &Path, flags: &[&str], options: &[&str]) -> Result<()> {
    let object = linked.with_extension("bpf.o");
    compile(source, &object, flags)?;
    link(&object, linked, options)
}

fn compile(source: &Path, object: &Path, flags: &[&str]) -> Result<()> {
    let mut clang = Command::new("clang");
    clang.args(["-O2", "-g", "-target", "bpf", "-I"]);
    clang.arg(examples()).args(flags).arg("-c").arg(source);
    process::run(clang.arg("-o").arg(object))
}

fn link(object: &Path, linked: &Path, options: &[&str]) -> Result<()> {
    let mut words = vec!["link".as_ref(), object.as_os_str()];
    words.extend(["-o".as_ref(), linked.as_os_str()]);
    words.extend(options.iter().map(OsStr::new));
    periscope(&words)
}

fn examples() -> PathBuf {
    workspace::root().join("tools/periscope/examples")
}

/// Runs the `periscope` command.
pub fn periscope(words: &[&OsStr]) -> Result<()> {
    let mut periscope = process::cargo();
    periscope.args(["run", "--quiet", "--package", "periscope", "--"]);
    process::run(periscope.args(words))
}
