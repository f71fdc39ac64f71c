//! The storm: 200 probes on the functions that a fork/exec load calls most, a million hits, and everyone at once in the
//! same guest: our probes that come and go from GDB, the guest's own kprobes on the very same instructions, its function
//! tracer that patches some of them, and a process that single-steps another.
//!
//! The probes that stay must count what the guest's kprobes count, and none may miss. So that both counts can be read at
//! one instant, functions that the reading itself calls are left out.

use crate::guest::{self, TRACING, Text};
use crate::rig::{self, Rig, Way, agreed};
use anyhow::{Context, Result, ensure};
use e2e::{LONG, Linux, Probe, Random, Spec, TestMachine};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use xtask::build::Program;
use xtask::guest::Release;
use xtask::machine::Start;

/// Probes in all.
const PROBES: usize = 200;
/// How many of them come and go.
const FLEETING: usize = 40;
/// How many of them GDB attaches and detaches at one stop, at most.
const CHANGES: usize = 6;
/// Hits of our probes in all.
const HITS: u64 = 1_000_000;
/// How long each part of the storm may take: two cores of their own need less than two minutes for the longest.
const LIMIT: Duration = Duration::from_secs(600);
/// Functions that the guest's function tracer counts from beginning to end, by their calls.
const TRACED: [&str; 3] = ["vfs_mkdir", "vfs_rmdir", "vfs_unlink"];
/// How many of the probed functions the function tracer patches now and then.
const FLICKERING: usize = 20;
/// How many functions the guest counts to find the hottest.
const CANDIDATES: usize = 300;
/// Names of functions that a fork/exec load calls. To trace all 50,000 functions takes an emulator too long.
const GLOBS: &str = "copy_* dup_* do_* vfs_* mas_* d_* free_* shmem_* *vma* *folio* *page* *pte* \
    *exec* *exit* *task* *fork* *pid* *mm* *dentry* *inode* *signal* *cred* *files* *elf*";
/// What traces the functions of [`TRACED`], and those that flicker.
const COUNTING: &str = "/sys/kernel/tracing/instances/counting";
const FLICKER: &str = "/sys/kernel/tracing/instances/flicker";
/// Sessions of one run of `single-step`.
const SESSIONS: u32 = 3;

/// Runs it.
pub fn storm() -> Result<()> {
    rig::seeded(run)
}

fn run(random: Random) -> Result<()> {
    let programs = [Program::SingleStep];
    let spec = Spec::hypervisor().linux_with(&programs, Release::Stable, 2, Start::Immediately)?;
    let machine = TestMachine::start(spec)?;
    machine.wait_for_shell(1)?;
    let mut shell = machine.shell()?;
    let unprobed = shell.memory()?;
    let mut linux = Linux::new(machine.console(1)?);
    linux.quieten()?;
    let text = Text::find(&mut linux)?;
    let pristine = text.hash(&mut linux)?;
    let functions = count_the_hottest(&mut linux)?;
    let mut gdb = machine.gdb(1)?;
    gdb.resume()?;
    let mut storm = Storm {
        rig: Rig {
            random,
            shell,
            gdb,
            linux,
        },
        fleeting: BTreeMap::new(),
        gone: BTreeMap::new(),
        flickers: false,
    };
    storm.rage(&functions)?;

    let Rig {
        mut shell,
        mut gdb,
        mut linux,
        ..
    } = storm.rig;
    gdb.interrupt()?;
    gdb.detach()?;
    for instance in [COUNTING, FLICKER] {
        untrace(&mut linux, instance)?;
    }
    guest::stop_counting(&mut linux)?;
    let last = text.hash(&mut linux)?;
    ensure!(last == pristine, "the guest's text: {last}, not {pristine}");
    let left = shell.memory()?;
    ensure!(
        left == unprobed,
        "sites, shadow and table pages: {left:?}, before probes {unprobed:?}"
    );
    guest::expect_clean_log(&mut linux)
}

/// Has the guest count the functions that the load calls most, and returns their names: first those that are traced.
/// Functions that run while the counts are read are left out.
fn count_the_hottest(linux: &mut Linux<'_>) -> Result<Vec<String>> {
    let hot = hottest(linux)?;
    let hot = hot.lines().filter(|name| !TRACED.contains(name));
    let candidates: Vec<&str> = TRACED.into_iter().chain(hot).collect();
    // The first reading is not like the others: it faults pages in.
    let counted = guest::count_possible(linux, &candidates)?;
    let idle = guest::counts(linux)?;
    let still_idle = guest::counts(linux)?;
    let is_quiet =
        |name: &&str| idle.contains_key(*name) && idle.get(*name) == still_idle.get(*name);
    let functions: Vec<&str> = candidates
        .into_iter()
        .filter(is_quiet)
        .take(PROBES)
        .collect();
    ensure!(
        functions.len() == PROBES,
        "only {} of {} functions can be measured",
        functions.len(),
        counted.len()
    );
    let others: Vec<&str> = counted
        .keys()
        .map(String::as_str)
        .filter(|name| !functions.contains(name))
        .collect();
    guest::stop_counting_some(linux, &others)?;
    Ok(functions.into_iter().map(str::to_owned).collect())
}

