//! Stock Debian kernels under the hypervisor and a stock GDB: vm1 with 2 vCPUs, vm2 beside it, one boot for all cases.

#[path = "linux/expressions.rs"]
mod expressions;
#[path = "linux/extensions.rs"]
mod extensions;

use anyhow::{Context, Result, ensure};
use e2e::{
    Case, Gdb, LONG, Linux, Lldb, MOMENT, Probe, Shell, Spec, Stop, SymbolFile, TestMachine, Trace,
    compile_example, link_example, link_example_with, link_source, periscope, suite,
};
use object::{Object, ObjectSection, ObjectSymbol};
use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::{Duration, Instant};
use xtask::build::Program;
use xtask::guest::{self, Freshness, Release};
use xtask::machine::Start;
use xtask::report::Report;
use xtask::workspace;

/// Where nothing is, neither RAM nor a device.
const NOTHING: u64 = 0x1000_0000;
/// "From the working directory" (Linux `include/uapi/linux/fcntl.h`): x0 of most calls of `do_sys_openat2`.
const AT_FDCWD: u32 = -100_i32 as u32;
/// A file that every guest has.
const FILE: &str = "/etc/inittab";
const TRACING: &str = "/sys/kernel/tracing";
/// How many opens of other files may come before the one that a case waits for.
const OTHER_OPENS: usize = 20;

const CASES: &[Case<Machine>] = &[
    Case {
        name: "boots_and_finds_psci_gic_and_timer",
        run: boots_and_finds_psci_gic_and_timer,
    },
    Case {
        name: "both_cpus_take_interrupts",
        run: both_cpus_take_interrupts,
    },
    Case {
        name: "cpus_go_off_and_on",
        run: cpus_go_off_and_on,
    },
    Case {
        name: "cpus_go_off_and_on_under_gdb",
        run: cpus_go_off_and_on_under_gdb,
    },
    Case {
        name: "access_to_nothing_aborts",
        run: access_to_nothing_aborts,
    },
    Case {
        name: "symbols_come_from_the_guests_memory",
        run: symbols_come_from_the_guests_memory,
    },
    // Before vm2 has other symbols than its kernel's own.
    Case {
        name: "gdb_extension_keeps_the_kernels_file",
        run: extensions::gdb_extension_keeps_the_kernels_file,
    },
    Case {
        name: "a_system_map_gives_the_same_symbols",
        run: a_system_map_gives_the_same_symbols,
    },
    Case {
        name: "the_hypervisor_knows_its_own_functions",
        run: the_hypervisor_knows_its_own_functions,
    },
    Case {
        name: "breakpoint_in_the_kernel",
        run: breakpoint_in_the_kernel,
    },
    Case {
        name: "conditions_and_dprintf_in_the_kernel",
        run: expressions::conditions_and_dprintf_in_the_kernel,
    },
    Case {
        name: "gdb_tracepoints_collect_and_stay",
        run: expressions::gdb_tracepoints_collect_and_stay,
    },
    Case {
        name: "gdb_needs_no_file",
        run: gdb_needs_no_file,
    },
    Case {
        name: "the_kernels_file_is_fetched",
        run: the_kernels_file_is_fetched,
    },
    Case {
        name: "lldb_stops_the_kernel_and_lets_go",
        run: lldb_stops_the_kernel_and_lets_go,
    },
    Case {
        name: "gdb_extension_has_commands",
        run: extensions::gdb_extension_has_commands,
    },
    Case {
        name: "gdb_extension_knows_frames_and_tasks",
        run: extensions::gdb_extension_knows_frames_and_tasks,
    },
    Case {
        name: "lldb_extension_has_commands",
        run: extensions::lldb_extension_has_commands,
    },
    Case {
        name: "only_the_attached_vm_stops",
        run: only_the_attached_vm_stops,
    },
    Case {
        name: "a_lost_client_leaves_the_guest",
        run: a_lost_client_leaves_the_guest,
    },
    Case {
        name: "time_stands_still_while_stopped",
        run: time_stands_still_while_stopped,
    },
    Case {
        name: "the_hypervisor_stops_under_kernels",
        run: the_hypervisor_stops_under_kernels,
    },
    Case {
        name: "kprobe_prints_live",
        run: kprobe_prints_live,
    },
    Case {
        name: "programs_know_the_guests_task",
        run: programs_know_the_guests_task,
    },
    Case {
        name: "programs_read_through_arguments",
        run: programs_read_through_arguments,
    },
    Case {
        name: "programs_take_backtraces",
        run: programs_take_backtraces,
    },
    Case {
        name: "programs_agree_with_the_guests_kernel",
        run: programs_agree_with_the_guests_kernel,
    },
    Case {
        name: "programs_go_on_and_loop",
        run: programs_go_on_and_loop,
    },
    Case {
        name: "kprobe_counts_what_the_guest_counts",
        run: kprobe_counts_what_the_guest_counts,
    },
    Case {
        name: "modes_count_what_the_guest_counts",
        run: modes_count_what_the_guest_counts,
    },
    Case {
        name: "kretprobe_sees_results_and_durations",
        run: kretprobe_sees_results_and_durations,
    },
    Case {
        name: "kretprobes_count_what_the_guest_counts",
        run: kretprobes_count_what_the_guest_counts,
    },
    Case {
        name: "types_come_from_the_guests_memory",
        run: types_come_from_the_guests_memory,
    },
    Case {
        name: "programs_attach_where_their_sections_say",
        run: programs_attach_where_their_sections_say,
    },
    Case {
        name: "trace_shows_records_beside_gdb",
        run: trace_shows_records_beside_gdb,
    },
    Case {
        name: "a_killed_trace_leaves_nothing",
        run: a_killed_trace_leaves_nothing,
    },
    Case {
        name: "gdb_takes_the_endpoint_for_tools",
        run: gdb_takes_the_endpoint_for_tools,
    },
    Case {
        name: "a_process_is_single_stepped_beside_probes",
        run: a_process_is_single_stepped_beside_probes,
    },
    Case {
        name: "tracepoints_watch_a_kernel",
        run: tracepoints_watch_a_kernel,
    },
    Case {
        name: "hprobes_count_what_linux_costs",
        run: hprobes_count_what_linux_costs,
    },
    Case {
        name: "stop_probe_names_itself",
        run: stop_probe_names_itself,
    },
    Case {
        name: "action_at_a_breakpoint",
        run: action_at_a_breakpoint,
    },
    Case {
        name: "wrong_input_says_what_is_wrong",
        run: wrong_input_says_what_is_wrong,
    },
    Case {
        name: "log_is_clean_at_the_end",
        run: log_is_clean_at_the_end,
    },
];

fn main() -> ExitCode {
    suite(boot, CASES)
}

/// The machine of all cases.
struct Machine {
    machine: TestMachine,
    model: String,
    symbols: SymbolFile,
    shell: Mutex<Shell>,
}

fn boot() -> Result<Machine> {
    let spec = Spec::hypervisor()
        .linux_with(
            &[Program::SingleStep, Program::JitCheck],
            Release::Stable,
            2,
            Start::Immediately,
        )?
        .linux(Release::Stable, 1, Start::Immediately)?;
    let model = spec.model().to_owned();
    let machine = TestMachine::start(spec)?;
    // While the guests boot.
    let symbols = SymbolFile::make()?;
    for vm in [1, 2] {
        machine.wait_for_shell(vm)?;
        Linux::new(machine.console(vm)?).quieten()?;
    }
    let shell = Mutex::new(machine.shell()?);
    Ok(Machine {
        machine,
        model,
        symbols,
        shell,
    })
}

impl Machine {
    fn linux(&self, vm: usize) -> Result<Linux<'_>> {
        Ok(Linux::new(self.machine.console(vm)?))
    }

    /// Where vm1's debug endpoint is.
    fn endpoint(&self) -> String {
        format!("localhost:{}", self.machine.ports().vm(1))
    }

    fn gdb(&self) -> Result<Gdb> {
        self.machine.gdb(1)
    }

    /// A GDB that by itself understands the return addresses of this kernel: GDB 13 does not where they are signed.
    fn unwinder(&self) -> Result<Gdb> {
        if self.model.starts_with("max") {
            Gdb::start_as(Gdb::newer()?)
        } else {
            Gdb::start()
        }
    }

    /// A GDB at vm1 that knows the kernel's symbols.
    fn gdb_with_symbols(&self) -> Result<Gdb> {
        let mut gdb = self.gdb()?;
        self.symbols.load(&mut gdb)?;
        Ok(gdb)
    }

    /// A command in the hypervisor's shell.
    fn shell(&self, command: &str) -> Result<String> {
        let mut shell = self
            .shell
            .lock()
            .map_err(|_| anyhow::anyhow!("a case that used the shell has panicked"))?;
        shell.run(command)
    }
}

// ---- The platform ----

fn boots_and_finds_psci_gic_and_timer(machine: &Machine) -> Result<()> {
    let mut linux = machine.linux(1)?;
    let log = linux.run("dmesg")?;
    for line in [
        "psci: PSCIv1.1 detected in firmware.",
        "psci: Trusted OS migration not required",
        "psci: SMC Calling Convention v1.1",
        "GICv3: CPU1: found redistributor 1 ",
        "arch_timer: cp15 timer(s) running at",
        "smp: Brought up 1 node, 2 CPUs",
    ] {
        ensure!(log.contains(line), "no `{line}` in the guest's log:\n{log}");
    }
    let version = linux.run("uname -r")?;
    ensure!(version.contains("-cloud-arm64"), "the guest runs {version}");
    ensure!(linux.run("nproc")?.trim() == "2", "vCPUs of vm1");
    ensure!(
        machine.linux(2)?.run("nproc")?.trim() == "1",
        "vCPUs of vm2"
    );
    // What the workaround queries of SMCCC decide.
    let vulnerable = linux.run("grep -r Vulnerable /sys/devices/system/cpu/vulnerabilities")?;
    ensure!(vulnerable.is_empty(), "unmitigated: {vulnerable}");
    Ok(())
}

