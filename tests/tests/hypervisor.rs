//! The hypervisor's own troubles: a CPU that dies leaves the others alone. And its other ways in.

use anyhow::{Result, ensure};
use e2e::tiny::Tiny;
use e2e::{Gdb, MOMENT, Spec, TestMachine, cases, named};
use std::process::ExitCode;
use xtask::machine::Start;

fn main() -> ExitCode {
    let crashes = [
        ("panic", "hypervisor panic on cpu3"),
        ("fault", "EL2 fault on cpu3: synchronous exception"),
        ("overflow", "EL2 stack overflow on cpu3"),
    ];
    let mut list = Vec::new();
    for (kind, says) in crashes {
        let name = format!("{kind}_stops_its_cpu_only");
        list.push(named(&name, move || crash(kind, says)));
    }
    list.push(named("gdb_over_the_pl011", gdb_over_the_pl011));
    cases(list)
}

/// Two vCPUs on CPUs 1 and 2, so that CPU 3 has nothing but its crash.
fn spec() -> Spec {
    Spec::hypervisor().tiny_guest(2, Start::Immediately).cpus(4)
}

fn crash(kind: &str, says: &str) -> Result<()> {
    let machine = TestMachine::start(spec().append(&format!("crash={kind}")))?;
    let mut console = machine.console(1)?;
    let mut tiny = Tiny::new(&mut console);
    tiny.wait_ready()?;
    machine.wait_log("cpu3 stopped; the other CPUs go on", MOMENT)?;
    let log = machine.log();
    ensure!(log.contains(says), "the log does not say `{says}`:\n{log}");
    let named = log
        .lines()
        .any(|line| line.starts_with("  #") && line.contains("hypervisor::"));
    ensure!(named, "the backtrace has no names:\n{log}");

    let calls = tiny.run("callboth fn_stp 100")?.number("calls")?;
    ensure!(
        calls == 200,
        "the guest counts {calls} calls instead of 200"
    );
    let mut gdb = machine.gdb(1)?;
    gdb.detach()
}

/// The UART carries a session: GDB starts the machine itself and speaks over its standard output.
fn gdb_over_the_pl011() -> Result<()> {
    let command = spec().append("debug=uart").config()?.command()?;
    let mut gdb = Gdb::start()?;
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let quoted = words.map(|word| format!("'{}'", word.to_string_lossy()));
    let line = quoted.collect::<Vec<_>>().join(" ");
    gdb.mi_within(&format!("-target-select remote | exec {line}"), MOMENT)?;
    gdb.wait_stop(MOMENT)?;
    let threads = gdb.console("info threads")?;
    ensure!(
        threads.contains("vm1/vcpu0"),
        "no vCPU among the threads:\n{threads}"
    );
    let before = gdb.value("$pc")?;
    gdb.mi("-exec-step-instruction")?;
    gdb.wait_stop(MOMENT)?;
    ensure!(
        gdb.value("$pc")? != before,
        "stepi went nowhere from {before:#x}"
    );
    // GDB ends what it has started.
    gdb.console_within("disconnect", MOMENT)?;
    Ok(())
}
