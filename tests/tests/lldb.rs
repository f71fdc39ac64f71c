//! A stock LLDB at an endpoint: the tiny guest, stopped and let go in every way that LLDB has.

use anyhow::{Context, Result, ensure};
use e2e::tiny::{Subject, Tiny};
use e2e::{Case, Lldb, MOMENT, Spec, TestMachine, suite};
use std::process::ExitCode;
use xtask::build::Program;
use xtask::machine::Start;

/// The subject that is called.
const SUBJECT: &str = "fn_stp";

fn main() -> ExitCode {
    suite(boot, CASES)
}

const CASES: &[Case<TestMachine>] = &[
    case("threads_have_names", threads),
    case(
        "registers_and_memory_are_read_and_written",
        registers_and_memory,
    ),
    case("a_breakpoint_is_hit_each_time", breakpoint),
    case("a_condition_is_evaluated_by_lldb", condition),
    case("steps_go_one_instruction", steps),
    case("a_watchpoint_tells_the_writer", watchpoint),
    case("monitor_commands_print", monitor),
    case("symbols_and_a_backtrace", symbols),
    case(
        "the_guest_runs_between_interrupts_and_after_detach",
        run_and_detach,
    ),
    case("quitting_lets_the_guest_go_on", quit),
];

const fn case(name: &'static str, run: fn(&TestMachine) -> Result<()>) -> Case<TestMachine> {
    Case { name, run }
}

fn boot() -> Result<TestMachine> {
    let machine = TestMachine::start(Spec::hypervisor().tiny_guest(2, Start::Immediately))?;
    {
        let mut console = machine.console(1)?;
        let mut tiny = Tiny::new(&mut console);
        ensure!(tiny.wait_ready()? == 2, "CPUs of the guest");
        tiny.run("rx irq")?;
    }
    Ok(machine)
}

/// An LLDB that is attached to `vm1`, with the guest's ELF file.
fn attach(machine: &TestMachine) -> Result<Lldb> {
    let mut lldb = Lldb::start()?;
    lldb.command(&format!(
        "target create {}",
        Program::TinyGuest.elf().display()
    ))?;
    lldb.connect(machine.ports().vm(1))?;
    Ok(lldb)
}

/// The guest does what it should.
fn check_guest(machine: &TestMachine) -> Result<()> {
    let subject = subject(machine)?;
    let mut console = machine.console(1)?;
    let reply = Tiny::new(&mut console).run(&format!("callboth {SUBJECT} 100"))?;
    ensure!(
        reply.number("count")? == 2 * subject.count(100),
        "{}",
        reply.text
    );
    ensure!(reply.number("bad")? == 0, "{}", reply.text);
    Ok(())
}

fn subject(machine: &TestMachine) -> Result<Subject> {
    let mut console = machine.console(1)?;
    let subjects = Tiny::new(&mut console).subjects()?;
    let found = subjects.into_iter().find(|subject| subject.name == SUBJECT);
    found.with_context(|| format!("the guest has no {SUBJECT}"))
}

fn threads(machine: &TestMachine) -> Result<()> {
    let mut lldb = attach(machine)?;
    let threads = lldb.command("thread list")?;
    for name in ["vm1/vcpu0", "vm1/vcpu1"] {
        ensure!(
            threads.contains(&format!("name = '{name}'")),
            "no {name}: {threads}"
        );
    }
    lldb.command("detach")?;
    check_guest(machine)
}

fn registers_and_memory(machine: &TestMachine) -> Result<()> {
    let at = subject(machine)?.address;
    let mut lldb = attach(machine)?;
    ensure!(
        lldb.register("pc")? >> 28 == 4,
        "pc outside the guest's text"
    );
    ensure!(lldb.register("ttbr0_el1")? != 0, "no translation table");
    lldb.command("register read v0")?;

    let old = lldb.register("x27")?;
    lldb.command("register write x27 0x1234567812345678")?;
    ensure!(
        lldb.register("x27")? == 0x1234_5678_1234_5678,
        "x27 after a write"
    );
    lldb.command(&format!("register write x27 {old:#x}"))?;
    lldb.command("register write v31 '{1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16}'")?;
    let vector = lldb.command("register read v31")?;
    ensure!(vector.contains("0x0d 0x0e 0x0f 0x10"), "{vector}");

    // The ELF file also knows the text; the stack is in the target alone.
    let sp = lldb.register("sp")? - 64;
    lldb.command(&format!("memory write --size 4 {sp:#x} 0xcafef00d 0x600d"))?;
    let words = lldb.command(&format!(
        "memory read --size 4 --format x --count 2 {sp:#x}"
    ))?;
    ensure!(words.contains("0xcafef00d 0x0000600d"), "{words}");
    let refusal = lldb.refused("memory read 0x7fff00000000")?;
    ensure!(refusal.contains("memory read failed"), "{refusal}");
    let code = lldb.command(&format!(
        "disassemble --force --start-address {at:#x} --count 1"
    ))?;
    ensure!(code.contains("stp"), "{code}");
    lldb.command("detach")?;
    check_guest(machine)
}