/// Interrupts of a kind on each CPU.
fn interrupts(linux: &mut Linux<'_>, kind: &str) -> Result<Vec<u64>> {
    let text = linux.run(&format!("grep {kind} /proc/interrupts"))?;
    let columns = text.split_whitespace().skip(1).take(2);
    columns
        .map(|column| {
            let number = column.parse();
            number.with_context(|| format!("{kind} in /proc/interrupts: {text}"))
        })
        .collect()
}

fn both_cpus_take_interrupts(machine: &Machine) -> Result<()> {
    let mut linux = machine.linux(1)?;
    let before = interrupts(&mut linux, "arch_timer")?;
    linux.run_within("load 1", LONG)?;
    let after = interrupts(&mut linux, "arch_timer")?;
    ensure!(
        before.len() == 2
            && before
                .iter()
                .zip(&after)
                .all(|(before, after)| before < after),
        "timer interrupts went from {before:?} to {after:?}"
    );
    let console = interrupts(&mut linux, "uart-pl011")?;
    ensure!(console.iter().sum::<u64>() > 0, "the UART's interrupts");
    Ok(())
}

fn set_cpu1(linux: &mut Linux<'_>, state: u32) -> Result<String> {
    linux.run(&format!(
        "echo {state} > /sys/devices/system/cpu/cpu1/online; nproc; echo end"
    ))
}

fn cpus_go_off_and_on(machine: &Machine) -> Result<()> {
    let mut linux = machine.linux(1)?;
    for round in 0..4 {
        for (state, expected) in [(0, "1\nend\n"), (1, "2\nend\n")] {
            let said = set_cpu1(&mut linux, state)?;
            ensure!(said == expected, "round {round}, cpu1 {state}: {said}");
        }
    }
    // It works as before.
    ensure!(linux.run("taskset 2 nproc")?.trim() == "1", "on cpu1");
    Ok(())
}

fn cpus_go_off_and_on_under_gdb(machine: &Machine) -> Result<()> {
    let mut linux = machine.linux(1)?;
    let mut gdb = machine.gdb()?;
    for (state, threads) in [(0, 1), (1, 2), (0, 1), (1, 2)] {
        gdb.resume()?;
        let said = set_cpu1(&mut linux, state)?;
        ensure!(said.ends_with("end\n"), "cpu1 {state}: {said}");
        gdb.interrupt()?;
        let seen = gdb.console("info threads")?;
        let count = seen.matches("vm1/vcpu").count();
        ensure!(
            count == threads,
            "cpu1 {state}, but the threads are\n{seen}"
        );
    }
    gdb.detach()?;
    ensure!(linux.run("nproc")?.trim() == "2", "CPUs at the end");
    Ok(())
}

fn access_to_nothing_aborts(machine: &Machine) -> Result<()> {
    let mut linux = machine.linux(1)?;
    for (access, line) in [("", "Read"), (" 7", "Write")] {
        let said = linux.run(&format!("devmem {NOTHING:#x} 32{access}; echo end $?"))?;
        ensure!(
            said.contains("Bus error") && said.contains("end 135"),
            "devmem{access} of nothing: {said}"
        );
        let log = machine.shell("log")?;
        ensure!(
            log.contains(&format!("{line} of {NOTHING:#x}, where nothing is")),
            "no line on the {line} in the log:\n{log}"
        );
    }
    Ok(())
}

// ---- The debugger ----

/// The string at an address in the guest's memory, as GDB reads it.
fn string_at(gdb: &mut Gdb, address: &str) -> Result<String> {
    let said = gdb.console(&format!("x/s {address}"))?;
    let quoted = said.split_once('"').map(|(_, text)| text.trim_end());
    let text = quoted.and_then(|text| text.strip_suffix('"'));
    Ok(text
        .with_context(|| format!("no string in {said}"))?
        .to_owned())
}

fn at_breakpoint(stop: &Stop, function: &str) -> Result<()> {
    ensure!(
        stop.reason() == "breakpoint-hit" && stop.field("func").as_deref() == Some(function),
        "not a breakpoint in {function}: {stop:?}"
    );
    Ok(())
}

/// With a breakpoint on `do_sys_openat2` and a guest that is about to open [`FILE`]: goes on until it does.
fn run_to_the_open(gdb: &mut Gdb) -> Result<Stop> {
    let mut stop = gdb.wait_stop(MOMENT)?;
    for _ in 0..OTHER_OPENS {
        at_breakpoint(&stop, "do_sys_openat2")?;
        if string_at(gdb, "$x1")? == FILE {
            return Ok(stop);
        }
        stop = gdb.resume_until_stop(MOMENT)?;
    }
    anyhow::bail!("{OTHER_OPENS} files were opened and none was {FILE}")
}

fn symbols_come_from_the_guests_memory(machine: &Machine) -> Result<()> {
    let truth = machine.linux(1)?.address("linux_banner")?;
    let mut gdb = machine.gdb()?;
    let said = gdb.console("monitor gsym linux_banner")?;
    ensure!(
        said.contains(&format!("{truth:#x}")),
        "linux_banner is at {truth:#x}, not {said}"
    );
    let banner = gdb.console(&format!("x/s {truth:#x}"))?;
    ensure!(banner.contains("\"Linux version 6.12"), "{banner}");
    gdb.detach()
}

/// `trace loadsyms` for the second VM: what an uploaded System.map or ELF file says, moved by KASLR, is what the kernel itself
/// says.
fn a_system_map_gives_the_same_symbols(machine: &Machine) -> Result<()> {
    const SYMBOLS: [&str; 3] = ["_text", "vfs_read", "jiffies"];
    let mut gdb = machine.machine.gdb(2)?;
    let look_up = |gdb: &mut Gdb| -> Result<Vec<String>> {
        SYMBOLS
            .iter()
            .map(|symbol| gdb.console(&format!("monitor gsym {symbol}")))
            .collect()
    };
    let own = look_up(&mut gdb)?;
    let files = [
        (machine.symbols.system_map()?, "System.map"),
        (machine.symbols.path().to_owned(), "vmlinux"),
    ];
    for (file, name) in files {
        gdb.console_within(&format!("remote put {} {name}", file.display()), LONG)?;
        let said = gdb.console(&format!("monitor trace loadsyms vm2 {name}"))?;
        let moved = format!("symbols from {name}, moved by 0x");
        ensure!(said.contains(&moved), "{said}");
        let loaded = look_up(&mut gdb)?;
        ensure!(loaded == own, "{name} says {loaded:?}, the kernel {own:?}");
    }
    let said = gdb.console("monitor trace kprobe vm2:vfs_read count")?;
    Probe::attached(&said)?;
    gdb.console("monitor trace unkprobe vm2:vfs_read")?;
    gdb.detach()
}

/// `ksym`, both ways.
fn the_hypervisor_knows_its_own_functions(machine: &Machine) -> Result<()> {
    let found = machine.shell("ksym lookup handle_guest_exit")?;
    let row = found.lines().find(|line| line.contains("0x"));
    let row = row.with_context(|| format!("not found: {found}"))?;
    let address = row.split_whitespace().next().unwrap_or_default();
    let back = machine.shell(&format!("ksym lookup {address}"))?;
    ensure!(back.contains("handle_guest_exit"), "{address}: {back}");
    let short = machine.shell("ksym lookup Vm::hold")?;
    ensure!(short.contains("hypervisor::vm::Vm"), "{short}");
    let typo = machine.shell("ksym lookup handle_gest_exit")?;
    ensure!(typo.contains("Did you mean handle_guest_exit"), "{typo}");
    let search = machine.shell("ksym search psci --json")?;
    ensure!(
        search.contains("\"function\":\"hypervisor::psci"),
        "{search}"
    );
    Ok(())
}

fn breakpoint_in_the_kernel(machine: &Machine) -> Result<()> {
    let mut linux = machine.linux(1)?;
    let truth = linux.address("do_sys_openat2")?;
    let mut gdb = machine.gdb_with_symbols()?;
    let known = gdb.value("(unsigned long)&do_sys_openat2")?;
    ensure!(known == truth, "GDB has {known:#x}, the guest {truth:#x}");

    gdb.console("break do_sys_openat2")?;
    gdb.resume()?;
    linux.begin(&format!("cat {FILE}"))?;
    let stop = run_to_the_open(&mut gdb)?;
    // do_sys_openat2(dfd, filename, how): `how` holds flags, mode and resolve.
    ensure!(gdb.value("$x0")? as u32 == AT_FDCWD, "x0");
    let how = ["$x2", "$x2 + 8", "$x2 + 16"]
        .map(|address| gdb.value(&format!("*(unsigned long *)({address})")));
    let [flags, mode, resolve] = how;
    ensure!(flags? & 0b11 == 0, "cat opens for reading");
    ensure!((mode?, resolve?) == (0, 0), "mode and resolve");

    let frames = gdb.console("backtrace")?;
    let in_order = ["do_sys_openat2", "__arm64_sys_openat"];
    let found = in_order.map(|function| frames.find(&format!("in {function} ()")));
    ensure!(
        found[0].is_some() && found[0] < found[1],
        "the frames are\n{frames}"
    );
    let threads = gdb.console("info threads")?;
    for name in ["vm1/vcpu0", "vm1/vcpu1"] {
        ensure!(threads.contains(name), "no {name} in\n{threads}");
    }

    let start = stop.pc()?;
    gdb.console("delete")?;
    gdb.mi("-exec-step-instruction")?;
    let stepped = gdb.wait_stop(MOMENT)?;
    ensure!(stepped.reason() == "end-stepping-range", "{stepped:?}");
    ensure!(
        stepped.pc()? == start + 4,
        "stepped from {start:#x}: {stepped:?}"
    );
    gdb.mi("-exec-finish")?;
    let finished = gdb.wait_stop(MOMENT)?;
    ensure!(
        finished.field("func").as_deref() == Some("__arm64_sys_openat"),
        "finish: {finished:?}"
    );
    let descriptor = gdb.value("$x0")?;
    ensure!(
        (3..1024).contains(&descriptor),
        "the file's descriptor: {descriptor}"
    );

    gdb.detach()?;
    let said = linux.finish()?;
    ensure!(said.contains("sysinit"), "cat printed {said}");
    gdb.connect(machine.machine.ports().vm(1))
        .context("to connect again")?;
    gdb.detach()
}

