//! Transcripts: what a client sends, what it gets, over a fake machine.

mod support;

use probes::machine::{Registers, RunControl, VcpuId, VmId};
use probes::regs::SysReg;
use stub::Endpoint;
use support::{AGAIN, Bench, DATA, ENTRY, STORE, WORK, bodies, frame, le};

#[test]
fn a_client_comes_looks_and_goes() {
    let mut bench = Bench::new(2);
    bench.session.opened();
    assert_eq!(
        bench.output(),
        "",
        "nothing is said before the client speaks"
    );
    assert!(!bench.vm().held());
    let hello = bench.raw(&frame("qSupported:multiprocess+;xmlRegisters=i386"));
    assert!(
        hello.starts_with("+$PacketSize=10000;QStartNoAckMode+;"),
        "{hello}"
    );
    assert!(!hello.contains("multiprocess"));
    assert!(
        bench.vm().held() && !bench.machines[1].held(),
        "only the endpoint's VM stands"
    );
    assert_eq!(
        bodies(&bench.raw(b"+$?#3f")),
        ["T05thread:01;name:vm1/vcpu0;"]
    );
    assert_eq!(
        bench.raw(&[b"+", frame("D").as_slice()].concat()),
        "+$OK#9a"
    );
    assert!(!bench.vm().held());
    assert!(!bench.session.has_client());
}

#[test]
fn acknowledgements_resends_and_their_end() {
    let mut bench = Bench::new(1);
    bench.session.opened();
    assert_eq!(bench.raw(b"$qC#b4"), "+$QC01#f5");
    assert_eq!(bench.raw(b"-"), "$QC01#f5");
    assert_eq!(bench.raw(b"+"), "");
    assert_eq!(
        bench.raw(b"$qC#b5"),
        "-",
        "a bad checksum is asked for again"
    );
    assert_eq!(bench.raw(b"\r\n junk \x00$qC#b4"), "+$QC01#f5");
    assert_eq!(bench.raw(&frame("QStartNoAckMode")), "+$OK#9a");
    assert_eq!(bench.raw(b"+$qC#b4"), "$QC01#f5");
    assert_eq!(
        bench.raw(b"$qC#00"),
        "",
        "without acks nothing can be asked for again"
    );
    assert_eq!(bench.raw(b"$qC#b4"), "$QC01#f5");
}

#[test]
fn registers_one_by_one_and_together() {
    let mut bench = Bench::connected(1);
    bench.ask(&format!("P0={}", le(0x1122_3344_5566_7788)));
    assert_eq!(bench.register(0), 0x1122_3344_5566_7788);
    assert_eq!(bench.register(32), ENTRY, "the PC");
    assert_eq!(bench.ask(&format!("P22={}{}", le(7), le(9))), "OK");
    assert_eq!(bench.ask("p22"), format!("{}{}", le(7), le(9)), "V0");
    let g = bench.ask("g");
    assert!(g.starts_with(&le(0x1122_3344_5566_7788)));
    let v0 = 2 * (33 * 8 + 4);
    assert_eq!(&g[v0..v0 + 32], format!("{}{}", le(7), le(9)));
    let changed = format!("{}{}", le(5), &g[16..]);
    assert_eq!(bench.ask(&format!("G{changed}")), "OK");
    assert_eq!(bench.ask("g"), changed);
    assert_eq!(bench.ask("Gabcd"), "E05");
    assert_eq!(bench.ask("pffff"), "E16", "no such register");
    assert_eq!(bench.ask("P0=11"), "E16", "a value of the wrong size");
}

#[test]
fn system_registers_by_number() {
    use probes::regs::SysReg;
    let mut bench = Bench::connected(1);
    let vbar = 72 + SysReg::VbarEl1 as usize;
    assert_eq!(bench.ask(&format!("P{vbar:x}={}", le(0x8000))), "OK");
    assert_eq!(bench.register(vbar), 0x8000);
    let mpidr = 72 + SysReg::MpidrEl1 as usize;
    assert_eq!(
        bench.ask(&format!("P{mpidr:x}={}", le(1))),
        "E16",
        "read-only"
    );
}

