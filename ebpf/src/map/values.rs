//! Where the values of a map are in the arena.

use super::{MapDef, MapKind, records, traces};
use crate::arena::{Arena, merge};
use alloc::sync::Arc;
use core::sync::atomic::Ordering;

/// Values of different CPUs, and different maps, share no cache line of so many bytes.
const LINE: usize = 64;

/// How the values of a map lie.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Shape {
    /// Bytes of one value.
    pub(crate) size: usize,
    /// Bytes from one value to the next.
    pub(crate) stride: usize,
    /// How many there are, for each CPU if each has its own.
    pub(crate) entries: usize,
    /// Bytes from the values of one CPU to those of the next.
    pub(crate) block: usize,
    /// How many CPUs have their own; 1 where they share them.
    pub(crate) copies: usize,
}

impl Shape {
    /// The shape of a checked definition on a machine with `cpus` CPUs.
    pub(crate) fn of(definition: &MapDef, cpus: usize) -> Self {
        let entries = definition.max_entries as usize;
        let size = definition.value_size as usize;
        let (size, entries, copies) = match definition.kind {
            // To a program, the memory for its records is one value.
            MapKind::RingBuf => (records::reservable(definition.max_entries), 1, cpus),
            MapKind::PerfEventArray | MapKind::CgroupArray | MapKind::ProgArray => (size, 0, 1),
            MapKind::StackTrace => (size, traces::numbers(definition.max_entries), 1),
            kind if kind.is_per_cpu() => (size, entries, cpus),
            _ => (size, entries, 1),
        };
        let stride = size.next_multiple_of(8);
        Self {
            size,
            stride,
            entries,
            block: (stride * entries).next_multiple_of(LINE),
            copies,
        }
    }

    /// Bytes of all values. Of a checked definition and at most [`crate::object::MAX_CPUS`] CPUs
    /// that does not overflow.
    pub(crate) fn bytes(&self) -> usize {
        self.block * self.copies
    }
}

/// The values of a map. Where one is, is said by its offset in the arena.
#[derive(Debug)]
pub(crate) struct Values {
    arena: Arc<Arena>,
    start: usize,
    shape: Shape,
}

impl Values {
    /// The values of a map that begin at byte `start` of the arena, a multiple of 8.
    pub(super) fn new(arena: Arc<Arena>, start: usize, shape: Shape) -> Self {
        Self {
            arena,
            start,
            shape,
        }
    }

    /// Bytes of one value.
    pub(crate) fn size(&self) -> usize {
        self.shape.size
    }

    /// Where the first is.
    pub(crate) fn start(&self) -> usize {
        self.start
    }

    /// How they lie.
    pub(crate) fn shape(&self) -> Shape {
        self.shape
    }

    /// Where value `index` is, of a per-CPU map that of `cpu`; `None` where there is none.
    pub(crate) fn at(&self, index: usize, cpu: usize) -> Option<usize> {
        let copy = if self.shape.copies == 1 { 0 } else { cpu };
        let exists = index < self.shape.entries && copy < self.shape.copies;
        exists.then(|| self.start + copy * self.shape.block + index * self.shape.stride)
    }

    /// The end of the value that the byte at `offset` of the arena belongs to; `None` where it
    /// belongs to none.
    pub(crate) fn end_of(&self, offset: usize) -> Option<usize> {
        let in_values = offset.checked_sub(self.start)?;
        let in_block = in_values.checked_rem(self.shape.block)?;
        let in_value = in_block % self.shape.stride;
        let inside = in_values < self.shape.bytes()
            && in_block / self.shape.stride < self.shape.entries
            && in_value < self.shape.size;
        inside.then(|| offset - in_value + self.shape.size)
    }

    /// Sets the value at `offset` from the bytes of `source`, as far as both go.
    pub(crate) fn fill(&self, offset: usize, source: &[u8]) {
        self.fill_words(offset, source.len(), |index| {
            let rest = &source[8 * index..];
            let mut word = [0; 8];
            let length = rest.len().min(8);
            word[..length].copy_from_slice(&rest[..length]);
            u64::from_le_bytes(word)
        });
    }

    /// Sets the first `length` bytes of a value from words that `source` gives by number.
    pub(crate) fn fill_words(
        &self,
        offset: usize,
        length: usize,
        mut source: impl FnMut(usize) -> u64,
    ) {
        let length = length.min(self.shape.size);
        for (index, word) in self.arena.words(offset, length).iter().enumerate() {
            let used = (length - 8 * index).min(8);
            merge(word, u64::MAX >> (64 - 8 * used), source(index));
        }
    }

    /// The word number `index` of the value at `offset`.
    pub(super) fn word(&self, offset: usize, index: usize) -> u64 {
        let words = self.arena.words(offset, self.shape.size);
        words
            .get(index)
            .map_or(0, |word| word.load(Ordering::Relaxed))
    }

    /// Copies the value at `offset` into `target`, as far as both go.
    pub(crate) fn copy_out(&self, offset: usize, target: &mut [u8]) {
        let words = self.arena.words(offset, self.shape.size);
        for (chunk, word) in target.chunks_mut(8).zip(words) {
            let bytes = word.load(Ordering::Relaxed).to_le_bytes();
            chunk.copy_from_slice(&bytes[..chunk.len()]);
        }
    }
}