/// GDB takes symbols, types and arguments from the file that the hypervisor makes of the running kernel.
fn gdb_needs_no_file(machine: &Machine) -> Result<()> {
    let mut linux = machine.linux(1)?;
    let truth = linux.address("do_sys_openat2")?;
    let mut gdb = machine.unwinder()?.with_files_of_target()?;
    let port = machine.machine.ports().vm(1);
    gdb.mi_within(&format!("-target-select remote 127.0.0.1:{port}"), LONG)?;
    gdb.wait_stop(MOMENT)?;
    let known = gdb.value("(unsigned long)&do_sys_openat2")?;
    ensure!(known == truth, "GDB has {known:#x}, the guest {truth:#x}");
    for (command, wanted) in [
        ("ptype struct list_head", "    struct list_head *next;\n"),
        ("ptype struct task_struct", "    struct mm_struct *mm;\n"),
        (
            "info functions ^tcp_v4_rcv$",
            "int tcp_v4_rcv(struct sk_buff *);",
        ),
        (
            "whatis vfs_read",
            "(struct file *, char *, size_t, loff_t *)",
        ),
        ("print (enum pid_type)1", "PIDTYPE_TGID"),
        ("whatis runqueues", "type = struct rq"),
        ("info address linux_banner", "\"linux_banner\" is at 0xffff"),
    ] {
        let said = gdb.console(command)?;
        ensure!(said.contains(wanted), "{command} says {said}");
    }

    gdb.console("break do_sys_openat2")?;
    gdb.resume()?;
    linux.begin(&format!("cat {FILE}"))?;
    let stop = run_to_the_open(&mut gdb)?;
    ensure!(
        stop.pc()? == truth,
        "the breakpoint is at the entry: {stop:?}"
    );
    let arguments = gdb.console("info args")?;
    for wanted in ["dfd = -100\n", &format!("\"{FILE}\"\n"), "how = 0x"] {
        ensure!(arguments.contains(wanted), "the arguments are {arguments}");
    }
    ensure!(
        gdb.value("how->flags")? & 0b11 == 0,
        "cat opens for reading"
    );
    let task = gdb.console("print *(struct task_struct *)$sp_el0")?;
    ensure!(task.contains("comm = \"cat\""), "current is {task}");
    backtrace_is(
        &mut gdb,
        &[
            "do_sys_openat2 (dfd=-100, filename=0x",
            "__arm64_sys_openat (",
            "invoke_syscall (",
            "el0_svc (",
            "el0t_64_sync ()",
        ],
    )?;
    // Nothing says where they are after the first instruction.
    gdb.console("delete")?;
    gdb.mi("-exec-step-instruction")?;
    gdb.wait_stop(MOMENT)?;
    let arguments = gdb.console("info args")?;
    ensure!(
        arguments.contains("dfd = <optimized out>\n"),
        "the arguments are {arguments}"
    );
    gdb.mi("-exec-finish")?;
    let finished = gdb.wait_stop(MOMENT)?;
    let descriptor = finished.field("return-value");
    let descriptor = descriptor.and_then(|text| text.parse().ok());
    ensure!(
        descriptor.is_some_and(|descriptor: u64| (3..1024).contains(&descriptor)),
        "the file's descriptor: {finished:?}"
    );
    backtrace_is(&mut gdb, &["__arm64_sys_openat (", "el0t_64_sync ()"])?;

    // A thread of the kernel's: some have work at every moment.
    gdb.console("break process_one_work")?;
    gdb.resume_until_stop(LONG)?;
    backtrace_is(
        &mut gdb,
        &[
            "process_one_work (worker=0x",
            "worker_thread (",
            "kthread (",
            "ret_from_fork ()",
        ],
    )?;
    gdb.console("delete")?;
    gdb.detach()?;
    linux.finish().map(drop)
}

/// The frames are these from the innermost to the outermost, with others between them, and GDB sees no fault in them.
fn backtrace_is(gdb: &mut Gdb, wanted: &[&str]) -> Result<()> {
    let said = gdb.console("backtrace")?;
    let frames: Vec<&str> = said.lines().filter(|line| line.starts_with('#')).collect();
    let is_at = |frame: Option<&&str>, name: &str| {
        frame.is_some_and(|frame| frame.contains(&format!("in {name}")))
    };
    let mut rest = frames.iter();
    let all_are_there = wanted
        .iter()
        .all(|name| rest.any(|frame| is_at(Some(frame), name)));
    let begins = wanted
        .first()
        .is_some_and(|name| is_at(frames.first(), name));
    let ends = wanted.last().is_some_and(|name| is_at(frames.last(), name));
    ensure!(
        all_are_there && begins && ends && !said.contains("Backtrace stopped"),
        "{wanted:?} are not the frames\n{said}"
    );
    Ok(())
}

/// A file for debuggers that take none from the target, from the VM's endpoint and from that of tools: the same, and not larger
/// than what it is made of asks for.
fn the_kernels_file_is_fetched(machine: &Machine) -> Result<()> {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let tools = format!("127.0.0.1:{}", machine.machine.ports().tools());
    let endpoint = machine.endpoint();
    let mut files = Vec::new();
    for (name, source) in [
        ("vm1.elf", &["--target", &endpoint][..]),
        ("tools.elf", &["--target", &tools, "--vm", "vm1"]),
    ] {
        let path = directory.join(name);
        let mut words = vec!["symbols".as_ref(), "-o".as_ref(), path.as_os_str()];
        words.extend(source.iter().map(|word| OsStr::new(*word)));
        periscope(&words)?;
        files.push(fs::read(path)?);
    }
    ensure!(files[0] == files[1], "two endpoints have two files");
    let file = object::File::parse(&files[0][..])?;
    let size = |name| {
        file.section_by_name(name)
            .map_or(0, |section| section.size())
    };
    let debug = size(".debug_info") + size(".debug_loclists") + size(".debug_str");
    let names = file
        .symbols()
        .map(|symbol| symbol.name().map_or(0, str::len));
    let symbols = 25 * file.symbols().count() + names.sum::<usize>();
    let types = directory.join("of-file.btf");
    let kernel = guest::linux(&Report::new(), Release::Stable, Freshness::Cached)?.kernel;
    periscope(&[
        "btf".as_ref(),
        "-o".as_ref(),
        types.as_os_str(),
        kernel.as_os_str(),
    ])?;
    let types = fs::metadata(&types)?.len();
    let frames = size(".debug_frame");
    ensure!(
        files[0].len() <= (debug + frames) as usize + symbols + (64 << 10),
        "{} bytes, {debug} of them about types, {frames} about frames, {symbols} about symbols",
        files[0].len()
    );
    let is_function = |symbol: &object::Symbol<'_, '_>| symbol.kind() == object::SymbolKind::Text;
    let functions = file.symbols().filter(is_function).count() as u64;
    ensure!(
        (24 * functions..64 * functions).contains(&frames),
        "{frames} bytes about the frames of {functions} functions"
    );
    ensure!(
        debug <= 2 * types,
        "{debug} bytes of {types} bytes of types"
    );
    let id = file.build_id()?.context("no build ID")?;
    let notes = machine
        .linux(1)?
        .run("od -An -v -tx1 /sys/kernel/notes | tr -d ' \\n'")?;
    let digits: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
    ensure!(
        notes.contains(&digits),
        "the build ID {digits} is not in {notes}"
    );
    Ok(())
}

fn lldb_stops_the_kernel_and_lets_go(machine: &Machine) -> Result<()> {
    let mut linux = machine.linux(1)?;
    let function = linux.address("do_sys_openat2")?;
    let mut lldb = Lldb::start()?;
    lldb.connect(machine.machine.ports().vm(1))?;
    lldb.command(&format!("breakpoint set --address {function:#x}"))?;
    lldb.resume()?;
    linux.begin(&format!("cat {FILE}"))?;
    let stop = lldb.wait_stop(MOMENT)?;
    ensure!(stop.contains("stop reason = breakpoint 1.1"), "{stop}");
    ensure!(lldb.register("pc")? == function, "pc at the breakpoint");
    ensure!(lldb.register("x0")? as u32 == AT_FDCWD, "x0");
    let path = lldb.command("memory read --format c-string --count 1 $x1")?;
    ensure!(path.contains("\"/"), "x1 is no absolute path: {path}");
    let list = lldb.command("process plugin packet monitor trace list")?;
    // By its address, or by its name where a case before has asked for symbols.
    ensure!(list.contains("  break  vm1:"), "{list}");

    lldb.command("breakpoint delete --force")?;
    lldb.resume()?;
    ensure!(linux.finish()?.contains("sysinit"), "cat goes on");
    lldb.interrupt()?;
    lldb.command("detach")?;
    ensure!(linux.run("echo alive")?.trim() == "alive", "vm1 goes on");
    Ok(())
}

