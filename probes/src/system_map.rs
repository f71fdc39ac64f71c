//! Symbols from a file, for a kernel that carries none of its own: a `System.map`, or the symbol table of an ELF file.
//!
//! Addresses are those that the kernel was linked to; where it really runs (KASLR) the exception vectors tell: `VBAR_EL1` of a
//! vCPU in the kernel is `vectors`, moved.
//!
//! A table takes 16 bytes for each symbol, and its name.

pub mod elf;
mod text;

use crate::addr::Gva;
use crate::kernel::{BANNER, NoKernel, VECTORS};
use crate::machine::{Machine, Power, VcpuId};
use crate::regs::SysReg;
use crate::similar::Suggestions;
use crate::symbols::{Located, NameIndex, Named, Symbols, hash};
use crate::translate::{TranslationRegs, translate};
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

/// Most symbols that are taken.
pub const MAX_SYMBOLS: usize = 1 << 18;
/// Longest name (`KSYM_NAME_LEN` in `include/linux/kallsyms.h`).
const MAX_NAME: usize = 512;
/// What every banner begins with, by which a wrong map is noticed.
const BANNER_TEXT: &[u8] = b"Linux version ";

/// Why a file is no map.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BadMap {
    /// A line is none of `nm`'s. Lines count from 1.
    Line(usize),
    /// An ELF file, but not a 64-bit little-endian one for AArch64.
    OtherElf,
    /// An ELF file whose tables are not where it says.
    CutElf,
    /// An ELF file without a symbol table.
    Stripped,
    /// The name of an ELF file's symbol cannot be one.
    ElfName {
        /// Where in the names.
        offset: usize,
    },
    /// It has no symbols, or too many.
    Count(usize),
    /// Its symbols are more than 4 GiB apart.
    TooWide,
    /// There is no `vectors`: not an arm64 kernel's.
    NoVectors,
    /// Not enough heap.
    OutOfMemory,
}

impl fmt::Display for BadMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line(line) => write!(
                f,
                "line {line} is no symbol: a System.map has lines like `ffff800080010000 T \
                 _stext` (`nm -n vmlinux` makes one)"
            ),
            Self::OtherElf => f.write_str("no ELF file of an arm64 kernel"),
            Self::CutElf => f.write_str("an ELF file that is cut off or damaged: upload it again"),
            Self::Stripped => f.write_str(
                "an ELF file without a symbol table: it was stripped. Upload its System.map, or what \
                 `periscope symbols` makes of the kernel",
            ),
            Self::ElfName { offset } => write!(
                f,
                "the name at {offset:#x} of the ELF file's symbols is no name: the file is damaged"
            ),
            Self::Count(count) => write!(f, "{count} symbols: 1 to {MAX_SYMBOLS} are possible"),
            Self::TooWide => f.write_str("its symbols are more than 4 GiB apart"),
            Self::NoVectors => write!(f, "no symbol {VECTORS}: not an arm64 kernel's map"),
            Self::OutOfMemory => f.write_str("not enough memory for the table"),
        }
    }
}

impl core::error::Error for BadMap {}

/// One symbol; its name is in the table's text.
#[derive(Clone, Copy, Debug)]
struct Entry {
    /// From the table's base.
    offset: u32,
    name: u32,
}

/// The symbols of a file, at the addresses of the kernel that runs or, before
/// [`SystemMap::at`], those that it was linked to.
#[derive(Clone, Debug)]
pub struct SystemMap {
    base: Gva,
    table: Arc<Table>,
}

#[derive(Debug)]
struct Table {
    /// By address.
    entries: Vec<Entry>,
    /// Each name, and a zero.
    names: Vec<u8>,
    by_name: NameIndex,
}

impl Table {
    fn name(&self, index: usize) -> &str {
        let start = self.entries[index].name as usize;
        let name = self.names[start..].split(|&byte| byte == 0).next();
        // Only UTF-8 was let in.
        core::str::from_utf8(name.unwrap_or_default()).unwrap_or_default()
    }
}