#[test]
fn the_description_counts_as_the_registers_do() {
    let mut bench = Bench::connected(1);
    let mut xml = String::new();
    loop {
        let part = bench.ask(&format!(
            "qXfer:features:read:target.xml:{:x},400",
            xml.len()
        ));
        match part.split_at(1) {
            ("m", text) => xml.push_str(text),
            (_, text) => break xml.push_str(text),
        }
    }
    let bits: usize = xml
        .split("bitsize=\"")
        .skip(1)
        .map(|rest| rest.split('"').next().unwrap().parse::<usize>().unwrap())
        .sum();
    assert_eq!(bench.ask("g").len(), bits / 4);
    assert!(xml.contains("org.gnu.gdb.aarch64.core") && xml.contains("ttbr1_el1"));
    // The hypervisor's own registers come behind a guest's.
    assert!(!xml.contains("hcr_el2"));
    let count = xml.matches("regnum=").count();
    assert_eq!(bench.ask(&format!("p{:x}", count - 1)).len(), 16);
    assert!(bench.ask(&format!("p{count:x}")).starts_with('E'));
    assert!(
        bench
            .ask(&format!("P{count:x}=0000000000000000"))
            .starts_with('E')
    );
}

#[test]
fn memory_through_the_guests_own_eyes() {
    let mut bench = Bench::connected(1);
    assert_eq!(bench.ask(&format!("M{DATA:x},4:01020304")), "OK");
    assert_eq!(bench.ask(&format!("m{DATA:x},4")), "01020304");
    assert_eq!(bench.ask(&format!("X{DATA:x},2:}}\u{3}a")), "OK");
    assert_eq!(bench.ask(&format!("m{DATA:x},4")), "23610304");
    let end = ENTRY + 256 * 1024;
    assert_eq!(
        bench.ask(&format!("m{:x},10", end - 2)),
        "0000",
        "as far as there is memory"
    );
    assert_eq!(bench.ask(&format!("m{end:x},4")), "E0e");
    assert_eq!(bench.ask("m9000000,4"), "E0e", "a device");
    assert_eq!(bench.ask("m0,ffffffffffffffff"), "E0e");
    assert_eq!(bench.ask("mffffffffffffffff,ffffffffffffffff"), "E0e");
    assert_eq!(bench.ask(&format!("M{end:x},1:00")), "E0e");
}

#[test]
fn a_breakpoint_stops_names_its_thread_and_is_passed() {
    let mut bench = Bench::connected(1);
    assert_eq!(bench.ask(&format!("Z0,{WORK:x},4")), "OK");
    for count in 0..3 {
        assert_eq!(bench.ask_all("vCont;c"), [""; 0]);
        assert!(!bench.vm().held());
        assert_eq!(bench.run(100), ["T05thread:01;swbreak:;name:vm1/vcpu0;"]);
        assert_eq!((bench.register(32), bench.register(0)), (WORK, count));
        assert_eq!(
            bench.ask(&format!("m{WORK:x},4")),
            "1f2003d5",
            "the guest's own nop"
        );
        // What GDB does at every stop.
        assert_eq!(bench.ask(&format!("z0,{WORK:x},4")), "OK");
        assert_eq!(bench.ask(&format!("Z0,{WORK:x},4")), "OK");
    }
    assert_eq!(bench.ask(&format!("z0,{WORK:x},4")), "OK");
    bench.ask_all("vCont;c");
    assert!(bench.run(100).is_empty());
    assert!(bench.vm().armed().is_empty());
}

#[test]
fn stepping_one_thread_while_the_other_stays_or_runs() {
    let mut bench = Bench::connected(2);
    bench.ask_all("vCont;s:1");
    assert_eq!(bench.run(10), ["T05thread:01;name:vm1/vcpu0;"]);
    assert_eq!(bench.register(32), ENTRY + 4);
    assert_eq!(bench.ask("Hg2"), "OK");
    assert_eq!(bench.register(32), ENTRY, "scheduler-locking");
    bench.ask_all("vCont;s:2;c");
    assert_eq!(bench.run(1), ["T05thread:02;name:vm1/vcpu1;"]);
    assert_eq!(bench.register(32), ENTRY + 4);
    bench.ask_all(&format!("vCont;r{ENTRY:x},{AGAIN:x}:2"));
    assert_eq!(bench.run(100), ["T05thread:02;name:vm1/vcpu1;"]);
    assert_eq!(bench.register(32), AGAIN);
}

