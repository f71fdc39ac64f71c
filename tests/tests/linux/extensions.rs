//! The extensions of GDB and of LLDB (`tools/gdb`, `tools/lldb`), in the debuggers that users have.

use super::{FILE, Machine, run_to_the_open};
use anyhow::{Context, Result, bail, ensure};
use e2e::{Gdb, LONG, Lldb, MOMENT};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use xtask::workspace;

/// The function with the probe. Every command that the guest runs reads files.
const PLACE: &str = "vfs_read";
/// Reads of one file in parts, each of its own.
const READS: usize = 7;

/// An example as a source of the user's own, under a name that no other case loads.
struct Source(PathBuf);

impl Source {
    fn write(name: &str) -> Result<Self> {
        let example = examples().join("calls.bpf.c");
        let source = workspace::target_dir().join(format!("{name}.bpf.c"));
        fs::copy(example, &source)?;
        Ok(Self(source))
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        // It is but a copy.
        let _ = fs::remove_file(&self.0);
    }
}

fn examples() -> PathBuf {
    workspace::root().join("tools/periscope/examples")
}

/// Keeps what the extensions keep of kernels where the tests' other files are.
fn keep_in_target() -> String {
    let directory = workspace::target_dir();
    format!(
        "import os; os.environ['XDG_CACHE_HOME'] = '{}'",
        directory.display()
    )
}

/// Has GDB read the extension, as a user's `.gdbinit` does.
fn extend(gdb: &mut Gdb) -> Result<()> {
    let extension = workspace::root().join("tools/gdb/periscope.py");
    gdb.console(&format!("source {}", extension.display()))?;
    gdb.console(&format!("python {}", keep_in_target()))
        .map(drop)
}

/// A command fails, and says `wanted`.
fn refused(gdb: &mut Gdb, command: &str, wanted: &str) -> Result<()> {
    let error = gdb.console(command).err();
    let error = error.with_context(|| format!("`{command}` is done"))?;
    ensure!(error.to_string().contains(wanted), "{error}");
    Ok(())
}

/// What GDB's Tab key offers behind `line`.
fn completed(gdb: &mut Gdb, line: &str, wanted: &str) -> Result<()> {
    let offered = gdb.console(&format!("complete {line}"))?;
    ensure!(
        offered.lines().any(|line| line == wanted),
        "no `{wanted}` for `{line}`:\n{offered}"
    );
    Ok(())
}

fn contains(text: &str, wanted: &str) -> Result<()> {
    ensure!(text.contains(wanted), "no `{wanted}` in\n{text}");
    Ok(())
}

pub(super) fn gdb_extension_has_commands(machine: &Machine) -> Result<()> {
    let source = Source::write("gdb_calls")?;
    let path = source.path().display();
    let mut linux = machine.linux(1)?;
    let mut gdb = Gdb::start()?;
    extend(&mut gdb)?;
    refused(&mut gdb, "vm", "not connected")?;
    refused(&mut gdb, "print $_vm()", "not connected")?;
    gdb.connect(machine.machine.ports().vm(1))?;

    let vms = gdb.console("vm")?;
    contains(&vms, "VM   STATE    VCPUS ON\nvm1  stopped  2 of 2\n")?;
    contains(&gdb.console("ksym lookup handle_guest_exit")?, "0x")?;
    contains(&gdb.console("help kprobe")?, "--mode hvc|xn|hw")?;

    // Compiles, links for the kernel that runs, uploads, attaches.
    let said = gdb.console_within(&format!("kprobe vm1:{PLACE} {path}"), LONG)?;
    contains(&said, "program gdb_calls")?;
    contains(&gdb.console("trace list")?, "vm1:vfs_read")?;
    gdb.resume()?;
    linux.run(&format!("dd if={FILE} of=/dev/null bs=1 count={READS}"))?;
    gdb.interrupt()?;
    let dump = gdb.console("map dump gdb_calls counts")?;
    let counts = dump.lines().skip(1).map(|line| {
        let count = line.split_whitespace().last().unwrap_or_default();
        count.replace(',', "").parse().unwrap_or(0)
    });
    ensure!(counts.sum::<usize>() >= READS, "reads in\n{dump}");
    contains(&gdb.console("map")?, "gdb_calls")?;

    completed(
        &mut gdb,
        "kprobe vm1:do_sys_op",
        "kprobe vm1:do_sys_openat2",
    )?;
    completed(&mut gdb, "kprobe vfs_read --mo", "kprobe vfs_read --mode")?;
    completed(&mut gdb, "hprobe handle_guest", "hprobe handle_guest_exit")?;
    completed(&mut gdb, "vm info v", "vm info vm2")?;
    completed(&mut gdb, "map dump gdb_c", "map dump gdb_calls")?;
    completed(
        &mut gdb,
        "map dump gdb_calls c",
        "map dump gdb_calls counts",
    )?;
    completed(&mut gdb, "trace unk", "trace unkprobe")?;
    let file = format!("kprobe vfs_read {path}");
    completed(&mut gdb, file.trim_end_matches("_calls.bpf.c"), &file)?;

    refused(
        &mut gdb,
        "kprobe no_such_function",
        "no symbol no_such_function",
    )?;
    refused(
        &mut gdb,
        "kprobe vfs_read no_such.bpf.o",
        "there is no file no_such.bpf.o",
    )?;
    refused(&mut gdb, "kprobe vfs_read no_such", "no program no_such")?;
    refused(&mut gdb, "map dump gdb_calls nix", "has no map nix")?;
    refused(&mut gdb, "vm start vm9", "no such VM")?;

    for command in ["trace unkprobe vfs_read", "trace unload gdb_calls"] {
        gdb.console(command)?;
    }
    let whole = format!("trace {}", examples().join("opened.bpf.c").display());
    contains(&gdb.console_within(&whole, LONG)?, "program opened")?;
    for command in ["trace detach opened", "trace unload opened"] {
        gdb.console(command)?;
    }
    let id = "hprobe handle_guest_exit";
    contains(&gdb.console(id)?, "hyp:handle_guest_exit")?;
    gdb.console("trace unhprobe handle_guest_exit")?;
    tracepoints_stay(&mut gdb)?;
    gdb.detach()
}

