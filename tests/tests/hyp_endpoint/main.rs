//! Real GDB attached to the hypervisor itself, under a guest that counts what a stop might lose.

mod inferiors;

use anyhow::{Context, Result, ensure};
use e2e::tiny::{Tiny, addresses, time_stands_still, truth};
use e2e::{Console, Gdb, MOMENT, Probe, Random, Spec, TestMachine, case_list, suite};
use inferiors::{
    a_guest_is_shown_while_the_hypervisor_serves_it, a_space_has_one_debugger,
    a_stop_of_one_stops_all, a_vm_goes_on_alone_only_without_the_hypervisor, spaces_are_inferiors,
};
use std::collections::BTreeSet;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};
use xtask::build::Program;
use xtask::machine::Start;

fn main() -> ExitCode {
    suite(
        World::boot,
        case_list![
            every_cpu_stops_and_shows_itself,
            system_registers_are_each_cpus_own,
            memory_reads_true_and_unmapped_is_an_error,
            control_c_stops_what_runs,
            guests_lose_nothing,
            guest_time_stands_still,
            commands_that_need_a_vm_are_refused,
            clients_come_and_go,
            breakpoints_stop_with_their_arguments,
            every_guest_exit_can_stop,
            every_function_can_stop,
            steps_end_where_they_should,
            debug_registers_are_the_guests,
            scheduler_locking_moves_one_cpu,
            one_cpu_runs_alone,
            the_service_stops_at_its_own_breakpoint,
            the_service_stops_in_the_middle_of_arming,
            both_vcpus_stop_at_once,
            probes_that_stop,
            probes_come_and_go_between_stops,
            a_breakpoint_ends_with_its_client,
            vm_endpoints_are_served_again,
            spaces_are_inferiors,
            a_stop_of_one_stops_all,
            a_guest_is_shown_while_the_hypervisor_serves_it,
            a_vm_goes_on_alone_only_without_the_hypervisor,
            a_space_has_one_debugger,
            a_deaf_cpu_is_reported,
        ],
    )
}

/// How long all CPUs may take to stop, by the client's clock: machines of tests share few processors.
const BOUND: Duration = Duration::from_secs(10);

const SHELL_PROMPT: &str = "periscope> ";

/// How many CPUs the machine has.
const CPUS: usize = 4;

/// Two tiny guests, one with two vCPUs: the hypervisor has four CPUs, none of them idle but the service's.
struct World {
    machine: TestMachine,
}

impl World {
    fn boot() -> Result<Self> {
        let spec = Spec::hypervisor()
            .tiny_guest(2, Start::Immediately)
            .tiny_guest(1, Start::Immediately);
        let machine = TestMachine::start(spec)?;
        for vm in [1, 2] {
            let mut console = machine.console(vm)?;
            Tiny::new(&mut console).wait_ready()?;
        }
        Ok(Self { machine })
    }

    /// A GDB that has stopped the hypervisor.
    fn attach(&self) -> Result<Gdb> {
        self.machine.gdb_of_hypervisor()
    }

    /// Both guests do what they always do.
    fn guests_go_on(&self, after: &str) -> Result<()> {
        for (vm, command, count) in [(1, "callboth fn_stp 10", 20), (2, "call fn_stp 10", 10)] {
            let mut console = self.machine.console(vm)?;
            let mut tiny = Tiny::new(&mut console);
            tiny.settle()?;
            truth::expect(&mut tiny, command, &[("count", count), ("bad", 0)])
                .with_context(|| format!("vm{vm} after {after}"))?;
        }
        Ok(())
    }
}

fn every_cpu_stops_and_shows_itself(world: &World) -> Result<()> {
    let begin = Instant::now();
    let mut gdb = world.attach()?;
    let taken = begin.elapsed();
    ensure!(taken < BOUND, "it took {taken:?} to stop");
    let threads = gdb.console("info threads")?;
    for name in ["hyp/cpu0", "hyp/cpu1", "hyp/cpu2", "hyp/cpu3"] {
        ensure!(threads.contains(name), "no {name} among\n{threads}");
    }
    for cpu in 1..=4 {
        gdb.console(&format!("thread {cpu}"))?;
        let (pc, sp) = (gdb.value("$pc")?, gdb.value("$sp")?);
        let pstate = gdb.console("info registers cpsr")?;
        ensure!(pstate.contains("EL=2"), "thread {cpu}: {pstate}");
        let place = gdb.console("info symbol $pc")?;
        ensure!(place.contains("in section .text"), "{pc:#x}: {place}");
        let stacks = gdb.value("(unsigned long)&__stacks_start")?;
        let slot = stacks + 0x1_0000 * (cpu - 1);
        ensure!(
            (slot + 0x8000..slot + 0x1_0000).contains(&sp),
            "thread {cpu} has SP {sp:#x}, its stack's slot is at {slot:#x}"
        );
    }
    // The service's CPU shows how it came here, a CPU in a guest the exit.
    gdb.console("thread 1")?;
    let own = gdb.console("backtrace")?;
    ensure!(
        own.contains("hypervisor::service::run_if_due") && own.contains("_start"),
        "{own}"
    );
    gdb.console("thread 2")?;
    let guest = gdb.console("backtrace")?;
    ensure!(
        guest.contains("hypervisor::exits::handle_guest_exit")
            && guest.contains("<signal handler called>"),
        "{guest}"
    );
    gdb.detach()?;
    world.guests_go_on("a look")
}

