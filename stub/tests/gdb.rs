//! Real GDB against the server over a fake machine.
//!
//! Each test starts the server on a port of the loopback interface and runs `gdb-multiarch` in batch mode.

mod support;

use std::io::Write;
use std::net::TcpStream;
use std::thread;
use std::time::Duration;
use support::serving::{self, Serving, run_gdb};
use support::{AGAIN, DATA, ENTRY, WORK};

/// Connects GDB to the server, gives it these commands and returns what it printed.
fn gdb(serving: &Serving, commands: &[&str]) -> String {
    let connect = format!("target remote 127.0.0.1:{}", serving.port);
    run_gdb(&[&[connect.as_str()], commands].concat())
}

/// The parts are there in this order, and GDB complains about nothing.
#[track_caller]
fn assert_in_order(output: &str, parts: &[&str]) {
    serving::assert_in_order(output, parts);
    for bad in [
        "rror:",
        "Malformed",
        "warning: Architecture",
        "Ignoring packet",
        "Truncated",
    ] {
        assert!(!output.contains(bad), "{output}");
    }
}

#[test]
fn registers_and_memory() {
    let serving = Serving::start(2);
    let output = gdb(
        &serving,
        &[
            "info registers system",
            "info registers x0 pc cpsr",
            "set $x0 = 0x1234",
            "p/x $x0",
            "set $v3.d.u[1] = 0x55",
            "p/x $v3.d.u",
            "set $fpsr = 0x8000000",
            "p/x $fpsr",
            "p/x $fpcr",
            "set $vbar_el1 = 0x8000",
            "p/x $vbar_el1",
            &format!("x/2i {WORK:#x}"),
            &format!("set *(long *){DATA:#x} = 77"),
            &format!("p *(long *){DATA:#x}"),
            "info threads",
        ],
    );
    assert_in_order(
        &output,
        &[
            "sp_el0 ",
            "ttbr1_el1 ",
            "id_aa64pfr0_el1 ",
            "x0 ",
            "cpsr ",
            "$1 = 0x1234",
            "{0x0, 0x55}",
            "= 0x8000000",
            "= 0x0",
            "= 0x8000",
            "nop",
            "add\tx0, x0, #0x1",
            "= 77",
            "* 1 ",
            "\"vm1/vcpu0\"",
            "\"vm1/vcpu1\"",
        ],
    );
}

/// They are nothing as long as the guest signs nothing.
#[test]
fn masks_of_pointers_disturb_nobody() {
    let serving = Serving::start(1);
    let output = gdb(
        &serving,
        &[
            "set $tcr_el1 = 0x2000100010",
            "p/x $pauth_cmask_high",
            "set $sctlr_el1 = 0x88000000",
            "p/x $pauth_dmask",
            "p/x $pauth_cmask_high",
            "bt",
        ],
    );
    assert_in_order(
        &output,
        &[
            "= 0x0",
            "= 0x7f000000000000",
            "= 0xff7f000000000000",
            "#0  0x0",
        ],
    );
}

#[test]
fn memory_is_searched_and_compared_where_it_is() {
    let serving = Serving::start(1);
    let output = gdb(
        &serving,
        &[
            "set debug remote 1",
            &format!("find /w {ENTRY:#x}, +0x100, 0xd503201f"),
            &format!("find /w {DATA:#x}, +0x1000, 0xd503201f"),
            &format!("set {{int}}{:#x} = 0x12345678", DATA + 0x300),
            "find /w 0x3ff00000, +0x200000, 0x12345678",
            &format!("maint packet qCRC:{ENTRY:x},10"),
        ],
    );
    serving::assert_in_order(
        &output,
        &[
            "qSearch:memory:40000000;100;",
            "0x40000014",
            "1 pattern found.",
            "Pattern not found.",
            "qSearch:memory:3ff00000;200000;",
            "0x40001300",
            "1 pattern found.",
            "received: \"C",
        ],
    );
}

#[test]
fn tables_of_info_os() {
    let serving = Serving::start(2);
    let output = gdb(
        &serving,
        &[
            "monitor trace kprobe work count",
            "info os",
            "info os vms",
            "info os vcpus",
            "info os probes",
            "info os programs",
            "info os maps",
            "info os tracepoints",
        ],
    );
    assert_in_order(
        &output,
        &[
            "Type       Description",
            "vms        The virtual machines",
            "tracepoints The hypervisor's own events",
            "VM         STATE      VCPUS ON",
            "vm1        stopped    2 of 2",
            "VM         VCPU       THREAD     STATE      CPU",
            "vm1        1          2          on         1",
            "kprobe     vm1:work",
            "NAME       PROGRAMS",
            "MAP        ID",
            "TRACEPOINT",
        ],
    );
}

