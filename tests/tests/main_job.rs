//! The main job in short: gdb-multiarch under Debian kernels, `vm1` with two vCPUs and `vm2` with one.

use anyhow::{Context, Result, ensure};
use e2e::{Case, Gdb, MOMENT, Spec, TestMachine, suite};
use std::process::ExitCode;
use std::time::Duration;
use xtask::guest::Release;
use xtask::machine::Start;

/// `AT_FDCWD` (Linux `include/uapi/linux/fcntl.h`): x0 of most calls of `do_sys_openat2`.
const AT_FDCWD: u64 = -100i64 as u64;
/// What no guest of ours may log.
const BAD_WORDS: [&str; 6] = [
    "Oops",
    "BUG:",
    "WARNING:",
    "Call trace",
    "Unable to handle",
    "rcu_sched",
];

const CASES: &[Case<TestMachine>] = &[
    Case {
        name: "both_guests_boot_to_a_shell",
        run: both_guests_boot_to_a_shell,
    },
    Case {
        name: "symbols_come_from_the_guests_memory",
        run: symbols_come_from_the_guests_memory,
    },
    Case {
        name: "a_breakpoint_stops_one_vm",
        run: a_breakpoint_stops_one_vm,
    },
    Case {
        name: "a_probe_counts_exactly",
        run: a_probe_counts_exactly,
    },
    Case {
        name: "output_comes_while_the_guest_runs",
        run: output_comes_while_the_guest_runs,
    },
    Case {
        name: "a_lost_client_leaves_the_guest",
        run: a_lost_client_leaves_the_guest,
    },
    Case {
        name: "the_guests_saw_nothing",
        run: the_guests_saw_nothing,
    },
];

fn main() -> ExitCode {
    suite(boot, CASES)
}

fn boot() -> Result<TestMachine> {
    let spec = Spec::hypervisor()
        .linux(Release::Stable, 2, Start::Immediately)?
        .linux(Release::Stable, 1, Start::Immediately)?;
    let machine = TestMachine::start(spec)?;
    machine.wait_for_shell(1)?;
    machine.wait_for_shell(2)?;
    Ok(machine)
}

fn both_guests_boot_to_a_shell(machine: &TestMachine) -> Result<()> {
    for (vm, cpus) in [(1, "2\n"), (2, "1\n")] {
        let found = machine.console(vm)?.command("nproc", MOMENT)?;
        ensure!(
            found.ends_with(cpus),
            "vm{vm} has `{found}` CPUs, not {cpus}"
        );
    }
    Ok(())
}

fn symbols_come_from_the_guests_memory(machine: &TestMachine) -> Result<()> {
    let mut gdb = machine.gdb(1)?;
    let banner = address_of(&mut gdb, "linux_banner")?;
    let text = gdb.console(&format!("x/s {banner}"))?;
    ensure!(
        text.contains("Linux version 6.12"),
        "linux_banner at {banner} is {text}"
    );
    gdb.detach()
}

fn a_breakpoint_stops_one_vm(machine: &TestMachine) -> Result<()> {
    let mut gdb = machine.gdb(1)?;
    let function = address_of(&mut gdb, "do_sys_openat2")?;
    gdb.console(&format!("break *{function}"))?;
    machine.console(1)?.send("cat /proc/uptime > /dev/null\n")?;
    let stop = gdb.resume_until_stop(MOMENT)?;
    ensure!(stop.reason() == "breakpoint-hit", "{stop:?}");
    ensure!(
        format!("{:#x}", stop.pc()?) == function,
        "not at {function}: {stop:?}"
    );
    let x0 = gdb.value("$x0")?;
    ensure!(x0 == AT_FDCWD, "x0 = {x0:#x}");
    let path = gdb.console("x/s $x1")?;
    ensure!(path.contains("\"/"), "x1 is no absolute path: {path}");
    // The other VM goes on meanwhile.
    let answer = machine
        .console(2)?
        .command("echo vm2 goes $((40 + 2))", MOMENT)?;
    ensure!(answer.contains("vm2 goes 42"), "{answer}");
    gdb.console("delete")?;
    gdb.detach()?;
    machine.console(1)?.expect("guest# ", MOMENT).map(drop)
}

fn a_probe_counts_exactly(machine: &TestMachine) -> Result<()> {
    let mut gdb = machine.gdb(1)?;
    let answer = gdb.console("monitor trace kprobe vm1:ksys_sync count")?;
    ensure!(answer.contains("ksys_sync"), "{answer}");
    gdb.resume()?;
    let both = "for i in 1 2 3 4 5 6 7 8 9 10; do taskset 1 sync & taskset 2 sync; done; wait";
    machine.console(1)?.command(both, MOMENT)?;
    gdb.interrupt()?;
    let list = gdb.console("monitor trace list")?;
    let line = list.lines().find(|line| line.contains("vm1:ksys_sync"));
    let line = line.with_context(|| format!("the probe is gone:\n{list}"))?;
    let numbers = line.split_whitespace().rev().take(2).collect::<Vec<_>>();
    ensure!(numbers == ["0", "20"], "20 hits and 0 missed, not `{line}`");
    gdb.console("monitor trace unkprobe vm1:ksys_sync")?;
    let list = gdb.console("monitor trace list")?;
    ensure!(
        !list.contains("ksys_sync"),
        "the probe is still there:\n{list}"
    );
    gdb.detach()
}

fn output_comes_while_the_guest_runs(machine: &TestMachine) -> Result<()> {
    let mut gdb = machine.gdb(1)?;
    gdb.console("monitor trace kprobe vm1:ksys_sync args")?;
    gdb.resume()?;
    machine.console(1)?.command("sync", MOMENT)?;
    let output = gdb.wait_target_output("ksys_sync x0=", MOMENT)?;
    ensure!(output.contains("[vm1/vcpu"), "{output}");
    gdb.expect_running(Duration::from_millis(500))?;
    gdb.interrupt()?;
    gdb.console("monitor trace unkprobe vm1:ksys_sync")?;
    gdb.detach()
}

fn a_lost_client_leaves_the_guest(machine: &TestMachine) -> Result<()> {
    let mut gdb = machine.gdb(1)?;
    gdb.resume()?;
    drop(gdb);
    let answer = machine
        .console(1)?
        .command("echo vm1 goes $((40 + 2))", MOMENT)?;
    ensure!(answer.contains("vm1 goes 42"), "{answer}");
    machine.gdb(1)?.detach()
}

fn the_guests_saw_nothing(machine: &TestMachine) -> Result<()> {
    for vm in [1, 2] {
        let log = machine.console(vm)?.command("dmesg", MOMENT)?;
        for word in BAD_WORDS {
            ensure!(
                !log.contains(word),
                "vm{vm}'s kernel logged `{word}`:\n{log}"
            );
        }
    }
    Ok(())
}

/// The address of a symbol of vm1 as the target knows it, in hexadecimal.
fn address_of(gdb: &mut Gdb, symbol: &str) -> Result<String> {
    let answer = gdb.console(&format!("monitor gsym {symbol}"))?;
    let address = answer
        .split_whitespace()
        .find(|word| word.starts_with("0x"));
    address
        .map(str::to_owned)
        .with_context(|| format!("no address of {symbol}: {answer}"))
}
