//! Costs by the tiny guest, which times batches of its own calls.

use super::{Page, Sample, Unit, Wanted};
use crate::remote::Remote;
use crate::tiny::{Subject, Tiny};
use crate::{Probe, Shell, Spec, TestMachine};
use anyhow::{Context, Result, ensure};
use xtask::machine::Start;

/// Instructions in one increment of the counter under `-icount`, and nanoseconds always: it counts at 62.5 MHz, and an
/// instruction takes a nanosecond of virtual time (`shift=0`).
const INCREMENT: f64 = 16.0;

/// The programs of each kind of probe, and the words that attach them.
const PROGRAMS: [(&str, &str); 3] = [("none", ""), ("count", "count"), ("args", "args")];

/// How many tracepoints the guest's `points` passes in a call (`hypervisor/src/cost.rs`).
const POINTS: u64 = 16;

/// What a row is about.
struct Kind {
    /// The id without the program.
    id: &'static str,
    /// What the guest repeats.
    what: &'static str,
    /// What is attached there.
    attach: Attach,
}

/// How something is attached.
enum Attach {
    /// A kprobe at the entry of the subject that is called, with options.
    Kprobe(&'static str),
    /// An hprobe on what serves our hypercalls.
    Hprobe,
    /// A return probe there.
    Hretprobe,
    /// The tracepoint of hypercalls.
    Tracepoint,
}

const KINDS: &[Kind] = &[
    Kind {
        id: "kprobe.simulated",
        what: "fn_nop",
        attach: Attach::Kprobe(""),
    },
    Kind {
        id: "kprobe.simulated-store",
        what: "fn_stp",
        attach: Attach::Kprobe(""),
    },
    Kind {
        id: "kprobe.stepped",
        what: "fn_dup",
        attach: Attach::Kprobe(""),
    },
    Kind {
        id: "kprobe.xn",
        what: "fn_ret",
        attach: Attach::Kprobe("--mode xn"),
    },
    Kind {
        id: "kprobe.hw",
        what: "fn_nop",
        attach: Attach::Kprobe("--mode hw"),
    },
    Kind {
        id: "kretprobe",
        what: "fn_nop",
        attach: Attach::Kprobe("--ret"),
    },
    Kind {
        id: "hprobe",
        what: "exit",
        attach: Attach::Hprobe,
    },
    Kind {
        id: "hretprobe",
        what: "exit",
        attach: Attach::Hretprobe,
    },
    Kind {
        id: "tracepoint.on",
        what: "points",
        attach: Attach::Tracepoint,
    },
];

impl Kind {
    fn id_with(&self, program: &str) -> String {
        format!("{}.{program}", self.id)
    }

    /// Hits in one repetition.
    fn hits(&self) -> u64 {
        match self.attach {
            Attach::Tracepoint => POINTS,
            _ => 1,
        }
    }
}

/// What a GDB tracepoint at a `NOP` collects, and what its row is called.
const COLLECTED: [(&str, Collected); 2] = [
    ("gdb-trace.nothing", Collected::Nothing),
    ("gdb-trace.registers", Collected::Registers),
];

/// What a GDB tracepoint collects.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Collected {
    /// Nothing: a frame is a mark.
    Nothing,
    /// `$regs`.
    Registers,
}

/// A machine that measures with the tiny guest on its only vCPU.
pub(super) struct Bench {
    machine: TestMachine,
    subjects: Vec<Subject>,
    shell: Shell,
    rounds: Rounds,
}

/// How often is measured. Each round has few enough hits for a ring, which is emptied between rounds: a hit whose event is
/// lost costs less.
#[derive(Clone, Copy)]
struct Rounds {
    count: u64,
    batches: u64,
    calls: u64,
    /// In how many turns a row and its reference are measured.
    turns: u64,
}

