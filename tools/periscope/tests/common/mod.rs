//! Compiles with the real clang, links with the real command.

// Each test uses a part of this.
#![allow(dead_code)]

pub mod libbpf;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A directory of its own for a test.
pub fn directory(test: &str) -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(test);
    fs::create_dir_all(&directory).expect("the directory for temporary files should be writable");
    directory
}

fn source_directory(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// Compiles a file of this crate and returns the object.
pub fn compile(source: &str, test: &str, flags: &[&str]) -> PathBuf {
    let stem = Path::new(source).file_stem().and_then(|stem| stem.to_str());
    let output = directory(test).join(format!("{}.o", stem.expect("a source has a name")));
    let status = Command::new("clang")
        .args(["-O2", "-g", "-target", "bpf", "-Wall", "-Werror", "-c"])
        .arg("-I")
        .arg(source_directory("examples"))
        .args(flags)
        .arg(source_directory(source))
        .arg("-o")
        .arg(&output)
        .status()
        .expect("clang should be installed: `cargo xtask setup` does it");
    assert!(status.success(), "{source} should compile");
    output
}

/// Compiles a source text that begins with the header.
pub fn compile_text(text: &str, test: &str, flags: &[&str]) -> PathBuf {
    let source = directory(test).join("test.bpf.c");
    fs::write(&source, format!("#include \"periscope_bpf.h\"\n{text}\n"))
        .expect("the directory for temporary files should be writable");
    compile(
        source.to_str().expect("paths of tests are in UTF-8"),
        test,
        flags,
    )
}

/// Runs `periscope`.
pub fn periscope(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_periscope"))
        .args(args)
        .output()
        .expect("it should start")
}

/// Runs `periscope`, which must succeed, and returns what it prints.
pub fn succeed(args: &[&str]) -> String {
    let output = periscope(args);
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{args:?}: {errors}");
    String::from_utf8(output.stdout).expect("it should print UTF-8")
}

/// Runs `periscope`, which must fail with an error and not die, and returns the error.
pub fn fail(args: &[&str]) -> String {
    let output = periscope(args);
    assert_eq!(output.status.code(), Some(1), "{args:?} should fail");
    String::from_utf8(output.stderr).expect("it should print UTF-8")
}

/// A path as an argument.
pub fn argument(path: &Path) -> &str {
    path.to_str().expect("paths of tests are in UTF-8")
}

/// The bytes of an object's section.
pub fn section(object: &Path, name: &str) -> Vec<u8> {
    use object::{Object as _, ObjectSection as _};
    let bytes = fs::read(object).expect("the object was just compiled");
    let file = object::File::parse(&*bytes).expect("clang writes ELF");
    let section = file
        .section_by_name(name)
        .expect("the object should have that section");
    section.data().expect("a section has data").to_vec()
}
