//! Conditions and commands of breakpoints with real GDB, which has the target evaluate them, and packet by packet.

mod support;

use stub::Endpoint;
use support::serving::{Serving, assert_in_order, run_gdb};
use support::{AGAIN, Bench, DATA, STORE, WORK};

/// Connects GDB, which does not evaluate conditions itself, gives it these commands and returns what it printed. The guest
/// begins to count anew.
fn gdb(serving: &Serving, commands: &[&str]) -> String {
    let connect = format!("target remote 127.0.0.1:{}", serving.port);
    let begin = format!("set $pc = {AGAIN:#x}");
    let fixed = [
        &connect,
        "set breakpoint condition-evaluation target",
        "set dprintf-style agent",
        &begin,
        "set $x0 = 0",
    ];
    let all: Vec<&str> = fixed.into_iter().chain(commands.iter().copied()).collect();
    run_gdb(&all)
}

#[test]
fn gdb_has_conditions_evaluated_here() {
    let serving = Serving::start(1);
    let output = gdb(
        &serving,
        &[
            &format!("break *{WORK:#x} if $x0 == 5"),
            "continue",
            "p $x0",
            // Not true again for long.
            &format!("break *{STORE:#x} if *(long *){DATA:#x} == 299 && $x3 == {DATA:#x}"),
            "continue",
            "p $x0",
            "info breakpoints",
            "monitor trace list",
        ],
    );
    assert_in_order(
        &output,
        &[
            "Breakpoint 1, ",
            "$1 = 5",
            "Breakpoint 2, ",
            "$2 = 300",
            "stop only if $x0 == 5 (target evals)",
            "breakpoint already hit 1 time",
            "(target evals)",
            "breakpoint already hit 1 time",
            "vm1:work      hvc   condition  stop  on      300 ",
            "vm1:work+0x8  hvc   condition  stop  on      295 ",
        ],
    );
    assert!(!output.contains("rror"), "{output}");
}

#[test]
fn several_conditions_at_one_address() {
    let serving = Serving::start(1);
    let output = gdb(
        &serving,
        &[
            &format!("break *{WORK:#x} if $x0 == 7"),
            &format!("break *{WORK:#x} if $x0 == 3"),
            &format!("hbreak *{AGAIN:#x} if $x0 == 5"),
            "continue",
            "p $x0",
            "continue",
            "p $x0",
            "continue",
            "p $x0",
            "delete 1 3",
            "condition 2 $x0 == 20",
            "continue",
            "p $x0",
        ],
    );
    assert_in_order(
        &output,
        &[
            "Breakpoint 2, ",
            "$1 = 3",
            "Breakpoint 3, ",
            "$2 = 5",
            "Breakpoint 1, ",
            "$3 = 7",
            "Breakpoint 2, ",
            "$4 = 20",
        ],
    );
}

#[test]
fn dprintf_prints_while_the_guest_runs() {
    let serving = Serving::start(1);
    let output = gdb(
        &serving,
        &[
            &format!("set {{char[8]}}{:#x} = \"tick\"", DATA + 64),
            &format!(
                "dprintf *{WORK:#x},\"%s %ld of %#lx\\n\", {:#x}, $x0, $pc",
                DATA + 64
            ),
            &format!("dprintf *{AGAIN:#x},\"at %d\\n\",$x0"),
            "condition 2 $x0 == 2",
            &format!("break *{STORE:#x} if $x0 == 4"),
            "continue",
            "info breakpoints",
        ],
    );
    assert_in_order(
        &output,
        &[
            "tick 0 of 0x40000014\n",
            "tick 1 of 0x40000014\n",
            "at 2\n",
            "tick 2 of 0x40000014\n",
            "tick 3 of 0x40000014\n",
            "Breakpoint 3, ",
        ],
    );
    // The breakpoint is behind what prints.
    assert_eq!(output.matches("tick ").count(), 4, "{output}");
    assert_eq!(output.matches("at 2\n").count(), 1, "{output}");
}

#[test]
fn what_cannot_be_evaluated_stops_and_says_so() {
    let serving = Serving::start(1);
    let output = gdb(
        &serving,
        &[
            &format!("break *{WORK:#x} if *(char *)($x0 + 16) == 1"),
            "continue",
            "delete",
            &format!("break *{WORK:#x} if 100 / ($x0 - 3) == 99"),
            "continue",
            "delete",
            &format!("dprintf *{WORK:#x},\"%s\\n\", ($x0 > 5) * 16"),
            "continue",
            "p $x0",
        ],
    );
    assert_in_order(
        &output,
        &[
            "[vm1/vcpu0] breakpoint at 0x40000014: condition: ref8 at offset ",
            "cannot read 1 byte at 0x10",
            "Error in testing breakpoint condition:",
            "breakpoint at 0x40000014: condition: div_signed at offset ",
            "the divisor is 0",
            "(null)\n",
            "breakpoint at 0x40000014: commands: printf at offset ",
            "cannot read the string at 0x10",
            "SIGINT",
            "$1 = 6",
        ],
    );
}

/// What GDB prints for `maint agent…`, as bytes of an expression: `X<length>,<digits>`.
fn expression(code: &[u8]) -> String {
    let digits: String = code.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("X{:x},{digits}", code.len())
}

