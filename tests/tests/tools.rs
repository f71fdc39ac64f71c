//! Tools of the wild: every kprobe program of Debian's `libbpf-tools`, as it is in the package, linked against a stock
//! kernel, verified, attached, and counting what the guest's own probes count.

use anyhow::{Context, Result, ensure};
use e2e::{LONG, Linux, Probe, Shell, Spec, TestMachine, cases, named};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use xtask::guest::{self, Freshness, Release};
use xtask::machine::Start;
use xtask::process;
use xtask::report::Report;

const EVENTS: &str = "/sys/kernel/tracing/kprobe_events";
const SWITCH: &str = "/sys/kernel/tracing/events/kprobes/enable";
const PROFILE: &str = "/sys/kernel/tracing/kprobe_profile";
/// Tools with programs that attach by themselves, at least. Others choose places as they start, or run only in a kernel.
const TOOLS: usize = 15;
/// Entries of a map whose size the tool decides.
const ENTRIES: u32 = 1024;
/// Files, pipes, processes and connections.
const WORKLOAD: &str = "for i in 1 2 3; do dd if=/dev/zero of=/tmp/f bs=4096 count=16 2> /dev/null; \
                        cat /tmp/f | wc > /dev/null; mv /tmp/f /tmp/g; rm /tmp/g; sync; done; \
                        ip link set lo up; (echo here | nc -l -p 5000 > /dev/null &); sleep 1; \
                        echo there | nc 127.0.0.1 5000 > /dev/null";

fn main() -> ExitCode {
    cases(vec![named("tools_of_the_wild_count", count)])
}

fn count() -> Result<()> {
    let report = Report::new();
    let linux = guest::linux(&report, Release::Stable, Freshness::Cached)?;
    let objects = guest::libbpf_tools(&report, Freshness::Cached)?;
    let kernel = linux.kernel.clone();
    let machine = TestMachine::start(Spec::hypervisor().linux_guest(linux, 2, Start::Immediately))?;
    machine.wait_for_shell(1)?;
    let mut linux = Linux::new(machine.console(1)?);
    linux.quieten()?;
    let mut bench = Bench {
        machine: &machine,
        shell: machine.shell()?,
        linux,
        kernel,
    };
    let mut tools = 0;
    let mut wrong = Vec::new();
    for object in objects_in(&objects)? {
        let name = stem(&object);
        let result = bench.try_tool(&name, &object)?;
        if !result.counts.is_empty() {
            tools += 1;
        }
        wrong.extend(
            result
                .counts
                .iter()
                .filter(|count| !count.agrees())
                .map(Count::describe),
        );
        println!("{name}: {}", result.describe());
    }
    ensure!(
        wrong.is_empty(),
        "other counts than the guest's:\n{}",
        wrong.join("\n")
    );
    println!("{tools} tools count what the guest counts");
    ensure!(tools >= TOOLS, "only {tools} tools are attached");
    Ok(())
}

fn objects_in(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(directory)?.collect::<Result<Vec<_>, _>>()?;
    let mut paths: Vec<_> = entries.iter().map(fs::DirEntry::path).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "o"));
    paths.sort();
    Ok(paths)
}

fn stem(object: &Path) -> String {
    let name = object.file_name().unwrap_or_default().to_string_lossy();
    name.trim_end_matches(".bpf.o").to_owned()
}

struct Bench<'m> {
    machine: &'m TestMachine,
    shell: Shell,
    linux: Linux<'m>,
    kernel: PathBuf,
}

/// What became of a tool.
#[derive(Default)]
struct Outcome {
    counts: Vec<Count>,
    refusals: Vec<String>,
}

impl Outcome {
    fn refused(reason: &str) -> Self {
        Self {
            refusals: vec![reason.to_owned()],
            ..Self::default()
        }
    }

    fn describe(&self) -> String {
        let counts = self.counts.iter().map(Count::describe);
        let all: Vec<String> = counts.chain(self.refusals.iter().cloned()).collect();
        all.join("; ")
    }
}

/// A program that is attached.
struct Count {
    program: String,
    place: String,
    probe: Probe,
    ours: u64,
    /// Of the guest's own probe at the same place, where it lets itself be probed.
    theirs: Option<u64>,
}

impl Count {
    fn agrees(&self) -> bool {
        self.theirs.is_none_or(|theirs| theirs == self.ours)
    }

    fn describe(&self) -> String {
        let Self {
            program,
            place,
            ours,
            ..
        } = self;
        match self.theirs {
            Some(theirs) => format!("{program} at {place}: {ours} hits, {theirs} by the guest"),
            None => format!("{program} at {place}: {ours} hits"),
        }
    }
}

