//! How a Linux guest begins and ends, with probes and debuggers looking on, and with another VM that does not care.

use anyhow::{Context, Result, ensure};
use e2e::{LONG, Linux, MOMENT, Probe, Shell, Spec, TestMachine, cases, named};
use std::process::ExitCode;
use xtask::build::Program;
use xtask::guest::Release;
use xtask::machine::Start;

fn main() -> ExitCode {
    cases(vec![
        named(
            "probes_before_the_first_instruction",
            probes_before_the_first_instruction,
        ),
        named("power_reset_and_panic", power_reset_and_panic),
        named("kexec_is_a_new_boot", kexec_is_a_new_boot),
    ])
}

// ---- The beginning ----

fn probes_before_the_first_instruction() -> Result<()> {
    let spec = Spec::hypervisor().linux(Release::Stable, 2, Start::Halted)?;
    let machine = TestMachine::start(spec)?;
    let mut shell = machine.shell()?;
    ensure!(shell.state("vm1")? == "ready", "vm1 waits for a debugger");
    let mut gdb = machine.gdb(1)?;
    let said = gdb.console("monitor trace kprobe vm1:vfs_read count")?;
    ensure!(said.contains("arms itself"), "{said}");
    let said = gdb.console("monitor trace kprobe vm1:free_initmem args --stop")?;
    ensure!(said.contains("arms itself"), "{said}");
    let list = gdb.console("monitor trace list")?;
    ensure!(
        list.matches("pending").count() == 2,
        "before the start:\n{list}"
    );

    // Late in the kernel's start, and once.
    let stop = gdb.resume_until_stop(LONG)?;
    let known = gdb.console("monitor gsym vm1:free_initmem")?;
    ensure!(
        known.starts_with(&format!("{:#x} ", stop.pc()?)),
        "free_initmem is at {known}, the stop {stop:?}"
    );
    let list = gdb.console("monitor trace list")?;
    ensure!(
        list.matches("pending").count() == 0,
        "with the kernel up:\n{list}"
    );
    gdb.console("monitor trace unkprobe vm1:free_initmem")?;
    gdb.detach()?;

    machine.wait_for_shell(1)?;
    let before = shell.armed_hits()?;
    ensure!(before > 0, "/etc/rc has been read");
    Linux::new(machine.console(1)?).run("cat /etc/rc")?;
    ensure!(shell.armed_hits()? > before, "the probe goes on counting");
    Ok(())
}

// ---- The end ----

/// Two VMs at their shells, a counting probe in vm1.
struct Lives {
    machine: TestMachine,
    shell: Shell,
}

fn power_reset_and_panic() -> Result<()> {
    let mut lives = Lives::begin(&[])?;
    lives.reboot().context("reboot -f")?;
    lives.power_off_and_start().context("poweroff -f")?;
    lives.panic().context("a panic")?;
    lives.reset_from_the_shell().context("vm reset")?;
    lives.reboot_under_gdb().context("reboot -f under GDB")?;
    lives.panic_under_gdb().context("a panic under GDB")?;
    lives.power_off_under_gdb().context("poweroff -f under GDB")
}

/// Another kernel in the place of the first, which tells nobody, with probes of every kind on it.
fn kexec_is_a_new_boot() -> Result<()> {
    const PROBES: [&str; 3] = [
        "vm1:do_sys_openat2 --mode xn",
        "vm1:do_sys_openat2 count --mode hw",
        "vm1:vfs_write ret --ret",
    ];
    let mut lives = Lives::begin(&[Program::Kexec])?;
    lives.second_lives_on()?;
    for place in PROBES {
        let said = lives.shell.run(&format!("trace kprobe {place}"))?;
        Probe::attached(&said)?;
    }
    let text = lives.shell.kernel_text()?;
    lives.end_with("kexec")?;
    lives.begun_anew(&text)?;
    let log = lives.machine.log();
    for said in [
        "vm1: its kernel gives way to another",
        "vm1: a kernel begins",
    ] {
        ensure!(log.contains(said), "the log does not say `{said}`:\n{log}");
    }
    let before = lives.shell.run("trace list")?;
    ensure!(!before.contains("pending"), "{before}");
    lives.linux(1)?.run("cat /etc/rc > /tmp/rc")?;
    let after = lives.shell.run("trace list")?;
    for (before, after) in before.lines().zip(after.lines()).skip(1) {
        ensure!(before != after, "a probe does not count on: {after}");
    }
    Ok(())
}

