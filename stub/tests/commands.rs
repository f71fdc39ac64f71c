//! The command language, as the shell and `monitor` give it.

mod support;

use probes::machine::{Lifecycle, RunControl, VmState};
use probes::programs::Owner;
use stub::commands::{Caller, run};
use stub::{Endpoint, Log};
use support::{AGAIN, Bench, WORK, object};

/// What the shell prints.
fn shell(bench: &Bench, line: &str) -> String {
    let mut out = String::new();
    let _ = run(bench.server, &Caller::Shell, line, &mut out);
    out
}

#[test]
fn help_shows_every_command_and_one_alone() {
    let bench = Bench::new(1);
    let help = shell(&bench, "help");
    for command in [
        "vm reset VM",
        "trace stream [-n N] [--follow]",
        "map dump PROGRAM MAP [--hist]",
        "map update PROGRAM MAP [KEY] VALUE [--cpu N]",
        "ebpf dump PROGRAM [--jit]",
        "phys ",
    ] {
        assert!(help.contains(command), "{help}");
    }
    let one = shell(&bench, "help trace unk");
    assert!(
        one.starts_with("trace unkprobe [VM:]NUMBER|PLACE\n"),
        "{one}"
    );
    assert_eq!(shell(&bench, "  "), "");
    assert_eq!(
        shell(&bench, "hlep"),
        "no command hlep. Did you mean help?\n"
    );
    assert_eq!(shell(&bench, "help nothing"), shell(&bench, "nothing"));
}

#[test]
fn a_program_shows_its_instructions() {
    let bench = Bench::new(1);
    let dump = shell(&bench, "ebpf dump stop");
    assert_eq!(dump, "    0: r0 = 1\n    1: exit\n");
}

#[test]
fn vms_start_stop_and_reset() {
    let bench = Bench::new(1);
    let list = "VM   STATE    VCPUS ON\nvm1  running  1 of 2\nvm2  running  1 of 2\n";
    assert_eq!(shell(&bench, "vm list"), list);
    assert_eq!(shell(&bench, "vm stop vm2"), "vm2 is off\n");
    assert_eq!(bench.machines[1].state(), VmState::Off);
    assert!(shell(&bench, "vm list").contains("vm2  off      0 of 2"));
    assert_eq!(shell(&bench, "vm start vm2"), "vm2 starts\n");
    assert_eq!(shell(&bench, "vm start vm2"), "vm2 runs already.\n");
    assert_eq!(shell(&bench, "vm reset vm2"), "vm2 starts anew\n");
    bench.vm().hold();
    assert_eq!(
        shell(&bench, "vm stop vm3"),
        "no such VM: vm3. There are vm1 (stopped), vm2 (running).\n"
    );
    assert!(shell(&bench, "vm stop vm0").starts_with("vm0 is the hypervisor"));
    let usage = "this needs 1 argument, not 0.\nusage: vm stop VM\n";
    assert_eq!(shell(&bench, "vm stop"), usage);
}

#[test]
fn the_memory_of_probes_is_shown() {
    let bench = Bench::new(1);
    shell(&bench, "trace kprobe vm1:work count");
    shell(&bench, &format!("trace kprobe vm1:{AGAIN:#x} count"));
    shell(&bench, "trace kprobe vm2:work --mode xn");
    let heading = "VM   SITES  SHADOW PAGES  XN PAGES  TABLE PAGES\n";
    let (first, second) = (
        "vm1      2             1         0            0\n",
        "vm2      1             0         1            0\n",
    );
    assert_eq!(
        shell(&bench, "vm memory"),
        format!("{heading}{first}{second}")
    );
    assert_eq!(shell(&bench, "vm memory vm2"), format!("{heading}{second}"));
    assert!(shell(&bench, "vm memory vm3").starts_with("no such VM: vm3."));
}

#[test]
fn places_name_their_vm_in_the_shell() {
    let bench = Bench::new(1);
    let which = "say which VM, as in vm1:vfs_read. There are vm1, vm2.\n";
    assert_eq!(shell(&bench, "trace kprobe work count"), which);
    let armed = format!("probe 1: kprobe vm2:work at {WORK:#x}, program count\n");
    assert_eq!(shell(&bench, "trace kprobe vm2:work count"), armed);
    assert!(bench.vm().armed().is_empty());
    let address = format!("trace kprobe vm1:{AGAIN:#x} count --stop");
    assert!(shell(&bench, &address).ends_with("program count, stops\n"));
    let list = shell(&bench, "trace list");
    assert!(
        list.contains("vm2:work") && list.contains("vm1:again"),
        "{list}"
    );
}

