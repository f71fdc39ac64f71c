//! Maps: the memory that programs keep between runs and share with the debugger.
//!
//! # Sharing
//!
//! Several CPUs run programs on one map at once, and the debug server reads and writes it
//! meanwhile. A map is allocated whole when its object is loaded; nothing here allocates on the hit
//! path. Values lie in the object's arena and are accessed atomically ([`crate::arena`]), so a value
//! of at most 8 aligned bytes is never seen half-written; larger ones can be, as in Linux' array
//! maps. Only the hash map has locks; `hash` says why they are harmless.

mod hash;
mod kind;
mod values;

pub use kind::MapKind;
pub(crate) use values::{Shape, Values};

use crate::arena::{Arena, OutOfMemory};
use crate::helper::{E2BIG, EEXIST, EINVAL, ENOENT, EPERM};
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use hash::HashIndex;

/// Bytes of a key at most.
pub const MAX_KEY_SIZE: u32 = 256;
/// Bytes of a value at most.
pub const MAX_VALUE_SIZE: u32 = 1 << 20;
/// Entries of a map at most.
pub const MAX_ENTRIES: u32 = 1 << 20;
/// Bytes of a ring buffer at most.
pub const MAX_RING_BYTES: u32 = 1 << 30;

/// Whether a map can be written after it is loaded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mutability {
    /// Programs and the debugger may write it.
    Mutable,
    /// `.rodata`: nobody may.
    Frozen,
}

/// The definition of a map.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MapDef {
    /// The map's name, such as `counts` or `.rodata`.
    pub name: String,
    /// Its kind.
    pub kind: MapKind,
    /// Bytes of a key, at most [`MAX_KEY_SIZE`]; of an array 4.
    pub key_size: u32,
    /// Bytes of a value, at most [`MAX_VALUE_SIZE`].
    pub value_size: u32,
    /// How many entries it can hold, at most [`MAX_ENTRIES`].
    pub max_entries: u32,
    /// Whether it can be written.
    pub mutability: Mutability,
    /// What entry 0 of an array holds after loading, as `.data` and `.rodata` need it. Empty means
    /// zeros; else `value_size` bytes.
    pub initial: Vec<u8>,
}

/// What is wrong with a map definition.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MapDefError {
    /// The key size is 0 or too large, or not 4 for an array.
    KeySize(u32),
    /// The value size is 0 or too large.
    ValueSize(u32),
    /// The number of entries is 0 or too large.
    MaxEntries(u32),
    /// There is an initial value, but its length is not the value size or the map is no array.
    Initial,
}

impl fmt::Display for MapDefError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::KeySize(size) => write!(
                f,
                "a key of {size} bytes (a hash map has 1 to {MAX_KEY_SIZE}, a queue, a stack and a \
                 ring buffer none, all others 4)"
            ),
            Self::ValueSize(size) => {
                write!(
                    f,
                    "a value of {size} bytes (1 to {MAX_VALUE_SIZE} are possible)"
                )
            }
            Self::MaxEntries(count) => {
                write!(f, "{count} entries (1 to {MAX_ENTRIES} are possible)")
            }
            Self::Initial => f.write_str("an initial value that does not fit"),
        }
    }
}

impl core::error::Error for MapDefError {}

impl MapDef {
    /// Checks every limit and that the parts agree.
    pub fn check(&self) -> Result<(), MapDefError> {
        if !self.kind.takes_key(self.key_size) {
            return Err(MapDefError::KeySize(self.key_size));
        }
        if !self.kind.takes_value(self.value_size) {
            return Err(MapDefError::ValueSize(self.value_size));
        }
        if !self.kind.takes_entries(self.max_entries) {
            return Err(MapDefError::MaxEntries(self.max_entries));
        }
        let initial_fits =
            self.kind == MapKind::Array && u32::try_from(self.initial.len()) == Ok(self.value_size);
        if !self.initial.is_empty() && !initial_fits {
            return Err(MapDefError::Initial);
        }
        Ok(())
    }

    /// How many bytes the map takes on a machine with `cpus` physical CPUs, roughly. For checked
    /// definitions and at most [`crate::object::MAX_CPUS`] CPUs this cannot overflow.
    pub fn memory(&self, cpus: usize) -> u64 {
        let index = match self.kind {
            MapKind::Array | MapKind::PerCpuArray => 0,
            _ => hash::overhead(self.key_size) * u64::from(self.max_entries),
        };
        Shape::of(self, cpus).bytes() as u64 + index
    }
}