#[test]
fn bare_c_and_s_of_lldb_and_scripts() {
    let mut bench = Bench::connected(2);
    bench.ask_all("s");
    assert_eq!(bench.run(1), ["T05thread:01;name:vm1/vcpu0;"]);
    assert_eq!(bench.ask("Hc2"), "OK");
    bench.ask_all("S05");
    assert_eq!(bench.run(1), ["T05thread:02;name:vm1/vcpu1;"]);
    assert_eq!(bench.ask("Hc-1"), "OK");
    bench.ask_all("c");
    assert!(bench.run(1).is_empty());
    assert_eq!(
        bodies(&bench.raw(b"\x03")),
        ["T02thread:02;name:vm1/vcpu1;"]
    );
}

#[test]
fn ctrl_c_stops_and_is_nothing_while_stopped() {
    let mut bench = Bench::connected(1);
    assert_eq!(bench.raw(b"\x03"), "");
    bench.ask_all("vCont;c");
    bench.run(10);
    assert_eq!(
        bodies(&bench.raw(b"\x03")),
        ["T02thread:01;name:vm1/vcpu0;"]
    );
    assert!(bench.vm().held());
    bench.ask_all("vCont;c");
    assert!(!bench.vm().held());
}

#[test]
fn watchpoints_and_hardware_breakpoints() {
    let mut bench = Bench::connected(1);
    assert_eq!(bench.ask(&format!("Z2,{DATA:x},8")), "OK");
    bench.ask_all("vCont;c");
    assert_eq!(
        bench.run(100),
        [format!("T05thread:01;watch:{DATA:x};name:vm1/vcpu0;")]
    );
    assert_eq!(bench.register(32), STORE);
    assert_eq!(bench.ask(&format!("z2,{DATA:x},8")), "OK");
    assert_eq!(bench.ask(&format!("Z1,{AGAIN:x},4")), "OK");
    bench.ask_all("vCont;c");
    assert_eq!(bench.run(100), ["T05thread:01;hwbreak:;name:vm1/vcpu0;"]);
    assert_eq!(bench.register(32), AGAIN);
}

#[test]
fn running_out_of_watchpoints_says_so() {
    let mut bench = Bench::connected(1);
    for n in 0..4 {
        assert_eq!(bench.ask(&format!("Z2,{:x},8", DATA + 8 * n)), "OK");
    }
    let error = bench.ask(&format!("Z2,{:x},8", DATA + 64));
    assert!(error.starts_with("E.all 4 hardware registers"), "{error}");
    assert_eq!(bench.ask(&format!("z2,{DATA:x},8")), "OK");
    assert_eq!(bench.ask(&format!("Z2,{:x},8", DATA + 64)), "OK");
}

/// A stop of a vCPU that stays is not told in the place of what the vCPU that runs does.
#[test]
fn the_stop_of_a_vcpu_that_stays_waits() {
    let mut bench = Bench::connected(2);
    bench.ask_all("vCont;s:2");
    assert_eq!(bench.run(1), ["T05thread:02;name:vm1/vcpu1;"]);
    bench.ask(&format!("Z0,{WORK:x},4"));
    bench.ask_all("vCont;c");
    // One step ahead, vCPU 1 comes first; before anybody looks, vCPU 0 has a stop as well.
    bench.vm().run(100);
    bench.vm().interrupt();
    let second = "T05thread:02;swbreak:;name:vm1/vcpu1;";
    let first = "T02thread:01;name:vm1/vcpu0;";
    assert_eq!(bench.run(0), [second]);
    for _ in 0..3 {
        assert_eq!(bench.ask_all("vCont;c:2"), [""; 0]);
        assert_eq!(bench.run(100), [second]);
    }
    assert_eq!(bench.ask_all("vCont;c:2"), [""; 0]);
    assert_eq!(
        bodies(&bench.raw(b"\x03")),
        ["T02thread:02;name:vm1/vcpu1;"]
    );
    assert_eq!(bench.ask_all("vCont;c"), [first], "now it is let go");
}

#[test]
fn two_vcpus_stop_at_once_and_no_stop_is_lost() {
    let mut bench = Bench::connected(2);
    bench.ask(&format!("Z0,{WORK:x},4"));
    bench.ask_all("vCont;c");
    let first = bench.run(100);
    assert_eq!(first, ["T05thread:01;swbreak:;name:vm1/vcpu0;"]);
    // The other was on its way; with every resume one of them stops, and each call is seen.
    for _ in 0..6 {
        bench.ask(&format!("z0,{WORK:x},4"));
        bench.ask(&format!("Z0,{WORK:x},4"));
        let told = bench.ask_all("vCont;c");
        let told = if told.is_empty() {
            bench.run(100)
        } else {
            told
        };
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].contains(";swbreak:;"), "{told:?}");
    }
    let list = bench.monitor("trace list");
    assert!(list.contains("break"), "{list}");
}

