//! Stage-2 descriptors of the 4 KiB granule (Arm ARM D8.3.1, D8.3.2).

use crate::addr::{Gpa, Hpa, PAGE_SIZE};

/// What is behind a mapped address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Memory {
    /// RAM: normal, write-back cacheable, inner shareable; the guest reads, writes and executes it.
    Ram,
    /// A device: Device-nGnRE; the guest reads and writes it.
    Device,
}

/// A level of the tables, from the root.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Level {
    /// 1 GiB an entry.
    One,
    /// 2 MiB an entry.
    Two,
    /// 4 KiB an entry.
    Three,
}

impl Level {
    /// Bytes that one entry covers.
    pub(crate) const fn entry_size(self) -> u64 {
        match self {
            Level::One => 1 << 30,
            Level::Two => 1 << 21,
            Level::Three => PAGE_SIZE,
        }
    }

    /// The level of the table that a table descriptor of this level points to.
    pub(crate) const fn below(self) -> Option<Level> {
        match self {
            Level::One => Some(Level::Two),
            Level::Two => Some(Level::Three),
            Level::Three => None,
        }
    }

    /// The start of the range of the entry that covers `gpa`.
    pub(crate) const fn start(self, gpa: Gpa) -> Gpa {
        Gpa(gpa.0 & !(self.entry_size() - 1))
    }

    /// Where in the table at `table` the entry for `gpa` is.
    pub(crate) const fn entry(self, table: Hpa, gpa: Gpa) -> Hpa {
        let index = gpa.0 / self.entry_size() % ENTRIES;
        Hpa(table.0 + index * DESCRIPTOR_SIZE)
    }
}

/// Descriptors in a table.
pub(crate) const ENTRIES: u64 = 512;
/// Bytes of a descriptor.
pub(crate) const DESCRIPTOR_SIZE: u64 = 8;

const VALID: u64 = 1 << 0;
/// A table at levels 1 and 2, a page at level 3; clear: a block.
const TABLE_OR_PAGE: u64 = 1 << 1;
const ADDRESS: u64 = 0x0000_ffff_ffff_f000;

const MEMATTR_DEVICE_NGNRE: u64 = 0b0001 << 2;
const MEMATTR_NORMAL_WRITE_BACK: u64 = 0b1111 << 2;
const S2AP_NONE: u64 = 0b00 << 6;
const S2AP_READ_WRITE: u64 = 0b11 << 6;
const S2AP: u64 = 0b11 << 6;
const SH_INNER: u64 = 0b11 << 8;
const AF: u64 = 1 << 10;
/// `XN[1]`; with `XN[0]` clear it means "not executable" with and without FEAT_XNX.
const XN: u64 = 1 << 54;

const RAM: u64 = MEMATTR_NORMAL_WRITE_BACK | S2AP_READ_WRITE | SH_INNER | AF;
const DEVICE: u64 = MEMATTR_DEVICE_NGNRE | S2AP_READ_WRITE | AF | XN;
const SHADOW: u64 = MEMATTR_NORMAL_WRITE_BACK | S2AP_NONE | SH_INNER | AF;

/// A descriptor's value. Its meaning depends on the level of the table that holds it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Descriptor(pub(crate) u64);

impl Descriptor {
    /// Translation fault.
    pub(crate) const INVALID: Self = Self(0);

    /// Points to the next level's table.
    pub(crate) const fn table(at: Hpa) -> Self {
        Self(at.0 & ADDRESS | TABLE_OR_PAGE | VALID)
    }

    /// A block or page of `memory`.
    pub(crate) const fn leaf(level: Level, output: Hpa, memory: Memory) -> Self {
        let attributes = match memory {
            Memory::Ram => RAM,
            Memory::Device => DEVICE,
        };
        Self::with_attributes(level, output, attributes)
    }

    /// A page that the guest can execute and neither read nor write: S2AP none, XN clear (Arm ARM
    /// D8.4.2).
    pub(crate) const fn shadow(output: Hpa) -> Self {
        Self::with_attributes(Level::Three, output, SHADOW)
    }

    /// A page of RAM that the guest reads and writes and cannot execute.
    pub(crate) const fn no_execute(output: Hpa) -> Self {
        Self::with_attributes(Level::Three, output, RAM | XN)
    }

    const fn with_attributes(level: Level, output: Hpa, attributes: u64) -> Self {
        let kind = match level {
            Level::Three => TABLE_OR_PAGE,
            Level::One | Level::Two => 0,
        };
        Self(output.0 & ADDRESS & !(level.entry_size() - 1) | attributes | kind | VALID)
    }

    /// Whether a walk goes on or ends here, rather than faulting.
    pub(crate) const fn is_valid(self) -> bool {
        self.0 & VALID != 0
    }

    /// Whether it points to a table, in a table of `level`.
    pub(crate) const fn is_table(self, level: Level) -> bool {
        self.is_valid() && self.0 & TABLE_OR_PAGE != 0 && level.below().is_some()
    }

    /// Whether it is a page that [`Descriptor::shadow`] made.
    pub(crate) const fn is_shadow(self) -> bool {
        self.is_valid() && self.0 & S2AP == S2AP_NONE
    }

    /// Whether it is a page that [`Descriptor::no_execute`] made.
    pub(crate) const fn is_no_execute(self) -> bool {
        self.is_valid() && self.0 & (RAM | XN) == RAM | XN
    }

    /// The next table, or the first byte of the block or page.
    pub(crate) const fn address(self) -> Hpa {
        Hpa(self.0 & ADDRESS)
    }

    /// What a leaf maps.
    pub(crate) const fn memory(self) -> Memory {
        if self.0 & MEMATTR_NORMAL_WRITE_BACK == MEMATTR_NORMAL_WRITE_BACK {
            Memory::Ram
        } else {
            Memory::Device
        }
    }

    /// The part of this leaf of `level` that covers `gpa`, as a leaf of the finer or equal level
    /// `to`.
    pub(crate) const fn part(self, level: Level, gpa: Gpa, to: Level) -> Self {
        let offset = to.start(gpa).0 & (level.entry_size() - 1);
        let output = Hpa(self.address().0 + offset);
        Self::leaf(to, output, self.memory())
    }
}

/// Where a walk ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Entry {
    /// The level of the table that holds the descriptor.
    pub(crate) level: Level,
    /// Where the descriptor is.
    pub(crate) at: Hpa,
    /// Its value: a block, a page, or invalid.
    pub(crate) value: Descriptor,
}
