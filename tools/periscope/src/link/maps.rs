//! The maps of an object: their definitions, and which symbols and sections are theirs.

use super::code::Key;
use super::elf::{Elf, Relocation, Role, Section, Symbol};
use super::externs::Externs;
use anyhow::{Context, Result, bail, ensure};
use ebpf::btf::{Btf, Kind, Member};
use ebpf::insn::Insn;
use ebpf::linked::MapTypes;
use ebpf::map::{MapDef, MapKind, Mutability};
use object::SymbolKind;
use std::collections::HashMap;

/// `BPF_F_NO_PREALLOC`, `BPF_F_NO_COMMON_LRU`, `BPF_F_NUMA_NODE`, `BPF_F_MMAPABLE`: about where Linux
/// puts the memory. Nothing changes for a program that is without them.
const HARMLESS_FLAGS: u32 = 1 << 0 | 1 << 1 | 1 << 2 | 1 << 10;

/// The name of the map with the kernel's configuration.
pub(super) const KCONFIG: &str = ".kconfig";

/// How many entries maps have whose definitions leave that to whoever loads them, by name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Entries(HashMap<String, u32>);

impl Entries {
    /// Of words like `start=1024`.
    pub(super) fn parse(words: &[String]) -> Result<Self> {
        let parse = |word: &String| {
            let (name, count) = word.split_once('=')?;
            Some((name.to_owned(), count.parse().ok()?))
        };
        let entries = words.iter().map(|word| {
            parse(word).with_context(|| format!("--map {word}: give a name and a number, a=1024"))
        });
        Ok(Self(entries.collect::<Result<_>>()?))
    }
}

/// Bytes of a backtrace where the definition does not say: Linux' `kernel.perf_event_max_stack`
/// frames.
const BACKTRACE: u32 = 127 * 8;

/// The maps of an object. Their order is libbpf's: those of `.maps`, global data, configuration.
#[derive(Default)]
pub(super) struct Maps {
    pub(super) definitions: Vec<MapDef>,
    /// The object's types of their keys and values.
    pub(super) types: Vec<MapTypes>,
    /// Maps by the section and the place where their definition is.
    by_place: HashMap<(usize, u64), usize>,
    /// Global data by its section.
    by_section: HashMap<usize, usize>,
    /// The map of the configuration.
    pub(super) kconfig: Option<usize>,
    /// The programs that maps of programs hold from the start.
    held: Vec<Held>,
}

/// A program in a slot of a map of programs.
struct Held {
    map: usize,
    slot: usize,
    program: Key,
    /// What the program is called.
    name: String,
}

/// Bytes from one value of `.values` to the next: addresses, for the compiler.
const ADDRESS: u64 = 8;

impl Maps {
    pub(super) fn new(elf: &Elf<'_>, btf: Option<&Btf<'_>>, externs: &Externs) -> Result<Self> {
        let mut maps = Self::default();
        for (index, section) in elf.sections.iter().enumerate() {
            match section.role {
                Role::BtfMaps => maps.add_typed(elf, index, section, btf)?,
                Role::LegacyMaps => maps.add_legacy(elf, index, section)?,
                _ => {}
            }
        }
        for (index, section) in elf.sections.iter().enumerate() {
            if section.role.is_data() {
                maps.add_data(elf, index, section, btf)?;
            }
        }
        if !externs.data.is_empty() {
            let definition = global_data(KCONFIG, Mutability::Frozen, &externs.data);
            maps.kconfig = Some(maps.add(definition, MapTypes::default()));
        }
        Ok(maps)
    }

    /// The map whose definition is at a place.
    pub(super) fn at(&self, section: usize, offset: u64) -> Option<usize> {
        self.by_place.get(&(section, offset)).copied()
    }

    /// The map that holds a section of global data.
    pub(super) fn of_section(&self, section: usize) -> Option<usize> {
        self.by_section.get(&section).copied()
    }

    /// Changes what a map of global data begins with.
    pub(super) fn write(&mut self, map: usize, offset: usize, bytes: &[u8]) -> Result<()> {
        let map = &mut self.definitions[map];
        map.initial.resize(map.value_size as usize, 0);
        let place = map.initial.get_mut(offset..offset + bytes.len());
        let place = place.with_context(|| format!("it lies outside of {}", map.name))?;
        place.copy_from_slice(bytes);
        Ok(())
    }

