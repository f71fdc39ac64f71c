//! The hypervisor's own symbol table, which the build puts into its ELF after linking.
//!
//! One section, little-endian: the magic `KSYMTAB2`; three `u32`, how many functions, how many
//! inlined functions and how many bytes of names; for each function its `u64` address, `u32` size
//! in bytes and `u32` offset into the names, in order of address; for each function the `u32` hash
//! of the last word of its name and its `u32` number in that order, in order of both; for each
//! inlined function the `u32` offset of its name and in how many places it is inlined as a `u32`;
//! the names, each ended by a zero byte. A section that the build has not filled holds zeros.
//!
//! Names are demangled, without Rust's hash. What of a name a user has to type, `path` says.

mod path;

use crate::addr::Gva;
use crate::similar::Suggestions;
use crate::symbols::{Located, Named, Symbols};
use alloc::string::{String, ToString};
use alloc::vec::Vec;
pub use path::{answers_to, last_words};

const MAGIC: &[u8; 8] = b"KSYMTAB2";
const HEADER: usize = 20;
const FUNCTION: usize = 16;
const INDEX: usize = 8;
const INLINED: usize = 8;

/// A function of the hypervisor.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Function {
    /// Its first instruction (an address at EL2).
    pub address: u64,
    /// How many bytes it takes; 0 where the assembler has not said.
    pub size: u32,
    /// Its demangled path.
    pub name: String,
}

/// A function that the compiler has inlined somewhere.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Inlined {
    /// Its demangled path.
    pub name: String,
    /// In how many places.
    pub places: u32,
}

/// Makes the table; sorts what it gets. `None` where that is more than 4 GiB.
pub fn encode(mut functions: Vec<Function>, inlined: &[Inlined]) -> Option<Vec<u8>> {
    functions.sort_by_key(|function| function.address);
    let mut names = Vec::new();
    let mut entries = Vec::new();
    let mut intern = |name: &str| {
        let offset = u32::try_from(names.len()).ok();
        names.extend(name.bytes().filter(|byte| *byte != 0));
        names.push(0);
        offset
    };
    for function in &functions {
        entries.extend(function.address.to_le_bytes());
        entries.extend(function.size.to_le_bytes());
        entries.extend(intern(&function.name)?.to_le_bytes());
    }
    let hashes = functions.iter().map(|function| path::hash(&function.name));
    let mut index: Vec<(u32, u32)> = hashes.zip(0..).collect();
    index.sort_unstable();
    for (hash, number) in index {
        entries.extend(hash.to_le_bytes());
        entries.extend(number.to_le_bytes());
    }
    for function in inlined {
        entries.extend(intern(&function.name)?.to_le_bytes());
        entries.extend(function.places.to_le_bytes());
    }
    let mut table = MAGIC.to_vec();
    for count in [functions.len(), inlined.len(), names.len()] {
        table.extend(u32::try_from(count).ok()?.to_le_bytes());
    }
    table.extend(entries);
    table.extend(names);
    Some(table)
}

/// Whether `bytes` begin with a table.
pub fn is_table(bytes: &[u8]) -> bool {
    bytes.starts_with(MAGIC)
}

/// A table in memory. Looking up neither allocates nor trusts the offsets in it.
#[derive(Clone, Copy, Debug)]
pub struct KsymTable<'a> {
    functions: &'a [u8],
    by_last_word: &'a [u8],
    inlined: &'a [u8],
    names: &'a [u8],
}

/// A function of a [`KsymTable`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FunctionRef<'a> {
    /// Its first instruction (an address at EL2).
    pub address: u64,
    /// How many bytes it takes; 0 where the assembler has not said.
    pub size: u64,
    /// Its demangled path.
    pub name: &'a str,
}

