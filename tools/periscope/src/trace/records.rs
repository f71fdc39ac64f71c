//! What the records that come through a map are.
//!
//! A map for records has no type of its own as a rule, so the first of these that there is tells:
//!
//! 1. `--record MAP=TYPE`, of the types that `--types` names or of the object's;
//! 2. the type of the map's values, as its definition has it;
//! 3. the structure of those types (`--types`) or of the object's own, not the kernel's, that is called `event`, `event_t`, `data_t`, or ends in
//!    `_event`, `_event_t` or `_data_t`, and has as many bytes as the record; or whose last member is an array that the
//!    record ends in.
//!
//! Anything else is shown as bytes.

use crate::record_types::named_as_records;
use anyhow::{Context, Result, bail};
use ebpf::btf::show::Value;
use ebpf::btf::{Btf, Kind, Type};
use ebpf::linked::Linked;
use ebpf::map::MapDef;
use std::collections::HashMap;

/// Values of a record that are shown at most.
const MAX_VALUES: usize = 1 << 16;

/// Names of types by map, as the user gives them.
pub(super) struct TypeNames(HashMap<String, String>);

impl TypeNames {
    /// Of words like `events=event`.
    pub(super) fn parse(words: &[String]) -> Result<Self> {
        let names = words.iter().map(|word| {
            let (map, ty) = word
                .split_once('=')
                .with_context(|| format!("--record {word}: give a map and a type, events=event"))?;
            let ty = ty.trim().trim_start_matches("struct ").trim();
            Ok((map.to_owned(), ty.to_owned()))
        });
        Ok(Self(names.collect::<Result<_>>()?))
    }
}

/// A type: whose, by its number among [`Records::types`], and its number there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct TypeRef {
    source: usize,
    ty: u32,
}

/// A structure that a record can be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Candidate {
    ty: TypeRef,
    /// Bytes of the shortest record that it can be, and of the longest.
    sizes: (usize, usize),
}

/// Where types come from, in the BTF format.
#[derive(Default)]
pub(super) struct Sources {
    /// Those that the user names for records.
    pub(super) named: Option<Vec<u8>>,
    /// All of the object; where they are not known, those that the linked program carries count.
    pub(super) object: Option<Vec<u8>>,
    /// The kernel's, which are no records.
    pub(super) kernel: Option<Vec<u8>>,
}

/// The types that records can be.
pub(super) struct Records {
    /// Those that the user names, if there are any, then the object's.
    types: Vec<Vec<u8>>,
    by_map: HashMap<String, TypeRef>,
    candidates: Vec<Candidate>,
}

impl Records {
    pub(super) fn new(linked: &Linked, sources: Sources, names: TypeNames) -> Result<Self> {
        let object = sources.object.unwrap_or_else(|| linked.types.btf.clone());
        let mut records = Self {
            types: sources.named.into_iter().chain([object]).collect(),
            by_map: HashMap::new(),
            candidates: Vec::new(),
        };
        // A program without types has none to show.
        records.types.retain(|types| !types.is_empty());
        let kernel = sources.kernel.as_deref().map(Btf::parse).transpose();
        let kernel = kernel.context("the kernel's types")?;
        let types = records.btf()?;
        let mut candidates: Vec<_> = types
            .iter()
            .enumerate()
            .flat_map(|(source, btf)| candidates(btf, source, kernel.as_ref()))
            .collect();
        candidates.sort_by_key(|(rank, _)| *rank);
        let mut by_map = value_types(linked, &types);
        for (map, name) in names.0 {
            if !linked.maps.iter().any(|other| other.name == map) {
                bail!("--record {map}={name}: there is no map {map} in it");
            }
            let ty = types.iter().enumerate().find_map(|(source, btf)| {
                let ty = named(btf, &name)?;
                Some(TypeRef { source, ty })
            });
            let ty = ty.with_context(|| {
                format!(
                    "--record {map}={name}: there is no type {name} in it. A compiler leaves out types that only local \
                     variables have: a global `struct {name} *unused;` keeps it, or --types names an object that has it"
                )
            })?;
            by_map.insert(map, ty);
        }
        drop(types);
        records.by_map = by_map;
        records.candidates = candidates.into_iter().map(|(_, one)| one).collect();
        Ok(records)
    }

