//! The symbol table that EL2 uses for its own backtraces and probes: collected from the linked ELF file and written
//! into the section that the linker script reserves for it.

use anyhow::{Context, Result, bail};
use gimli::{AttributeValue, DebugInfoOffset, EndianSlice, LittleEndian};
use object::read::elf::ElfFile64;
use object::{Endianness, Object, ObjectSection, ObjectSymbol, SymbolKind};
use probes::ksyms::{self, Function, Inlined};
use std::collections::{BTreeMap, HashMap};
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// The section that the linker script reserves.
const SECTION: &str = ".ksyms";
/// Crates whose functions a user may want to probe: those of this workspace that run at EL2.
const OUR_CRATES: [&str; 6] = [
    "hypervisor",
    "devices",
    "tracepoints",
    "stub",
    "probes",
    "ebpf",
];

type Slice<'a> = EndianSlice<'a, LittleEndian>;
type Dwarf<'a> = gimli::Dwarf<Slice<'a>>;
type Unit<'a> = gimli::Unit<Slice<'a>>;

/// Fills in the table of the ELF file at `path`, in place: cargo's hard link to the file stays one, so that building
/// again without a change keeps the table. A file that has its table already is left alone.
pub fn inject(path: &Path) -> Result<()> {
    let elf = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let file: ElfFile64<'_, Endianness> = ElfFile64::parse(&*elf).context("not an ELF file")?;
    let section = file
        .section_by_name(SECTION)
        .with_context(|| format!("the linker script reserves no section {SECTION}"))?;
    if ksyms::is_table(section.data()?) {
        return Ok(());
    }
    let table = ksyms::encode(functions(&file), &inlined(&file)?).context("too many symbols")?;
    let (offset, room) = section
        .file_range()
        .with_context(|| format!("{SECTION} takes no room in the file"))?;
    if table.len() as u64 > room {
        bail!(
            "the symbol table takes {} bytes, {SECTION} has {room}: make it larger in the linker script",
            table.len()
        );
    }
    let written = OpenOptions::new()
        .write(true)
        .open(path)
        .and_then(|file| file.write_all_at(&table, offset));
    written.with_context(|| format!("cannot write the symbols into {}", path.display()))
}

/// The functions of the ELF file at `path`, by name and address.
pub fn of_file(path: &Path) -> Result<Vec<(String, u64)>> {
    let elf = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let file = ElfFile64::parse(&*elf).context("not an ELF file")?;
    let functions = functions(&file).into_iter();
    Ok(functions
        .map(|function| (function.name, function.address))
        .collect())
}

/// The functions of a program by address, one for each address, names demangled without their hash.
fn functions(file: &ElfFile64<'_, Endianness>) -> Vec<Function> {
    let mut functions: Vec<Function> = file
        .symbols()
        .filter(|symbol| symbol.kind() == SymbolKind::Text && symbol.is_definition())
        .filter_map(|symbol| {
            let name = symbol.name().ok().filter(|name| !name.is_empty())?;
            Some(Function {
                address: symbol.address(),
                size: u32::try_from(symbol.size()).unwrap_or(u32::MAX),
                name: demangle(name),
            })
        })
        .collect();
    // Of several names for one address the one that covers most comes first and stays.
    functions.sort_by(|a, b| (a.address, b.size, &a.name).cmp(&(b.address, a.size, &b.name)));
    functions.dedup_by_key(|function| function.address);
    functions
}

fn demangle(name: &str) -> String {
    format!("{:#}", rustc_demangle::demangle(name))
}

/// Our own functions that are inlined somewhere, from DWARF: asking for a probe on one deserves more than "no such
/// symbol".
fn inlined(file: &ElfFile64<'_, Endianness>) -> Result<Vec<Inlined>> {
    let load = |id: gimli::SectionId| -> Result<Slice<'_>> {
        let data = match file.section_by_name(id.name()) {
            Some(section) => section.data()?,
            None => &[],
        };
        Ok(EndianSlice::new(data, LittleEndian))
    };
    let dwarf = Dwarf::load(load)?;
    // An inlined call names its function by where that is described.
    let mut places: HashMap<DebugInfoOffset, u32> = HashMap::new();
    let mut names: HashMap<DebugInfoOffset, String> = HashMap::new();
    let mut headers = dwarf.units();
    while let Some(header) = headers.next()? {
        let unit = dwarf.unit(header)?;
        let mut entries = unit.entries();
        while let Some(entry) = entries.next_dfs()? {
            match entry.tag() {
                gimli::DW_TAG_inlined_subroutine => {
                    if let Some(origin) = origin(&unit, entry) {
                        *places.entry(origin).or_default() += 1;
                    }
                }
                gimli::DW_TAG_subprogram => {
                    let at = entry.offset().to_debug_info_offset(&unit.header);
                    if let (Some(at), Some(name)) = (at, linkage_name(&dwarf, &unit, entry)) {
                        names.insert(at, demangle(&name));
                    }
                }
                _ => {}
            }
        }
    }
    let mut by_name: BTreeMap<String, u32> = BTreeMap::new();
    for (origin, count) in places {
        if let Some(name) = names.get(&origin).filter(|name| is_ours(name)) {
            *by_name.entry(name.clone()).or_default() += count;
        }
    }
    let inlined = by_name.into_iter();
    Ok(inlined
        .map(|(name, places)| Inlined { name, places })
        .collect())
}