/// Why a map operation failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MapError {
    /// No entry has that key.
    NotFound,
    /// The index is not below the array's number of entries.
    OutOfRange,
    /// The map is full.
    Full,
    /// The key exists, and [`UpdateFlag::NoExist`] was asked for.
    Exists,
    /// The map kind does not do this.
    Unsupported,
    /// Key or value has the wrong length for the map.
    WrongSize,
    /// The map is frozen.
    Frozen,
    /// No such CPU.
    NoSuchCpu,
}

impl MapError {
    /// The errno that Linux returns for this, negative, as a program sees it in r0.
    pub(crate) fn errno(self) -> u64 {
        match self {
            Self::NotFound => ENOENT,
            Self::OutOfRange | Self::Full => E2BIG,
            Self::Exists => EEXIST,
            Self::Unsupported | Self::WrongSize | Self::NoSuchCpu => EINVAL,
            Self::Frozen => EPERM,
        }
    }
}

impl fmt::Display for MapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotFound => "no entry with that key",
            Self::OutOfRange => "the index is past the end of the array",
            Self::Full => "the map is full",
            Self::Exists => "an entry with that key exists already",
            Self::Unsupported => "this kind of map cannot do that",
            Self::WrongSize => "key or value has the wrong length for this map",
            Self::Frozen => "the map is read-only",
            Self::NoSuchCpu => "no such CPU",
        })
    }
}

impl core::error::Error for MapError {}

/// When an update applies. The numbers are Linux' `BPF_ANY`, `BPF_NOEXIST`, `BPF_EXIST`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u64)]
pub enum UpdateFlag {
    /// Create or replace.
    Any = 0,
    /// Only create.
    NoExist = 1,
    /// Only replace.
    Exist = 2,
}

impl UpdateFlag {
    /// The flag that Linux gives that number.
    pub(crate) const fn from_number(number: u64) -> Option<Self> {
        match number {
            0 => Some(Self::Any),
            1 => Some(Self::NoExist),
            2 => Some(Self::Exist),
            _ => None,
        }
    }
}

/// One value of a map, as [`Map::for_each`] shows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry<'a> {
    /// The key; of an array the index, 4 bytes little-endian.
    pub key: &'a [u8],
    /// The CPU whose value this is, for a per-CPU map.
    pub cpu: Option<usize>,
    /// The value.
    pub value: &'a [u8],
}

/// How a key becomes the place of a value.
#[derive(Debug)]
enum Index {
    Array,
    Hash(HashIndex),
}

/// A map. All methods may be called while programs on other CPUs use it, from where the CPU cannot
/// be stopped by a debugger: a hash map takes short locks.
#[derive(Debug)]
pub struct Map {
    definition: MapDef,
    index: Index,
    values: Values,
}

impl Map {
    /// A map whose values begin at byte `start` of `arena`, a multiple of 8, and fit there. The
    /// definition has been checked.
    pub(crate) fn allocate(
        definition: MapDef,
        cpus: usize,
        arena: &Arc<Arena>,
        start: usize,
    ) -> Result<Self, OutOfMemory> {
        let shape = Shape::of(&definition, cpus);
        let values = Values::new(Arc::clone(arena), start, shape);
        values.fill(start, &definition.initial);
        let index = match definition.kind {
            MapKind::Array | MapKind::PerCpuArray => Index::Array,
            // Kinds that are not implemented are not loaded.
            _ => Index::Hash(HashIndex::allocate(
                definition.max_entries,
                definition.key_size as usize,
            )?),
        };
        Ok(Self {
            definition,
            index,
            values,
        })
    }

    /// Its definition. Its initial value is only what it started with.
    pub fn definition(&self) -> &MapDef {
        &self.definition
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.definition.name
    }

    /// Copies the value of `key` into `value`; of a per-CPU map that of `cpu`, which other maps
    /// ignore.
    pub fn lookup(&self, key: &[u8], cpu: usize, value: &mut [u8]) -> Result<(), MapError> {
        self.check_sizes(key, value.len())?;
        self.check_cpu(cpu)?;
        let place = self.place(key, cpu).ok_or(MapError::NotFound)?;
        self.values.copy_out(place, value);
        Ok(())
    }