impl SystemMap {
    /// Reads a `System.map` or an ELF file. Symbols in the lower half of the address space are left out: they are no places
    /// in the kernel.
    pub fn parse(file: &[u8]) -> Result<Self, BadMap> {
        let mut found = Vec::new();
        let mut names = Vec::new();
        let take = |address: u64, name: &str| {
            if address >> 63 == 0 {
                return Ok(());
            }
            if found.len() == MAX_SYMBOLS {
                return Err(BadMap::Count(found.len() + 1));
            }
            reserve(&mut found, 1)?;
            reserve(&mut names, name.len() + 1)?;
            found.push((address, names.len() as u32));
            names.extend_from_slice(name.as_bytes());
            names.push(0);
            Ok(())
        };
        if elf::is_elf(file) {
            elf::each_symbol(file, take)?;
        } else {
            text::each_symbol(file, take)?;
        }
        // Stable: of several at one address the first stays first.
        found.sort_by_key(|(address, _)| *address);
        let Some(&(base, _)) = found.first() else {
            return Err(BadMap::Count(0));
        };
        let mut entries = Vec::new();
        reserve(&mut entries, found.len())?;
        for (address, name) in found {
            let offset = u32::try_from(address - base).map_err(|_| BadMap::TooWide)?;
            entries.push(Entry { offset, name });
        }
        let mut table = Table {
            entries,
            names,
            by_name: NameIndex::default(),
        };
        let name_hash = |index| hash(table.name(index));
        table.by_name =
            NameIndex::of(table.entries.len(), name_hash).map_err(|_| BadMap::OutOfMemory)?;
        let map = Self {
            base: Gva(base),
            table: Arc::new(table),
        };
        match map.by_name(VECTORS) {
            Some(_) => Ok(map),
            None => Err(BadMap::NoVectors),
        }
    }

    /// The same symbols, `slide` bytes further up (the addresses wrap).
    pub fn at(&self, slide: u64) -> Self {
        Self {
            base: Gva(self.base.0.wrapping_add(slide)),
            ..self.clone()
        }
    }

    /// How far the running kernel is from where the map has it. Holds the VM for a moment.
    pub fn slide(&self, machine: &dyn Machine) -> Result<u64, NoKernel> {
        machine.hold();
        let count = u8::try_from(machine.vcpu_count()).unwrap_or(u8::MAX);
        let slide = (0..count).find_map(|vcpu| self.slide_of(machine, VcpuId(vcpu)));
        machine.release();
        slide.ok_or(NoKernel::OtherKernel)
    }

    fn slide_of(&self, machine: &dyn Machine, vcpu: VcpuId) -> Option<u64> {
        if machine.power(vcpu) == Power::Off {
            return None;
        }
        let sys = machine.sys(vcpu).ok()?;
        let slide = sys
            .get(SysReg::VbarEl1)
            .wrapping_sub(self.by_name(VECTORS)?.0);
        let Some(banner) = self.by_name(BANNER) else {
            return Some(slide);
        };
        let banner = Gva(banner.0.wrapping_add(slide));
        let at = translate(&TranslationRegs::from(&sys), machine, banner).ok()?;
        let mut text = [0; BANNER_TEXT.len()];
        machine.read_phys(at.gpa, &mut text).ok()?;
        (text == BANNER_TEXT).then_some(slide)
    }

    fn address(&self, index: usize) -> Gva {
        let offset = self.table.entries[index].offset;
        Gva(self.base.0.wrapping_add(u64::from(offset)))
    }

    fn all_named<'a>(&'a self, wanted: &'a str) -> impl Iterator<Item = usize> + 'a {
        let candidates = self.table.by_name.candidates(wanted);
        candidates.filter(move |&index| self.table.name(index) == wanted)
    }
}

