//! One tree of stage-2 tables.

use super::descriptor::{DESCRIPTOR_SIZE, ENTRIES};
use super::{Descriptor, Entry, IPA_BITS, Level, Memory, Port};
use crate::addr::{Gpa, Hpa, PAGE_SIZE};
use core::fmt;

/// Why a range cannot be mapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MapError {
    /// An address or the size is not a multiple of 4 KiB.
    Misaligned,
    /// The range leaves the guest-physical space of [`IPA_BITS`] bits, or wraps.
    OutOfRange,
    /// Something is mapped at this address already.
    Overlap(Gpa),
    /// No frame left for a table.
    OutOfMemory,
}

impl fmt::Display for MapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MapError::Misaligned => f.write_str("not a whole number of 4 KiB pages"),
            MapError::OutOfRange => write!(f, "outside the {IPA_BITS}-bit guest-physical space"),
            MapError::Overlap(gpa) => write!(f, "something is mapped at {gpa} already"),
            MapError::OutOfMemory => f.write_str("no frame left for a stage-2 table"),
        }
    }
}

impl core::error::Error for MapError {}

/// No frame left for a table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct OutOfMemory;

/// One tree of tables. It does not own its port, so that two trees can share one; the same port
/// comes with every call.
#[derive(Debug)]
pub struct Tables {
    root: Hpa,
    tables: usize,
}

impl Tables {
    /// An empty tree: every address faults.
    pub fn new(port: &impl Port) -> Result<Self, MapError> {
        let root = port.allocate().ok_or(MapError::OutOfMemory)?;
        Ok(Self { root, tables: 1 })
    }

    /// The root table, for `VTTBR_EL2.BADDR`.
    pub fn root(&self) -> Hpa {
        self.root
    }

    /// How many frames the tree takes, the root included.
    pub fn tables(&self) -> usize {
        self.tables
    }

    /// Maps `size` bytes from `gpa` to `hpa`, all of which are free. After an error a part of the
    /// range may be mapped.
    pub fn map(
        &mut self,
        port: &impl Port,
        gpa: Gpa,
        hpa: Hpa,
        size: u64,
        memory: Memory,
    ) -> Result<(), MapError> {
        if (gpa.0 | hpa.0 | size) & (PAGE_SIZE - 1) != 0 {
            return Err(MapError::Misaligned);
        }
        let end = gpa.checked_add(size).ok_or(MapError::OutOfRange)?;
        hpa.checked_add(size).ok_or(MapError::OutOfRange)?;
        if end.0 > 1 << IPA_BITS {
            return Err(MapError::OutOfRange);
        }
        let mut done = 0;
        while done < size {
            let (from, to) = (Gpa(gpa.0 + done), Hpa(hpa.0 + done));
            let level = coarsest(from, to, size - done);
            self.map_leaf(port, from, level, Descriptor::leaf(level, to, memory))?;
            done += level.entry_size();
        }
        port.publish();
        Ok(())
    }

    /// Makes the free entry of `level` for `gpa` a leaf, with the tables above it where they are
    /// missing.
    fn map_leaf(
        &mut self,
        port: &impl Port,
        gpa: Gpa,
        level: Level,
        leaf: Descriptor,
    ) -> Result<(), MapError> {
        loop {
            let entry = walk(port, self.root, gpa);
            // A walk to a coarser level than asked for ended at nothing or at a block.
            if entry.value.is_valid() {
                return Err(MapError::Overlap(gpa));
            }
            if entry.level > level {
                return Err(MapError::Overlap(gpa));
            }
            if entry.level == level {
                port.write_descriptor(entry.at, leaf.0);
                return Ok(());
            }
            let table = self
                .allocate(port)
                .map_err(|OutOfMemory| MapError::OutOfMemory)?;
            // The zeroes of the new table before the link to it.
            port.publish();
            port.write_descriptor(entry.at, Descriptor::table(table).0);
        }
    }

    /// Where the walk for `gpa` ends. Addresses outside the guest-physical space end at an invalid
    /// entry.
    pub(crate) fn walk(&self, port: &impl Port, gpa: Gpa) -> Entry {
        walk(port, self.root, gpa)
    }

    /// Makes the page of `gpa`, which is mapped, the page `leaf`; splits the block it is in. On an
    /// error nothing has changed.
    pub(crate) fn set_page(
        &mut self,
        port: &impl Port,
        gpa: Gpa,
        leaf: Descriptor,
    ) -> Result<(), OutOfMemory> {
        let entry = self.walk(port, gpa);
        let new = match entry.level {
            Level::Three => leaf,
            coarser => self.split(port, entry.value, coarser, gpa, leaf)?,
        };
        replace(port, entry, gpa, new);
        Ok(())
    }