fn only_the_attached_vm_stops(machine: &Machine) -> Result<()> {
    let (mut one, mut two) = (machine.linux(1)?, machine.linux(2)?);
    let mut gdb = machine.gdb()?;
    one.begin("echo alive; echo end")?;
    let list = machine.shell("vm list")?;
    let state = |vm| list.lines().find(|line| line.starts_with(vm));
    ensure!(
        state("vm1").is_some_and(|line| line.contains("stopped")),
        "{list}"
    );
    ensure!(
        state("vm2").is_some_and(|line| line.contains("running")),
        "{list}"
    );
    for _ in 0..3 {
        ensure!(two.run("echo alive")?.trim() == "alive", "vm2 at its shell");
    }
    one.expect_silence(Duration::from_secs(1))?;
    gdb.detach()?;
    ensure!(one.finish()?.contains("alive\nend"), "vm1 goes on");
    Ok(())
}

/// GDB is killed while the guest runs, and while it stands at a breakpoint.
fn a_lost_client_leaves_the_guest(machine: &Machine) -> Result<()> {
    let mut linux = machine.linux(1)?;
    let mut gdb = machine.gdb()?;
    gdb.resume()?;
    drop(gdb);
    ensure!(linux.run("echo alive")?.trim() == "alive", "vm1 goes on");

    let mut gdb = machine.gdb_with_symbols()?;
    gdb.console("break do_sys_openat2")?;
    gdb.resume()?;
    linux.begin(&format!("cat {FILE}"))?;
    at_breakpoint(&gdb.wait_stop(MOMENT)?, "do_sys_openat2")?;
    let list = machine.shell("trace list")?;
    ensure!(list.contains("vm1:do_sys_openat2"), "{list}");
    drop(gdb);
    ensure!(linux.finish()?.contains("sysinit"), "the stopped call");
    ensure!(linux.run("echo alive")?.trim() == "alive", "vm1 goes on");
    let list = machine.shell("trace list")?;
    ensure!(!list.contains("vm1:"), "a breakpoint is left:\n{list}");
    machine.gdb()?.detach()
}

/// Seconds since the guest's boot.
fn uptime(linux: &mut Linux<'_>) -> Result<f64> {
    let text = linux.run("cat /proc/uptime")?;
    let seconds = text.split_whitespace().next().unwrap_or_default();
    seconds
        .parse()
        .with_context(|| format!("uptime of `{text}`"))
}

fn time_stands_still_while_stopped(machine: &Machine) -> Result<()> {
    const STOPPED: Duration = Duration::from_secs(3);
    let mut linux = machine.linux(1)?;
    let started = Instant::now();
    let before = uptime(&mut linux)?;
    let mut gdb = machine.gdb()?;
    std::thread::sleep(STOPPED);
    gdb.detach()?;
    let guest = uptime(&mut linux)? - before;
    let wall = started.elapsed().as_secs_f64();
    ensure!(
        guest <= wall - STOPPED.as_secs_f64(),
        "in {wall:.2} s, {STOPPED:?} of them stopped, the guest's clock went {guest:.2} s"
    );
    Ok(())
}

/// GDB at `hyp` while both vCPUs of vm1 work: every CPU's stack by DWARF, a breakpoint where every exit comes by, steps over
/// it, and a client that is killed in a stop. The kernels lose no time and go on.
fn the_hypervisor_stops_under_kernels(machine: &Machine) -> Result<()> {
    const STOPPED: Duration = Duration::from_secs(3);
    const HITS: usize = 30;
    let mut linux = machine.linux(1)?;
    let started = Instant::now();
    let before = uptime(&mut linux)?;
    let kernel = machine.shell("vm info vm2")?;
    linux.begin("load 2")?;
    let mut gdb = machine.machine.gdb_of_hypervisor()?;
    for thread in [2, 3, 4] {
        gdb.console(&format!("thread {thread}"))?;
        let trace = gdb.console("backtrace")?;
        ensure!(
            trace.contains("hypervisor::exits::handle_guest_exit")
                && trace.contains("<signal handler called>"),
            "thread {thread}: {trace}"
        );
    }
    // It goes on in the guest's kernel: vm2, on the last CPU, has nothing to do and waits.
    machine.symbols.add(&mut gdb, &kernel)?;
    let trace = gdb.console("backtrace")?;
    let (_, guest) = trace
        .split_once("<signal handler called>")
        .context("no guest")?;
    ensure!(
        guest.contains("cpu_do_idle") && guest.contains("default_idle_call"),
        "{trace}"
    );
    std::thread::sleep(STOPPED);
    gdb.console("break handle_guest_exit")?;
    let mut seen = [false; 5];
    for _ in 0..HITS {
        let stop = gdb.resume_until_stop(MOMENT)?;
        ensure!(stop.reason() == "breakpoint-hit", "{stop:?}");
        let thread = stop.field("thread-id").and_then(|id| id.parse().ok());
        let thread: usize = thread.with_context(|| format!("{stop:?}"))?;
        *seen.get_mut(thread).context("a thread of no CPU")? = true;
        let at = gdb.value("$pc")?;
        gdb.mi("-exec-step-instruction")?;
        let stop = gdb.wait_stop(MOMENT)?;
        ensure!(stop.reason() == "end-stepping-range", "{stop:?}");
        ensure!(gdb.value("$pc")? != at, "no step from {at:#x}");
    }
    ensure!(seen[2] && seen[3], "exits by thread: {seen:?}");
    gdb.console("delete")?;
    gdb.resume()?;
    let loaded = linux.finish()?;
    ensure!(loaded.contains("load: done"), "{loaded}");
    gdb.interrupt()?;
    gdb.detach()?;
    let guest = uptime(&mut linux)? - before;
    let wall = started.elapsed().as_secs_f64();
    ensure!(
        guest <= wall - STOPPED.as_secs_f64(),
        "in {wall:.2} s, {STOPPED:?} of them stopped, the guest's clock went {guest:.2} s"
    );

    let mut gdb = machine.machine.gdb_of_hypervisor()?;
    gdb.console("break handle_guest_exit")?;
    gdb.resume_until_stop(MOMENT)?;
    drop(gdb);
    ensure!(linux.run("echo vm1 goes on")?.contains("vm1 goes on"));
    let other = machine.linux(2)?.run("echo vm2 goes on")?;
    ensure!(other.contains("vm2 goes on"), "{other}");
    Ok(())
}

// ---- Probes ----

/// The number of the probe that `trace kprobe` or `trace attach` says it has attached.
fn probe_id(said: &str) -> Result<u32> {
    let id = said.split_whitespace().nth(1);
    let id = id.and_then(|word| word.trim_end_matches(':').parse().ok());
    id.with_context(|| format!("not attached: {said}"))
}

/// The row of a probe in the table of `trace list`.
fn row(table: &str, id: u32) -> Result<Vec<&str>> {
    let mut rows = table.lines().map(|line| line.split_whitespace().collect());
    rows.find(|row: &Vec<&str>| row.first() == Some(&id.to_string().as_str()))
        .with_context(|| format!("no probe {id} in\n{table}"))
}

fn number(text: &str) -> Result<u64> {
    let digits = text.replace(',', "");
    digits
        .parse()
        .with_context(|| format!("`{text}` is no number"))
}

/// Hits of a probe; none may have been missed.
fn hits(table: &str, id: u32) -> Result<u64> {
    let row = row(table, id)?;
    let [.., hits, missed] = row[..] else {
        anyhow::bail!("no hits in {row:?}");
    };
    ensure!(missed == "0", "missed hits: {row:?}");
    number(hits)
}

fn kprobe_prints_live(machine: &Machine) -> Result<()> {
    /// Nobody else reads so much at once.
    const SIZE: u64 = 4321;
    let mut linux = machine.linux(1)?;
    let mut gdb = machine.gdb()?;
    let said = gdb.console("monitor trace kprobe vm1:vfs_read args")?;
    let id = probe_id(&said)?;
    gdb.resume()?;
    linux.run(&format!("dd if={FILE} of=/dev/null bs={SIZE} count=1"))?;
    let wanted = format!(" x2={SIZE:#x} x3=0x");
    let output = gdb.wait_target_output(&wanted, MOMENT)?;
    let line = output.lines().find(|line| line.contains(&wanted));
    let line = line.with_context(|| format!("no whole line in {output}"))?;
    ensure!(
        line.starts_with("[vm1/vcpu") && line.contains("] vfs_read x0=0xfff"),
        "live output: {line}"
    );
    gdb.expect_running(Duration::from_millis(200))?;

    // The same from the shell, while the guest runs.
    let last = machine.shell("trace stream -n 2")?;
    let vm1 = last.lines().filter(|line| line.contains(" vm1/vcpu"));
    ensure!(vm1.count() == 2, "the last two lines:\n{last}");

    gdb.interrupt()?;
    let detached = gdb.console(&format!("monitor trace unkprobe {id}"))?;
    ensure!(detached.contains("detached probe"), "{detached}");
    let list = gdb.console("monitor trace list")?;
    ensure!(row(&list, id).is_err(), "still there:\n{list}");
    gdb.detach()
}

/// A guest that single-steps itself, with our probe on the very function that does it, where its own kprobes may not be.
fn a_process_is_single_stepped_beside_probes(machine: &Machine) -> Result<()> {
    const FUNCTION: &str = "user_enable_single_step";
    let mut linux = machine.linux(1)?;
    let id = probe_id(&machine.shell(&format!("trace kprobe vm1:{FUNCTION}"))?)?;
    let said = linux.run_within("single-step 3", LONG)?;
    let steps = said.trim_end().strip_prefix("single-step: 3 sessions, ");
    let steps = steps.and_then(|text| text.strip_suffix(" steps"));
    let steps = number(steps.with_context(|| said.clone())?)?;
    let counted = last_hits(&machine.shell(&format!("trace unkprobe vm1:{id}"))?)?;
    ensure!(
        counted == steps && steps > 1000,
        "{steps} steps, {counted} hits of {FUNCTION}"
    );
    Ok(())
}

