//! The endpoint for the whole machine: real GDB with several inferiors over a fake machine.

mod support;

use stub::{Endpoint, MachineSession, Session, World};
use support::serving::{Serving, assert_in_order, run_gdb};
use support::{Bench, ENTRY, WORK, Wire, bodies, frame};

/// Connects GDB, attaches it to both VMs, gives it these commands and returns what it printed.
fn gdb(serving: &Serving, commands: &[&str]) -> String {
    let connect = format!("target extended-remote 127.0.0.1:{}", serving.port);
    let attach = [
        &connect,
        "attach 1",
        "add-inferior",
        "inferior 2",
        "attach 2",
    ];
    run_gdb(&[&attach, commands].concat())
}

#[test]
fn vms_are_inferiors() {
    let serving = Serving::start_machine(2);
    let place = ENTRY + 0x1100;
    let output = gdb(
        &serving,
        &[
            "info inferiors",
            "info threads",
            &format!("set *(long *){place:#x} = 77"),
            &format!("p *(long *){place:#x}"),
            "inferior 1",
            &format!("p *(long *){place:#x}"),
            "detach",
            "info inferiors",
        ],
    );
    assert_in_order(
        &output,
        &[
            "  1    process 1",
            "* 2    process 2",
            "1.1  Thread 1.1 \"vm1/vcpu0\"",
            "1.2  Thread 1.2 \"vm1/vcpu1\"",
            "* 2.1  Thread 2.1 \"vm2/vcpu0\"",
            "2.2  Thread 2.2 \"vm2/vcpu1\"",
            "$1 = 77",
            "[Switching to inferior 1",
            "$2 = 0",
            "[Inferior 1 (process 1) detached]",
            "* 1    <null>",
            "  2    process 2",
        ],
    );
}

#[test]
fn each_goes_on_alone_or_all_together() {
    let serving = Serving::start_machine(2);
    let output = gdb(
        &serving,
        &[
            &format!("break *{WORK:#x} thread 2.1"),
            "continue",
            "info threads",
            "delete",
            "inferior 1",
            "set $vm1 = $x0",
            "inferior 2",
            "stepi",
            "stepi",
            // Only the current inferior has moved.
            "thread 1.1",
            "p $x0 == $vm1",
            "set schedule-multiple on",
            &format!("break *{WORK:#x} thread 1.1"),
            "thread 2.1",
            "continue",
            "continue",
            "p $x0 == $vm1",
        ],
    );
    assert_in_order(
        &output,
        &[
            "Thread 2.1 \"vm2/vcpu0\" hit Breakpoint 1",
            "$1 = 1",
            "Thread 1.1 \"vm1/vcpu0\" hit Breakpoint 2",
            "$2 = 0",
        ],
    );
}

/// The endpoint itself, without a client program.
struct Whole {
    bench: Bench,
    session: MachineSession,
}

impl Whole {
    fn connected() -> Self {
        let bench = Bench::new(1);
        let session = MachineSession::new(bench.server);
        let mut whole = Self { bench, session };
        whole.session.opened();
        let greeting = whole.ask("qSupported:multiprocess+;swbreak+;hwbreak+");
        assert!(greeting.ends_with(";multiprocess+"), "{greeting}");
        assert_eq!(whole.ask("QStartNoAckMode"), "OK");
        assert_eq!(whole.ask("?"), "W00");
        assert!(whole.ask("vAttach;1").starts_with("T05thread:p1.01;"));
        whole
    }

    fn ask(&mut self, body: &str) -> String {
        self.session.receive(&frame(body));
        let mut answers = self.answers();
        assert_eq!(answers.len(), 1, "{body}: {answers:?}");
        answers.remove(0)
    }

    fn answers(&mut self) -> Vec<String> {
        let mut wire = Wire::default();
        self.session.flush(&mut wire);
        bodies(&String::from_utf8(wire.0).unwrap())
    }

    fn run(&mut self) -> Vec<String> {
        self.bench.let_run(50);
        self.session.poll();
        self.answers()
    }
}