/// Whether this can be the name of a symbol. Names are printed to terminals.
fn valid_name(name: &str) -> bool {
    (1..=MAX_NAME).contains(&name.len()) && !name.contains(char::is_control)
}

fn reserve<T>(list: &mut Vec<T>, more: usize) -> Result<(), BadMap> {
    list.try_reserve(more).map_err(|_| BadMap::OutOfMemory)
}

impl Symbols for SystemMap {
    fn count(&self) -> usize {
        self.table.entries.len()
    }

    fn by_name(&self, name: &str) -> Option<Gva> {
        self.all_named(name).next().map(|index| self.address(index))
    }

    fn named(&self, name: &str, limit: usize) -> Vec<Named> {
        let named = |index| Named {
            address: self.address(index),
            name: name.to_string(),
        };
        self.all_named(name).take(limit).map(named).collect()
    }

    /// Nothing behind the last symbol, which ends the kernel (`_end`).
    fn by_address(&self, address: Gva) -> Option<Located> {
        let offset = u32::try_from(address.0.checked_sub(self.base.0)?).ok()?;
        let after = self
            .table
            .entries
            .partition_point(|entry| entry.offset <= offset);
        if after == self.table.entries.len() {
            return None;
        }
        let start = self.table.entries.get(after.checked_sub(1)?)?.offset;
        let first = self
            .table
            .entries
            .partition_point(|entry| entry.offset < start);
        Some(Located {
            name: self.table.name(first).to_string(),
            offset: u64::from(offset - start),
        })
    }

    fn next_after(&self, address: Gva) -> Option<Gva> {
        let offset = address.0.checked_sub(self.base.0)?;
        let is_before = |entry: &Entry| u64::from(entry.offset) <= offset;
        let after = self.table.entries.partition_point(is_before);
        (after < self.table.entries.len()).then(|| self.address(after))
    }

    fn similar(&self, name: &str, limit: usize) -> Vec<String> {
        let mut suggestions = Suggestions::new(name, limit);
        (0..self.table.entries.len()).for_each(|index| suggestions.offer(self.table.name(index)));
        suggestions.into_names()
    }

