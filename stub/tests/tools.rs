//! The endpoint for tools: it debugs nothing, and what its client brings goes with it.

mod support;

use probes::machine::{ExecuteView, RunControl};
use probes::programs::Owner;
use stub::{Endpoint, Session};
use support::{Bench, Wire, bodies, frame, frame_bytes, object};

/// A bench with a tool that has said hello beside the debugger of vm1.
struct Tools {
    bench: Bench,
    session: Session,
}

impl Tools {
    fn new() -> Self {
        let bench = Bench::connected(1);
        let session = Session::of_tools(bench.server);
        let mut tools = Self { bench, session };
        tools.arrive();
        tools
    }

    fn arrive(&mut self) {
        self.session.opened();
        assert_eq!(self.ask("qSupported"), "PacketSize=10000;QStartNoAckMode+");
        assert_eq!(self.ask("QStartNoAckMode"), "OK");
    }

    fn raw(&mut self, bytes: &[u8]) -> Vec<String> {
        self.session.receive(bytes);
        self.session.poll();
        let mut wire = Wire::default();
        self.session.flush(&mut wire);
        bodies(&String::from_utf8_lossy(&wire.0))
    }

    fn ask(&mut self, body: &str) -> String {
        let replies = self.raw(&frame(body));
        assert_eq!(replies.len(), 1, "{body}: {replies:?}");
        replies.into_iter().next().unwrap()
    }

    fn monitor(&mut self, line: &str) -> String {
        let mut replies = self.raw(&frame(&format!("qRcmd,{}", hex(line))));
        assert_eq!(replies.pop().as_deref(), Some("OK"));
        let text = replies
            .iter()
            .map(|reply| reply.strip_prefix("O:").unwrap());
        text.collect()
    }

    fn put(&mut self, name: &str, bytes: &[u8]) -> String {
        let opened = self.ask(&format!("vFile:open:{},601,1b6", hex(name)));
        assert_eq!(opened, "F00");
        for (number, chunk) in bytes.chunks(1000).enumerate() {
            let mut packet = format!("vFile:pwrite:0,{:x},", number * 1000).into_bytes();
            for byte in chunk {
                match byte {
                    b'#' | b'$' | b'}' | b'*' => packet.extend([b'}', byte ^ 0x20]),
                    _ => packet.push(*byte),
                }
            }
            let replies = self.raw(&frame_bytes(&packet));
            // Numbers have whole bytes.
            let digits = format!("{:x}", chunk.len());
            let whole = digits.len().next_multiple_of(2);
            assert_eq!(replies, [format!("F{digits:0>whole$}")]);
        }
        self.ask("vFile:close:0")
    }
}

