//! Files that a client reads: the log, the guest's console, programs.

mod support;

use std::fmt;
use stub::{Endpoint, Log, Server, Session};
use support::{Bench, bodies, frame, hex};

struct TestLog;

impl Log for TestLog {
    fn write_to(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        out.write_str("one line\nand another\n")
    }
}

/// A client of a server that keeps a log.
fn bench() -> Bench {
    let mut bench = Bench::new(1);
    bench.server = Box::leak(Box::new(Server::new(bench.periscope).with_log(&TestLog)));
    bench.session = Session::new(bench.server, 0).unwrap();
    bench.session.opened();
    bench.next_client()
}

/// The whole of a file, in small pieces.
fn read(bench: &mut Bench, name: &str) -> Vec<u8> {
    assert_eq!(bench.ask(&format!("vFile:open:{},0,0", hex(name))), "F00");
    let mut contents = Vec::new();
    loop {
        let raw = bench.raw_bytes(&frame(&format!("vFile:pread:0,40,{:x}", contents.len())));
        let start = raw.iter().position(|byte| *byte == b';').unwrap() + 1;
        let piece = &raw[start..raw.len() - 3];
        if piece.is_empty() {
            break;
        }
        let mut bytes = piece.iter();
        while let Some(byte) = bytes.next() {
            contents.push(match byte {
                b'}' => bytes.next().unwrap() ^ 0x20,
                byte => *byte,
            });
        }
    }
    assert_eq!(bench.ask("vFile:close:0"), "F0");
    contents
}

#[test]
fn the_log_and_the_console() {
    let mut bench = bench();
    assert_eq!(read(&mut bench, "log"), b"one line\nand another\n");
    assert_eq!(read(&mut bench, "console"), b"");
    bench.vm().print("# echo $((6*7))\r\n42\r\n");
    bench.machines[1].print("somebody else\n");
    assert_eq!(read(&mut bench, "console"), b"# echo $((6*7))\r\n42\r\n");
    assert_eq!(
        read(&mut bench, "/tmp/console"),
        b"# echo $((6*7))\r\n42\r\n",
        "a debugger has one VM"
    );
}

#[test]
fn programs_come_back_as_they_went() {
    let mut bench = bench();
    let uploaded = support::object(&[("enter", "kprobe/work")]);
    let owner = probes::programs::Owner(0);
    bench
        .periscope
        .load_program("mine", &uploaded, owner)
        .unwrap();
    assert_eq!(read(&mut bench, "mine.lp"), uploaded);
    assert_eq!(read(&mut bench, "mine"), uploaded);
    let builtin = ebpf::builtin::linked("count").unwrap().encode().unwrap();
    assert_eq!(read(&mut bench, "count.lp"), builtin);
}

#[test]
fn the_files_are_listed() {
    let mut bench = bench();
    let listed = bench.monitor("files");
    let names: Vec<&str> = listed
        .lines()
        .skip(1)
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert_eq!(
        names,
        [
            "log",
            "console",
            "events",
            "sources",
            "stream",
            "outputs",
            "vmlinux",
            "vmlinux.id",
            "btf",
            "linux_banner",
            "args.lp",
            "count.lp",
            "printk.lp",
            "ret.lp",
            "stop.lp"
        ]
    );
}

#[test]
fn who_asks_for_another_file_is_told_which_there_are() {
    let mut bench = bench();
    for name in ["conslo", "/usr/lib/debug/vmlinux.debug", "just probing"] {
        let opened = bench.ask(&format!("vFile:open:{},0,0", hex(name)));
        assert_eq!(opened, "F-1,02", "{name}");
    }
    // GDB shows but the number: the words come when it shows output.
    let told = bench.ask_all("vCont;c");
    assert_eq!(
        told.len(),
        1,
        "debuggers look for files of their own accord: {told:?}"
    );
    assert!(
        told[0].starts_with("O:there is no file conslo. There are log, console, events, ")
            && told[0].contains("count.lp"),
        "{told:?}"
    );
}

#[test]
fn what_cannot_be_had_says_why() {
    let server: &'static Server = Box::leak(Box::new(Server::new(Bench::new(1).periscope)));
    let mut session = Session::of_tools(server);
    let mut ask = |body: &str| {
        session.receive(&frame(body));
        let mut wire = support::Wire::default();
        session.flush(&mut wire);
        bodies(&String::from_utf8_lossy(&wire.0)).pop()
    };
    ask("qSupported");
    let log = ask(&format!("vFile:open:{},0,0", hex("log")));
    assert_eq!(log.as_deref(), Some("E.log: this hypervisor keeps no log"));
}
