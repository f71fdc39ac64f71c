//! One module and the symbols of its code.

use super::list::Node;
use crate::addr::{Gva, PAGE_SIZE};
use crate::kernel_memory::KernelMemory;
use crate::symbols::{NameIndex, hash};
use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Range;

/// How many bytes of a `struct module` are searched for its `core_kallsyms`; it has 0x380 to 0x500.
const KALLSYMS_SEARCHED: usize = 0x800;
/// Symbols that a module may have.
const MAX_SYMBOLS: u64 = 1 << 16;
/// Longest name of a symbol that is kept.
const MAX_NAME: usize = 128;
/// Bytes of an `Elf64_Sym`.
const SYMBOL_SIZE: usize = 24;
/// Symbols that are read at once: about a page.
const BATCH: u64 = PAGE_SIZE / SYMBOL_SIZE as u64;

/// A module that is loaded.
#[derive(Debug)]
pub(crate) struct Module {
    /// Its `struct module`.
    pub(super) at: Gva,
    pub(crate) name: String,
    /// Where its functions are.
    pub(super) range: Range<Gva>,
    /// Address and start in `names`, by address.
    symbols: Vec<(Gva, u32)>,
    /// All names, each ended by a zero.
    names: String,
    by_name: NameIndex,
}

/// `struct mod_kallsyms` (`include/linux/module.h`).
#[derive(Clone, Copy, Debug)]
struct Kallsyms {
    symtab: Gva,
    count: u64,
    strtab: Gva,
    typetab: Gva,
}

impl Kallsyms {
    fn read(memory: &KernelMemory<'_>, at: Gva) -> Option<Self> {
        let [symtab, count, strtab, typetab] = memory.words(at)?;
        // `num_symtab` is an `unsigned int`.
        let count = count & 0xffff_ffff;
        let in_kernel = [symtab, strtab, typetab].iter().all(|at| at >> 63 == 1);
        let is_plausible = in_kernel && (1..=MAX_SYMBOLS).contains(&count);
        // The first entry of a symbol table is all zero (ELF, "Symbol Table").
        let first: [u64; 3] = memory.words(Gva(symtab))?;
        (is_plausible && first == [0; 3]).then_some(Self {
            symtab: Gva(symtab),
            count,
            strtab: Gva(strtab),
            typetab: Gva(typetab),
        })
    }
}

/// The `core_kallsyms` of a live `struct module`: the one place in it that another of its fields,
/// `kallsyms`, points to, and that looks like a `mod_kallsyms`.
fn core_kallsyms(memory: &KernelMemory<'_>, module: Gva) -> Option<Kallsyms> {
    let bytes = memory.read_some(module, KALLSYMS_SEARCHED);
    let words = bytes.chunks_exact(8).map(|word| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(word);
        u64::from_le_bytes(bytes)
    });
    let end = module.0.saturating_add(bytes.len() as u64);
    let mut inside = words.filter(|word| (module.0 + 8..end).contains(word) && word % 8 == 0);
    inside.find_map(|at| Kallsyms::read(memory, Gva(at)))
}

/// Whether a live `struct module` has symbols.
pub(super) fn has_kallsyms(memory: &KernelMemory<'_>, module: Gva) -> bool {
    core_kallsyms(memory, module).is_some()
}

impl Module {
    /// Reads the symbols of a live module; they may take `room` bytes.
    pub(super) fn read(memory: &KernelMemory<'_>, node: &Node, room: usize) -> Option<Self> {
        let kallsyms = core_kallsyms(memory, node.module)?;
        let mut module = Self {
            at: node.module,
            name: node.name.clone(),
            range: Gva(u64::MAX)..Gva(0),
            symbols: Vec::new(),
            names: String::new(),
            by_name: NameIndex::default(),
        };
        let mut next = 0;
        while next < kallsyms.count && module.bytes() < room {
            let count = BATCH.min(kallsyms.count - next);
            module.read_batch(memory, &kallsyms, next, count)?;
            next += count;
        }
        module.symbols.sort_by_key(|(address, _)| *address);
        let name_hash = |index: usize| hash(module.text(module.symbols[index].1));
        module.by_name = NameIndex::of(module.symbols.len(), name_hash).ok()?;
        (!module.symbols.is_empty()).then_some(module)
    }