    /// Sets the value of `key`; of a per-CPU map that of `cpu`, which other maps ignore.
    pub fn update(
        &self,
        key: &[u8],
        cpu: usize,
        value: &[u8],
        flag: UpdateFlag,
    ) -> Result<(), MapError> {
        self.check_sizes(key, value.len())?;
        self.check_cpu(cpu)?;
        self.update_with(key, cpu, flag, |values, place| values.fill(place, value))
    }

    /// Removes the entry `key`.
    pub fn delete(&self, key: &[u8]) -> Result<(), MapError> {
        self.check_sizes(key, self.values.size())?;
        self.check_mutable()?;
        match &self.index {
            Index::Hash(index) => index.delete(key),
            Index::Array => Err(MapError::Unsupported),
        }
    }

    /// Calls `visit` for every value until it returns `false`. An entry that is there all the time
    /// is visited exactly once; one that comes or goes meanwhile may be missed. Allocates one key
    /// and one value: not for the hit path.
    pub fn for_each(&self, visit: &mut dyn FnMut(Entry<'_>) -> bool) {
        let mut key = alloc::vec![0; self.definition.key_size as usize];
        let mut value = alloc::vec![0; self.values.size()];
        let Shape {
            entries, copies, ..
        } = self.values.shape();
        for (entry, cpu) in (0..entries).flat_map(|entry| (0..copies).map(move |cpu| (entry, cpu)))
        {
            let Some(place) = self.values.at(entry, cpu) else {
                continue;
            };
            let mut copy_value = || self.values.copy_out(place, &mut value);
            match &self.index {
                Index::Array => {
                    key.copy_from_slice(&(entry as u32).to_le_bytes());
                    copy_value();
                }
                Index::Hash(index) if index.copy_key(entry, &mut key, copy_value) => {}
                Index::Hash(_) => continue,
            }
            if !visit(Entry {
                key: &key,
                cpu: self.is_per_cpu().then_some(cpu),
                value: &value,
            }) {
                return;
            }
        }
    }

    /// Its values.
    pub(crate) fn values(&self) -> &Values {
        &self.values
    }

    /// Whether programs and the debugger may write it.
    pub(crate) fn is_mutable(&self) -> bool {
        self.definition.mutability == Mutability::Mutable
    }

    /// Where in the arena the value of `key` on `cpu` is. The key has the map's key size, and there
    /// is such a CPU.
    pub(crate) fn place(&self, key: &[u8], cpu: usize) -> Option<usize> {
        let entry = match &self.index {
            Index::Array => u32::from_le_bytes(key.try_into().ok()?) as usize,
            Index::Hash(index) => index.find(key)?,
        };
        self.values.at(entry, cpu)
    }

    /// Lets `write` set the value of `key` on `cpu`, whose place in the arena it gets. `write` runs
    /// under a lock of the map: it is short and takes no lock. Key and CPU are as [`Self::place`]
    /// wants them.
    pub(crate) fn update_with(
        &self,
        key: &[u8],
        cpu: usize,
        flag: UpdateFlag,
        write: impl FnOnce(&Values, usize),
    ) -> Result<(), MapError> {
        self.check_mutable()?;
        if let Index::Hash(index) = &self.index {
            return index.update(key, flag, |entry| {
                // An entry of the index always has a value.
                if let Some(place) = self.values.at(entry, cpu) {
                    write(&self.values, place);
                }
            });
        }
        let place = self.place(key, cpu).ok_or(MapError::OutOfRange)?;
        if flag == UpdateFlag::NoExist {
            return Err(MapError::Exists);
        }
        write(&self.values, place);
        Ok(())
    }

    fn is_per_cpu(&self) -> bool {
        self.definition.kind == MapKind::PerCpuArray
    }

    fn check_sizes(&self, key: &[u8], value_size: usize) -> Result<(), MapError> {
        let fits =
            key.len() == self.definition.key_size as usize && value_size == self.values.size();
        if fits {
            Ok(())
        } else {
            Err(MapError::WrongSize)
        }
    }

    fn check_cpu(&self, cpu: usize) -> Result<(), MapError> {
        if self.is_per_cpu() && cpu >= self.values.shape().copies {
            Err(MapError::NoSuchCpu)
        } else {
            Ok(())
        }
    }

    fn check_mutable(&self) -> Result<(), MapError> {
        if self.is_mutable() {
            Ok(())
        } else {
            Err(MapError::Frozen)
        }
    }
}

#[cfg(test)]
mod tests;
