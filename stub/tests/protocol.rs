//! Transcripts of extensions of the protocol that GDB sends.

mod support;

use probes::addr::Gva;
use probes::machine::{RunControl, VcpuId};
use stub::Endpoint;
use support::{Bench, DATA, ENTRY, WORK, all_of, bodies, frame, le, stop_registers, unescape};

/// A client that has introduced itself as GDB 16 does.
fn gdb16(vcpus: u8) -> Bench {
    let mut bench = Bench::new(vcpus);
    bench.session.opened();
    bench.raw(&frame("qSupported:multiprocess+;swbreak+;error-message+"));
    bench.raw(&[b"+", frame("QStartNoAckMode").as_slice()].concat());
    bench.session.receive(b"+");
    bench
}

#[test]
fn a_stop_comes_with_the_registers_that_are_looked_at_first() {
    let mut bench = Bench::connected(1);
    bench.ask(&format!("Z0,{WORK:x},4"));
    bench.ask_all("vCont;c");
    bench.vm().run(100);
    bench.session.poll();
    let raw = bench.output();
    let registers = stop_registers(&all_of(&raw)[0]);
    let numbers: Vec<usize> = registers.iter().map(|(number, _)| *number).collect();
    assert_eq!(numbers, [29, 30, 31, 32, 33]);
    for (number, digits) in registers {
        assert_eq!(bench.ask(&format!("p{number:x}")), digits);
    }
    assert_eq!(bench.register(32), WORK);
}

#[test]
fn memory_in_binary() {
    let mut bench = Bench::connected(1);
    assert_eq!(bench.ask(&format!("M{DATA:x},6:6123247d2a7a")), "OK");
    let raw = bench.raw(&frame(&format!("x{DATA:x},6")));
    assert_eq!(bodies(&raw), ["ba}\u{3}}\u{4}}]}\nz"]);
    assert_eq!(bench.ask(&format!("x{DATA:x},0")), "b");
    assert_eq!(bench.ask("x123,4"), "E0e");
    assert_eq!(bench.ask("xffffffffffffffff,ffffffffffffffff"), "E0e");
    let end = ENTRY + 256 * 1024;
    assert_eq!(
        bench.ask(&format!("x{:x},10", end - 2)),
        "b\0\0",
        "as far as there is memory"
    );
    let long = bench.ask(&format!("x{DATA:x},ffffffffffff"));
    assert!(
        long.len() > 0x7000 && long.len() < 0x10000,
        "{}",
        long.len()
    );
}

#[test]
fn wishes_that_change_nothing_are_granted() {
    let mut bench = Bench::connected(1);
    for (packet, reply) in [
        ("QPassSignals:e;10;14;17", "OK"),
        ("QPassSignals:", "OK"),
        ("QProgramSignals:0;1;3", "OK"),
        ("QProgramSignals:x", "E16"),
        ("QNonStop:0", "OK"),
        ("QCatchSyscalls:0", "OK"),
        ("QThreadEvents:0", "OK"),
        ("QThreadEvents:2", "E16"),
    ] {
        assert_eq!(bench.ask(packet), reply, "{packet}");
    }
}

#[test]
fn wishes_that_cannot_be_granted_say_why() {
    let mut bench = Bench::connected(1);
    let refusal = bench.ask("QNonStop:1");
    assert!(
        refusal.starts_with("E.a stop of one vCPU stops its VM"),
        "{refusal}"
    );
    assert!(
        refusal.contains("set scheduler-locking on"),
        "what to do: {refusal}"
    );
    let refusal = bench.ask("QCatchSyscalls:1");
    assert!(
        refusal.starts_with("E.a VM makes no system calls"),
        "{refusal}"
    );
}

#[test]
fn errors_come_in_words_to_those_who_show_them() {
    let mut bench = gdb16(1);
    assert_eq!(bench.ask("Hg9"), "E.no such thread: the vCPU is off");
    assert_eq!(bench.ask("m123,4"), "E0e", "GDB says the address itself");
    let long = format!("X{DATA:x},11000:{}", "a".repeat(0x11000));
    assert_eq!(
        bench.ask(&long),
        "E.that is more than the debug server takes"
    );
    let mut older = Bench::connected(1);
    assert_eq!(older.ask("Hg9"), "E03");
}