/// What an inlined call is a copy of.
fn origin(
    unit: &Unit<'_>,
    entry: &gimli::DebuggingInformationEntry<Slice<'_>>,
) -> Option<DebugInfoOffset> {
    match entry.attr_value(gimli::DW_AT_abstract_origin)? {
        AttributeValue::UnitRef(offset) => offset.to_debug_info_offset(&unit.header),
        AttributeValue::DebugInfoRef(offset) => Some(offset),
        _ => None,
    }
}

fn linkage_name(
    dwarf: &Dwarf<'_>,
    unit: &Unit<'_>,
    entry: &gimli::DebuggingInformationEntry<Slice<'_>>,
) -> Option<String> {
    let value = entry.attr_value(gimli::DW_AT_linkage_name)?;
    let name = dwarf.attr_string(unit, value).ok()?;
    Some(name.to_string_lossy().into_owned())
}

fn is_ours(name: &str) -> bool {
    let path = name.trim_start_matches(['<', '&']);
    let krate = path.split("::").next().unwrap_or_default();
    OUR_CRATES.contains(&krate)
}

#[cfg(test)]
mod tests {
    use super::*;
    use object::write::{Object as Writer, Symbol, SymbolSection};
    use object::{Architecture, BinaryFormat, SectionKind, SymbolFlags, SymbolScope};
    use probes::ksyms::KsymTable;
    use std::os::unix::fs::MetadataExt;
    use std::path::PathBuf;

    /// An ELF file with one function and `room` bytes for the table.
    fn program(name: &str, room: usize) -> PathBuf {
        let (arch, endian) = (Architecture::Aarch64, object::Endianness::Little);
        let mut writer = Writer::new(BinaryFormat::Elf, arch, endian);
        let text = writer.add_section(Vec::new(), b".text".to_vec(), SectionKind::Text);
        writer.append_section_data(text, &[0; 16], 4);
        let ksyms = writer.add_section(
            Vec::new(),
            SECTION.as_bytes().to_vec(),
            SectionKind::ReadOnlyData,
        );
        writer.append_section_data(ksyms, &vec![0; room], 8);
        writer.add_symbol(Symbol {
            name: b"_RNvCs1234_7mycrate4main".to_vec(),
            value: 8,
            size: 4,
            kind: SymbolKind::Text,
            scope: SymbolScope::Linkage,
            weak: false,
            section: SymbolSection::Section(text),
            flags: SymbolFlags::None,
        });
        let path = std::env::temp_dir().join(format!("{name}-{}", std::process::id()));
        fs::write(&path, writer.write().unwrap()).unwrap();
        path
    }

    fn section(path: &Path) -> Vec<u8> {
        let elf = fs::read(path).unwrap();
        let file: ElfFile64<'_, Endianness> = ElfFile64::parse(&*elf).unwrap();
        file.section_by_name(SECTION)
            .unwrap()
            .data()
            .unwrap()
            .to_vec()
    }

    #[test]
    fn the_table_is_written_in_place() {
        let path = program("ksyms-in-place", 4096);
        let link = path.with_extension("link");
        fs::hard_link(&path, &link).unwrap();
        let inode = fs::metadata(&path).unwrap().ino();
        inject(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().ino(), inode);
        let bytes = section(&link);
        let table = KsymTable::parse(&bytes).expect("the other link sees the table");
        assert_eq!(table.holding(10).unwrap().name, "mycrate::main");

        let modified = fs::metadata(&path).unwrap().modified().unwrap();
        inject(&path).unwrap();
        let again = fs::metadata(&path).unwrap().modified().unwrap();
        assert_eq!(again, modified, "a second time changes nothing");
        fs::remove_file(link).unwrap();
        fs::remove_file(path).unwrap();
    }

    #[test]
    fn too_little_room_is_an_error() {
        let path = program("ksyms-room", 16);
        let error = inject(&path).unwrap_err().to_string();
        fs::remove_file(path).unwrap();
        assert!(error.contains("linker script"), "{error}");
    }

    #[test]
    fn our_crates() {
        assert!(is_ours("hypervisor::cpu::this"));
        assert!(is_ours(
            "<hypervisor::vm::Vm as probes::machine::RunControl>::hold"
        ));
        assert!(!is_ours("core::option::Option<T>::map"));
        assert!(!is_ours("hypervisors::x"));
    }
}