#[test]
fn probes_that_cannot_be() {
    let bench = Bench::new(1);
    let cases = [
        (
            "trace kprobe vm1:wrok count",
            "no symbol wrok in vm1. Did you mean work?",
        ),
        (
            "trace kprobe vm1:work cuont",
            "no program cuont. There are args, count, printk, ret, stop.",
        ),
        (
            "trace kprobe vm1:work count --halt",
            "there is no --halt here.",
        ),
        ("trace kprobe --stop", "this needs a place."),
        (
            "trace kprobe vm1:work count args",
            "args is one word too many",
        ),
        (
            "trace kprobe vm1:work --mode brk",
            "there is no mode brk. There are hvc, xn, hw.",
        ),
        ("trace kprobe vm1:work --vcpu", "--vcpu needs a value."),
        (
            "trace kprobe vm1:work --vcpu two",
            "\"two\" is no vCPU number.",
        ),
        (
            "trace kprobe vm1:work --vcpu 2",
            "vm1/vcpu2 is off or does not exist",
        ),
        ("trace kprobe vm1:work --cookie x", "\"x\" is no number."),
        ("trace attach count vm1 --cookie", "--cookie needs a value."),
        (
            "trace kprobe vm1:work --count 0",
            "\"0\" is no number of hits: 1 or more.",
        ),
        ("trace enable vm1:9", "vm1 has no probe 9"),
        ("trace disable vm1:work", "\"work\" is no number of a probe"),
        (
            "trace disable",
            "this needs a tracepoint or the number of a probe.",
        ),
        (
            "trace kprobe vm1:a;b count",
            "\"a;b\" is neither an address",
        ),
        (
            "trace kprobe vm1:0x40000001 count",
            "0x40000001 is not the address of an instruction",
        ),
        ("trace unkprobe vm1:9", "vm1 has no probe 9"),
        ("trace unkprobe vm1:work", "vm1 has no probe at work"),
        (
            "map dump count nope",
            "count has no map nope. It has count.",
        ),
        ("map dump nope nope", "no program nope."),
        (
            "ebpf dump stop --jit",
            "stop is interpreted: nothing is compiled here.",
        ),
        ("ebpf dump nope", "no program nope."),
        ("ebpf dump", "this needs the name of a program."),
        ("trace unload count", "count is built in"),
        ("phys vm1:zzz", "\"zzz\" is no number."),
        ("phys vm1:0x0", "vm1 has no memory at guest-physical 0x0."),
        (
            "phys vm1:0x9000000",
            "guest-physical 0x9000000 of vm1 is a device",
        ),
        (
            "phys vm1:0x40000000 5000",
            "a length is 1 to 4096 bytes, not 5000.",
        ),
        (
            "phys vm1:0xffffffffffffffff 2",
            "the range goes over the end",
        ),
        ("trace stream -n x", "\"x\" is no number of lines."),
        ("log", "this hypervisor keeps no log."),
    ];
    for (line, expected) in cases {
        let out = shell(&bench, line);
        assert!(out.starts_with(expected), "{line}: {out}");
        assert!(out.ends_with('\n'));
    }
}

#[test]
fn probes_count_and_go() {
    let mut bench = Bench::new(1);
    shell(&bench, "trace kprobe vm1:work count");
    bench.vm().run(3 + 10 * 6);
    let list = shell(&bench, "trace list");
    assert!(
        list.contains(" 1  kprobe  vm1:work  hvc   count    go    on       10       0"),
        "{list}"
    );
    assert_eq!(
        shell(&bench, "map dump count count"),
        "KEY  VALUE\n  0     10\n"
    );
    let detached = "detached probe 1: kprobe vm1:work, 10 hits\n";
    assert_eq!(shell(&bench, "trace unkprobe vm1:work"), detached);
    assert!(bench.vm().armed().is_empty());
    bench.session.poll();
}

