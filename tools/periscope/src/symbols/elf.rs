//! An ELF file of symbols and nothing else.
//!
//! Its sections have addresses and sizes but no contents (`SHT_NOBITS`, like a file of
//! `objcopy --only-keep-debug`), so that a debugger takes names from it and memory from the target.

use anyhow::{Context, Result};
use object::Endianness;
use object::elf;
use object::write::StringId;
use object::write::elf::{FileHeader, ProgramHeader, SectionHeader, SectionIndex, Sym, Writer};
use probes::kallsyms::SymbolTable;
use probes::symbols::Symbols;

/// Instructions are words.
const ALIGN: u64 = 4;

/// A part of the kernel. What lies between two of the linker's own symbols is one section here.
#[derive(Clone, Copy, Debug)]
struct Section {
    name: &'static str,
    flags: u32,
    start: u64,
    end: u64,
}

impl Section {
    fn is_code(&self) -> bool {
        self.flags & elf::SHF_EXECINSTR != 0
    }

    fn contains(&self, address: u64) -> bool {
        (self.start..self.end).contains(&address)
    }
}

/// A symbol as the file has it.
#[derive(Clone, Debug)]
struct FileSymbol {
    name: String,
    address: u64,
    size: u64,
    bind: u8,
    /// Index in the sections; `None` for one that lies in none of them.
    section: Option<usize>,
}

/// The file's bytes.
pub(super) fn write(symbols: &SymbolTable) -> Result<Vec<u8>> {
    let sections = sections(symbols)?;
    let symbols = file_symbols(symbols, &sections);
    let mut out = Vec::new();
    emit(&mut out, &sections, &symbols)?;
    Ok(out)
}

fn sections(symbols: &SymbolTable) -> Result<Vec<Section>> {
    let address = |name: &str| {
        let found = symbols.by_name(name).map(|address| address.0);
        found.with_context(|| format!("kallsyms has no {name}"))
    };
    let code = elf::SHF_ALLOC | elf::SHF_EXECINSTR;
    let data = elf::SHF_ALLOC | elf::SHF_WRITE;
    let text = (address("_stext")?, address("_etext")?);
    let init = (address("_sinittext")?, address("_einittext")?);
    let section = |name, flags, start, end| Section {
        name,
        flags,
        start,
        end,
    };
    let mut sections = vec![
        section(".text", code, text.0, text.1),
        section(".init.text", code, init.0, init.1),
    ];
    // Without CONFIG_KALLSYMS_ALL there are no symbols outside of code.
    if let (Ok(start), Ok(end)) = (address("_text"), address("_end")) {
        sections.insert(0, section(".head.text", code, start, text.0));
        sections.insert(2, section(".rodata", elf::SHF_ALLOC, text.1, init.0));
        sections.push(section(".data", data, init.1, end));
    }
    sections.retain(|section| section.start < section.end);
    Ok(sections)
}

/// The symbols in the order that ELF wants, local ones first.
fn file_symbols(symbols: &SymbolTable, sections: &[Section]) -> Vec<FileSymbol> {
    let mut list = Vec::with_capacity(symbols.count());
    symbols.each_symbol(&mut |symbol| {
        let address = symbol.address.0;
        let section = sections
            .iter()
            .position(|section| section.contains(address));
        let bind = match symbol.kind {
            'W' | 'w' | 'V' | 'v' => elf::STB_WEAK,
            kind if kind.is_ascii_lowercase() => elf::STB_LOCAL,
            _ => elf::STB_GLOBAL,
        };
        let name = symbol.name.to_string();
        list.push(FileSymbol {
            name,
            address,
            size: 0,
            bind,
            section,
        });
        true
    });
    set_sizes(&mut list, sections);
    list.sort_by_key(|symbol| symbol.bind != elf::STB_LOCAL);
    list
}

/// Each symbol, in order of address, reaches to the next one at another address, or to the end of
/// its section.
fn set_sizes(symbols: &mut [FileSymbol], sections: &[Section]) {
    let mut next = u64::MAX;
    let mut last = u64::MAX;
    for symbol in symbols.iter_mut().rev() {
        if symbol.address != last {
            next = last;
            last = symbol.address;
        }
        if let Some(section) = symbol.section {
            symbol.size = next.min(sections[section].end) - symbol.address;
        }
    }
}

