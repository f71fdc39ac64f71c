//! What looking symbols up costs in the largest tables.

extern crate std;

use crate::addr::Gva;
use crate::kallsyms::build::{Image, LINKED_AT, Layout};
use crate::kallsyms::{self, Placement};
use crate::ksyms::{self, Function, KsymTable};
use crate::symbols::{NameIndex, Symbols, hash};
use crate::system_map::{SystemMap, elf};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use std::time::{Duration, Instant};

const SYMBOLS: u64 = 200_000;
/// Where the symbols begin, and how far they are apart.
const FIRST: u64 = LINKED_AT + 0x40_0000;
const APART: u64 = 16;
/// Every so-manyth is looked up.
const STRIDE: usize = 97;
/// For one lookup, on any machine: going through the table takes a hundred times longer.
const LIMIT: Duration = Duration::from_micros(50);

fn name(index: u64) -> String {
    format!("fn_{:04x}_{index}", index.wrapping_mul(0x9e37) & 0xffff)
}

/// Looks many symbols up both ways. Names of the table may be longer than those that people type.
fn check(what: &str, symbols: &dyn Symbols) {
    let wanted: Vec<_> = (0..SYMBOLS)
        .step_by(STRIDE)
        .map(|index| (name(index), Gva(FIRST + APART * index)))
        .collect();
    let each = |lookup: &dyn Fn(&str, Gva)| {
        let begin = Instant::now();
        for (name, address) in &wanted {
            lookup(name, *address);
        }
        begin.elapsed() / wanted.len() as u32
    };
    let by_name = each(&|name, address| {
        assert_eq!(symbols.by_name(name), Some(address), "{what}");
    });
    let by_address = each(&|name, address| {
        let found = symbols.by_address(Gva(address.0 + 4)).expect(what);
        assert!(found.name.ends_with(name) && found.offset == 4, "{what}");
    });
    let unknown = each(&|_, address| {
        assert_eq!(symbols.by_name(&format!("x{address}")), None, "{what}");
    });
    for took in [by_name, by_address, unknown] {
        assert!(
            took < LIMIT,
            "{what}: {by_name:?} {by_address:?} {unknown:?}"
        );
    }
}

#[test]
fn kallsyms() {
    let mut image = Image::new(Layout::Since6_4);
    for index in 0..SYMBOLS {
        let offset = FIRST - LINKED_AT + APART * index;
        image.add(offset, &format!("t{}", name(index)));
    }
    image.add(FIRST - LINKED_AT + APART * SYMBOLS, "B_end");
    let kernel = kallsyms::find(image.bytes(LINKED_AT).as_slice(), Placement::File);
    check("kallsyms", &kernel.expect("a kernel").symbols);
}

#[test]
fn a_loaded_table() {
    let names: Vec<String> = (0..SYMBOLS).map(name).collect();
    let places = names.iter().zip((FIRST..).step_by(APART as usize));
    let mut symbols: Vec<(u64, &str)> = places.map(|(name, at)| (at, name.as_str())).collect();
    symbols.push((FIRST + APART * SYMBOLS, "vectors"));
    let file = elf::build::file(&symbols);
    check("an ELF file", &SystemMap::parse(&file).expect("a table"));
}

#[test]
fn the_hypervisors_own() {
    let function = |index: u64| Function {
        address: FIRST + APART * index,
        size: APART as u32,
        name: format!("<crate::module_{}::Type<u8>>::{}", index % 100, name(index)),
    };
    let table = ksyms::encode((0..SYMBOLS).map(function).collect(), &[]).expect("a table");
    check("ksyms", &KsymTable::parse(&table).expect("a table"));
}

/// How many names a lookup by name reads: the one that it finds, and hardly ever another of the same hash.
#[test]
fn a_lookup_reads_few_names() {
    let names: Vec<String> = (0..SYMBOLS).map(name).collect();
    let index = NameIndex::of(names.len(), |number| hash(&names[number])).expect("an index");
    for (number, name) in names.iter().enumerate() {
        let candidates: Vec<usize> = index.candidates(name).collect();
        assert!(candidates.contains(&number), "{name}");
        assert!(candidates.len() <= 4, "{name}: {candidates:?}");
    }
}