fn breakpoint(machine: &TestMachine) -> Result<()> {
    let subject = subject(machine)?;
    let mut lldb = attach(machine)?;
    lldb.command(&format!("breakpoint set --address {:#x}", subject.address))?;
    lldb.resume()?;
    let mut console = machine.console(1)?;
    let mut tiny = Tiny::new(&mut console);
    tiny.send(&format!("call {SUBJECT} 3"))?;
    for argument in 1..=3 {
        let stop = lldb.wait_stop(MOMENT)?;
        ensure!(stop.contains("stop reason = breakpoint 1.1"), "{stop}");
        ensure!(stop.contains("vm1/vcpu0"), "{stop}");
        ensure!(
            lldb.register("pc")? == subject.address,
            "pc at the breakpoint"
        );
        let x0 = lldb.register("x0")?;
        ensure!(x0 == argument, "call {argument} has x0={x0:#x}");
        let code = lldb.command(&format!(
            "memory read --size 4 --format x --count 1 {:#x}",
            subject.address
        ))?;
        ensure!(
            code.contains(&format!("{:#x}: 0x", subject.address)),
            "{code}"
        );
        lldb.resume()?;
    }
    let reply = tiny.reply()?;
    ensure!(reply.number("count")? == subject.count(3), "{}", reply.text);
    ensure!(reply.number("sum")? == subject.sum(3), "{}", reply.text);

    // On the other vCPU too.
    tiny.send(&format!("call {SUBJECT} 1 1"))?;
    let stop = lldb.wait_stop(MOMENT)?;
    ensure!(stop.contains("vm1/vcpu1"), "{stop}");
    lldb.command("breakpoint delete 1")?;
    lldb.resume()?;
    tiny.reply()?;
    drop(console);
    lldb.interrupt()?;
    lldb.command("detach")?;
    check_guest(machine)
}

/// LLDB has no conditions at the target: it looks at registers and memory at each hit, and lets the guest go on by itself.
fn condition(machine: &TestMachine) -> Result<()> {
    const CALLS: u64 = 8;
    let subject = subject(machine)?;
    let mut lldb = attach(machine)?;
    let address = subject.address;
    lldb.command(&format!(
        "breakpoint set --address {address:#x} --condition '$x0 == {CALLS} && *(unsigned *)$pc != 0'"
    ))?;
    lldb.resume()?;
    let mut console = machine.console(1)?;
    let mut tiny = Tiny::new(&mut console);
    tiny.send(&format!("call {SUBJECT} {CALLS}"))?;
    let stop = lldb.wait_stop(MOMENT)?;
    ensure!(stop.contains("stop reason = breakpoint 1.1"), "{stop}");
    ensure!(
        lldb.register("x0")? == CALLS,
        "stopped where it is false: {stop}"
    );
    let list = lldb.command("process plugin packet monitor trace list")?;
    let row = list.lines().find(|line| line.contains("  break  "));
    let hits = row.and_then(|row| row.split_whitespace().rev().nth(1));
    ensure!(hits == Some(CALLS.to_string().as_str()), "{list}");
    lldb.command("breakpoint delete 1")?;
    lldb.resume()?;
    let reply = tiny.reply()?;
    ensure!(
        reply.number("count")? == subject.count(CALLS) && reply.number("bad")? == 0,
        "{}",
        reply.text
    );
    drop(console);
    lldb.interrupt()?;
    lldb.command("detach")?;
    check_guest(machine)
}

