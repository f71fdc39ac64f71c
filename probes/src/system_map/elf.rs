//! The symbol table of an ELF file ("Tool Interface Standard", ELF specification 1.2, and its 64-bit form in the System V ABI,
//! chapter 4): 64-bit, little-endian, for AArch64. Nothing else of the file is looked at.

use super::{BadMap, valid_name};

const MAGIC: &[u8; 4] = b"\x7fELF";
/// `EI_CLASS` and `EI_DATA`: `ELFCLASS64`, `ELFDATA2LSB`.
const IDENT: [u8; 2] = [2, 1];
/// `EM_AARCH64`.
const MACHINE: u16 = 183;
/// Bytes of a section header and of a symbol.
const SECTION: usize = 64;
const SYMBOL: usize = 24;
/// `SHT_SYMTAB`.
const SYMTAB: u32 = 2;
/// `SHN_UNDEF`; from `SHN_LORESERVE` on no section either (`SHN_ABS`, `SHN_COMMON`).
const UNDEFINED: u16 = 0;
const RESERVED: u16 = 0xff00;
/// `STT_FUNC` is the last type of a place: the others are `STT_NOTYPE` and `STT_OBJECT`.
const FUNCTION: u8 = 2;

/// Whether `file` begins as ELF files do.
pub(super) fn is_elf(file: &[u8]) -> bool {
    file.starts_with(MAGIC)
}

/// Calls `take` for every symbol that is a place. What marks kinds of code (`$x`, `$d`: "ELF for the Arm 64-bit Architecture",
/// section 5.5.4) is left out.
pub(super) fn each_symbol<'a>(
    file: &'a [u8],
    mut take: impl FnMut(u64, &'a str) -> Result<(), BadMap>,
) -> Result<(), BadMap> {
    if file.get(4..6) != Some(&IDENT[..]) || u16_at(file, 18) != Some(MACHINE) {
        return Err(BadMap::OtherElf);
    }
    let (symbols, names) = tables(file)?;
    for symbol in symbols.chunks_exact(SYMBOL) {
        if let Some((address, name)) = place(symbol, names)? {
            take(address, name)?;
        }
    }
    Ok(())
}

/// The symbols and their names, from the section headers.
fn tables(file: &[u8]) -> Result<(&[u8], &[u8]), BadMap> {
    let headers = || {
        let start = usize::try_from(u64_at(file, 40)?).ok()?;
        let size = usize::from(u16_at(file, 58)?);
        let count = usize::from(u16_at(file, 60)?);
        let headers = file.get(start..)?.get(..count.checked_mul(SECTION)?)?;
        (size == SECTION).then_some(headers)
    };
    let headers = headers().ok_or(BadMap::CutElf)?;
    let kind = |header: &&[u8]| u32_at(header, 4) == Some(SYMTAB);
    let symbols = headers.chunks_exact(SECTION).find(kind);
    let symbols = symbols.ok_or(BadMap::Stripped)?;
    let names = || {
        let link = u32_at(symbols, 40)? as usize;
        headers.chunks_exact(SECTION).nth(link)
    };
    let contents = |header: &[u8]| {
        let start = usize::try_from(u64_at(header, 24)?).ok()?;
        let length = usize::try_from(u64_at(header, 32)?).ok()?;
        file.get(start..)?.get(..length)
    };
    let both = || Some((contents(symbols)?, contents(names()?)?));
    both().ok_or(BadMap::CutElf)
}

/// The address and name of a symbol, if it is a place.
fn place<'a>(symbol: &[u8], names: &'a [u8]) -> Result<Option<(u64, &'a str)>, BadMap> {
    let fields = || {
        let section = u16_at(symbol, 6)?;
        let kind = symbol.get(4)? & 0xf;
        let is_place = (UNDEFINED + 1..RESERVED).contains(&section) && kind <= FUNCTION;
        Some((is_place, u32_at(symbol, 0)? as usize, u64_at(symbol, 8)?))
    };
    let (is_place, at, address) = fields().ok_or(BadMap::CutElf)?;
    if !is_place || at == 0 {
        return Ok(None);
    }
    let name = names.get(at..).and_then(|rest| {
        let name = rest.split(|byte| *byte == 0).next()?;
        core::str::from_utf8(name).ok()
    });
    let name = name.filter(|name| valid_name(name));
    let name = name.ok_or(BadMap::ElfName { offset: at })?;
    Ok((!name.starts_with('$')).then_some((address, name)))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// Makes such files, for tests.
#[cfg(any(test, feature = "fake"))]
pub mod build {
    use super::{IDENT, MACHINE, MAGIC, SECTION, SYMBOL, SYMTAB};
    use alloc::vec;
    use alloc::vec::Vec;

    /// A file with nothing but these symbols, in one section.
    pub fn file(symbols: &[(u64, &str)]) -> Vec<u8> {
        let mut table = vec![0; SYMBOL];
        let mut names = vec![0];
        for (address, name) in symbols {
            table.extend((names.len() as u32).to_le_bytes());
            // A global function in section 1.
            table.extend([0x12, 0, 1, 0]);
            table.extend(address.to_le_bytes());
            table.extend([0; 8]);
            names.extend(name.bytes().chain([0]));
        }
        let header = 64;
        let sections = [
            (SYMTAB, header, table.len(), 2_u32),
            // `SHT_PROGBITS` and `SHT_STRTAB`.
            (1, header, 0, 0),
            (3, header + table.len(), names.len(), 0),
        ];
        let mut file = MAGIC.to_vec();
        file.extend(IDENT);
        file.resize(18, 0);
        file.extend(MACHINE.to_le_bytes());
        file.resize(40, 0);
        file.extend(((header + table.len() + names.len()) as u64).to_le_bytes());
        file.resize(58, 0);
        file.extend((SECTION as u16).to_le_bytes());
        file.extend((sections.len() as u16).to_le_bytes());
        file.resize(header, 0);
        file.extend(table);
        file.extend(names);
        for (kind, start, length, link) in sections {
            let section = file.len();
            file.extend([0; 4]);
            file.extend(kind.to_le_bytes());
            file.resize(section + 24, 0);
            file.extend((start as u64).to_le_bytes());
            file.extend((length as u64).to_le_bytes());
            file.extend(link.to_le_bytes());
            file.resize(section + SECTION, 0);
        }
        file
    }
}