#[test]
fn bad_orders_are_refused_in_words() {
    let mut bench = Bench::connected(1);
    let place = format!("Z0,{WORK:x},4");
    let cases = [
        (
            String::from("X4,220027"),
            "E.an agent expression is shorter than it says",
        ),
        (
            expression(&[0x01, 0x27]),
            "E.the condition cannot be compiled: float at offset 0: floating-point numbers cannot be computed with at EL2",
        ),
        (
            format!("cmds:1,{}", expression(&[0x22, 0, 0x22, 4, 0x0c, 0x27])),
            "E.the command cannot be compiled: trace at offset 4: it collects into a trace frame, which a command has none of",
        ),
        (
            expression(&[0x26, 0, 40, 0x27]),
            "E.the condition cannot be compiled: reg at offset 0: v6 cannot be read where expressions run: x0 to x30, sp, \
             pc, cpsr and the system registers of EL1 can",
        ),
    ];
    for (orders, expected) in cases {
        assert_eq!(bench.ask(&format!("{place};{orders}")), expected);
    }
    assert!(bench.periscope.spaces()[0].list().is_empty());
    // They leave nothing behind for the next breakpoint.
    assert_eq!(bench.ask(&place), "OK");
    assert_eq!(bench.ask_all("vCont;c"), [] as [&str; 0]);
    assert!(bench.run(100)[0].starts_with("T05"));
}

#[test]
fn commands_that_persist_outlive_their_client() {
    let mut bench = Bench::connected(1);
    let print = |text: &str| {
        let mut code = vec![0x22, 0, 0x22, 0, 0x34, 0, 0, text.len() as u8 + 1];
        code.extend(text.bytes());
        code.extend([0, 0x27]);
        expression(&code)
    };
    bench.ask(&format!("Z0,{WORK:x},4;cmds:1,{}", print("stays")));
    bench.ask(&format!("Z0,{STORE:x},4;cmds:0,{}", print("goes")));
    assert_eq!(bench.ask_all("vCont;c"), [] as [&str; 0]);
    let output = bench.run(20);
    assert!(
        output.starts_with(&["O:stays".into(), "O:goes".into()]),
        "{output:?}"
    );
    bench.session.closed();
    let list = bench.periscope.spaces()[0].list();
    assert_eq!(list.len(), 1, "{list:?}");
    let hits = list[0].hits;
    bench.let_run(100);
    assert!(bench.periscope.spaces()[0].list()[0].hits > hits);
    // The next client takes it away by setting and removing a breakpoint of its own.
    bench.session.opened();
    bench.raw(&support::frame("qSupported:swbreak+"));
    bench.ask(&format!("Z0,{WORK:x},4"));
    bench.ask(&format!("z0,{WORK:x},4"));
    bench.session.closed();
    assert!(bench.periscope.spaces()[0].list().is_empty());
}

/// There the site is behind the pad, where programs see the vCPU; GDB sees it where it has set the breakpoint.
#[test]
fn a_condition_at_a_landing_pad() {
    let mut bench = Bench::connected(1);
    let function = bench.call_guarded();
    // reg 0, const8 3, equal, end
    let third = expression(&[0x26, 0, 0, 0x22, 3, 0x13, 0x27]);
    assert_eq!(bench.ask(&format!("Z0,{function:x},4;{third}")), "OK");
    assert!(bench.ask_all("vCont;c").is_empty());
    let stop = bench.run(100);
    assert_eq!(stop, ["T05thread:01;swbreak:;name:vm1/vcpu0;"]);
    assert_eq!((bench.register(32), bench.register(0)), (function, 3));
    let listed = bench.periscope.spaces()[0].list();
    assert_eq!(listed[0].hits, 4, "the condition was asked at each call");
}

/// The guest runs on: a condition that is set meanwhile counts from then on.
#[test]
fn a_condition_is_set_while_the_guest_runs() {
    let mut bench = Bench::connected(1);
    assert_eq!(bench.ask_all("vCont;c"), [] as [&str; 0]);
    bench.run(100);
    let never = expression(&[0x22, 0, 0x27]);
    assert_eq!(bench.ask(&format!("Z0,{WORK:x},4;{never}")), "OK");
    assert!(bench.run(100).is_empty());
    let always = expression(&[0x22, 1, 0x27]);
    assert_eq!(bench.ask(&format!("Z0,{WORK:x},4;{always}")), "OK");
    assert!(bench.run(100)[0].starts_with("T05"));
}

/// The architecture's watchpoints come before the access, and so does what they are to do.
#[test]
fn watchpoints_have_conditions_too() {
    let mut bench = Bench::connected(1);
    // reg 0, const8 9, equal, end: work has counted to 9 and is about to store it.
    let nine = expression(&[0x26, 0, 0, 0x22, 9, 0x13, 0x27]);
    assert_eq!(bench.ask(&format!("Z2,{DATA:x},8;{nine}")), "OK");
    assert_eq!(bench.ask_all("vCont;c"), [] as [&str; 0]);
    let stop = bench.run(1000);
    assert!(stop[0].contains(&format!("watch:{DATA:x}")), "{stop:?}");
    assert_eq!((bench.register(0), bench.register(32)), (9, STORE));
    let before = bench.ask(&format!("m{DATA:x},8"));
    assert_eq!(before, "0800000000000000");
    assert_eq!(bench.ask(&format!("z2,{DATA:x},8")), "OK");
}

#[test]
fn system_registers_are_the_vcpus() {
    let mut bench = Bench::connected(1);
    let vbar = (0..120).find(|number| {
        *number >= 68
            && bench.ask(&format!("P{number:x}=0080000000000000")) == "OK"
            && bench.register(*number) == 0x8000
    });
    let number = vbar.expect("a system register can be written");
    let code = [0x26, 0, number as u8, 0x23, 0x80, 0, 0x13, 0x27];
    bench.ask(&format!("Z0,{WORK:x},4;{}", expression(&code)));
    assert_eq!(bench.ask_all("vCont;c"), [] as [&str; 0]);
    assert!(bench.run(100)[0].starts_with("T05"));
}