#[test]
fn threads_have_names() {
    let mut bench = Bench::connected(2);
    assert_eq!(bench.ask("qfThreadInfo"), "m01,02");
    assert_eq!(bench.ask("qsThreadInfo"), "l");
    assert_eq!(bench.ask("qThreadExtraInfo,2"), "766d312f7663707531");
    let xml = bench.ask("qXfer:threads:read::0,fff");
    assert!(
        xml.contains("<thread id=\"02\" core=\"1\" name=\"vm1/vcpu1\"/>"),
        "{xml}"
    );
    // As LLDB asks. vm1/vcpu1 stands because vm1/vcpu0 does.
    assert_eq!(
        bench.ask("qThreadStopInfo1"),
        "T05thread:01;name:vm1/vcpu0;"
    );
    assert_eq!(
        bench.ask("qThreadStopInfo2"),
        "T00thread:02;name:vm1/vcpu1;"
    );
    assert_eq!(bench.ask("qThreadStopInfo9"), "E03");
    assert_eq!(bench.ask("qThreadStopInfozz"), "E16");
    assert_eq!(bench.ask("T2"), "OK");
    assert_eq!(bench.ask("T3"), "E03");
    assert_eq!(bench.ask("qThreadExtraInfo,9"), "E03");
    let mut single = Bench::connected(1);
    assert_eq!(
        single.ask("qfThreadInfo"),
        "m01",
        "a vCPU that is off is no thread"
    );
}

#[test]
fn a_program_prints_while_the_guest_runs_and_never_while_it_stands() {
    let mut bench = Bench::connected(1);
    let reply = bench.monitor("trace kprobe vm1:work printk");
    assert_eq!(
        reply,
        format!("probe 1: kprobe vm1:work at {WORK:#x}, program printk\n")
    );
    bench.ask_all("vCont;c");
    let lines = bench.run(14);
    assert!(!lines.is_empty());
    assert!(
        lines.iter().all(|line| line == "O:[vm1/vcpu0] work hit\n"),
        "{lines:?}"
    );
    bench.vm().run(20);
    let stop = bench.raw(b"\x03");
    let told = bodies(&stop);
    assert_eq!(told.last().unwrap(), "T02thread:01;name:vm1/vcpu0;");
    assert!(
        told[0].starts_with("O:"),
        "what was printed comes before the stop: {told:?}"
    );
    bench.session.poll();
    assert_eq!(bench.output(), "");
    assert!(
        bench
            .monitor("trace stream -n 1")
            .ends_with(" vm1/vcpu0 print      work hit\n")
    );
    assert!(
        bench
            .monitor("trace unkprobe 1")
            .starts_with("detached probe 1: kprobe vm1:work, ")
    );
    assert!(bench.vm().armed().is_empty());
}

#[test]
fn a_stop_probe_stops_and_names_itself() {
    let mut bench = Bench::connected(1);
    bench.monitor("trace kprobe work count --stop");
    bench.ask_all("vCont;c");
    assert_eq!(
        bench.run(100),
        [
            "O:probe 1: kprobe vm1:work stopped vcpu0\n",
            "T05thread:01;name:vm1/vcpu0;"
        ],
        "no swbreak: GDB would take it for a breakpoint that it has just removed"
    );
    assert_eq!(bench.register(32), WORK);
    bench.ask_all("vCont;c");
    assert_eq!(
        bench.run(100).len(),
        2,
        "it stops again, and the guest has gone on in between"
    );
    assert_eq!(bench.register(0), 1);
    let dump = bench.monitor("map dump count count");
    assert_eq!(dump, "KEY  VALUE\n  0      2\n");
}

#[test]
fn an_action_runs_at_gdbs_breakpoint() {
    let mut bench = Bench::connected(1);
    let reply = bench.monitor("trace attach work count --go");
    assert!(
        reply.contains("breakpoint vm1:work now runs count; it lets pass"),
        "{reply}"
    );
    bench.ask(&format!("Z0,{WORK:x},4"));
    bench.ask_all("vCont;c");
    assert!(bench.run(100).is_empty());
    bench.raw(b"\x03");
    assert_ne!(
        bench.monitor("map dump count count"),
        "KEY  VALUE\n  0      0\n"
    );
}

