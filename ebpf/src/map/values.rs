//! The memory of a map's values.
//!
//! A value is an array of 64-bit words that are only ever accessed atomically, so that programs on
//! several CPUs and the debugger share it without a data race. A store of fewer than 8 bytes
//! replaces its bytes of the word by compare-and-exchange and leaves what others write into the
//! rest alone. That loop has no lock to wait for: a failed attempt means that another CPU's store
//! has just succeeded, and every program's stores are bounded by its budget.

use super::{OutOfMemory, allocate};
use crate::width::{Width, extract};
use alloc::boxed::Box;
use core::sync::atomic::{AtomicU64, Ordering};

/// What an atomic instruction does to the word that it addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum AtomicOp {
    Add,
    Or,
    And,
    Xor,
    Exchange,
    CompareExchange,
}

impl AtomicOp {
    /// What the memory holds after the operation on `old`. `expected` matters to
    /// [`Self::CompareExchange`] only.
    pub(crate) const fn apply(self, old: u64, operand: u64, expected: u64) -> u64 {
        match self {
            Self::Add => old.wrapping_add(operand),
            Self::Or => old | operand,
            Self::And => old & operand,
            Self::Xor => old ^ operand,
            Self::Exchange => operand,
            Self::CompareExchange if old == expected => operand,
            Self::CompareExchange => old,
        }
    }
}

/// The values of a map, by slot number.
#[derive(Debug)]
pub(crate) struct Values {
    words: Box<[AtomicU64]>,
    /// Words of one value.
    stride: usize,
    /// Bytes of one value; the rest of its last word is padding.
    size: usize,
}

impl Values {
    /// Zeroed values of `size` bytes (not 0).
    pub(super) fn allocate(slots: usize, size: usize) -> Result<Self, OutOfMemory> {
        let stride = size.div_ceil(8);
        let count = slots.checked_mul(stride).ok_or(OutOfMemory)?;
        Ok(Self {
            words: allocate(count, |_| AtomicU64::new(0))?,
            stride,
            size,
        })
    }

    /// Bytes of one value.
    pub(crate) fn size(&self) -> usize {
        self.size
    }

    /// How many values there are.
    pub(crate) fn slots(&self) -> usize {
        self.words.len() / self.stride
    }

    /// Whether `length` bytes at `offset` lie inside the value `slot`.
    pub(crate) fn contains(&self, slot: usize, offset: usize, length: usize) -> bool {
        let fits = offset
            .checked_add(length)
            .is_some_and(|end| end <= self.size);
        fits && slot < self.slots()
    }

    /// Loads from a value, of any alignment; `None` outside it.
    pub(crate) fn load(&self, slot: usize, offset: usize, width: Width) -> Option<u64> {
        let (first, second) = self.words_of(slot, offset, width)?;
        let high = second.map_or(0, |word| word.load(Ordering::Relaxed));
        Some(extract(
            first.load(Ordering::Relaxed),
            high,
            offset % 8,
            width,
        ))
    }

    /// Stores into a value, of any alignment; `None` outside it. A store that crosses words is two
    /// stores.
    pub(crate) fn store(&self, slot: usize, offset: usize, width: Width, value: u64) -> Option<()> {
        let (first, second) = self.words_of(slot, offset, width)?;
        let shift = 8 * (offset % 8);
        let mask = u128::from(width.mask()) << shift;
        let bits = u128::from(value & width.mask()) << shift;
        merge(first, mask as u64, bits as u64);
        if let Some(second) = second {
            merge(second, (mask >> 64) as u64, (bits >> 64) as u64);
        }
        Some(())
    }

    /// Does an atomic operation of 4 or 8 bytes and returns the old value; `None` outside the value
    /// or not aligned.
    pub(crate) fn atomic(
        &self,
        slot: usize,
        offset: usize,
        width: Width,
        op: AtomicOp,
        operand: u64,
        expected: u64,
    ) -> Option<u64> {
        if !offset.is_multiple_of(width.bytes()) {
            return None;
        }
        let (word, _) = self.words_of(slot, offset, width)?;
        if width == Width::Double && op == AtomicOp::Add {
            return Some(word.fetch_add(operand, Ordering::SeqCst));
        }
        let shift = 8 * (offset % 8);
        let mask = width.mask() << shift;
        let change = |whole: u64| {
            let old = (whole & mask) >> shift;
            let new = op.apply(old, operand & width.mask(), expected & width.mask());
            Some(whole & !mask | new << shift & mask)
        };
        // The closure never refuses, so both sides of the result are the old word.
        let whole = word
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, change)
            .unwrap_or_else(|old| old);
        Some((whole & mask) >> shift)
    }

    /// Sets a value from the bytes of `source`, as far as both go.
    pub(crate) fn fill(&self, slot: usize, source: &[u8]) {
        self.fill_words(slot, source.len(), |index| {
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
        slot: usize,
        length: usize,
        mut source: impl FnMut(usize) -> u64,
    ) {
        let length = length.min(self.size);
        for (index, word) in self.value(slot).iter().take(length.div_ceil(8)).enumerate() {
            let used = (length - 8 * index).min(8);
            merge(word, u64::MAX >> (64 - 8 * used), source(index));
        }
    }

    /// Copies a value into `target`, as far as both go.
    pub(crate) fn copy_out(&self, slot: usize, target: &mut [u8]) {
        for (chunk, word) in target.chunks_mut(8).zip(self.value(slot)) {
            let bytes = word.load(Ordering::Relaxed).to_le_bytes();
            chunk.copy_from_slice(&bytes[..chunk.len()]);
        }
    }

    fn value(&self, slot: usize) -> &[AtomicU64] {
        let start = slot.saturating_mul(self.stride);
        self.words
            .get(start..start.saturating_add(self.stride))
            .unwrap_or(&[])
    }

    /// The word at `offset`, and the next one where the access crosses into it.
    fn words_of(
        &self,
        slot: usize,
        offset: usize,
        width: Width,
    ) -> Option<(&AtomicU64, Option<&AtomicU64>)> {
        if !self.contains(slot, offset, width.bytes()) {
            return None;
        }
        let first = slot * self.stride + offset / 8;
        let crosses = offset % 8 + width.bytes() > 8;
        let second = if crosses {
            self.words.get(first + 1)
        } else {
            None
        };
        Some((self.words.get(first)?, second))
    }
}

/// Replaces the bits of `word` that `mask` selects.
fn merge(word: &AtomicU64, mask: u64, bits: u64) {
    if mask == u64::MAX {
        return word.store(bits, Ordering::Relaxed);
    }
    let replace = |old: u64| Some(old & !mask | bits & mask);
    // The closure never refuses: there is no error to look at.
    let _ = word.fetch_update(Ordering::Relaxed, Ordering::Relaxed, replace);
}
