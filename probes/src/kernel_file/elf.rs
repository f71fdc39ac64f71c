//! The ELF side of the file (System V ABI, chapters 4 and 5; ELF for the Arm 64-bit Architecture).
//!
//! It is an executable file at its final addresses. The parts of the kernel have sections without contents
//! (`SHT_NOBITS`, as `objcopy --only-keep-debug` leaves them), so that a debugger takes names from the file and memory
//! from the target.

use super::parts::{Holds, Part};
use super::sink::{Length, Sink};
use alloc::vec::Vec;

const HEADER: usize = 64;
const SEGMENT: usize = 56;
const SECTION: usize = 64;
pub(super) const SYMBOL: usize = 24;

const MAGIC: [u8; 16] = *b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0";
const ET_EXEC: u16 = 2;
const EM_AARCH64: u16 = 183;
const PT_LOAD: u32 = 1;
const SHT_PROGBITS: u32 = 1;
const SHT_SYMTAB: u32 = 2;
const SHT_STRTAB: u32 = 3;
const SHT_NOTE: u32 = 7;
const SHT_NOBITS: u32 = 8;
const SHF_WRITE: u32 = 1;
const SHF_ALLOC: u32 = 2;
const SHF_EXECINSTR: u32 = 4;
const PF_X: u32 = 1;
const PF_W: u32 = 2;
const PF_R: u32 = 4;
/// Instructions are words.
const ALIGN: u64 = 4;
const NT_GNU_BUILD_ID: u32 = 3;
/// A symbol that is in no section.
pub(super) const SHN_ABS: u16 = 0xfff1;

/// Bindings and types of symbols (`STB_…`, `STT_…`).
pub(super) const LOCAL: u8 = 0;
pub(super) const GLOBAL: u8 = 1;
pub(super) const WEAK: u8 = 2;
pub(super) const NOTYPE: u8 = 0;
pub(super) const OBJECT: u8 = 1;
pub(super) const FUNC: u8 = 2;

impl Part {
    fn section_flags(&self) -> u32 {
        SHF_ALLOC
            | match self.holds {
                Holds::Code => SHF_EXECINSTR,
                Holds::Constants => 0,
                Holds::Variables => SHF_WRITE,
            }
    }

    fn segment_flags(&self) -> u32 {
        PF_R | match self.holds {
            Holds::Code => PF_X,
            Holds::Constants => 0,
            Holds::Variables => PF_W,
        }
    }
}

/// A symbol.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct FileSymbol {
    /// Where its name is in `.strtab`.
    pub(super) name: u32,
    pub(super) binding: u8,
    pub(super) kind: u8,
    /// The index of its section, or [`SHN_ABS`].
    pub(super) section: u16,
    pub(super) address: u64,
    pub(super) size: u64,
}

impl FileSymbol {
    /// Writes it as an `Elf64_Sym`.
    pub(super) fn write(&self, out: &mut impl Sink) {
        out.u32(self.name);
        out.byte(self.binding << 4 | self.kind);
        out.byte(0);
        out.u16(self.section);
        out.u64(self.address);
        out.u64(self.size);
    }
}

/// A section's header.
#[derive(Clone, Copy, Default)]
pub(super) struct Section {
    name: u32,
    kind: u32,
    flags: u32,
    address: u64,
    offset: u64,
    size: u64,
    link: u32,
    info: u32,
    align: u64,
    entry_size: u64,
}

impl Section {
    /// One of debugging information.
    pub(super) fn debug() -> Self {
        Self {
            kind: SHT_PROGBITS,
            align: 1,
            ..Self::default()
        }
    }

    /// One of names.
    pub(super) fn names() -> Self {
        Self {
            kind: SHT_STRTAB,
            align: 1,
            ..Self::default()
        }
    }

    /// One of notes.
    pub(super) fn notes() -> Self {
        Self {
            kind: SHT_NOTE,
            align: 4,
            ..Self::default()
        }
    }

    /// One of symbols, of which so many are local. Their names are in the section after it.
    pub(super) fn symbols(locals: usize) -> Self {
        Self {
            kind: SHT_SYMTAB,
            // One after the last local symbol; the first of all is none.
            info: locals as u32 + 1,
            align: 8,
            entry_size: SYMBOL as u64,
            ..Self::default()
        }
    }
}

/// Where contents begin: at multiples of this.
pub(super) const CONTENTS_ALIGN: usize = 8;

/// The sections of a file: those of the parts of the kernel, the names of sections, those with contents. The index of a part's
/// section is one more than that of the part.
pub(super) struct Sections {
    headers: Vec<Section>,
    segments: Vec<u8>,
    names: Vec<u8>,
    names_index: usize,
}