#[test]
fn going_leaves_nothing_behind_but_probes() {
    let mut bench = Bench::connected(2);
    bench.monitor("trace kprobe work count");
    bench.ask(&format!("Z0,{AGAIN:x},4"));
    bench.ask(&format!("Z2,{DATA:x},8"));
    bench.ask_all("vCont;s:1");
    bench.session.closed();
    assert!(!bench.vm().held());
    assert_eq!(bench.vm().armed().len(), 1, "the probe");
    assert!(bench.vm().points().is_empty());
    bench.vm().run(100);
    bench.session.poll();
    assert!(!bench.vm().held());
    bench.session.opened();
    bench.raw(&frame("qSupported:"));
    bench.session.receive(b"+");
    bench.raw(&frame("QStartNoAckMode"));
    bench.session.receive(b"+");
    assert!(bench.monitor("trace list").contains("vm1:work"));
}

#[test]
fn a_stop_probe_without_a_client_does_not_stop_the_guest() {
    let mut bench = Bench::connected(1);
    bench.monitor("trace kprobe work count --stop");
    bench.ask("D");
    for _ in 0..5 {
        bench.run(100);
    }
    assert!(!bench.vm().held());
    bench.session.opened();
    bench.raw(&frame("?"));
    assert!(bench.register(0) >= 4);
}

#[test]
fn a_client_killed_in_mid_packet_costs_the_next_one_nothing() {
    let mut bench = Bench::connected(1);
    bench.session.receive(b"$vFile:pwrite:0,0,abc");
    bench.session.closed();
    bench.session.opened();
    assert!(
        bench
            .raw(&frame("qSupported:"))
            .starts_with("+$PacketSize=")
    );
}

#[test]
fn a_client_killed_in_mid_packet_on_a_serial_line() {
    let mut bench = Bench::connected_by_line(1);
    bench.session.receive(b"+$X4000");
    let hello = bench.raw(&[b"+", frame("qSupported:swbreak+").as_slice()].concat());
    assert!(
        hello.starts_with("+$PacketSize="),
        "a fresh client is acknowledged again: {hello}"
    );
    assert_eq!(
        bodies(&bench.raw(b"+$?#3f")),
        ["T05thread:01;name:vm1/vcpu0;"]
    );
}

#[test]
fn a_fresh_introduction_while_the_vm_runs_is_a_new_client_on_a_serial_line() {
    let mut bench = Bench::connected_by_line(1);
    bench.ask(&format!("Z0,{WORK:x},4"));
    bench.ask_all("vCont;c");
    let hello = bench.raw(&frame("qSupported:"));
    assert!(hello.starts_with("+$PacketSize="), "{hello}");
    assert!(bench.vm().held());
    assert!(
        bench.vm().armed().is_empty(),
        "the breakpoints went with their client"
    );
}

#[test]
fn packets_that_an_old_client_left_in_the_channel_are_not_the_new_ones() {
    for left in [
        format!("Z2,{DATA:x},8"),
        format!("Z0,{WORK:x},4"),
        "vCont;c".to_string(),
    ] {
        let mut bench = Bench::new(1);
        bench.session.opened();
        bench.raw(&frame(&left));
        let hello = bench.raw(&frame("qSupported:"));
        assert!(hello.contains("$PacketSize="), "{hello}");
        assert_eq!(
            bench.raw(&[b"+", frame("QStartNoAckMode").as_slice()].concat()),
            "+$OK#9a"
        );
        bench.session.receive(b"+");
        assert!(bench.vm().points().is_empty());
        assert!(bench.ask_all("vCont;c").is_empty());
        assert!(bench.run(100).is_empty(), "{left}");
        assert!(bench.vm().armed().is_empty());
    }
}

#[test]
fn a_client_that_replaces_another_is_not_told_what_that_asked_for() {
    let mut bench = Bench::connected(1);
    bench.session.replaced();
    assert!(!bench.vm().held(), "the first one is gone");
    assert_eq!(bench.raw(b"$m40000000,4#81$qC#00$vCont;c#a8\x03-"), "");
    let hello = bench.raw(&[b"$m40+", frame("qSupported:").as_slice()].concat());
    assert!(hello.starts_with("+$PacketSize="), "{hello}");
    assert_eq!(bench.raw(b"+$qC#b4"), "+$QC01#f5");
}

