//! The soak: a busy Debian guest on two vCPUs, and probes that come and go in any order for minutes.
//!
//! The guest counts the same functions by its own kprobes, on the very same instructions. In every round some functions
//! are *measured*: their probes are attached before the work begins and stay until it has ended, and both sides must
//! have counted the same. The probes of the others come and go while the guest works.

use crate::guest::{self, Text};
use crate::rig::{self, Rig, Way, agreed};
use anyhow::{Context, Result, ensure};
use e2e::{LONG, Linux, MOMENT, Probe, Random, Spec, TestMachine};
use std::collections::BTreeMap;
use std::time::Duration;
use xtask::guest::Release;
use xtask::machine::Start;

/// Functions that `load` calls all the time and a shell at its prompt does not.
const FUNCTIONS: [&str; 20] = [
    "kernel_clone",
    "wake_up_new_task",
    "do_exit",
    "exit_signals",
    "exit_mmap",
    "exit_files",
    "release_task",
    "begin_new_exec",
    "setup_new_exec",
    "setup_arg_pages",
    "dup_fd",
    "create_pipe_files",
    "free_pipe_info",
    "notify_change",
    "vfs_mkdir",
    "vfs_rmdir",
    "vfs_unlink",
    "vfs_rename",
    "vfs_symlink",
    "vfs_link",
];
/// How many of them are measured in a round.
const MEASURED: usize = 12;
const ROUNDS: usize = 8;
/// How often a probe comes or goes while the guest works in a round.
const CHANGES: usize = 40;

/// Runs it.
pub fn soak() -> Result<()> {
    rig::seeded(run)
}

fn run(random: Random) -> Result<()> {
    let spec = Spec::hypervisor().linux(Release::Stable, 2, Start::Immediately)?;
    let machine = TestMachine::start(spec)?;
    machine.wait_for_shell(1)?;
    let mut shell = machine.shell()?;
    let unprobed = shell.memory()?;
    let mut linux = Linux::new(machine.console(1)?);
    linux.quieten()?;
    let text = Text::find(&mut linux)?;
    let pristine = text.hash(&mut linux)?;
    guest::count(&mut linux, &FUNCTIONS)?;
    let counted = text.hash(&mut linux)?;
    ensure!(counted != pristine, "the guest cannot read its own BRKs");

    let mut gdb = machine.gdb(1)?;
    gdb.resume()?;
    let mut soak = Soak {
        rig: Rig {
            random,
            shell,
            gdb,
            linux,
        },
        calls: BTreeMap::new(),
    };
    for round in 1..=ROUNDS {
        soak.round(&text, &counted)
            .with_context(|| format!("round {round} of {ROUNDS}"))?;
    }
    let Soak { rig, calls } = soak;
    let Rig {
        mut shell,
        mut gdb,
        mut linux,
        ..
    } = rig;
    for function in FUNCTIONS {
        ensure!(
            calls.get(function).is_some_and(|&calls| calls > 0),
            "{function} was never counted: {calls:?}"
        );
    }
    let total: u64 = calls.values().sum();
    println!("both sides counted {total} calls");
    gdb.interrupt()?;
    gdb.detach()?;
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

struct Soak<'a> {
    rig: Rig<'a>,
    /// Calls of each function that both sides counted so far.
    calls: BTreeMap<&'static str, u64>,
}

impl Soak<'_> {
    fn round(&mut self, text: &Text, hash: &str) -> Result<()> {
        let mut functions = FUNCTIONS;
        self.rig.random.shuffle(&mut functions);
        let (measured, others) = functions.split_at(MEASURED);
        let mut probes = Vec::new();
        for function in measured {
            let way = self.rig.any_way();
            probes.push((*function, self.rig.attach(way, function)?));
        }
        let seen = text.hash(&mut self.rig.linux)?;
        ensure!(
            seen == hash,
            "the guest sees the probes: {seen}, not {hash}"
        );

        let before = self.rig.counts(&probes)?;
        self.rig.linux.run("load 10000 > /dev/null &")?;
        self.come_and_go(others)?;
        self.rig
            .linux
            .run_within("touch /tmp/load.stop; wait; rm /tmp/load.stop", LONG)?;
        let after = self.rig.counts(&probes)?;
        for (function, calls) in agreed(&before, &after)? {
            *self.calls.entry(function).or_default() += calls;
        }
        self.rig.random.shuffle(&mut probes);
        for (_, probe) in probes {
            let way = self.rig.any_way();
            self.rig.detach(way, probe)?;
        }
        Ok(())
    }

    /// While the guest works: probes on these functions, and breakpoints.
    fn come_and_go(&mut self, functions: &[&'static str]) -> Result<()> {
        let mut probes: Vec<Option<Probe>> = vec![None; functions.len()];
        for _ in 0..CHANGES {
            let index = self.rig.random.below(functions.len());
            let way = self.rig.any_way();
            match probes[index].take() {
                Some(probe) => self.rig.detach(way, probe).map(drop)?,
                None if self.rig.random.below(8) == 0 => self.hit_breakpoint(functions[index])?,
                None => probes[index] = Some(self.rig.attach(way, functions[index])?),
            }
            std::thread::sleep(Duration::from_millis(self.rig.random.below(200) as u64));
        }
        for probe in probes.into_iter().flatten() {
            self.rig.detach(Way::Shell, probe)?;
        }
        Ok(())
    }

    /// A breakpoint on a function that the guest calls all the time.
    fn hit_breakpoint(&mut self, function: &str) -> Result<()> {
        let said = self.rig.shell.run(&format!("gsym vm1:{function}"))?;
        let address = said.split(' ').next().unwrap_or_default().to_owned();
        self.rig.gdb.interrupt()?;
        self.rig.gdb.console(&format!("break *{address}"))?;
        let stop = self.rig.gdb.resume_until_stop(MOMENT)?;
        ensure!(
            stop.reason() == "breakpoint-hit",
            "a breakpoint on {function}: {stop:?}"
        );
        self.rig.gdb.console("delete")?;
        self.rig.gdb.resume()
    }
}
