//! Maps: the memory that programs keep between runs and share with the debugger.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

/// The kind of a map. The numbers are Linux' `enum bpf_map_type` (`include/uapi/linux/bpf.h`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum MapKind {
    /// `BPF_MAP_TYPE_HASH`: any key, up to `max_entries` of them.
    Hash = 1,
    /// `BPF_MAP_TYPE_ARRAY`: keys `0..max_entries`, all always present.
    Array = 2,
    /// `BPF_MAP_TYPE_PERCPU_ARRAY`: an array with one value per key and physical CPU.
    PerCpuArray = 6,
}

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
    /// Bytes of a key.
    pub key_size: u32,
    /// Bytes of a value.
    pub value_size: u32,
    /// How many entries it can hold.
    pub max_entries: u32,
    /// Whether it can be written.
    pub mutability: Mutability,
    /// What entry 0 holds after loading, as `.data` and `.rodata` need it. Empty means zeros; else `value_size` bytes.
    pub initial: Vec<u8>,
}

/// Why a map operation failed. The errno that a program sees is [`MapError::errno`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MapError {
    /// No entry has that key.
    NotFound,
    /// The map is full.
    Full,
    /// The key exists, and `BPF_NOEXIST` was asked for.
    Exists,
    /// The map kind does not do this, or flags are unknown.
    Invalid,
    /// Key or value has the wrong length for the map.
    WrongSize,
    /// The map is frozen.
    Frozen,
    /// No such CPU.
    NoSuchCpu,
}

impl fmt::Display for MapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotFound => "no entry with that key",
            Self::Full => "the map is full",
            Self::Exists => "an entry with that key exists already",
            Self::Invalid => "this kind of map cannot do that",
            Self::WrongSize => "key or value has the wrong length for this map",
            Self::Frozen => "the map is read-only",
            Self::NoSuchCpu => "no such CPU",
        })
    }
}

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

/// A map. All methods may be called while programs on other CPUs use it.
#[derive(Debug)]
pub struct Map {
    definition: MapDef,
}

impl Map {
    /// Its definition.
    pub fn definition(&self) -> &MapDef {
        &self.definition
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.definition.name
    }

    /// Copies the value of `key` into `value`; of a per-CPU map that of `cpu`, which other maps ignore.
    pub fn lookup(&self, key: &[u8], cpu: usize, value: &mut [u8]) -> Result<(), MapError> {
        let _ = (key, cpu, value);
        todo!()
    }

    /// Sets the value of `key`; of a per-CPU map that of `cpu`, which other maps ignore.
    pub fn update(
        &self,
        key: &[u8],
        cpu: usize,
        value: &[u8],
        flag: UpdateFlag,
    ) -> Result<(), MapError> {
        let _ = (key, cpu, value, flag);
        todo!()
    }

    /// Removes the entry `key`.
    pub fn delete(&self, key: &[u8]) -> Result<(), MapError> {
        let _ = key;
        todo!()
    }

    /// Calls `visit` for every value until it returns `false`. Allocates one key and one value; not for the hit path.
    pub fn for_each(&self, visit: &mut dyn FnMut(Entry<'_>) -> bool) {
        let _ = visit;
        todo!()
    }
}
