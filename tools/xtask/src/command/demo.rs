//! `cargo xtask demo`: the main job in a real GDB.

use super::machine_args::MachineArgs;
use super::run;
use crate::guest::READY_MARKER;
use crate::machine::{Config, DEFAULT_BASE, Machine, Transcript};
use crate::process;
use crate::report::Report;
use crate::workspace;
use anyhow::{Context, Result};
use clap::Parser;
use std::fs;
use std::io::{self, IsTerminal, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Bound for the guest's boot.
const BOOT_LIMIT: Duration = Duration::from_secs(180);
/// Bound for the question where vm1's kernel runs.
const QUESTION_LIMIT: Duration = Duration::from_secs(60);
/// What vm1 does meanwhile, so that there is something to see.
const WORKLOAD: &str = "while sleep 1; do cat /proc/uptime > /dev/null; done &\n";
/// What a person would type, after `target remote`.
const SESSION: &str = "\
monitor vm info
break do_sys_openat2
continue
info registers x0 x1 x2 x3
x/s $x1
info threads
monitor vm list
monitor trace kprobe vm1:do_sys_openat2 args
delete 1
# Ctrl-C after five seconds
continue
monitor trace list
";
/// The script's line that stands for a person's Ctrl-C.
const CTRL_C: &str = "# Ctrl-C after five seconds";

/// Show the main job: a stock Debian kernel under the hypervisor, and a stock GDB attached to it from underneath.
///
/// On a terminal GDB's prompt is yours afterwards; leave it with `quit`.
#[derive(clap::Args)]
pub struct Args {
    /// Port of the hyp endpoint; all others keep their distance from it.
    #[arg(long, default_value_t = DEFAULT_BASE, value_name = "P")]
    port_base: u16,
}

/// Runs the subcommand.
pub fn run(args: &Args) -> Result<()> {
    let report = Report::new();
    let base = args.port_base.to_string();
    let two = [
        "demo",
        "--vms=2",
        "--vcpus=2,1",
        "--memory=512M,256M",
        "--port-base",
        &base,
    ];
    let config = MachineArgs::try_parse_from(two)?.config(&report)?;
    let machine = run::boot(&report, &config)?;
    start_workload(&report, &machine)?;
    let symbols = symbol_file(&report, &config)?;
    let script = workspace::image_dir().join("demo.gdb");
    fs::write(&script, gdb_script(config.ports.vm(1)))
        .with_context(|| format!("cannot write {}", script.display()))?;
    println!();
    debug(&symbols, &script)
}

/// Waits for vm1's shell and gives it something to do. The console is free again afterwards.
fn start_workload(report: &Report, machine: &Machine) -> Result<()> {
    let step = report.step("vm1", "booting Linux");
    let mut console = TcpStream::connect(("127.0.0.1", machine.ports.console(1)))?;
    let transcript = Transcript::follow(console.try_clone()?);
    machine
        .emulator
        .wait_for(&transcript, 0, READY_MARKER, BOOT_LIMIT)
        .with_context(|| {
            format!(
                "vm1 does not boot; its console:\n{}",
                transcript.text_from(0)
            )
        })?;
    console.write_all(WORKLOAD.as_bytes())?;
    step.done("Linux is at its shell");
    Ok(())
}

/// A symbol file of vm1's kernel, made from its image alone and moved to where KASLR put it.
fn symbol_file(report: &Report, config: &Config) -> Result<PathBuf> {
    let step = report.step("symbols", "asking vm1 where its kernel runs");
    let endpoint = format!("target remote :{}", config.ports.vm(1));
    let mut gdb = gdb();
    gdb.args([
        "-batch",
        "-ex",
        &endpoint,
        "-ex",
        "monitor vm info",
        "-ex",
        "detach",
    ]);
    // GDB writes what the target says to its standard error.
    let answer = process::output_bounded(&mut gdb, QUESTION_LIMIT)?;
    let base = text_base(&answer).with_context(|| format!("vm1 does not say:\n{answer}"))?;
    step.detail("reading them from the kernel's image");
    let kernel = &config.vms.first().context("no vm1")?.kernel;
    let symbols = workspace::image_dir().join("vm1.sym.elf");
    let mut periscope = process::cargo();
    periscope.args(["run", "--quiet", "--package", "periscope", "--", "symbols"]);
    periscope
        .arg("--kernel")
        .arg(kernel)
        .args(["--text-base", base])
        .arg("-o")
        .arg(&symbols);
    process::output(&mut periscope)?;
    step.done(&format!("kernel text at {base}  {}", symbols.display()));
    Ok(symbols)
}

/// The address in `vm1: Linux 6.12…, text at 0xffff…, 115620 symbols`.
fn text_base(answer: &str) -> Option<&str> {
    answer
        .split_once("text at ")?
        .1
        .split(|end: char| !end.is_ascii_alphanumeric())
        .next()
}

fn gdb() -> Command {
    let mut gdb = Command::new("gdb-multiarch");
    gdb.args(["-nx", "-q"]);
    gdb
}

/// The session as a GDB script that shows each command before it runs it.
fn gdb_script(port: u16) -> String {
    let mut script = "set pagination off\nset confirm off\n".to_owned();
    for line in std::iter::once(format!("target remote :{port}").as_str()).chain(SESSION.lines()) {
        if line == CTRL_C {
            script += "shell (sleep 5; kill -INT $PPID) &\n";
        } else {
            script += &format!("echo (gdb) {line}\\n\n{line}\n");
        }
    }
    script
}

/// Runs GDB on this terminal; where that is a person's, the prompt is the person's in the end.
fn debug(symbols: &Path, script: &Path) -> Result<()> {
    let mut gdb = gdb();
    if !io::stdin().is_terminal() {
        gdb.arg("-batch");
    }
    gdb.arg("-x").arg(script).arg(symbols);
    process::leave_interrupts_to_children();
    process::run(&mut gdb)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_base_is_read_from_the_answer() {
        let answer = "x\nvm1: Linux 6.12.117, text at 0xffffa7c28d600000, 115620 symbols\n";
        assert_eq!(text_base(answer), Some("0xffffa7c28d600000"));
        assert_eq!(text_base("vm1: no kernel found"), None);
    }

    #[test]
    fn the_script_shows_what_it_runs() {
        let script = gdb_script(1234);
        assert!(script.contains("echo (gdb) target remote :1234\\n\ntarget remote :1234\n"));
        assert!(script.contains("kill -INT") && !script.contains('#'));
    }
}