    fn each(&self, visit: &mut dyn FnMut(Gva, &str) -> bool) {
        for index in 0..self.table.entries.len() {
            if !visit(self.address(index), self.table.name(index)) {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;
    use proptest::prelude::*;

    const BASE: u64 = 0xffff_8000_8000_0000;

    const MAP: &str = "\
0000000000000000 A _kernel_flags_le_hi32
                 U elsewhere
ffff800080000000 T _text
ffff800080010000 T _stext
ffff800080010000 t first
ffff800080010800 T vectors
ffff800080020000 t twice
ffff800080030000 t twice\t[module]
ffff800080040000 D linux_banner
ffff800080050000 B _end
";

    fn located(map: &SystemMap, address: u64) -> Option<(String, u64)> {
        map.by_address(Gva(address)).map(|at| (at.name, at.offset))
    }

    #[test]
    fn a_map_is_read() {
        let map = SystemMap::parse(MAP.as_bytes()).unwrap();
        assert_eq!(map.count(), 8);
        assert_eq!(map.by_name("vectors"), Some(Gva(0xffff_8000_8001_0800)));
        assert_eq!(map.by_name("elsewhere"), None);
        assert_eq!(map.named("twice", 9).len(), 2);
        assert_eq!(
            located(&map, 0xffff_8000_8001_0004),
            Some(("_stext".into(), 4))
        );
        assert_eq!(located(&map, 0xffff_8000_8005_0000), None, "behind _end");
        assert_eq!(located(&map, 0xffff_7fff_ffff_fffc), None);
        let next = |address| map.next_after(Gva(address)).map(|next| next.0);
        assert_eq!(next(0xffff_8000_8001_0000), Some(0xffff_8000_8001_0800));
        assert_eq!(next(0xffff_8000_8005_0000), None);
        assert_eq!(map.similar("vectros", 1), ["vectors"]);
        let moved = map.at(0x20_0000);
        assert_eq!(moved.by_name("_text"), Some(Gva(0xffff_8000_8020_0000)));
        assert_eq!(
            located(&moved, 0xffff_8000_8021_0804),
            Some(("vectors".into(), 4))
        );
    }

    #[test]
    fn what_is_no_map() {
        let error = |text: &str| SystemMap::parse(text.as_bytes()).unwrap_err();
        assert_eq!(error(""), BadMap::Count(0));
        assert_eq!(
            error("ffff800080000000 T _text\nhello world\n"),
            BadMap::Line(2)
        );
        assert_eq!(error("ffff800080000000 T _text"), BadMap::NoVectors);
        assert_eq!(
            error("ffff000000000000 T vectors\nffff800080000000 T _text"),
            BadMap::TooWide
        );
    }

    #[test]
    fn a_name_cannot_command_a_terminal() {
        let error = SystemMap::parse(b"ffff800080000000 T \x1b[2Jx\n").unwrap_err();
        assert_eq!(error, BadMap::Line(1));
        let file = elf::build::file(&[(BASE, "\x1b[2Jx")]);
        let error = SystemMap::parse(&file).unwrap_err();
        assert_eq!(error, BadMap::ElfName { offset: 1 });
    }

    #[test]
    fn an_elf_file_is_read() {
        let file = elf::build::file(&[
            (BASE + 0x800, "vectors"),
            (BASE, "$x"),
            (BASE, "_text"),
            (0x1000, "low"),
            (BASE + 0x1000, "_end"),
        ]);
        let map = SystemMap::parse(&file).unwrap();
        assert_eq!(map.count(), 3);
        assert_eq!(map.by_name("vectors"), Some(Gva(BASE + 0x800)));
        assert_eq!(located(&map, BASE + 4), Some(("_text".into(), 4)));
    }

    #[test]
    fn what_is_no_elf_file_of_a_kernel() {
        let error = |file: &[u8]| SystemMap::parse(file).unwrap_err();
        let file = elf::build::file(&[(BASE, "vectors")]);
        for length in 20..file.len() {
            assert_eq!(error(&file[..length]), BadMap::CutElf, "{length}");
        }
        assert_eq!(error(b"\x7fELF\x02\x01\x01"), BadMap::OtherElf);
        let mut other = file.clone();
        other[18] = 62;
        assert_eq!(error(&other), BadMap::OtherElf, "x86-64");
        assert_eq!(error(&elf::build::file(&[])), BadMap::Count(0));
        let mut stripped = file;
        let kind = stripped.len() - 3 * 64 + 4;
        stripped[kind] = 1;
        assert_eq!(error(&stripped), BadMap::Stripped);
    }

    proptest! {
        #[test]
        fn any_bytes_parse_or_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = SystemMap::parse(&bytes);
        }

        #[test]
        fn a_damaged_elf_file_parses_or_is_refused(
            damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        ) {
            let mut file = elf::build::file(&[(BASE, "vectors"), (BASE + 8, "f")]);
            for (at, value) in damage {
                let at = at.index(file.len());
                file[at] = value;
            }
            let _ = SystemMap::parse(&file);
        }

        #[test]
        fn every_symbol_is_found_both_ways(
            offsets in prop::collection::btree_set(0..0x10_0000_u64, 1..60),
        ) {
            let mut text = String::from("ffff800080200000 T vectors\n");
            for offset in &offsets {
                text += &format!("{:x} t f{offset}\n", 0xffff_8000_8000_0000 + offset);
            }
            let map = SystemMap::parse(text.as_bytes()).unwrap();
            for offset in &offsets {
                let (name, address) = (format!("f{offset}"), 0xffff_8000_8000_0000 + offset);
                prop_assert_eq!(map.by_name(&name), Some(Gva(address)));
                prop_assert_eq!(located(&map, address), Some((name, 0)));
            }
        }
    }
}
