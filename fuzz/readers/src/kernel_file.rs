//! The file that is made of a kernel's symbols and types, on any types: it can be read to its end, and no type leads into itself.

use crate::btf::framed;
use gimli::{
    AttributeValue, DW_TAG_formal_parameter, DW_TAG_member, DW_TAG_pointer_type,
    DW_TAG_structure_type, DW_TAG_subroutine_type, DW_TAG_union_type, DwTag, EndianSlice,
    LittleEndian, UnitOffset,
};
use object::{Object, ObjectSection};
use probes::addr::Gva;
use probes::fake::FakeSymbols;
use probes::kernel_file::{Contents, KernelFile};
use std::collections::HashMap;

const TEXT: u64 = 0xffff_8000_8000_0000;
/// Symbols with names that types can have.
const SYMBOLS: [(Gva, &str); 8] = [
    (Gva(TEXT), "_stext"),
    (Gva(TEXT + 0x100), "a"),
    (Gva(TEXT + 0x200), "b"),
    (Gva(TEXT + 0x300), "c"),
    (Gva(TEXT + 0x400), ""),
    (Gva(TEXT + 0x1000), "_etext"),
    (Gva(TEXT + 0x1000), "_sinittext"),
    (Gva(TEXT + 0x2000), "_einittext"),
];
/// Types inside each other that a debugger has to follow, at most.
const DEEPEST: usize = 3 * 64;
/// Bytes of a file for each byte of the types, and those of one without types.
const PER_BYTE: usize = 40;
const BARE: usize = 4096;

/// Makes a file of any types and reads all of it.
pub fn check(bytes: &[u8]) {
    let types = framed(bytes);
    let most = BARE + PER_BYTE * types.len();
    let file = KernelFile::open(Contents {
        symbols: &FakeSymbols::new(SYMBOLS),
        types: Some(types),
        build_id: None,
        code: None,
    });
    let file = file.expect("the symbols are a kernel's");
    let length = file.length().expect("it is short");
    let bytes = file
        .read(0, usize::MAX, <[u8]>::to_vec)
        .expect("it is short");
    assert_eq!(bytes.len(), length);
    assert!(length <= most, "{length} bytes, more than {most}");
    read(&bytes);
}

/// What an entry refers to, and the tag of each.
type Entries = HashMap<UnitOffset, (DwTag, Vec<UnitOffset>)>;

fn read(bytes: &[u8]) {
    let elf = object::File::parse(bytes).expect("an ELF file");
    let section = |id: gimli::SectionId| -> Result<_, gimli::Error> {
        let section = elf.section_by_name(id.name());
        let data = section.map_or(&[][..], |section| section.data().expect("it is inside"));
        Ok(EndianSlice::new(data, LittleEndian))
    };
    let dwarf = gimli::Dwarf::load(section).expect("the sections are there");
    let mut units = dwarf.units();
    while let Some(header) = units.next().expect("a header") {
        let unit = dwarf.unit(header).expect("a unit");
        let mut entries = Entries::new();
        let mut whole = None;
        let mut list = unit.entries();
        while let Some(entry) = list.next_dfs().expect("an entry") {
            let mut refers = Vec::new();
            for attribute in entry.attrs() {
                match attribute.value() {
                    AttributeValue::UnitRef(offset) => refers.push(offset),
                    AttributeValue::LocationListsRef(_) => {
                        let list = dwarf.attr_locations(&unit, attribute.value());
                        let mut list = list.expect("a list").expect("a list");
                        while list.next().expect("a location").is_some() {}
                    }
                    value => drop(dwarf.attr_string(&unit, value)),
                }
            }
            // What a part refers to is what the whole is made of.
            if [DW_TAG_member, DW_TAG_formal_parameter].contains(&entry.tag()) {
                let whole: &mut (DwTag, Vec<_>) = whole
                    .and_then(|offset| entries.get_mut(&offset))
                    .expect("a part is in something");
                whole.1.append(&mut refers);
            } else if entry.has_children() {
                whole = Some(entry.offset());
            }
            entries.insert(entry.offset(), (entry.tag(), refers));
        }
        let mut depths = HashMap::new();
        for offset in entries.keys() {
            follow(&entries, *offset, &mut depths);
        }
    }
}

/// How many types deep a debugger follows one, where pointers to structures and prototypes with such end its way. Fails where it has no end.
fn follow(entries: &Entries, from: UnitOffset, depths: &mut HashMap<UnitOffset, usize>) -> usize {
    if let Some(depth) = depths.get(&from) {
        assert!(*depth <= DEEPEST, "types without end at {from:?}");
        return *depth;
    }
    depths.insert(from, usize::MAX);
    let (tag, refers) = &entries[&from];
    let mut depth = 0;
    for inner in refers {
        let is_lazy = [DW_TAG_pointer_type, DW_TAG_subroutine_type].contains(tag);
        let ends = is_lazy && leads_to_composite(entries, *inner);
        assert!(entries.contains_key(inner), "{from:?} refers to no entry");
        if !ends {
            depth = depth.max(1 + follow(entries, *inner, depths));
        }
    }
    depths.insert(from, depth);
    depth
}

/// Whether what is behind qualifiers, arrays and names is a structure or union.
fn leads_to_composite(entries: &Entries, mut at: UnitOffset) -> bool {
    for _ in 0..DEEPEST {
        let (tag, refers) = &entries[&at];
        if [DW_TAG_structure_type, DW_TAG_union_type].contains(tag) {
            return true;
        }
        match refers[..] {
            [inner] => at = inner,
            _ => return false,
        }
    }
    false
}
