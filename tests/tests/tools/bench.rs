//! A machine on which tools are tried one after another.

use crate::guest::{Guest, Shown};
use crate::output::Output;
use crate::rows::{Counts, difference};
use crate::tool::{Hits, Program, Tool};
use anyhow::{Context, Result, ensure};
use e2e::remote::{Remote, Upload};
use e2e::{LONG, Linux, MOMENT, Probe, Shell, Spec, TestMachine, periscope};
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};
use xtask::guest::{self, Freshness, Release};
use xtask::machine::Start;
use xtask::report::Report;

/// Some tools have maps of tens of MiB.
const MAP_MEMORY: &str = "maps=96";
/// Gives the guest block devices with a queue of requests.
const MODULE: &str = "drivers/block/loop";
/// How long nothing may happen until what is read is believed to be all.
const SETTLE: Duration = Duration::from_millis(100);
/// A network, and a file system on a disk.
const SET_UP: &str = "ip link set lo up; dd if=/dev/zero of=/tmp/disk bs=1M count=8 2> /dev/null; \
                      losetup /dev/loop0 /tmp/disk; mke2fs /dev/loop0 > /dev/null; \
                      mkdir /mnt; mount -t ext4 /dev/loop0 /mnt";

pub(crate) struct Bench {
    machine: TestMachine,
    kernel: PathBuf,
    pub(crate) objects: PathBuf,
}

impl Bench {
    pub(crate) fn boot() -> Result<Self> {
        let report = Report::new();
        let linux = guest::linux(&report, Release::Stable, Freshness::Cached)?;
        let objects = guest::libbpf_tools(&report, Freshness::Cached)?;
        let (linux, module) = linux.with_module(&report, Release::Stable, MODULE)?;
        let kernel = linux.kernel.clone();
        let spec = Spec::hypervisor().linux_guest(linux, 2, Start::Immediately);
        let spec = spec.append(MAP_MEMORY);
        let machine = TestMachine::start(spec)?;
        machine.wait_for_shell(1)?;
        let mut linux = Linux::new(machine.console(1)?);
        linux.quieten()?;
        let said = linux.run_within(&format!("insmod /lib/{module}; {SET_UP}"), LONG)?;
        ensure!(said.is_empty(), "{said}");
        drop(linux);
        Ok(Self {
            machine,
            kernel,
            objects,
        })
    }

    /// Attaches a tool's programs and compares what they put out with what the guest shows.
    pub(crate) fn compare(&self, tool: &Tool) -> Result<()> {
        let mut linux = Linux::new(self.machine.console(1)?);
        let mut shell = self.machine.shell()?;
        let programs = tool.programs(&self.objects)?;
        ensure!(!programs.is_empty(), "no program of {} is known", tool.name);
        linux.run_within(tool.prepare, LONG)?;
        let linked = self.link(tool, &programs, &mut shell)?;
        self.upload(tool.name, &linked)?;
        let mut trial = Trial {
            tool,
            programs: &programs,
            shell,
            guest: Guest::new(&mut linux),
        };
        let result = trial.run();
        // The next tool finds the machine as this one did, whatever came of this one.
        let gone = trial.clean_up();
        result.and(gone)
    }

    /// The tool's object, linked as its user space would load it.
    fn link(&self, tool: &Tool, programs: &[Program], shell: &mut Shell) -> Result<PathBuf> {
        let object = self.objects.join(format!("{}.bpf.o", tool.name));
        let linked = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{}.lp", tool.name));
        let mut words: Vec<_> = ["link".as_ref(), object.as_os_str()]
            .map(OsStr::to_owned)
            .into();
        words.extend(["-o".into(), linked.clone().into_os_string()]);
        words.extend(["--kernel".into(), self.kernel.clone().into_os_string()]);
        for program in programs {
            words.extend(["--program".into(), program.name.clone().into()]);
        }
        for (program, place) in tool.attach {
            words.extend(["--attach".into(), format!("{program}={place}").into()]);
        }
        for option in tool.options {
            words.push(with_addresses(option, shell)?.into());
        }
        periscope(&words.iter().map(|word| &**word).collect::<Vec<_>>())?;
        Ok(linked)
    }

    fn upload(&self, name: &str, linked: &Path) -> Result<()> {
        let bytes = fs::read(linked).with_context(|| linked.display().to_string())?;
        let mut remote = Remote::attach(self.machine.ports().vm(1))?;
        let upload = remote.put(&format!("{name}.lp"), &bytes)?;
        let said = remote.monitor(&format!("trace load {name}"))?;
        ensure!(upload == Upload::Loaded, "{name} is refused: {said}");
        ensure!(remote.ask("D")? == "OK", "detaching");
        Ok(())
    }
}

/// The text with the address of SYMBOL in place of `{SYMBOL}`.
fn with_addresses(text: &str, shell: &mut Shell) -> Result<String> {
    let Some((before, rest)) = text.split_once('{') else {
        return Ok(text.to_owned());
    };
    let (symbol, after) = rest.split_once('}').context("an open brace")?;
    let said = shell.run(&format!("gsym {symbol}"))?;
    let mut words = said.split(|c: char| c.is_whitespace() || c == ',');
    let address = words.find(|word| word.starts_with("0x"));
    let address = address.with_context(|| format!("no {symbol}: {said}"))?;
    Ok(format!("{before}{address}{after}"))
}

/// A tool that is loaded.
struct Trial<'t, 'm> {
    tool: &'t Tool,
    programs: &'t [Program],
    shell: Shell,
    guest: Guest<'t, 'm>,
}