/// The registers of EL2 by name, of the CPU that is looked at. They cannot be changed.
fn system_registers_are_each_cpus_own(world: &World) -> Result<()> {
    const BRK: u64 = 0x3c;
    const EL2H: u64 = 0b1001;
    let mut gdb = world.attach()?;
    let shown = gdb.console("info registers system")?;
    for name in ["esr_el2", "hcr_el2", "vttbr_el2", "vtcr_el2", "ttbr1_el1"] {
        ensure!(shown.contains(name), "no {name} in {shown}");
    }
    let vectors = gdb.value("(unsigned long)&vector_table")?;
    let mut tables = Vec::new();
    let mut seen = Vec::new();
    for thread in 1..=CPUS {
        gdb.console(&format!("thread {thread}"))?;
        for (expression, expected) in [
            ("$currentel", 2 << 2),
            ("$vbar_el2", vectors),
            ("$mpidr_el1 & 0xff", thread as u64 - 1),
            ("$sctlr_el2 & 1", 1),
            ("$elr_el2 == $pc", 1),
            ("$spsr_el2 & 0xf", EL2H),
        ] {
            let value = gdb.value(expression)?;
            ensure!(
                value == expected,
                "thread {thread}: {expression} is {value:#x}"
            );
        }
        seen.push((gdb.value("$tpidr_el2")?, gdb.value("$ttbr0_el2")?));
        if thread > 1 {
            let (enabled, root) = (gdb.value("$hcr_el2 & 1")?, gdb.value("$vttbr_el2")?);
            ensure!(enabled == 1, "thread {thread}: no stage 2 in HCR_EL2");
            tables.push(root);
        }
    }
    ensure!(
        tables[0] == tables[1] && tables[0] != tables[2],
        "stage 2 of vm1, vm1 and vm2: {tables:x?}"
    );
    let own: BTreeSet<u64> = seen.iter().map(|(own, _)| *own).collect();
    let map: BTreeSet<u64> = seen.iter().map(|(_, map)| *map).collect();
    ensure!(
        (own.len(), map.len()) == (CPUS, 1),
        "TPIDR and TTBR0: {seen:x?}"
    );
    // How the service's CPU has come here.
    gdb.console("thread 1")?;
    let class = gdb.value("$esr_el2 >> 26")?;
    ensure!(class == BRK, "exception class {class:#x}");
    let before = gdb.value("$hcr_el2")?;
    let said = gdb.console("set var $hcr_el2 = 0");
    ensure!(said.is_err(), "HCR_EL2 was written: {said:?}");
    gdb.console("maintenance flush register-cache")?;
    ensure!(gdb.value("$hcr_el2")? == before, "HCR_EL2 has changed");
    gdb.detach()?;
    world.guests_go_on("a look at registers")
}

fn memory_reads_true_and_unmapped_is_an_error(world: &World) -> Result<()> {
    let mut gdb = world.attach()?;
    // As the ELF has it.
    let compared = gdb.console("compare-sections .rodata")?;
    ensure!(compared.contains("matched"), "{compared}");
    // The first page is left out of the map; the GIC is a device.
    for address in ["0x10", "0x8000000"] {
        let said = gdb.console(&format!("x/gx {address}"));
        let error = said.err().context("no error")?.to_string();
        ensure!(error.contains("Cannot access memory"), "{error}");
    }
    // What belongs to the loader is written and read back; code is not written.
    let place = "(unsigned long *)((unsigned long)&__stacks_start + 0x8000)";
    let old = gdb.value(&format!("*{place}"))?;
    gdb.console(&format!("set var *{place} = 0x1234"))?;
    ensure!(gdb.value(&format!("*{place}"))? == 0x1234, "a lost write");
    gdb.console(&format!("set var *{place} = {old}"))?;
    let said = gdb.console("set var *(unsigned int *)&_start = 0");
    ensure!(said.is_err(), "code was written: {said:?}");
    gdb.detach()?;
    world.guests_go_on("reading memory")
}

fn control_c_stops_what_runs(world: &World) -> Result<()> {
    let mut gdb = world.attach()?;
    for _ in 0..5 {
        gdb.resume()?;
        gdb.expect_running(Duration::from_millis(200))?;
        let begin = Instant::now();
        let stop = gdb.interrupt()?;
        ensure!(begin.elapsed() < BOUND, "{:?}", begin.elapsed());
        ensure!(
            stop.field("signal-name").as_deref() == Some("SIGINT"),
            "{stop:?}"
        );
    }
    gdb.detach()?;
    world.guests_go_on("Ctrl-C")
}