impl Bench<'_> {
    fn try_tool(&mut self, name: &str, object: &Path) -> Result<Outcome> {
        let linked = match self.link(object)? {
            Ok(linked) => linked,
            Err(reason) => return Ok(Outcome::refused(&reason)),
        };
        let mut gdb = self.machine.gdb(1)?;
        // What is refused is said below.
        let _ = gdb.console_within(&format!("remote put {} {name}.lp", linked.display()), LONG);
        gdb.detach()?;
        let loaded = self.shell.run(&format!("trace load {name}"))?;
        let prefix = format!("{name}:");
        let programs: Vec<_> = loaded
            .lines()
            .filter_map(|line| line.strip_prefix(&prefix)?.split_once(": "))
            .map(|(program, _)| program.to_owned())
            .collect();
        if programs.is_empty() || loaded.starts_with(&format!("{name}: ")) {
            return Ok(Outcome::refused(loaded.trim()));
        }
        let mut outcome = Outcome::default();
        for program in &programs {
            let said = self
                .shell
                .run(&format!("trace attach {name}:{program} vm1"))?;
            let place = said
                .split_whitespace()
                .find_map(|word| word.strip_prefix("vm1:"));
            match (Probe::attached(&said), place) {
                (Ok(probe), Some(place)) => outcome.counts.push(Count {
                    program: program.clone(),
                    place: format!(
                        "{}{place}",
                        if said.contains("kretprobe") {
                            "r:"
                        } else {
                            "p:"
                        }
                    ),
                    probe,
                    ours: 0,
                    theirs: None,
                }),
                _ => outcome
                    .refusals
                    .push(said.lines().next().unwrap_or_default().to_owned()),
            }
        }
        self.compare(&mut outcome.counts)?;
        if !outcome.counts.is_empty() {
            self.shell.run(&format!("trace detach {name}"))?;
        }
        let gone = self.shell.run(&format!("trace unload {name}"))?;
        ensure!(gone.contains("is gone"), "{gone}");
        Ok(outcome)
    }

    /// The guest counts the same by probes of its own.
    fn compare(&mut self, counts: &mut [Count]) -> Result<()> {
        if counts.is_empty() {
            return Ok(());
        }
        for (index, count) in counts.iter().enumerate() {
            let (kind, function) = count.place.split_at(2);
            self.linux
                .run(&format!("echo {kind}own{index} {function} >> {EVENTS}"))?;
        }
        self.linux.run(&format!("echo 1 > {SWITCH}"))?;
        let before = self.read(counts)?;
        self.linux.run_within(WORKLOAD, LONG)?;
        let after = self.read(counts)?;
        for (index, count) in counts.iter_mut().enumerate() {
            let ((ours, theirs), (ours_after, theirs_after)) = (before[index], after[index]);
            count.ours = ours_after - ours;
            count.theirs = theirs
                .zip(theirs_after)
                .map(|(before, after)| after - before);
        }
        self.linux
            .run(&format!("echo 0 > {SWITCH}; echo > {EVENTS}"))?;
        Ok(())
    }

    /// Ours and the guest's. What the guest does to say its own is the same every time.
    fn read(&mut self, counts: &[Count]) -> Result<Vec<(u64, Option<u64>)>> {
        let profile = self.linux.run(&format!("cat {PROFILE}"))?;
        let own = |index: usize| {
            let name = format!("own{index}");
            let rows = profile
                .lines()
                .map(|line| line.split_whitespace().collect::<Vec<_>>());
            let mut rows = rows.filter(|row| row.first() == Some(&&*name));
            let row = rows.next()?;
            row[1..].iter().map(|word| word.parse::<u64>().ok()).sum()
        };
        let mut all = Vec::new();
        for (index, count) in counts.iter().enumerate() {
            all.push((self.shell.hits(count.probe)?, own(index)));
        }
        Ok(all)
    }

    /// The linked program, or why there is none.
    fn link(&self, object: &Path) -> Result<Result<PathBuf, String>> {
        let output = Path::new(env!("CARGO_TARGET_TMPDIR")).join("tool.lp");
        let mut sizes: Vec<String> = Vec::new();
        loop {
            let mut periscope: Command = process::cargo();
            periscope.args(["run", "--quiet", "--package", "periscope", "--", "link"]);
            periscope
                .arg(object)
                .arg("-o")
                .arg(&output)
                .arg("--kernel")
                .arg(&self.kernel);
            for map in &sizes {
                periscope.args(["--map", &format!("{map}={ENTRIES}")]);
            }
            let said = periscope.output().context("cargo should run")?;
            if said.status.success() {
                return Ok(Ok(output));
            }
            let error = String::from_utf8_lossy(&said.stderr).into_owned();
            let map = error
                .split_once(" as --map ")
                .and_then(|(_, rest)| rest.split_once('='));
            match map {
                Some((map, _)) => sizes.push(map.to_owned()),
                None => {
                    let reason = error
                        .split_once(".bpf.o: ")
                        .map_or(&*error, |(_, reason)| reason);
                    return Ok(Err(reason.trim().replace('\n', " ")));
                }
            }
        }
    }
}
