//! GDB tracepoints: real GDB, and packets that no GDB sends, against the server over a fake machine.

mod support;

use probes::gdb_trace::Running;
use probes::machine::RunControl;
use std::path::PathBuf;
use stub::Endpoint;
use support::serving::{Serving, assert_in_order, gdb, run_client, run_gdb};
use support::{AGAIN, Bench, DATA, STORE, WORK};

// ---- Real GDB ----

/// Files of a test, which go with it.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("periscope-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }

    /// Runs a script in GDB, which can hold what `-ex` cannot: lists of actions.
    fn script(&self, text: &str) -> String {
        run_gdb(&[&self.write_script(text)])
    }

    /// Returns the command that reads the script.
    fn write_script(&self, text: &str) -> String {
        let file = self.file("script.gdb");
        std::fs::write(&file, text).unwrap();
        format!("source {file}")
    }

    /// A script that is connected first.
    fn gdb(&self, serving: &Serving, text: &str) -> String {
        let port = serving.port;
        self.script(&format!("target remote 127.0.0.1:{port}\n{text}"))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Starts a run before a call of `work`, and lets the only vCPU call it two times.
fn run() -> String {
    format!(
        "tbreak *{AGAIN:#x}\ncontinue\ntstart\nbreak *{AGAIN:#x}\ncontinue\ncontinue\ndelete 3\n"
    )
}

#[test]
fn a_run_is_collected_looked_at_and_saved() {
    let directory = Directory::new("traced");
    let saved = directory.file("run.tf");
    let serving = Serving::start(1);
    let output = directory.gdb(
        &serving,
        &format!(
            "trace *{WORK:#x}
actions
collect $regs, *(long*){DATA:#x}@2
end
set trace-user me
set trace-notes first look
{}tstatus
info tracepoints
tstop enough
tstatus
tfind start
tdump
p $trace_vcpu
x/gx {DATA:#x}
x/gx {:#x}
tfind
tfind
info registers x0
tfind none
tsave {saved}
",
            run(),
            DATA + 64
        ),
    );
    assert_in_order(
        &output,
        &[
            "Tracepoint 1 at 0x40000014",
            "Trace is running on the target.",
            "tracepoint already hit 2 times",
            "trace buffer usage ",
            "installed on target",
            "Trace stopped by a tstop command (enough).",
            "Collected 2 trace frames.",
            "Trace buffer has ",
            "Trace will stop if GDB disconnects.",
            "Trace user is me.",
            "Trace notes: first look.",
            "Trace started at ",
            "Found trace frame 0, tracepoint 1",
            "Data collected at tracepoint 1, trace frame 0:",
            "x3             0x40001000",
            "pc             0x40000014",
            "id_aa64mmfr0_el1 0x2",
            "@2 = {",
            "$1 = 0",
            "0x40001000:\t0x",
            "0x40001040:\t<unavailable>",
            "Found trace frame 1, tracepoint 1",
            "No trace frame found",
        ],
    );
    let output = directory.script(&format!(
        "target tfile {saved}\ntstatus\ntfind 1\ntdump\np $trace_timestamp > 0\n"
    ));
    assert_in_order(
        &output,
        &[
            "Created tracepoint 1 for target's tracepoint 1 at 0x40000014.",
            "Trace stopped by a tstop command (enough).",
            "Collected 2 trace frames.",
            "Trace notes: first look.",
            "Found trace frame 1, tracepoint 1",
            "Data collected at tracepoint 1, trace frame 1:",
            "x3             0x40001000",
            "@2 = {",
            "$1 = 1",
        ],
    );
}

#[test]
fn gdb_finds_frames_by_every_means() {
    let directory = Directory::new("found");
    let serving = Serving::start(1);
    let output = directory.gdb(
        &serving,
        &format!(
            "trace *{WORK:#x}
actions
collect $x0
while-stepping 2
collect $pc
end
end
{}tstop
tfind start
p $pc
tfind
p $pc
tfind
tfind tracepoint 1
p $pc
tfind pc {STORE:#x}
p $pc
tfind range {AGAIN:#x}, {AGAIN:#x}
tfind 0
tfind outside {WORK:#x}, {WORK:#x}
",
            run()
        ),
    );
    // Per hit: the hit, after the NOP, after the ADD.
    assert_in_order(
        &output,
        &[
            "Found trace frame 0, tracepoint 1",
            "0x40000014",
            "Found trace frame 1, tracepoint 1",
            "0x40000018",
            "Found trace frame 2, tracepoint 1",
            "Found trace frame 3, tracepoint 1",
            "0x40000014",
            "Found trace frame 5, tracepoint 1",
            "0x4000001c",
            "No trace frame found",
            "Found trace frame 0, tracepoint 1",
            "Found trace frame 1, tracepoint 1",
        ],
    );
}

#[test]
fn conditions_variables_and_pass_counts() {
    let directory = Directory::new("conditional");
    let serving = Serving::start(1);
    let output = directory.gdb(
        &serving,
        &format!(
            "tvariable $calls = 100
trace *{WORK:#x} if $x0 % 3 == 0
passcount 4
actions
teval $calls = $calls + 1
collect $x0, $calls
end
tstart
python import os, signal, threading
python threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
continue
tstatus
info tracepoints
tfind start
p $x0 % 3
p $calls
tfind 3
p $calls
info tvariables
",
        ),
    );
    assert_in_order(
        &output,
        &[
            "Trace stopped by tracepoint 1.",
            "Collected 4 trace frames.",
            "tracepoint already hit 4 times",
            "pass count 4",
            "Found trace frame 0",
            "= 0",
            "= 101",
            "= 104",
            "$calls ",
            "104",
        ],
    );
}

#[test]
fn expressions_read_the_vcpus_system_registers() {
    let directory = Directory::new("system");
    let serving = Serving::start(1);
    let output = directory.gdb(
        &serving,
        &format!(
            "set $vbar_el1 = {DATA:#x}
trace *{WORK:#x} if $vbar_el1 == {DATA:#x}
actions
collect *(long *)$vbar_el1
end
trace *{WORK:#x} if $vbar_el1 != {DATA:#x}
{}tstop
tstatus
tfind start
p *(long *){DATA:#x} > 0
",
            run()
        ),
    );
    assert_in_order(
        &output,
        &[
            "Trace stopped by a tstop command",
            "Collected 2 trace frames.",
            "Found trace frame 0, tracepoint 1",
            "$1 = 1",
        ],
    );
}

#[test]
fn an_expression_that_fails_stops_the_run_and_says_why() {
    let directory = Directory::new("failing");
    let serving = Serving::start(1);
    let output = directory.gdb(
        &serving,
        &format!(
            "trace *{WORK:#x} if *(long*)0x10 == 1
{}tstatus
",
            run()
        ),
    );
    assert_in_order(
        &output,
        &[
            "Trace stopped by an error (",
            "cannot read 8 bytes at 0x10",
            ", tracepoint 1).",
            "Collected 0 trace frames.",
        ],
    );
}

#[test]
fn a_run_goes_on_without_its_client() {
    let directory = Directory::new("alone");
    let serving = Serving::start(1);
    let output = directory.gdb(
        &serving,
        &format!(
            "set disconnected-tracing on
set circular-trace-buffer on
set trace-buffer-size 16384
tvariable $seen = 7
trace *{WORK:#x} if $x0 >= 0
actions
collect $regs, $seen
end
tstart
tstatus
disconnect
"
        ),
    );
    assert_in_order(
        &output,
        &[
            "Trace is running on the target.",
            "Trace will continue if GDB disconnects.",
            "Trace buffer is circular.",
        ],
    );
    std::thread::sleep(std::time::Duration::from_millis(200));
    let output = directory.gdb(
        &serving,
        "info tracepoints
tstop
tstatus
tfind start
tdump
p $seen
set disconnected-tracing off
",
    );
    assert_in_order(
        &output,
        &[
            "Trace is already running on the target.",
            "trace only if $x0 >= 0",
            "tracepoint already hit ",
            "collect $regs, $seen",
            "Trace stopped by a tstop command",
            "Buffer contains ",
            " created total).",
            "Trace buffer is circular.",
            "Found trace frame 0, tracepoint 1",
            "x3             0x40001000",
            "$seen = 7",
            "= 7",
        ],
    );
    let output = directory.gdb(&serving, "tstatus\ninfo tracepoints\nmonitor trace list\n");
    assert_in_order(
        &output,
        &["No trace has been run on the target.", "No tracepoints."],
    );
}

#[test]
fn what_cannot_be_honoured_is_refused_in_words() {
    let directory = Directory::new("refused");
    let serving = Serving::start(1);
    let refused = |text: &str| directory.gdb(&serving, text);
    let output = directory.gdb(
        &serving,
        &format!("ftrace *{WORK:#x}\ntstart\ninfo tracepoints\n"),
    );
    assert_in_order(
        &output,
        &[
            "Target does not support fast tracepoints, downloading 1 as regular tracepoint",
            "installed on target",
        ],
    );
    let said = refused("trace *0x9000000\ntstart\n");
    assert!(said.contains("tracepoint 1 at 0x9000000: "), "{said}");
    let said = refused(&format!("trace *{WORK:#x} if $fpsr == 1\ntstart\n"));
    assert!(said.contains("fpsr"), "{said}");
    let said = refused(&format!(
        "trace *{WORK:#x}\nset trace-buffer-size 100000000\ntstart\ntstatus\n"
    ));
    assert!(said.contains("16777216 at most"), "{said}");
    let said = refused("tsave -r /tmp/nowhere\n");
    assert!(said.contains("`tsave FILE` without -r"), "{said}");
}

// ---- Packets ----

/// Defines a tracepoint at `work` that collects all registers.
fn define(bench: &mut Bench) {
    assert_eq!(bench.ask("QTinit"), "OK");
    assert_eq!(bench.ask(&format!("QTDP:1:{WORK:x}:E:0:0-")), "OK");
    assert_eq!(bench.ask(&format!("QTDP:-1:{WORK:x}:R3ffffffff")), "OK");
}

#[test]
fn a_frame_shows_nothing_but_itself() {
    let mut bench = Bench::connected(1);
    define(&mut bench);
    let other = WORK + 4;
    assert_eq!(bench.ask(&format!("QTDP:2:{other:x}:E:0:0-")), "OK");
    assert_eq!(
        bench.ask(&format!("QTDP:-2:{other:x}:M3,0,8M-1,{STORE:x},4")),
        "OK"
    );
    assert_eq!(bench.ask(&format!("QTro:{WORK:x},{STORE:x}")), "OK");
    assert_eq!(bench.ask("QTStart"), "OK");
    assert_eq!(bench.ask(&format!("Z0,{AGAIN:x},4")), "OK");
    bench.ask_all("vCont;c");
    bench.run(100);
    bench.ask_all("vCont;c");
    bench.run(100);
    let present = bench.ask("g");
    assert_eq!(bench.ask("QTFrame:0"), "F0T1");
    assert_ne!(bench.ask("g"), present);
    assert_eq!(bench.register(32), WORK);
    assert_eq!(bench.ask(&format!("m{DATA:x},8")), "E0e");
    assert_eq!(bench.ask("QTFrame:tdp:2"), "F1T2");
    let g = bench.ask("g");
    let pc = 2 * 8 * 32;
    assert_eq!(&g[pc..pc + 16], format!("{:016x}", other.swap_bytes()));
    assert!(g[..pc].bytes().all(|digit| digit == b'x') && g.len() == present.len());
    assert_eq!(bench.ask("p0"), "xxxxxxxxxxxxxxxx");
    assert_eq!(bench.ask("p21"), "xxxxxxxx");
    assert_eq!(bench.ask("pff"), "E16");
    assert_eq!(bench.ask(&format!("m{DATA:x},4")).len(), 8);
    assert_eq!(
        bench.ask(&format!("m{DATA:x},20")).len(),
        16,
        "as far as it was collected"
    );
    assert_eq!(bench.ask(&format!("m{:x},2", DATA + 6)).len(), 4);
    assert_eq!(bench.ask(&format!("m{:x},2", DATA + 8)), "E0e");
    assert_eq!(
        bench.ask(&format!("m{WORK:x},4")),
        "1f2003d5",
        "read-only: a NOP"
    );
    for change in [
        format!("M{DATA:x},1:00"),
        format!("X{DATA:x},1:a"),
        "P0=0000000000000000".into(),
    ] {
        assert!(
            bench.ask(&change).starts_with("E.a trace frame "),
            "{change}"
        );
    }
    let info = bench.ask("qXfer:traceframe-info:read::0,ffb");
    assert!(
        info.starts_with('l') && info.contains("<memory start=\"0x40001000\" length=\"0x8\"/>"),
        "{info}"
    );
    assert_eq!(bench.ask("qTV:2"), "V0");
    assert_eq!(bench.ask("qTV:77"), "U");
    assert_eq!(bench.ask("QTFrame:99"), "F-1");
    assert_eq!(
        bench.ask("p0"),
        "xxxxxxxxxxxxxxxx",
        "what was selected stays so"
    );
    assert_eq!(bench.ask("QTFrame:ffffffff"), "OK");
    assert_eq!(bench.ask("g"), present);
    assert_eq!(bench.ask("qXfer:traceframe-info:read::0,ffb"), "E16");
    // The target goes on: the present is shown again.
    assert_eq!(bench.ask("QTFrame:0"), "F0T1");
    bench.ask_all("vCont;c");
    bench.run(100);
    assert_eq!(bench.register(32), AGAIN);
}

#[test]
fn packets_out_of_their_order() {
    let mut bench = Bench::connected(1);
    let said = bench.ask(&format!("QTDP:-1:{WORK:x}:R1"));
    assert_eq!(said, "E.there is no tracepoint 1 at 0x40000014");
    assert_eq!(bench.ask("QTStart"), "E.no tracepoint is defined");
    define(&mut bench);
    let said = bench.ask(&format!("QTDP:-1:{WORK:x}:R1"));
    assert!(said.contains("nothing can be added"), "{said}");
    assert_eq!(bench.ask(&format!("QTDP:2:{AGAIN:x}:E:0:0-")), "OK");
    let said = bench.ask("QTStart");
    assert!(
        said.contains("tracepoint 2 at 0x4000000c is not over"),
        "{said}"
    );
    for (unknown, expected) in [
        ("QTFrame:0", "F-1"),
        ("qTBuffer:0,100", "l"),
        ("qTsP", "l"),
        ("QTStop", "OK"),
        (
            "QTSave:2f78",
            "E.the target has no files of its own: `tsave FILE` without -r brings the data to the host",
        ),
        (
            "QTDP:3:40000014:E:0:0:F4",
            "E.fast tracepoints are not there: a `trace` at the same place collects the same, without the target's code being patched",
        ),
        ("QTDP:rubbish", "E.a malformed tracepoint packet"),
        ("qTMinFTPILen", ""),
    ] {
        assert_eq!(bench.ask(unknown), expected, "{unknown}");
    }
    let status = bench.ask("qTStatus");
    assert!(status.starts_with("T0;tnotrun:0;tframes:0;"), "{status}");
}

#[test]
fn a_client_that_is_killed_leaves_nothing() {
    let mut bench = Bench::connected(1);
    define(&mut bench);
    assert_eq!(bench.ask("QTStart"), "OK");
    assert_eq!(bench.vm().armed().len(), 1);
    assert_eq!(bench.ask(&format!("QTDP:2:{AGAIN:x}:E:0:0-")), "OK");
    bench.session.closed();
    assert_eq!((bench.vm().armed().len(), bench.vm().held()), (0, false));
    assert_eq!(
        bench.periscope.spaces()[0].experiment().definitions().len(),
        0
    );
    bench.session.opened();
    bench.session.receive(b"+");
    let status = bench.ask("qTStatus");
    assert!(
        status.starts_with("T0;tdisconnected:0;tframes:0;"),
        "{status}"
    );
}

#[test]
fn a_run_is_asked_about_while_the_guest_runs() {
    let mut bench = Bench::connected(2);
    define(&mut bench);
    assert_eq!(bench.ask("QTStart"), "OK");
    bench.ask_all("vCont;c");
    bench.run(500);
    let status = bench.ask("qTStatus");
    assert!(status.starts_with("T1;tunknown:0;tframes:"), "{status}");
    assert_eq!(
        bench.ask("QTFrame:0"),
        "E10",
        "frames are for when it stands"
    );
    assert_eq!(bench.ask(&format!("QTDisable:1:{WORK:x}")), "OK");
    assert_eq!(bench.vm().armed().len(), 0);
    assert_eq!(bench.ask(&format!("QTEnable:1:{WORK:x}")), "OK");
    assert_eq!(bench.ask("QTStop"), "OK");
    assert_eq!(bench.vm().armed().len(), 0);
    let experiment = bench.periscope.spaces()[0].experiment();
    assert!(matches!(experiment.status().running, Running::Stopped(_)));
}

#[test]
fn the_trace_file_is_read_from_anywhere() {
    let mut bench = Bench::connected(1);
    define(&mut bench);
    assert_eq!(bench.ask("QTStart"), "OK");
    bench.ask_all("vCont;c");
    bench.run(200);
    bench.session.receive(b"\x03");
    bench.output();
    let whole = |bench: &mut Bench, step: usize| {
        let mut digits = String::new();
        loop {
            let piece = bench.ask(&format!("qTBuffer:{:x},{step:x}", digits.len() / 2));
            if piece == "l" {
                return digits;
            }
            digits.push_str(&piece);
        }
    };
    let file = whole(&mut bench, 0x400);
    assert!(file.starts_with("0100"), "tracepoint 1");
    assert_eq!(whole(&mut bench, 0x37), file);
    let middle = file.len() / 4 / 2 * 2;
    assert_eq!(
        bench.ask(&format!("qTBuffer:{middle:x},5")),
        file[2 * middle..2 * middle + 10]
    );
    assert_eq!(bench.ask("qTBuffer:0,2"), file[..4]);
    assert_eq!(bench.ask(&format!("qTBuffer:{:x},5", u64::MAX)), "l");
}

#[test]
fn markers_say_what_the_hypervisor_sees() {
    let directory = Directory::new("markers");
    let serving = Serving::start(1);
    let port = serving.port;
    let source = directory.write_script(&format!(
        "target remote 127.0.0.1:{port}
info static-tracepoint-markers
strace -m debug:resume
actions
collect $_sdata
end
strace -m debug:stop
actions
collect $_sdata
end
tstart
break *{AGAIN:#x}
continue
continue
tstop
tstatus
tfind tracepoint 2
p $_sdata
tdump
monitor trace tracepoints debug:stop
"
    ));
    // In `strace -m` GDB 13.1 assigns to a string before it has constructed it. That goes well where the allocator gives zeros.
    let zeros = "glibc.malloc.tcache_count=0:glibc.malloc.perturb=255";
    let output = run_client(gdb(&[&source]).env("GLIBC_TUNABLES", zeros));
    assert_in_order(
        &output,
        &[
            "debug:stop",
            "Data: \"step|site|hw_breakpoint|watchpoint|request|reset reason, u64 thread, u64 probe\"",
            "tracepoint 1 at 0x",
            "tracepoint 2 at 0x",
            "Trace stopped by a tstop command",
            "Found trace frame 1, tracepoint 2",
            "reason=site thread=1 probe=0",
            "$_sdata = \"reason=site thread=1 probe=0\"",
        ],
    );
}