fn steps(machine: &TestMachine) -> Result<()> {
    let subject = subject(machine)?;
    let mut lldb = attach(machine)?;
    lldb.command(&format!(
        "breakpoint set --address {:#x} --one-shot true",
        subject.address
    ))?;
    lldb.resume()?;
    let mut console = machine.console(1)?;
    let mut tiny = Tiny::new(&mut console);
    tiny.send(&format!("call {SUBJECT} 1"))?;
    lldb.wait_stop(MOMENT)?;
    for step in 1..=3 {
        lldb.command("thread step-inst")?;
        let stop = lldb.wait_stop(MOMENT)?;
        ensure!(
            stop.contains("stop reason = instruction step into"),
            "{stop}"
        );
        let pc = lldb.register("pc")?;
        ensure!(
            pc == subject.address + 4 * step,
            "step {step} led to {pc:#x}"
        );
    }
    lldb.command("thread step-out")?;
    let stop = lldb.wait_stop(MOMENT)?;
    ensure!(stop.contains("stop reason = step out"), "{stop}");
    lldb.command("detach")?;
    let reply = tiny.reply()?;
    ensure!(reply.number("sum")? == subject.sum(1), "{}", reply.text);
    Ok(())
}

fn watchpoint(machine: &TestMachine) -> Result<()> {
    let mut console = machine.console(1)?;
    let mut tiny = Tiny::new(&mut console);
    let address = tiny.run("touch 1")?.number("address")?;
    let mut lldb = attach(machine)?;
    lldb.command(&format!(
        "watchpoint set expression --watch write --size 8 -- {address:#x}"
    ))?;
    lldb.resume()?;
    tiny.send("touch 2")?;
    let stop = lldb.wait_stop(MOMENT)?;
    ensure!(stop.contains("stop reason = watchpoint 1"), "{stop}");
    lldb.command("watchpoint delete 1")?;
    lldb.command("detach")?;
    ensure!(tiny.reply()?.number("result")? == 2, "stores of the guest");
    Ok(())
}

fn monitor(machine: &TestMachine) -> Result<()> {
    let subject = subject(machine)?;
    let mut lldb = attach(machine)?;
    let list = lldb.command("process plugin packet monitor trace list")?;
    ensure!(list.contains("KIND") && list.contains("HITS"), "{list}");
    let probe = format!(
        "process plugin packet monitor trace kprobe {:#x} count",
        subject.address
    );
    lldb.command(&probe)?;
    lldb.resume()?;
    check_guest(machine)?;
    lldb.interrupt()?;
    let list = lldb.command("process plugin packet monitor trace list")?;
    let line = list
        .lines()
        .find(|line| line.contains("kprobe"))
        .context(list.clone())?;
    ensure!(line.contains(" 200 "), "hits of 200 calls: {line}");
    let detach = format!(
        "process plugin packet monitor trace unkprobe {:#x}",
        subject.address
    );
    lldb.command(&detach)?;
    let list = lldb.command("process plugin packet monitor trace list")?;
    ensure!(!list.contains("kprobe"), "{list}");
    lldb.command("detach")?;
    check_guest(machine)
}

fn symbols(machine: &TestMachine) -> Result<()> {
    let mut lldb = attach(machine)?;
    lldb.command("breakpoint set --name chain_c")?;
    lldb.resume()?;
    let mut console = machine.console(1)?;
    let mut tiny = Tiny::new(&mut console);
    tiny.send("stack 1")?;
    let stop = lldb.wait_stop(MOMENT)?;
    ensure!(stop.contains("tiny-guest`chain_c"), "{stop}");
    let frames = lldb.command("thread backtrace")?;
    let callers = ["chain_c", "chain_b", "chain_a"].map(|name| frames.find(name));
    ensure!(
        callers.iter().all(Option::is_some) && callers.is_sorted(),
        "{frames}"
    );
    lldb.command("breakpoint delete --force")?;
    lldb.command("detach")?;
    ensure!(
        tiny.reply()?.number("result")? == 0x122,
        "the chain's result"
    );
    Ok(())
}

fn run_and_detach(machine: &TestMachine) -> Result<()> {
    let mut lldb = attach(machine)?;
    for _ in 0..3 {
        lldb.resume()?;
        check_guest(machine)?;
        let stop = lldb.interrupt()?;
        ensure!(stop.contains("stop reason = signal SIG"), "{stop}");
    }
    lldb.command("detach")?;
    check_guest(machine)
}

/// LLDB kills what it has launched or connected to when it quits: here that means to let go.
fn quit(machine: &TestMachine) -> Result<()> {
    let subject = subject(machine)?;
    let mut lldb = attach(machine)?;
    lldb.command(&format!("breakpoint set --address {:#x}", subject.address))?;
    lldb.quit()?;
    check_guest(machine)?;
    ensure!(!machine.log().contains("panic"), "{}", machine.log());
    Ok(())
}