#[test]
fn probes_have_options_and_switches() {
    let bench = Bench::new(1);
    let attached =
        format!("probe 1: kprobe vm1:work at {WORK:#x}, no program, vcpu0 only, stops, 5 times\n");
    let line = "trace kprobe vm1:work --vcpu 0 --stop --count 5 --inject";
    assert_eq!(shell(&bench, line), attached);
    let list = shell(&bench, "trace list");
    let row = " 1  kprobe  vm1:work  hvc   -        stop vcpu0 x5  on        0       0";
    assert!(list.contains(row), "{list}");
    assert_eq!(
        shell(&bench, "trace disable vm1:1"),
        "probe 1 of vm1 is off\n"
    );
    assert!(bench.vm().armed().is_empty());
    let on = format!("probe 1 of vm1 is on at {WORK:#x}\n");
    assert_eq!(shell(&bench, "trace enable vm1:1"), on);
    shell(&bench, "trace unkprobe vm1:1");
    let hw = shell(&bench, "trace kprobe vm1:work count --mode hw");
    assert!(hw.ends_with(", mode hw, program count\n"), "{hw}");
    assert!(bench.vm().armed().is_empty());
    let list = shell(&bench, "trace list");
    assert!(list.contains("vm1:work  hw    count"), "{list}");
    shell(&bench, "trace unkprobe vm1:work");
    let once = shell(&bench, "trace kprobe vm1:work count --once");
    assert!(once.ends_with(", program count, once\n"), "{once}");
    bench.vm().run(3 + 10 * 6);
    let list = shell(&bench, "trace list");
    assert!(list.contains("go x1  done      1       0"), "{list}");
}

#[test]
fn objects_attach_where_their_sections_say() {
    let bench = Bench::new(1);
    let bytes = object(&[
        ("enter", "kprobe/work"),
        ("leave", "kretprobe/work"),
        ("call", "ksyscall/openat"),
    ]);
    bench
        .periscope
        .load_program("all", &bytes, Owner(0))
        .unwrap();
    let loaded = "all:enter: kprobe/work\nall:leave: kretprobe/work\nall:call: ksyscall/openat\n\
                  maps: count\n";
    assert_eq!(shell(&bench, "trace load all.lp"), loaded);
    // All or none: the bench's guest has no system calls.
    let refused = shell(&bench, "trace attach all vm1");
    assert!(refused.contains("all:call: "), "{refused}");
    assert!(refused.contains("__arm64_sys_openat"), "{refused}");
    assert!(refused.contains("Nothing has been attached."), "{refused}");
    assert!(bench.vm().armed().is_empty());
    let bytes = object(&[("enter", "kprobe/work"), ("leave", "kretprobe/work")]);
    bench
        .periscope
        .load_program("all", &bytes, Owner(0))
        .unwrap();
    let attached = format!(
        "probe 3: kprobe vm1:work at {WORK:#x}, program all:enter\n\
         probe 4: kretprobe vm1:work at {WORK:#x}, program all:leave\n"
    );
    assert_eq!(shell(&bench, "trace attach all vm1"), attached);
    bench.vm().run(3 + 10 * 6);
    let list = shell(&bench, "trace list");
    assert!(list.contains("all:enter  go    on       10"), "{list}");
    assert!(list.contains("all:leave  go    on       10"), "{list}");
    let detached = "detached all:leave: probe 4 of vm1\n";
    assert_eq!(shell(&bench, "trace detach all:leave"), detached);
    let detached = "detached all: probe 3 of vm1\n";
    assert_eq!(shell(&bench, "trace detach all"), detached);
    assert!(bench.vm().armed().is_empty());
    assert_eq!(shell(&bench, "trace detach all"), "all runs nowhere.\n");
}

#[test]
fn objects_that_cannot_attach_say_why() {
    let bench = Bench::new(1);
    let bytes = object(&[("lost", "kprobe"), ("work", "kprobe/work")]);
    bench
        .periscope
        .load_program("some", &bytes, Owner(0))
        .unwrap();
    for (line, expected) in [
        (
            "trace attach some vm1",
            "some:lost: its section kprobe does not say where: `trace kprobe PLACE some:lost` does",
        ),
        ("trace attach count vm1", "count: it has no section"),
        ("trace attach nothing vm1", "no program nothing."),
        ("trace attach some vm9", "no such VM: vm9."),
        ("trace attach some vm1 --go", "--go is for breakpoints"),
        ("trace attach some", "this needs a program and a VM"),
        (
            "trace load nothing.lp",
            "`remote put nothing.lp nothing.lp`",
        ),
    ] {
        let said = shell(&bench, line);
        assert!(said.contains(expected), "{line}: {said}");
    }
    // One program of an object may be chosen.
    let attached = shell(&bench, "trace attach some:work vm1");
    assert!(attached.ends_with(", program some:work\n"), "{attached}");
}

