//! Which entry of a full map is given up: second chance.
//!
//! Each entry has a mark that using it sets. A hand goes round over the entries; one that is marked
//! loses the mark and stays, the first that is not marked goes. Linux' LRU maps are approximate as
//! well (`kernel/bpf/bpf_lru_list.c`); the order in which the two give up entries differs.
//!
//! A hit looks at no more than [`MAX_LOOKS`] entries: where all of these are in use, the next goes
//! all the same.

use crate::arena::{OutOfMemory, allocate};
use alloc::boxed::Box;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Entries that are looked at until one is given up, marked or not.
const MAX_LOOKS: usize = 32;

/// The marks and the hand.
#[derive(Debug)]
pub(super) struct Lru {
    used: Box<[AtomicBool]>,
    hand: AtomicUsize,
}

impl Lru {
    /// For so many entries, at least one.
    pub(super) fn allocate(entries: usize) -> Result<Self, OutOfMemory> {
        Ok(Self {
            used: allocate(entries, |_| AtomicBool::new(false))?,
            hand: AtomicUsize::new(0),
        })
    }

    /// Marks an entry as used.
    pub(super) fn touch(&self, entry: usize) {
        // Most are marked already: a load leaves the line where it is.
        if !self.used[entry].load(Ordering::Relaxed) {
            self.used[entry].store(true, Ordering::Relaxed);
        }
    }

    /// Takes the mark from an entry that gets a new key.
    pub(super) fn forget(&self, entry: usize) {
        self.used[entry].store(false, Ordering::Relaxed);
    }

    /// The entry that should go.
    pub(super) fn victim(&self) -> usize {
        let was_used = |entry: &usize| self.used[*entry].swap(false, Ordering::Relaxed);
        let mut looks = core::iter::repeat_with(|| self.advance()).take(MAX_LOOKS);
        let unused = looks.find(|entry| !was_used(entry));
        unused.unwrap_or_else(|| self.advance())
    }

    fn advance(&self) -> usize {
        self.hand.fetch_add(1, Ordering::Relaxed) % self.used.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_gets_a_second_chance() {
        let lru = Lru::allocate(3).expect("there should be memory");
        lru.touch(0);
        lru.touch(1);
        assert_eq!(lru.victim(), 2);
        assert_eq!(lru.victim(), 0, "its mark has gone");
        lru.touch(1);
        lru.forget(1);
        assert_eq!(lru.victim(), 1);
    }

    #[test]
    fn where_all_are_used_one_goes_after_a_bounded_search() {
        let lru = Lru::allocate(1000).expect("there should be memory");
        (0..1000).for_each(|entry| lru.touch(entry));
        assert_eq!(lru.victim(), MAX_LOOKS);
        let marked = (0..1000).filter(|&entry| lru.used[entry].load(Ordering::Relaxed));
        assert_eq!(marked.count(), 1000 - MAX_LOOKS);
    }
}