    fn add(&mut self, definition: MapDef, types: MapTypes) -> usize {
        self.definitions.push(definition);
        self.types.push(types);
        self.definitions.len() - 1
    }

    /// Supplies what definitions leave open, and checks them.
    pub(super) fn complete(&mut self, entries: &Entries) -> Result<()> {
        for map in &mut self.definitions {
            let name = &map.name;
            if let Some(&count) = entries.0.get(name) {
                map.max_entries = count;
            }
            ensure!(
                map.max_entries > 0 || map.kind == MapKind::PerfEventArray,
                "map {name} leaves its size to whoever loads it: say how many entries it has, as \
                 --map {name}=1024"
            );
            if map.kind == MapKind::StackTrace && map.value_size == 0 {
                map.value_size = BACKTRACE;
            }
        }
        for held in &self.held {
            let map = &self.definitions[held.map];
            ensure!(
                held.slot < map.max_entries as usize,
                "map {} has {} entries, and {} in entry {}",
                map.name,
                map.max_entries,
                held.name,
                held.slot
            );
        }
        for map in &self.definitions {
            map.check().with_context(|| format!("map {}", map.name))?;
        }
        let is_there = |name: &&String| self.definitions.iter().any(|map| map.name == **name);
        match entries.0.keys().find(|name| !is_there(name)) {
            Some(name) => bail!("there is no map {name} in it"),
            None => Ok(()),
        }
    }

    /// Puts the programs into the maps that hold them, of which `number` says which of the result they
    /// are.
    pub(super) fn hold(&mut self, number: impl Fn(Key) -> Option<usize>) -> Result<()> {
        for held in &self.held {
            let map = &mut self.definitions[held.map];
            let program = number(held.program).with_context(|| {
                format!(
                    "map {} holds {}, which is no program that is taken",
                    map.name, held.name
                )
            })?;
            let at = held.slot * size_of::<u32>();
            let end = at + size_of::<u32>();
            if map.initial.len() < end {
                map.initial.resize(end, 0);
            }
            // There are at most as many programs as a linked program may have.
            map.initial[at..end].copy_from_slice(&(program as u32 + 1).to_le_bytes());
        }
        Ok(())
    }

    /// `.maps`: variables whose types say all.
    fn add_typed(
        &mut self,
        elf: &Elf<'_>,
        index: usize,
        section: &Section<'_>,
        btf: Option<&Btf<'_>>,
    ) -> Result<()> {
        let btf = btf
            .with_context(|| format!("the maps in {} need types: compile with -g", section.name))?;
        let mut relocations = section.relocations.clone();
        let variables = data_section(btf, section.name);
        for variable in variables.into_iter().flat_map(|(_, ty)| ty.variables()) {
            let var = btf.ty(variable.ty).filter(|ty| ty.kind == Kind::Var);
            let var = var.with_context(|| format!("section {} has no variables", section.name))?;
            let name = text(btf, var.name);
            let Typed {
                definition,
                types,
                programs,
            } = typed(btf, &name, var.size_or_type).with_context(|| format!("map {name}"))?;
            // The compiler leaves the variable's place to the symbol.
            let symbol = elf.symbols.iter().find(|symbol| {
                symbol.section == Some(index) && symbol.name.as_bytes() == name.as_bytes()
            });
            let symbol = symbol.with_context(|| format!("map {name} has no symbol"))?;
            let map = self.add(definition, types);
            self.by_place.insert((index, symbol.value), map);
            if let Some(from) = programs {
                let values = symbol.value + from..symbol.value + symbol.size;
                for relocation in relocations.extract_if(.., |it| values.contains(&it.offset)) {
                    let slot = (relocation.offset - values.start) / ADDRESS;
                    let held = held(elf, section, relocation)?;
                    self.held.push(Held {
                        map,
                        slot: slot as usize,
                        ..held
                    });
                }
            }
        }
        refuse_address(elf, index, relocations.first())
    }

    /// `maps`: variables of `struct bpf_map_def`. libbpf takes these no more.
    fn add_legacy(&mut self, elf: &Elf<'_>, index: usize, section: &Section<'_>) -> Result<()> {
        refuse_addresses(elf, index)?;
        let is_definition = |kind| !matches!(kind, SymbolKind::Section | SymbolKind::Label);
        for symbol in &elf.symbols {
            if symbol.section != Some(index) || !is_definition(symbol.kind) {
                continue;
            }
            let map = legacy(section, symbol.name, symbol.value, symbol.size)
                .with_context(|| format!("map {}", symbol.name))?;
            let map = self.add(map, MapTypes::default());
            self.by_place.insert((index, symbol.value), map);
        }
        Ok(())
    }

