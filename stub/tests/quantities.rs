//! Much of everything.

mod support;

use probes::machine::RunControl;
use stub::Endpoint;
use support::{AGAIN, Bench, DATA, ENTRY, WORK, frame};

#[test]
fn ten_thousand_breakpoints() {
    let mut bench = Bench::connected(1);
    let mut set = 0;
    for number in 0..10_000 {
        let address = ENTRY + 0x4000 + 4 * number;
        match bench.ask(&format!("Z0,{address:x},4")).as_str() {
            "OK" => set += 1,
            refusal => assert!(refusal.starts_with("E."), "{refusal}"),
        }
    }
    assert_eq!(set, 1024, "the others are refused in words");
    let refusal = bench.ask(&format!("Z0,{WORK:x},4"));
    assert!(refusal.starts_with("E.all 1024 sites"), "{refusal}");
    assert_eq!(bench.ask(&format!("z0,{:x},4", ENTRY + 0x4000)), "OK");
    assert!(
        bench.ask_all("vCont;c").is_empty(),
        "what is taken away goes with the next resume"
    );
    bench.run(10);
    bench.raw(b"\x03");
    assert_eq!(bench.ask(&format!("Z0,{WORK:x},4")), "OK");
    assert!(bench.ask_all("vCont;c").is_empty());
    assert_eq!(bench.run(100), ["T05thread:01;swbreak:;name:vm1/vcpu0;"]);
    bench.ask("D");
    assert!(bench.vm().armed().is_empty() && !bench.vm().held());
}

#[test]
fn offsets_beyond_every_file() {
    let mut bench = Bench::connected(1);
    assert_eq!(bench.ask("vFile:open:6576656e7473,0,0"), "F00");
    for offset in [
        "100000",
        "7fffffffffffffff",
        "8000000000000000",
        "ffffffffffffffff",
    ] {
        for count in ["1000", "ffffffffffffffff"] {
            let read = format!("vFile:pread:0,{count},{offset}");
            assert_eq!(bench.ask(&read), "F0;");
        }
        let reply = bench.ask(&format!("vFile:pwrite:0,{offset},a"));
        assert!(reply.starts_with("F-1,"), "{reply}");
    }
    assert_eq!(bench.ask("vFile:close:0"), "F0");
    assert_eq!(bench.ask("vFile:open:612e6c70,601,1c0"), "F00");
    for offset in ["7fffffffffffffff", "ffffffffffffffff"] {
        assert_eq!(bench.ask(&format!("vFile:pwrite:0,{offset},a")), "F-1,1b");
    }
    assert_eq!(bench.ask("qC"), "QC01");
}

/// Longer than what waits for a client that does not read.
#[test]
fn output_of_any_length_arrives_whole() {
    let mut bench = Bench::connected(1);
    bench.monitor("trace kprobe work");
    assert!(bench.ask_all("vCont;c").is_empty());
    for _ in 0..200 {
        bench.run(200);
    }
    bench.raw(b"\x03");
    let dump = bench.monitor("trace dump");
    assert!(dump.len() > 256 * 1024, "{}", dump.len());
    let lines: Vec<&str> = dump.lines().collect();
    assert!(
        lines
            .iter()
            .filter(|line| line.contains("vm1:work"))
            .count()
            > 1000
    );
    assert!(dump.ends_with('\n'));
    let twice = bench.monitor("trace dump");
    assert_eq!(dump, twice);
    // And to one who acknowledges each packet.
    bench.session.closed();
    bench.session.opened();
    bench.raw(&frame("?"));
    let mut packets = Vec::new();
    let mut raw = bench.raw(&[b"+", frame("qRcmd,74726163652064756d70").as_slice()].concat());
    loop {
        let bodies = support::bodies(&raw);
        assert_eq!(bodies.len(), 1, "one at a time");
        packets.extend(bodies);
        if packets.last().is_some_and(|body| body == "OK") {
            break;
        }
        raw = bench.raw(b"+");
    }
    let acknowledged: String = packets
        .iter()
        .filter_map(|body| body.strip_prefix("O:"))
        .collect();
    assert_eq!(acknowledged, dump);
}

#[test]
fn packets_as_long_as_they_may_be() {
    let mut bench = Bench::connected(1);
    let hello = bench.ask("qSupported:");
    let size = hello.split("PacketSize=").nth(1).unwrap();
    let size = usize::from_str_radix(size.split(';').next().unwrap(), 16).unwrap();
    let length = (size - 40) / 2;
    let write = format!("M{DATA:x},{length:x}:{}", "5a".repeat(length));
    assert_eq!(bench.ask(&write), "OK");
    let read = bench.ask(&format!("m{DATA:x},{length:x}"));
    assert!(read.len() > size / 2 - 100 && read.bytes().all(|byte| byte == b'5' || byte == b'a'));
    assert_eq!(bench.ask(&format!("m{AGAIN:x},4")).len(), 8);
}