/// What the hypervisor sees of a guest is what the guest sees: its timer's interrupts, its CPUs' going and coming.
fn tracepoints_watch_a_kernel(machine: &Machine) -> Result<()> {
    const WATCHED: &str = "vmm:timer_event vmm:irq_inject psci:cpu_on psci:cpu_off vmm:hypercall";
    let mut linux = machine.linux(1)?;
    let sum = |counts: Vec<u64>| counts.iter().sum::<u64>();
    machine.shell("trace reset")?;
    let on = machine.shell(&format!("trace enable {WATCHED}"))?;
    ensure!(on.contains("vmm:irq_inject is on"), "{on}");
    let before = sum(interrupts(&mut linux, "arch_timer")?);
    linux.run_within("load 1", LONG)?;
    let after = sum(interrupts(&mut linux, "arch_timer")?);
    let taken = after - before;
    let fired = traced(machine, "vmm:timer_event")?;
    // The guest has counted for a shorter time.
    ensure!(
        taken > 0 && fired >= taken,
        "{fired} timer events, {taken} interrupts of the guest"
    );
    ensure!(
        traced(machine, "vmm:irq_inject")? >= taken,
        "injected interrupts for {taken} of the timer"
    );
    for state in [0, 1] {
        set_cpu1(&mut linux, state)?;
    }
    for event in ["psci:cpu_off", "psci:cpu_on"] {
        let count = traced(machine, event)?;
        ensure!(count == 1, "{count} of {event}");
    }
    // CPU_ON at least.
    ensure!(traced(machine, "vmm:hypercall")? >= 1, "hypercalls");
    machine.shell(&format!("trace disable {WATCHED}"))?;
    machine.shell("trace reset").map(drop)
}

/// How often vm1 has had an event; none may have been lost.
fn traced(machine: &Machine, event: &str) -> Result<u64> {
    let table = machine.shell("trace stat")?;
    ensure!(!table.contains("has lost"), "{table}");
    let rows = table
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>());
    let mut own = rows.filter(|row| row.first() == Some(&event) && row.get(2) == Some(&"vm1"));
    let count = own.next().and_then(|row| row.get(3).copied());
    number(count.unwrap_or("0"))
}

/// Those that the image has, to the byte.
fn types_come_from_the_guests_memory(machine: &Machine) -> Result<()> {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let linux = guest::linux(&Report::new(), Release::Stable, Freshness::Cached)?;
    let endpoint = machine.endpoint();
    let sources = [
        ("image.btf", vec![linux.kernel.as_os_str()]),
        ("guest.btf", vec!["--target".as_ref(), endpoint.as_ref()]),
    ];
    let mut types = Vec::new();
    for (name, source) in sources {
        let file = directory.join(name);
        let words = [
            &["btf".as_ref(), "-o".as_ref(), file.as_os_str()],
            &source[..],
        ];
        periscope(&words.concat())?;
        types.push(fs::read(&file)?);
    }
    let lengths: Vec<usize> = types.iter().map(Vec::len).collect();
    ensure!(types[0] == types[1], "other types, of {lengths:?} bytes");
    let said = machine.linux(1)?.run("echo on")?;
    ensure!(said.trim() == "on", "vm1 goes on");
    Ok(())
}

/// What a trace leaves where it has ended: nothing of its probes, programs and maps.
fn footprint(machine: &Machine) -> Result<String> {
    let commands = ["trace list", "trace progs", "map list", "vm memory"];
    let said = commands.map(|command| machine.shell(command));
    Ok(said.into_iter().collect::<Result<Vec<_>>>()?.concat())
}

/// Records come out typed, in order and true to the guest, whether or not GDB stops the VM meanwhile; Ctrl-C takes all
/// of it away.
fn trace_shows_records_beside_gdb(machine: &Machine) -> Result<()> {
    const ROUNDS: usize = 12;
    let object = compile_example("opened", Path::new(env!("CARGO_TARGET_TMPDIR")))?;
    let before = footprint(machine)?;
    let trace = Trace::start(&machine.machine, &object, &["--json", "--maps"])?;
    let mut truth = String::new();
    {
        // Each shell tells who it is and opens a file that is its own.
        let open = |round: usize| {
            format!("sh -c 'read name < /proc/self/comm; echo $$ $name; : > /tmp/opened{round}'; ")
        };
        let rounds = |range: std::ops::Range<usize>| range.map(open).collect::<String>();
        let mut linux = machine.linux(1)?;
        truth += &linux.run(&rounds(0..4))?;
        let mut gdb = machine.gdb()?;
        gdb.resume()?;
        linux.begin(&rounds(4..8))?;
        gdb.interrupt()?;
        gdb.resume()?;
        truth += &linux.finish()?;
        gdb.interrupt()?;
        gdb.detach()?;
        truth += &linux.run(&rounds(8..ROUNDS))?;
    }
    trace.expect(&format!("/tmp/opened{}\"", ROUNDS - 1))?;
    let ended = trace.interrupt()?;
    let rows = ended.rows()?;
    let own = |row: &&serde_json::Value| {
        let path = row["record"]["path"].as_str().unwrap_or_default();
        path.starts_with("/tmp/opened")
    };
    let seen: Vec<_> = rows.iter().filter(own).collect();
    let truth: Vec<_> = truth
        .lines()
        .filter_map(|line| line.trim().split_once(' '))
        .filter_map(|(pid, comm)| Some((pid.parse::<u64>().ok()?, comm)))
        .collect();
    ensure!(
        (seen.len(), truth.len()) == (ROUNDS, ROUNDS),
        "{} records of {ROUNDS}, {truth:?}:\n{:?}",
        seen.len(),
        ended.lines
    );
    for (round, (row, (pid, comm))) in seen.iter().zip(truth).enumerate() {
        let record = serde_json::json!({
            "pid": pid, "access": "WRITE", "creates": 1, "comm": comm, "path": format!("/tmp/opened{round}"),
        });
        ensure!(row["record"] == record, "{row} is not {record}");
        let whose = (&row["program"], &row["map"], &row["vm"]);
        ensure!(
            whose.0 == "opened" && whose.1 == "events" && whose.2 == "vm1",
            "{row}"
        );
    }
    let times: Vec<_> = seen.iter().map(|row| row["time_ns"].as_u64()).collect();
    ensure!(times.is_sorted(), "{times:?}");
    let is_count = |row: &&serde_json::Value| row["map"] == "commands";
    let counted = rows
        .iter()
        .filter(is_count)
        .any(|row| row["key"]["comm"] == "sh");
    ensure!(counted, "no count of sh in {:?}", ended.lines);
    ensure!(
        ended.summary.contains("opened at vm1:__arm64_sys_openat: ")
            && ended.summary.contains(" hits, 0 missed\nevents: ")
            && ended.summary.contains("nothing was lost"),
        "{}",
        ended.summary
    );
    let after = footprint(machine)?;
    ensure!(after == before, "{after}\nbut before\n{before}");
    Ok(())
}

/// Whoever kills the tool leaves nothing of it at the hypervisor either.
fn a_killed_trace_leaves_nothing(machine: &Machine) -> Result<()> {
    // A linked program this time, which carries the types of its records.
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let linked = link_example_with("opened", directory, &["--target", &machine.endpoint()])?;
    let before = footprint(machine)?;
    let trace = Trace::start(&machine.machine, &linked, &[])?;
    machine.linux(1)?.run("cat /etc/inittab > /dev/null")?;
    trace.expect("opened/events  pid=")?;
    ensure!(footprint(machine)? != before, "the trace takes something");
    trace.kill()?;
    let deadline = Instant::now() + MOMENT;
    loop {
        let after = footprint(machine)?;
        if after == before {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "{after}\nbut before\n{before}");
    }
}

/// GDB has commands and files there, and is told that there is nothing to debug.
fn gdb_takes_the_endpoint_for_tools(machine: &Machine) -> Result<()> {
    let mut gdb = Gdb::start()?;
    let port = machine.machine.ports().tools();
    gdb.console(&format!("target extended-remote 127.0.0.1:{port}"))?;
    let list = gdb.console("monitor vm list")?;
    ensure!(list.contains("vm1  running  2 of 2"), "{list}");
    let mut get = |file: &str| -> Result<String> {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("got");
        gdb.console(&format!("remote get {file} {}", path.display()))?;
        Ok(fs::read_to_string(path)?)
    };
    let banner = get("vm2/linux_banner")?;
    ensure!(banner.starts_with("Linux version "), "{banner}");
    machine.linux(1)?.run("echo on | tr no NO")?;
    let console = get("vm1/console")?;
    ensure!(console.contains("ON\r\n"), "{console}");
    ensure!(!get("vm2/console")?.contains("ON\r\n"), "it is vm1's");
    let log = get("log")?;
    ensure!(log == machine.shell("log")?, "{log}");
    let registers = gdb.console("info registers");
    ensure!(registers.is_err(), "there are none: {registers:?}");
    let said = machine.linux(1)?.run("echo on")?;
    ensure!(said.trim() == "on", "vm1 has not stopped");
    Ok(())
}

