//! Probes on the code of modules, which come and go while a Debian kernel runs.

use anyhow::{Context, Result, bail, ensure};
use e2e::{
    LONG, Linux, MOMENT, Named, Probe, Scope, Shell, Spec, TestMachine, cases, named, scope,
};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};
use xtask::guest::{self, Freshness, Release};
use xtask::machine::Start;
use xtask::report::Report;

/// A small module of any Debian kernel, and a function of it that runs once for each device that is made.
const MODULE: &str = "drivers/net/dummy";
const FUNCTION: &str = "dummy:dummy_dev_init";
/// Devices that each vCPU makes.
const DEVICES: u64 = 5;
/// How often the state of a probe is looked at until it is what it should be.
const POLL: Duration = Duration::from_millis(100);

fn main() -> ExitCode {
    let mut list: Vec<Named> = vec![named("probes_follow_modules", || follow(Release::Stable))];
    if scope() == Scope::Full {
        // Without KALLSYMS_ALL: the list of modules is found from code.
        list.push(named("probes_follow_modules_of_6_1", || {
            follow(Release::Oldstable)
        }));
    }
    cases(list)
}

fn follow(release: Release) -> Result<()> {
    let report = Report::new();
    let linux = guest::linux(&report, release, Freshness::Cached)?;
    let (linux, file) = linux.with_module(&report, release, MODULE)?;
    let insert = format!("insmod /lib/{file} numdummies=0");
    let machine = TestMachine::start(Spec::hypervisor().linux_guest(linux, 2, Start::Immediately))?;
    machine.wait_for_shell(1)?;
    let mut shell = machine.shell()?;
    let mut linux = Linux::new(machine.console(1)?);
    linux.quieten()?;

    let unprobed = shell.memory()?;
    let said = shell.run(&format!("trace kprobe vm1:{FUNCTION} count"))?;
    ensure!(said.contains("arms itself"), "{said}");
    let probe = Probe::accepted(&said)?;
    wait_state(&mut shell, probe, "pending")?;
    let mut made = 0;
    for life in 1..=3 {
        let said = linux.run(&insert)?;
        ensure!(said.is_empty(), "{insert}: {said}");
        wait_state(&mut shell, probe, "on")?;
        made += make_devices(&mut linux, life)?;
        let hits = shell.hits(probe)?;
        ensure!(hits == made, "life {life}: {hits} hits, {made} devices");
        let address = symbols_are_the_modules(&mut shell, &mut linux)?;
        let by_address = shell.kprobe(address + 8, "count")?;
        let said = linux.run("rmmod dummy")?;
        ensure!(said.is_empty(), "rmmod: {said}");
        memory_is_reused(&mut linux)?;
        wait_state(&mut shell, probe, "pending")?;
        // An address means nothing once its code is gone.
        wait_state(&mut shell, by_address, "off")?;
        shell.detach(by_address)?;
    }
    let notes = shell.run("trace stream -n 100 --filter note")?;
    let gone = notes
        .matches("is disarmed: module dummy is unloaded")
        .count();
    ensure!(
        gone == 6,
        "{gone} notes of a module that has gone:\n{notes}"
    );
    ensure!(shell.detach(probe)? == made, "hits at the end");
    let left = shell.memory()?;
    ensure!(left == unprobed, "{left:?}, before probes {unprobed:?}");
    Ok(())
}

/// What was probed code may be anything now, and holds what the guest writes there.
fn memory_is_reused(linux: &mut Linux<'_>) -> Result<()> {
    linux.run_within("head -c 100M /dev/zero > /tmp/zeros", LONG)?;
    let others = linux.run_within("tr -d '\\0' < /tmp/zeros | wc -c; rm /tmp/zeros", LONG)?;
    ensure!(
        others.trim() == "0",
        "{others} bytes that were zero are not"
    );
    Ok(())
}

/// Makes devices on both vCPUs at once, each of which the module hears of. Returns how many.
fn make_devices(linux: &mut Linux<'_>, life: u32) -> Result<u64> {
    let each = format!("for i in $(seq {DEVICES}); do ip link add d{life}c$0.$i type dummy; done");
    let said = linux.run(&format!(
        "for mask in 1 2; do taskset $mask sh -c '{each}' $mask & done; wait"
    ))?;
    ensure!(!said.contains("ip:"), "{said}");
    let devices = linux.run("ls /sys/class/net | grep -c ^d")?;
    let devices: u64 = devices.trim().parse().with_context(|| devices.clone())?;
    ensure!(devices == 2 * DEVICES, "{devices} devices:\n{said}");
    Ok(devices)
}

/// By its own name and by the module's, the function is where the guest has it, and the address has the module's name.
/// Returns the address.
fn symbols_are_the_modules(shell: &mut Shell, linux: &mut Linux<'_>) -> Result<u64> {
    let bare = FUNCTION.rsplit(':').next().unwrap_or_default();
    let truth = linux.address(bare)?;
    for asked in [bare, FUNCTION, &format!("{truth:#x}")] {
        let said = shell.run(&format!("gsym vm1:{asked}"))?;
        ensure!(
            said.contains(&format!("{truth:#x}")) && said.contains(FUNCTION),
            "gsym {asked}: {said}"
        );
    }
    Ok(truth)
}

/// Waits until the probe's row in `trace list` has this state.
fn wait_state(shell: &mut Shell, probe: Probe, wanted: &str) -> Result<()> {
    let deadline = Instant::now() + MOMENT;
    loop {
        let list = shell.run("trace list")?;
        let id = probe.id().to_string();
        let mut rows = list.lines().map(str::split_whitespace);
        let row = rows.find(|row| row.clone().next() == Some(&id));
        if row.is_some_and(|mut row| row.any(|word| word == wanted)) {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("probe {id} does not get {wanted}:\n{list}");
        }
        thread::sleep(POLL);
    }
}
