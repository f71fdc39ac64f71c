//! The hypervisor's shell, whose commands are those of GDB's `monitor`, and its tables.

use crate::{Console, MOMENT};
use anyhow::{Context, Result, bail, ensure};
use std::thread;
use std::time::{Duration, Instant};

const PROMPT: &str = "periscope> ";
/// How often something is looked at until it is what it should be.
const POLL: Duration = Duration::from_millis(200);

/// The shell at its prompt.
pub struct Shell {
    console: Console,
}

/// A probe that this shell has attached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Probe {
    id: u32,
}

impl Shell {
    /// Connects and waits for the prompt.
    pub fn connect(port: u16) -> Result<Self> {
        let mut console = Console::connect(port)?;
        console
            .expect(PROMPT, MOMENT)
            .context("the shell's prompt")?;
        Ok(Self { console })
    }

    /// Runs a command and returns what it prints.
    pub fn run(&mut self, command: &str) -> Result<String> {
        self.console.send(format!("{command}\n"))?;
        let text = self.console.expect(PROMPT, MOMENT);
        text.with_context(|| format!("`{command}` in the shell"))
    }

    /// Runs a command that goes on showing what comes (`--follow`) while `during` looks at it, and ends it with a line.
    pub fn follow(
        &mut self,
        command: &str,
        during: impl FnOnce(&mut Console) -> Result<()>,
    ) -> Result<()> {
        self.console.send(format!("{command}\n"))?;
        during(&mut self.console).with_context(|| format!("`{command}` in the shell"))?;
        self.run("enough").map(drop)
    }

    /// How long each of `count` runs of a command takes at EL2, from the line to its answer, in nanoseconds.
    pub fn durations(&mut self, command: &str, count: usize) -> Result<Vec<u64>> {
        const EVENT: &str = "shell:shell_command";
        self.run(&format!("trace enable {EVENT}"))?;
        self.run("trace reset")?;
        for _ in 0..count {
            self.run(command)?;
        }
        let limit = count + 1;
        let dump = self.run(&format!("trace dump -n {limit} --filter {EVENT}"))?;
        self.run(&format!("trace disable {EVENT}"))?;
        let events = dump
            .lines()
            .filter_map(|line| line.split("duration=").nth(1));
        // The first is the end of `trace reset`.
        let durations = events.skip(1).map(|text| text.trim().parse());
        let durations: Result<Vec<u64>, _> = durations.collect();
        let durations = durations.with_context(|| dump.clone())?;
        ensure!(durations.len() == count, "{dump}");
        Ok(durations)
    }

    /// Attaches `program` as a kprobe to an address in `vm1`, now.
    pub fn kprobe(&mut self, address: u64, program: &str) -> Result<Probe> {
        let said = self.run(&format!("trace kprobe vm1:{address:#x} {program}"))?;
        Probe::attached(&said)
    }

    /// Attaches `program` as an hprobe to a place in the hypervisor.
    pub fn hprobe(&mut self, place: &str, program: &str) -> Result<Probe> {
        let said = self.run(&format!("trace hprobe {place} {program}"))?;
        Probe::attached(&said)
    }

    /// Attaches `program` to the returns of a function of the hypervisor's.
    pub fn hretprobe(&mut self, place: &str, program: &str) -> Result<Probe> {
        let said = self.run(&format!("trace hretprobe {place} {program}"))?;
        Probe::attached(&said)
    }

    /// Attaches `program` to the returns of the function at an address in `vm1`, now.
    pub fn kretprobe(&mut self, address: u64, program: &str) -> Result<Probe> {
        let said = self.run(&format!("trace kprobe vm1:{address:#x} {program} --ret"))?;
        Probe::attached(&said)
    }

    /// Detaches a probe and returns how often it was hit.
    pub fn detach(&mut self, probe: Probe) -> Result<u64> {
        Probe::detached(&self.run(&format!("trace unkprobe vm1:{}", probe.id))?)
    }

    /// The same for an hprobe.
    pub fn unhprobe(&mut self, probe: Probe) -> Result<u64> {
        Probe::detached(&self.run(&format!("trace unhprobe {}", probe.id))?)
    }

    /// How often a probe has been hit. None of its programs' runs may have failed.
    pub fn hits(&mut self, probe: Probe) -> Result<u64> {
        probe.hits_in(&self.run("trace list")?)
    }

    /// How often an hprobe has been hit, and how often that was from inside a probe.
    pub fn own_hits(&mut self, probe: Probe) -> Result<(u64, u64)> {
        let table = self.run("trace list")?;
        let own: Vec<&str> = table
            .lines()
            .filter(|line| line.contains(" hyp:"))
            .collect();
        probe.hits_and_missed_in(&own.join("\n"))
    }

    /// How often a probe has been hit, and how often it has missed.
    pub fn hits_and_misses(&mut self, probe: Probe) -> Result<(u64, u64)> {
        probe.hits_and_missed_in(&self.run("trace list")?)
    }

    /// What the probes of `vm1` take: sites, shadow pages, pages that are not executable, table
    /// pages.
    pub fn memory(&mut self) -> Result<[u64; 4]> {
        let said = self.run("vm memory vm1")?;
        let row = said.lines().find(|line| line.starts_with("vm1 "));
        let row = row.with_context(|| format!("no vm1 in {said}"))?;
        let numbers: Result<Vec<u64>, _> = row.split_whitespace().skip(1).map(str::parse).collect();
        let numbers = numbers.with_context(|| format!("numbers of `{row}`"))?;
        <[u64; 4]>::try_from(numbers.as_slice()).with_context(|| format!("four numbers in `{row}`"))
    }

