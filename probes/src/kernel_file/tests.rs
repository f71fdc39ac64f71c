//! Files of a small kernel, read back by the crates that host tools read such files with.

use super::*;
use crate::addr::Gva;
use crate::fake::FakeSymbols;
use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use ebpf::btf::{HEADER, Kind, MAGIC};
use gimli::{
    AttributeValue, DW_AT_name, DW_TAG_subprogram, Dwarf, EndianSlice, LittleEndian, UnwindSection,
};
use object::{Object, ObjectSection, ObjectSymbol};

const TEXT: u64 = 0xffff_a501_6600_0000;
const INIT: u64 = TEXT + 0x3000;
const END: u64 = TEXT + 0x5000;
const MODULE: u64 = END + 0x10_0000;

/// Address, kind and name.
const KERNEL: [(u64, char, &str); 15] = [
    (TEXT, 'T', "_text"),
    (TEXT + 0x1000, 'T', "_stext"),
    (TEXT + 0x1000, 'T', "open"),
    (TEXT + 0x1020, 't', "twice"),
    (TEXT + 0x1040, 't', "twice"),
    (TEXT + 0x1060, 'T', "many"),
    (TEXT + 0x1060, 'W', "alias"),
    (TEXT + 0x10c0, 't', "plain"),
    (TEXT + 0x2000, 'T', "_etext"),
    (INIT, 'T', "_sinittext"),
    (INIT + 0x1000, 'T', "_einittext"),
    (INIT + 0x1010, 'd', "counter"),
    (END, 'B', "_end"),
    (MODULE, 't', "driver:probe"),
    (MODULE + 0x20, 't', "driver:remove"),
];

fn kernel() -> FakeSymbols {
    FakeSymbols::with_kinds(KERNEL.map(|(address, kind, name)| (Gva(address), kind, name)))
}

/// Types under construction.
#[derive(Default)]
pub(super) struct Builder {
    words: Vec<u32>,
    count: u32,
    strings: Vec<u8>,
}

impl Builder {
    fn name(&mut self, name: &str) -> u32 {
        if self.strings.is_empty() {
            self.strings.push(0);
        }
        if name.is_empty() {
            return 0;
        }
        let at = self.strings.len() as u32;
        self.strings.extend_from_slice(name.as_bytes());
        self.strings.push(0);
        at
    }

    /// Adds a type and returns its number.
    pub(super) fn add(
        &mut self,
        name: &str,
        kind: Kind,
        count: u32,
        third: u32,
        rest: &[u32],
    ) -> u32 {
        let name = self.name(name);
        let info = (kind as u32) << 24 | count;
        self.words.extend([name, info, third]);
        self.words.extend(rest);
        self.count += 1;
        self.count
    }

    pub(super) fn int(&mut self, name: &str, size: u32) -> u32 {
        self.add(name, Kind::Int, 0, size, &[(1 << 24) | (size * 8)])
    }

    pub(super) fn pointer(&mut self, to: u32) -> u32 {
        self.add("", Kind::Ptr, 0, to, &[])
    }

    pub(super) fn structure(&mut self, name: &str, size: u32, members: &[(&str, u32, u32)]) -> u32 {
        let mut rest = Vec::new();
        for (name, ty, bits) in members {
            rest.extend([self.name(name), *ty, *bits]);
        }
        self.add(name, Kind::Struct, members.len() as u32, size, &rest)
    }

    pub(super) fn function(&mut self, name: &str, result: u32, parameters: &[(&str, u32)]) -> u32 {
        let mut rest = Vec::new();
        for (name, ty) in parameters {
            rest.extend([self.name(name), *ty]);
        }
        let prototype = self.add("", Kind::FuncProto, parameters.len() as u32, result, &rest);
        self.add(name, Kind::Func, 0, prototype, &[])
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::from(MAGIC);
        bytes.extend([1, 0]);
        let length = 4 * self.words.len() as u32;
        let header = [HEADER as u32, 0, length, length, self.strings.len() as u32];
        bytes.extend(header.into_iter().flat_map(u32::to_le_bytes));
        bytes.extend(self.words.iter().flat_map(|word| word.to_le_bytes()));
        bytes.extend(&self.strings);
        bytes
    }
}

