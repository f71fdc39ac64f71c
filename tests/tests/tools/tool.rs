//! What is known of a tool, and the programs in its object.

use crate::guest::Shown;
use crate::output::Output;
use crate::rows::Counts;
use anyhow::{Context, Result};
use object::{Object, ObjectSection, ObjectSymbol, SymbolKind};
use std::fs;
use std::path::Path;

/// A tool, what happens while it is attached, and what the guest knows of that.
pub(crate) struct Tool {
    /// Its name in the package.
    pub(crate) name: &'static str,
    /// Options of `periscope link`, which the tool's user space would choose. `{NAME}` is the address of that symbol.
    pub(crate) options: &'static [&'static str],
    /// Programs whose section says something else than where they go, with where that is.
    pub(crate) attach: &'static [(&'static str, &'static str)],
    /// Programs for functions that this kernel does not have: the tool's user space leaves them out too.
    pub(crate) absent: &'static [&'static str],
    /// Probes of the guest's own, as `kprobe_events` takes them, beside those that count.
    pub(crate) probes: &'static [&'static str],
    /// Tracepoints of the guest's, `GROUP/NAME`.
    pub(crate) tracepoints: &'static [&'static str],
    /// Commands before anything is attached.
    pub(crate) prepare: &'static str,
    /// Commands whose effects are compared.
    pub(crate) workload: &'static str,
    /// Commands that print what the guest knows, before the workload and behind it.
    pub(crate) facts: &'static str,
    /// What the tool's programs put out.
    pub(crate) ours: fn(&mut Output<'_>) -> Result<Counts>,
    /// What the guest shows of the same.
    pub(crate) theirs: fn(&Shown) -> Counts,
    /// Which of these rows are about the workload: those with one of these texts. All, if there is none.
    pub(crate) about: &'static [&'static str],
    /// Rows that the workload leads to, whatever anybody shows.
    pub(crate) known: &'static [(&'static str, i64)],
    /// Whether hits are compared too.
    pub(crate) hits: Hits,
    /// What is compared with what, for the page.
    pub(crate) compared: &'static str,
}

impl Tool {
    /// One of which nothing is known.
    pub(crate) const NONE: Self = Self {
        name: "",
        options: &[],
        attach: &[],
        absent: &[],
        probes: &[],
        tracepoints: &[],
        prepare: "",
        workload: "",
        facts: ":",
        ours: |_| Ok(Counts::new()),
        theirs: |_| Counts::new(),
        about: &[],
        known: &[],
        hits: Hits::Compared,
        compared: "",
    };

    /// The kprobe and kretprobe programs in its object that can be attached, in the object's order.
    pub(crate) fn programs(&self, objects: &Path) -> Result<Vec<Program>> {
        let path = objects.join(format!("{}.bpf.o", self.name));
        let all = programs(&path)?.into_iter();
        let here = all.filter(|(name, _)| !self.absent.contains(&&**name));
        let placed = here.map(|(name, section)| {
            let mut moved = self.attach.iter().filter(|(program, _)| *program == name);
            let place = moved.next().map_or(&*section, |(_, place)| place);
            Program::new(&name, place)
        });
        placed.collect()
    }
}

/// Names and sections of the kprobe and kretprobe programs in an object.
pub(crate) fn programs(path: &Path) -> Result<Vec<(String, String)>> {
    let bytes = fs::read(path).with_context(|| path.display().to_string())?;
    let elf = object::File::parse(&*bytes).with_context(|| path.display().to_string())?;
    let mut programs = Vec::new();
    for section in elf.sections() {
        let place = section.name()?;
        if !matches!(place.split('/').next(), Some("kprobe" | "kretprobe")) {
            continue;
        }
        for symbol in elf.symbols() {
            let is_here = symbol.section_index() == Some(section.index());
            if is_here && symbol.kind() == SymbolKind::Text {
                programs.push((symbol.name()?.to_owned(), place.to_owned()));
            }
        }
    }
    Ok(programs)
}

/// What is known of how often programs run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Hits {
    /// As often as the guest's own probes.
    Compared,
    /// The kernel calls the functions at any moment, also between two readings.
    Background,
}

/// When a program runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Moment {
    Entry,
    Return,
}

/// A program and where it goes.
pub(crate) struct Program {
    pub(crate) name: String,
    pub(crate) moment: Moment,
    pub(crate) function: String,
}

impl Program {
    fn new(name: &str, section: &str) -> Result<Self> {
        let (kind, function) = section
            .split_once('/')
            .with_context(|| format!("{name} has no place: {section}"))?;
        Ok(Self {
            name: name.to_owned(),
            moment: match kind {
                "kprobe" => Moment::Entry,
                _ => Moment::Return,
            },
            function: function.to_owned(),
        })
    }

    /// As a section says it.
    pub(crate) fn place(&self) -> String {
        match self.moment {
            Moment::Entry => format!("kprobe/{}", self.function),
            Moment::Return => format!("kretprobe/{}", self.function),
        }
    }

    /// A probe of the guest's own at the same place, as `kprobe_events` takes it.
    pub(crate) fn probe(&self, name: &str) -> String {
        match self.moment {
            Moment::Entry => format!("p:{name} {}", self.function),
            Moment::Return => format!("r64:{name} {}", self.function),
        }
    }
}