impl Rounds {
    /// Under `-icount`, a batch must be long for the counter's grain, and says all: instructions do not vary.
    const INSTRUCTIONS: Self = Self {
        count: 10,
        batches: 10,
        calls: 100,
        turns: 1,
    };
    /// A batch of one call shows the slow ones.
    const NS: Self = Self {
        count: 12,
        batches: 1000,
        calls: 1,
        turns: 6,
    };

    fn repetitions(self) -> u64 {
        self.count * self.batches * self.calls
    }

    /// As many hits, of which each repetition makes `hits`.
    fn divided(self, hits: u64) -> Self {
        match self.calls {
            1 => Self {
                batches: self.batches.div_ceil(hits),
                ..self
            },
            calls => Self {
                calls: calls.div_ceil(hits),
                ..self
            },
        }
    }
}

/// What is attached while the guest repeats.
enum Attached {
    Kprobe(Probe),
    Hprobe(Probe),
    Tracepoint,
}

impl Bench {
    fn boot(unit: Unit) -> Result<Self> {
        Self::boot_with(unit, "")
    }

    /// With more words for the hypervisor's command line.
    pub(super) fn boot_with(unit: Unit, words: &str) -> Result<Self> {
        let spec = Spec::hypervisor().append(&format!("bench {words}"));
        let (spec, rounds) = match unit {
            Unit::Instructions => (spec.icount(), Rounds::INSTRUCTIONS),
            Unit::Ns | Unit::PerSecond => (spec, Rounds::NS),
        };
        let machine = TestMachine::start(spec.tiny_guest(1, Start::Immediately))?;
        let subjects = {
            let mut console = machine.console(1)?;
            let mut tiny = Tiny::new(&mut console);
            tiny.wait_ready()?;
            tiny.subjects()?
        };
        Ok(Self {
            shell: machine.shell()?,
            machine,
            subjects,
            rounds,
        })
    }

    /// Time of one repetition, batch by batch.
    fn time(&self, what: &str) -> Result<Sample> {
        self.time_in(self.rounds, what)
    }

    fn time_in(&self, rounds: Rounds, what: &str) -> Result<Sample> {
        let Rounds {
            count,
            batches,
            calls,
            ..
        } = rounds;
        let mut console = self.machine.console(1)?;
        let mut times = Vec::new();
        for _ in 0..count {
            let reply =
                Tiny::new(&mut console).run(&format!("measure {what} {batches} {calls}"))?;
            for line in reply.lines.iter().filter(|line| !line.is_empty()) {
                let increments: f64 = line.parse().with_context(|| format!("time `{line}`"))?;
                times.push(increments * INCREMENT / calls as f64);
            }
        }
        ensure!(
            times.len() as u64 == count * batches,
            "{} times",
            times.len()
        );
        Sample::new(times).context("nothing was measured")
    }

    /// What one turn of a loop around an HVC costs more than around a NOP.
    fn hypercall(&self, what: &str) -> Result<Sample> {
        let without = self.time("nop")?.median();
        Ok(self.time(what)?.above(without))
    }

    fn floor(&self) -> Result<Sample> {
        self.hypercall("floor")
    }

    /// A cost and the median of the trap floor, in turns: how fast the machine is may change meanwhile.
    fn beside_floor(
        &mut self,
        cost: &dyn Fn(&mut Self) -> Result<Sample>,
    ) -> Result<(Sample, f64)> {
        let whole = self.rounds;
        self.rounds.count /= whole.turns;
        let turns: Result<Vec<_>> = (0..whole.turns)
            .map(|_| Ok((self.floor()?, cost(self)?)))
            .collect();
        self.rounds = whole;
        let (floors, costs) = turns?.into_iter().unzip();
        let of_all = |samples| Sample::all(samples).context("nothing was measured");
        Ok((of_all(costs)?, of_all(floors)?.median()))
    }

    pub(super) fn machine(&self) -> &TestMachine {
        &self.machine
    }

    /// What a hit of the cheapest kind costs with `program` attached.
    pub(super) fn simulated(&mut self, program: &str) -> Result<Sample> {
        self.hit(&KINDS[0], program)
    }