#[test]
fn the_masks_of_pointers() {
    let mut bench = Bench::connected(1);
    let tcr = 72 + probes::regs::SysReg::TcrEl1 as usize;
    assert_eq!(bench.register(69), 0, "the guest has not said yet");
    // 48 bits in both halves, the top byte of user addresses ignored.
    bench.ask(&format!("P{tcr:x}={}", le(16 | 16 << 16 | 1 << 37)));
    assert_eq!(bench.register(71), 0, "the guest signs nothing");
    let sctlr = 72 + probes::regs::SysReg::SctlrEl1 as usize;
    bench.ask(&format!("P{sctlr:x}={}", le(1 << 31 | 1 << 27)));
    assert_eq!(bench.register(68), 0x007f_0000_0000_0000);
    assert_eq!(bench.register(71), 0xff7f_0000_0000_0000);
    assert_eq!(
        bench.ask(&format!("P44={}", le(1))),
        "E16",
        "they are the guest's to choose"
    );
}

#[test]
fn vcpus_that_come_and_go_are_told() {
    let mut bench = Bench::connected(1);
    assert_eq!(bench.ask("QThreadEvents:1"), "OK");
    assert!(bench.ask_all("vCont;c").is_empty());
    assert!(bench.run(10).is_empty());
    bench.vm().power_on(VcpuId(1), Gva(ENTRY), 0);
    assert_eq!(bench.run(0), ["T05create:;thread:02;name:vm1/vcpu1;"]);
    assert!(bench.vm().held());
    assert_eq!(bench.ask("qfThreadInfo"), "m01,02");
    assert_eq!(bench.ask("qC"), "QC02");
    assert!(bench.ask_all("vCont;c").is_empty());
    assert!(bench.run(10).is_empty(), "once is enough");
    bench.vm().switch_off(VcpuId(1));
    assert_eq!(bench.run(0), ["w00;2"]);
    assert_eq!(bench.ask("?"), "T05thread:01;name:vm1/vcpu0;");
    assert_eq!(bench.ask("QThreadEvents:0"), "OK");
    assert!(bench.ask_all("vCont;c").is_empty());
    bench.vm().power_on(VcpuId(1), Gva(ENTRY), 0);
    assert!(bench.run(10).is_empty());
}

#[test]
fn memory_is_searched() {
    let mut bench = Bench::connected(1);
    // Over the end of a page.
    let at = ENTRY + 0x1ffe;
    bench.ask(&format!("M{at:x},4:23616263"));
    let search = |range: String, pattern: &str| frame(&format!("qSearch:memory:{range};{pattern}"));
    let mut find = |range, pattern| bodies(&bench.raw(&search(range, pattern)));
    assert_eq!(
        find(format!("{ENTRY:x};10000"), "}\u{3}abc"),
        [format!("1,{at:x}")]
    );
    assert_eq!(
        find(format!("{:x};10000", at + 1), "abc"),
        [format!("1,{:x}", at + 1)]
    );
    assert_eq!(
        find(format!("{:x};3", at), "abc"),
        ["0"],
        "it would end behind the range"
    );
    assert_eq!(
        find(format!("{:x};4", at), "abc"),
        [format!("1,{:x}", at + 1)]
    );
    assert_eq!(
        find("3c000000;4010000".to_string(), "abc"),
        [""; 0],
        "it goes on"
    );
    let mut polls = 0;
    let found = loop {
        bench.session.poll();
        polls += 1;
        let told = bench.output();
        if !told.is_empty() {
            break bodies(&told);
        }
    };
    assert_eq!(found, [format!("1,{:x}", at + 1)], "holes are no matter");
    assert!(polls > 2, "in pieces: {polls}");
}