#[test]
fn returns_are_probed() {
    let bench = Bench::new(1);
    let attached = format!("probe 1: kretprobe vm1:work at {WORK:#x}, program ret\n");
    assert_eq!(shell(&bench, "trace kprobe vm1:work ret --ret"), attached);
    let line = "trace kprobe vm1:work --ret --maxactive 4";
    let small = shell(&bench, line);
    assert!(small.starts_with("probe 2: kretprobe"), "{small}");
    bench.vm().run(3 + 10 * 6);
    let list = shell(&bench, "trace list");
    let row = " 1  kretprobe  vm1:work  hvc   ret      go    on       10       0";
    assert!(list.contains(row), "{list}");
    // The three instructions before the RET take 10 ns each on the fake machine.
    let said = shell(&bench, "trace stream -n 1");
    assert!(said.ends_with(" after 30 ns\n"), "{said}");
    for (line, expected) in [
        (
            "trace kprobe vm1:work --maxactive 4",
            "--maxactive comes after --ret.",
        ),
        (
            "trace kprobe vm1:work --ret --maxactive 5000",
            "\"5000\" is no number of calls that can be under way: 1 to 4096.",
        ),
    ] {
        let out = shell(&bench, line);
        assert!(out.starts_with(expected), "{line}: {out}");
    }
}

#[test]
fn the_stream_shows_the_last_lines() {
    let bench = Bench::new(1);
    shell(&bench, "trace kprobe vm1:work printk");
    bench.vm().run(3 + 30 * 6);
    let last = shell(&bench, "trace stream -n 2");
    let [hit, text] = last.lines().collect::<Vec<_>>()[..] else {
        panic!("two lines: {last}");
    };
    assert!(
        hit.contains(" cpu0 vm1/vcpu0 kprobe     work x0=0x1d x1=0x0 "),
        "{hit}"
    );
    assert!(
        text.ends_with(" cpu0 vm1/vcpu0 print      work hit"),
        "{text}"
    );
    let count = |line: &str| shell(&bench, line).lines().count();
    assert_eq!(count("trace stream"), 20);
    assert_eq!(count("trace stream -n 100"), 60);
    assert_eq!(count("trace stream -n 100 --filter print"), 30);
    assert_eq!(
        count("trace stream -n 100 --filter kprobe --filter vm1"),
        60
    );
    assert_eq!(count("trace stream -n 100 --filter vm2"), 0);
    assert_eq!(count("trace stream -n 100 --filter work"), 60);
    assert_eq!(count("trace dump"), 60);
    let dump = shell(&bench, "trace dump -n 2");
    assert!(
        dump.contains(" vm=1 vcpu=0 kind=kprobe id=1 name=vm1:work pc=0x40000014 args=0x1d,0x0,"),
        "{dump}"
    );
    assert!(dump.contains(" kind=print id=1 name=vm1:work "), "{dump}");
    assert!(dump.ends_with(" text=\"hit\"\n"), "{dump}");
    assert_eq!(
        shell(&bench, "trace reset"),
        "events and statistics begin anew\n"
    );
    assert_eq!(shell(&bench, "trace stream"), "");
}

#[test]
fn statistics_count_by_source() {
    let bench = Bench::new(1);
    shell(&bench, "trace kprobe vm1:work count");
    shell(&bench, "trace kprobe vm2:work count");
    bench.machines[0].run(3 + 10 * 6);
    bench.machines[1].run(3 + 20 * 6);
    assert_eq!(
        shell(&bench, "trace stat"),
        "EVENT     KIND    VM   COUNT  P50  P90  P95  P99  MAX\n\
         vm2:work  kprobe  vm2     20    -    -    -    -    -\n\
         vm1:work  kprobe  vm1     10    -    -    -    -    -\n"
    );
    assert_eq!(shell(&bench, "trace stat --top 1").lines().count(), 2);
    assert_eq!(
        shell(&bench, "trace stat --hist kprobe:vm1:work"),
        "kprobe vm1:work  n=10  (nothing is measured)\n"
    );
    assert_eq!(
        shell(&bench, "trace stat --hist nothing"),
        "no event nothing has been seen. `trace stat` shows which have.\n"
    );
    shell(&bench, "trace unkprobe vm2:1");
    shell(&bench, "trace reset");
    bench.machines[0].run(6);
    let after = shell(&bench, "trace stat");
    assert!(after.ends_with("vm1:work  kprobe  vm1      1    -    -    -    -    -\n"));
}

#[test]
fn a_shell_follows() {
    let bench = Bench::new(1);
    shell(&bench, "trace kprobe vm1:work printk");
    bench.vm().run(3 + 6);
    let mut out = String::new();
    let line = "trace stream --follow --filter print";
    let mut follower = run(bench.server, &Caller::Shell, line, &mut out).unwrap();
    assert_eq!(out.lines().count(), 1, "{out}");
    bench.vm().run(2 * 6);
    let mut out = String::new();
    follower.show(bench.server, &mut out).unwrap();
    assert_eq!(out.lines().count(), 2, "{out}");
    assert!(out.lines().all(|line| line.ends_with(" work hit")), "{out}");
    let mut out = String::new();
    follower.show(bench.server, &mut out).unwrap();
    assert_eq!(out, "");
    bench.vm().run(5000 * 6);
    follower.show(bench.server, &mut out).unwrap();
    let lost = "cpu0 has lost 5,904 events: nobody read them in time\n";
    assert!(
        shell(&bench, "trace list").ends_with(lost),
        "{}",
        shell(&bench, "trace list")
    );
}