/// Stops in the middle of whatever both vCPUs do.
fn guests_lose_nothing(world: &World) -> Result<()> {
    let mut console = world.machine.console(1)?;
    let mut tiny = Tiny::new(&mut console);
    tiny.settle()?;
    let mut gdb = world.attach()?;
    for round in 0..6 {
        tiny.send("callboth fn_stp 200000")?;
        for _ in 0..3 {
            gdb.resume()?;
            gdb.expect_running(Duration::from_millis(20 * round))?;
            gdb.interrupt()?;
        }
        gdb.resume()?;
        let reply = tiny.reply()?;
        let (count, bad) = (reply.number("count")?, reply.number("bad")?);
        ensure!(
            (count, bad) == (400_000, 0),
            "round {round}: {}",
            reply.text
        );
        gdb.interrupt()?;
    }
    gdb.detach()?;
    drop(console);
    world.guests_go_on("many stops")
}

fn guest_time_stands_still(world: &World) -> Result<()> {
    for vm in [1, 2] {
        let mut console = world.machine.console(vm)?;
        let mut tiny = Tiny::new(&mut console);
        tiny.settle()?;
        let mut gdb = world.attach()?;
        time_stands_still(&mut tiny, &mut gdb).with_context(|| format!("vm{vm}"))?;
        gdb.detach()?;
    }
    Ok(())
}

fn commands_that_need_a_vm_are_refused(world: &World) -> Result<()> {
    let mut gdb = world.attach()?;
    for command in [
        "vm list",
        "vm stop vm1",
        "trace kprobe vm1:0x40200000 count",
    ] {
        let said = gdb.console(&format!("monitor {command}"))?;
        ensure!(
            said.contains("the VMs stand with the hypervisor"),
            "{command}: {said}"
        );
    }
    let list = gdb.console("monitor trace list")?;
    ensure!(list.contains("HITS"), "{list}");
    ensure!(gdb.console("monitor log")?.contains("EL2 up"), "no log");
    gdb.detach()?;
    world.guests_go_on("commands")
}

fn clients_come_and_go(world: &World) -> Result<()> {
    for command in ["-target-detach", "kill"] {
        let mut gdb = world.attach()?;
        gdb.mi(command)?;
        world.guests_go_on(command)?;
    }
    // Killed itself, standing and running.
    drop(world.attach()?);
    world.guests_go_on("a client that ended in a stop")?;
    let mut gdb = world.attach()?;
    gdb.resume()?;
    drop(gdb);
    world.guests_go_on("a client that ended")
}

/// `PSCI_VERSION`, the function number of the tiny guest's `psci version`.
const PSCI_VERSION: u64 = 0x8400_0000;

/// A guest's call stops at the function that serves it, on the guest's CPU, with the call's number.
fn breakpoints_stop_with_their_arguments(world: &World) -> Result<()> {
    for (vm, thread) in [(1, "hyp/cpu1"), (2, "hyp/cpu3")] {
        let mut console = world.machine.console(vm)?;
        let mut tiny = Tiny::new(&mut console);
        tiny.settle()?;
        let mut gdb = world.attach()?;
        gdb.console("break psci::call")?;
        for _ in 0..3 {
            tiny.send("psci version")?;
            let stop = gdb.resume_until_stop(MOMENT)?;
            ensure!(stop.reason() == "breakpoint-hit", "{stop:?}");
            let threads = gdb.console("info threads")?;
            let current = threads.lines().find(|line| line.starts_with('*'));
            ensure!(
                current.is_some_and(|line| line.contains(thread) && line.contains("psci::call")),
                "{threads}"
            );
            let function = gdb.value("regs.x[0]")?;
            ensure!(function == PSCI_VERSION, "called {function:#x}");
            let trace = gdb.console("backtrace")?;
            ensure!(trace.contains("handle_guest_exit"), "{trace}");
            gdb.resume()?;
            let version = tiny.reply()?.number("version")?;
            ensure!(version >= 0x1_0001, "PSCI {version:#x}");
            gdb.interrupt()?;
        }
        gdb.console("delete")?;
        gdb.resume()?;
        let version = tiny.run("psci version")?.number("version")?;
        ensure!(version >= 0x1_0001, "PSCI {version:#x}");
        gdb.interrupt()?;
        gdb.detach()?;
    }
    world.guests_go_on("breakpoints")
}