impl Sections {
    /// Sections for the parts of the kernel.
    pub(super) fn of<'a>(parts: impl Iterator<Item = &'a Part>) -> Self {
        let mut sections = Self {
            headers: Vec::from([Section::default()]),
            segments: Vec::new(),
            names: Vec::from([0]),
            names_index: 0,
        };
        for part in parts {
            write_segment(&mut sections.segments, part);
            let header = Section {
                kind: SHT_NOBITS,
                flags: part.section_flags(),
                address: part.range.start,
                size: part.range.end - part.range.start,
                align: ALIGN,
                ..Section::default()
            };
            sections.add(&part.name, header, header.size as usize);
        }
        sections.names_index = sections.headers.len();
        sections.add(".shstrtab", Section::names(), 0);
        sections
    }

    /// Adds one with contents of that size.
    pub(super) fn add(&mut self, name: &str, mut header: Section, size: usize) {
        header.name = self.names.len() as u32;
        header.size = size as u64;
        if header.kind == SHT_SYMTAB {
            header.link = self.headers.len() as u32 + 1;
        }
        self.names.text(name);
        self.headers.push(header);
    }

    /// Bytes before the first contents.
    fn front(&self) -> usize {
        HEADER + self.segments.len() + SECTION * self.headers.len() + self.names.len()
    }

    /// Says where the contents are: one after the other behind the front. Returns how long the file is.
    pub(super) fn lay_out(&mut self) -> usize {
        let mut end = self.front();
        let names = self.names.len();
        let first = &mut self.headers[self.names_index];
        first.size = names as u64;
        first.offset = (end - names) as u64;
        for header in &mut self.headers[self.names_index + 1..] {
            let start = end.next_multiple_of(CONTENTS_ALIGN);
            header.offset = start as u64;
            end = start.saturating_add(header.size as usize);
        }
        end
    }

    /// Writes what comes before the contents.
    pub(super) fn write_front(&self, out: &mut impl Sink) {
        let parts = &self.headers[1..self.names_index];
        out.put(&MAGIC);
        out.u16(ET_EXEC);
        out.u16(EM_AARCH64);
        out.u32(1);
        out.u64(parts.first().map_or(0, |part| part.address));
        out.u64(HEADER as u64);
        out.u64((HEADER + self.segments.len()) as u64);
        out.u32(0);
        out.u16(HEADER as u16);
        out.u16(SEGMENT as u16);
        out.u16(parts.len() as u16);
        out.u16(SECTION as u16);
        out.u16(self.headers.len() as u16);
        out.u16(self.names_index as u16);
        out.put(&self.segments);
        self.headers.iter().for_each(|section| section.write(out));
        out.put(&self.names);
    }
}

/// Writes symbols, local ones first.
pub(super) fn write_symbols(symbols: &[FileSymbol], out: &mut impl Sink) {
    let (locals, others) = (|binding| binding == LOCAL, |binding| binding != LOCAL);
    out.put(&[0; SYMBOL]);
    for is_wanted in [locals as fn(u8) -> bool, others] {
        let wanted = symbols.iter().filter(|symbol| is_wanted(symbol.binding));
        wanted.for_each(|symbol| symbol.write(out));
    }
}

/// Bytes of a note with such an ID.
pub(super) fn build_id_length(id: &[u8]) -> usize {
    let mut length = Length::default();
    write_build_id(id, &mut length);
    length.length()
}

/// Writes the note by which builds are told apart.
pub(super) fn write_build_id(id: &[u8], out: &mut impl Sink) {
    let name = b"GNU\0";
    out.u32(name.len() as u32);
    out.u32(id.len() as u32);
    out.u32(NT_GNU_BUILD_ID);
    out.put(name);
    out.put(id);
    let end = id.len().next_multiple_of(4);
    (id.len()..end).for_each(|_| out.byte(0));
}

impl Section {
    fn write(&self, out: &mut impl Sink) {
        out.u32(self.name);
        out.u32(self.kind);
        out.u64(self.flags.into());
        out.u64(self.address);
        out.u64(self.offset);
        out.u64(self.size);
        out.u32(self.link);
        out.u32(self.info);
        out.u64(self.align);
        out.u64(self.entry_size);
    }
}

fn write_segment(out: &mut impl Sink, part: &Part) {
    out.u32(PT_LOAD);
    out.u32(part.segment_flags());
    out.u64(0);
    out.u64(part.range.start);
    out.u64(part.range.start);
    out.u64(0);
    out.u64(part.range.end - part.range.start);
    out.u64(ALIGN);
}