impl Trial<'_, '_> {
    fn run(&mut self) -> Result<()> {
        let tool = self.tool;
        let attached = self.attach()?;
        let counting = self.programs.iter().enumerate();
        let counting = counting.map(|(index, program)| program.probe(&format!("hits{index}")));
        // The trace itself knows a task's name only as of when it was last scheduled.
        let probes = tool
            .probes
            .iter()
            .map(|probe| format!("{probe} comm=$comm"));
        let probes: Vec<_> = counting.chain(probes).collect();
        self.guest.trace(&probes, tool.tracepoints)?;
        self.shell.run("trace reset")?;

        let (guest_before, ours_before) = self.read(&attached)?;
        self.guest.work(tool.workload)?;
        let (guest_after, ours_after) = self.read(&attached)?;
        let before = Shown {
            facts: guest_before.1,
            hits: self.named(&guest_before.0),
            ..Shown::default()
        };
        let after = Shown {
            facts: guest_after.1,
            hits: self.named(&guest_after.0),
            events: self.guest.events()?,
        };
        let ours = difference(&ours_before, &ours_after);
        let theirs = difference(&self.theirs(&before), &self.theirs(&after));
        self.judge(ours, theirs, &after)
    }

    /// Attaches all programs where their sections say.
    fn attach(&mut self) -> Result<Vec<Probe>> {
        let name = self.tool.name;
        let said = self.shell.run(&format!("trace attach {name} vm1"))?;
        let attached = self.programs.iter().map(|program| {
            let kind = program.place().replace('/', " vm1:");
            let wanted = format!(": {kind} at ");
            // The only program of an object goes by the object's name.
            let names = [
                format!("program {name}:{}", program.name),
                format!("program {name}"),
            ];
            let mut lines = said.lines().map(str::trim_end);
            let line = lines.find(|line| {
                line.contains(&wanted) && names.iter().any(|name| line.ends_with(name))
            });
            Probe::attached(line.with_context(|| format!("{} is not attached: {said}", names[0]))?)
        });
        attached.collect()
    }

    /// What both sides count. What the guest does to say its own is the same every time, and comes first.
    fn read(&mut self, attached: &[Probe]) -> Result<((Counts, String), Counts)> {
        let theirs = self.guest.read(self.tool.facts)?;
        // Behind its prompt the guest's shell still asks the terminal for something.
        let mut ours = self.ours(attached)?;
        let deadline = Instant::now() + MOMENT;
        loop {
            thread::sleep(SETTLE);
            let again = self.ours(attached)?;
            if again == ours || self.tool.hits == Hits::Background {
                return Ok((theirs, again));
            }
            ensure!(
                Instant::now() < deadline,
                "the guest does not come to rest: {:#?}",
                difference(&ours, &again)
            );
            ours = again;
        }
    }

    /// What the programs have put out, and how often they ran.
    fn ours(&mut self, attached: &[Probe]) -> Result<Counts> {
        let mut output = Output {
            shell: &mut self.shell,
            object: self.tool.name,
        };
        let mut ours = (self.tool.ours)(&mut output)?;
        let table = self.shell.run("trace list")?;
        for (program, probe) in self.programs.iter().zip(attached) {
            ours.insert(hits_of(program), probe.hits_in(&table)?.try_into()?);
        }
        Ok(ours)
    }

    /// The guest's counts by programs.
    fn named(&self, profile: &Counts) -> Counts {
        let programs = self.programs.iter().enumerate();
        let counts = programs.filter_map(|(index, program)| {
            let count = profile.get(&format!("hits{index}"))?;
            Some((program.name.clone(), *count))
        });
        counts.collect()
    }

    /// What the guest shows, with how often the programs should have run.
    fn theirs(&self, shown: &Shown) -> Counts {
        let mut theirs = (self.tool.theirs)(shown);
        let programs = self.programs.iter();
        theirs.extend(programs.map(|program| (hits_of(program), shown.hits(&program.name))));
        theirs
    }

    fn judge(&self, mut ours: Counts, mut theirs: Counts, shown: &Shown) -> Result<()> {
        let tool = self.tool;
        // Where the guest allows itself no probe, there is nothing to compare hits with.
        for program in self.programs {
            if tool.hits == Hits::Background {
                ours.remove(&hits_of(program));
                theirs.remove(&hits_of(program));
            } else if !shown.hits.contains_key(&program.name) {
                println!(
                    "{}: the guest has no probe of its own at {}",
                    tool.name,
                    program.place()
                );
                ours.remove(&hits_of(program));
            }
        }
        let is_about = |row: &str| {
            let texts = tool.about;
            texts.is_empty() || row.starts_with(HITS) || texts.iter().any(|text| row.contains(text))
        };
        ours.retain(|row, _| is_about(row));
        theirs.retain(|row, _| is_about(row));
        for (row, count) in &theirs {
            println!("{}: {count} × {row}", tool.name);
        }
        ensure!(
            ours == theirs,
            "the programs show\n{ours:#?}\nthe guest shows\n{theirs:#?}"
        );
        let rows = ours.keys().filter(|row| !row.starts_with(HITS)).count();
        ensure!(rows > 0, "nothing is put out: {ours:#?}");
        for (row, count) in tool.known {
            let shown = ours.get(*row);
            ensure!(shown == Some(count), "not {count} × {row}, but {ours:#?}");
        }
        Ok(())
    }

    fn clean_up(&mut self) -> Result<()> {
        let name = self.tool.name;
        let untraced = self.guest.untrace();
        self.shell.run(&format!("trace detach {name}"))?;
        let gone = self.shell.run(&format!("trace unload {name}"))?;
        ensure!(gone.contains("is gone"), "{gone}");
        untraced
    }
}

/// How the rows that count a program's runs begin.
const HITS: &str = "hits of ";

fn hits_of(program: &Program) -> String {
    format!("{HITS}{} at {}", program.name, program.place())
}