    /// What it takes of the hypervisor's memory.
    pub(super) fn bytes(&self) -> usize {
        self.names.len() + self.symbols.len() * (size_of::<(Gva, u32)>() + 8)
    }

    fn read_batch(
        &mut self,
        memory: &KernelMemory<'_>,
        kallsyms: &Kallsyms,
        first: u64,
        count: u64,
    ) -> Option<()> {
        let mut entries = [0; BATCH as usize * SYMBOL_SIZE];
        let entries = &mut entries[..count as usize * SYMBOL_SIZE];
        let from = first * SYMBOL_SIZE as u64;
        memory.read(kallsyms.symtab.checked_add(from)?, entries)?;
        let mut types = [0; BATCH as usize];
        let types = &mut types[..count as usize];
        memory.read(kallsyms.typetab.checked_add(first)?, types)?;
        for (entry, kind) in entries.chunks_exact(SYMBOL_SIZE).zip(types) {
            if matches!(kind, b't' | b'T' | b'w' | b'W') {
                self.add(memory, kallsyms.strtab, entry);
            }
        }
        Some(())
    }

    /// Adds a function; what makes no sense is left out.
    fn add(&mut self, memory: &KernelMemory<'_>, strtab: Gva, entry: &[u8]) {
        let word = |at: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&entry[at..at + 8]);
            u64::from_le_bytes(bytes)
        };
        let name_at = u64::from(word(0) as u32);
        let (address, size) = (Gva(word(8)), word(16));
        let Some(end) = address.checked_add(size.clamp(4, 1 << 20)) else {
            return;
        };
        let Some(name_at) = strtab.checked_add(name_at) else {
            return;
        };
        let bytes = memory.read_some(name_at, MAX_NAME);
        let length = bytes.iter().position(|byte| *byte == 0).unwrap_or(0);
        let Ok(name) = core::str::from_utf8(&bytes[..length]) else {
            return;
        };
        // Mapping symbols ($x, $d) name no function.
        let is_function = !name.is_empty() && !name.starts_with('$');
        if !is_function || address.0 >> 63 == 0 || name.contains(char::is_control) {
            return;
        }
        let Ok(start) = u32::try_from(self.names.len()) else {
            return;
        };
        self.symbols.push((address, start));
        self.names.push_str(name);
        self.names.push('\0');
        self.range.start = self.range.start.min(address);
        self.range.end = self.range.end.max(end);
    }

    fn text(&self, start: u32) -> &str {
        let rest = self.names.get(start as usize..).unwrap_or_default();
        rest.split('\0').next().unwrap_or_default()
    }

    /// Its functions, by address.
    pub(super) fn functions(&self) -> impl Iterator<Item = (Gva, &str)> {
        let symbols = self.symbols.iter();
        symbols.map(|(address, start)| (*address, self.text(*start)))
    }

    /// Its functions of that name, by address.
    pub(super) fn named<'a>(&'a self, wanted: &'a str) -> impl Iterator<Item = (Gva, &'a str)> {
        let candidates = self.by_name.candidates(wanted);
        let functions = candidates.map(|index| {
            let (address, name) = self.symbols[index];
            (address, self.text(name))
        });
        functions.filter(move |(_, name)| *name == wanted)
    }

    /// The first address after `address` where a function begins.
    pub(super) fn next_after(&self, address: Gva) -> Option<Gva> {
        let next = self.symbols.partition_point(|(start, _)| *start <= address);
        self.symbols.get(next).map(|(start, _)| *start)
    }

    /// The last function at or before an address of its range.
    pub(super) fn function_at(&self, address: Gva) -> Option<(Gva, &str)> {
        if !self.range.contains(&address) {
            return None;
        }
        let after = self.symbols.partition_point(|(start, _)| *start <= address);
        let (start, name) = self.symbols.get(after.checked_sub(1)?)?;
        Some((*start, self.text(*name)))
    }
}