/// Names of the functions that the load calls most, a line each, as the function tracer has seen them.
fn hottest(linux: &mut Linux<'_>) -> Result<String> {
    let traced = format!(
        "cd {TRACING}; echo 512 > buffer_size_kb; set -f; for glob in {GLOBS}; do \
         echo \"$glob\" >> set_ftrace_filter; done; set +f; echo function > current_tracer; \
         load 3 > /dev/null; echo 0 > tracing_on"
    );
    linux.run_within(&traced, LIMIT)?;
    // Names with a dot are parts of functions, which no kprobe can be called after.
    let counted = format!(
        "sed -n 's/.*: \\([a-zA-Z0-9_]*\\) <-.*/\\1/p' trace | sort | uniq -c | sort -rn \
         | head -n {CANDIDATES} | while read n f; do echo $f; done"
    );
    let names = linux.run_within(&counted, LIMIT)?;
    linux.run(
        "echo nop > current_tracer; echo > set_ftrace_filter; echo > trace; echo 1 > tracing_on; cd /",
    )?;
    Ok(names)
}

/// Has the guest trace functions with a function tracer of its own, apart from other events.
fn trace(linux: &mut Linux<'_>, instance: &str, functions: &[&str]) -> Result<()> {
    let functions = functions.join(" ");
    let said = linux.run(&format!(
        "mkdir {instance}; for f in {functions}; do echo $f >> {instance}/set_ftrace_filter; done; \
         echo function > {instance}/current_tracer"
    ))?;
    ensure!(said.is_empty(), "no function tracer: {said}");
    Ok(())
}

fn untrace(linux: &mut Linux<'_>, instance: &str) -> Result<()> {
    let said = linux.run(&format!(
        "echo nop > {instance}/current_tracer; echo > {instance}/set_ftrace_filter; rmdir {instance}"
    ))?;
    ensure!(said.is_empty(), "the function tracer stays: {said}");
    Ok(())
}

struct Storm<'a, 'f> {
    rig: Rig<'a>,
    /// Probes that are there for a while.
    fleeting: BTreeMap<&'f str, Probe>,
    /// What those that are gone have counted.
    gone: BTreeMap<&'f str, u64>,
    /// Whether the function tracer patches [`FLICKERING`] functions just now.
    flickers: bool,
}