    /// All types, for [`Self::value`].
    pub(super) fn btf(&self) -> Result<Vec<Btf<'_>>> {
        let types = self.types.iter().map(|types| Btf::parse(types));
        types
            .collect::<Result<_, _>>()
            .context("the types of records")
    }

    /// What a record of a map is; `None` where nobody knows.
    pub(super) fn value<'v>(
        &self,
        types: &'v [Btf<'v>],
        map: &str,
        bytes: &'v [u8],
    ) -> Option<Value<'v>> {
        let ty = self.by_map.get(map).copied();
        let TypeRef { source, ty } = ty.or_else(|| self.by_size(bytes.len()))?;
        Some(Value::new(types.get(source)?, ty, bytes).limited(MAX_VALUES))
    }

    /// The structure that has so many bytes; where none has, one that can have.
    fn by_size(&self, length: usize) -> Option<TypeRef> {
        let exact = self.candidates.iter().find(|one| one.sizes.1 == length);
        let shorter = || {
            let fits = |one: &&Candidate| (one.sizes.0..=one.sizes.1).contains(&length);
            self.candidates.iter().find(fits)
        };
        exact.or_else(shorter).map(|one| one.ty)
    }
}

/// The types that the definitions of maps give their values. The linked program has numbers of its own for them: the
/// object's type is that of the same name and size.
fn value_types(linked: &Linked, types: &[Btf<'_>]) -> HashMap<String, TypeRef> {
    let carried = Btf::parse(&linked.types.btf).ok();
    let object = types.len().checked_sub(1);
    let Some((carried, source)) = carried.zip(object) else {
        return HashMap::new();
    };
    let of_map = |(index, map): (usize, &MapDef)| {
        let value = linked.map_types(index).value;
        let ty = same(&carried, value, &types[source])?;
        Some((map.name.clone(), TypeRef { source, ty }))
    };
    linked.maps.iter().enumerate().filter_map(of_map).collect()
}

/// The structures that a record can be, and how well their names fit.
fn candidates(btf: &Btf<'_>, source: usize, kernel: Option<&Btf<'_>>) -> Vec<(u8, Candidate)> {
    let named = named_as_records(btf, kernel).into_iter();
    let candidate = |(rank, ty)| {
        let sizes = sizes(btf, &btf.ty(ty)?);
        let ty = TypeRef { source, ty };
        Some((rank, Candidate { ty, sizes }))
    };
    named.filter_map(candidate).collect()
}

/// Bytes of a structure, and of its beginning without an array at its end.
fn sizes(btf: &Btf<'_>, ty: &Type<'_>) -> (usize, usize) {
    let size = ty.size_or_type as usize;
    let last = ty.members().last();
    let array = last.filter(|last| {
        let resolved = btf.resolve(last.ty);
        resolved.is_some_and(|(_, ty)| ty.kind == Kind::Array)
    });
    match array {
        Some(array) if (array.bit_offset / 8) as usize >= size => (size, usize::MAX),
        Some(array) => ((array.bit_offset / 8) as usize, size),
        None => (size, size),
    }
}

fn named(btf: &Btf<'_>, name: &str) -> Option<u32> {
    let fits = |ty: &Type<'_>| btf.string(ty.name) == name.as_bytes();
    let is_value = |kind: Kind| kind.is_composite() || kind == Kind::Typedef || kind.is_enum();
    let mut types = btf.types();
    types
        .find(|(_, ty)| is_value(ty.kind) && fits(ty))
        .map(|(id, _)| id)
}

/// The type of `to` that is called and sized as type `id` of `from`, where that has a name.
fn same(from: &Btf<'_>, id: u32, to: &Btf<'_>) -> Option<u32> {
    let (id, ty) = from.resolve(id)?;
    let name = str::from_utf8(from.string(ty.name)).ok()?;
    if name.is_empty() || !ty.kind.is_composite() {
        return None;
    }
    named(to, name).filter(|&other| to.size(other) == from.size(id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;
    use ebpf::linked::{MapTypes, Types};

    const STRINGS: &[u8] = b"\0int\0char\0pid\0text\0event\0net_event\0other\0";

    fn string(name: &str) -> u32 {
        let wanted = format!("\0{name}\0");
        let mut places = STRINGS.windows(wanted.len());
        let at = places.position(|window| window == wanted.as_bytes());
        at.expect("it is among the strings") as u32 + 1
    }

    fn structure(name: &str, size: u32, members: &[[u32; 3]]) -> Vec<u32> {
        let head = [
            string(name),
            (Kind::Struct as u32) << 24 | members.len() as u32,
            size,
        ];
        [&head[..], &members.concat()].concat()
    }

    /// 1 int, 2 char, 3 char[8], then structures: from 4 on `net_event { int pid; int pid; }`, `event { int pid; char
    /// text[8]; }`, `other { int pid; }`, those of `names`.
    fn types(names: &[&str]) -> Vec<u8> {
        let (pid, text) = ([string("pid"), 1, 0], [string("text"), 3, 32]);
        let mut words = vec![string("int"), 1 << 24, 4, 1 << 24 | 32];
        words.extend([string("char"), 1 << 24, 1, 1 << 24 | 8]);
        words.extend([0, (Kind::Array as u32) << 24, 0, 2, 1, 8]);
        for name in names {
            words.extend(match *name {
                "net_event" => structure(name, 8, &[pid, [pid[0], 1, 32]]),
                "event" => structure(name, 12, &[pid, text]),
                name => structure(name, 4, &[pid]),
            });
        }
        testing::btf(&words, STRINGS)
    }

    fn linked(types: &[u8], value: u32) -> Linked {
        let mut linked = ebpf::builtin::linked("count").expect("it is built in");
        let map = MapTypes { key: 0, value };
        linked.types = Types {
            btf: types.to_vec(),
            maps: vec![map],
        };
        linked
    }

    fn shown(records: &Records, map: &str, length: usize) -> Option<String> {
        let bytes: Vec<u8> = [&[7, 0, 0, 0], &b"abcdefgh"[..]].concat();
        let types = records.btf().expect("the types are well-made");
        let value = records.value(&types, map, &bytes[..length])?;
        Some(value.text().to_string())
    }

    fn records(linked: &Linked, sources: Sources, words: &[&str]) -> Result<Records> {
        let words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
        Records::new(linked, sources, TypeNames::parse(&words)?)
    }

    #[test]
    fn names_and_sizes_tell() {
        let object = types(&["net_event", "event", "other"]);
        let records = records(&linked(&object, 0), Sources::default(), &[]).expect("good types");
        assert_eq!(
            shown(&records, "m", 12).as_deref(),
            Some("{pid=7 text=\"abcdefgh\"}")
        );
        // Both fit: one exactly.
        let same = shown(&records, "m", 8);
        assert_eq!(same.as_deref(), Some("{pid=7 pid=1684234849}"));
        assert_eq!(
            shown(&records, "m", 6).as_deref(),
            Some("{pid=7 text=\"ab\"}")
        );
        assert_eq!(shown(&records, "m", 3), None);
    }

    #[test]
    fn the_kernels_types_are_no_records() {
        let object = types(&["net_event", "event"]);
        let sources = Sources {
            kernel: Some(types(&["event"])),
            ..Sources::default()
        };
        let records = records(&linked(&object, 0), sources, &[]).expect("good types");
        assert_eq!(shown(&records, "m", 12), None);
        assert!(shown(&records, "m", 8).is_some());
    }

    #[test]
    fn what_is_said_comes_before_what_is_guessed() {
        let object = types(&["event", "other"]);
        // The number of `other`.
        let of_value = linked(&object, 5);
        let map = of_value.maps[0].name.clone();
        let by_value = records(&of_value, Sources::default(), &[]).expect("good types");
        assert_eq!(shown(&by_value, &map, 12).as_deref(), Some("{pid=7}"));
        assert_eq!(
            shown(&by_value, "elsewhere", 12).as_deref(),
            Some("{pid=7 text=\"abcdefgh\"}")
        );
        let sources = Sources {
            named: Some(types(&["net_event"])),
            ..Sources::default()
        };
        let word = format!("{map}=struct net_event");
        let by_name = records(&of_value, sources, &[&word]).expect("good types");
        assert_eq!(
            shown(&by_name, &map, 8).as_deref(),
            Some("{pid=7 pid=1684234849}")
        );
    }

    #[test]
    fn mistakes_are_explained() {
        let object = linked(&types(&["event"]), 0);
        let map = object.maps[0].name.clone();
        let error = |words: &[&str]| {
            let outcome = records(&object, Sources::default(), words);
            format!("{:#}", outcome.err().expect("it is a mistake"))
        };
        assert!(error(&["m"]).contains("give a map and a type"));
        assert!(error(&["nope=event"]).contains("there is no map nope"));
        assert!(error(&[&format!("{map}=thing")]).contains("there is no type thing"));
    }
}