fn types() -> Vec<u8> {
    let mut btf = Builder::default();
    let int = btf.int("int", 4);
    let long = btf.int("long int", 8);
    let character = btf.int("char", 1);
    let constant = btf.add("", Kind::Const, 0, character, &[]);
    let text = btf.pointer(constant);
    let array = btf.add("", Kind::Array, 0, 0, &[long, int, 3]);
    let node = btf.count + 2;
    let next = btf.pointer(node);
    let members = [("next", next, 0), ("", array, 64), ("flags", int, 256)];
    assert_eq!(btf.structure("node", 40, &members), node);
    let color = [btf.name("RED"), 0, btf.name("GREEN"), 7];
    btf.add("color", Kind::Enum, 2, 4, &color);
    btf.function(
        "open",
        long,
        &[("fd", int), ("path", text), ("by_value", node)],
    );
    btf.function("twice", int, &[("x", int)]);
    let parameters: Vec<_> = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"]
        .into_iter()
        .map(|name| (name, int))
        .chain([("", 0)])
        .collect();
    btf.function("many", 0, &parameters);
    btf.function("alias", 0, &[]);
    btf.add("counter", Kind::Var, 0, long, &[0]);
    btf.bytes()
}

const BUILD_ID: [u8; 20] = *b"an ID of twenty byte";

/// All functions have a frame of 32 bytes, from the second instruction on; modules cannot be read.
fn read_code(address: u64, buffer: &mut [u8]) -> Option<()> {
    // stp x29, x30, [sp, #-32]!; nop
    let words = [0xa9be_7bfd_u32, 0xd503_201f].map(u32::to_le_bytes);
    let is_there = (TEXT..END).contains(&address);
    for (index, byte) in buffer.iter_mut().enumerate() {
        let at = (address - TEXT) as usize + index;
        *byte = words[usize::from(at % 32 > 3)][at % 4];
    }
    is_there.then_some(())
}

fn file(types: Option<Vec<u8>>) -> KernelFile {
    let contents = Contents {
        symbols: &kernel(),
        types,
        build_id: Some(BUILD_ID.to_vec()),
        code: Some(Box::new(read_code)),
    };
    KernelFile::open(contents).expect("a kernel's symbols")
}

fn whole(file: &KernelFile) -> Vec<u8> {
    file.read(0, usize::MAX, ToOwned::to_owned)
        .expect("a short file")
}

#[test]
fn symbols_have_sections_sizes_and_scopes() {
    let bytes = whole(&file(None));
    let elf = object::File::parse(&bytes[..]).expect("an ELF file");
    assert_eq!(elf.architecture(), object::Architecture::Aarch64);
    assert_eq!(elf.build_id(), Ok(Some(&BUILD_ID[..])));
    let parts = elf.sections().filter(|section| section.address() != 0);
    let parts: Vec<_> = parts
        .map(|part| (part.name().unwrap(), part.address(), part.size()))
        .collect();
    assert_eq!(
        parts,
        [
            (".head.text", TEXT, 0x1000),
            (".text", TEXT + 0x1000, 0x1000),
            (".rodata", TEXT + 0x2000, 0x1000),
            (".init.text", INIT, 0x1000),
            (".data", INIT + 0x1000, 0x1000),
            (".text.driver", MODULE, 0x1000),
        ]
    );
    let symbol = |name: &str| {
        let mut symbols = elf.symbols();
        let symbol = symbols.find(|symbol| symbol.name() == Ok(name)).unwrap();
        (symbol.address(), symbol.size(), symbol.is_global())
    };
    assert_eq!(symbol("open"), (TEXT + 0x1000, 0x20, true));
    assert_eq!(symbol("plain"), (TEXT + 0x10c0, 0xf40, false));
    assert_eq!(symbol("counter"), (INIT + 0x1010, 0xff0, false));
    assert_eq!(symbol("alias").0, symbol("many").0);
    assert_eq!(symbol("probe"), (MODULE, 0x20, false));
    assert_eq!(elf.symbols().count(), KERNEL.len());
    assert!(elf.section_by_name(".debug_info").is_none());
}