/// Both vCPUs of a guest and the other guest come to one breakpoint, over and over.
fn every_guest_exit_can_stop(world: &World) -> Result<()> {
    let mut gdb = world.attach()?;
    gdb.console("break handle_guest_exit")?;
    for _ in 0..20 {
        let stop = gdb.resume_until_stop(MOMENT)?;
        ensure!(stop.reason() == "breakpoint-hit", "{stop:?}");
        let place = gdb.console("info symbol $pc")?;
        ensure!(place.contains("handle_guest_exit"), "{place}");
    }
    gdb.console("delete")?;
    gdb.resume()?;
    gdb.expect_running(Duration::from_millis(500))?;
    gdb.interrupt()?;
    gdb.detach()?;
    world.guests_go_on("a breakpoint on every exit")
}

/// A breakpoint on every function that can have one: the service, consoles and the shell among them, all in the middle of
/// their work. With steps in between, everybody's work goes on.
fn every_function_can_stop(world: &World) -> Result<()> {
    const STOPS: usize = 60;
    let mut console = world.machine.console(1)?;
    let mut tiny = Tiny::new(&mut console);
    tiny.settle()?;
    let mut shell = Console::connect(world.machine.ports().shell())?;
    shell.expect(SHELL_PROMPT, MOMENT)?;
    let mut gdb = world.attach()?;
    // So many take a while, which GDB would do at every stop.
    gdb.console("set breakpoint always-inserted on")?;
    let mut breakpoints = 0;
    for (_, address) in Program::Hypervisor.functions()? {
        let said = gdb.console(&format!("maintenance packet Z0,{address:x},4"))?;
        if said.contains("received: \"OK\"") {
            gdb.console(&format!("maintenance packet z0,{address:x},4"))?;
            gdb.console(&format!("break *{address:#x}"))?;
            breakpoints += 1;
        }
    }
    ensure!(breakpoints > 60, "only {breakpoints} breakpoints");
    tiny.send("callboth fn_stp 20000")?;
    shell.send("trace tracepoints\nvm list\n")?;
    let mut on_the_service = 0;
    for number in 0..STOPS {
        let stop = gdb.resume_until_stop(MOMENT)?;
        ensure!(stop.reason() == "breakpoint-hit", "{stop:?}");
        on_the_service += usize::from(stop.field("thread-id").as_deref() == Some("1"));
        if number % 3 == 0 {
            let word = gdb.value("*(unsigned int *)$pc")?;
            if !is_exclusive(word) {
                gdb.mi("-exec-step-instruction")?;
                gdb.wait_stop(MOMENT)?;
            }
        }
    }
    ensure!(on_the_service > 0, "no stop of the service's CPU");
    gdb.console("delete")?;
    gdb.resume()?;
    let called = tiny.reply()?;
    ensure!(
        (called.number("count")?, called.number("bad")?) == (40_000, 0),
        "{}",
        called.text
    );
    for _ in 0..2 {
        shell.expect(SHELL_PROMPT, MOMENT)?;
    }
    gdb.interrupt()?;
    gdb.detach()?;
    drop(console);
    world.guests_go_on("a breakpoint on every function")
}

/// Whether an instruction is an exclusive access. GDB passes a sequence of these with a breakpoint behind it, which code that
/// serves probes cannot carry.
fn is_exclusive(word: u64) -> bool {
    word & 0x3f80_0000 == 0x0800_0000
}

/// Steps of instructions and of lines, over a function and out of one, end where they should, and the guest's call ends.
fn steps_end_where_they_should(world: &World) -> Result<()> {
    let mut console = world.machine.console(1)?;
    let mut tiny = Tiny::new(&mut console);
    tiny.settle()?;
    let mut gdb = world.attach()?;
    gdb.console("break psci::call")?;
    tiny.send("psci version")?;
    gdb.resume_until_stop(MOMENT)?;
    for _ in 0..40 {
        let (from, word) = (gdb.value("$pc")?, gdb.value("*(unsigned int *)$pc")?);
        gdb.mi("-exec-step-instruction")?;
        let stop = gdb.wait_stop(MOMENT)?;
        ensure!(stop.reason() == "end-stepping-range", "{stop:?}");
        let to = gdb.value("$pc")?;
        ensure!(to != from, "no step from {from:#x}, {word:#010x}");
    }
    gdb.console("delete")?;
    gdb.console("break psci::call")?;
    gdb.resume()?;
    ensure!(tiny.reply()?.number("version")? >= 0x1_0001, "PSCI");
    tiny.send("psci version")?;
    gdb.wait_stop(MOMENT)?;
    gdb.mi("-exec-next")?;
    gdb.wait_stop(MOMENT)?;
    gdb.mi("-exec-finish")?;
    let stop = gdb.wait_stop(MOMENT)?;
    ensure!(stop.reason() == "function-finished", "{stop:?}");
    let place = gdb.console("info symbol $pc")?;
    ensure!(place.contains("exits::serve"), "{place}");
    gdb.console("delete")?;
    gdb.resume()?;
    ensure!(tiny.reply()?.number("version")? >= 0x1_0001, "PSCI");
    // The service's own CPU.
    gdb.interrupt()?;
    gdb.console("thread 1")?;
    for _ in 0..40 {
        let (from, word) = (gdb.value("$pc")?, gdb.value("*(unsigned int *)$pc")?);
        if is_exclusive(word) {
            break;
        }
        gdb.mi("-exec-step-instruction")?;
        gdb.wait_stop(MOMENT)?;
        ensure!(
            gdb.value("$pc")? != from,
            "no step from {from:#x}, {word:#010x}"
        );
    }
    gdb.detach()?;
    drop(console);
    world.guests_go_on("steps")
}