#[test]
fn lldb_introduces_itself_twice() {
    let mut bench = Bench::connected(1);
    bench.ask(&format!("Z0,{WORK:x},4"));
    let hello = bench.raw(&frame("qSupported:xmlRegisters=i386"));
    assert!(
        hello.starts_with("$PacketSize="),
        "the session goes on without acknowledgements: {hello}"
    );
    assert!(bench.monitor("trace list").contains("break"));
}

#[test]
fn lldb_ends_acks_before_it_introduces_itself() {
    let mut bench = Bench::new(1);
    bench.session.opened();
    assert_eq!(
        bench.raw(&[b"+", frame("QStartNoAckMode").as_slice()].concat()),
        "+$OK#9a"
    );
    let hello = bench.raw(&[b"+", frame("qSupported:xmlRegisters=i386").as_slice()].concat());
    assert!(hello.starts_with("$PacketSize="), "{hello}");
    assert_eq!(bench.ask("QThreadSuffixSupported"), "OK");
    assert!(bench.ask("qHostInfo").starts_with("triple:"));
    assert!(bench.ask("qProcessInfo").starts_with("pid:1;"));
    assert_eq!(
        bench.ask("qMemoryRegionInfo:40000010"),
        "start:40000000;size:40000;permissions:rwx;"
    );
    assert_eq!(bench.ask("qRegisterInfo0"), "");
    bench.ask_all("c");
    assert_eq!(
        bench.ask("k"),
        "X09",
        "a kill is a detach; LLDB quits when it hears of an end"
    );
    assert!(!bench.vm().held());
}

#[test]
fn a_guest_that_switches_itself_off_has_exited() {
    let mut bench = Bench::connected(1);
    bench.ask_all("vCont;c");
    bench.machines[0].run(5);
    probes::machine::Lifecycle::power_off(bench.vm());
    assert_eq!(bench.run(0), ["W00"]);
    assert_eq!(bench.ask("?"), "W00");
    assert_eq!(bench.ask("qfThreadInfo"), "l");
    assert_eq!(bench.ask("g"), "E03");
    assert_eq!(bench.ask("vCont;c"), "E03");
}

#[test]
fn a_reset_under_the_debugger_stands_before_the_first_instruction() {
    let mut bench = Bench::connected(1);
    bench.ask_all("vCont;c");
    bench.run(10);
    bench.raw(b"\x03");
    assert_ne!(bench.register(32), ENTRY);
    assert_eq!(bench.monitor("vm reset vm1"), "vm1 starts anew\n");
    assert_eq!((bench.register(32), bench.run(10).len()), (ENTRY, 0));
    bench.ask_all("vCont;s:1;c");
    assert_eq!(bench.run(1), ["T05thread:01;name:vm1/vcpu0;"]);
    assert_eq!(bench.register(32), ENTRY + 4);
}

#[test]
fn somebody_else_asks_for_a_stop() {
    let mut bench = Bench::connected(2);
    bench.ask_all("vCont;c");
    bench.vm().interrupt();
    assert_eq!(bench.run(10), ["T02thread:01;name:vm1/vcpu0;"]);
    assert_eq!(bench.ask("?"), "T05thread:01;name:vm1/vcpu0;");
}

#[test]
fn the_other_vm_runs_on() {
    let mut bench = Bench::connected(1);
    assert_eq!(bench.periscope.spaces()[1].vm(), VmId(2));
    assert_eq!(bench.vm().run(10), 0);
    assert_ne!(bench.machines[1].run(10), 0);
    let mut second = stub::Session::new(bench.server, 1).unwrap();
    second.receive(&frame("?"));
    assert_eq!(bench.machines[1].run(10), 0);
    second.closed();
    bench.ask("D");
    assert!(stub::Session::new(bench.server, 2).is_none());
}

/// A linked program as `remote put` sends it.
fn put(bench: &mut Bench, name: &str, bytes: &[u8]) -> String {
    let name: String = name.bytes().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(bench.ask("vFile:setfs:0"), "F0");
    let opened = bench.ask(&format!("vFile:open:{name},601,1c0"));
    let descriptor = opened.strip_prefix('F').unwrap();
    for (index, chunk) in bytes.chunks(500).enumerate() {
        let mut packet = format!("vFile:pwrite:{descriptor},{:x},", 500 * index).into_bytes();
        for byte in chunk {
            match byte {
                b'#' | b'$' | b'}' | b'*' => packet.extend([b'}', byte ^ 0x20]),
                _ => packet.push(*byte),
            }
        }
        let written = bench.raw(&support::frame_bytes(&packet));
        assert_eq!(bodies(&written), [format!("F{:02x}", chunk.len())]);
    }
    bench.ask(&format!("vFile:close:{descriptor}"))
}