impl<'f> Storm<'_, 'f> {
    fn rage(&mut self, functions: &'f [String]) -> Result<()> {
        let mut functions: Vec<&str> = functions.iter().map(String::as_str).collect();
        self.rig.random.shuffle(&mut functions[TRACED.len()..]);
        let (lasting, fleeting) = functions.split_at(PROBES - FLEETING);
        trace(
            &mut self.rig.linux,
            FLICKER,
            &functions[PROBES - FLICKERING..],
        )?;
        self.flickers = true;
        trace(&mut self.rig.linux, COUNTING, &TRACED)?;
        let probes = self.attach_all(lasting)?;
        let before = self.rig.counts(&probes)?;
        self.rig.linux.run(&format!(
            "rm -f /tmp/load.stop; load 10000 > /dev/null & \
             while [ ! -e /tmp/load.stop ]; do single-step {SESSIONS}; done > /tmp/steps 2>&1 &"
        ))?;
        let hits = self.come_and_go(fleeting, &probes)?;
        self.rig
            .linux
            .run_within("touch /tmp/load.stop; wait; rm /tmp/load.stop", LIMIT)?;
        let after = self.rig.counts(&probes)?;
        let calls = agreed(&before, &after)?;
        println!("{hits} hits; the busiest:");
        self.report(&calls);
        self.check_fleeting()?;
        self.check_traced(&calls)?;
        self.check_steps()?;
        for (_, probe) in probes {
            self.rig.detach(Way::Shell, probe)?;
        }
        Ok(())
    }

    /// Attaches to these functions, from GDB, at one stop.
    fn attach_all(&mut self, functions: &[&'f str]) -> Result<Vec<(&'f str, Probe)>> {
        self.rig.gdb.interrupt()?;
        let probes: Result<Vec<_>> = functions
            .iter()
            .map(|function| Ok((*function, self.monitor_attach(function)?)))
            .collect();
        self.rig.gdb.resume()?;
        probes
    }

    fn monitor_attach(&mut self, function: &str) -> Result<Probe> {
        let command = format!("monitor trace kprobe vm1:{function} count");
        Probe::accepted(&self.rig.gdb.console(&command)?)
    }

    /// Lets probes come and go from GDB, and the function tracer as well, until there were enough hits. Returns how many.
    fn come_and_go(&mut self, functions: &[&'f str], lasting: &[(&'f str, Probe)]) -> Result<u64> {
        let begin = Instant::now();
        loop {
            for _ in 0..4 {
                self.change(functions)?;
                let pause = self.rig.random.below(300) as u64;
                std::thread::sleep(Duration::from_millis(pause));
            }
            self.flicker()?;
            let hits = self.hits(lasting)?;
            if hits >= HITS {
                break;
            }
            ensure!(
                begin.elapsed() < LIMIT,
                "{hits} hits in {} s, not {HITS}",
                LIMIT.as_secs()
            );
        }
        let left: Vec<_> = std::mem::take(&mut self.fleeting).into_iter().collect();
        for (function, probe) in left {
            let hits = self.rig.detach(Way::Monitor, probe)?;
            *self.gone.entry(function).or_default() += hits;
        }
        self.hits(lasting)
    }

    /// At one stop of GDB some probes come and some go.
    fn change(&mut self, functions: &[&'f str]) -> Result<()> {
        self.rig.gdb.interrupt()?;
        for _ in 0..=self.rig.random.below(CHANGES) {
            let function = functions[self.rig.random.below(functions.len())];
            match self.fleeting.remove(function) {
                None => {
                    let probe = self.monitor_attach(function)?;
                    self.fleeting.insert(function, probe);
                }
                Some(probe) => {
                    let command = format!("monitor trace unkprobe vm1:{}", probe.id());
                    let said = self.rig.gdb.console(&command)?;
                    *self.gone.entry(function).or_default() += Probe::detached(&said)?;
                }
            }
        }
        self.rig.gdb.resume()
    }

    /// The guest's function tracer patches instructions next to probes, or takes its patches back.
    fn flicker(&mut self) -> Result<()> {
        self.flickers = !self.flickers;
        let tracer = if self.flickers { "function" } else { "nop" };
        let command = format!("echo {tracer} > {FLICKER}/current_tracer");
        let said = self.rig.linux.run_within(&command, LONG)?;
        ensure!(said.is_empty(), "{command}: {said}");
        Ok(())
    }

    /// Hits of all probes so far.
    fn hits(&mut self, lasting: &[(&'f str, Probe)]) -> Result<u64> {
        let table = self.rig.shell.run("trace list")?;
        let gone: u64 = self.gone.values().sum();
        let lasting = lasting.iter().map(|(_, probe)| probe);
        let there = lasting.chain(self.fleeting.values());
        there
            .map(|probe| probe.hits_in(&table))
            .sum::<Result<u64>>()
            .map(|hits| hits + gone)
    }

    fn report(&self, calls: &[(&str, u64)]) {
        let mut calls = calls.to_vec();
        calls.sort_unstable_by_key(|(_, count)| std::cmp::Reverse(*count));
        for (function, count) in calls.iter().take(5) {
            println!("{count:>9} {function}");
        }
    }

    /// Those that came and went cannot have counted more than there was.
    fn check_fleeting(&mut self) -> Result<()> {
        let theirs = guest::counts(&mut self.rig.linux)?;
        let counted: u64 = self.gone.values().sum();
        ensure!(counted > 0, "probes that came and went counted nothing");
        for (function, hits) in &self.gone {
            let theirs = theirs.get(*function).copied().unwrap_or_default();
            ensure!(
                *hits <= theirs,
                "{function}: we counted {hits} now and then, the guest {theirs} in all"
            );
        }
        Ok(())
    }

    /// The function tracer has seen every call that the kprobes have.
    fn check_traced(&mut self, calls: &[(&str, u64)]) -> Result<()> {
        for function in TRACED {
            let called = calls.iter().find(|(name, _)| *name == function);
            let called = called
                .with_context(|| format!("{function} was not counted"))?
                .1;
            let said = self
                .rig
                .linux
                .run_within(&format!("grep -c ': {function} <-' {COUNTING}/trace"), LONG)?;
            let traced: u64 = said.trim().parse().with_context(|| said.clone())?;
            ensure!(
                traced == called && called > 0,
                "{function}: {called} calls, the guest traced {traced}"
            );
        }
        Ok(())
    }

    /// Every session of the single-stepping process went well.
    fn check_steps(&mut self) -> Result<()> {
        let said = self.rig.linux.run_within("cat /tmp/steps", LONG)?;
        let expected = format!("single-step: {SESSIONS} sessions, ");
        let mut steps = 0;
        for line in said.lines() {
            let counted = line.strip_prefix(&expected);
            let counted = counted.and_then(|text| text.strip_suffix(" steps"));
            steps += counted
                .and_then(|text| text.parse::<u64>().ok())
                .with_context(|| format!("single-stepping went wrong:\n{said}"))?;
        }
        ensure!(steps > 0, "nobody single-stepped");
        println!("{steps} single steps of the guest's");
        Ok(())
    }
}
