//! Transcripts of extensions of the protocol that GDB sends.

mod support;

use probes::addr::Gva;
use probes::machine::{RunControl, VcpuId};
use stub::Endpoint;
use support::{Bench, DATA, ENTRY, WORK, all_of, bodies, frame, le, stop_registers};

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
    assert!(long.len() > 2000 && long.len() < 4096, "{}", long.len());
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
    let long = format!("X{DATA:x},2000:{}", "a".repeat(0x2000));
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
