//! Maps: the memory that programs keep between runs and share with the debugger.
//!
//! # Sharing
//!
//! Several CPUs run programs on one map at once, and the debug server reads and writes it
//! meanwhile. A map is allocated whole when its object is loaded; nothing here allocates on the hit
//! path. Values lie in the object's arena and are accessed atomically ([`crate::arena`]), so a value
//! of at most 8 aligned bytes is never seen half-written; larger ones can be, as in Linux' array
//! maps. Only hash maps, queues and stacks have locks; `hash` says why they are harmless.

mod hash;
mod kind;
mod lru;
mod programs;
mod queue;
mod records;
mod traces;
mod values;

pub use kind::MapKind;
pub(crate) use programs::initial as initial_programs;
pub use queue::PushFlag;
pub use records::MAX_RECORD;
pub(crate) use records::Records;
pub(crate) use traces::{Compare, OnCollision};
pub(crate) use values::{Shape, Values};

use crate::arena::{Arena, OutOfMemory};
use crate::helper::{E2BIG, EEXIST, EINVAL, ENOENT, ENOMEM, EPERM};
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicU32, Ordering};
use hash::{HashIndex, Origin, WhenFull};
use programs::Programs;
use queue::{Discipline, Order};
use traces::Traces;

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
    /// zeros; else `value_size` bytes. Of a map of programs, 4 bytes for each of its first slots: the
    /// number of the object's program that it holds plus 1, or 0.
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
    /// There is an initial value, but its length is not the value size or the map is no array, nor
    /// one of programs that has so many slots.
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
        let length = self.initial.len();
        let initial_fits = match self.kind {
            MapKind::Array => u32::try_from(length) == Ok(self.value_size),
            MapKind::ProgArray => {
                length.is_multiple_of(4) && length / 4 <= self.max_entries as usize
            }
            _ => false,
        };
        if !self.initial.is_empty() && !initial_fits {
            return Err(MapDefError::Initial);
        }
        Ok(())
    }

    /// How many bytes the map takes on a machine with `cpus` physical CPUs, roughly. For checked
    /// definitions and at most [`crate::object::MAX_CPUS`] CPUs this cannot overflow.
    pub fn memory(&self, cpus: usize) -> u64 {
        let index = match self.kind {
            MapKind::StackTrace => traces::overhead(self.max_entries),
            MapKind::ProgArray => u64::from(self.max_entries) * size_of::<AtomicU32>() as u64,
            kind if WhenFull::of(kind).is_some() => {
                hash::overhead(self.key_size) * u64::from(self.max_entries)
            }
            _ => 0,
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
    /// Other CPUs have taken every entry of the LRU map that could have been given up.
    Contended,
    /// The program runs at another kind of place than those that use the map.
    OtherContext,
}

impl MapError {
    /// The errno that Linux returns for this, negative, as a program sees it in r0.
    pub(crate) fn errno(self) -> u64 {
        match self {
            Self::NotFound => ENOENT,
            Self::OutOfRange | Self::Full => E2BIG,
            Self::Exists => EEXIST,
            Self::Unsupported | Self::WrongSize | Self::NoSuchCpu | Self::OtherContext => EINVAL,
            Self::Frozen => EPERM,
            Self::Contended => ENOMEM,
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
            Self::OtherContext => {
                "the program runs at another kind of place than those that use it"
            }
            Self::Contended => "other CPUs are taking every entry: try again",
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

/// The number of a map: no other that was ever loaded has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord, Hash)]
pub struct MapId(pub u32);

impl MapId {
    fn next() -> Self {
        static LAST: AtomicU32 = AtomicU32::new(0);
        Self(LAST.fetch_add(1, Ordering::Relaxed).wrapping_add(1))
    }
}

/// What has come out of a perf event array or a ring buffer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Output {
    /// Records that programs have put out.
    pub records: u64,
    /// Records that there was no room for.
    pub lost: u64,
    /// Bytes that nobody has read yet, with 8 for each record.
    pub unread: u64,
}

/// One value of a map, as [`Map::for_each`] shows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry<'a> {
    /// The key; of an array the index, 4 bytes little-endian; of a queue or a stack nothing.
    pub key: &'a [u8],
    /// The CPU whose value this is, for a per-CPU map.
    pub cpu: Option<usize>,
    /// The value.
    pub value: &'a [u8],
}

/// How a map finds its values.
#[derive(Debug)]
enum Index {
    /// By their number.
    Array,
    /// By their key.
    Hash(HashIndex),
    /// In the order in which they came.
    Order(Order),
    /// By their number, which is made of them.
    Traces(Traces),
    /// It has none, only records that pass.
    Records(Records),
    /// It has none, but programs.
    Programs(Programs),
    /// It has none: nobody can put one in.
    Empty,
}

impl Index {
    fn allocate(definition: &MapDef, cpus: usize) -> Result<Self, OutOfMemory> {
        let entries = definition.max_entries;
        let order = |discipline| Self::Order(Order::new(discipline, entries as usize));
        if let Some(when_full) = WhenFull::of(definition.kind) {
            let key_size = definition.key_size as usize;
            return HashIndex::allocate(entries, key_size, when_full).map(Self::Hash);
        }
        Ok(match definition.kind {
            MapKind::Array | MapKind::PerCpuArray => Self::Array,
            MapKind::Queue => order(Discipline::Queue),
            MapKind::Stack => order(Discipline::Stack),
            MapKind::StackTrace => Self::Traces(Traces::allocate(entries)?),
            MapKind::PerfEventArray => Self::Records(Records::unlimited()),
            MapKind::RingBuf => Self::Records(Records::ring(definition, cpus)?),
            MapKind::ProgArray => Self::Programs(Programs::allocate(entries, &definition.initial)?),
            _ => Self::Empty,
        })
    }
}

/// A map. All methods may be called while programs on other CPUs use it, from where the CPU cannot
/// be stopped by a debugger: some maps take short locks.
#[derive(Debug)]
pub struct Map {
    id: MapId,
    definition: MapDef,
    cpus: usize,
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
        if definition.kind == MapKind::Array {
            values.fill(start, &definition.initial);
        }
        Ok(Self {
            id: MapId::next(),
            index: Index::allocate(&definition, cpus)?,
            definition,
            cpus,
            values,
        })
    }

    /// Its number.
    pub fn id(&self) -> MapId {
        self.id
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
    /// ignore; of a queue or a stack the next one. Keeps no entry of an LRU map from being given up.
    pub fn lookup(&self, key: &[u8], cpu: usize, value: &mut [u8]) -> Result<(), MapError> {
        if self.records().is_some() {
            return Err(MapError::Unsupported);
        }
        self.check_sizes(key, value.len())?;
        self.check_cpu(cpu)?;
        match &self.index {
            Index::Order(_) => return self.peek(value),
            Index::Programs(programs) => {
                let slot = slot(key).and_then(|slot| programs.get(slot));
                let program = slot.ok_or(MapError::NotFound)?;
                value.copy_from_slice(&(program as u32).to_le_bytes());
                return Ok(());
            }
            _ => {}
        }
        let entry = self.find(key).ok_or(MapError::NotFound)?;
        let place = self.values.at(entry, cpu).ok_or(MapError::NotFound)?;
        let copy = || self.values.copy_out(place, value);
        match &self.index {
            Index::Traces(traces) if !traces.read(entry, copy) => Err(MapError::NotFound),
            Index::Traces(_) => Ok(()),
            _ => {
                self.values.copy_out(place, value);
                Ok(())
            }
        }
    }

    /// Sets the value of `key`; of a per-CPU map that of `cpu`, which other maps ignore. A new entry
    /// of a per-CPU map begins with zeros for the other CPUs.
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
            Index::Traces(traces) => traces.delete(self.find(key).ok_or(MapError::NotFound)?),
            Index::Programs(programs) => programs.set(slot(key).ok_or(MapError::OutOfRange)?, None),
            Index::Empty => Err(MapError::NotFound),
            Index::Array | Index::Order(_) | Index::Records(_) => Err(MapError::Unsupported),
        }
    }

    /// Adds a value to a queue or a stack.
    pub fn push(&self, value: &[u8], flag: PushFlag) -> Result<(), MapError> {
        self.order()?;
        self.check_sizes(&[], value.len())?;
        self.push_with(flag, |values, place| values.fill(place, value))
    }

    /// Takes the next value out of a queue or a stack.
    pub fn pop(&self, value: &mut [u8]) -> Result<(), MapError> {
        self.order()?;
        self.check_sizes(&[], value.len())?;
        self.pop_with(|place| self.values.copy_out(place, value))
    }

    /// Copies the next value of a queue or a stack.
    pub fn peek(&self, value: &mut [u8]) -> Result<(), MapError> {
        self.order()?;
        self.check_sizes(&[], value.len())?;
        self.peek_with(|place| self.values.copy_out(place, value))
    }

    /// How many entries it has; of an array all, of what passes records through none.
    pub fn len(&self) -> usize {
        match &self.index {
            Index::Array => self.definition.max_entries as usize,
            Index::Hash(index) => index.len(),
            Index::Order(order) => order.len(),
            Index::Traces(traces) => traces.len(),
            Index::Programs(programs) => programs.len(),
            Index::Records(_) | Index::Empty => 0,
        }
    }

    /// Whether it has no entries.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What has come out of it, if it is one that records pass through.
    pub fn output(&self) -> Option<Output> {
        let records = self.records()?;
        Some(Output {
            records: records.count(),
            lost: records.lost(),
            unread: records.unread(),
        })
    }

    /// Takes note that a record of `length` bytes, which came out of it, has been read.
    pub fn has_been_read(&self, length: usize) {
        if let Some(records) = self.records() {
            records.consume(length);
        }
    }

    /// Calls `visit` for every value until it returns `false`. An entry that is there all the time
    /// is visited exactly once; one that comes or goes meanwhile may be missed. Allocates one key
    /// and one value: not for the hit path.
    pub fn for_each(&self, visit: &mut dyn FnMut(Entry<'_>) -> bool) {
        if let Index::Programs(programs) = &self.index {
            return programs.for_each(visit);
        }
        let mut key = alloc::vec![0; self.definition.key_size as usize];
        let mut value = alloc::vec![0; self.values.size()];
        let Shape {
            entries, copies, ..
        } = self.values.shape();
        for (entry, cpu) in (0..entries).flat_map(|entry| (0..copies).map(move |cpu| (entry, cpu)))
        {
            let copy_value = |place| self.values.copy_out(place, &mut value);
            if !self.copy_entry(entry, cpu, &mut key, copy_value) {
                continue;
            }
            let is_wanted = visit(Entry {
                key: &key,
                cpu: self.definition.kind.is_per_cpu().then_some(cpu),
                value: &value,
            });
            if !is_wanted {
                return;
            }
        }
    }

    /// Copies the key of an entry, whose value is for `copy_value`. `false` where there is none.
    fn copy_entry(
        &self,
        entry: usize,
        cpu: usize,
        key: &mut [u8],
        mut copy_value: impl FnMut(usize),
    ) -> bool {
        let place = |entry: usize| self.values.at(entry, cpu);
        match &self.index {
            Index::Array => {
                key.copy_from_slice(&(entry as u32).to_le_bytes());
                place(entry).map(copy_value).is_some()
            }
            Index::Hash(index) => {
                let copy = || place(entry).into_iter().for_each(&mut copy_value);
                index.copy_key(entry, key, copy)
            }
            Index::Order(order) => order.look(entry, |entry| {
                place(entry).into_iter().for_each(&mut copy_value)
            }),
            Index::Traces(traces) => {
                key.copy_from_slice(&(entry as u32).to_le_bytes());
                traces.read(entry, || place(entry).into_iter().for_each(&mut copy_value))
            }
            Index::Records(_) | Index::Programs(_) | Index::Empty => false,
        }
    }

    /// The key of entry number `entry`, written to `key`, which has the map's key size, and where its
    /// value on `cpu` is; `None` where there is no such entry at the moment.
    pub(crate) fn entry(&self, entry: usize, cpu: usize, key: &mut [u8]) -> Option<usize> {
        let mut place = None;
        self.copy_entry(entry, cpu, key, |value| place = Some(value));
        place
    }

    /// The number of the object's program that a slot of a map of programs holds.
    pub fn program(&self, slot: usize) -> Option<usize> {
        match &self.index {
            Index::Programs(programs) => programs.get(slot),
            _ => None,
        }
    }

    /// The numbers of the programs that it holds, slot by slot.
    pub(crate) fn programs(&self) -> impl Iterator<Item = usize> {
        let programs = match &self.index {
            Index::Programs(programs) => Some(programs),
            _ => None,
        };
        programs.into_iter().flat_map(Programs::all)
    }

    /// Puts a program of the object, which runs at the same kind of place as those that use the map,
    /// into a slot.
    pub(crate) fn set_program(
        &self,
        key: &[u8],
        program: usize,
        flag: UpdateFlag,
    ) -> Result<(), MapError> {
        let Index::Programs(programs) = &self.index else {
            return Err(MapError::Unsupported);
        };
        if flag == UpdateFlag::NoExist {
            return Err(MapError::Exists);
        }
        let slot = slot(key).ok_or(MapError::WrongSize)?;
        programs.set(slot, Some(program))
    }

    /// Its values.
    pub(crate) fn values(&self) -> &Values {
        &self.values
    }

    /// Whether programs and the debugger may write it.
    pub(crate) fn is_mutable(&self) -> bool {
        self.definition.mutability == Mutability::Mutable
    }

    /// Where in the arena the value of `key` on `cpu` is, for a program. The key has the map's key
    /// size.
    pub(crate) fn place(&self, key: &[u8], cpu: usize) -> Option<usize> {
        let entry = self.find(key)?;
        if let Index::Hash(index) = &self.index {
            index.touch(entry);
        }
        self.values.at(entry, cpu)
    }

    /// The entry of `key`, which has the map's key size.
    fn find(&self, key: &[u8]) -> Option<usize> {
        match &self.index {
            Index::Array | Index::Traces(_) => slot(key),
            Index::Hash(index) => index.find(key),
            Index::Order(_) | Index::Records(_) | Index::Programs(_) | Index::Empty => None,
        }
    }

    /// Lets `write` set the value of `key` on `cpu`, whose place in the arena it gets. `write` may
    /// run under a lock of the map: it is short and takes no lock. The key has the map's key size,
    /// and there is such a CPU.
    pub(crate) fn update_with(
        &self,
        key: &[u8],
        cpu: usize,
        flag: UpdateFlag,
        mut write: impl FnMut(&Values, usize),
    ) -> Result<(), MapError> {
        self.check_mutable()?;
        match &self.index {
            Index::Hash(index) => index.update(key, flag, |entry, origin| {
                if origin == Origin::Made {
                    self.clear_others(entry, cpu);
                }
                // An entry of the index always has a value.
                if let Some(place) = self.values.at(entry, cpu) {
                    write(&self.values, place);
                }
            }),
            Index::Array => {
                let entry = self.find(key).ok_or(MapError::OutOfRange)?;
                let place = self.values.at(entry, cpu).ok_or(MapError::OutOfRange)?;
                if flag == UpdateFlag::NoExist {
                    return Err(MapError::Exists);
                }
                write(&self.values, place);
                Ok(())
            }
            Index::Order(_)
            | Index::Traces(_)
            | Index::Records(_)
            | Index::Programs(_)
            | Index::Empty => Err(MapError::Unsupported),
        }
    }

    /// Clears the values that a new entry has on other CPUs than `cpu`.
    fn clear_others(&self, entry: usize, cpu: usize) {
        let copies = self.values.shape().copies;
        for other in (0..copies).filter(|&other| copies > 1 && other != cpu) {
            if let Some(place) = self.values.at(entry, other) {
                self.values.fill_words(place, self.values.size(), |_| 0);
            }
        }
    }

    /// Lets `write` put a new value into a queue or a stack, under its lock.
    pub(crate) fn push_with(
        &self,
        flag: PushFlag,
        write: impl FnOnce(&Values, usize),
    ) -> Result<(), MapError> {
        self.check_mutable()?;
        let write = |place| write(&self.values, place);
        self.order()?
            .push(flag, |index| self.with_place(index, write))
    }

    /// Lets `read` copy the next value of a queue or a stack, whose place in the arena it gets, under
    /// the map's lock, and takes it out.
    pub(crate) fn pop_with(&self, read: impl FnOnce(usize)) -> Result<(), MapError> {
        self.check_mutable()?;
        self.order()?.pop(|index| self.with_place(index, read))
    }

    /// The same, and the value stays.
    pub(crate) fn peek_with(&self, read: impl FnOnce(usize)) -> Result<(), MapError> {
        self.order()?.peek(|index| self.with_place(index, read))
    }

    /// The number of a backtrace, of which as many addresses are kept as a value has place for.
    pub(crate) fn store_trace(
        &self,
        addresses: &[u64],
        compare: Compare,
        on_collision: OnCollision,
    ) -> Result<u32, MapError> {
        let Index::Traces(traces) = &self.index else {
            return Err(MapError::Unsupported);
        };
        let address = |index: usize| addresses.get(index).copied().unwrap_or(0);
        let size = self.values.size();
        let is_same = |number| {
            let place = self.values.at(number, 0);
            let same =
                |place| (0..size / 8).all(|index| self.values.word(place, index) == address(index));
            compare == Compare::Hash || place.is_some_and(same)
        };
        let write = |number| {
            if let Some(place) = self.values.at(number, 0) {
                self.values.fill_words(place, size, address);
            }
        };
        traces.store(hash::of_words(addresses), on_collision, is_same, write)
    }

    fn order(&self) -> Result<&Order, MapError> {
        match &self.index {
            Index::Order(order) => Ok(order),
            _ => Err(MapError::Unsupported),
        }
    }

    fn with_place(&self, index: usize, access: impl FnOnce(usize)) {
        // Every index below the room has a value.
        if let Some(place) = self.values.at(index, 0) {
            access(place);
        }
    }

    /// The counts of what passes through, if it is a perf event array or a ring buffer.
    pub(crate) fn records(&self) -> Option<&Records> {
        match &self.index {
            Index::Records(records) => Some(records),
            _ => None,
        }
    }

    /// How many CPUs have a value of their own for each key; 1 where they share it.
    pub fn copies(&self) -> usize {
        if self.definition.kind.is_per_cpu() {
            self.cpus
        } else {
            1
        }
    }

    /// How many CPUs it was made for.
    pub(crate) fn cpus(&self) -> usize {
        self.cpus
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
        if self.definition.kind.is_per_cpu() && cpu >= self.cpus {
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

/// The index that a key is.
fn slot(key: &[u8]) -> Option<usize> {
    Some(u32::from_le_bytes(key.try_into().ok()?) as usize)
}

#[cfg(test)]
mod tests;