impl<'a> KsymTable<'a> {
    /// The table at the start of `bytes`; `None` where there is none, or not all of it.
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        if !is_table(bytes) {
            return None;
        }
        let count = |index: usize| Some(u32_at(bytes, MAGIC.len() + index * 4)? as usize);
        let functions = count(0)?.checked_mul(FUNCTION)?;
        let index = count(0)?.checked_mul(INDEX)?;
        let inlined = count(1)?.checked_mul(INLINED)?;
        let (functions, rest) = bytes.get(HEADER..)?.split_at_checked(functions)?;
        let (by_last_word, rest) = rest.split_at_checked(index)?;
        let (inlined, rest) = rest.split_at_checked(inlined)?;
        Some(Self {
            functions,
            by_last_word,
            inlined,
            names: rest.get(..count(2)?)?,
        })
    }

    fn len(&self) -> usize {
        self.functions.len() / FUNCTION
    }

    /// All functions, in order of address.
    pub fn functions(&self) -> impl Iterator<Item = FunctionRef<'a>> + use<'a> {
        let table = *self;
        (0..table.len()).filter_map(move |index| table.function(index))
    }

    /// The function that holds `address`. One without a size reaches to the next.
    pub fn holding(&self, address: u64) -> Option<FunctionRef<'a>> {
        let found = self.function(self.after(address).checked_sub(1)?)?;
        let reaches = found.size == 0 || address - found.address < found.size;
        reaches.then_some(found)
    }

    /// The functions that answer to `name`, by address: those whose whole path it is, else those
    /// that [`answers_to`] says.
    pub fn named(&self, name: &str) -> impl Iterator<Item = FunctionRef<'a>> {
        let whole = self.ending_like(name).any(|found| found.name == name);
        self.ending_like(name).filter(move |function| {
            if whole {
                function.name == name
            } else {
                answers_to(function.name, name)
            }
        })
    }

    /// The functions whose last word may be that of `name`.
    fn ending_like(&self, name: &str) -> impl Iterator<Item = FunctionRef<'a>> + use<'a> {
        let table = *self;
        let wanted = path::hash(name);
        let hash_at = move |at: usize| u32_at(table.by_last_word, at * INDEX);
        let first = partition_point(self.len(), |at| hash_at(at).is_some_and(|h| h < wanted));
        let entries = (first..self.len()).take_while(move |&at| hash_at(at) == Some(wanted));
        entries.filter_map(move |at| {
            let number = u32_at(table.by_last_word, at * INDEX + 4)?;
            table.function(number as usize)
        })
    }

    /// In how many places functions that answer to `name` are inlined.
    pub fn inlined_places(&self, name: &str) -> u32 {
        let entries = self.inlined.chunks_exact(INLINED);
        let places = entries.filter_map(|entry| {
            let inlined = self.name(u32_at(entry, 0)?)?;
            answers_to(inlined, name).then(|| u32_at(entry, 4))?
        });
        places.fold(0, u32::saturating_add)
    }

    /// How many functions begin at or before `address`.
    fn after(&self, address: u64) -> usize {
        let is_before = |index| self.address(index).is_some_and(|start| start <= address);
        partition_point(self.len(), is_before)
    }

    fn address(&self, index: usize) -> Option<u64> {
        let at = index.checked_mul(FUNCTION)?;
        let bytes = self.functions.get(at..)?.first_chunk()?;
        Some(u64::from_le_bytes(*bytes))
    }

    fn function(&self, index: usize) -> Option<FunctionRef<'a>> {
        let address = self.address(index)?;
        let at = index * FUNCTION;
        Some(FunctionRef {
            address,
            size: u64::from(u32_at(self.functions, at + 8)?),
            name: self.name(u32_at(self.functions, at + 12)?)?,
        })
    }

    fn name(&self, offset: u32) -> Option<&'a str> {
        let name = self.names.get(offset as usize..)?;
        let name = name.split(|&byte| byte == 0).next()?;
        core::str::from_utf8(name).ok()
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// How many of `count` things, which are in order, are before a point.
fn partition_point(count: usize, is_before: impl Fn(usize) -> bool) -> usize {
    let (mut low, mut high) = (0, count);
    while low < high {
        let middle = low + (high - low) / 2;
        if is_before(middle) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    low
}

impl Symbols for KsymTable<'_> {
    fn count(&self) -> usize {
        self.len()
    }

    fn by_name(&self, name: &str) -> Option<Gva> {
        let mut found = self.named(name);
        found.next().map(|function| Gva(function.address))
    }

    fn named(&self, name: &str, limit: usize) -> Vec<Named> {
        let found = KsymTable::named(self, name).take(limit);
        found
            .map(|function| Named {
                address: Gva(function.address),
                name: function.name.to_string(),
            })
            .collect()
    }

    fn by_address(&self, address: Gva) -> Option<Located> {
        let function = self.holding(address.0)?;
        Some(Located {
            name: function.name.to_string(),
            offset: address.0 - function.address,
        })
    }

    fn inlined(&self, name: &str) -> u32 {
        self.inlined_places(name)
    }

    fn next_after(&self, address: Gva) -> Option<Gva> {
        self.address(self.after(address.0)).map(Gva)
    }

    fn similar(&self, name: &str, limit: usize) -> Vec<String> {
        let mut suggestions = Suggestions::new(name, limit);
        // People type the last words of a path.
        let words = path::words(name).count();
        for function in self.functions() {
            suggestions.offer(&last_words(function.name, words));
        }
        suggestions.into_names()
    }

    fn each(&self, visit: &mut dyn FnMut(Gva, &str) -> bool) {
        for function in self.functions() {
            if !visit(Gva(function.address), function.name) {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use proptest::prelude::*;

    fn function(address: u64, size: u32, name: &str) -> Function {
        Function {
            address,
            size,
            name: name.to_string(),
        }
    }

    fn table() -> Vec<u8> {
        let functions = vec![
            function(0x1100, 0x40, "hypervisor::vcpu::Vcpu::run"),
            function(0x1000, 0x80, "handle_guest_exit"),
            function(
                0x1200,
                0x10,
                "<hypervisor::vm::Vm as probes::machine::RunControl>::hold",
            ),
            function(0x1300, 0, "vector_table"),
            function(0x1400, 8, "hypervisor::vm::Vm::hold"),
            function(0x1500, 8, "hypervisor::shell::Shell::run"),
        ];
        let inlined = [Inlined {
            name: "hypervisor::cpu::this".to_string(),
            places: 7,
        }];
        encode(functions, &inlined).unwrap()
    }

    #[test]
    fn addresses_lead_to_functions() {
        let bytes = table();
        let table = KsymTable::parse(&bytes).unwrap();
        let name = |address| table.by_address(Gva(address)).map(|l| (l.name, l.offset));
        assert_eq!(name(0x1000), Some(("handle_guest_exit".to_string(), 0)));
        assert_eq!(name(0x107c), Some(("handle_guest_exit".to_string(), 0x7c)));
        assert_eq!(name(0x1080), None, "behind its end");
        assert_eq!(name(0xfff), None, "before the first");
        assert_eq!(name(0x13fc), Some(("vector_table".to_string(), 0xfc)));
        let next = |address| table.next_after(Gva(address)).map(|next| next.0);
        assert_eq!((next(0xfff), next(0x1000)), (Some(0x1000), Some(0x1100)));
        assert_eq!((next(0x14ff), next(0x1500)), (Some(0x1500), None));
        assert_eq!(table.count(), 6);
    }

    #[test]
    fn a_path_need_not_be_whole() {
        let bytes = table();
        let table = KsymTable::parse(&bytes).unwrap();
        let addresses = |name: &str| -> Vec<u64> {
            let found = Symbols::named(&table, name, 9);
            found.iter().map(|named| named.address.0).collect()
        };
        assert_eq!(addresses("handle_guest_exit"), [0x1000]);
        assert_eq!(addresses("vcpu::Vcpu::run"), [0x1100]);
        assert_eq!(addresses("Vcpu::run"), [0x1100]);
        assert_eq!(addresses("run"), [0x1100, 0x1500], "ambiguous");
        assert_eq!(addresses("Vm::hold"), [0x1200, 0x1400]);
        assert_eq!(addresses("hypervisor::vm::Vm::hold"), [0x1400]);
        assert_eq!(addresses("cpu::Vcpu::run"), [0; 0], "half a word");
        assert_eq!(addresses(""), [0; 0]);
        assert_eq!(table.similar("handle_gest_exit", 2), ["handle_guest_exit"]);
    }

    #[test]
    fn inlined_functions_are_known() {
        let bytes = table();
        let table = KsymTable::parse(&bytes).unwrap();
        assert_eq!(table.inlined_places("cpu::this"), 7);
        assert_eq!(table.inlined_places("this"), 7);
        assert_eq!(table.inlined_places("that"), 0);
    }

    #[test]
    fn what_is_no_table() {
        assert!(KsymTable::parse(&[]).is_none());
        assert!(KsymTable::parse(&[0; 4096]).is_none());
        let bytes = table();
        for length in 0..bytes.len() {
            assert!(KsymTable::parse(&bytes[..length]).is_none(), "{length}");
        }
    }

    proptest! {
        #[test]
        fn damage_is_survived(
            damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
            address in 0x0f00_u64..0x1600,
            name in "[a-z:]{0,12}",
        ) {
            let mut bytes = table();
            for (at, value) in damage {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            if let Some(table) = KsymTable::parse(&bytes) {
                let _ = table.by_address(Gva(address));
                let _ = Symbols::named(&table, &name, 3);
                let _ = table.inlined_places(&name);
                table.each(&mut |_, _| true);
            }
        }
    }
}
