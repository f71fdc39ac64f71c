//! The memory of an object: the stacks of its programs and the values of its maps, in one piece.
//!
//! It consists of 64-bit words that are only ever accessed atomically, so that programs on several
//! CPUs and the debugger share it without a data race. A store of fewer than 8 bytes replaces its
//! bytes of the word by compare-and-exchange and leaves what others write into the rest alone. That
//! loop has no lock to wait for: a failed attempt means that another CPU's store has just
//! succeeded, and every program's stores are bounded by its budget.
//!
//! Nothing here knows what an offset points into: [`crate::memory`] and [`crate::map`] do. Compiled
//! programs access the same bytes directly ([`crate::jit`]).

use crate::width::{Width, extract};
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};

/// Arenas are so many bytes, or a multiple: a compiled program compares offsets with the size, and
/// the comparison with such a number is one instruction (Arm ARM C6.2, CMP (immediate)).
pub(crate) const GRANULE: usize = 4096;

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

/// An atomic operation, ready to be done.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Atomic {
    pub(crate) op: AtomicOp,
    /// 4 or 8 bytes.
    pub(crate) width: Width,
    pub(crate) operand: u64,
    /// What [`AtomicOp::CompareExchange`] compares with.
    pub(crate) expected: u64,
}

/// There is no memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct OutOfMemory;

/// A slice of `count` elements, or an error instead of the allocator's panic.
pub(crate) fn allocate<T>(
    count: usize,
    make: impl FnMut(usize) -> T,
) -> Result<Box<[T]>, OutOfMemory> {
    let mut elements = Vec::new();
    elements.try_reserve_exact(count).map_err(|_| OutOfMemory)?;
    elements.extend((0..count).map(make));
    Ok(elements.into_boxed_slice())
}

/// The memory of an object.
#[derive(Debug)]
pub(crate) struct Arena {
    words: Box<[AtomicU64]>,
}

impl Arena {
    /// Zeroed memory of at least `bytes` bytes, fewer than 1 << 32.
    pub(crate) fn allocate(bytes: usize) -> Result<Self, OutOfMemory> {
        let size = bytes.max(1).next_multiple_of(GRANULE);
        if u32::try_from(size).is_err() {
            return Err(OutOfMemory);
        }
        // One word more than the size says: an access of a compiled program that begins inside may
        // end behind.
        let words = allocate(size / 8 + 1, |_| AtomicU64::new(0))?;
        Ok(Self { words })
    }

    /// Bytes: a multiple of [`GRANULE`].
    pub(crate) fn size(&self) -> usize {
        (self.words.len() - 1) * 8
    }

    /// Where it is in the hypervisor's memory, for compiled programs. Never shown to a program.
    pub(crate) fn base(&self) -> *const AtomicU64 {
        self.words.as_ptr()
    }

    /// Loads, zero-extended, of any alignment; `None` past the end.
    #[inline]
    pub(crate) fn load(&self, offset: usize, width: Width) -> Option<u64> {
        let (first, second) = self.words_of(offset, width)?;
        let high = second.map_or(0, |word| word.load(Ordering::Relaxed));
        let low = first.load(Ordering::Relaxed);
        Some(extract(low, high, offset % 8, width))
    }

    /// Stores the low bits of `value`, of any alignment; `None` past the end. A store that crosses
    /// words is two stores.
    #[inline]
    pub(crate) fn store(&self, offset: usize, width: Width, value: u64) -> Option<()> {
        let (first, second) = self.words_of(offset, width)?;
        let shift = 8 * (offset % 8);
        let mask = u128::from(width.mask()) << shift;
        let bits = u128::from(value & width.mask()) << shift;
        merge(first, mask as u64, bits as u64);
        if let Some(second) = second {
            merge(second, (mask >> 64) as u64, (bits >> 64) as u64);
        }
        Some(())
    }