/// GDB says itself what a server cannot that does not offer it.
#[test]
fn non_stop_is_refused_and_the_next_session_works() {
    let serving = Serving::start(1);
    let connect = format!("target remote 127.0.0.1:{}", serving.port);
    let output = run_gdb(&["set non-stop on", &connect]);
    assert!(
        output.contains("Non-stop mode requested, but remote does not support non-stop"),
        "{output}"
    );
    let output = gdb(&serving, &["p/x $pc", "maint packet QNonStop:1"]);
    assert_in_order(&output, &["= 0x400000", "a stop of one vCPU stops its VM"]);
}

#[test]
fn breakpoints_steps_and_watchpoints() {
    let serving = Serving::start(2);
    let output = gdb(
        &serving,
        &[
            &format!("break *{WORK:#x}"),
            "continue",
            "p/x $pc",
            "continue",
            "stepi",
            "p/x $pc",
            "delete",
            &format!("watch *(long *){DATA:#x}"),
            "continue",
            "delete",
            &format!("rwatch *(long *){:#x}", DATA + 64),
            "delete",
            &format!("hbreak *{AGAIN:#x}"),
            "continue",
            "set scheduler-locking on",
            "stepi",
            "p/x $pc",
            "delete",
            "detach",
        ],
    );
    assert_in_order(
        &output,
        &[
            "Breakpoint 1 at 0x40000014",
            "\"vm1/vcpu",
            "hit Breakpoint 1",
            "= 0x40000014",
            "hit Breakpoint 1",
            "= 0x40000018",
            "Hardware watchpoint 2",
            "hit Hardware watchpoint 2",
            "Old value",
            "New value",
            "Hardware read watchpoint 3",
            "Hardware assisted breakpoint 4 at 0x4000000c",
            "hit Breakpoint 4",
            "= 0x40000014",
            "detached",
        ],
    );
}

#[test]
fn monitor_probes_and_live_output() {
    let serving = Serving::start(1);
    let interrupt = "python import os, signal, threading; \
                     threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT)).start()";
    let output = gdb(
        &serving,
        &[
            "monitor help",
            "monitor trace kprobe vm1:work args",
            interrupt,
            "continue",
            "monitor trace list",
            "monitor trace unkprobe 1",
            "monitor trace kprobe vm1:wrok args",
            "monitor trace kprobe vm3:work args",
            "monitor trace kprobe vm0:work args",
            "monitor phys 0x40000000 16",
            "monitor trace kprobe vm1:work count --stop",
            "continue",
            "p/x $pc",
            "kill",
        ],
    );
    assert_in_order(
        &output,
        &[
            "trace kprobe [VM:]PLACE [PROGRAM]",
            "probe 1: kprobe vm1:work at 0x40000014, program args",
            "[vm1/vcpu0] work x0=",
            "received signal SIGINT",
            "ID  KIND    SITE      MODE  PROGRAM  THEN  STATE",
            " 1  kprobe  vm1:work  hvc   args     go    on",
            "detached probe 1: kprobe vm1:work, ",
            "no symbol wrok in vm1. Did you mean work?",
            "no such VM: vm3. There are vm1 (stopped), vm2 (running).",
            "vm0 is the hypervisor",
            "0x40000000: 03 00 82 d2",
            "probe 2: kprobe vm1:work stopped vcpu0",
            "received signal SIGTRAP",
            "= 0x40000014",
        ],
    );
}

