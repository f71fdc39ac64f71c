//! CO-RE relocations (`.BTF.ext`): field offsets that depend on the kernel.

use super::Elf;
use anyhow::{Result, bail};
use object::{Object, ObjectSection};

/// Bytes of the header of `.BTF.ext` with CO-RE (`struct btf_ext_header`, libbpf).
const HEADER: usize = 32;
/// Where it holds its own length, and offset and length of the CO-RE part behind it.
const HEADER_LENGTH: usize = 4;
const CORE_OFFSET: usize = 24;
const CORE_LENGTH: usize = 28;

/// Refuses an object that needs the kernel's BTF.
pub(super) fn refuse(elf: &Elf<'_>) -> Result<()> {
    let sections = sections(elf)?;
    if sections.is_empty() {
        return Ok(());
    }
    bail!(
        "{} has CO-RE relocations, which need the types of the guest's kernel: give its BTF with \
         --btf",
        sections.join(", ")
    )
}

/// Names of the sections with CO-RE relocations.
fn sections(elf: &Elf<'_>) -> Result<Vec<String>> {
    let Some(section) = elf.section_by_name(".BTF.ext") else {
        return Ok(Vec::new());
    };
    let data = section.data()?;
    let has_core = word(data, HEADER_LENGTH).is_some_and(|length| length >= HEADER);
    let bounds = word(data, CORE_OFFSET)
        .zip(word(data, CORE_LENGTH))
        .filter(|_| has_core);
    let Some((offset, length)) = bounds.filter(|&(_, length)| length > 0) else {
        return Ok(Vec::new());
    };
    let start = word(data, HEADER_LENGTH).and_then(|header| header.checked_add(offset));
    let table = start.and_then(|start| data.get(start..)?.get(..length));
    let Some(mut rest) = table.and_then(|table| table.get(4..)) else {
        bail!("the section .BTF.ext is cut off");
    };
    let record = table.and_then(|table| word(table, 0)).unwrap_or(0);
    let mut names = Vec::new();
    // A block for each section: offset of its name, number of records, records.
    while let Some((name, count)) = word(rest, 0).zip(word(rest, 4)) {
        names.push(string(elf, name)?.unwrap_or_else(|| "a section".into()));
        let length = record
            .checked_mul(count)
            .and_then(|length| length.checked_add(8));
        let Some(next) = length.and_then(|length| rest.get(length..)) else {
            bail!("the section .BTF.ext is cut off");
        };
        rest = next;
    }
    Ok(names)
}

fn word(bytes: &[u8], at: usize) -> Option<usize> {
    let bytes = bytes.get(at..)?.first_chunk()?;
    usize::try_from(u32::from_le_bytes(*bytes)).ok()
}

/// A string of the object's own BTF (`struct btf_header`: own length at 4, offset of the strings at
/// 16).
fn string(elf: &Elf<'_>, offset: usize) -> Result<Option<String>> {
    let Some(section) = elf.section_by_name(".BTF") else {
        return Ok(None);
    };
    let data = section.data()?;
    let start = word(data, 4)
        .zip(word(data, 16))
        .and_then(|(a, b)| a.checked_add(b));
    let text = start
        .and_then(|start| data.get(start..)?.get(offset..))
        .and_then(|text| text.split(|&byte| byte == 0).next());
    Ok(text.map(|text| String::from_utf8_lossy(text).into_owned()))
}
