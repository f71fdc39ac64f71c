//! Transcripts of the packets that LLDB sends and GDB does not.

mod support;

use stub::Endpoint;
use support::{
    AGAIN, Bench, ENTRY, WORK, all_of, bodies, frame, hex, le, stop_registers, unescape,
};

/// A client that has said what LLDB 22 says first.
fn lldb(vcpus: u8) -> Bench {
    let mut bench = Bench::connected(vcpus);
    for wish in [
        "QThreadSuffixSupported",
        "QListThreadsInStopReply",
        "QEnableErrorStrings",
    ] {
        assert_eq!(bench.ask(wish), "OK", "{wish}");
    }
    bench
}

#[test]
fn the_host_and_its_pointers() {
    let mut bench = lldb(1);
    let host = bench.ask("qHostInfo");
    assert!(host.starts_with("triple:616172636836342d756e6b6e6f776e2d6e6f6e65;"));
    assert!(
        host.contains(";watchpoint_exceptions_received:before;"),
        "{host}"
    );
    assert!(
        host.contains(&format!(";hostname:{};", hex("vm1"))),
        "{host}"
    );
    assert!(
        !host.contains("addressing_bits"),
        "the guest has not said yet: {host}"
    );
    // T0SZ and T1SZ of 16: 48 bits.
    let tcr = 72 + probes::regs::SysReg::TcrEl1 as usize;
    assert_eq!(bench.ask(&format!("P{tcr:x}={}", le(16 | 16 << 16))), "OK");
    let bits = "low_mem_addressing_bits:48;high_mem_addressing_bits:48;";
    let host = bench.ask("qHostInfo");
    assert!(host.ends_with(bits), "{host}");
    assert!(
        bench.ask("?").ends_with(bits),
        "a guest can change its mind"
    );
}

#[test]
fn register_packets_name_their_thread() {
    let mut bench = lldb(2);
    assert_eq!(bench.ask(&format!("P0={};thread:0002;", le(7))), "OK");
    assert_eq!(bench.ask("p0;thread:2;"), le(7));
    assert_eq!(bench.ask("p0;thread:1;"), le(0));
    assert_eq!(bench.ask("p0"), le(0), "the current thread stays");
    assert_eq!(bench.ask("qC"), "QC01");
    let (first, second) = (bench.ask("g;thread:1;"), bench.ask("g;thread:2;"));
    assert!(first.starts_with(&le(0)) && second.starts_with(&le(7)));
    assert_eq!(bench.ask(&format!("G{second};thread:1;")), "OK");
    assert_eq!(bench.ask("p0"), le(7));
    assert_eq!(
        bench.ask("p0;thread:9;"),
        format!("E03;{}", hex("no such thread: the vCPU is off"))
    );
}

#[test]
fn stop_replies_list_the_threads() {
    let mut bench = lldb(2);
    bench.ask(&format!("Z0,{WORK:x},4"));
    assert!(bench.ask_all("vCont;c").is_empty());
    assert_eq!(
        bench.run(100),
        [format!(
            "T05thread:01;swbreak:;name:vm1/vcpu0;threads:1,2;thread-pcs:{WORK:x},{WORK:x};reason:breakpoint;"
        )]
    );
    let mut gdb = Bench::connected(2);
    assert!(
        !gdb.ask("?").contains("threads:"),
        "who does not ask is not told"
    );
}

#[test]
fn all_threads_at_once() {
    let mut bench = lldb(2);
    // A frame that leads to another, and one that leads nowhere.
    let (inner, outer) = (ENTRY + 0x2000, ENTRY + 0x2100);
    bench.ask(&format!("M{inner:x},10:{}{}", le(outer), le(AGAIN)));
    bench.ask(&format!("M{outer:x},10:{}{}", le(0), le(0)));
    bench.ask(&format!("P1d={}", le(inner)));
    bench.ask_all("vCont;s:1");
    bench.run(1);
    let json = unescape(&bench.ask("jThreadsInfo"));
    let first = format!(
        "[{{\"tid\":1,\"name\":\"vm1/vcpu0\",\"signal\":5,\"reason\":\"trace\",\"registers\":{{\"29\":\"{}\"",
        le(inner)
    );
    assert!(json.starts_with(&first), "{json}");
    let memory = format!(
        "\"memory\":[{{\"address\":{inner},\"bytes\":\"{}{}\"}},{{\"address\":{outer},\"bytes\":\"{}{}\"}}]}}",
        le(outer),
        le(AGAIN),
        le(0),
        le(0)
    );
    assert!(json.contains(&memory), "{json}");
    assert!(
        json.contains("{\"tid\":2,\"name\":\"vm1/vcpu1\",\"registers\":"),
        "{json}"
    );
}