/// GDB's own `trace` is still there, behind ours, and ours has all words of the server's.
fn tracepoints_stay(gdb: &mut Gdb) -> Result<()> {
    gdb.console("trace *0xffff800080000000 if $x0 == 1")?;
    let table = gdb.console("info tracepoints")?;
    contains(&table, "0xffff800080000000")?;
    contains(&table, "trace only if $x0 == 1")?;
    gdb.console("delete tracepoints")?;
    let known =
        "python from periscope_client.language import TRACE_WORDS; print('\\n'.join(TRACE_WORDS))";
    let (ours, theirs) = (
        gdb.console(known)?,
        gdb.console("monitor complete trace ?")?,
    );
    ensure!(
        ours == theirs,
        "the extension knows\n{ours}the server\n{theirs}"
    );
    Ok(())
}

/// A kernel's file is fetched once. Another guest of the same kernel is served from it, though KASLR has put that elsewhere,
/// in a GDB that has just looked at the first one too.
pub(super) fn gdb_extension_keeps_the_kernels_file(machine: &Machine) -> Result<()> {
    let kept = workspace::target_dir().join("periscope/kernels");
    if kept.exists() {
        fs::remove_dir_all(&kept)?;
    }
    let start = || {
        let mut gdb = Gdb::start()?.with_files_of_target()?;
        extend(&mut gdb).map(|()| gdb)
    };
    let mut gdb = start()?;
    let mut first = None;
    for (vm, is_new) in [(1, false), (1, true), (2_u16, false)] {
        if is_new {
            gdb = start()?;
        }
        let truth = machine.linux(vm.into())?.address("do_sys_openat2")?;
        let port = machine.machine.ports().vm(vm);
        gdb.mi_within(&format!("-target-select remote 127.0.0.1:{port}"), LONG)?;
        gdb.wait_stop(MOMENT)?;
        let known = gdb.value("(unsigned long)&do_sys_openat2")?;
        ensure!(known == truth, "GDB has {known:#x}, the guest {truth:#x}");
        contains(&gdb.console("whatis vfs_read")?, "(struct file *, ")?;
        gdb.detach()?;

        let files: Vec<_> = fs::read_dir(&kept)?.collect::<Result<_, _>>()?;
        let [file] = &files[..] else {
            bail!("files of one kernel: {files:?}");
        };
        // Another file has another inode, and another kernel is at another address.
        let inode = file.metadata()?.ino();
        let (known_inode, known_address) = *first.get_or_insert((inode, truth));
        ensure!(inode == known_inode, "vm{vm}: the file was fetched again");
        ensure!(
            (truth == known_address) == (vm == 1),
            "KASLR is on: vm{vm} has it at {truth:#x}"
        );
    }
    Ok(())
}