/// The guest counts its system calls by probes of its own.
fn programs_attach_where_their_sections_say(machine: &Machine) -> Result<()> {
    const MISSING: u64 = 5;
    const CREATED: u64 = 7;
    let endpoint = machine.endpoint();
    let options = ["--target", &endpoint];
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let linked = link_example_with("openat", directory, &options)?;
    let mut gdb = machine.gdb()?;
    gdb.console(&format!("remote put {} openat.lp", linked.display()))?;
    let loaded = gdb.console("monitor trace load openat.lp")?;
    let programs = ["called: ksyscall/openat", "returned: kretsyscall/openat"];
    for program in programs {
        ensure!(loaded.contains(program), "{loaded}");
    }
    gdb.detach()?;

    let mut linux = machine.linux(1)?;
    let function = "__arm64_sys_openat";
    linux.run(&format!("echo p:mine {function} > {TRACING}/kprobe_events"))?;
    linux.run(&format!("echo 1 > {TRACING}/events/kprobes/mine/enable"))?;
    let attached = machine.shell("trace attach openat vm1")?;
    for (kind, program) in [("kprobe", "called"), ("kretprobe", "returned")] {
        let place = format!(": {kind} vm1:{function} at 0x");
        let line = attached.lines().find(|line| line.contains(&place));
        let runs = format!(", program openat:{program}");
        ensure!(line.is_some_and(|line| line.ends_with(&runs)), "{attached}");
    }
    let before = OpenCounts::read(machine, &mut linux)?;
    linux.run(&format!(
        "for i in $(seq {MISSING}); do cat /none/$i 2> /dev/null; done"
    ))?;
    linux.run(&format!(
        "for i in $(seq {CREATED}); do : > /tmp/created; done"
    ))?;
    let after = OpenCounts::read(machine, &mut linux)?;
    let new = |of: fn(&OpenCounts) -> u64| of(&after) - of(&before);
    let (calls, theirs) = (new(|counts| counts.calls), new(|counts| counts.theirs));
    ensure!(calls == theirs, "we saw {calls} calls, the guest {theirs}");
    let returns = new(|counts| counts.returns);
    ensure!(returns == calls, "{calls} calls and {returns} returns");
    let creating = new(|counts| counts.creating);
    // Every redirection could.
    ensure!(
        creating == MISSING + CREATED,
        "{creating} calls could create a file"
    );
    let failures = new(|counts| counts.failures);
    ensure!(
        (MISSING..calls).contains(&failures),
        "{failures} of {calls} calls failed"
    );

    let detached = machine.shell("trace detach openat")?;
    ensure!(detached.lines().count() == 2, "{detached}");
    let gone = machine.shell("trace unload openat")?;
    ensure!(gone.contains("is gone"), "{gone}");
    remove_own_probe(&mut linux)
}

/// What the example `openat` has counted, and the guest's own probe.
struct OpenCounts {
    calls: u64,
    creating: u64,
    returns: u64,
    failures: u64,
    theirs: u64,
}

impl OpenCounts {
    /// Nothing runs in the guest between the two: what the guest opens to say its count is in both.
    fn read(machine: &Machine, linux: &mut Linux) -> Result<Self> {
        let profile = linux.run(&format!("cat {TRACING}/kprobe_profile"))?;
        let theirs = own_hits(&profile)?;
        let dump = machine.shell("map dump openat counts")?;
        let rows = dump.lines().skip(1);
        let values = rows.filter_map(|row| row.split_whitespace().nth(1).map(number));
        let values = values.collect::<Result<Vec<_>>>()?;
        let [calls, creating, returns, failures] = values[..] else {
            anyhow::bail!("four counts expected:\n{dump}");
        };
        Ok(Self {
            calls,
            creating,
            returns,
            failures,
            theirs,
        })
    }
}

/// The hits of the guest's own probe `mine` in its `kprobe_profile`, missed ones too.
fn own_hits(profile: &str) -> Result<u64> {
    let own = profile
        .lines()
        .find(|line| line.trim().starts_with("mine "));
    let own = own.with_context(|| format!("no probe of the guest's in {profile}"))?;
    let counts = own.split_whitespace().skip(1).map(number);
    Ok(counts.collect::<Result<Vec<_>>>()?.iter().sum())
}

/// Both counts of `vfs_read` at the same instant: that of our program and that of the guest's own kprobe. A breakpoint
/// stops the guest while it reads the latter.
fn both_counts(gdb: &mut Gdb, linux: &mut Linux<'_>) -> Result<(u64, u64)> {
    linux.begin(&format!("cat {TRACING}/kprobe_profile; echo end"))?;
    gdb.wait_stop(MOMENT)?;
    let dump = gdb.console("monitor map dump count count")?;
    let ours = dump
        .lines()
        .nth(1)
        .and_then(|row| row.split_whitespace().nth(1));
    let ours = number(ours.with_context(|| format!("no count in {dump}"))?)?;
    gdb.resume()?;
    Ok((ours, own_hits(&linux.finish()?)?))
}

/// What a program says of the task that calls, as the guest itself knows it.
fn programs_know_the_guests_task(machine: &Machine) -> Result<()> {
    let linked = link_example("opens", Path::new(env!("CARGO_TARGET_TMPDIR")))?;
    let mut gdb = machine.gdb()?;
    gdb.console(&format!("remote put {} opens.lp", linked.display()))?;
    gdb.detach()?;
    let said = machine.shell("trace kprobe vm1:do_sys_openat2 opens")?;
    let id = probe_id(&said)?;
    let mut linux = machine.linux(1)?;
    let root = linux.run(&format!("echo $$; : < {FILE}"))?;
    linux.run("echo user:x:1000:100::/:/bin/sh > /etc/passwd")?;
    let command = format!("echo $$; exec cat {FILE}");
    let user = linux.run(&format!(
        "start-stop-daemon -S -c user -p /none -x /bin/sh -- -c '{command}'; rm /etc/passwd"
    ))?;
    let [root, user] = [&root, &user].map(|said| said.lines().next().unwrap_or_default().trim());
    let seen = machine.shell("trace stream -n 100 --filter print")?;
    for wanted in [
        format!("sh (process {root}, user 0, group 0) opens {FILE}"),
        format!("cat (process {user}, user 1000, group 100) opens {FILE}"),
    ] {
        ensure!(seen.contains(&wanted), "no {wanted:?} in\n{seen}");
    }
    machine.shell(&format!("trace unkprobe vm1:{id}"))?;
    machine.shell("trace unload opens").map(drop)
}

/// What programs find through a function's arguments is what the guest knows; an address where nothing is leads to 0.
fn programs_read_through_arguments(machine: &Machine) -> Result<()> {
    const COOKIE: u64 = 4711;
    let endpoint = machine.endpoint();
    let source = workspace::root().join("tests/bpf/reads.bpf.c");
    // Nobody else reads so much at once.
    for (name, flags, size) in [
        ("reads", &[][..], 4322),
        ("interpreted", &["-DINTERPRETED"][..], 4323),
    ] {
        let linked = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.lp"));
        let set = format!("size={size}");
        let options = ["--target", &endpoint, "--set", &set];
        link_source(&source, &linked, flags, &options)?;
        let mut gdb = machine.gdb()?;
        gdb.console(&format!("remote put {} {name}.lp", linked.display()))?;
        gdb.detach()?;
        let attached = machine.shell(&format!("trace attach {name} vm1 --cookie {COOKIE}"))?;
        for (kind, program) in [("fentry", "enter"), ("fexit", "leave")] {
            let place = format!(": {kind} vm1:vfs_read at 0x");
            let line = attached.lines().find(|line| line.contains(&place));
            let runs = format!(", program {name}:{program}");
            ensure!(line.is_some_and(|line| line.ends_with(&runs)), "{attached}");
        }
        let dump = machine.shell(&format!("ebpf dump {name}:leave --jit"))?;
        let interpreted = dump.contains(":leave is interpreted: instruction ");
        ensure!(interpreted == (name == "interpreted"), "{dump}");

        let mut linux = machine.linux(1)?;
        let truth = linux.run(&format!(
            "stat -c %i {FILE}; stat -f -c %t {FILE}; wc -c < {FILE}"
        ))?;
        let [inode, magic, length] = truth.split_whitespace().collect::<Vec<_>>()[..] else {
            anyhow::bail!("it said {truth}");
        };
        let process = linux.run(&format!(
            "sh -c 'echo $$; exec dd if={FILE} of=/dev/null bs={size} count=1 2> /dev/null'"
        ))?;
        let process = process.trim();
        let seen = machine.shell("trace stream -n 100 --filter print")?;
        for wanted in [
            // The exit is that of an HVC.
            format!(
                "enters inode {inode} magic {magic} process {process} cookie {COOKIE} vm 1 exit 16"
            ),
            format!(
                "leaves inode {inode}, {length} and {length} of {size} bytes, of 4 arguments, nowhere 0 0"
            ),
        ] {
            ensure!(seen.contains(&wanted), "{name}: no {wanted:?} in\n{seen}");
        }
        let errors = linux.run("dmesg | grep -ci 'unable to handle\\|oops'; true")?;
        ensure!(errors.trim() == "0", "the guest has met {errors} errors");
        let detached = machine.shell(&format!("trace detach {name}"))?;
        ensure!(detached.lines().count() == 2, "{detached}");
        let gone = machine.shell(&format!("trace unload {name}"))?;
        ensure!(gone.contains("is gone"), "{gone}");
    }
    Ok(())
}

/// The guest's own kernel verifies, compiles and runs random programs; so do we, in one of its processes.
fn programs_agree_with_the_guests_kernel(machine: &Machine) -> Result<()> {
    const PROGRAMS: u64 = 1000;
    let said = machine
        .linux(1)?
        .run_within(&format!("jit-check kernel 1 {PROGRAMS}"), LONG)?;
    let counts = said.trim().strip_prefix("jit-check: ");
    let counts = counts.and_then(|rest| rest.strip_suffix(" are too complex"));
    let counts = counts.and_then(|rest| rest.split_once(" programs agree with the kernel, "));
    let (agreed, too_complex) = counts.with_context(|| format!("it said: {said}"))?;
    let (agreed, too_complex) = (number(agreed)?, number(too_complex)?);
    ensure!(
        agreed + too_complex == PROGRAMS && agreed > PROGRAMS / 10 * 9,
        "it said: {said}"
    );
    println!("{agreed} programs agree");
    Ok(())
}

