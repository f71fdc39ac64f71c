//! Whatever bytes come: no panic, no hang, and the next client works.

mod support;

use probes::machine::RunControl;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use stub::Endpoint;
use support::{AGAIN, Bench, DATA, WORK, frame, frame_bytes};

/// What clients send.
fn packets() -> Vec<String> {
    let monitor = |line: &str| {
        let hex: String = line.bytes().map(|byte| format!("{byte:02x}")).collect();
        format!("qRcmd,{hex}")
    };
    let mut packets: Vec<String> = [
        "qSupported:multiprocess+;swbreak+;hwbreak+;qRelocInsn+",
        "QStartNoAckMode",
        "vMustReplyEmpty",
        "?",
        "g",
        "p20",
        "P0=0011223344556677",
        "P21=c5030000",
        "Hg0",
        "Hg-1",
        "Hgp1.2",
        "Hc-1",
        "qC",
        "qfThreadInfo",
        "qsThreadInfo",
        "qThreadExtraInfo,1",
        "qXfer:features:read:target.xml:0,ffb",
        "qXfer:memory-map:read::0,ffb",
        "qXfer:threads:read::0,ffb",
        "vCont?",
        "vCont;c",
        "vCont;s:1;c",
        "vCont;r40000000,40000010:1",
        "vCont;s",
        "c",
        "s",
        "vFile:setfs:0",
        "vFile:open:782e6c70,601,1c0",
        "vFile:pwrite:0,0,abc",
        "vFile:pread:0,10,0",
        "vFile:fstat:0",
        "vFile:close:0",
        "vFile:unlink:782e6c70",
        "D",
        "k",
        "vKill;1",
        "qCRC:40000000,100",
        "QTDP:1:40000000:E:0:0:X3,220027",
        "qMemoryRegionInfo:40000000",
        "jThreadsInfo",
    ]
    .map(String::from)
    .to_vec();
    for kind in 0..5 {
        for address in [WORK, AGAIN, DATA, 0x123, 0x900_0000, u64::MAX] {
            packets.push(format!("Z{kind},{address:x},4"));
            packets.push(format!("z{kind},{address:x},4"));
        }
    }
    for (address, length) in [(WORK, 16), (0, u64::MAX), (u64::MAX, u64::MAX)] {
        packets.push(format!("m{address:x},{length:x}"));
    }
    packets.push(format!("M{DATA:x},2:aabb"));
    packets.push(format!("X{DATA:x},2:ab"));
    for line in [
        "help",
        "trace list",
        "trace kprobe work count",
        "trace kprobe again args --stop",
        "trace attach work count --go",
        "trace unkprobe 1",
        "trace progs",
        "map dump count count",
        "phys 0x40000000 64",
        "phys 0xffffffffffffffff 4096",
        "vm list",
        "vm reset vm1",
        "vm stop vm1",
        "vm start vm1",
        "log",
    ] {
        packets.push(monitor(line));
    }
    packets
}

/// One thing that happens to a session.
#[derive(Clone, Debug)]
enum Event {
    Packet(String),
    /// The packet with a byte changed, but a good checksum.
    Mutated(String, usize, u8),
    /// The first so many bytes of the frame.
    Cut(String, usize),
    Bytes(Vec<u8>),
    Run(usize),
    Closed,
    Opened,
}

fn event() -> impl Strategy<Value = Event> {
    let packet = || select(packets());
    prop_oneof![
        8 => packet().prop_map(Event::Packet),
        4 => (packet(), any::<usize>(), any::<u8>())
            .prop_map(|(packet, at, byte)| Event::Mutated(packet, at, byte)),
        1 => (packet(), any::<usize>()).prop_map(|(packet, at)| Event::Cut(packet, at)),
        1 => vec(any::<u8>(), 0..40).prop_map(Event::Bytes),
        1 => Just(Event::Bytes(vec![3])),
        1 => vec(select(b"+-$#}*\x03c".to_vec()), 0..20).prop_map(Event::Bytes),
        3 => (0usize..40).prop_map(Event::Run),
        1 => Just(Event::Closed),
        1 => Just(Event::Opened),
    ]
}

fn happen(bench: &mut Bench, event: Event) {
    match event {
        Event::Packet(packet) => drop(bench.raw(&frame(&packet))),
        Event::Mutated(packet, at, byte) => {
            let mut bytes = packet.into_bytes();
            let at = at % bytes.len();
            bytes[at] = byte;
            bench.raw(&frame_bytes(&bytes));
        }
        Event::Cut(packet, at) => {
            let framed = frame(&packet);
            bench.raw(&framed[..at % framed.len()]);
        }
        Event::Bytes(bytes) => drop(bench.raw(&bytes)),
        Event::Run(steps) => {
            bench.output();
            let stands = bench.session.has_client() && bench.vm().held();
            bench.vm().run(steps);
            bench.session.poll();
            let said = bench.output();
            assert!(
                !stands || said.is_empty(),
                "unasked while the VM stands: {said}"
            );
        }
        Event::Closed => bench.session.closed(),
        Event::Opened => bench.session.opened(),
    }
}

/// A client that comes after all that.
fn next_client_works(bench: &mut Bench) {
    bench.session.opened();
    let hello = bench.raw(&frame("qSupported:swbreak+"));
    assert!(hello.starts_with("+$PacketSize=10000;"), "{hello}");
    assert_eq!(
        bench.raw(&[b"+", frame("QStartNoAckMode").as_slice()].concat()),
        "+$OK#9a"
    );
    bench.session.receive(b"+");
    assert!(bench.vm().held());
    assert!(!bench.ask("?").is_empty());
    bench.ask("D");
    assert!(
        !bench.vm().held(),
        "nobody holds the VM when the last client has gone"
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn sessions_of_any_kind(events in vec(event(), 0..60)) {
        let mut bench = Bench::new(2);
        for event in events {
            happen(&mut bench, event);
        }
        next_client_works(&mut bench);
    }

    #[test]
    fn bytes_of_any_kind(bytes in vec(any::<u8>(), 0..6000)) {
        let mut bench = Bench::new(1);
        bench.raw(&bytes);
        next_client_works(&mut bench);
    }

    #[test]
    fn any_body_gets_at_most_one_answer_when_stopped(body in vec(any::<u8>(), 0..80)) {
        let special = |byte: &u8| b"$#}*\x03".contains(byte);
        prop_assume!(!body.iter().any(special));
        let mut bench = Bench::connected(1);
        let raw = bench.raw(&frame_bytes(&body));
        prop_assert!(support::bodies(&raw).len() <= 1);
        next_client_works(&mut bench);
    }
}

#[test]
fn an_oversize_packet_costs_one_error() {
    let mut bench = Bench::connected(1);
    let long = format!("X{DATA:x},11000:{}", "a".repeat(0x11000));
    assert_eq!(bench.ask(&long), "E07");
    assert_eq!(bench.ask("qC"), "QC01");
}

#[test]
fn a_client_that_never_reads_does_not_fill_memory() {
    let mut bench = Bench::connected(1);
    let packet = frame("qXfer:features:read:target.xml:0,ffb");
    for _ in 0..10_000 {
        bench.session.receive(&packet);
    }
    let waiting = bench.output().len();
    assert!(waiting < 300 * 1024, "{waiting}");
    assert_eq!(bench.ask("qC"), "QC01");
}