/// On a CPU with pointer authentication (`--full`) the kernel's return addresses are signed.
pub(super) fn gdb_extension_knows_frames_and_tasks(machine: &Machine) -> Result<()> {
    let mut linux = machine.linux(1)?;
    let mut gdb = machine.gdb_with_symbols()?;
    extend(&mut gdb)?;
    gdb.console("break do_sys_openat2")?;
    gdb.resume()?;
    linux.begin(&format!("cat {FILE}"))?;
    run_to_the_open(&mut gdb)?;
    let said = gdb.console("output $_vm()")?;
    ensure!(said == "\"vm1\"", "$_vm() is {said}");
    let task = gdb.value("$_current()")?;
    ensure!(task == gdb.value("$sp_el0")?, "$_current() is {task:#x}");
    // The command's name is in its task.
    let found = gdb.console(&format!("find /b1 {task:#x}, +16384, 'c', 'a', 't', 0"))?;
    contains(&found, "1 pattern found")?;

    let frames = gdb.console("backtrace")?;
    let in_order = [
        "do_sys_openat2",
        "__arm64_sys_openat",
        "invoke_syscall",
        "do_el0_svc",
        "el0_svc",
        "el0t_64_sync",
    ];
    let found = in_order.map(|function| frames.find(&format!("in {function} ()")));
    ensure!(
        found.iter().all(Option::is_some) && found.is_sorted(),
        "the frames are\n{frames}"
    );
    gdb.console("delete")?;
    // Half way through the prologue, where the return address is signed and not stored yet.
    for _ in 0..4 {
        gdb.mi("-exec-step-instruction")?;
        gdb.wait_stop(MOMENT)?;
        let frames = gdb.console("backtrace 3")?;
        contains(&frames, "in __arm64_sys_openat ()")?;
        contains(&frames, "in invoke_syscall ()")?;
    }
    gdb.detach()?;
    linux.finish().map(drop)
}

pub(super) fn lldb_extension_has_commands(machine: &Machine) -> Result<()> {
    let source = Source::write("lldb_calls")?;
    let path = source.path().display();
    let mut linux = machine.linux(1)?;
    let mut lldb = Lldb::start()?;
    let extension = workspace::root().join("tools/lldb/periscope.py");
    lldb.command(&format!("command script import {}", extension.display()))?;
    lldb.command(&format!("script {}", keep_in_target()))?;
    contains(&lldb.refused("vm")?, "not connected")?;
    lldb.connect(machine.machine.ports().vm(1))?;
    contains(&lldb.command("vm")?, "vm1  stopped  2 of 2\n")?;
    contains(&lldb.command("ksym lookup handle_guest_exit")?, "0x")?;
    contains(&lldb.command("help kprobe")?, "hvc|xn|hw")?;
    let said = lldb.command(&format!("kprobe vm1:{PLACE} {path}"))?;
    contains(&said, "program lldb_calls")?;
    lldb.resume()?;
    linux.run(&format!("dd if={FILE} of=/dev/null bs=1 count={READS}"))?;
    lldb.interrupt()?;
    contains(&lldb.command("map dump lldb_calls counts")?, "KEY")?;
    for (line, wanted) in [
        ("kprobe vm1:do_sys_op", "vm1:do_sys_openat2"),
        ("kprobe vfs_read --mo", "--mode"),
        ("map dump lldb_calls ", "counts"),
        ("periscope trace unk", "unkprobe"),
    ] {
        let complete = format!(
            "script found = lldb.SBStringList(); lldb.debugger.GetCommandInterpreter().HandleCompletion('{line}', {}, 0, 100, \
             found); print('\\n'.join(found))",
            line.len()
        );
        contains(&lldb.command(&complete)?, wanted)?;
    }
    contains(&lldb.command("periscope trace list")?, "vm1:vfs_read")?;
    for (command, wanted) in [
        ("kprobe no_such_function", "no symbol no_such_function"),
        (
            "kprobe vfs_read no_such.bpf.o",
            "there is no file no_such.bpf.o",
        ),
        ("map dump lldb_calls nix", "has no map nix"),
    ] {
        contains(&lldb.refused(command)?, wanted)?;
    }
    for command in ["trace unkprobe vfs_read", "trace unload lldb_calls"] {
        lldb.command(&format!("periscope {command}"))?;
    }
    lldb.command("detach").map(drop)
}
