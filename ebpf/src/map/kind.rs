//! The kinds of maps.

use core::fmt;

/// The kind of a map. The numbers are Linux' `enum bpf_map_type` (`include/uapi/linux/bpf.h`). A
/// linked object may have maps of all of these; loading refuses those that are not implemented.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum MapKind {
    /// `BPF_MAP_TYPE_HASH`: any key, up to `max_entries` of them.
    Hash = 1,
    /// `BPF_MAP_TYPE_ARRAY`: keys `0..max_entries`, all always present.
    Array = 2,
    /// `BPF_MAP_TYPE_PROG_ARRAY`: programs for tail calls.
    ProgArray = 3,
    /// `BPF_MAP_TYPE_PERF_EVENT_ARRAY`: buffers of records, one for each CPU.
    PerfEventArray = 4,
    /// `BPF_MAP_TYPE_PERCPU_HASH`: a hash map with one value per key and physical CPU.
    PerCpuHash = 5,
    /// `BPF_MAP_TYPE_PERCPU_ARRAY`: an array with one value per key and physical CPU.
    PerCpuArray = 6,
    /// `BPF_MAP_TYPE_STACK_TRACE`: backtraces by their number.
    StackTrace = 7,
    /// `BPF_MAP_TYPE_CGROUP_ARRAY`: control groups of the guest.
    CgroupArray = 8,
    /// `BPF_MAP_TYPE_LRU_HASH`: a hash map that forgets what was not used for long.
    LruHash = 9,
    /// `BPF_MAP_TYPE_LRU_PERCPU_HASH`: the same with one value per key and physical CPU.
    LruPerCpuHash = 10,
    /// `BPF_MAP_TYPE_ARRAY_OF_MAPS`: maps by their number.
    ArrayOfMaps = 12,
    /// `BPF_MAP_TYPE_QUEUE`: first in, first out.
    Queue = 22,
    /// `BPF_MAP_TYPE_STACK`: last in, first out.
    Stack = 23,
    /// `BPF_MAP_TYPE_RINGBUF`: one buffer of records for all CPUs.
    RingBuf = 27,
}

impl MapKind {
    const ALL: [Self; 14] = [
        Self::Hash,
        Self::Array,
        Self::ProgArray,
        Self::PerfEventArray,
        Self::PerCpuHash,
        Self::PerCpuArray,
        Self::StackTrace,
        Self::CgroupArray,
        Self::LruHash,
        Self::LruPerCpuHash,
        Self::ArrayOfMaps,
        Self::Queue,
        Self::Stack,
        Self::RingBuf,
    ];

    /// The kind that Linux gives that number.
    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|&kind| kind as u32 == number)
    }

    /// The name that users know.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hash => "hash",
            Self::Array => "array",
            Self::ProgArray => "prog_array",
            Self::PerfEventArray => "perf_event_array",
            Self::PerCpuHash => "percpu_hash",
            Self::PerCpuArray => "percpu_array",
            Self::StackTrace => "stack_trace",
            Self::CgroupArray => "cgroup_array",
            Self::LruHash => "lru_hash",
            Self::LruPerCpuHash => "lru_percpu_hash",
            Self::ArrayOfMaps => "array_of_maps",
            Self::Queue => "queue",
            Self::Stack => "stack",
            Self::RingBuf => "ringbuf",
        }
    }

    /// Whether such maps can be loaded.
    pub const fn is_implemented(self) -> bool {
        !matches!(self, Self::ArrayOfMaps)
    }

    /// Whether each physical CPU has a value of its own for every key.
    pub const fn is_per_cpu(self) -> bool {
        matches!(
            self,
            Self::PerCpuArray | Self::PerCpuHash | Self::LruPerCpuHash
        )
    }

    /// Whether `bytes` can be the size of a key.
    pub(super) fn takes_key(self, bytes: u32) -> bool {
        match self {
            Self::Hash | Self::PerCpuHash | Self::LruHash | Self::LruPerCpuHash => {
                (1..=super::MAX_KEY_SIZE).contains(&bytes)
            }
            Self::Queue | Self::Stack | Self::RingBuf => bytes == 0,
            _ => bytes == 4,
        }
    }

    /// Whether `bytes` can be the size of a value.
    pub(super) fn takes_value(self, bytes: u32) -> bool {
        match self {
            Self::RingBuf => bytes == 0,
            // Numbers of programs, buffers, groups, maps.
            Self::ProgArray | Self::PerfEventArray | Self::CgroupArray | Self::ArrayOfMaps => {
                bytes == 4
            }
            // Return addresses.
            Self::StackTrace => {
                (8..=super::MAX_VALUE_SIZE).contains(&bytes) && bytes.is_multiple_of(8)
            }
            _ => (1..=super::MAX_VALUE_SIZE).contains(&bytes),
        }
    }

    /// Whether `count` can be the number of entries; of a ring buffer they are bytes.
    pub(super) fn takes_entries(self, count: u32) -> bool {
        match self {
            // One for each CPU of the machine.
            Self::PerfEventArray if count == 0 => true,
            Self::RingBuf => (1..=super::MAX_RING_BYTES).contains(&count),
            _ => (1..=super::MAX_ENTRIES).contains(&count),
        }
    }
}

impl fmt::Display for MapKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