    fn add_data(
        &mut self,
        elf: &Elf<'_>,
        index: usize,
        section: &Section<'_>,
        btf: Option<&Btf<'_>>,
    ) -> Result<()> {
        // Compilers leave sections of global data without any.
        if section.size == 0 {
            return Ok(());
        }
        refuse_addresses(elf, index)?;
        let mutability = match section.role {
            Role::ReadOnly => Mutability::Frozen,
            _ => Mutability::Mutable,
        };
        let mut definition = global_data(section.name, mutability, section.data);
        definition.value_size = u32::try_from(section.size).unwrap_or(u32::MAX);
        let ty = btf.and_then(|btf| data_section(btf, section.name));
        let value = ty.map_or(0, |(id, _)| id);
        let map = self.add(definition, MapTypes { key: 0, value });
        self.by_section.insert(index, map);
        Ok(())
    }
}

/// A map of one entry, the section.
fn global_data(name: &str, mutability: Mutability, initial: &[u8]) -> MapDef {
    MapDef {
        name: name.into(),
        kind: MapKind::Array,
        key_size: 4,
        value_size: u32::try_from(initial.len()).unwrap_or(u32::MAX),
        max_entries: 1,
        mutability,
        // Zeros are what a map starts with anyway.
        initial: if initial.iter().all(|&byte| byte == 0) {
            Vec::new()
        } else {
            initial.into()
        },
    }
}

/// The types of a section's variables.
pub(super) fn data_section<'a>(btf: &Btf<'a>, name: &str) -> Option<(u32, ebpf::btf::Type<'a>)> {
    btf.types()
        .find(|(_, ty)| ty.kind == Kind::DataSec && btf.string(ty.name) == name.as_bytes())
}

pub(super) fn text(btf: &Btf<'_>, offset: u32) -> String {
    String::from_utf8_lossy(btf.string(offset)).into_owned()
}

/// Definitions and data may not hold addresses: nothing would fill them in.
fn refuse_addresses(elf: &Elf<'_>, index: usize) -> Result<()> {
    refuse_address(elf, index, elf.sections[index].relocations.first())
}

fn refuse_address(elf: &Elf<'_>, index: usize, relocation: Option<&Relocation>) -> Result<()> {
    let section = &elf.sections[index];
    let Some(&relocation) = relocation else {
        return Ok(());
    };
    let target = elf.shown(elf.target(relocation)?);
    let holder = elf.symbols.iter().find(|symbol| {
        let place = symbol.value..symbol.value + symbol.size;
        symbol.section == Some(index) && place.contains(&relocation.offset)
    });
    let holder = holder.map_or(section.name, |symbol| symbol.name);
    bail!(
        "{holder} holds the address of {target}: maps of maps that are filled by the source, and \
         pointers in data, are not supported"
    )
}

/// The program whose address is there.
fn held(elf: &Elf<'_>, section: &Section<'_>, relocation: Relocation) -> Result<Held> {
    let symbol: &Symbol<'_> = elf.target(relocation)?;
    let name = elf.shown(symbol);
    let in_section = symbol
        .section
        .with_context(|| format!("{name} is not defined"))?;
    let at = usize::try_from(relocation.offset)?;
    let bytes = section.data.get(at..).and_then(|rest| rest.first_chunk());
    let distance = u64::from_le_bytes(bytes.copied().unwrap_or_default());
    let start = usize::try_from(symbol.value.wrapping_add(distance))?;
    ensure!(
        elf.sections
            .get(in_section)
            .is_some_and(|it| it.role == Role::Programs),
        "{name} is no program, but is in a map of programs"
    );
    Ok(Held {
        map: 0,
        slot: 0,
        program: (in_section, start / Insn::SIZE),
        name: name.into(),
    })
}

fn kind(number: u32) -> Result<MapKind> {
    let kind = MapKind::from_number(number);
    kind.with_context(|| format!("maps of Linux' type {number} are not supported"))
}

fn check_flags(flags: u32) -> Result<()> {
    let flags = flags & !HARMLESS_FLAGS;
    ensure!(flags == 0, "the map flags {flags:#x} are not supported");
    Ok(())
}

