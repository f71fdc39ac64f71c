//! Compiled programs against interpreted ones, on an emulated CPU: no machine is booted.

use anyhow::{Result, ensure};
use e2e::{Scope, cases, scope};
use std::process::{Command, ExitCode};
use std::time::Duration;
use xtask::build::Program;
use xtask::process;

/// How long the programs of one test may take, on a machine that has much else to do.
const BOUND: Duration = Duration::from_secs(600);

/// How many programs are made and run.
fn programs() -> u64 {
    match scope() {
        Scope::Quick => 4_000,
        Scope::Full => 400_000,
    }
}

fn main() -> ExitCode {
    cases(vec![(
        "compiled_programs_do_what_the_interpreter_does".to_owned(),
        compiled_programs_do_what_the_interpreter_does,
    )])
}

fn compiled_programs_do_what_the_interpreter_does() -> Result<()> {
    let count = programs();
    let mut check = Command::new("qemu-aarch64");
    // Some programs are compiled to the atomic instructions of FEAT_LSE.
    check.args(["-cpu", "max"]).arg(Program::JitCheck.image());
    check.args(["1", &count.to_string()]);
    let said = process::output_bounded(&mut check, BOUND)?;
    let agreed = format!("jit-check: {count} programs agree");
    ensure!(said.starts_with(&agreed), "it said: {said}");
    Ok(())
}
