//! Real GDB against the server over a fake machine.
//!
//! Each test starts the server on a port of the loopback interface and runs `gdb-multiarch` in batch mode.

mod support;

use std::io::{ErrorKind, Read, Seek, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use stub::ByteChannel;
use support::{AGAIN, Bench, DATA, ENTRY, WORK};

const LIMIT: Duration = Duration::from_secs(30);

/// The server in a thread of its own.
struct Serving {
    port: u16,
    end: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

struct Socket(TcpStream);

impl ByteChannel for Socket {
    fn write(&mut self, bytes: &[u8]) -> usize {
        self.0.write(bytes).unwrap_or(0)
    }
}

impl Serving {
    fn start(vcpus: u8) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        let end = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&end);
        let thread = thread::spawn(move || serve(&listener, &ended, vcpus));
        Self {
            port,
            end,
            thread: Some(thread),
        }
    }

    /// Runs GDB with these commands and returns what it printed.
    fn gdb(&self, commands: &[&str]) -> String {
        let connect = format!("target remote 127.0.0.1:{}", self.port);
        let fixed = [
            "set confirm off",
            "set pagination off",
            "set width 0",
            "set remotetimeout 20",
        ];
        let mut gdb = Command::new("gdb-multiarch");
        gdb.args(["-nx", "-q", "-batch"]).stdin(Stdio::null());
        for command in fixed.iter().chain([&connect.as_str()]).chain(commands) {
            gdb.args(["-ex", command]);
        }
        // One file for both streams, so that the order of the lines is that of a terminal.
        let mut log = tempfile::tempfile().unwrap();
        gdb.stdout(log.try_clone().unwrap())
            .stderr(log.try_clone().unwrap());
        let mut child = gdb
            .spawn()
            .expect("this needs gdb-multiarch: `cargo xtask setup`");
        let started = Instant::now();
        let mut hangs = false;
        while child.try_wait().unwrap().is_none() {
            if started.elapsed() > LIMIT {
                hangs = true;
                child.kill().unwrap();
            }
            thread::sleep(Duration::from_millis(20));
        }
        let mut output = Vec::new();
        log.rewind().unwrap();
        log.read_to_end(&mut output).unwrap();
        let output = String::from_utf8_lossy(&output).into_owned();
        assert!(!hangs, "GDB hangs after {output}");
        output
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
            && !thread::panicking()
        {
            panic!("the server died");
        }
    }
}

fn serve(listener: &TcpListener, end: &AtomicBool, vcpus: u8) {
    let mut bench = Bench::new(vcpus);
    while !end.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((socket, _)) => {
                socket.set_nonblocking(true).unwrap();
                socket.set_nodelay(true).unwrap();
                bench.session.opened();
                serve_client(&mut bench, Socket(socket), end);
                bench.session.closed();
            }
            Err(_) => thread::sleep(Duration::from_millis(1)),
        }
        bench.vm().run(10);
        bench.session.poll();
    }
}

fn serve_client(bench: &mut Bench, mut socket: Socket, end: &AtomicBool) {
    let mut buffer = [0; 4096];
    while !end.load(Ordering::Relaxed) {
        match socket.0.read(&mut buffer) {
            Ok(0) => return,
            Ok(count) => bench.session.receive(&buffer[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                thread::sleep(Duration::from_micros(200));
            }
            Err(_) => return,
        }
        bench.vm().run(50);
        bench.session.poll();
        bench.session.flush(&mut socket);
    }
}

/// Each of `parts` is in `output`, one after the other.
#[track_caller]
fn assert_in_order(output: &str, parts: &[&str]) {
    let mut rest = output;
    for part in parts {
        let Some(at) = rest.find(part) else {
            panic!("{part:?} is not where it should be in:\n{output}");
        };
        rest = &rest[at + part.len()..];
    }
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
    let output = serving.gdb(&[
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
    ]);
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

#[test]
fn breakpoints_steps_and_watchpoints() {
    let serving = Serving::start(2);
    let output = serving.gdb(&[
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
    ]);
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
    let output = serving.gdb(&[
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
    ]);
    assert_in_order(
        &output,
        &[
            "trace kprobe [VM:]PLACE PROGRAM [--stop]",
            "probe 1: kprobe vm1:work at 0x40000014, program args",
            "[vm1/vcpu0] work x0=",
            "received signal SIGINT",
            "ID  KIND    SITE      PROGRAM  THEN  STATE",
            " 1  kprobe  vm1:work  args     go    on",
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
    let output = serving.gdb(&[
        &format!("break *{AGAIN:#x}"),
        "continue",
        &format!("remote put {} calls.lp", good.display()),
        "monitor trace kprobe work calls",
        "continue",
        "continue",
        "monitor map dump calls count",
    ]);
    let refused = serving.gdb(&[&format!("remote put {} bad.lp", bad.display())]);
    let told = serving.gdb(&["monitor trace progs", "monitor trace list"]);
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
fn clients_come_one_after_the_other() {
    let serving = Serving::start(2);
    for round in 0..3 {
        // A client that dies in mid-packet, one that detaches, one that is killed while the guest runs.
        let mut rude = TcpStream::connect(("127.0.0.1", serving.port)).unwrap();
        rude.write_all(b"+$qSupported:multiprocess+#c6$vFile:pwri")
            .unwrap();
        drop(rude);
        let output = serving.gdb(&[&format!("break *{WORK:#x}"), "continue", "detach"]);
        assert_in_order(&output, &["hit Breakpoint 1", "detached"]);
        let output = serving.gdb(&["p/x $x3", "monitor vm list"]);
        assert_in_order(&output, &["= 0x40001000", "vm1  stopped  2 of 2"]);
        let mut rude = TcpStream::connect(("127.0.0.1", serving.port)).unwrap();
        rude.write_all(b"+$qSupported:#ae+$vCont;c#a8").unwrap();
        thread::sleep(Duration::from_millis(10 * round));
        drop(rude);
    }
    let output = serving.gdb(&[&format!("x/i {ENTRY:#x}")]);
    assert_in_order(&output, &["mov\tx3, #0x1000"]);
}
