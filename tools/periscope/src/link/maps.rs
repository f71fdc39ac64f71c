//! The maps of an object.

use anyhow::{Context, Result, bail};
use aya_obj::generated::bpf_map_type;
use aya_obj::maps::{Map, PinningType};
use aya_obj::obj::{EbpfSectionKind, Object};
use ebpf::map::{MapDef, MapKind, Mutability};

/// `BPF_F_NO_PREALLOC`, `BPF_F_NUMA_NODE`, `BPF_F_MMAPABLE`: about where Linux puts the memory.
/// Nothing changes for a program that is without them.
const HARMLESS_FLAGS: u32 = 1 << 0 | 1 << 2 | 1 << 10;

/// The maps of an object and their definitions, in the order of their names, which is that of their
/// numbers.
pub(super) struct Maps {
    maps: Vec<(String, Map)>,
    /// The definitions.
    pub(super) definitions: Vec<MapDef>,
}

impl Maps {
    pub(super) fn new(object: &Object) -> Result<Self> {
        let mut maps: Vec<_> = object
            .maps
            .iter()
            // Compilers leave sections of global data without any.
            .filter(|(_, map)| !(is_data(map) && map.value_size() == 0))
            .map(|(name, map)| (name.clone(), map.clone()))
            .collect();
        maps.sort_by(|(left, _), (right, _)| left.cmp(right));
        let definitions = maps
            .iter()
            .map(|(name, map)| definition(name, map).with_context(|| format!("map {name}")))
            .collect::<Result<_>>()?;
        Ok(Self { maps, definitions })
    }

    /// Name, number and map, as aya-obj wants them; the number stands where Linux has a file
    /// descriptor.
    pub(super) fn numbered(&self) -> impl Iterator<Item = (&str, i32, &Map)> {
        (0..)
            .zip(&self.maps)
            .map(|(number, (name, map))| (name.as_str(), number, map))
    }
}

/// Whether a map is a section of global data.
fn is_data(map: &Map) -> bool {
    use EbpfSectionKind::{Bss, Data, Rodata};
    matches!(map.section_kind(), Bss | Data | Rodata)
}

fn definition(name: &str, map: &Map) -> Result<MapDef> {
    let Some(kind) = MapKind::from_number(map.map_type()) else {
        match bpf_map_type::try_from(map.map_type()) {
            Ok(kind) => bail!("maps of type {kind:?} are not supported"),
            Err(_) => bail!("there is no map type {}", map.map_type()),
        }
    };
    if !is_data(map) {
        check_wishes(map)?;
    }
    let mutability = match map.section_kind() {
        EbpfSectionKind::Rodata => Mutability::Frozen,
        _ => Mutability::Mutable,
    };
    // Zeros are what a map starts with anyway.
    let initial = if map.section_kind() == EbpfSectionKind::Bss {
        &[]
    } else {
        map.data()
    };
    let definition = MapDef {
        name: name.into(),
        kind,
        key_size: map.key_size(),
        value_size: map.value_size(),
        max_entries: map.max_entries(),
        mutability,
        initial: initial.into(),
    };
    definition.check()?;
    Ok(definition)
}

/// What a map definition asks for beside its sizes.
fn check_wishes(map: &Map) -> Result<()> {
    let flags = map.map_flags() & !HARMLESS_FLAGS;
    if flags != 0 {
        bail!("the map flags {flags:#x} are not supported");
    }
    if map.pinning() != PinningType::None {
        bail!("pinning is not supported: the maps of an object live as long as it does");
    }
    Ok(())
}