/// Neither hardware breakpoints nor watchpoints: the refusal says what there is.
fn debug_registers_are_the_guests(world: &World) -> Result<()> {
    let mut gdb = world.attach()?;
    let place = gdb.value("(unsigned long)&__stacks_start")?;
    for point in ["Z1", "Z2"] {
        let said = gdb.console(&format!("maintenance packet {point},{place:x},4"))?;
        ensure!(
            said.contains("the debug registers are the guests'"),
            "{said}"
        );
    }
    gdb.console("hbreak psci::call")?;
    gdb.resume()?;
    gdb.wait_warning("Could not insert hardware", MOMENT)?;
    gdb.console("delete")?;
    gdb.detach()?;
    world.guests_go_on("points in debug registers")
}

/// The PCs of all CPUs, by thread.
fn all_pcs(gdb: &mut Gdb) -> Result<Vec<u64>> {
    let pcs = (1..=CPUS).map(|thread| {
        gdb.console(&format!("thread {thread}"))?;
        gdb.value("$pc")
    });
    pcs.collect()
}

/// With `scheduler-locking`, steps move the CPU that is looked at, and no other.
fn scheduler_locking_moves_one_cpu(world: &World) -> Result<()> {
    const STEPS: usize = 25;
    let mut gdb = world.attach()?;
    gdb.console("set scheduler-locking on")?;
    for thread in [1, 2, 4] {
        let before = all_pcs(&mut gdb)?;
        gdb.console(&format!("thread {thread}"))?;
        for _ in 0..STEPS {
            let (from, word) = (gdb.value("$pc")?, gdb.value("*(unsigned int *)$pc")?);
            if is_exclusive(word) {
                break;
            }
            gdb.mi("-exec-step-instruction")?;
            let stop = gdb.wait_stop(MOMENT)?;
            ensure!(stop.reason() == "end-stepping-range", "{stop:?}");
            let who = stop.field("thread-id");
            ensure!(who == Some(thread.to_string()), "{stop:?}");
            let to = gdb.value("$pc")?;
            ensure!(to != from, "no step from {from:#x}, {word:#010x}");
        }
        let after = all_pcs(&mut gdb)?;
        for cpu in (1..=CPUS).filter(|cpu| *cpu != thread) {
            let (was, is) = (before[cpu - 1], after[cpu - 1]);
            ensure!(
                was == is,
                "thread {cpu} went from {was:#x} to {is:#x} with {thread}"
            );
        }
    }
    gdb.console("set scheduler-locking off")?;
    gdb.detach()?;
    world.guests_go_on("steps of one CPU")
}

/// One CPU of a guest goes on, the service's and the others stand. A breakpoint stops it, Ctrl-C too.
fn one_cpu_runs_alone(world: &World) -> Result<()> {
    let mut console = world.machine.console(1)?;
    let mut tiny = Tiny::new(&mut console);
    tiny.settle()?;
    let mut gdb = world.attach()?;
    gdb.console("break psci::call")?;
    tiny.send("callboth fn_hvc 50")?;
    let stop = gdb.resume_until_stop(MOMENT)?;
    let thread = stop.field("thread-id").context("no thread")?;
    gdb.console("set scheduler-locking on")?;
    for _ in 0..10 {
        let stop = gdb.resume_until_stop(MOMENT)?;
        ensure!(stop.reason() == "breakpoint-hit", "{stop:?}");
        ensure!(
            stop.field("thread-id").as_ref() == Some(&thread),
            "{stop:?}"
        );
    }
    gdb.console("delete")?;
    gdb.resume()?;
    gdb.expect_running(Duration::from_millis(300))?;
    let stop = gdb.interrupt()?;
    ensure!(
        stop.field("signal-name").as_deref() == Some("SIGINT"),
        "{stop:?}"
    );
    gdb.console("set scheduler-locking off")?;
    gdb.resume()?;
    let reply = tiny.reply()?;
    ensure!(
        (reply.number("count")?, reply.number("bad")?) == (100, 0),
        "{}",
        reply.text
    );
    gdb.interrupt()?;
    gdb.detach()?;
    drop(console);
    world.guests_go_on("a CPU on its own")
}

