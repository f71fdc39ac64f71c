//! What the records that come through a map are.
//!
//! A map for records has no type of its own as a rule, so the first of these that there is tells:
//!
//! 1. `--record MAP=TYPE`;
//! 2. the type of the map's values, as its definition has it;
//! 3. the structure of the object's own types, not the kernel's, that is called `event`, `event_t`, `data_t`, or ends in
//!    `_event`, `_event_t` or `_data_t`, and has as many bytes as the record; or whose last member is an array that the
//!    record ends in.
//!
//! Anything else is shown as bytes.

use anyhow::{Context, Result, bail, ensure};
use ebpf::btf::show::Value;
use ebpf::btf::{Btf, Kind, Type};
use ebpf::linked::Linked;
use std::collections::{HashMap, HashSet};

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

/// A structure that a record can be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Candidate {
    ty: u32,
    /// Bytes of the shortest record that it can be, and of the longest.
    sizes: (usize, usize),
}

/// The types that records can be.
pub(super) struct Records {
    /// All types of the object; those that the linked program carries, where that is all there is.
    types: Vec<u8>,
    by_map: HashMap<String, u32>,
    candidates: Vec<Candidate>,
}

impl Records {
    /// `object` are all types of the object, where they are known; `kernel` those of the kernel.
    pub(super) fn new(
        linked: &Linked,
        object: Option<Vec<u8>>,
        kernel: Option<Vec<u8>>,
        names: TypeNames,
    ) -> Result<Self> {
        let types = object.unwrap_or_else(|| linked.types.btf.clone());
        let mut records = Self {
            types,
            by_map: HashMap::new(),
            candidates: Vec::new(),
        };
        let Some(btf) = records.btf() else {
            ensure!(
                names.0.is_empty(),
                "--record: there are no types in it: compile with -g"
            );
            return Ok(records);
        };
        let kernels = kernel.as_deref().map(Btf::parse).transpose();
        let kernels = kernels.context("the kernel's types")?;
        let candidates = candidates(&btf, kernels.as_ref());
        let mut by_map = HashMap::new();
        let own = Btf::parse(&linked.types.btf).ok();
        for (index, map) in linked.maps.iter().enumerate() {
            let value = linked.map_types(index).value;
            // The numbers are those of the types that the linked program carries.
            let ty = own.as_ref().and_then(|own| same(own, value, &btf));
            by_map.extend(ty.map(|ty| (map.name.clone(), ty)));
        }
        for (map, name) in names.0 {
            if !linked.maps.iter().any(|other| other.name == map) {
                bail!("--record {map}={name}: there is no map {map} in it");
            }
            let ty = named(&btf, &name).with_context(|| {
                format!(
                    "--record {map}={name}: there is no type {name} in it. A compiler leaves out types that only local \
                     variables have: a global `struct {name} *unused;` keeps it"
                )
            })?;
            by_map.insert(map, ty);
        }
        drop(btf);
        records.by_map = by_map;
        records.candidates = candidates;
        Ok(records)
    }

    /// All types.
    pub(super) fn btf(&self) -> Option<Btf<'_>> {
        // What was linked has been read before.
        Btf::parse(&self.types).ok()
    }

    /// What a record of a map is; `None` where nobody knows.
    pub(super) fn value<'v>(
        &self,
        btf: &'v Btf<'v>,
        map: &str,
        bytes: &'v [u8],
    ) -> Option<Value<'v>> {
        let ty = self.by_map.get(map).copied();
        let ty = ty.or_else(|| self.by_size(bytes.len()))?;
        Some(Value::new(btf, ty, bytes).limited(MAX_VALUES))
    }

    /// The structure that has so many bytes; where none has, one that can have.
    fn by_size(&self, length: usize) -> Option<u32> {
        let exact = self.candidates.iter().find(|one| one.sizes.1 == length);
        let shorter = || {
            let fits = |one: &&Candidate| (one.sizes.0..=one.sizes.1).contains(&length);
            self.candidates.iter().find(fits)
        };
        exact.or_else(shorter).map(|one| one.ty)
    }
}

/// The structures that are called as records are, those first that are called just so.
fn candidates(btf: &Btf<'_>, kernel: Option<&Btf<'_>>) -> Vec<Candidate> {
    let is_struct = |(_, ty): &(u32, Type<'_>)| ty.kind == Kind::Struct;
    let kernels: HashSet<&[u8]> = kernel
        .into_iter()
        .flat_map(|kernel| {
            kernel
                .types()
                .filter(is_struct)
                .map(|(_, ty)| kernel.string(ty.name))
        })
        .collect();
    let mut found: Vec<_> = btf
        .types()
        .filter(is_struct)
        .filter_map(|(id, ty)| {
            let name = btf.string(ty.name);
            let rank = rank(str::from_utf8(name).ok()?)?;
            (!kernels.contains(name)).then(|| {
                let sizes = sizes(btf, &ty);
                (rank, Candidate { ty: id, sizes })
            })
        })
        .collect();
    found.sort_by_key(|(rank, _)| *rank);
    found.into_iter().map(|(_, one)| one).collect()
}

/// How well a name fits a record; `None` where it does not.
fn rank(name: &str) -> Option<u8> {
    match name {
        "event" => Some(0),
        "event_t" | "data_t" => Some(1),
        _ if ["_event", "_event_t", "_data_t"]
            .iter()
            .any(|end| name.ends_with(end)) =>
        {
            Some(2)
        }
        _ => None,
    }
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
