//! `.BTF.ext`: source lines and CO-RE relocations, by section and instruction
//! (`Documentation/bpf/btf.rst`, "`.BTF.ext` section").

use super::elf::Elf;
use anyhow::{Context, Result, ensure};
use ebpf::btf::{self, Btf};
use ebpf::insn::Insn;
use std::collections::HashMap;

/// A source line: `struct bpf_line_info`. File and text are offsets of the object's strings.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line {
    /// The first instruction that belongs to it, from the beginning of the section.
    pub(super) insn: usize,
    pub(super) file: u32,
    pub(super) text: u32,
    /// The line's number from bit 10 on, the column below.
    pub(super) position: u32,
}

/// A place that depends on the kernel's types: `struct bpf_core_relo`.
#[derive(Clone, Copy, Debug)]
pub(super) struct CoreRelocation {
    /// The instruction, from the beginning of the section.
    pub(super) insn: usize,
    /// The object's type that it is about.
    pub(super) ty: u32,
    /// Where the path to the field is among the object's strings.
    pub(super) access: u32,
    /// `enum bpf_core_relo_kind`.
    pub(super) kind: u32,
}

/// The parts that the linker uses, by the names of sections.
#[derive(Default)]
pub(super) struct Ext {
    pub(super) lines: HashMap<String, Vec<Line>>,
    pub(super) core: HashMap<String, Vec<CoreRelocation>>,
}

impl Ext {
    /// Reads the section, if there is one. `btf` are the object's types.
    pub(super) fn parse(elf: &Elf<'_>, btf: &Btf<'_>) -> Result<Self> {
        match elf.section(".BTF.ext") {
            Some(section) => Self::read(section.data, btf)
                .context("the section .BTF.ext, which compilers write, is malformed"),
            None => Ok(Self::default()),
        }
    }

    fn read(data: &[u8], btf: &Btf<'_>) -> Result<Self> {
        ensure!(data.get(..2) == Some(&btf::MAGIC), "it has no magic");
        let header = words(data, 4, 1).context("it has no header")?[0] as usize;
        // magic, version, flags; length; offset and length of functions, lines, CO-RE.
        let part = |at: usize| -> Result<Option<&[u8]>> {
            if at + 8 > header {
                return Ok(None);
            }
            let bounds = words(data, at, 2).context("its header is cut off")?;
            let start = header.checked_add(bounds[0] as usize);
            let end = start.and_then(|start| start.checked_add(bounds[1] as usize));
            let part = start.zip(end).and_then(|(start, end)| data.get(start..end));
            part.map(Some).context("a part lies outside it")
        };
        Ok(Self {
            lines: records(part(16)?, btf, |[insn, file, text, position]| Line {
                insn: insn as usize / Insn::SIZE,
                file,
                text,
                position,
            })?,
            core: records(part(24)?, btf, |[insn, ty, access, kind]| CoreRelocation {
                insn: insn as usize / Insn::SIZE,
                ty,
                access,
                kind,
            })?,
        })
    }
}

/// A part: the size of a record, then for each section its name, a count and the records.
fn records<T>(
    part: Option<&[u8]>,
    btf: &Btf<'_>,
    make: impl Fn([u32; 4]) -> T,
) -> Result<HashMap<String, Vec<T>>> {
    let mut all = HashMap::<_, Vec<T>>::new();
    let Some(part) = part.filter(|part| !part.is_empty()) else {
        return Ok(all);
    };
    let size = words(part, 0, 1).context("a part has no record size")?[0] as usize;
    ensure!(
        size >= 16 && size.is_multiple_of(4),
        "records of {size} bytes"
    );
    let mut rest = &part[4..];
    while !rest.is_empty() {
        let head = words(rest, 0, 2).context("a section's records are cut off")?;
        let length = (head[1] as usize).checked_mul(size);
        let (records, next) = length
            .and_then(|length| rest[8..].split_at_checked(length))
            .context("a section's records are cut off")?;
        let name = String::from_utf8_lossy(btf.string(head[0])).into_owned();
        let made = records.chunks_exact(size).map(|record| {
            let word = |at| words(record, at, 1).map_or(0, |word| word[0]);
            make([word(0), word(4), word(8), word(12)])
        });
        all.entry(name).or_default().extend(made);
        rest = next;
    }
    Ok(all)
}

fn words(bytes: &[u8], at: usize, count: usize) -> Option<Vec<u32>> {
    let bytes = bytes.get(at..)?.get(..4 * count)?;
    let (words, _) = bytes.as_chunks();
    Some(words.iter().map(|&word| u32::from_le_bytes(word)).collect())
}
