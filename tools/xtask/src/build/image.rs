//! From an ELF file to the raw boot image that QEMU's `-kernel` and `guest-loader` load.

use anyhow::{Context, Result, bail};
use object::Endianness;
use object::elf::PT_LOAD;
use object::read::elf::{ElfFile64, ProgramHeader};

/// No sane boot image is larger; a stray segment far away would otherwise eat all memory. In bytes.
const MAX_IMAGE: u64 = 256 << 20;

/// A program as it lies in memory from its first byte on, gaps filled with zeros, without what begins as zeros.
pub fn flatten(elf: &[u8]) -> Result<Vec<u8>> {
    let file: ElfFile64<'_, Endianness> = ElfFile64::parse(elf).context("not a 64-bit ELF file")?;
    let endian = file.endian();
    let loads: Vec<_> = file
        .elf_program_headers()
        .iter()
        .filter(|header| header.p_type(endian) == PT_LOAD && header.p_memsz(endian) > 0)
        .collect();
    let base = loads.iter().map(|header| header.p_paddr(endian)).min();
    let base = base.context("the ELF file has nothing to load")?;
    let mut bytes = Vec::new();
    for header in loads {
        let start = header.p_paddr(endian);
        let Ok(data) = header.data(endian, file.data()) else {
            bail!("the segment at {start:#x} lies outside the ELF file");
        };
        let from = image_offset(base, start)?;
        let to = from + data.len();
        if bytes.len() < to && !data.is_empty() {
            bytes.resize(to, 0);
        }
        if let Some(place) = bytes.get_mut(from..to) {
            place.copy_from_slice(data);
        }
    }
    Ok(bytes)
}

/// Offset of a physical address in an image that begins at `base`.
fn image_offset(base: u64, address: u64) -> Result<usize> {
    let offset = address - base;
    if offset > MAX_IMAGE {
        bail!("{address:#x} lies {offset:#x} bytes behind the image's start {base:#x}: too far");
    }
    Ok(usize::try_from(offset)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use object::write::{Object as Writer, StandardSection};
    use object::{Architecture, BinaryFormat};

    const BASE: u64 = 0x4020_0000;

    /// One PT_LOAD segment of `text` and `bss` zero bytes at `BASE`.
    fn executable(text: &[u8], bss: u64) -> Vec<u8> {
        let mut writer = Writer::new(
            BinaryFormat::Elf,
            Architecture::Aarch64,
            object::Endianness::Little,
        );
        let section = writer.section_id(StandardSection::Text);
        writer.append_section_data(section, text, 4);
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

    #[test]
    fn the_image_is_the_segment_without_its_bss() {
        let text: Vec<u8> = (0..80u8).map(|byte| byte | 1).collect();
        assert_eq!(flatten(&executable(&text, 4096)).unwrap(), text);
    }

    #[test]
    fn what_is_no_program_is_refused() {
        assert!(flatten(b"hello").is_err());
    }
}