    /// What a hit costs with `program` attached.
    fn hit(&mut self, kind: &Kind, program: &str) -> Result<Sample> {
        let rounds = self.rounds.divided(kind.hits());
        let without = self.time_in(rounds, kind.what)?.median();
        let attached = self.attach(kind, program)?;
        let with = self.time_in(rounds, kind.what)?;
        if let Some(hits) = self.detach(attached)? {
            let expected = rounds.repetitions();
            ensure!(hits == expected, "{hits} hits of {expected}");
        }
        let said = self.shell.run("trace stat")?;
        ensure!(!said.contains("has lost"), "events were lost: {said}");
        let hits = kind.hits() as f64;
        Ok(with.above(without).map(|cost| cost / hits))
    }

    fn attach(&mut self, kind: &Kind, program: &str) -> Result<Attached> {
        /// Serves our hypercalls, those of `exit` among them.
        const SERVES: &str = "hypervisor::cost::hypercall";
        Ok(match kind.attach {
            Attach::Kprobe(options) => {
                let address = self.address(kind.what)?;
                let words = format!("{program} {options}");
                Attached::Kprobe(self.shell.kprobe(address, words.trim())?)
            }
            Attach::Hprobe => Attached::Hprobe(self.shell.hprobe(SERVES, program)?),
            Attach::Hretprobe => Attached::Hprobe(self.shell.hretprobe(SERVES, program)?),
            Attach::Tracepoint => {
                let words = match program {
                    "" => String::new(),
                    program => format!("--prog {program}"),
                };
                let said = self
                    .shell
                    .run(&format!("trace enable vmm:hypercall {words}"))?;
                ensure!(said.contains("is on"), "{said}");
                Attached::Tracepoint
            }
        })
    }

    /// Ends it, and returns how often it was hit, where that is counted.
    fn detach(&mut self, attached: Attached) -> Result<Option<u64>> {
        Ok(match attached {
            Attached::Kprobe(probe) => Some(self.shell.detach(probe)?),
            Attached::Hprobe(probe) => Some(self.shell.unhprobe(probe)?),
            Attached::Tracepoint => {
                self.shell.run("trace disable vmm:hypercall")?;
                None
            }
        })
    }

    /// What a hit of a GDB tracepoint costs that is at a `NOP`, as a `kprobe.simulated` is. The buffer is circular, so a hit
    /// also lets an older frame go.
    fn traced(&mut self, collected: Collected) -> Result<Sample> {
        let what = KINDS[0].what;
        let without = self.time(what)?.median();
        let point = format!("1:{:x}", self.address(what)?);
        let mut gdb = Remote::attach(self.machine.ports().vm(1))?;
        let mut packets = vec!["QTinit".to_owned(), format!("QTDP:{point}:E:0:0-")];
        packets.push(match collected {
            Collected::Nothing => format!("QTDP:-{point}:"),
            Collected::Registers => format!("QTDP:-{point}:R3ffffffff"),
        });
        packets.extend(["QTBuffer:circular:1", "QTDisconnected:1", "QTStart", "D"].map(Into::into));
        for packet in packets {
            let reply = gdb.ask(&packet)?;
            ensure!(reply == "OK", "{packet}: {reply}");
        }
        drop(gdb);
        let with = self.time(what)?;
        let mut gdb = Remote::attach(self.machine.ports().vm(1))?;
        let status = gdb.ask("qTStatus")?;
        let created = format!(";tcreated:{:x};", self.rounds.repetitions());
        ensure!(
            status.starts_with("T1;") && status.contains(&created),
            "{status}"
        );
        ensure!(
            gdb.ask("QTDisconnected:0")? == "OK" && gdb.ask("D")? == "OK",
            "the run ends"
        );
        Ok(with.above(without))
    }

    fn address(&self, subject: &str) -> Result<u64> {
        let found = self.subjects.iter().find(|other| other.name == subject);
        Ok(found
            .with_context(|| format!("no subject {subject}"))?
            .address)
    }
}