/// The address of the hypervisor's function whose demangled name ends like that.
fn function_ending_with(end: &str) -> Result<u64> {
    let functions = Program::Hypervisor.functions()?;
    let found = functions.iter().find(|(name, _)| name.ends_with(end));
    let (_, address) = found.with_context(|| format!("{end} is inlined"))?;
    Ok(*address)
}

/// A breakpoint in what CPU 0 does for others: it stands in the middle of the server's work, looks and goes on.
fn the_service_stops_at_its_own_breakpoint(world: &World) -> Result<()> {
    let mut console = world.machine.console(1)?;
    let mut tiny = Tiny::new(&mut console);
    tiny.settle()?;
    let set = format!(
        "break *{:#x}",
        function_ending_with("dyn devices::channel::Channel + core::marker::Send>>>::run")?
    );
    let mut gdb = world.attach()?;
    gdb.console(&set)?;
    for _ in 0..3 {
        tiny.send("version")?;
        let stop = gdb.resume_until_stop(MOMENT)?;
        ensure!(stop.reason() == "breakpoint-hit", "{stop:?}");
        ensure!(stop.field("thread-id").as_deref() == Some("1"), "{stop:?}");
        let trace = gdb.console("backtrace")?;
        ensure!(
            trace.contains("hypervisor::service::run_if_due") && trace.contains("_start"),
            "{trace}"
        );
        let refused = gdb.console("monitor trace list")?;
        ensure!(refused.contains("the server's own work"), "{refused}");
        for _ in 0..10 {
            gdb.mi("-exec-step-instruction")?;
            let stop = gdb.wait_stop(MOMENT)?;
            ensure!(stop.reason() == "end-stepping-range", "{stop:?}");
        }
        gdb.console("delete")?;
        gdb.resume()?;
        ensure!(tiny.reply()?.text.starts_with("tiny-guest"), "version");
        gdb.interrupt()?;
        let list = gdb.console("monitor trace list")?;
        ensure!(list.contains("HITS"), "{list}");
        gdb.console(&set)?;
    }
    gdb.console("delete")?;
    gdb.detach()?;
    drop(console);
    world.guests_go_on("a breakpoint in the service")
}

/// A breakpoint on the way of a command that arms a probe: the VM's table is locked then, and an event waits whose name is in
/// that table.
fn the_service_stops_in_the_middle_of_arming(world: &World) -> Result<()> {
    let mut console = world.machine.console(1)?;
    let mut tiny = Tiny::new(&mut console);
    tiny.settle()?;
    let [nop, stp] = addresses(["fn_nop", "fn_stp"])?;
    let arm = function_ending_with("hypervisor::vm::Vm as probes::machine::ExecuteView>::arm")?;
    let mut shell = Console::connect(world.machine.ports().shell())?;
    shell.expect(SHELL_PROMPT, MOMENT)?;
    tiny.run("spin fn_nop 1")?;
    let mut gdb = world.attach()?;
    gdb.console(&format!("break *{arm:#x}"))?;
    // In one go, so that nobody takes events in between; what is in the middle gives the guest time for some.
    let first = format!("trace kprobe vm1:{nop:#x} count");
    let second = format!("trace kprobe vm1:{stp:#x} count");
    let lines = [
        &first,
        "help",
        "ksym search e",
        "trace tracepoints",
        &second,
        "",
    ];
    shell.send(lines.join("\n"))?;
    for probe in 0..2 {
        let stop = gdb.resume_until_stop(MOMENT)?;
        ensure!(stop.reason() == "breakpoint-hit", "{probe}: {stop:?}");
        ensure!(stop.field("thread-id").as_deref() == Some("1"), "{stop:?}");
        let trace = gdb.console("backtrace")?;
        ensure!(trace.contains("run_if_due"), "{trace}");
        let refused = gdb.console("remote get events /dev/null");
        ensure!(refused.is_err(), "events were read: {refused:?}");
    }
    gdb.console("delete")?;
    gdb.resume()?;
    let mut attached = 0;
    for _ in 1..lines.len() {
        let said = shell.expect(SHELL_PROMPT, MOMENT)?;
        attached += usize::from(said.starts_with("probe "));
    }
    ensure!(attached == 2, "{attached} probes attached");
    gdb.interrupt()?;
    gdb.detach()?;
    ensure!(tiny.run("stop")?.number("bad")? == 0, "wrong results");
    for address in [nop, stp] {
        shell.send(format!("trace unkprobe vm1:{address:#x}\n"))?;
        let said = shell.expect(SHELL_PROMPT, MOMENT)?;
        ensure!(said.contains(" hits"), "{said}");
    }
    drop(console);
    world.guests_go_on("a breakpoint in arming")
}