#[test]
fn a_stop_probe_says_its_name() {
    let mut bench = lldb(1);
    bench.monitor("trace kprobe work count --stop");
    bench.ask_all("vCont;c");
    bench.run(100);
    let json = unescape(&bench.ask("jThreadsInfo"));
    let reason = "\"reason\":\"trap\",\"description\":\"probe 1: kprobe vm1:work\"";
    assert!(json.contains(reason), "{json}");
}

#[test]
fn frames_in_a_circle_end() {
    let mut bench = lldb(1);
    let at = ENTRY + 0x2000;
    bench.ask(&format!("M{at:x},10:{}{}", le(at), le(0)));
    bench.ask(&format!("P1d={}", le(at)));
    assert_eq!(bench.ask("jThreadsInfo").matches("\"address\"").count(), 1);
}

#[test]
fn registers_are_kept_and_put_back_once() {
    let mut bench = lldb(2);
    bench.ask(&format!("P0={};thread:2;", le(7)));
    assert_eq!(bench.ask("QSaveRegisterState;thread:2;"), "1");
    assert_eq!(bench.ask("QSaveRegisterState;thread:1;"), "2");
    bench.ask(&format!("P0={};thread:2;", le(8)));
    assert_eq!(bench.ask("QRestoreRegisterState:1;thread:2;"), "OK");
    assert_eq!(bench.ask("p0;thread:2;"), le(7));
    assert_eq!(bench.ask("p0;thread:1;"), le(0));
    assert!(
        bench
            .ask("QRestoreRegisterState:1;thread:2;")
            .starts_with("E16;")
    );
    for _ in 0..15 {
        bench.ask("QSaveRegisterState");
    }
    assert!(
        bench.ask("QSaveRegisterState").starts_with("E07;"),
        "they are bounded"
    );
}

#[test]
fn no_memory_of_the_guest_is_given_away() {
    let mut bench = lldb(1);
    for packet in ["_M1000,rwx", "_m40000000"] {
        let reply = bench.ask(packet);
        assert!(reply.starts_with("E16;"), "{reply}");
        assert!(reply.contains(&hex("the memory is the guest's")), "{reply}");
    }
}

#[test]
fn errors_have_text_behind_their_number() {
    let mut bench = lldb(1);
    let device = bench.ask("Z0,9000000,4");
    assert!(
        device.starts_with(&format!("E16;{}", hex("vm1: 0x9000000 is not RAM"))),
        "{device}"
    );
    for read in ["m123,4", "x123,4"] {
        assert!(bench.ask(read).starts_with("E0e;"), "{read}");
    }
}

#[test]
fn binary_reads_as_an_older_lldb_reads_them() {
    let mut bench = lldb(1);
    bench.ask(&format!("M{:x},4:61626364", ENTRY + 0x1000));
    assert_eq!(bench.ask(&format!("x{:x},4", ENTRY + 0x1000)), "babcd");
    assert_eq!(bench.ask("x0,0"), "OK");
    assert_eq!(bench.ask(&format!("x{:x},4", ENTRY + 0x1000)), "abcd");
    // The next client is asked anew.
    bench.session.closed();
    bench.session.opened();
    bench.raw(&frame("qSupported:"));
    let reply = bench.raw(&[b"+", frame(&format!("x{:x},4", ENTRY + 0x1000)).as_slice()].concat());
    assert_eq!(bodies(&reply), ["babcd"]);
}

#[test]
fn a_thread_that_stands_has_its_registers_too() {
    let mut bench = lldb(2);
    let raw = bench.raw(&frame("qThreadStopInfo2"));
    let registers = stop_registers(&all_of(&raw)[0]);
    assert!(registers.contains(&(32, le(ENTRY))), "{registers:?}");
}