    /// A table that maps what the leaf `block` of `level` maps, except that the page of `gpa` is
    /// `leaf`.
    fn split(
        &mut self,
        port: &impl Port,
        block: Descriptor,
        level: Level,
        gpa: Gpa,
        leaf: Descriptor,
    ) -> Result<Descriptor, OutOfMemory> {
        let Some(below) = level.below() else {
            return Ok(leaf);
        };
        let table = self.allocate(port)?;
        let special = match self.split(port, block.part(level, gpa, below), below, gpa, leaf) {
            Ok(special) => special,
            Err(OutOfMemory) => {
                self.free(port, table);
                return Err(OutOfMemory);
            }
        };
        let special_at = below.entry(table, gpa);
        for index in 0..ENTRIES {
            let at = Hpa(table.0 + index * DESCRIPTOR_SIZE);
            let part_gpa = Gpa(level.start(gpa).0 + index * below.entry_size());
            let plain = block.part(level, part_gpa, below);
            port.write_descriptor(at, if at == special_at { special.0 } else { plain.0 });
        }
        Ok(Descriptor::table(table))
    }

    /// Makes the entry of `level` for `gpa`, which is valid, the leaf `leaf`, and frees the tables
    /// that were below it.
    pub(crate) fn set_leaf(&mut self, port: &impl Port, gpa: Gpa, level: Level, leaf: Descriptor) {
        let Some(entry) = walk_to(port, self.root, gpa, level) else {
            return;
        };
        replace(port, entry, gpa, leaf);
        if entry.value.is_table(entry.level) {
            self.free_below(port, entry.value, entry.level);
        }
    }

    /// Frees the table that `link`, a table descriptor of `level`, points to, and all tables below
    /// it.
    fn free_below(&mut self, port: &impl Port, link: Descriptor, level: Level) {
        let Some(below) = level.below() else { return };
        let table = link.address();
        if below.below().is_some() {
            for index in 0..ENTRIES {
                let at = Hpa(table.0 + index * DESCRIPTOR_SIZE);
                let child = Descriptor(port.read_descriptor(at));
                if child.is_table(below) {
                    self.free_below(port, child, below);
                }
            }
        }
        self.free(port, table);
    }

    fn allocate(&mut self, port: &impl Port) -> Result<Hpa, OutOfMemory> {
        let table = port.allocate().ok_or(OutOfMemory)?;
        self.tables += 1;
        Ok(table)
    }

    fn free(&mut self, port: &impl Port, table: Hpa) {
        port.free(table);
        self.tables -= 1;
    }
}

/// The coarsest level whose entries fit `size` bytes from `gpa` and `hpa`.
fn coarsest(gpa: Gpa, hpa: Hpa, size: u64) -> Level {
    let fits = |level: Level| {
        let bytes = level.entry_size();
        (gpa.0 | hpa.0) & (bytes - 1) == 0 && size >= bytes
    };
    [Level::One, Level::Two]
        .into_iter()
        .find(|&level| fits(level))
        .unwrap_or(Level::Three)
}

/// Where the walk for `gpa` from `root` ends: at a leaf or at an invalid entry.
pub(crate) fn walk(port: &impl Port, root: Hpa, gpa: Gpa) -> Entry {
    if gpa.0 >> IPA_BITS != 0 {
        // No entry is for it: what the hardware finds at level 1 for such an address is a
        // translation fault.
        return Entry {
            level: Level::One,
            at: root,
            value: Descriptor::INVALID,
        };
    }
    let mut level = Level::One;
    let mut table = root;
    loop {
        let at = level.entry(table, gpa);
        let value = Descriptor(port.read_descriptor(at));
        match level.below() {
            Some(below) if value.is_table(level) => {
                level = below;
                table = value.address();
            }
            _ => return Entry { level, at, value },
        }
    }
}

/// The entry of `level` for `gpa`, whatever it is, unless the walk ends before it.
fn walk_to(port: &impl Port, root: Hpa, gpa: Gpa, level: Level) -> Option<Entry> {
    let mut table = root;
    let mut current = Level::One;
    loop {
        let at = current.entry(table, gpa);
        let value = Descriptor(port.read_descriptor(at));
        if current == level {
            return Some(Entry { level, at, value });
        }
        if !value.is_table(current) {
            return None;
        }
        table = value.address();
        current = current.below()?;
    }
}

/// Break-before-make: makes the valid `entry`, which `gpa` is under, `new`. If `new` links a table,
/// making the break visible makes the contents of that table visible too.
fn replace(port: &impl Port, entry: Entry, gpa: Gpa, new: Descriptor) {
    port.write_descriptor(entry.at, Descriptor::INVALID.0);
    port.publish();
    if entry.value.is_table(entry.level) {
        port.invalidate_all();
    } else {
        port.invalidate_ipa(gpa);
    }
    port.write_descriptor(entry.at, new.0);
    port.publish();
}
