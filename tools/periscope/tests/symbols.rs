//! `periscope symbols` as a user runs it, and what GDB makes of its file.

use probes::kallsyms::{self, Placement};
use probes::symbols::Symbols;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const STABLE: &str = "PERISCOPE_KERNEL_IMAGE";
const OLDSTABLE: &str = "PERISCOPE_OLDSTABLE_IMAGE";
const SLIDE: u64 = 0x4194_cb40_0000;

fn periscope(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_periscope"))
        .arg("symbols")
        .args(arguments)
        .output()
        .unwrap()
}

fn scratch(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}

#[test]
fn what_is_no_kernel_gets_one_clear_error() {
    let path = scratch("no-kernel");
    fs::write(&path, "just a text\n").unwrap();
    let output = periscope(&["--kernel", path.to_str().unwrap()]);
    assert!(!output.status.success());
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(error.lines().count(), 1);
    assert!(error.contains("not a Linux kernel"), "{error}");
    let missing = periscope(&["--kernel", "/nowhere/Image"]);
    assert!(
        String::from_utf8(missing.stderr)
            .unwrap()
            .contains("cannot read /nowhere/Image")
    );
}

#[test]
#[ignore = "needs kernels in PERISCOPE_KERNEL_IMAGE and gdb-multiarch: cargo xtask test runs it"]
fn gdb_resolves_the_kernels_functions() {
    let stable = std::env::var(STABLE).unwrap_or_else(|_| panic!("{STABLE} names no kernel"));
    check(&stable, &scratch("stable.sym.elf"));
    if let Ok(oldstable) = std::env::var(OLDSTABLE) {
        check(&oldstable, &scratch("oldstable.sym.elf"));
    }
}

fn check(kernel: &str, file: &Path) {
    let image = fs::read(kernel).unwrap_or_else(|error| panic!("{kernel}: {error}"));
    let symbols = kallsyms::find(&image[..], Placement::File).unwrap().symbols;
    let function = symbols.by_name("do_sys_openat2").unwrap().0;
    let start = symbols.image_start().unwrap().0;
    let file = file.to_str().unwrap();
    let moved_base = format!("{:#x}", start + SLIDE);
    let slide = format!("{SLIDE:#x}");

    make(&["--kernel", kernel, "-o", file]);
    expect_function(&gdb(&[&format!("file {file}")], function), function);
    let moved_by_gdb = format!("add-symbol-file {file} -o {slide}");
    expect_function(&gdb(&[&moved_by_gdb], function + SLIDE), function + SLIDE);
    for option in [
        ["--slide", slide.as_str()],
        ["--text-base", moved_base.as_str()],
    ] {
        make(&[&["--kernel", kernel, "-o", file][..], &option[..]].concat());
        expect_function(
            &gdb(&[&format!("file {file}")], function + SLIDE),
            function + SLIDE,
        );
    }
}

fn make(arguments: &[&str]) {
    let output = periscope(arguments);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// What GDB says of the function after `commands`.
fn gdb(commands: &[&str], address: u64) -> String {
    let inside = format!("info symbol {:#x}", address + 4);
    let questions = [
        "info address do_sys_openat2",
        &inside,
        "break do_sys_openat2",
        "whatis do_sys_openat2",
    ];
    let mut gdb = Command::new("gdb-multiarch");
    gdb.args(["-q", "-batch", "-nx"]);
    for command in commands.iter().chain(&questions) {
        gdb.args(["-ex", command]);
    }
    let output = gdb.output().expect("gdb-multiarch runs");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn expect_function(said: &str, address: u64) {
    for line in [
        format!("Symbol \"do_sys_openat2\" is a function at address {address:#x}."),
        "do_sys_openat2 + 4 in section .text".to_string(),
        format!("Breakpoint 1 at {address:#x}"),
        "type = long (int, const char *, struct open_how *)".to_string(),
    ] {
        assert!(said.contains(&line), "no `{line}` in\n{said}");
    }
}
