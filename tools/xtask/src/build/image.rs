//! From an ELF file to the raw boot image that QEMU's `-kernel` and `guest-loader` load.

use super::symbols;
use anyhow::{Context, Result, bail};
use object::elf::PT_LOAD;
use object::read::elf::{ElfFile64, ProgramHeader};
use object::{Endianness, Object, ObjectSymbol};

/// The linker symbol where the symbol blob goes.
const IMAGE_END: &str = "__image_end";
/// The blob's alignment in bytes.
const BLOB_ALIGN: usize = 8;
/// Offset of `image_size` in the arm64 Image header (Linux `Documentation/arch/arm64/booting.rst`).
const IMAGE_SIZE_OFFSET: usize = 16;
/// Offset of the header's magic number.
const IMAGE_MAGIC_OFFSET: usize = 56;
/// The header's magic number.
const IMAGE_MAGIC: &[u8; 4] = b"ARM\x64";
/// No sane boot image is larger; a stray segment far away would otherwise eat all memory. In bytes.
const MAX_IMAGE: u64 = 256 << 20;

/// A program as it lies in memory.
struct Flat {
    /// Physical address of the first byte.
    base: u64,
    /// File contents from there, gaps filled with zeros.
    bytes: Vec<u8>,
    /// Physical address after the last segment's memory, `.bss` included.
    memory_end: u64,
}

/// The flat image of a program, and nothing else.
pub fn plain(elf: &[u8]) -> Result<Vec<u8>> {
    Ok(flatten(&parse(elf)?)?.bytes)
}

/// The flat image of a program with its symbols behind it.
///
/// The symbol blob (see [`symbols::blob`]) goes to the address of the linker symbol `__image_end`, or to the end of
/// the program's memory where there is none, and `image_size` in the arm64 Image header grows to cover it.
pub fn with_symbols(elf: &[u8]) -> Result<Vec<u8>> {
    let file = parse(elf)?;
    let mut flat = flatten(&file)?;
    let place = match file.symbols().find(|symbol| symbol.name() == Ok(IMAGE_END)) {
        Some(symbol) => symbol.address(),
        None => flat.memory_end.next_multiple_of(BLOB_ALIGN as u64),
    };
    if place < flat.memory_end {
        bail!(
            "{IMAGE_END} ({place:#x}) lies before the end of the program's memory ({:#x}): the symbols would lie in \
             .bss; move {IMAGE_END} behind everything in the linker script",
            flat.memory_end
        );
    }
    if place % BLOB_ALIGN as u64 != 0 {
        bail!("{IMAGE_END} ({place:#x}) is not a multiple of {BLOB_ALIGN}");
    }
    let offset = image_offset(flat.base, place)?;
    flat.bytes.resize(offset, 0);
    flat.bytes
        .extend(symbols::blob(&symbols::functions(&file))?);
    grow_image_size(&mut flat.bytes)?;
    Ok(flat.bytes)
}

fn parse(elf: &[u8]) -> Result<ElfFile64<'_, Endianness>> {
    ElfFile64::parse(elf).context("not a 64-bit ELF file")
}

fn flatten(file: &ElfFile64<'_, Endianness>) -> Result<Flat> {
    let endian = file.endian();
    let loads: Vec<_> = file
        .elf_program_headers()
        .iter()
        .filter(|header| header.p_type(endian) == PT_LOAD && header.p_memsz(endian) > 0)
        .collect();
    let base = loads.iter().map(|header| header.p_paddr(endian)).min();
    let base = base.context("the ELF file has nothing to load")?;
    let mut flat = Flat {
        base,
        bytes: Vec::new(),
        memory_end: base,
    };
    for header in loads {
        let start = header.p_paddr(endian);
        let end = start
            .checked_add(header.p_memsz(endian))
            .context("a segment wraps")?;
        flat.memory_end = flat.memory_end.max(end);
        let Ok(data) = header.data(endian, file.data()) else {
            bail!("the segment at {start:#x} lies outside the ELF file");
        };
        let from = image_offset(base, start)?;
        let to = from + data.len();
        if flat.bytes.len() < to {
            flat.bytes.resize(to, 0);
        }
        flat.bytes[from..to].copy_from_slice(data);
    }
    Ok(flat)
}

/// Offset of a physical address in an image that begins at `base`.
fn image_offset(base: u64, address: u64) -> Result<usize> {
    let offset = address - base;
    if offset > MAX_IMAGE {
        bail!("{address:#x} lies {offset:#x} bytes behind the image's start {base:#x}: too far");
    }
    Ok(usize::try_from(offset)?)
}