impl Lives {
    fn begin(programs: &[Program]) -> Result<Self> {
        let spec = Spec::hypervisor()
            .linux_with(programs, Release::Stable, 2, Start::Immediately)?
            .linux(Release::Stable, 1, Start::Immediately)?;
        let machine = TestMachine::start(spec)?;
        let shell = machine.shell()?;
        let mut lives = Lives { machine, shell };
        lives.machine.wait_for_shell(1)?;
        lives.machine.wait_for_shell(2)?;
        let said = lives.shell.run("trace kprobe vm1:vfs_read count")?;
        ensure!(
            said.contains("probe 1: kprobe vm1:vfs_read at 0x"),
            "{said}"
        );
        Ok(lives)
    }

    fn linux(&self, vm: usize) -> Result<Linux<'_>> {
        Ok(Linux::new(self.machine.console(vm)?))
    }

    /// Tells vm1 what ends this life of its.
    fn end_with(&self, command: &str) -> Result<()> {
        self.linux(1)?.begin(command)
    }

    fn panic_vm1(&self) -> Result<()> {
        self.linux(1)?.run("echo 1 > /proc/sys/kernel/panic")?;
        self.end_with("echo c > /proc/sysrq-trigger")
    }

    /// vm1 has begun anew: another KASLR slide, the probe armed there by its symbol, vm2 still in its first life.
    fn begun_anew(&mut self, old_text: &str) -> Result<()> {
        self.machine.wait_for_shell(1)?;
        let text = self.shell.kernel_text()?;
        ensure!(text != old_text, "the kernel is at {text} again");
        let before = self.shell.armed_hits()?;
        let truth = self.linux(1)?.address("vfs_read")?;
        let known = self.shell.run("gsym vm1:vfs_read")?;
        ensure!(
            known.contains(&format!("{truth:#x} ")),
            "vfs_read is at {truth:#x}, and not {known}"
        );
        self.linux(1)?.run("cat /etc/rc")?;
        ensure!(self.shell.armed_hits()? > before, "the probe counts on");
        ensure!(self.linux(1)?.run("nproc")?.trim() == "2", "vCPUs");
        self.second_lives_on()
    }

    fn second_lives_on(&mut self) -> Result<()> {
        ensure!(self.shell.state("vm2")? == "running", "vm2");
        let mut two = self.linux(2)?;
        if two.run("ls /tmp")?.is_empty() {
            two.run("touch /tmp/first-life")?;
        }
        let said = two.run("ls /tmp")?;
        ensure!(said.trim() == "first-life", "vm2 has {said}");
        Ok(())
    }

    fn reboot(&mut self) -> Result<()> {
        self.second_lives_on()?;
        let text = self.shell.kernel_text()?;
        self.end_with("reboot -f")?;
        self.begun_anew(&text)
    }

    fn power_off_and_start(&mut self) -> Result<()> {
        let text = self.shell.kernel_text()?;
        self.end_with("poweroff -f")?;
        self.shell.wait_state("vm1", "off")?;
        self.second_lives_on()?;
        let said = self.shell.run("vm start vm1")?;
        ensure!(said.contains("vm1 starts"), "{said}");
        self.begun_anew(&text)
    }

    fn panic(&mut self) -> Result<()> {
        let text = self.shell.kernel_text()?;
        self.panic_vm1()?;
        self.begun_anew(&text)
    }

    fn reset_from_the_shell(&mut self) -> Result<()> {
        let text = self.shell.kernel_text()?;
        let said = self.shell.run("vm reset vm1")?;
        ensure!(said.contains("vm1 starts anew"), "{said}");
        self.begun_anew(&text)
    }

    fn reboot_under_gdb(&mut self) -> Result<()> {
        let text = self.shell.kernel_text()?;
        let mut gdb = self.machine.gdb(1)?;
        gdb.resume()?;
        self.end_with("reboot -f")?;
        self.begun_anew(&text)?;
        gdb.interrupt()?;
        gdb.detach()
    }

    fn panic_under_gdb(&mut self) -> Result<()> {
        let text = self.shell.kernel_text()?;
        let mut gdb = self.machine.gdb(1)?;
        gdb.resume()?;
        self.panic_vm1()?;
        self.begun_anew(&text)?;
        gdb.interrupt()?;
        gdb.detach()
    }

    /// To the client a VM that is off is a process that has exited.
    fn power_off_under_gdb(&mut self) -> Result<()> {
        let text = self.shell.kernel_text()?;
        let mut gdb = self.machine.gdb(1)?;
        gdb.resume()?;
        self.end_with("poweroff -f")?;
        let stop = gdb.wait_stop(MOMENT)?;
        ensure!(stop.reason() == "exited-normally", "GDB sees {stop:?}");
        self.shell.wait_state("vm1", "off")?;
        self.second_lives_on()?;
        self.shell.run("vm start vm1")?;
        self.begun_anew(&text)?;
        gdb.connect(self.machine.ports().vm(1))?;
        gdb.detach()
    }
}