#[test]
fn windows_of_a_file_are_those_of_the_whole() {
    let expected = whole(&file(Some(types())));
    let file = file(Some(types()));
    assert_eq!(file.length(), Ok(expected.len()));
    // The headers, as debuggers begin with, then from the end to the beginning and over it.
    let mut bytes = vec![0; expected.len()];
    let starts = (0..expected.len()).step_by(97);
    for start in [0].into_iter().chain(starts.rev()) {
        file.read(start, 100, |read| {
            bytes[start..start + read.len()].copy_from_slice(read);
        })
        .unwrap();
    }
    assert_eq!(bytes, expected);
    for start in [expected.len(), usize::MAX] {
        assert_eq!(file.read(start, 100, <[u8]>::len), Ok(0));
    }
}

type Slice<'a> = EndianSlice<'a, LittleEndian>;

/// Calls `visit` with the DWARF in a file and its only unit.
fn with_unit(bytes: &[u8], visit: impl FnOnce(&Dwarf<Slice<'_>>, &gimli::Unit<Slice<'_>>)) {
    let elf = object::File::parse(bytes).expect("an ELF file");
    let section = |id: gimli::SectionId| -> Result<_, gimli::Error> {
        let section = elf.section_by_name(id.name());
        let data = section.map_or(&[][..], |section| section.data().unwrap());
        Ok(EndianSlice::new(data, LittleEndian))
    };
    let dwarf = Dwarf::load(section).unwrap();
    let mut units = dwarf.units();
    let header = units.next().unwrap().expect("a unit");
    assert!(units.next().unwrap().is_none());
    visit(&dwarf, &dwarf.unit(header).unwrap());
}

/// Every entry as a line: depth, tag, name and what tells it apart. Types are the names of what they lead to.
fn outline(bytes: &[u8]) -> String {
    let mut out = String::new();
    with_unit(bytes, |dwarf, unit| {
        let mut entries = unit.entries();
        while let Some(entry) = entries.next_dfs().unwrap() {
            let depth = entry.depth() as usize;
            out += &format!("{}{}", "  ".repeat(depth), entry.tag());
            for attribute in entry.attrs() {
                let value = match attribute.value() {
                    value if attribute.name() == DW_AT_name => {
                        let name = dwarf.attr_string(unit, value).unwrap();
                        name.to_string_lossy().into_owned()
                    }
                    AttributeValue::UnitRef(offset) => {
                        let target = unit.entry(offset).unwrap();
                        format!("->{}", target.tag())
                    }
                    AttributeValue::Udata(number) => format!("{number}"),
                    AttributeValue::LocationListsRef(_) => {
                        locations(dwarf, unit, attribute.value())
                    }
                    _ => continue,
                };
                out += &format!(" {value}");
            }
            out += "\n";
        }
    });
    out.replace("DW_TAG_", "")
}

fn locations(
    dwarf: &Dwarf<Slice<'_>>,
    unit: &gimli::Unit<Slice<'_>>,
    value: AttributeValue<Slice<'_>>,
) -> String {
    let mut list = dwarf.attr_locations(unit, value).unwrap().unwrap();
    let mut out = String::new();
    while let Some(entry) = list.next().unwrap() {
        let (begin, end) = (entry.range.begin - TEXT, entry.range.end - TEXT);
        out += &format!("[{begin:x}..{end:x}: ");
        let mut operations = entry.data.operations(unit.encoding());
        while let Some(operation) = operations.next().unwrap() {
            out += &format!("{operation:?} ");
        }
        out = out.trim_end().to_string() + "]";
    }
    out
}