/// `trace hprobe --stop` stops for the client of this endpoint, and for nobody else.
fn probes_that_stop(world: &World) -> Result<()> {
    let mut console = world.machine.console(1)?;
    let mut tiny = Tiny::new(&mut console);
    tiny.settle()?;
    let mut shell = world.machine.shell()?;
    let said = shell.run("trace hprobe psci::call count --stop")?;
    ensure!(said.contains("where nobody looks"), "{said}");
    let probe = Probe::attached(&said)?;
    truth::expect(&mut tiny, "callboth fn_hvc 50", &[("bad", 0)])?;
    ensure!(shell.own_hits(probe)? == (100, 0), "hits without a client");

    let mut gdb = world.attach()?;
    for _ in 0..3 {
        tiny.send("call fn_hvc 1 1")?;
        let stop = gdb.resume_until_stop(MOMENT)?;
        ensure!(
            stop.field("signal-name").as_deref() == Some("SIGTRAP"),
            "{stop:?}"
        );
        let said = format!("probe {}: hprobe hyp:psci::call stopped cpu2", probe.id());
        gdb.wait_target_output(&said, MOMENT)?;
        let place = gdb.console("info symbol $pc")?;
        ensure!(place.contains("psci::call in"), "{place}");
        gdb.mi("-exec-step-instruction")?;
        let stop = gdb.wait_stop(MOMENT)?;
        ensure!(stop.reason() == "end-stepping-range", "{stop:?}");
        gdb.resume()?;
        let called = tiny.reply()?;
        ensure!(called.number("bad")? == 0, "{}", called.text);
        gdb.interrupt()?;
    }
    gdb.console("monitor trace unhprobe psci::call")?;
    for kind in ["hprobe", "hretprobe"] {
        let said = gdb.console(&format!("monitor trace {kind} psci::call --stop --once"))?;
        ensure!(said.contains("stops") && !said.contains("nobody"), "{said}");
        tiny.send("callboth fn_hvc 20")?;
        gdb.resume_until_stop(MOMENT)?;
        gdb.wait_target_output(&format!(": {kind} hyp:psci::call stopped cpu"), MOMENT)?;
        gdb.resume()?;
        let called = tiny.reply()?;
        ensure!(called.number("bad")? == 0, "{}", called.text);
        gdb.interrupt()?;
        gdb.console("monitor trace unhprobe psci::call")?;
    }
    gdb.detach()?;
    drop(console);
    world.guests_go_on("probes that stop")
}

/// Both vCPUs come to breakpoints at the same time: each stop is told once, and none is lost.
fn both_vcpus_stop_at_once(world: &World) -> Result<()> {
    const CALLS: usize = 12;
    let mut console = world.machine.console(1)?;
    let mut tiny = Tiny::new(&mut console);
    tiny.settle()?;
    let mut gdb = world.attach()?;
    gdb.console("break psci::call")?;
    tiny.send(&format!("callboth fn_hvc {CALLS}"))?;
    let mut stops = [0; CPUS + 1];
    for _ in 0..2 * CALLS {
        let stop = gdb.resume_until_stop(MOMENT)?;
        ensure!(stop.reason() == "breakpoint-hit", "{stop:?}");
        let thread = stop.field("thread-id").and_then(|id| id.parse().ok());
        let thread: usize = thread.with_context(|| format!("{stop:?}"))?;
        stops[thread] += 1;
    }
    ensure!(
        stops[2] == CALLS && stops[3] == CALLS,
        "by thread: {stops:?}"
    );
    gdb.resume()?;
    let reply = tiny.reply()?;
    ensure!(
        (reply.number("count")?, reply.number("bad")?) == (2 * CALLS as u64, 0),
        "{}",
        reply.text
    );
    gdb.interrupt()?;
    gdb.detach()?;
    drop(console);
    world.guests_go_on("stops of both vCPUs")
}