    /// Does an atomic operation and returns the old value; `None` past the end or not aligned.
    pub(crate) fn atomic(&self, offset: usize, atomic: Atomic) -> Option<u64> {
        let Atomic {
            op,
            width,
            operand,
            expected,
        } = atomic;
        if !offset.is_multiple_of(width.bytes()) {
            return None;
        }
        let (word, _) = self.words_of(offset, width)?;
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

    /// Zeroes bytes from a multiple of 8 to another, where nobody else writes.
    pub(crate) fn clear(&self, bytes: &Range<usize>) {
        for word in self.words(bytes.start, bytes.len()) {
            word.store(0, Ordering::Relaxed);
        }
    }

    /// The words from `offset`, a multiple of 8, on that `length` bytes lie in; none past the end.
    pub(crate) fn words(&self, offset: usize, length: usize) -> &[AtomicU64] {
        self.words
            .get(offset / 8..)
            .and_then(|rest| rest.get(..length.div_ceil(8)))
            .unwrap_or(&[])
    }

    /// The word at `offset`, and the next one where the access crosses into it.
    #[inline]
    fn words_of(&self, offset: usize, width: Width) -> Option<(&AtomicU64, Option<&AtomicU64>)> {
        let first = self.words.get(offset / 8)?;
        let crosses = offset % 8 + width.bytes() > 8;
        let second = if crosses {
            Some(self.words.get(offset / 8 + 1)?)
        } else {
            None
        };
        Some((first, second))
    }
}

/// Replaces the bits of `word` that `mask` selects.
pub(crate) fn merge(word: &AtomicU64, mask: u64, bits: u64) {
    if mask == u64::MAX {
        return word.store(bits, Ordering::Relaxed);
    }
    let replace = |old: u64| Some(old & !mask | bits & mask);
    // The closure never refuses: there is no error to look at.
    let _ = word.fetch_update(Ordering::Relaxed, Ordering::Relaxed, replace);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::thread;

    fn arena() -> Arena {
        Arena::allocate(1).expect("there should be memory")
    }

    #[test]
    fn neighbours_in_a_word_do_not_lose_updates() {
        let arena = arena();
        let count = |offset: usize, width: Width| {
            for number in 1..=20_000_u64 {
                arena.store(offset, width, number).expect("it is inside");
                assert_eq!(arena.load(offset, width), Some(number & width.mask()));
            }
        };
        thread::scope(|scope| {
            scope.spawn(|| count(0, Width::Byte));
            scope.spawn(|| count(2, Width::Half));
            scope.spawn(|| count(4, Width::Word));
        });
        let expected = 20_000 << 32 | 20_000 << 16 | (20_000 & 0xff);
        assert_eq!(arena.load(0, Width::Double), Some(expected));
    }

    #[test]
    fn atomic_additions_add_up() {
        let arena = arena();
        let add = |offset: usize| {
            let atomic = Atomic {
                op: AtomicOp::Add,
                width: Width::Word,
                operand: 1,
                expected: 0,
            };
            for _ in 0..10_000 {
                arena.atomic(offset, atomic).expect("it is inside");
            }
        };
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| add(0));
                scope.spawn(|| add(4));
            }
        });
        assert_eq!(arena.load(0, Width::Double), Some(20_000 << 32 | 20_000));
    }

    #[test]
    fn nothing_is_behind_the_end() {
        let arena = arena();
        assert_eq!(arena.size(), GRANULE);
        // The word behind belongs to it, as the way an access may end.
        assert!(arena.store(GRANULE - 1, Width::Double, 1).is_some());
        assert_eq!(arena.load(GRANULE + 1, Width::Double), None);
        assert_eq!(arena.store(GRANULE + 5, Width::Word, 1), None);
        assert_eq!(arena.load(usize::MAX, Width::Byte), None);
        assert!(Arena::allocate(u32::MAX as usize).is_err());
    }

    proptest! {
        /// Loads and stores of every width and alignment are those of an array of bytes.
        #[test]
        fn it_is_bytes(
            accesses in prop::collection::vec((0..24_usize, 0..4_u8, any::<u64>()), 0..50),
        ) {
            let arena = arena();
            let mut model = [0_u8; 32];
            for (offset, width, value) in accesses {
                let width = Width::of_bytes(1 << width);
                let range = offset..offset + width.bytes();
                prop_assert!(arena.store(offset, width, value).is_some());
                model[range].copy_from_slice(&value.to_le_bytes()[..width.bytes()]);
                prop_assert_eq!(arena.load(offset, width), Some(value & width.mask()));
            }
            let bytes: Vec<u8> = arena
                .words(0, model.len())
                .iter()
                .flat_map(|word| word.load(Ordering::Relaxed).to_le_bytes())
                .collect();
            prop_assert_eq!(bytes, model);
        }
    }
}