fn hex(text: &str) -> String {
    text.bytes().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn nothing_is_held_and_nothing_is_there_to_debug() {
    let mut tools = Tools::new();
    let vm = tools.bench.machines[1];
    assert_eq!(tools.ask("?"), "W00");
    assert_eq!(tools.ask("qfThreadInfo"), "l");
    for body in [
        "g",
        "m40000000,4",
        "p0",
        "Z0,40000014,4",
        "vCont;c",
        "c",
        "s",
        "Hg1",
        "qC",
        "T1",
    ] {
        let reply = tools.ask(body);
        assert!(
            reply.starts_with("E.this endpoint is for tools"),
            "{body}: {reply}"
        );
    }
    for body in ["!", "vMustReplyEmpty", "qTStatus"] {
        assert_eq!(tools.ask(body), "");
    }
    assert!(!vm.held(), "a tool does not stop VMs");
    let list = tools.monitor("vm list");
    assert!(
        list.contains("vm1  stopped") && list.contains("vm2  running"),
        "{list}"
    );
    assert!(tools.raw(b"\x03").is_empty(), "there is nothing to stop");
}

#[test]
fn places_need_a_vm_where_there_are_several() {
    let mut tools = Tools::new();
    let refused = tools.monitor("trace kprobe work count");
    assert!(
        refused.starts_with("say which VM, as in vm1:vfs_read."),
        "{refused}"
    );
    let said = tools.monitor("trace kprobe vm2:work count");
    assert!(said.starts_with("probe 1: kprobe vm2:work"), "{said}");
    let follow = tools.monitor("trace stream --follow");
    assert!(follow.contains("read the file `stream`"), "{follow}");
}

#[test]
fn files_of_a_vm_have_its_name() {
    let mut tools = Tools::new();
    let open = |tools: &mut Tools, name: &str| tools.ask(&format!("vFile:open:{},0,0", hex(name)));
    assert_eq!(open(&mut tools, "btf"), "E.say which VM, as vm1/btf");
    let none = open(&mut tools, "vm7/btf");
    assert!(
        none.starts_with("E.no such VM: vm7. There are vm1"),
        "{none}"
    );
    let no_types = open(&mut tools, "vm1/btf");
    assert!(no_types.starts_with("E.btf: "), "{no_types}");
    let none = open(&mut tools, "nonsense");
    assert!(
        none.starts_with("E.there is no file nonsense. There are log, console, "),
        "{none}"
    );
    tools.bench.machines[1].print("two");
    assert_eq!(
        open(&mut tools, "console"),
        "E.say which VM, as vm1/console"
    );
    assert_eq!(open(&mut tools, "vm2/console"), "F00");
    assert_eq!(tools.ask("vFile:pread:0,1000,0"), "F3;two");
    assert_eq!(tools.ask("vFile:close:0"), "F0");
    let listed = tools.monitor("files");
    assert!(
        listed.contains("VM/console ") && listed.contains("log "),
        "{listed}"
    );
    assert_eq!(open(&mut tools, "events"), "F00");
}

#[test]
fn what_a_tool_brings_goes_with_it() {
    let mut tools = Tools::new();
    let programs = object(&[("enter", "kprobe/work"), ("leave", "kretprobe/work")]);
    assert_eq!(tools.put("mine.lp", &programs), "F0");
    let attached = tools.monitor("trace attach mine vm2");
    assert_eq!(attached.lines().count(), 2, "{attached}");
    // Somebody else's probe with a program of it goes too.
    tools.bench.monitor("trace kprobe work mine:enter");
    tools.bench.monitor("trace kprobe work count");
    let listed = tools.bench.monitor("trace list");
    assert!(listed.contains("mine:enter"), "{listed}");
    let before = tools.bench.periscope.programs().map_memory();

    tools.session.closed();
    let left = tools.monitor_after();
    assert!(!left.contains("mine"), "{left}");
    assert!(left.contains("count"), "{left}");
    assert!(!tools.bench.monitor("trace progs").contains("mine"));
    assert!(tools.bench.periscope.programs().map_memory() < before);
    assert_eq!(tools.bench.machines[1].view_usage().sites, 0);

    // What a debugger brings stays.
    let kept = tools.bench.periscope;
    kept.load_program("kept", &object(&[("one", "kprobe/work")]), Owner(0))
        .unwrap();
    tools.bench.session.closed();
    assert!(kept.programs().object("kept").is_ok());
}

impl Tools {
    /// All probes, as the next tool sees them.
    fn monitor_after(&mut self) -> String {
        self.arrive();
        self.monitor("trace list")
    }
}

/// The last line of `map list` says what all take, and what the session that asks takes of it.
#[test]
fn a_session_sees_what_it_takes() {
    let mut tools = Tools::new();
    let share = |list: String| {
        let (_, own) = list.rsplit_once(" bytes are taken, ").expect("a total");
        own.to_owned()
    };
    let nothing = "0 of 20,971,520 by this session\n";
    assert_eq!(share(tools.monitor("map list")), nothing);
    assert_eq!(
        tools.put("mine.lp", &object(&[("one", "kprobe/work")])),
        "F0"
    );
    assert_ne!(share(tools.monitor("map list")), nothing);
    assert_eq!(share(tools.bench.monitor("map list")), nothing);
}

#[test]
fn a_refused_upload_says_why() {
    let mut tools = Tools::new();
    let refused = tools.put("mine.lp", b"nonsense");
    assert!(refused.starts_with("E.mine: "), "{refused}");
    tools
        .bench
        .periscope
        .load_program("taken", &object(&[("one", "kprobe/work")]), Owner(0))
        .unwrap();
    let refused = tools.put("taken.lp", &object(&[("one", "kprobe/work")]));
    assert!(
        refused.contains("another session has loaded taken"),
        "{refused}"
    );
}