/// Makes `image_size` in the arm64 Image header cover the whole file; the loader keeps that memory free.
fn grow_image_size(image: &mut [u8]) -> Result<()> {
    if image.get(IMAGE_MAGIC_OFFSET..IMAGE_MAGIC_OFFSET + 4) != Some(IMAGE_MAGIC.as_slice()) {
        bail!("the image has no arm64 Image header: the linker script must put it first");
    }
    let length = image.len() as u64;
    let field = &mut image[IMAGE_SIZE_OFFSET..IMAGE_SIZE_OFFSET + 8];
    let declared = u64::from_le_bytes(field.try_into()?);
    field.copy_from_slice(&declared.max(length).to_le_bytes());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use object::write::{Object as Writer, StandardSection, Symbol, SymbolSection};
    use object::{Architecture, BinaryFormat, SymbolFlags, SymbolKind, SymbolScope};

    const BASE: u64 = 0x4020_0000;

    /// One PT_LOAD segment of `text` and `bss` zero bytes at `BASE`, with function symbols by offset.
    fn executable(text: &[u8], bss: u64, symbols: &[(&str, u64, SymbolKind)]) -> Vec<u8> {
        let mut writer = Writer::new(
            BinaryFormat::Elf,
            Architecture::Aarch64,
            object::Endianness::Little,
        );
        let section = writer.section_id(StandardSection::Text);
        writer.append_section_data(section, text, 4);
        for (name, offset, kind) in symbols {
            writer.add_symbol(Symbol {
                name: name.as_bytes().to_vec(),
                value: BASE + offset,
                size: 4,
                kind: *kind,
                scope: SymbolScope::Linkage,
                weak: false,
                section: SymbolSection::Section(section),
                flags: SymbolFlags::None,
            });
        }
        let mut elf = writer.write().unwrap();
        // The writer makes relocatable files: append the one program header that an executable has.
        let table = elf.len() as u64;
        let text_offset = elf
            .windows(text.len())
            .position(|window| window == text)
            .unwrap() as u64;
        elf[32..40].copy_from_slice(&table.to_le_bytes());
        elf[54..56].copy_from_slice(&56u16.to_le_bytes());
        elf[56..58].copy_from_slice(&1u16.to_le_bytes());
        elf.extend(PT_LOAD.to_le_bytes());
        elf.extend(5u32.to_le_bytes());
        let length = text.len() as u64;
        for field in [text_offset, BASE, BASE, length, length + bss, 0x1000] {
            elf.extend(field.to_le_bytes());
        }
        elf
    }

    fn text_with_header() -> Vec<u8> {
        let mut text: Vec<u8> = (0..80u8).map(|byte| byte | 1).collect();
        text[16..24].copy_from_slice(&96u64.to_le_bytes());
        text[56..60].copy_from_slice(IMAGE_MAGIC);
        text
    }

    #[test]
    fn symbols_follow_the_program_where_the_linker_script_says() {
        let text = text_with_header();
        let symbols = [
            ("_RNvCs1234_7mycrate4main", 8, SymbolKind::Text),
            ("a_table", 12, SymbolKind::Data),
            (IMAGE_END, 112, SymbolKind::Data),
        ];
        let image = with_symbols(&executable(&text, 20, &symbols)).unwrap();
        assert_eq!(&image[24..80], &text[24..]);
        assert!(
            image[80..112].iter().all(|byte| *byte == 0),
            "bss and gap are zero"
        );
        let blob = &image[112..];
        assert_eq!(&blob[..8], b"PSYM\x01\0\0\0");
        assert_eq!(blob[8..16], (BASE + 8).to_le_bytes());
        assert_eq!(blob[16..24], [0, 0, 0, 0, 4, 0, 0, 0]);
        assert_eq!(&blob[24..], b"\x0e\0\0\0mycrate::main\0");
        assert_eq!(image[16..24], (image.len() as u64).to_le_bytes());
    }

    #[test]
    fn a_plain_image_is_the_segment() {
        let text = text_with_header();
        assert_eq!(plain(&executable(&text, 4096, &[])).unwrap(), text);
    }

    #[test]
    fn symbols_never_land_in_bss() {
        let symbols = [(IMAGE_END, 80, SymbolKind::Data)];
        let error = with_symbols(&executable(&text_with_header(), 8, &symbols)).unwrap_err();
        assert!(error.to_string().contains("linker script"), "{error}");
    }

    #[test]
    fn what_is_no_program_is_refused() {
        assert!(plain(b"hello").is_err());
        let mut headerless = text_with_header();
        headerless[56] = 0;
        let error = with_symbols(&executable(&headerless, 0, &[])).unwrap_err();
        assert!(error.to_string().contains("Image header"), "{error}");
    }
}