#[test]
fn a_space_has_one_debugger() {
    let mut whole = Whole::connected();
    let mut own = Session::new(whole.bench.server, 0).unwrap();
    let mut wire = Wire::default();
    own.opened();
    own.receive(&frame("?"));
    own.flush(&mut wire);
    let answer = String::from_utf8(wire.0).unwrap();
    assert!(
        answer.contains("E.vm1 is debugged through another endpoint"),
        "{answer}"
    );
    // The one that was refused takes nothing away when it goes.
    own.closed();
    assert_eq!(whole.ask("D;1"), "OK");
    own.opened();
    own.receive(&frame("?"));
    assert!(own.has_client());
    let refused = whole.ask("vAttach;1");
    assert!(refused.starts_with("E.vm1 is debugged"), "{refused}");
    own.closed();
    assert!(whole.ask("vAttach;1").starts_with("T05thread:p1.01;"));
}

#[test]
fn all_stop_means_all() {
    let mut whole = Whole::connected();
    assert!(whole.ask("vAttach;2").starts_with("T05thread:p2.01;"));
    assert_eq!(whole.ask(&format!("Z0,{WORK:x},4")), "OK");
    whole.session.receive(&frame("vCont;c"));
    let stops = whole.run();
    assert_eq!(stops.len(), 1, "{stops:?}");
    assert!(stops[0].contains("thread:p2.01;"), "{stops:?}");
    assert!(stops[0].contains("swbreak:;"), "{stops:?}");
    // vm1 stands too, without a stop of its own, and answers.
    assert_eq!(whole.ask("Hgp1.1"), "OK");
    assert!(whole.ask("p0").len() == 16);
    assert_eq!(whole.ask("qfThreadInfo"), "mp1.01,p2.01");
    let names = whole.ask("qXfer:threads:read::0,1000");
    assert!(
        names.contains("<thread id=\"p2.01\" core=\"0\" name=\"vm2/vcpu0\"/>"),
        "{names}"
    );
}

#[test]
fn bad_packets_get_reasons() {
    let mut whole = Whole::connected();
    for (packet, reason) in [
        ("vAttach;9", "E.there is no process 9: VMs are 1 to 2"),
        ("vAttach;x", "E.this is no process id"),
        ("vAttach;1", "E.this inferior is attached already"),
        ("Hgp2.1", "E.this process is not attached"),
        ("vCont;c:p2.1", "E.no inferior is meant"),
        ("vCont;c:px.1", "E.an action of vCont names no thread"),
        ("vFile:pread:zz,1,1", "E.this is no file descriptor"),
    ] {
        let answer = whole.ask(packet);
        assert!(answer.starts_with(reason), "{packet}: {answer}");
    }
    assert_eq!(whole.ask("D;1"), "OK");
    assert_eq!(whole.ask("?"), "W00");
    let answer = whole.ask("g");
    assert!(answer.starts_with("E.no inferior is attached"), "{answer}");
    assert_eq!(whole.ask("qTStatus"), "T0;tnotrun:0");
    assert_eq!(whole.ask("qTfP"), "l");
    whole.session.receive(&frame("qRcmd,766d206c697374"));
    let answers = whole.answers();
    assert!(
        answers[0].starts_with("O:no inferior is attached"),
        "{answers:?}"
    );
    assert_eq!(answers[1], "OK");
    let mut plain = MachineSession::new(whole.bench.server);
    plain.opened();
    plain.set_world(World::Runs);
    plain.receive(&frame("qSupported:swbreak+"));
    let mut wire = Wire::default();
    plain.flush(&mut wire);
    let answer = String::from_utf8(wire.0).unwrap();
    assert!(
        answer.contains("needs a client with multiprocess+"),
        "{answer}"
    );
}

#[test]
fn everything_goes_on_when_the_client_dies() {
    let mut whole = Whole::connected();
    assert!(whole.ask("vAttach;2").starts_with("T05"));
    assert_eq!(whole.ask(&format!("Z0,{WORK:x},4")), "OK");
    assert_eq!(whole.ask("Hgp1.0"), "OK");
    assert_eq!(whole.ask(&format!("Z0,{WORK:x},4")), "OK");
    whole.session.closed();
    for machine in &whole.bench.machines {
        assert!(machine.armed().is_empty());
        assert!(machine.run(100) > 0);
    }
}