#[test]
fn a_scan_that_takes_too_long_is_refused_and_one_can_be_ended() {
    let mut bench = Bench::connected(1);
    assert!(
        bench
            .ask_all("qSearch:memory:0;ffffffffffffffff;nowhere")
            .is_empty()
    );
    assert!(bench.session.wants_poll());
    assert_eq!(bodies(&bench.raw(b"\x03")), ["E.interrupted"]);
    assert!(!bench.session.wants_poll());
    assert!(
        bench
            .ask_all("qSearch:memory:0;ffffffffffffffff;nowhere")
            .is_empty()
    );
    assert_eq!(
        bench.ask("qC"),
        "QC01",
        "who asks something else waits no more"
    );
    bench.session.poll();
    assert_eq!(bench.output(), "");
    assert!(
        bench
            .ask_all("qSearch:memory:0;ffffffffffffffff;nowhere")
            .is_empty()
    );
    let refusal = loop {
        bench.session.poll();
        let told = bodies(&bench.output());
        if let Some(body) = told.into_iter().next() {
            break body;
        }
    };
    assert!(refusal.starts_with("E.0x0 to "), "{refusal}");
    assert!(
        refusal.ends_with("took too long to read: give a smaller range"),
        "{refusal}"
    );
    let told = bench.ask_all("vCont;c");
    assert!(told[0].starts_with("O:0x0 to "), "{told:?}");
}

#[test]
fn checksums_of_memory() {
    let mut bench = Bench::connected(1);
    bench.ask(&format!("M{DATA:x},9:313233343536373839"));
    assert_eq!(bench.ask(&format!("qCRC:{DATA:x},9")), "C376e6e7");
    assert_eq!(bench.ask("qCRC:123,9"), "E0e");
    let end = ENTRY + 256 * 1024;
    assert_eq!(
        bench.ask(&format!("qCRC:{:x},10", end - 8)),
        "E0e",
        "all has to be there"
    );
}

/// A document, read in small windows.
fn read(bench: &mut Bench, object: &str, annex: &str) -> String {
    let mut document = String::new();
    loop {
        let offset = document.len();
        let window = bench.ask(&format!("qXfer:{object}:read:{annex}:{offset:x},40"));
        let (more, part) = window.split_at(1);
        document.push_str(&unescape(part));
        if more == "l" {
            return document;
        }
        assert_eq!(more, "m", "{window}");
    }
}

#[test]
fn tables_of_what_there_is() {
    let mut bench = Bench::connected(2);
    let types = read(&mut bench, "osdata", "");
    let kinds: Vec<&str> = types
        .split("<column name=\"Type\">")
        .skip(1)
        .filter_map(|rest| rest.split('<').next())
        .collect();
    assert_eq!(
        kinds,
        ["vms", "vcpus", "probes", "programs", "maps", "tracepoints"]
    );
    bench.monitor("trace kprobe work count");
    for kind in kinds {
        let table = read(&mut bench, "osdata", kind);
        assert!(
            table.contains(&format!("<osdata type=\"{kind}\">\n<item>")),
            "{table}"
        );
    }
    let vcpus = read(&mut bench, "osdata", "vcpus");
    let second = "<item><column name=\"VM\">vm1</column><column name=\"VCPU\">1</column>\
                  <column name=\"THREAD\">2</column><column name=\"STATE\">on</column>\
                  <column name=\"CPU\">1</column></item>";
    assert!(vcpus.contains(second), "{vcpus}");
    let probes = read(&mut bench, "osdata", "probes");
    assert!(
        probes.contains("<column name=\"SITE\">vm1:work</column>"),
        "{probes}"
    );
    assert_eq!(bench.ask("qXfer:osdata:read:processes:0,100"), "E16");
}

