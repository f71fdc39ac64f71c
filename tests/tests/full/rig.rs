//! A Debian guest whose functions both sides count: we by our probes, the guest by its own kprobes.

use crate::guest;
use anyhow::{Context, Result, bail, ensure};
use e2e::{Gdb, Linux, Probe, Random, Shell};

/// How often the counts are read until nothing was counted meanwhile.
const READINGS: usize = 10;

/// Who gives a command.
#[derive(Clone, Copy)]
pub enum Way {
    /// The hypervisor's shell, while the guest runs.
    Shell,
    /// GDB, which stops the guest for it.
    Monitor,
}

/// Runs a test by chance whose seed is said: with it, the test repeats.
pub fn seeded(run: impl FnOnce(Random) -> Result<()>) -> Result<()> {
    let (random, seed) = Random::seeded()?;
    println!("seed {seed}");
    run(random).with_context(|| format!("seed {seed}: PERISCOPE_SEED={seed} repeats it"))
}

/// Everyone who looks at `vm1`.
pub struct Rig<'a> {
    pub random: Random,
    pub shell: Shell,
    /// Attached; the guest runs.
    pub gdb: Gdb,
    pub linux: Linux<'a>,
}

impl Rig<'_> {
    pub fn any_way(&mut self) -> Way {
        match self.random.below(3) {
            0 => Way::Monitor,
            _ => Way::Shell,
        }
    }

    pub fn command(&mut self, way: Way, command: &str) -> Result<String> {
        match way {
            Way::Shell => self.shell.run(command),
            Way::Monitor => {
                self.gdb.interrupt()?;
                let said = self.gdb.console(&format!("monitor {command}"))?;
                self.gdb.resume()?;
                Ok(said)
            }
        }
    }

    pub fn attach(&mut self, way: Way, function: &str) -> Result<Probe> {
        let said = self.command(way, &format!("trace kprobe vm1:{function} count"))?;
        // While both vCPUs are in user code the kernel is unmapped (KPTI): a hardware breakpoint stands in.
        Probe::accepted(&said)
    }

    /// Detaches a probe and returns how often it was hit.
    pub fn detach(&mut self, way: Way, probe: Probe) -> Result<u64> {
        let said = self.command(way, &format!("trace unkprobe vm1:{}", probe.id()))?;
        Probe::detached(&said)
    }

    /// What we and the guest have counted of each function at one instant: between two readings of the guest's counts
    /// that are the same.
    pub fn counts<'f>(&mut self, probes: &[(&'f str, Probe)]) -> Result<Vec<(&'f str, Counts)>> {
        for _ in 0..READINGS {
            let before = guest::counts(&mut self.linux)?;
            let table = self.shell.run("trace list")?;
            let after = guest::counts(&mut self.linux)?;
            let both = probes.iter().map(|(function, probe)| {
                let theirs = before.get(*function).copied();
                let theirs = theirs.with_context(|| format!("the guest's {function} is gone"))?;
                let ours = probe.hits_in(&table)?;
                Ok((*function, Counts { ours, theirs }))
            });
            let is_at_rest = |function: &str| before.get(function) == after.get(function);
            if probes.iter().all(|(function, _)| is_at_rest(function)) {
                return both.collect();
            }
        }
        bail!("the guest does not come to rest")
    }
}

/// How often a function was called, as both sides say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Counts {
    pub ours: u64,
    pub theirs: u64,
}

/// Each function's calls between two countings, which both sides must have counted alike.
pub fn agreed<'f>(
    before: &[(&'f str, Counts)],
    after: &[(&'f str, Counts)],
) -> Result<Vec<(&'f str, u64)>> {
    let mut calls = Vec::new();
    for ((function, before), (_, after)) in before.iter().zip(after) {
        let (ours, theirs) = (after.ours - before.ours, after.theirs - before.theirs);
        ensure!(
            ours == theirs,
            "{function}: we counted {ours}, the guest {theirs}"
        );
        calls.push((*function, ours));
    }
    Ok(calls)
}