#[test]
fn uploads_are_verified_and_loaded_under_their_stem() {
    let mut bench = Bench::connected(1);
    let linked = ebpf::builtin::linked("count").unwrap().encode().unwrap();
    assert_eq!(put(&mut bench, "/tmp/calls.lp", &linked), "F0");
    assert!(bench.monitor("trace progs").contains("calls "));
    assert!(
        bench
            .monitor("trace kprobe work calls")
            .contains("program calls")
    );
    assert_eq!(
        put(&mut bench, "calls.lp", &linked),
        "F-1,10",
        "busy: a probe runs it"
    );
    assert_eq!(put(&mut bench, "count.lp", &linked), "F-1,01", "built in");
    bench.monitor("trace unkprobe 1");
    assert_eq!(bench.ask("vFile:unlink:63616c6c732e6c70"), "F0");
    assert_eq!(bench.ask("vFile:unlink:63616c6c732e6c70"), "F-1,02");
}

#[test]
fn an_uploaded_system_map_gives_the_symbols() {
    let mut bench = Bench::connected(1);
    let vectors = 0xffff_8000_8000_0000_u64;
    let map = |work: u64| {
        format!(
            "{vectors:x} T vectors\n{:x} t tools\n{:x} B _end\n",
            vectors + (work - ENTRY),
            vectors + 0x10_0000
        )
    };
    bench
        .vm()
        .set_sys(VcpuId(0), SysReg::VbarEl1, ENTRY)
        .unwrap();
    let missing = bench.monitor("trace loadsyms vm1 System.map");
    assert!(missing.contains("remote put"), "{missing}");
    assert_eq!(put(&mut bench, "System.map", map(WORK).as_bytes()), "F0");
    let said = bench.monitor("trace loadsyms vm1 System.map");
    assert!(
        said.starts_with("vm1: 3 symbols from System.map, moved by 0x"),
        "{said}"
    );
    assert_eq!(
        bench.monitor("gsym tools"),
        format!("{WORK:#x} vm1:tools\n")
    );
    assert_eq!(put(&mut bench, "b.map", b"hello\n"), "F0");
    let bad = bench.monitor("trace loadsyms vm1 b.map");
    assert!(bad.starts_with("b.map: line 1 is no symbol"), "{bad}");
    let again = bench.monitor("trace loadsyms vm1 b.map");
    assert!(again.starts_with("no file b.map"), "{again}");
}

#[test]
fn a_bad_upload_is_refused_and_says_why() {
    let mut bench = Bench::connected(1);
    assert_eq!(put(&mut bench, "bad.lp", b"not a program"), "F-1,16");
    let why = bench.monitor("trace load bad.lp");
    assert!(
        why.starts_with("bad: this is not a linked program"),
        "{why}"
    );
    let told = bench.monitor("trace progs");
    assert!(told.contains("not loaded: bad: "), "{told}");
    assert!(
        told.contains("periscope link"),
        "what to do about it: {told}"
    );
    let told = bench.ask_all("vCont;c");
    assert!(told[0].starts_with("O:bad: "), "{told:?}");
    bench.raw(b"\x03");
    assert_eq!(
        bench.ask("vFile:open:61,0,0"),
        "F-1,02",
        "nothing can be read here"
    );
    assert_eq!(bench.ask("vFile:close:7"), "F-1,09");
    assert_eq!(bench.ask("vFile:pwrite:0,0,a"), "F-1,09");
    for _ in 0..4 {
        assert!(bench.ask("vFile:open:612e6c70,601,1c0").starts_with("F0"));
    }
    assert_eq!(bench.ask("vFile:open:612e6c70,601,1c0"), "F-1,18");
    assert_eq!(bench.ask("vFile:pwrite:0,100000,a"), "F-1,1b", "too big");
}

