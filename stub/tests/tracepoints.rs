//! Tracepoints by the command language, and those of the debug server itself. One test: tracepoints are static, and tests
//! run side by side.

mod support;

use probes::programs::Owner;
use stub::Endpoint;
use stub::commands::{Caller, run};
use support::Bench;

fn shell(bench: &Bench, line: &str) -> String {
    let mut out = String::new();
    let _ = run(bench.server, &Caller::Shell, line, &mut out);
    out
}

#[test]
fn tracepoints_are_listed_switched_and_fire() {
    let mut bench = Bench::new(1);
    let list = shell(&bench, "trace tracepoints");
    assert!(
        list.contains("debug:stop           off    -           0       0  reason thread probe\n"),
        "{list}"
    );
    let one = shell(&bench, "trace tracepoints debug:stop");
    assert!(
        one.starts_with("debug:stop: A VM has stopped for its client.\noff, 0 hits, 0 missed\n"),
        "{one}"
    );
    assert!(one.contains("reason  step|site|hw_breakpoint|"), "{one}");
    for (line, refusal) in [
        (
            "trace enable debug:stap",
            "no tracepoint debug:stap. Did you mean debug:stop?\n",
        ),
        (
            "trace enable debug:stop --prog nothing",
            "no program nothing. ",
        ),
        ("trace enable debug:stop --prog", "--prog needs a program."),
        (
            "trace enable",
            "this needs a tracepoint or the number of a probe.",
        ),
        (
            "trace enable debug:stop vmm:nothing",
            "no tracepoint vmm:nothing. ",
        ),
    ] {
        let said = shell(&bench, line);
        assert!(said.starts_with(refusal), "{line}: {said}");
    }
    assert!(!bench.server.wants_poll(), "nothing is on");

    let on = "debug:session_open is on\ndebug:session_close is on\ndebug:stop is on\ndebug:resume is on\n";
    assert_eq!(shell(&bench, "trace enable debug:*"), on);
    assert_eq!(
        shell(&bench, "trace enable debug:stop --prog args"),
        "debug:stop is on, runs args\n"
    );
    assert!(bench.server.wants_poll());
    bench.session.opened();
    bench.raw(&support::frame("qSupported:swbreak+"));
    bench.raw(&support::frame("QStartNoAckMode"));
    bench.session.receive(b"+");
    bench.ask_all("vCont;c");
    bench.run(5);
    bench.raw(b"\x03");
    bench.session.closed();
    let stream = shell(&bench, "trace stream --filter debug");
    let said: Vec<&str> = stream
        .lines()
        .map(|line| line.split_once("vm1/vcpu0 ").expect("of vm1").1)
        .collect();
    assert_eq!(
        said,
        [
            "tracepoint debug:session_open",
            "tracepoint debug:resume",
            "tracepoint debug:stop reason=request thread=1 probe=0",
            "print      debug:stop x0=0x4 x1=0x1 x2=0x0 x3=0x0",
            "tracepoint debug:session_close",
        ]
    );
    let stat = shell(&bench, "trace stat");
    assert!(
        stat.contains("debug:stop           tracepoint  vm1      1 "),
        "{stat}"
    );
    let list = shell(&bench, "trace tracepoints");
    assert!(
        list.contains("debug:stop           on     args        1       0  reason"),
        "{list}"
    );
    let busy = shell(&bench, "complete trace enable debug:st");
    assert_eq!(busy, "debug:stop\n");

    shell(&bench, "trace disable *");
    assert!(!bench.server.wants_poll());

    // Programs know theirs.
    let watch = support::object(&[
        ("watch", "tp/debug/stop"),
        ("go", "tracepoint/debug/resume"),
    ]);
    bench
        .periscope
        .load_program("watch", &watch, Owner(0))
        .unwrap();
    let on = "debug:stop is on, runs watch:watch\ndebug:resume is on, runs watch:go\n";
    assert_eq!(shell(&bench, "trace attach watch vm1"), on);
    let taken = shell(&bench, "trace attach watch vm1");
    let expected =
        "watch:watch: tracepoint debug:stop is on already: `trace disable debug:stop` first";
    assert!(taken.starts_with(expected), "{taken}");
    let off = "detached watch: tracepoint debug:stop\ndetached watch: tracepoint debug:resume\n";
    assert_eq!(shell(&bench, "trace detach watch"), off);
    assert!(!bench.server.wants_poll());
    let lost = support::object(&[("stop", "tp/debug/stop"), ("lost", "tp/debug/nothing")]);
    bench
        .periscope
        .load_program("watch", &lost, Owner(0))
        .unwrap();
    let refused = shell(&bench, "trace attach watch vm1");
    assert!(
        refused.starts_with("watch:lost: no tracepoint debug:nothing."),
        "{refused}"
    );
    assert!(!bench.server.wants_poll(), "all or none");
    bench.session.opened();
    bench.raw(&support::frame("qSupported:swbreak+"));
    bench.session.closed();
    assert_eq!(shell(&bench, "trace stream").lines().count(), 5);
}