#[test]
fn a_program_comes_with_remote_put() {
    let directory = std::env::temp_dir().join(format!("periscope-gdb-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let (good, bad) = (directory.join("good.lp"), directory.join("bad.lp"));
    let linked = ebpf::builtin::linked("count").unwrap().encode().unwrap();
    std::fs::write(&good, linked).unwrap();
    std::fs::write(&bad, b"not a program").unwrap();
    let serving = Serving::start(1);
    let output = gdb(
        &serving,
        &[
            &format!("break *{AGAIN:#x}"),
            "continue",
            &format!("remote put {} calls.lp", good.display()),
            "monitor trace kprobe work calls",
            "continue",
            "continue",
            "monitor map dump calls count",
        ],
    );
    let refused = gdb(&serving, &[&format!("remote put {} bad.lp", bad.display())]);
    let told = gdb(&serving, &["monitor trace progs", "monitor trace list"]);
    std::fs::remove_dir_all(&directory).unwrap();
    assert_in_order(
        &output,
        &[
            "Breakpoint 1, ",
            "program calls",
            "Breakpoint 1, ",
            "Breakpoint 1, ",
            "KEY  VALUE\n  0      2\n",
        ],
    );
    assert!(refused.contains("Remote I/O error"), "{refused}");
    assert_in_order(&told, &["calls ", "not loaded: bad: ", "vm1:work"]);
}

#[test]
fn events_go_with_remote_get() {
    let directory = std::env::temp_dir().join(format!("periscope-get-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let (events, sources) = (directory.join("events"), directory.join("sources"));
    let program = directory.join("count.lp");
    let serving = Serving::start(1);
    let output = gdb(
        &serving,
        &[
            &format!("break *{AGAIN:#x}"),
            "continue",
            "monitor trace kprobe work count",
            "continue",
            "continue",
            &format!("remote get events {}", events.display()),
            &format!("remote get sources {}", sources.display()),
            "remote get elsewhere /dev/null",
            &format!("remote get count.lp {}", program.display()),
        ],
    );
    let linked = ebpf::builtin::linked("count").unwrap().encode().unwrap();
    assert_eq!(std::fs::read(&program).unwrap(), linked);
    let bytes = std::fs::read(&events).unwrap();
    let names = std::fs::read_to_string(&sources).unwrap();
    std::fs::remove_dir_all(&directory).unwrap();
    assert_eq!(bytes.len(), 2 * 64, "{output}");
    let calls =
        |record: usize| u64::from_le_bytes(bytes[64 * record + 16..][..8].try_into().unwrap());
    assert_eq!(calls(1), calls(0) + 1, "x0 counts the calls");
    for record in bytes.chunks(64) {
        // Kind 4, VM 1, vCPU 0, probe 1; the PC.
        assert_eq!((record[8], &record[10..16]), (4, &[1, 0, 1, 0, 0, 0][..]));
        assert_eq!(record[56..64], 0x4000_0014_u64.to_le_bytes());
    }
    assert_eq!(names, "4 1 1 vm1:work\n");
    assert!(output.contains("Remote I/O error"), "{output}");
}

#[test]
fn hits_are_shown_live_where_the_user_wants_them() {
    let serving = Serving::start(1);
    let output = gdb(
        &serving,
        &[
            &format!("break *{AGAIN:#x}"),
            "continue",
            "monitor trace kprobe work count",
            "monitor trace verbose on",
            "continue",
            "monitor trace verbose",
            "monitor trace verbose off",
            "continue",
        ],
    );
    assert_in_order(
        &output,
        &[
            "Breakpoint 1, ",
            "on: hits and what programs print are shown while the guest runs",
            "[vm1/vcpu0] kprobe work x0=0x",
            "Breakpoint 1, ",
            "Breakpoint 1, ",
        ],
    );
    assert_eq!(output.matches("kprobe work x0=").count(), 1, "{output}");
}

#[test]
fn clients_come_one_after_the_other() {
    let serving = Serving::start(2);
    for round in 0..3 {
        // A client that dies in mid-packet, one that detaches, one that is killed while the guest runs.
        let mut rude = TcpStream::connect(("127.0.0.1", serving.port)).unwrap();
        rude.write_all(b"+$qSupported:multiprocess+#c6$vFile:pwri")
            .unwrap();
        drop(rude);
        let output = gdb(
            &serving,
            &[&format!("break *{WORK:#x}"), "continue", "detach"],
        );
        assert_in_order(&output, &["hit Breakpoint 1", "detached"]);
        let output = gdb(&serving, &["p/x $x3", "monitor vm list"]);
        assert_in_order(&output, &["= 0x40001000", "vm1  stopped  2 of 2"]);
        let mut rude = TcpStream::connect(("127.0.0.1", serving.port)).unwrap();
        rude.write_all(b"+$qSupported:#ae+$vCont;c#a8").unwrap();
        thread::sleep(Duration::from_millis(10 * round));
        drop(rude);
    }
    let output = gdb(&serving, &[&format!("x/i {ENTRY:#x}")]);
    assert_in_order(&output, &["mov\tx3, #0x1000"]);
}

#[test]
fn what_cannot_be_set_is_told_and_the_next_command_works() {
    let serving = Serving::start(1);
    let watches: Vec<String> = (0..5)
        .map(|n| format!("watch *(long *){:#x}", DATA + 0x100 + 8 * n))
        .collect();
    let mut commands: Vec<&str> = watches.iter().map(String::as_str).collect();
    let again = format!("break *{AGAIN:#x}");
    commands.extend([
        "continue",
        "delete",
        "break *0x9000000",
        "continue",
        "delete",
        &again,
        "continue",
    ]);
    let output = gdb(&serving, &commands);
    serving::assert_in_order(
        &output,
        &[
            "Hardware watchpoint 5",
            "You may have requested too many hardware breakpoints/watchpoints",
            "Breakpoint 6 at 0x9000000",
            "Cannot insert breakpoint 6",
            "Breakpoint 7 at 0x4000000c",
            "Breakpoint 7, 0x000000004000000c",
        ],
    );
}