/// A definition as `struct bpf_map_def`: type, key size, value size, entries, flags.
fn legacy(section: &Section<'_>, name: &str, value: u64, size: u64) -> Result<MapDef> {
    // Symbols lie inside their sections.
    let bytes = section.data.get(value as usize..(value + size) as usize);
    let (words, _) = bytes.unwrap_or_default().as_chunks();
    let words: Vec<_> = words.iter().map(|&word| u32::from_le_bytes(word)).collect();
    let [number, key_size, value_size, max_entries, rest @ ..] = &words[..] else {
        bail!("the definition is cut off");
    };
    check_flags(rest.first().copied().unwrap_or(0))?;
    Ok(MapDef {
        name: name.into(),
        kind: kind(*number)?,
        key_size: *key_size,
        value_size: *value_size,
        max_entries: *max_entries,
        mutability: Mutability::Mutable,
        initial: Vec::new(),
    })
}

/// A definition as the type of a variable: numbers are the dimensions of arrays that pointers of its
/// members point to, key and value are what pointers point to.
fn typed(btf: &Btf<'_>, name: &str, ty: u32) -> Result<Typed> {
    let (_, definition) = btf.resolve(ty).context("an endless type")?;
    ensure!(
        definition.kind == Kind::Struct,
        "the definition is no structure"
    );
    let mut map = MapDef {
        name: name.into(),
        kind: MapKind::Array,
        key_size: 0,
        value_size: 0,
        max_entries: 0,
        mutability: Mutability::Mutable,
        initial: Vec::new(),
    };
    let mut types = MapTypes::default();
    let mut values = None;
    let mut number_of_kind = 0;
    for member in definition.members() {
        let field = text(btf, member.name);
        let number = || dimension(btf, member.ty).with_context(|| format!("its {field}"));
        let pointee = || pointee(btf, member.ty).with_context(|| format!("its {field}"));
        match field.as_str() {
            "type" => number_of_kind = number()?,
            "max_entries" => map.max_entries = number()?,
            "map_flags" => check_flags(number()?)?,
            "numa_node" => {}
            "key_size" => set(&mut map.key_size, number()?, "keys")?,
            "value_size" => set(&mut map.value_size, number()?, "values")?,
            "key" => {
                types.key = pointee()?;
                let size = btf.size(types.key).context("its keys have no size")?;
                set(&mut map.key_size, size, "keys")?;
            }
            "value" => {
                types.value = pointee()?;
                let size = btf.size(types.value).context("its values have no size")?;
                set(&mut map.value_size, size, "values")?;
            }
            "values" => values = Some(member),
            "pinning" if number()? == 0 => {}
            "pinning" => {
                bail!("pinning is not supported: the maps of an object live as long as it does")
            }
            _ => bail!("what its {field} means is not known"),
        }
    }
    map.kind = kind(number_of_kind)?;
    // The kernel's numbers of programs, buffers and groups: libbpf supplies the sizes too.
    if matches!(
        map.kind,
        MapKind::ProgArray | MapKind::PerfEventArray | MapKind::CgroupArray
    ) {
        map.key_size = 4;
        map.value_size = 4;
    }
    let programs = values.map(|member: Member| u64::from(member.bit_offset / 8));
    ensure!(
        programs.is_none() || map.kind == MapKind::ProgArray,
        "what its values mean is not known"
    );
    Ok(Typed {
        definition: map,
        types,
        programs,
    })
}

/// What the type of a variable says of a map.
struct Typed {
    definition: MapDef,
    types: MapTypes,
    /// Where in the variable the addresses of programs begin that a map of programs holds.
    programs: Option<u64>,
}

fn set(size: &mut u32, new: u32, what: &str) -> Result<()> {
    ensure!(
        *size == 0 || *size == new,
        "its {what} have {size} and {new} bytes"
    );
    *size = new;
    Ok(())
}

fn pointee(btf: &Btf<'_>, ty: u32) -> Result<u32> {
    let (_, pointer) = btf.resolve(ty).context("an endless type")?;
    ensure!(pointer.kind == Kind::Ptr, "it is no pointer");
    Ok(pointer.size_or_type)
}

fn dimension(btf: &Btf<'_>, ty: u32) -> Result<u32> {
    let array = btf.ty(pointee(btf, ty)?).and_then(|ty| ty.array());
    Ok(array.context("it is no number")?.count)
}