#[test]
fn a_breakpoint_on_what_is_not_mapped_waits_and_one_on_a_device_is_refused() {
    let mut bench = Bench::connected(1);
    let device = bench.ask("Z0,9000000,4");
    assert!(
        device.starts_with("E.vm1: 0x9000000 is not RAM"),
        "{device}"
    );
    let unaligned = bench.ask(&format!("Z0,{:x},4", WORK + 2));
    assert!(unaligned.starts_with("E."), "{unaligned}");
    assert_eq!(bench.ask(&format!("Z0,{WORK:x},2")), "E16", "T32 code");
}

#[test]
fn packets_that_are_fatal_to_gdbstub() {
    let mut bench = Bench::connected(2);
    for (packet, reply) in [
        ("Hg-1", "OK"),
        ("Hgp0.0", "OK"),
        ("Hg7", "E03"),
        ("vCont;t", "E16"),
        ("vCont;t:1", "E16"),
        ("vCont;c:9", "E03"),
        ("vCont", ""),
        ("qCRC:40000000,", "E16"),
        ("QTDP:1:40000000:E:0:0:X3,220027-", "OK"),
        ("QTDP:-1:40000000:M-1,40000000,8", "OK"),
        ("m40000000,", "E16"),
        ("M40000000,2:a", "E16"),
        ("Z0", "E16"),
        ("p", "E16"),
        ("!", ""),
        ("", ""),
        ("vMustReplyEmpty", ""),
    ] {
        assert_eq!(bench.ask(packet), reply, "{packet}");
        assert_eq!(bench.ask("qC"), "QC01", "after {packet}");
    }
    bench.ask_all("vCont;c");
    assert_eq!(bench.ask("g"), "E10", "busy: the vCPUs run");
    assert_eq!(
        bodies(&bench.raw(b"\x03")),
        ["T02thread:01;name:vm1/vcpu0;"]
    );
}

#[test]
fn a_breakpoint_on_a_landing_pad_is_seen_where_it_was_set() {
    let mut bench = Bench::connected(1);
    let function = bench.call_guarded();
    let insert = format!("Z0,{function:x},4");
    let remove = format!("z0,{function:x},4");
    assert_eq!(bench.ask(&insert), "OK");
    assert!(bench.ask_all("vCont;c").is_empty());
    for calls in 0..3 {
        assert_eq!(bench.run(20), ["T05thread:01;swbreak:;name:vm1/vcpu0;"]);
        assert_eq!((bench.register(32), bench.register(0)), (function, calls));
        // As GDB goes on: without breakpoints over the instruction, then with them.
        bench.ask(&remove);
        assert_eq!(bench.ask("vCont;s:1"), "T05thread:01;name:vm1/vcpu0;");
        assert_eq!(
            (bench.register(32), bench.register(0)),
            (function + 4, calls)
        );
        bench.ask(&insert);
        assert!(bench.ask_all("vCont;c").is_empty());
    }
    // And as a client that relies on the server.
    assert_eq!(bench.run(20), ["T05thread:01;swbreak:;name:vm1/vcpu0;"]);
    assert!(bench.ask_all("vCont;c").is_empty());
    assert_eq!(bench.run(20), ["T05thread:01;swbreak:;name:vm1/vcpu0;"]);
    assert_eq!((bench.register(32), bench.register(0)), (function, 4));
    let list = bench.monitor("trace list");
    assert!(list.contains("   5       0"), "each call hits once: {list}");
    bench.ask("D");
    assert_ne!(bench.vm().run(20), 0);
}

#[test]
fn a_breakpoint_on_what_is_not_mapped_says_so_and_arms_itself() {
    let mut bench = Bench::connected(1);
    let function = bench.call_guarded();
    assert_eq!(bench.ask("Z0,120,4"), "OK");
    let waits = "O:vm1: 0x120 is not mapped. The breakpoint arms itself when it is.\n";
    assert_eq!(bench.ask_all("vCont;c"), [waits]);
    assert!(bench.run(5).is_empty());
    bench.raw(b"\x03");
    assert_eq!(bench.ask("Z0,120,4"), "OK");
    assert!(bench.ask_all("vCont;c").is_empty(), "once is enough");
    bench.raw(b"\x03");
    assert_eq!(bench.ask("m120,4"), "E0e");
    assert_eq!(bench.ask("qMemoryRegionInfo:120"), "start:0;size:40002000;");
    let region = format!("start:{function:x};size:2000;permissions:rwx;");
    assert_eq!(
        bench.ask(&format!("qMemoryRegionInfo:{:x}", function + 8)),
        region
    );
}