#[test]
fn physical_memory_as_hexadecimal_and_text() {
    let bench = Bench::new(1);
    assert_eq!(
        shell(&bench, "phys vm1:0x40000000 20"),
        "0x40000000: 03 00 82 d2 03 00 a8 f2 00 00 80 d2 02 00 00 94  ................\n\
         0x40000010: ff ff ff 17                                      ....\n"
    );
}

#[test]
fn the_log_is_the_hypervisors() {
    struct Lines;
    impl Log for Lines {
        fn write_to(&self, out: &mut dyn core::fmt::Write) -> core::fmt::Result {
            writeln!(out, "booted")
        }
    }
    static LINES: Lines = Lines;
    let bench = Bench::new(1);
    let server = stub::Server::new(bench.periscope).with_log(&LINES);
    let mut out = String::new();
    let _ = run(&server, &Caller::Shell, "log", &mut out);
    assert_eq!(out, "booted\n");
    bench.vm().power_off();
}

/// The candidates for the last of `words`.
fn complete(bench: &Bench, words: &str) -> Vec<String> {
    let said = shell(bench, &format!("complete {words}"));
    said.lines().map(str::to_owned).collect()
}

#[test]
fn lines_are_completed() {
    let bench = Bench::new(1);
    assert_eq!(complete(&bench, "tra"), ["trace"]);
    assert_eq!(complete(&bench, "vm st"), ["start", "stop"]);
    assert_eq!(complete(&bench, "vm start ?"), ["vm1", "vm2"]);
    assert_eq!(complete(&bench, "trace kprobe vm"), ["vm1:", "vm2:"]);
    assert_eq!(complete(&bench, "tr kp vm1:wo"), ["vm1:work"]);
    assert_eq!(complete(&bench, "trace kprobe vm1:work co"), ["count"]);
    let options = complete(&bench, "trace attach vm1:work count --");
    assert_eq!(options, ["--cookie", "--go"]);
    assert_eq!(complete(&bench, "map dump count ?").len(), 1);
    assert_eq!(complete(&bench, "help ph"), ["phys"]);
    for nothing in ["nothing", "vm start vm1 ?", "log ?", "trace kprobe vm9:x"] {
        assert!(complete(&bench, nothing).is_empty(), "{nothing}");
    }
    assert!(complete(&bench, "?").len() > 5);
}

#[test]
fn tools_read_one_object_a_line() {
    let bench = Bench::new(1);
    let list = shell(&bench, "vm list --json");
    assert_eq!(
        list,
        "{\"vm\":\"vm1\",\"state\":\"running\",\"vcpus_on\":\"1 of 2\"}\n\
         {\"vm\":\"vm2\",\"state\":\"running\",\"vcpus_on\":\"1 of 2\"}\n"
    );
    assert_eq!(
        shell(&bench, "hlep --json"),
        "{\"error\":\"no command hlep. Did you mean help?\"}\n"
    );
    assert_eq!(shell(&bench, "--json"), "");
    let all = [
        "help",
        "trace list",
        "trace progs",
        "vm info",
        "vm memory",
        "gsym vm1:work",
        "map dump count hits",
    ];
    for command in all {
        for line in shell(&bench, &format!("{command} --json")).lines() {
            assert!(
                line.starts_with('{') && line.ends_with('}'),
                "{command}: {line}"
            );
        }
    }
}

#[test]
fn interrupts_wait_for_steps_unless_they_are_let_in() {
    let mut bench = Bench::connected(1);
    let off = "vm1: off: interrupts wait while the debugger steps\n";
    assert_eq!(bench.monitor("step irqs"), off);
    assert_eq!(
        bench.monitor("step irqs on"),
        "vm1: on: a step can end in an interrupt handler\n"
    );
    assert!(bench.monitor("step irqs").starts_with("vm1: on"));
    bench.session.closed();
    let mut bench = bench.next_client();
    assert_eq!(
        bench.monitor("step irqs"),
        off,
        "the next client has not asked for it"
    );
    bench.monitor("step irqs on");
    assert_eq!(bench.monitor("step irqs off"), off);
    let usage = bench.monitor("step irqs maybe");
    assert_eq!(usage, "this takes on or off.\nusage: step irqs [on|off]\n");
}