/// Reads are counted by size by programs that a tail call leads to, one of which loops and goes through a map.
fn programs_go_on_and_loop(machine: &Machine) -> Result<()> {
    const LARGE: u64 = 30;
    let linked = link_example("stages", Path::new(env!("CARGO_TARGET_TMPDIR")))?;
    let before = machine.shell("map list")?;
    let mut gdb = machine.gdb()?;
    gdb.console(&format!("remote put {} stages.lp", linked.display()))?;
    let held = gdb.console("monitor map dump stages stages")?;
    let names = |dump: &str| -> Vec<String> {
        let rows = dump.lines().skip(1);
        rows.filter_map(|row| Some(row.split_whitespace().nth(1)?.to_string()))
            .collect()
    };
    ensure!(names(&held) == ["small", "large"], "{held}");
    gdb.detach()?;
    let said = machine.shell("trace attach stages vm1")?;
    ensure!(said.contains("vfs_read"), "{said}");
    let mut linux = machine.linux(1)?;
    let read = |bytes: u64, times: u64| {
        format!("dd if=/dev/zero of=/dev/null bs={bytes} count={times} 2> /dev/null")
    };
    let count = |key: u32| -> Result<u64> {
        let row = machine.shell(&format!("map lookup stages sizes {key}"))?;
        let value = row
            .lines()
            .nth(1)
            .and_then(|row| row.split_whitespace().nth(1));
        number(value.with_context(|| format!("no value in {row}"))?)
    };
    let counts = || Ok::<_, anyhow::Error>([count(16)?, count(18)?]);
    let [first, second] = counts()?;
    linux.run(&read(100_000, LARGE))?;
    linux.run(&read(300_000, LARGE))?;
    let [first_after, second_after] = counts()?;
    // Nobody else reads so much at once.
    let new = [first_after - first, second_after - second];
    ensure!(
        new == [LARGE; 2],
        "{new:?} reads of 100,000 and 300,000 bytes"
    );
    // From now on, they are taken for small ones.
    machine.shell("map update stages stages 1 small")?;
    linux.run(&read(100_000, LARGE))?;
    ensure!(
        counts()? == [first_after, second_after],
        "the exchanged program still ran"
    );
    let said = machine.shell("map update stages stages 1 none");
    ensure!(
        said.as_ref()
            .is_ok_and(|said| said.contains("no program none in the map")),
        "{said:?}"
    );
    let listed = machine.shell("trace list")?;
    ensure!(!listed.contains("(interpreted)"), "{listed}");
    machine.shell("trace detach stages")?;
    machine.shell("trace unload stages")?;
    let after = machine.shell("map list")?;
    ensure!(before == after, "before:\n{before}\nafter:\n{after}");
    Ok(())
}

/// The ways to `vfs_read`, kernel and process: begin with the function, its caller, and lead to where a system call enters.
fn programs_take_backtraces(machine: &Machine) -> Result<()> {
    let linked = link_example("stacks", Path::new(env!("CARGO_TARGET_TMPDIR")))?;
    let mut gdb = machine.gdb()?;
    gdb.console(&format!("remote put {} stacks.lp", linked.display()))?;
    let id = probe_id(&gdb.console("monitor trace kprobe vfs_read stacks")?)?;
    gdb.detach()?;
    machine.linux(1)?.run(&format!("cat {FILE}"))?;
    let mut gdb = machine.gdb()?;
    let traces = gdb.console("monitor map dump stacks traces")?;
    let is_system_call = |line: &&str| {
        line.contains(" vfs_read+0x0 < ksys_read+")
            && line.contains(" < __arm64_sys_read+")
            && line.contains(" < el0_svc+")
            && line.trim_end().contains("el0t_64_sync+")
    };
    let found = traces.lines().find(is_system_call);
    ensure!(found.is_some(), "no way of a system call in\n{traces}");
    // The process' side begins where the system call returns to.
    let is_process = |line: &str| {
        let address = line
            .split_whitespace()
            .nth(1)
            .and_then(|word| word.strip_prefix("0x"));
        address.is_some_and(|digits| u64::from_str_radix(digits, 16).is_ok_and(|at| at >> 48 == 0))
    };
    ensure!(traces.lines().any(is_process), "no process in\n{traces}");
    gdb.console(&format!("monitor trace unkprobe {id}"))?;
    gdb.console("monitor trace unload stacks").map(drop)
}

fn kprobe_counts_what_the_guest_counts(machine: &Machine) -> Result<()> {
    /// Calls on each vCPU, both at once.
    const READS: u64 = 1000;
    let reader = format!("dd if=/dev/zero of=/dev/null bs=1 count={READS} 2> /dev/null");
    let workload = format!("sh -c 'taskset 1 {reader} & taskset 2 {reader}; wait'");
    let mut linux = machine.linux(1)?;
    linux.run(&format!("echo p:mine vfs_read > {TRACING}/kprobe_events"))?;
    linux.run(&format!("echo 1 > {TRACING}/events/kprobes/mine/enable"))?;
    let shows = linux.kallsyms("probes_profile_seq_show")?;
    ensure!(
        !shows.is_empty(),
        "the guest has no probes_profile_seq_show"
    );

    let mut gdb = machine.gdb()?;
    for address in shows {
        gdb.console(&format!("break *{address:#x}"))?;
    }
    let said = gdb.console("monitor trace kprobe vm1:vfs_read count")?;
    let id = probe_id(&said)?;
    gdb.resume()?;
    let (ours, theirs) = both_counts(&mut gdb, &mut linux)?;
    linux.run_within(&workload, LONG)?;
    let (ours_after, theirs_after) = both_counts(&mut gdb, &mut linux)?;
    let (ours_new, theirs_new) = (ours_after - ours, theirs_after - theirs);
    ensure!(
        ours_new == theirs_new && ours_new > 2 * READS,
        "we counted {ours_new} calls of vfs_read, the guest {theirs_new}"
    );
    ensure!(hits(&machine.shell("trace list")?, id)? >= ours_new, "hits");

    gdb.interrupt()?;
    gdb.console("monitor trace unkprobe vm1:vfs_read")?;
    gdb.console("delete")?;
    gdb.detach()?;
    remove_own_probe(&mut linux)?;
    Ok(())
}

/// The guest's own kprobe, `mine`, is gone.
fn remove_own_probe(linux: &mut Linux) -> Result<()> {
    linux.run(&format!("echo 0 > {TRACING}/events/kprobes/mine/enable"))?;
    linux.run(&format!("echo > {TRACING}/kprobe_events"))?;
    Ok(())
}

/// The modes without a probe instruction, where the guest's own probe has one.
fn modes_count_what_the_guest_counts(machine: &Machine) -> Result<()> {
    /// Nothing else calls it.
    const FUNCTION: &str = "__arm64_sys_umask";
    const CALLS: u64 = 200;
    let calls = format!("i=0; while [ $i -lt {CALLS} ]; do umask 022; i=$((i+1)); done");
    let workload = format!("(taskset 1 sh -c '{calls}') & taskset 2 sh -c '{calls}'; wait");
    let mut linux = machine.linux(1)?;
    for mode in ["hvc", "xn", "hw"] {
        linux.run(&format!("echo p:mine {FUNCTION} > {TRACING}/kprobe_events"))?;
        linux.run(&format!("echo 1 > {TRACING}/events/kprobes/mine/enable"))?;
        let said = machine.shell(&format!("trace kprobe vm1:{FUNCTION} count --mode {mode}"))?;
        let id = probe_id(&said)?;
        linux.run_within(&workload, LONG)?;
        let profile = linux.run(&format!("cat {TRACING}/kprobe_profile"))?;
        let mut theirs = profile
            .split_whitespace()
            .skip_while(|word| *word != "mine");
        let theirs = number(theirs.nth(1).with_context(|| profile.clone())?)?;
        let ours = hits(&machine.shell("trace list")?, id)?;
        ensure!(
            ours == theirs && ours >= 2 * CALLS,
            "{mode}: we counted {ours} calls of {FUNCTION}, the guest {theirs}"
        );
        machine.shell(&format!("trace unkprobe vm1:{id}"))?;
        remove_own_probe(&mut linux)?;
    }
    Ok(())
}

fn kretprobe_sees_results_and_durations(machine: &Machine) -> Result<()> {
    const NO_SUCH_FILE: u64 = -2_i64 as u64;
    let mut linux = machine.linux(1)?;
    let said = machine.shell("trace kprobe vm1:do_sys_openat2 ret --ret")?;
    let id = probe_id(&said)?;
    // The standard streams are 0 to 2.
    linux.run(&format!("cat {FILE} > /dev/null"))?;
    let opened = machine.shell("trace stream -n 100 --filter print")?;
    linux.run("cat /no/such/file 2> /dev/null")?;
    let failed = machine.shell("trace stream -n 100 --filter print")?;
    for (lines, result) in [(&opened, 3), (&failed, NO_SUCH_FILE)] {
        let wanted = format!("x0={result:#x} after ");
        let line = lines.lines().find(|line| line.contains(&wanted));
        let line = line.with_context(|| format!("no {wanted:?} in\n{lines}"))?;
        let duration = line.split(&wanted).nth(1);
        let duration = duration.and_then(|text| text.trim().strip_suffix(" ns"));
        let duration = number(duration.with_context(|| line.to_owned())?)?;
        let plausible = 500..1_000_000_000;
        ensure!(plausible.contains(&duration), "{line}");
    }
    let stat = machine.shell("trace stat")?;
    ensure!(
        stat.contains("vm1:do_sys_openat2"),
        "no statistics:\n{stat}"
    );
    machine.shell(&format!("trace unkprobe vm1:{id}")).map(drop)
}