    /// The state of a VM in `vm list`.
    pub fn state(&mut self, vm: &str) -> Result<String> {
        let list = self.run("vm list")?;
        let row = list.lines().find(|line| line.starts_with(vm));
        let state = row.and_then(|row| row.split_whitespace().nth(1));
        let state = state.with_context(|| format!("no {vm} in\n{list}"))?;
        Ok(state.to_owned())
    }

    /// Waits until a VM has this state.
    pub fn wait_state(&mut self, vm: &str, wanted: &str) -> Result<()> {
        let deadline = Instant::now() + MOMENT;
        loop {
            let state = self.state(vm)?;
            if state == wanted {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("{vm} does not get {wanted}: it is {state}");
            }
            thread::sleep(POLL);
        }
    }

    /// Where vm1's kernel runs.
    pub fn kernel_text(&mut self) -> Result<String> {
        let info = self.run("vm info vm1")?;
        let text = info.split_once("text at ").map(|(_, rest)| rest);
        let text = text.and_then(|rest| rest.split(',').next());
        Ok(text
            .with_context(|| format!("no kernel: {info}"))?
            .to_owned())
    }

    /// Waits until the only probe is armed, and returns its hits.
    pub fn armed_hits(&mut self) -> Result<u64> {
        let deadline = Instant::now() + MOMENT;
        loop {
            let list = self.run("trace list")?;
            if let Some(hits) = hits_if_on(&list) {
                return hits.parse().with_context(|| list.clone());
            }
            if Instant::now() > deadline {
                bail!("the probe is not armed:\n{list}");
            }
            thread::sleep(POLL);
        }
    }
}

/// The hits of the first probe in the table of `trace list`, if it is armed.
fn hits_if_on(list: &str) -> Option<String> {
    let row: Vec<&str> = list.lines().nth(1)?.split_whitespace().collect();
    match row[..] {
        [.., "on", hits, "0"] => Some(hits.replace(',', "")),
        _ => None,
    }
}

impl Probe {
    /// The probe that `trace kprobe` or `trace attach` says it has attached, and armed.
    pub fn attached(said: &str) -> Result<Self> {
        ensure!(!said.contains("not mapped"), "not armed: {said}");
        Self::accepted(said)
    }

    /// The same, armed or not yet.
    pub fn accepted(said: &str) -> Result<Self> {
        let words = said.split_once(' ').map(|(_, rest)| rest);
        let id = words.and_then(|rest| rest.split(':').next());
        let id = id.and_then(|digits| digits.parse().ok());
        let id = id.with_context(|| format!("not attached: {said}"))?;
        Ok(Self { id })
    }

    /// The hits of the probe that `trace unkprobe` says it has detached.
    pub fn detached(said: &str) -> Result<u64> {
        let hits = said.trim_end().strip_suffix(" hits");
        let hits = hits.and_then(|text| text.rsplit(' ').next());
        let hits = hits.with_context(|| format!("not detached: {said}"))?;
        hits.parse().with_context(|| format!("hits of `{said}`"))
    }

    /// Its number.
    pub fn id(self) -> u32 {
        self.id
    }

    /// Its hits in the table of `trace list`. None may have failed.
    pub fn hits_in(self, table: &str) -> Result<u64> {
        let (hits, missed) = self.hits_and_missed_in(table)?;
        ensure!(missed == 0, "failed runs of probe {}:\n{table}", self.id);
        Ok(hits)
    }

    /// The last two columns of its row.
    fn hits_and_missed_in(self, table: &str) -> Result<(u64, u64)> {
        let id = self.id.to_string();
        let mut rows = table.lines().map(|line| line.split_whitespace());
        let row = rows.find(|row| row.clone().next() == Some(&id));
        let row: Vec<&str> = row
            .with_context(|| format!("no probe {id} in\n{table}"))?
            .collect();
        let [.., hits, missed] = row[..] else {
            bail!("no hits of probe {id} in\n{table}");
        };
        let number = |cell: &str| {
            let digits = cell.replace(',', "");
            digits.parse().with_context(|| format!("hits `{cell}`"))
        };
        Ok((number(hits)?, number(missed)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attached_probes_are_found_in_the_list() {
        let said = "probe 12: kprobe vm1:0x40205e70 at 0x40205e70, program count\n";
        let probe = Probe::attached(said).unwrap();
        let table = "ID  KIND    SITE        PROGRAM  THEN  STATE   HITS  MISSED\n\
                     12  kprobe  vm1:0x4020  count    go    on     1,204       0\n\
                     13  kprobe  vm1:0x4024  count    go    on         1       2\n";
        assert_eq!(probe.hits_in(table).unwrap(), 1204);
        assert!(Probe { id: 13 }.hits_in(table).is_err());
        assert_eq!(Probe { id: 13 }.hits_and_missed_in(table).unwrap(), (1, 2));
        assert!(Probe { id: 1 }.hits_in(table).is_err());
        assert!(Probe::attached("no such VM: vm9.").is_err());
    }
}