/// Writes the file in the two passes that the writer wants: reserve everything, then write it in
/// the same order.
fn emit(out: &mut Vec<u8>, sections: &[Section], symbols: &[FileSymbol]) -> Result<()> {
    let mut writer = Writer::new(Endianness::Little, true, out);
    writer.reserve_file_header();
    writer.reserve_program_headers(sections.len() as u32);
    writer.reserve_null_section_index();
    let section_ids: Vec<(StringId, SectionIndex)> = sections
        .iter()
        .map(|section| {
            let name = writer.add_section_name(section.name.as_bytes());
            (name, writer.reserve_section_index())
        })
        .collect();
    writer.reserve_symtab_section_index();
    writer.reserve_strtab_section_index();
    writer.reserve_shstrtab_section_index();
    writer.reserve_null_symbol_index();
    let names: Vec<StringId> = symbols
        .iter()
        .map(|symbol| {
            writer.reserve_symbol_index(None);
            writer.add_string(symbol.name.as_bytes())
        })
        .collect();
    writer.reserve_symtab();
    writer.reserve_strtab();
    writer.reserve_shstrtab();
    writer.reserve_section_headers();

    let entry = sections.first().map_or(0, |section| section.start);
    writer.write_file_header(&FileHeader {
        os_abi: elf::ELFOSABI_NONE,
        abi_version: 0,
        e_type: elf::ET_EXEC,
        e_machine: elf::EM_AARCH64,
        e_entry: entry,
        e_flags: 0,
    })?;
    writer.write_align_program_headers();
    sections
        .iter()
        .for_each(|section| writer.write_program_header(&program_header(section)));
    writer.write_null_symbol();
    for (symbol, name) in symbols.iter().zip(names) {
        let index = symbol.section.map(|section| section_ids[section].1);
        let is_code = symbol
            .section
            .is_some_and(|section| sections[section].is_code());
        let kind = if is_code {
            elf::STT_FUNC
        } else {
            elf::STT_OBJECT
        };
        writer.write_symbol(&Sym {
            name: Some(name),
            section: index,
            st_info: symbol.bind << 4 | kind,
            st_other: elf::STV_DEFAULT,
            st_shndx: elf::SHN_ABS,
            st_value: symbol.address,
            st_size: symbol.size,
        });
    }
    writer.write_strtab();
    writer.write_shstrtab();
    writer.write_null_section_header();
    for (section, (name, _)) in sections.iter().zip(section_ids) {
        writer.write_section_header(&section_header(section, name));
    }
    let locals = symbols
        .iter()
        .filter(|symbol| symbol.bind == elf::STB_LOCAL)
        .count();
    writer.write_symtab_section_header(locals as u32 + 1);
    writer.write_strtab_section_header();
    writer.write_shstrtab_section_header();
    Ok(())
}

fn section_header(section: &Section, name: StringId) -> SectionHeader {
    SectionHeader {
        name: Some(name),
        sh_type: elf::SHT_NOBITS,
        sh_flags: u64::from(section.flags),
        sh_addr: section.start,
        sh_offset: 0,
        sh_size: section.end - section.start,
        sh_link: 0,
        sh_info: 0,
        sh_addralign: ALIGN,
        sh_entsize: 0,
    }
}

fn program_header(section: &Section) -> ProgramHeader {
    let execute = if section.is_code() { elf::PF_X } else { 0 };
    let write = if section.flags & elf::SHF_WRITE != 0 {
        elf::PF_W
    } else {
        0
    };
    ProgramHeader {
        p_type: elf::PT_LOAD,
        p_flags: elf::PF_R | execute | write,
        p_offset: 0,
        p_vaddr: section.start,
        p_paddr: section.start,
        p_filesz: 0,
        p_memsz: section.end - section.start,
        p_align: ALIGN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use object::{Object, ObjectSection, ObjectSymbol, SymbolKind};

    const TEXT: Section = Section {
        name: ".text",
        flags: elf::SHF_ALLOC | elf::SHF_EXECINSTR,
        start: 0xffff_8000_8001_0000,
        end: 0xffff_8000_8001_0100,
    };
    const DATA: Section = Section {
        name: ".data",
        flags: elf::SHF_ALLOC | elf::SHF_WRITE,
        start: TEXT.end,
        end: TEXT.end + 0x1000,
    };

    fn symbol(name: &str, address: u64, bind: u8) -> FileSymbol {
        let section = [TEXT, DATA]
            .iter()
            .position(|section| section.contains(address));
        FileSymbol {
            name: name.to_string(),
            address,
            size: 0,
            bind,
            section,
        }
    }

    #[test]
    fn symbols_reach_to_the_next_or_to_the_end_of_their_section() {
        let at = |offset| TEXT.start + offset;
        let mut symbols = vec![
            symbol("f", at(0), elf::STB_LOCAL),
            symbol("g", at(0x20), elf::STB_GLOBAL),
            symbol("g_alias", at(0x20), elf::STB_GLOBAL),
            symbol("last", at(0x80), elf::STB_LOCAL),
            symbol("data", DATA.start + 8, elf::STB_GLOBAL),
            symbol("outside", DATA.end, elf::STB_GLOBAL),
        ];
        set_sizes(&mut symbols, &[TEXT, DATA]);
        let sizes: Vec<u64> = symbols.iter().map(|symbol| symbol.size).collect();
        assert_eq!(sizes, [0x20, 0x60, 0x60, 0x80, 0xff8, 0]);
    }

    #[test]
    fn the_file_reads_back() {
        let mut symbols = vec![
            symbol("local", TEXT.start + 4, elf::STB_LOCAL),
            symbol("function", TEXT.start + 8, elf::STB_GLOBAL),
            symbol("variable", DATA.start, elf::STB_GLOBAL),
        ];
        set_sizes(&mut symbols, &[TEXT, DATA]);
        let mut out = Vec::new();
        emit(&mut out, &[TEXT, DATA], &symbols).unwrap();
        let file = object::File::parse(&out[..]).unwrap();
        assert_eq!(file.architecture(), object::Architecture::Aarch64);
        let sections: Vec<(&str, u64, u64)> = file
            .sections()
            .filter(|section| section.address() != 0)
            .map(|section| (section.name().unwrap(), section.address(), section.size()))
            .collect();
        assert_eq!(
            sections,
            [(".text", TEXT.start, 0x100), (".data", DATA.start, 0x1000)]
        );
        let found: Vec<(&str, u64, u64, SymbolKind, bool)> = file
            .symbols()
            .map(|it| {
                (
                    it.name().unwrap(),
                    it.address(),
                    it.size(),
                    it.kind(),
                    it.is_global(),
                )
            })
            .collect();
        let text = SymbolKind::Text;
        assert_eq!(
            found,
            [
                ("local", TEXT.start + 4, 4, text, false),
                ("function", TEXT.start + 8, 0xf8, text, true),
                ("variable", DATA.start, 0x1000, SymbolKind::Data, true),
            ]
        );
    }
}
