//! The object as the linker sees it: sections with their relocations, symbols. All that has been
//! read here lies inside its section.

use anyhow::{Result, bail, ensure};
use ebpf::insn::Insn;
use object::elf::EM_BPF;
use object::read::elf::ElfFile64;
use object::{
    Endianness, Object, ObjectSection, ObjectSymbol, RelocationTarget, SectionKind, SymbolKind,
};

/// What a section is to the linker.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Role {
    /// Functions that programs call.
    Text,
    /// Programs.
    Programs,
    /// Global data that programs may write.
    Data,
    /// Global data that nobody may write.
    ReadOnly,
    /// Global data that begins as zeros.
    Zeros,
    /// Map definitions in the object's types.
    BtfMaps,
    /// Map definitions as structures.
    LegacyMaps,
    /// Everything else.
    Other,
}

impl Role {
    fn of(name: &str, kind: SectionKind, size: u64) -> Self {
        let is = |base: &str| {
            name.strip_prefix(base)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        match name {
            _ if is(".text") => Self::Text,
            _ if is(".data") => Self::Data,
            _ if is(".rodata") => Self::ReadOnly,
            _ if is(".bss") => Self::Zeros,
            ".maps" => Self::BtfMaps,
            "maps" => Self::LegacyMaps,
            _ if kind == SectionKind::Text && size > 0 => Self::Programs,
            _ => Self::Other,
        }
    }

    /// Whether it holds global data.
    pub(super) fn is_data(self) -> bool {
        matches!(self, Self::Data | Self::ReadOnly | Self::Zeros)
    }

    /// Whether it holds instructions.
    pub(super) fn is_code(self) -> bool {
        matches!(self, Self::Text | Self::Programs)
    }
}

/// A place that refers to a symbol.
#[derive(Clone, Copy, Debug)]
pub(super) struct Relocation {
    /// Bytes from the beginning of the section.
    pub(super) offset: u64,
    /// Index of the symbol.
    pub(super) symbol: usize,
}

/// A section.
pub(super) struct Section<'d> {
    pub(super) name: &'d str,
    pub(super) role: Role,
    /// Empty where the section is zeros.
    pub(super) data: &'d [u8],
    pub(super) size: u64,
    pub(super) relocations: Vec<Relocation>,
}

impl Section<'_> {
    /// Its instructions.
    pub(super) fn insns(&self) -> Result<Vec<Insn>> {
        let (insns, rest) = self.data.as_chunks::<{ Insn::SIZE }>();
        ensure!(rest.is_empty(), "section {} is cut off", self.name);
        Ok(insns.iter().map(|&bytes| Insn::decode(bytes)).collect())
    }
}

/// A symbol.
pub(super) struct Symbol<'d> {
    pub(super) name: &'d str,
    /// Index of the section that defines it, if one does.
    pub(super) section: Option<usize>,
    /// Bytes from the beginning of that section.
    pub(super) value: u64,
    pub(super) size: u64,
    pub(super) kind: SymbolKind,
    pub(super) is_weak: bool,
}

/// An eBPF object as compilers write it.
pub(super) struct Elf<'d> {
    /// By the index that symbols use.
    pub(super) sections: Vec<Section<'d>>,
    /// By the index that relocations use.
    pub(super) symbols: Vec<Symbol<'d>>,
}

impl<'d> Elf<'d> {
    /// Reads an object.
    pub(super) fn parse(bytes: &'d [u8]) -> Result<Self> {
        let file = ElfFile64::<Endianness>::parse(bytes);
        let Ok(file) = file else {
            bail!("this is no ELF object");
        };
        let machine = file.elf_header().e_machine.get(file.endian());
        let is_bpf = file.is_little_endian() && machine == EM_BPF;
        ensure!(
            is_bpf,
            "this is no eBPF object: compile it with `clang -O2 -g -target bpf -c`"
        );
        let mut sections = Vec::new();
        for section in file.sections() {
            let at = section.index().0;
            // An object cannot have more sections than bytes.
            ensure!(at <= bytes.len(), "a section has the number {at}");
            sections.resize_with(sections.len().max(at), Section::nothing);
            sections.push(read_section(&section)?);
        }
        let mut symbols = Vec::new();
        for symbol in file.symbols() {
            let at = symbol.index().0;
            symbols.resize_with(symbols.len().max(at), Symbol::nothing);
            symbols.push(read_symbol(&symbol, &sections)?);
        }
        Ok(Self { sections, symbols })
    }

    /// The first section of that name.
    pub(super) fn section(&self, name: &str) -> Option<&Section<'d>> {
        self.sections.iter().find(|section| section.name == name)
    }

    /// The symbol that a relocation refers to.
    pub(super) fn target(&self, relocation: Relocation) -> Result<&Symbol<'d>> {
        let symbol = self.symbols.get(relocation.symbol);
        symbol.ok_or_else(|| anyhow::anyhow!("a relocation refers to a symbol that is not there"))
    }

    /// What a message calls a symbol: references to static things are to their section.
    pub(super) fn shown(&self, symbol: &Symbol<'d>) -> &'d str {
        let section = symbol.section.and_then(|index| self.sections.get(index));
        match section {
            Some(section) if symbol.name.is_empty() => section.name,
            _ if symbol.name.is_empty() => "?",
            _ => symbol.name,
        }
    }
}

impl Section<'_> {
    fn nothing() -> Self {
        Self {
            name: "",
            role: Role::Other,
            data: &[],
            size: 0,
            relocations: Vec::new(),
        }
    }
}

impl Symbol<'_> {
    fn nothing() -> Self {
        Self {
            name: "",
            section: None,
            value: 0,
            size: 0,
            kind: SymbolKind::Unknown,
            is_weak: false,
        }
    }
}

fn read_section<'d>(
    section: &object::read::elf::ElfSection64<'d, '_, Endianness>,
) -> Result<Section<'d>> {
    let name = section.name()?;
    let mut relocations = Vec::new();
    for (offset, relocation) in section.relocations() {
        let RelocationTarget::Symbol(symbol) = relocation.target() else {
            bail!("a relocation of section {name} at {offset} refers to no symbol");
        };
        relocations.push(Relocation {
            offset,
            symbol: symbol.0,
        });
    }
    Ok(Section {
        name,
        role: Role::of(name, section.kind(), section.size()),
        data: section.data()?,
        size: section.size(),
        relocations,
    })
}

fn read_symbol<'d>(
    symbol: &object::read::elf::ElfSymbol64<'d, '_, Endianness>,
    sections: &[Section<'_>],
) -> Result<Symbol<'d>> {
    let name = symbol.name().unwrap_or("?");
    let section = symbol.section_index().map(|index| index.0);
    let (value, size) = (symbol.address(), symbol.size());
    if let Some(index) = section {
        let limit = sections.get(index).map_or(0, |section| section.size);
        let is_inside = value.checked_add(size).is_some_and(|end| end <= limit);
        ensure!(is_inside, "symbol {name} lies outside its section");
    }
    Ok(Symbol {
        name,
        section,
        value,
        size,
        kind: symbol.kind(),
        is_weak: symbol.is_weak(),
    })
}