/// Instructions of what the tests bound.
pub struct Instructions {
    /// A hit of a kprobe without a program whose displaced instruction is a NOP: guest, trap and hypervisor.
    pub kprobe: f64,
    /// The same with the program `count`.
    pub counting: f64,
    /// A tracepoint that is off.
    pub tracepoint: f64,
    /// A hit of a GDB tracepoint that collects `$regs`, where the kprobe is.
    pub frame: f64,
}

/// Measures what the tests bound.
pub fn instructions() -> Result<Instructions> {
    let mut bench = Bench::boot(Unit::Instructions)?;
    Ok(Instructions {
        kprobe: bench.hit(&KINDS[0], "")?.median(),
        counting: bench.hit(&KINDS[0], "count")?.median(),
        tracepoint: tracepoint_off(&bench)?.median(),
        frame: bench.traced(Collected::Registers)?.median(),
    })
}

fn tracepoint_off(bench: &Bench) -> Result<Sample> {
    let without = bench.time("exit")?.median();
    let with = bench.time("points")?;
    Ok(with.above(without).map(|cost| cost / POINTS as f64))
}

fn view_switch(bench: &Bench) -> Result<Sample> {
    let without = bench.time("exit")?.median();
    // There and back.
    Ok(bench.time("views")?.above(without).map(|both| both / 2.0))
}

/// Measures what is wanted, by instructions and by time.
pub(super) fn measure(
    wanted: &Wanted<'_>,
    page: &mut Page,
    say: &mut dyn FnMut(&str),
) -> Result<()> {
    for unit in [Unit::Instructions, Unit::Ns] {
        measure_in(unit, wanted, page, say)?;
    }
    Ok(())
}

/// Measures a cost on a machine.
type Measure = fn(&Bench) -> Result<Sample>;

/// What is measured without anything attached.
const PLAIN: [(&str, Measure); 3] = [
    ("exit.nothing", |bench| bench.hypercall("exit")),
    ("view.switch", view_switch),
    ("tracepoint.off", tracepoint_off),
];

fn measure_in(
    unit: Unit,
    wanted: &Wanted<'_>,
    page: &mut Page,
    say: &mut dyn FnMut(&str),
) -> Result<()> {
    let with_programs =
        |kind: &'static Kind| PROGRAMS.map(|(name, program)| (kind, kind.id_with(name), program));
    let hits: Vec<_> = KINDS.iter().flat_map(with_programs).collect();
    let ids = hits.iter().map(|(_, id, _)| id.as_str());
    let ids = ids.chain(PLAIN.map(|(id, _)| id)).chain(["trap.floor"]);
    let ids = ids.chain(COLLECTED.map(|(id, _)| id));
    if !wanted.has_any(ids) {
        return Ok(());
    }
    let mut bench = Bench::boot(unit)?;
    say("trap.floor");
    page.add("trap.floor", unit, &bench.floor()?, None);
    for (id, cost) in PLAIN.iter().filter(|(id, _)| wanted.has(id)) {
        say(id);
        let (cost, reference) = bench.beside_floor(&|bench| cost(bench))?;
        page.add(id, unit, &cost, Some(reference));
    }
    for (id, collected) in COLLECTED.iter().filter(|(id, _)| wanted.has(id)) {
        say(id);
        // Beside what is to cost no less than a third: a kprobe that counts.
        let counting = bench.simulated("count")?.median();
        let cost = bench.traced(*collected)?;
        page.add(id, unit, &cost, Some(counting));
    }
    for (kind, id, program) in hits.iter().filter(|(_, id, _)| wanted.has(id)) {
        say(id);
        let measured = bench.beside_floor(&|bench| bench.hit(kind, program));
        let (cost, reference) = measured.with_context(|| id.clone())?;
        page.add(id, unit, &cost, Some(reference));
    }
    Ok(())
}