#[test]
fn types_functions_and_variables_read_back() {
    let bytes = whole(&file(Some(types())));
    let outline = outline(&bytes);
    let expected = "\
compile_unit vmlinux
  unspecified_type ?
  base_type int 4
  base_type long int 8
  base_type char 1
  const_type ->base_type
  pointer_type ->const_type
  array_type ->base_type
    subrange_type 3
  pointer_type ->structure_type
  structure_type node 40
    member next ->pointer_type 0
    member ->array_type 8
    member flags ->base_type 32
  enumeration_type color 4
    enumerator RED 0
    enumerator GREEN 7
  subprogram open 32 ->base_type
    formal_parameter fd ->base_type [1000..1004: Register { register: Register(0) }]
    formal_parameter path ->pointer_type [1000..1004: Register { register: Register(1) }]
    formal_parameter by_value ->structure_type [1000..1004: \
        RegisterOffset { register: Register(2), offset: 0, base_type: UnitOffset(0) }]
  subprogram many 96
    formal_parameter a ->base_type [1060..1064: Register { register: Register(0) }]
";
    assert!(
        outline.starts_with(expected),
        "{outline}\ninstead of\n{expected}"
    );
    let stack = "formal_parameter j ->base_type [1060..1064: \
        RegisterOffset { register: Register(31), offset: 8, base_type: UnitOffset(0) }]
    unspecified_parameters
";
    assert!(outline.contains(stack), "{outline}");
    assert!(
        outline.ends_with("  variable counter ->base_type\n"),
        "{outline}"
    );
    // Of two functions with a name BTF does not say which it means, and of two names for a function one is enough.
    assert!(
        !outline.contains("twice") && !outline.contains("alias"),
        "{outline}"
    );
}

#[test]
fn functions_are_where_their_symbols_are() {
    let bytes = whole(&file(Some(types())));
    with_unit(&bytes, |dwarf, unit| {
        let mut entries = unit.entries();
        let mut places = Vec::new();
        while let Some(entry) = entries.next_dfs().unwrap() {
            if entry.tag() == DW_TAG_subprogram {
                let mut ranges = dwarf.die_ranges(unit, entry).unwrap();
                let range = ranges.next().unwrap().unwrap();
                places.push((range.begin, range.end));
            }
        }
        let open = (TEXT + 0x1000, TEXT + 0x1020);
        assert_eq!(places, [open, (TEXT + 0x1060, TEXT + 0x10c0)]);
        let mut ranges = dwarf.unit_ranges(unit).unwrap();
        let mut code = Vec::new();
        while let Some(range) = ranges.next().unwrap() {
            code.push(range.begin);
        }
        assert_eq!(code, [TEXT, TEXT + 0x1000, INIT, MODULE]);
    });
}

#[test]
fn types_that_lead_into_themselves_are_none() {
    let mut btf = Builder::default();
    // 1: const of itself. 2, 3: pointers to each other. 4: a structure in itself. 5 to 74: pointers to pointers.
    btf.add("", Kind::Const, 0, 1, &[]);
    btf.pointer(3);
    btf.pointer(2);
    btf.structure("inside", 8, &[("inside", 4, 0)]);
    for number in 5..75 {
        btf.pointer(number + 1);
    }
    let int = btf.int("int", 4);
    assert_eq!(int, 75);
    // What a kernel has: a structure that points to itself, past a qualifier.
    btf.structure("node", 8, &[("next", 78, 0)]);
    btf.add("", Kind::Const, 0, 76, &[]);
    btf.pointer(77);
    let outline = outline(&whole(&file(Some(btf.bytes()))));
    let count = |line: &str| outline.lines().filter(|other| other.trim() == line).count();
    assert_eq!(count("const_type ->const_type"), 0, "{outline}");
    assert_eq!(count("const_type ->structure_type"), 1, "{outline}");
    assert_eq!(count("structure_type node 8"), 1, "{outline}");
    assert_eq!(count("member next ->pointer_type 0"), 1, "{outline}");
    assert!(!outline.contains("inside"), "{outline}");
    // The chain of 70 has been cut in one place.
    assert_eq!(count("pointer_type ->base_type"), 1, "{outline}");
    assert_eq!(count("pointer_type ->unspecified_type"), 2, "{outline}");
}

