//! A running machine with one tiny guest on two vCPUs, for the cases of a suite.

use super::{Kind, Subject, Tiny};
use crate::{Gdb, Shell, Spec, TestMachine};
use anyhow::{Context, Result, ensure};
use std::sync::{Mutex, MutexGuard, PoisonError};
use xtask::build::Program;
use xtask::machine::Start;

/// The machine, the guest's subjects, and the hypervisor's shell.
pub struct World {
    machine: TestMachine,
    shell: Mutex<Shell>,
    subjects: Vec<Subject>,
    /// What probes take where there are none.
    unprobed: [u64; 4],
}

impl World {
    /// A machine as most tests want it.
    pub fn boot() -> Result<Self> {
        Self::boot_on(Spec::hypervisor())
    }

    /// The same on a machine of one's own, to which the guest is added.
    pub fn boot_on(spec: Spec) -> Result<Self> {
        let machine = TestMachine::start(spec.tiny_guest(2, Start::Immediately))?;
        let subjects = {
            let mut console = machine.console(1)?;
            let mut tiny = Tiny::new(&mut console);
            ensure!(tiny.wait_ready()? == 2, "vCPUs of the tiny guest");
            tiny.subjects()?
        };
        let mut shell = machine.shell()?;
        Ok(Self {
            unprobed: shell.memory()?,
            machine,
            shell: Mutex::new(shell),
            subjects,
        })
    }

    /// The machine. Its shell is taken: [`World::with`] gives it to a case.
    pub fn machine(&self) -> &TestMachine {
        &self.machine
    }

    /// Runs a case with the guest at its console and the shell at its prompt. Afterwards nothing of
    /// the case's probes may be left.
    pub fn with(&self, case: impl FnOnce(&mut Tiny<'_>, &mut Shell) -> Result<()>) -> Result<()> {
        let mut console = self.machine.console(1)?;
        let mut shell = self.shell();
        let mut tiny = Tiny::new(&mut console);
        tiny.settle()?;
        // Where an earlier case has failed, its probes may still be there.
        let before = shell.memory()?;
        case(&mut tiny, &mut shell)?;
        let left = shell.memory()?;
        ensure!(
            left == before,
            "sites, shadow, not executable and table pages: {left:?}, before the case {before:?}"
        );
        Ok(())
    }

    fn shell(&self) -> MutexGuard<'_, Shell> {
        // A case that panicked has failed; the next one finds out in what state it has left the shell.
        self.shell.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What [`Shell::memory`] shows without probes.
    pub fn unprobed(&self) -> [u64; 4] {
        self.unprobed
    }

    /// A GDB that knows the guest's symbols and has stopped the guest.
    pub fn attach(&self) -> Result<Gdb> {
        let mut gdb = Gdb::with_symbols(&Program::TinyGuest.elf())?;
        gdb.connect(self.machine.ports().vm(1))?;
        Ok(gdb)
    }

    /// All subjects.
    pub fn subjects(&self) -> &[Subject] {
        &self.subjects
    }

    /// A subject by its name.
    pub fn subject(&self, name: &str) -> Result<&Subject> {
        let mut subjects = self.subjects.iter();
        let found = subjects.find(|subject| subject.name == name);
        found.with_context(|| format!("no subject {name}"))
    }

    /// The subjects that the CPU model of most tests can run.
    pub fn runnable(&self) -> impl Iterator<Item = &Subject> {
        let runs = |subject: &&Subject| subject.kind != Kind::Atomic;
        self.subjects.iter().filter(runs)
    }

    /// Fails if a probe of the guest is left, or if the hypervisor's log has a complaint: for the last case of a suite.
    pub fn check_nothing_left(&self) -> Result<()> {
        self.with(|tiny, shell| {
            super::truth::expect(tiny, "callboth fn_nop 10", &[("count", 20), ("bad", 0)])?;
            let list = shell.run("trace list")?;
            let probes = [" vm1:", " hyp:"].iter().any(|space| list.contains(space));
            ensure!(!probes, "probes are left:\n{list}");
            Ok(())
        })?;
        let log = self.machine.log();
        ensure!(!log.contains("panic") && !log.contains("ERROR"), "{log}");
        Ok(())
    }
}

/// Addresses of symbols of the guest, subjects or not.
pub fn addresses<const N: usize>(names: [&str; N]) -> Result<[u64; N]> {
    let mut gdb = Gdb::with_symbols(&Program::TinyGuest.elf())?;
    let mut found = [0; N];
    for (address, name) in found.iter_mut().zip(names) {
        *address = gdb.value(&format!("(long)&{name}"))?;
    }
    Ok(found)
}
