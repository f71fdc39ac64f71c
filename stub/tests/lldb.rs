//! Real LLDB against the server over a fake machine. `cargo xtask test` names the newest; by hand, where it is not called
//! `lldb`: `LLDB=lldb-22 cargo test -p stub --test lldb`.

mod support;

use std::process::Command;
use support::serving::{Serving, assert_in_order, run_client};

/// Connects LLDB to the server, gives it these commands and returns what it printed.
fn lldb(serving: &Serving, commands: &[&str]) -> String {
    let connect = format!("gdb-remote 127.0.0.1:{}", serving.port);
    let lldb = std::env::var("LLDB").unwrap_or_else(|_| "lldb".to_string());
    let mut command = Command::new(lldb);
    command.args(["--no-lldbinit", "-b"]);
    for line in [connect.as_str()].iter().chain(commands) {
        command.args(["-o", line]);
    }
    run_client(&mut command)
}

#[test]
fn attach_look_around_and_go() {
    let serving = Serving::start(2);
    let commands = [
        "register read x3 vbar_el1",
        "register write x5 0x77",
        "register read x5",
        "breakpoint set -a 0x40000014",
        "continue",
        "thread step-inst",
        "register read pc",
        "breakpoint delete 1",
        "disassemble -s 0x40000014 -c 2",
        "watchpoint set expression -s 8 -- 0x40001000",
        "continue",
        "watchpoint delete 1",
        "memory write -s 8 0x40001040 0x55",
        "memory read -s 8 -f x -c 1 0x40001040",
        "process plugin packet monitor trace kprobe work count",
        "detach",
    ];
    let output = lldb(&serving, &commands);
    assert_in_order(
        &output,
        &[
            "Process 1 stopped",
            "x3 = 0x0000000040001000",
            "vbar_el1 = 0x0000000000000000",
            "x5 = 0x0000000000000077",
            "stop reason = breakpoint 1.1",
            "stop reason = instruction step into",
            "pc = 0x0000000040000018",
            "0x40000014: nop",
            "stop reason = watchpoint 1",
            "0x40001040: 0x0000000000000055",
            "probe 1: kprobe vm1:work at 0x40000014, program count",
            "Process 1 detached",
        ],
    );
    // The watchpoint stopped before the store, and LLDB saw what the store wrote.
    let value = |name| {
        output
            .split(name)
            .nth(1)
            .and_then(|rest| rest.lines().next())
    };
    let (old, new) = (value("old value: "), value("\nnew value: "));
    assert!(old.is_some() && old != new, "{output}");
}

#[test]
fn threads_regions_and_expressions() {
    let serving = Serving::start(2);
    let output = lldb(
        &serving,
        &[
            "breakpoint set -a 0x40000014",
            "continue",
            "thread list",
            "thread select 2",
            "register read pc",
            "register write x7 0x1234",
            "thread select 1",
            "register read x7",
            "expression (long)$x3 + 0x10",
            "expression *(long *)($x3 + 0x40) = 55",
            "memory read -s 8 -f d -c 1 0x40001040",
            "memory region 0x40000014",
            "memory region 0",
            "process plugin packet send QNonStop:1",
            "thread step-inst",
            "detach",
        ],
    );
    assert_in_order(
        &output,
        &[
            "stop reason = breakpoint 1.1",
            "thread #1: tid = 0x0001",
            "name = 'vm1/vcpu0', stop reason = breakpoint 1.1",
            "thread #2: tid = 0x0002",
            "name = 'vm1/vcpu1'",
            "pc = 0x00000000400000",
            "x7 = 0x0000000000000000",
            "(long) $0 = 1073745936",
            "(long) $1 = 55",
            "0x40001040: 55",
            "[0x0000000040000000-0x0000000040040000) rwx",
            "[0x0000000000000000-0x0000000001001000) ---",
            "response: E16;",
            "stop reason = instruction step into",
            "Process 1 detached",
        ],
    );
}

#[test]
fn a_stop_probe_is_a_stop_reason() {
    let serving = Serving::start(1);
    let monitor = "process plugin packet monitor trace kprobe work count --stop";
    let output = lldb(&serving, &[monitor, "continue"]);
    assert_in_order(&output, &["stop reason = probe 1: kprobe vm1:work"]);
}