/// Our return probes beside the guest's own on the same functions. The last one leaves by a tail call.
fn kretprobes_count_what_the_guest_counts(machine: &Machine) -> Result<()> {
    const CALLS: u64 = 300;
    let opens = format!("i=0; while [ $i -lt {CALLS} ]; do : < {FILE}; i=$((i+1)); done");
    let reads = format!("dd if=/dev/zero of=/dev/null bs=1 count={CALLS} 2> /dev/null");
    let mut linux = machine.linux(1)?;
    let shows = linux.kallsyms("probes_profile_seq_show")?;
    for (function, work) in [
        ("do_sys_openat2", &opens),
        ("vfs_read", &reads),
        ("__arm64_sys_read", &reads),
    ] {
        let workload = format!("(taskset 1 sh -c '{work}') & taskset 2 sh -c '{work}'; wait");
        linux.run(&format!("echo r:mine {function} > {TRACING}/kprobe_events"))?;
        linux.run(&format!("echo 1 > {TRACING}/events/kprobes/mine/enable"))?;
        let mut gdb = machine.gdb()?;
        for address in &shows {
            gdb.console(&format!("break *{address:#x}"))?;
        }
        let line = format!("monitor trace kprobe vm1:{function} count --ret");
        let id = probe_id(&gdb.console(&line)?)?;
        gdb.resume()?;
        // The first calls show where they return to.
        linux.run_within(&workload, LONG)?;
        let (ours, theirs) = both_counts(&mut gdb, &mut linux)?;
        linux.run_within(&workload, LONG)?;
        let (ours_after, theirs_after) = both_counts(&mut gdb, &mut linux)?;
        let (ours_new, theirs_new) = (ours_after - ours, theirs_after - theirs);
        ensure!(
            ours_new == theirs_new && ours_new > 2 * CALLS,
            "we counted {ours_new} returns of {function}, the guest {theirs_new}"
        );
        gdb.interrupt()?;
        gdb.console(&format!("monitor trace unkprobe {id}"))?;
        gdb.console("delete")?;
        gdb.detach()?;
        remove_own_probe(&mut linux)?;
    }
    Ok(())
}

/// Every hit in the guest is an exit, and so is much else; interrupts go through the virtual GIC.
fn hprobes_count_what_linux_costs(machine: &Machine) -> Result<()> {
    let places = ["handle_guest_exit", "Vgic::flush", "Vcpu::before_entry"];
    let mut linux = machine.linux(1)?;
    for place in places {
        let said = machine.shell(&format!("trace hprobe {place}"))?;
        ensure!(said.contains("hprobe hyp:"), "{said}");
    }
    let opens = probe_id(&machine.shell("trace kprobe vm1:do_sys_openat2 count")?)?;
    linux.run_within("load 1", LONG)?;
    let opened = last_hits(&machine.shell(&format!("trace unkprobe vm1:{opens}"))?)?;
    let list = machine.shell("trace list")?;
    let rows = list.lines().filter(|line| line.contains(" hyp:"));
    let unmissed = rows.filter(|row| row.trim_end().ends_with(" 0")).count();
    ensure!(unmissed == places.len(), "misses:\n{list}");
    let mut counts = Vec::new();
    for place in places {
        counts.push(last_hits(
            &machine.shell(&format!("trace unhprobe {place}"))?,
        )?);
    }
    let (exits, flushes, entries) = (counts[0], counts[1], counts[2]);
    // How much a second of load is, the machine decides.
    ensure!(opened > 0, "no opens");
    ensure!(exits > opened, "{exits} exits in {opened} opens");
    ensure!(flushes > 0, "no flushes");
    // An exit ends here, but for most hits of the kprobe, which need nothing before the guest goes on. Those of a vCPU that
    // parks meanwhile may lack it too.
    ensure!(
        entries < exits + 10 && exits < entries + opened + 10,
        "{entries} entries after {exits} exits, {opened} of them hits"
    );
    Ok(())
}

/// The hits that detaching a probe tells.
fn last_hits(said: &str) -> Result<u64> {
    let hits = said.trim_end().strip_suffix(" hits");
    let hits = hits.and_then(|text| text.rsplit(' ').next());
    let hits = hits.with_context(|| format!("not detached: {said}"))?;
    hits.parse().with_context(|| format!("hits of `{said}`"))
}

fn stop_probe_names_itself(machine: &Machine) -> Result<()> {
    let mut linux = machine.linux(1)?;
    let mut gdb = machine.gdb_with_symbols()?;
    let said = gdb.console("monitor trace kprobe vm1:do_sys_openat2 args --stop")?;
    let id = probe_id(&said)?;
    gdb.resume()?;
    linux.begin(&format!("cat {FILE}"))?;
    let stop = gdb.wait_stop(MOMENT)?;
    ensure!(
        stop.field("signal-name").as_deref() == Some("SIGTRAP"),
        "a breakpoint stop: {stop:?}"
    );
    ensure!(
        stop.field("func").as_deref() == Some("do_sys_openat2"),
        "{stop:?}"
    );
    let named = format!("probe {id}: kprobe vm1:do_sys_openat2");
    let output = gdb.wait_target_output("stopped vcpu", MOMENT)?;
    ensure!(output.contains(&named), "the stop is told as {output}");
    gdb.console(&format!("monitor trace unkprobe {id}"))?;
    gdb.detach()?;
    linux.finish().map(drop)
}

fn action_at_a_breakpoint(machine: &Machine) -> Result<()> {
    const STOPS: u64 = 3;
    let mut linux = machine.linux(1)?;
    let mut gdb = machine.gdb_with_symbols()?;
    gdb.console("break do_sys_openat2")?;
    let said = gdb.console("monitor trace attach do_sys_openat2 args")?;
    let id = probe_id(&said)?;
    gdb.resume()?;
    linux.begin(&format!("cat {FILE} {FILE} {FILE} {FILE}"))?;
    run_to_the_open(&mut gdb)?;
    let first = hits(&gdb.console("monitor trace list")?, id)?;
    for _ in 1..STOPS {
        gdb.resume()?;
        run_to_the_open(&mut gdb)?;
    }
    // GDB has removed and inserted its breakpoint at every stop.
    let list = gdb.console("monitor trace list")?;
    ensure!(
        hits(&list, id)? >= first + STOPS - 1,
        "{first} hits at first, then\n{list}"
    );
    let lines = gdb.wait_target_output("] do_sys_openat2", MOMENT)?;
    ensure!(lines.contains(" x0=0x"), "the action prints {lines}");

    gdb.console(&format!("monitor trace unkprobe {id}"))?;
    let said = gdb.console("monitor trace attach do_sys_openat2 count --go")?;
    let id = probe_id(&said)?;
    gdb.resume()?;
    linux.finish().context("--go lets the guest pass")?;
    linux.run(&format!("cat {FILE}"))?;
    gdb.expect_running(Duration::from_millis(200))?;
    ensure!(hits(&machine.shell("trace list")?, id)? > 0, "hits of --go");
    gdb.interrupt()?;
    gdb.console(&format!("monitor trace unkprobe {id}"))?;
    gdb.detach()
}

fn wrong_input_says_what_is_wrong(machine: &Machine) -> Result<()> {
    let mut gdb = machine.gdb()?;
    for (command, answer) in [
        (
            "trace kprobe vm1:do_sys_openat args",
            "Did you mean do_sys_openat2",
        ),
        ("trace kprobe vm1:no_such_function_at_all args", "no symbol"),
        (
            "trace kprobe vm0:vfs_read args",
            "vm0 is the hypervisor itself",
        ),
        (
            "trace kprobe vm3:vfs_read args",
            "no such VM: vm3. There are vm1 (stopped), vm2 (running).",
        ),
        (
            "trace kprobe vm1:vfs_read cuont",
            "no program cuont. There are args, count",
        ),
        ("trace kprobe", "usage: trace kprobe"),
        ("trace unkprobe 4711", "4711"),
        ("trace stream -n many", "no number"),
        ("map dump count nix", "count has no map nix. It has count."),
        ("map dump nix nix", "no program nix"),
        ("frobnicate", "`help` shows what there is"),
        ("vm start vm1", "vm1 runs already"),
    ] {
        let said = gdb.console(&format!("monitor {command}"))?;
        ensure!(said.contains(answer), "`{command}`: {said}");
    }
    let fault = gdb.console("x/x 0x123").err();
    let fault = fault.with_context(|| "address 0x123 can be read")?;
    ensure!(fault.to_string().contains("0x123"), "{fault}");
    let list = gdb.console("monitor trace list")?;
    ensure!(!list.contains("vm1:"), "something was attached:\n{list}");
    gdb.detach()?;
    ensure!(
        machine.linux(1)?.run("echo on")?.trim() == "on",
        "vm1 goes on"
    );
    Ok(())
}

fn log_is_clean_at_the_end(machine: &Machine) -> Result<()> {
    const COMPLAINTS: &str = "WARNING|BUG|Call trace|Oops|rcu.*(stall|detected)|soft lockup|hung task|Unexpected|[Bb]ad mode";
    for vm in [1, 2] {
        let mut linux = machine.linux(vm)?;
        let said = linux.run(&format!("dmesg | grep -E '{COMPLAINTS}'; echo end"))?;
        ensure!(said == "end\n", "vm{vm} complains:\n{said}");
        // Levels 0 to 3: emergency, alert, critical, error.
        let errors = linux.run("dmesg -r | grep -E '^<[0-3]>'; echo end")?;
        ensure!(errors == "end\n", "errors of vm{vm}:\n{errors}");
    }
    let log = machine.machine.log();
    let ours = log
        .lines()
        .find(|line| line.contains("ERROR") || line.contains("panic"));
    ensure!(ours.is_none(), "the hypervisor complains: {ours:?}");
    Ok(())
}