#[test]
fn functions_have_frames() {
    let bytes = whole(&file(None));
    let elf = object::File::parse(&bytes[..]).expect("an ELF file");
    let section = elf.section_by_name(".debug_frame").expect("frames");
    let frames = gimli::DebugFrame::new(section.data().unwrap(), LittleEndian);
    let bases = gimli::BaseAddresses::default();
    let mut context = gimli::UnwindContext::new();
    let mut entries = frames.entries(&bases);
    let mut functions = Vec::new();
    while let Some(entry) = entries.next().unwrap() {
        if let gimli::CieOrFde::Fde(partial) = entry {
            let function = partial.parse(gimli::DebugFrame::cie_from_offset).unwrap();
            let start = function.initial_address();
            let row = function.unwind_info_for_address(&frames, &bases, &mut context, start);
            functions.push((start, function.len(), row.unwrap().cfa().clone()));
        }
    }
    let entry = gimli::CfaRule::RegisterAndOffset {
        register: gimli::Register(31),
        offset: 0,
    };
    let starts: Vec<_> = functions.iter().map(|function| function.0).collect();
    let of_kernel = [0, 0x1000, 0x1020, 0x1040, 0x1060, 0x10c0].map(|offset| TEXT + offset);
    // The code of the module cannot be read.
    assert_eq!(starts, [&of_kernel[..], &[INIT]].concat());
    assert_eq!(functions[1], (TEXT + 0x1000, 0x20, entry));
}

#[test]
fn files_are_told_apart_by_what_is_in_them() {
    let at = |offset: u64| {
        let moved = KERNEL.map(|(address, kind, name)| (Gva(address + offset), kind, name));
        let identity = Identity::of(&FakeSymbols::with_kinds(moved), BUILD_ID).expect("a kernel");
        let module = MODULE + offset;
        (identity, identity.with_function("driver", module, "probe"))
    };
    let (plain, with_module) = at(0);
    assert_eq!(plain.start, TEXT + 0x1000);
    assert_ne!(plain.contents, with_module.contents);
    let other = [
        plain.with_function("driver", MODULE + 4, "probe"),
        plain.with_function("driver", MODULE, "remove"),
        plain.with_function("drive", MODULE, "rprobe"),
    ];
    for identity in other {
        assert_ne!(identity.contents, with_module.contents);
    }
    // KASLR moves all of it.
    let (moved, moved_with_module) = at(0x20_0000);
    assert_eq!(moved.start, TEXT + 0x20_1000);
    assert_eq!(moved.contents, plain.contents);
    assert_eq!(moved_with_module.contents, with_module.contents);
    let shown = plain.to_string();
    assert!(
        shown.starts_with("616e204944206f66207477656e74792062797465 "),
        "{shown}"
    );
    assert!(shown.ends_with(" ffffa50166001000\n"), "{shown}");
    // Another table of the same kernel's symbols makes another file, at the same place.
    let named = KERNEL.map(|(address, kind, name)| (Gva(address), kind, name));
    let poorer = named.into_iter().filter(|(_, _, name)| *name != "_end");
    let poorer = FakeSymbols::with_kinds(poorer);
    let poorer = Identity::of(&poorer, BUILD_ID).expect("a kernel");
    assert_eq!(poorer.start, plain.start);
    assert_ne!(poorer.contents, plain.contents);
}

#[test]
fn what_is_no_kernel_has_no_file() {
    let symbols = FakeSymbols::new([(Gva(TEXT), "start")]);
    assert!(!is_of_kernel(&symbols));
    let contents = Contents {
        symbols: &symbols,
        types: None,
        build_id: None,
        code: None,
    };
    let refused = KernelFile::open(contents).err();
    assert_eq!(refused, Some(NoFile::NoSymbol("_stext")));
}

#[test]
fn types_that_are_none_leave_the_symbols() {
    let bytes = whole(&file(Some(b"no types".to_vec())));
    let elf = object::File::parse(&bytes[..]).expect("an ELF file");
    assert_eq!(elf.symbols().count(), KERNEL.len());
    assert!(elf.section_by_name(".debug_info").is_none());
}