/// Probes on what runs most, attached and detached at random by the shell while all CPUs run and by GDB while they rest, under
/// the load of both vCPUs: one that stays misses no hit and counts none twice.
fn probes_come_and_go_between_stops(world: &World) -> Result<()> {
    const CALLS: u64 = 5_000;
    const ROUNDS: u64 = 8;
    const PLACES: [&str; 8] = [
        "handle_guest_exit",
        "handle_guest_exit+16",
        "psci::call",
        "psci::call+8",
        "Vcpu::before_entry",
        "interrupts::serve",
        "exits::tell_exit",
        "exits::tell_entry",
    ];
    let mut random = Random::new(0x5eed);
    let mut console = world.machine.console(1)?;
    let mut tiny = Tiny::new(&mut console);
    tiny.settle()?;
    let mut shell = world.machine.shell()?;
    shell.run("trace enable vmm:vcpu_run_enter vmm:vcpu_run_exit vmm:hypercall")?;
    let stays = shell.hprobe("psci::call", "count")?;
    let mut gdb = world.attach()?;
    let mut probes: Vec<Probe> = Vec::new();
    let mut toggle = |run: &mut dyn FnMut(&str) -> Result<String>| -> Result<()> {
        let detaches = random.below(PLACES.len() * 2) < probes.len();
        if detaches {
            let probe = probes.swap_remove(random.below(probes.len()));
            let said = run(&format!("trace unhprobe {}", probe.id()))?;
            ensure!(said.contains(" hits"), "{said}");
            return Ok(());
        }
        let place = PLACES[random.below(PLACES.len())];
        // Returns are of functions, not of what is inside.
        let kind = if random.below(3) == 0 && !place.contains('+') {
            "hretprobe"
        } else {
            "hprobe"
        };
        let program = ["", "count", "args"][random.below(3)];
        let said = run(&format!("trace {kind} {place} {program}"))?;
        // What is inlined changes with the compiler.
        if !said.contains("is inlined") {
            probes.push(Probe::attached(&said)?);
        }
        Ok(())
    };
    let mut stopped_in_the_middle = 0;
    for round in 1..=ROUNDS {
        tiny.send(&format!("callboth fn_hvc {CALLS}"))?;
        gdb.resume()?;
        for _ in 0..2 {
            toggle(&mut |line| shell.run(line))?;
        }
        gdb.interrupt()?;
        let seen = stays.hits_in(&gdb.console("monitor trace list")?)?;
        stopped_in_the_middle += usize::from(seen < 2 * CALLS * round);
        for _ in 0..2 {
            toggle(&mut |line| gdb.console(&format!("monitor {line}")))?;
        }
        gdb.resume()?;
        toggle(&mut |line| shell.run(line))?;
        let called = tiny.reply()?;
        ensure!(
            (called.number("count")?, called.number("bad")?) == (2 * CALLS, 0),
            "{}",
            called.text
        );
        gdb.interrupt()?;
    }
    ensure!(
        stopped_in_the_middle > 2,
        "{stopped_in_the_middle} stops came while the guest called"
    );
    gdb.resume()?;
    for probe in probes.drain(..) {
        shell.unhprobe(probe)?;
    }
    let hits = shell.own_hits(stays)?;
    ensure!(hits == (2 * CALLS * ROUNDS, 0), "hits and missed: {hits:?}");
    shell.unhprobe(stays)?;
    shell.run("trace disable *")?;
    gdb.interrupt()?;
    gdb.detach()?;
    drop(console);
    world.guests_go_on("probes that came and went")
}

/// A client that dies at its breakpoint leaves neither the stop nor the breakpoint behind.
fn a_breakpoint_ends_with_its_client(world: &World) -> Result<()> {
    for end in ["kill", "-target-detach", "nothing"] {
        let mut gdb = world.attach()?;
        gdb.console("break handle_guest_exit")?;
        gdb.resume_until_stop(MOMENT)?;
        if end != "nothing" {
            gdb.mi(end)?;
        }
        drop(gdb);
        world.guests_go_on(&format!("a breakpoint and {end}"))?;
    }
    Ok(())
}

fn vm_endpoints_are_served_again(world: &World) -> Result<()> {
    let mut vm = world.machine.gdb(1)?;
    let pc = vm.value("$pc")?;
    {
        let mut hyp = world.attach()?;
        thread::sleep(Duration::from_millis(300));
        hyp.detach()?;
    }
    ensure!(vm.value("$pc")? == pc, "a stopped vCPU has moved");
    vm.resume()?;
    vm.interrupt()?;
    vm.detach()?;
    world.guests_go_on("a session of a VM")
}

/// A CPU that takes no interrupt any more is reported after a second and left out; all else works as before.
fn a_deaf_cpu_is_reported(_: &World) -> Result<()> {
    let spec = Spec::hypervisor().tiny_guest(2, Start::Immediately);
    let machine = TestMachine::start(spec.cpus(CPUS as u32).append("crash=hang"))?;
    let mut console = machine.console(1)?;
    let mut tiny = Tiny::new(&mut console);
    tiny.wait_ready()?;
    let mut gdb = machine.gdb_of_hypervisor()?;
    let threads = gdb.console("info threads")?;
    for name in ["hyp/cpu0", "hyp/cpu1", "hyp/cpu2"] {
        ensure!(threads.contains(name), "no {name} among\n{threads}");
    }
    ensure!(!threads.contains("hyp/cpu3"), "{threads}");
    let log = gdb.console("monitor log")?;
    ensure!(log.contains("hyp/cpu3 does not stop"), "{log}");
    gdb.console("break psci::call")?;
    tiny.send("psci version")?;
    let stop = gdb.resume_until_stop(MOMENT)?;
    ensure!(stop.reason() == "breakpoint-hit", "{stop:?}");
    gdb.wait_target_output("hyp/cpu3 does not stop", MOMENT)?;
    gdb.console("delete")?;
    gdb.resume()?;
    let version = tiny.reply()?.number("version")?;
    ensure!(version >= 0x1_0001, "PSCI {version:#x}");
    gdb.interrupt()?;
    gdb.detach()?;
    truth::expect(&mut tiny, "callboth fn_stp 10", &[("bad", 0)])
}
