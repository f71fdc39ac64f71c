//! `cargo xtask test`.

use crate::build::Program;
use crate::guest::{self, Freshness, Release};
use crate::process;
use crate::report::Report;
use crate::setup::lldb;
use crate::setup::packages;
use crate::setup::toolchain::BareToolchain;
use anyhow::{Context, Result};
use std::process::Command;

/// QEMU's CPU models beside the default `cortex-a72`, with their cheap pointer authentication.
const MORE_MODELS: [&str; 2] = ["neoverse-n1", "max,pauth-impdef=on"];
/// End-to-end tests that `--full` repeats on these models.
const ON_EVERY_MODEL: [&str; 2] = ["tiny_vm", "linux"];

/// Test everything: formatting, lints, the host's unit tests, and real debuggers against real guests.
///
/// The end is cargo's own summary. Everything that a test needs is found or installed first.
#[derive(clap::Args)]
pub struct Args {
    /// Also the long tests: all CPU models, oldstable's kernel, the soak.
    #[arg(long)]
    full: bool,
    /// Only tests whose names contain one of these; options of the runner after `--`.
    #[arg(
        value_name = "FILTER",
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    filters: Vec<String>,
}

/// Runs the subcommand.
pub fn run(args: &Args) -> Result<()> {
    let report = Report::new();
    let toolchain = BareToolchain::find_or_install(&report)?;
    report.done("toolchain", &toolchain.describe());
    packages::find_or_install(&report)?;
    let linux = guest::linux(&report, Release::Stable, Freshness::Cached)?;
    report.done("guest kernel", &linux.describe()?);

    process::run(process::cargo().args(["fmt", "--all", "--check"]))
        .context("the formatting differs from rustfmt's: run `cargo fmt --all`")?;
    report.done("formatting", "as rustfmt has it");
    for program in [Program::Hypervisor, Program::TinyGuest] {
        program.build(&toolchain)?;
    }
    process::run(host_packages(process::cargo().arg("clippy")).args(["--", "-Dwarnings"]))?;
    report.done("lints", "none");

    let mut tests = process::cargo();
    host_packages(tests.args(["test", "--no-fail-fast"]));
    tests
        .env("PERISCOPE_KERNEL_IMAGE", &linux.kernel)
        .env("PERISCOPE_INITRD", &linux.initrd);
    if let Some(lldb) = lldb::newest_installed() {
        tests.env("LLDB", lldb);
    }
    if args.full {
        let oldstable = guest::linux(&report, Release::Oldstable, Freshness::Cached)?;
        report.done("guest kernel", &oldstable.describe()?);
        tests
            .env("PERISCOPE_FULL", "1")
            .env("PERISCOPE_OLDSTABLE_IMAGE", &oldstable.kernel);
    }
    run_tests(&mut tests, &args.filters)?;
    if args.full {
        for model in MORE_MODELS {
            report.done("CPU model", model);
            let mut tests = process::cargo();
            tests.args(["test", "--no-fail-fast", "--package", "e2e"]);
            tests.args(ON_EVERY_MODEL.iter().flat_map(|name| ["--test", name]));
            tests.env("PERISCOPE_CPU", model);
            run_tests(&mut tests, &args.filters)?;
        }
    }
    Ok(())
}

/// Runs tests, also the ignored: those need what was found or installed before.
fn run_tests(tests: &mut Command, filters: &[String]) -> Result<()> {
    process::run(tests.args(["--", "--include-ignored"]).args(filters))
}

/// All packages of the workspace but those that build for the bare-metal target only.
fn host_packages(cargo: &mut Command) -> &mut Command {
    let bare = [Program::Hypervisor, Program::TinyGuest];
    cargo.arg("--workspace").args(
        bare.iter()
            .flat_map(|program| ["--exclude", program.package()]),
    )
}