#[test]
fn a_table_stays_while_it_is_read() {
    let mut bench = Bench::connected(1);
    bench.monitor("trace kprobe work count");
    let first = bench.ask("qXfer:osdata:read:probes:0,100");
    bench.monitor("trace unkprobe 1");
    let second = bench.ask("qXfer:osdata:read:probes:100,400");
    let whole = format!("{}{}", &first[1..], &second[1..]);
    assert!(
        whole.contains("vm1:work") && whole.ends_with("</osdata>\n"),
        "{whole}"
    );
    let again = read(&mut bench, "osdata", "probes");
    assert!(!again.contains("vm1:work"), "{again}");
}

#[test]
fn threads_have_a_physical_cpu() {
    let mut bench = Bench::connected(2);
    let xml = read(&mut bench, "threads", "");
    assert!(
        xml.contains("<thread id=\"02\" core=\"1\" name=\"vm1/vcpu1\"/>"),
        "{xml}"
    );
    let raw = bench.raw(&frame("qThreadStopInfo2"));
    assert!(all_of(&raw)[0].contains(";core:1;"), "{raw}");
}

#[test]
fn a_vm_that_runs_answers_for_its_memory_and_its_breakpoints() {
    let mut bench = Bench::connected(2);
    assert!(bench.ask_all("vCont;c").is_empty());
    assert!(bench.run(10).is_empty());
    let scratch = DATA + 0x100;
    assert_eq!(bench.ask(&format!("M{scratch:x},2:6162")), "OK");
    assert_eq!(bench.ask(&format!("X{:x},1:c", scratch + 2)), "OK");
    assert_eq!(bench.ask(&format!("m{scratch:x},3")), "616263");
    assert_eq!(bench.ask(&format!("x{scratch:x},3")), "babc");
    assert_eq!(bench.ask("m123,1"), "E0e");
    assert!(!bench.vm().held());
    assert_eq!(bench.ask("qfThreadInfo"), "m01,02");
    assert_eq!(bench.ask("T2"), "OK");
    assert_eq!(bench.ask("Hg2"), "OK");
    assert!(bench.monitor("vm list").contains("vm1"));
    assert!(read(&mut bench, "threads", "").contains("vm1/vcpu1"));
    assert!(read(&mut bench, "osdata", "vms").contains("vm1"));
    assert!(read(&mut bench, "features", "target.xml").contains("aarch64"));
    assert!(bench.ask("vFile:open:6576656e7473,0,0").starts_with("F0"));
    assert_eq!(bench.ask("vFile:close:0"), "F0");
    for packet in [
        "g",
        "p20",
        "P0=0000000000000000",
        "?",
        "vCont;s",
        "c",
        "jThreadsInfo",
    ] {
        assert_eq!(bench.ask(packet), "E10", "{packet}: the vCPUs run");
    }
    assert!(bench.run(10).is_empty(), "it runs on");
    assert_eq!(bench.ask(&format!("Z0,{WORK:x},4")), "OK");
    assert!(!bench.vm().held());
    assert_eq!(bench.run(100), ["T05thread:01;swbreak:;name:vm1/vcpu0;"]);
    assert_eq!(bench.register(32), WORK);
    assert!(bench.ask_all("vCont;c").is_empty());
    assert_eq!(bench.ask(&format!("z0,{WORK:x},4")), "OK");
    assert!(
        bench.vm().armed().is_empty(),
        "at once: nobody is about to resume"
    );
    let second_vcpu_was_there = bench.run(100);
    assert!(
        second_vcpu_was_there.len() <= 1,
        "{second_vcpu_was_there:?}"
    );
    assert_eq!(bench.ask(&format!("Z2,{DATA:x},8")), "OK");
    bench.ask_all("vCont;c");
    let stop = bench.run(100);
    assert!(stop[0].contains(&format!("watch:{DATA:x};")), "{stop:?}");
}

#[test]
fn without_a_kernel_there_is_no_file_that_runs() {
    let mut bench = Bench::connected(1);
    assert_eq!(bench.ask("qXfer:exec-file:read::0,fff"), "E02");
    // vmlinux
    assert_eq!(bench.ask("vFile:open:766d6c696e7578,0,0"), "F-1,02");
    assert_eq!(bench.ask("vFile:pread:0,10,0"), "F-1,9");
}
