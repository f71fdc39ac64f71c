//! What GDB has evaluated at EL2 in a Debian kernel: conditions, agent-style dprintf, GDB tracepoints. They look at a process'
//! strings and at the kernel's structures.

use super::{FILE, Machine, OTHER_OPENS, at_breakpoint, string_at};
use anyhow::{Context, Result, ensure};
use e2e::{Gdb, LONG, MOMENT};
use std::fs;

/// Opens of another file on each vCPU.
const OPENS: usize = 200;

/// GDB's expression for "the string at x1 is [`FILE`]", by some of its characters: comparing all of it takes a call of a
/// function, which GDB evaluates itself.
fn is_the_file() -> String {
    let bytes = FILE.as_bytes();
    let end = bytes.len();
    let places = [0, 5, end - 1, end];
    let same = places.map(|at| {
        let byte = bytes.get(at).unwrap_or(&0);
        format!("*(unsigned char *)($x1 + {at}) == {byte}")
    });
    same.join(" && ")
}

/// Many files are opened, on both vCPUs; GDB hears of one.
pub fn conditions_and_dprintf_in_the_kernel(machine: &Machine) -> Result<()> {
    let mut linux = machine.linux(1)?;
    let mut gdb = machine.gdb_with_symbols()?;
    gdb.console("set breakpoint condition-evaluation target")?;
    gdb.console("set dprintf-style agent")?;
    let is_the_file = is_the_file();
    gdb.console(&format!("break *do_sys_openat2 if {is_the_file}"))?;
    gdb.resume()?;
    // A file that is there: the shell gives the whole line up where `:` cannot open one.
    let many = format!("for i in $(seq {OPENS}); do : < /proc/version; done");
    linux.begin(&format!("({many}) & {many}; wait; cat {FILE}"))?;
    let stop = gdb.wait_stop(LONG)?;
    at_breakpoint(&stop, "do_sys_openat2")?;
    ensure!(
        string_at(&mut gdb, "$x1")? == FILE,
        "another file: {stop:?}"
    );
    let told = gdb.console("info breakpoints")?;
    ensure!(
        told.contains("(target evals)") && told.contains("already hit 1 time"),
        "{told}"
    );
    let list = gdb.console("monitor trace list")?;
    let row = list.lines().find(|line| line.contains(" condition "));
    let hits = row.and_then(|row| row.split_whitespace().rev().nth(1));
    let hits: usize = hits.context("no breakpoint")?.replace(',', "").parse()?;
    ensure!(hits > 2 * OPENS, "only {hits} evaluations");
    gdb.console("delete")?;

    // `struct open_how` begins with the flags, of which the lowest two say how it is opened.
    gdb.console(
        "dprintf *do_sys_openat2,\"%s opened, mode %lu\\n\", (char *)$x1, *(unsigned long *)$x2 & 3",
    )?;
    gdb.console(&format!("condition $bpnum {is_the_file}"))?;
    gdb.resume()?;
    linux.finish()?;
    linux.run(&format!(
        "for i in 1 2 3; do cat {FILE} /proc/version > /dev/null; done"
    ))?;
    gdb.interrupt()?;
    let line = format!("{FILE} opened, mode 0\n");
    let said = gdb.wait_target_output(&line, MOMENT)?;
    // The one that had stopped is passed without being evaluated again.
    ensure!(said.matches(&line).count() == 3, "{said}");
    ensure!(!said.contains("version opened"), "{said}");
    gdb.console("delete")?;
    gdb.detach()
}

/// A trace run without its client, and what it has collected as a file.
pub fn gdb_tracepoints_collect_and_stay(machine: &Machine) -> Result<()> {
    let mut linux = machine.linux(1)?;
    let mut gdb = machine.gdb_with_symbols()?;
    // By its address: GDB asks for tracepoints before it has symbols of ours, and does not connect where it knows no name.
    let place = gdb.value("(unsigned long)&do_sys_openat2")?;
    gdb.console(&format!("trace *{place:#x} if (int)$x0 == -100"))?;
    let number = gdb.value("$tpnum")?;
    // Not as a string: GDB writes `collect/s` into a file that it then does not open.
    let actions = "\"collect $regs\" \"collect *(char *)$x1@64\"";
    gdb.mi(&format!("-break-commands {number} {actions}"))?;
    gdb.console("set disconnected-tracing on")?;
    gdb.console("tstart")?;
    gdb.console("disconnect")?;
    drop(gdb);
    ensure!(
        linux.run(&format!("cat {FILE}"))?.contains("sysinit"),
        "the guest goes on"
    );

    let mut gdb = machine.gdb()?;
    let status = gdb.mi("-trace-status")?;
    ensure!(status.contains("running=\"1\""), "{status}");
    gdb.console("tstop")?;
    let is_the_file = format!("$_streq((char *)$x1, \"{FILE}\")");
    gdb.console("tfind start")?;
    let mut others = 0;
    while gdb.value(&is_the_file)? == 0 {
        ensure!(
            others < OTHER_OPENS,
            "{FILE} is not among the files that were opened"
        );
        others += 1;
        gdb.console("tfind")?;
    }
    let frame = gdb.value("$trace_frame")?;
    let pc = gdb.value("$pc")?;
    ensure!(pc == place, "the frame is of {pc:#x}");
    let file = std::env::temp_dir().join(format!("periscope-opens-{}.tf", std::process::id()));
    gdb.console("tfind none")?;
    gdb.console(&format!("tsave {}", file.display()))?;
    gdb.console("set disconnected-tracing off")?;
    gdb.console("delete tracepoints")?;
    gdb.detach()?;
    let list = machine.shell("trace list")?;
    ensure!(!list.contains("vm1:"), "a tracepoint is left:\n{list}");

    let mut gdb = Gdb::start()?;
    gdb.console("set architecture aarch64")?;
    gdb.console(&format!("target tfile {}", file.display()))?;
    gdb.console(&format!("tfind {frame}"))?;
    ensure!(gdb.value("$pc")? == pc, "the PC in the file");
    ensure!(gdb.value(&is_the_file)? == 1, "the string in the file");
    fs::remove_file(&file).context("the trace file")
}
