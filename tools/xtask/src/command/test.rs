//! `cargo xtask test`.

use crate::build::Program;
use crate::guest::{self, Freshness, Release};
use crate::process;
use crate::report::Report;
use crate::setup::lldb;
use crate::setup::packages;
use crate::setup::toolchain::BareToolchain;
use crate::workspace;
use anyhow::{Context, Result, bail};
use std::fs;
use std::process::Command;

/// QEMU's CPU models beside the default `cortex-a72`, with their cheap pointer authentication.
const MORE_MODELS: [&str; 2] = ["neoverse-n1", "max,pauth-impdef=on"];
/// Set for the long tests to be there.
const FULL: &str = "PERISCOPE_FULL";
/// End-to-end tests that `--full` repeats on these models.
const ON_EVERY_MODEL: [&str; 2] = ["tiny_vm", "linux"];

/// Test everything: formatting, lints, the host's unit tests, and real debuggers against real guests.
///
/// The end is cargo's own summary. Everything that a test needs is found or installed first.
#[derive(clap::Args)]
pub struct Args {
    /// Also the long tests: all CPU models, Debian's other kernels, the soak, the storm.
    #[arg(long)]
    full: bool,
    /// Only tests whose names contain one of these.
    #[arg(value_name = "FILTER")]
    filters: Vec<String>,
    /// Options of the test runner, such as `--exact` or `--skip NAME`.
    #[arg(last = true, value_name = "OPTION")]
    options: Vec<String>,
}

/// Runs the subcommand.
pub fn run(args: &Args) -> Result<()> {
    let report = Report::new();
    let toolchain = BareToolchain::find_or_install(&report)?;
    report.done("toolchain", &toolchain.describe());
    packages::find_or_install(&report)?;
    let linux = guest::linux(&report, Release::Stable, Freshness::Cached)?;
    report.done("guest kernel", &linux.describe()?);
    let tools = guest::libbpf_tools(&report, Freshness::Cached)?;

    process::run(process::cargo().args(["fmt", "--all", "--check"]))
        .context("the formatting differs from rustfmt's: run `cargo fmt --all`")?;
    report.done("formatting", "as rustfmt has it");
    for program in Program::ALL {
        program.build(&toolchain)?;
    }
    process::run(host_packages(process::cargo().arg("clippy")).args(["--", "-Dwarnings"]))?;
    report.done("lints", "none");

    let mut tests = process::cargo();
    host_packages(tests.args(["test", "--no-fail-fast"]));
    tests
        .env("PERISCOPE_KERNEL_IMAGE", &linux.kernel)
        .env("PERISCOPE_INITRD", &linux.initrd)
        .env("PERISCOPE_LIBBPF_TOOLS", &tools);
    if let Some(lldb) = lldb::newest_installed() {
        tests.env("LLDB", lldb);
    }
    if args.full {
        let large_pages = guest::linux(&report, Release::Stable16K, Freshness::Cached)?;
        report.done("guest kernel", &large_pages.describe()?);
        let oldstable = guest::linux(&report, Release::Oldstable, Freshness::Cached)?;
        report.done("guest kernel", &oldstable.describe()?);
        tests
            .env(FULL, "1")
            .env("PERISCOPE_OLDSTABLE_IMAGE", &oldstable.kernel);
    }
    check_filters(args)?;
    run_tests(&mut tests, args)?;
    if args.full {
        for model in MORE_MODELS {
            report.done("CPU model", model);
            let mut tests = process::cargo();
            tests.args(["test", "--no-fail-fast", "--package", "e2e"]);
            tests.args(ON_EVERY_MODEL.iter().flat_map(|name| ["--test", name]));
            tests.env("PERISCOPE_CPU", model);
            run_tests(&mut tests, args)?;
        }
    }
    Ok(())
}

/// Refuses a filter that no test's name contains: to run nothing is not to pass.
fn check_filters(args: &Args) -> Result<()> {
    if args.filters.is_empty() {
        return Ok(());
    }
    let every_test = || {
        let mut tests = process::cargo();
        host_packages(tests.arg("test"));
        if args.full {
            // The long tests are there only then.
            tests.env(FULL, "1");
        }
        tests
    };
    // Compilers speak for themselves.
    process::run(every_test().args(["--quiet", "--no-run"]))?;
    let listed = process::output(every_test().args(["--", "--list"]))?;
    let unmatched: Vec<&str> = unmatched(&args.filters, &listed).collect();
    if !unmatched.is_empty() {
        bail!(
            "no test has `{}` in its name: `cargo xtask test -- --list` lists them all",
            unmatched.join("` or `")
        );
    }
    Ok(())
}

/// The filters that match none of the tests in a list of libtest's: `module::name: test`.
fn unmatched<'a>(filters: &'a [String], listed: &str) -> impl Iterator<Item = &'a str> {
    let names = listed
        .lines()
        .filter_map(|line| line.strip_suffix(": test"));
    let names: Vec<&str> = names.collect();
    let unmatched = filters
        .iter()
        .filter(move |filter| !names.iter().any(|name| name.contains(filter.as_str())));
    unmatched.map(String::as_str)
}

/// Runs tests, also the ignored: those need what was found or installed before.
fn run_tests(tests: &mut Command, args: &Args) -> Result<()> {
    let words = args.filters.iter().chain(&args.options);
    let failures = workspace::target_dir().join("failures.txt");
    // What an earlier run has left.
    fs::write(&failures, "").with_context(|| format!("cannot write {}", failures.display()))?;
    tests.env("PERISCOPE_FAILURES", &failures);
    let result = process::run(tests.args(["--", "--include-ignored"]).args(words));
    let failed = fs::read_to_string(&failures).unwrap_or_default();
    if !failed.is_empty() {
        print!("\nEnd-to-end tests that failed:\n\n{failed}");
    }
    result
}

/// All packages of the workspace but those that build for the bare-metal target only.
fn host_packages(cargo: &mut Command) -> &mut Command {
    cargo.arg("--workspace").args(
        Program::ALL
            .iter()
            .flat_map(|program| ["--exclude", program.package()]),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_that_match_nothing_are_found() {
        let filters = ["read", "raed", "test"].map(str::to_owned);
        let listed = "memory::reads_bytes: test\nboots: test\n\n2 tests, 0 benchmarks\n";
        assert_eq!(
            unmatched(&filters, listed).collect::<Vec<_>>(),
            ["raed", "test"]
        );
    }
}
