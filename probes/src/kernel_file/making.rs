//! A file as it is made: step by step, as far as somebody reads.

use super::dwarf::{self, Plan, Unit};
use super::elf::{self, Section, Sections};
use super::frames::{self, ReadCode};
use super::parts::Parts;
use super::sink::Sink;
use super::table::Table;
use super::{Contents, MAX_LENGTH, NoFile};
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::mem;
use ebpf::btf::Btf;

/// What a section with contents is about, in the order of the file: what debuggers read first comes first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Content {
    BuildId,
    Symbols,
    SymbolNames,
    Frames,
    Shapes,
    Ranges,
    Strings,
    Info,
    Locations,
}

impl Content {
    const ALL: [Self; 9] = [
        Self::BuildId,
        Self::Symbols,
        Self::SymbolNames,
        Self::Frames,
        Self::Shapes,
        Self::Ranges,
        Self::Strings,
        Self::Info,
        Self::Locations,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::BuildId => ".note.gnu.build-id",
            Self::Symbols => ".symtab",
            Self::SymbolNames => ".strtab",
            Self::Frames => ".debug_frame",
            Self::Shapes => ".debug_abbrev",
            Self::Ranges => ".debug_rnglists",
            Self::Strings => ".debug_str",
            Self::Info => ".debug_info",
            Self::Locations => ".debug_loclists",
        }
    }
}

/// A file that is being made. What it is made of goes away when it is whole.
pub(super) struct Making {
    parts: Parts,
    table: Table,
    /// The BTF; empty where there is none.
    types: Vec<u8>,
    build_id: Option<Vec<u8>>,
    code: Option<Box<ReadCode>>,
    /// What is in `.debug_frame`.
    frames: Vec<u8>,
    plan: Option<Plan>,
    /// Contents that are to be written.
    rest: Vec<Content>,
    /// The bytes so far.
    pub(super) bytes: Vec<u8>,
    length: Option<usize>,
}

impl Making {
    /// Reads the symbols.
    pub(super) fn begin(contents: Contents<'_>) -> Result<Self, NoFile> {
        let parts = Parts::of(contents.symbols)?;
        let types = contents.types.unwrap_or_default();
        let btf = Btf::parse(&types).ok();
        let table = Table::read(contents.symbols, &parts, btf.as_ref())?;
        let has_types = btf.is_some();
        Ok(Self {
            parts,
            table,
            types: if has_types { types } else { Vec::new() },
            build_id: contents.build_id,
            code: contents.code,
            frames: Vec::new(),
            plan: None,
            rest: Vec::new(),
            bytes: Vec::new(),
            length: None,
        })
    }

    /// How long the file is: the second step.
    pub(super) fn length(&mut self) -> Result<usize, NoFile> {
        match self.length {
            Some(length) => Ok(length),
            None => self.lay_out(),
        }
    }

    fn lay_out(&mut self) -> Result<usize, NoFile> {
        if let Ok(btf) = Btf::parse(&self.types) {
            let functions = mem::take(&mut self.table.functions);
            let variables = mem::take(&mut self.table.variables);
            let plan = Plan::of(&btf, functions, variables, self.parts.code())?;
            self.plan = Some(plan);
        }
        if let Some(code) = self.code.take() {
            self.frames = frames::section(&self.table.symbols, &self.parts, &*code)?;
        }
        let mut sections = Sections::of(self.parts.iter());
        for content in Content::ALL {
            if let Some((header, size)) = self.section(content) {
                sections.add(content.name(), header, size);
                self.rest.push(content);
            }
        }
        // From the last on.
        self.rest.reverse();
        let length = sections.lay_out();
        if length > MAX_LENGTH {
            return Err(NoFile::TooLong);
        }
        self.bytes.try_reserve_exact(length)?;
        sections.write_front(&mut self.bytes);
        self.length = Some(length);
        Ok(length)
    }

    /// The header of a section, where the file has it, and its size.
    fn section(&self, content: Content) -> Option<(Section, usize)> {
        let plan = self.plan.as_ref();
        Some(match content {
            Content::BuildId => {
                let id = self.build_id.as_ref()?;
                (Section::notes(), elf::build_id_length(id))
            }
            Content::Symbols => {
                let count = self.table.symbols.len() + 1;
                (Section::symbols(self.table.locals()), elf::SYMBOL * count)
            }
            Content::SymbolNames => (Section::names(), self.table.names.len()),
            Content::Frames if self.frames.is_empty() => return None,
            Content::Frames => (Section::debug(), self.frames.len()),
            Content::Shapes => (Section::debug(), plan.map(|_| dwarf::shapes().len())?),
            Content::Ranges => (Section::debug(), plan?.ranges().len()),
            Content::Strings => {
                plan?;
                let btf = Btf::parse(&self.types).ok()?;
                (Section::debug(), btf.strings().len())
            }
            Content::Info => (Section::debug(), plan?.info),
            Content::Locations => (Section::debug(), plan?.locations),
        })
    }

    /// Makes the file at least as far as `end`, or whole.
    pub(super) fn reach(&mut self, end: usize) -> Result<(), NoFile> {
        self.length()?;
        while self.bytes.len() < end
            && let Some(content) = self.rest.pop()
        {
            self.write(content);
        }
        if self.rest.is_empty() {
            self.plan = None;
            self.types = Vec::new();
            self.table = Table::default();
        }
        Ok(())
    }

    fn write(&mut self, content: Content) {
        let out = &mut self.bytes;
        let start = out.len().next_multiple_of(elf::CONTENTS_ALIGN);
        out.resize(start, 0);
        match (content, &self.plan, &self.build_id) {
            (Content::BuildId, _, Some(id)) => elf::write_build_id(id, out),
            (Content::Symbols, ..) => elf::write_symbols(&self.table.symbols, out),
            (Content::SymbolNames, ..) => out.put(&self.table.names),
            (Content::Frames, ..) => out.put(&mem::take(&mut self.frames)),
            (_, Some(plan), _) => {
                if let Ok(btf) = Btf::parse(&self.types) {
                    write_debug(content, &btf, plan, out);
                }
            }
            // There is no such section.
            _ => {}
        }
    }
}

fn write_debug(content: Content, btf: &Btf<'_>, plan: &Plan, out: &mut Vec<u8>) {
    let unit = Unit::of(btf, plan);
    match content {
        Content::Shapes => out.put(&dwarf::shapes()),
        Content::Ranges => out.put(&plan.ranges()),
        Content::Strings => out.put(btf.strings()),
        Content::Info => unit.write_info(out),
        Content::Locations => unit.write_locations(out),
        // These need no types.
        Content::BuildId | Content::Symbols | Content::SymbolNames | Content::Frames => {}
    }
}
