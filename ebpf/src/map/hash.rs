//! The index of a hash map: a fixed table of buckets, each the head of a list of entries.
//!
//! # Locks
//!
//! Each bucket has a lock, and so has the list of free entries; the second is only ever taken under
//! one of the first. A CPU that a debugger has stopped never holds one: programs run on the hit
//! path, where the stop interrupt waits until the hit is over, and the debug server, which holds
//! one only while it copies or changes a single entry, calls with the stop interrupt masked. They
//! are ticket locks, so a CPU waits for at most the CPUs before it, each for one walk over a
//! bucket, and no bucket is longer than [`MAX_CHAIN`]. There are as many buckets as entries, so
//! keys that are not chosen to collide never fill one; those of a guest that does choose them (the
//! hash is no secret) find the map full, and do not slow the hits down.
//!
//! An LRU map that is full gives up an entry for a new one ([`super::lru`] says which). That entry is
//! in another bucket, whose lock is taken while none is held; so it belongs to nobody for a moment.
//!
//! As in Linux' preallocated hash maps, a value that is deleted while a program on another CPU
//! still holds its address can be reused for another key under it. It stays a value of the same
//! map.

use super::lru::Lru;
use super::{MapError, MapKind, UpdateFlag};
use crate::arena::{OutOfMemory, allocate};
use alloc::boxed::Box;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use spin::mutex::TicketMutex;

/// Entries of a bucket at most. A million random keys fill the fullest of a million buckets with
/// about ten.
const MAX_CHAIN: usize = 32;

/// How often an entry is chosen to be given up until an update fails: other CPUs may have been
/// faster.
const MAX_EVICTIONS: usize = 8;

/// The end of a list; in `home`: the entry is free.
const NIL: u32 = u32::MAX;

/// Bytes of an entry beside its value: key, links, bucket, mark.
pub(super) fn overhead(key_size: u32) -> u64 {
    u64::from(key_size).next_multiple_of(8) + 2 * 4 + 1 + 2 * size_of::<TicketMutex<u32>>() as u64
}

/// What happens where there is no free entry for a new key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum WhenFull {
    /// The update fails.
    Refuse,
    /// An entry that was not used lately makes room.
    Evict,
}

/// Whether an update has found its entry or made it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Origin {
    /// It was there.
    Found,
    /// It is new; its value is what another key left.
    Made,
}

/// Which entry has which key.
#[derive(Debug)]
pub(super) struct HashIndex {
    /// First entry of every bucket; a power of two of them.
    buckets: Box<[TicketMutex<u32>]>,
    /// The entry after each, in its bucket or in the free list.
    next: Box<[AtomicU32]>,
    /// The bucket that each entry is in. Changes under that bucket's lock.
    home: Box<[AtomicU32]>,
    /// The keys, zero-padded to words.
    keys: Box<[AtomicU64]>,
    key_words: usize,
    /// First free entry.
    free: TicketMutex<u32>,
    /// Who goes, where somebody does.
    lru: Option<Lru>,
}

impl WhenFull {
    /// What maps of a kind do; `None` for those that are no hash maps.
    pub(super) const fn of(kind: MapKind) -> Option<Self> {
        match kind {
            MapKind::Hash | MapKind::PerCpuHash => Some(Self::Refuse),
            MapKind::LruHash | MapKind::LruPerCpuHash => Some(Self::Evict),
            _ => None,
        }
    }
}

impl HashIndex {
    pub(super) fn allocate(
        max_entries: u32,
        key_size: usize,
        when_full: WhenFull,
    ) -> Result<Self, OutOfMemory> {
        let entries = max_entries as usize;
        let key_words = key_size.div_ceil(8);
        let last = entries.saturating_sub(1);
        let link = |entry: usize| AtomicU32::new(if entry < last { entry as u32 + 1 } else { NIL });
        Ok(Self {
            buckets: allocate(entries.next_power_of_two(), |_| TicketMutex::new(NIL))?,
            next: allocate(entries, link)?,
            home: allocate(entries, |_| AtomicU32::new(NIL))?,
            keys: allocate(entries * key_words, |_| AtomicU64::new(0))?,
            key_words,
            free: TicketMutex::new(0),
            lru: match when_full {
                WhenFull::Refuse => None,
                WhenFull::Evict => Some(Lru::allocate(entries)?),
            },
        })
    }

    /// Keeps an entry from being given up for the next keys.
    pub(super) fn touch(&self, entry: usize) {
        if let Some(lru) = &self.lru {
            lru.touch(entry);
        }
    }

    /// The entry of `key`.
    pub(super) fn find(&self, key: &[u8]) -> Option<usize> {
        let head = self.buckets[self.bucket(key)].lock();
        self.walk(*head, key).entry.map(|entry| entry as usize)
    }

    /// Finds or creates the entry of `key` as `flag` says and lets `write` fill its value.
    pub(super) fn update(
        &self,
        key: &[u8],
        flag: UpdateFlag,
        mut write: impl FnMut(usize, Origin),
    ) -> Result<(), MapError> {
        let mut spare = None;
        let mut result = self.try_update(key, flag, &mut spare, &mut write);
        if let (Err(MapError::Full), Some(lru)) = (result, &self.lru) {
            // No lock is held here.
            spare = self.evict(lru);
            result = match spare {
                Some(_) => self.try_update(key, flag, &mut spare, &mut write),
                None => Err(MapError::Contended),
            };
        }
        if let Some(entry) = spare {
            self.give_free(entry);
        }
        result
    }

    /// The same with what is free, and with `spare`, which belongs to nobody.
    fn try_update(
        &self,
        key: &[u8],
        flag: UpdateFlag,
        spare: &mut Option<u32>,
        write: &mut impl FnMut(usize, Origin),
    ) -> Result<(), MapError> {
        let bucket = self.bucket(key);
        let mut head = self.buckets[bucket].lock();
        let walk = self.walk(*head, key);
        match (walk.entry, flag) {
            (Some(_), UpdateFlag::NoExist) => return Err(MapError::Exists),
            (Some(entry), _) => {
                write(entry as usize, Origin::Found);
                self.touch(entry as usize);
                return Ok(());
            }
            (None, UpdateFlag::Exist) => return Err(MapError::NotFound),
            (None, _) => {}
        }
        let entry = if walk.length < MAX_CHAIN {
            let free = spare.take().or_else(|| self.take_free());
            free.ok_or(MapError::Full)?
        } else if self.lru.is_some() {
            // The oldest of the bucket, which is not the last: there are others.
            let oldest = *head;
            self.unlink(&mut head, None, oldest);
            oldest
        } else {
            return Err(MapError::Full);
        };
        self.set_key(entry, key);
        if let Some(lru) = &self.lru {
            lru.forget(entry as usize);
        }
        write(entry as usize, Origin::Made);
        self.next[entry as usize].store(NIL, Ordering::Relaxed);
        self.home[entry as usize].store(bucket as u32, Ordering::Relaxed);
        match walk.before {
            Some(before) => self.next[before as usize].store(entry, Ordering::Relaxed),
            None => *head = entry,
        }
        Ok(())
    }

    /// Removes the entry of `key`.
    pub(super) fn delete(&self, key: &[u8]) -> Result<(), MapError> {
        let mut head = self.buckets[self.bucket(key)].lock();
        let walk = self.walk(*head, key);
        let entry = walk.entry.ok_or(MapError::NotFound)?;
        self.unlink(&mut head, walk.before, entry);
        self.give_free(entry);
        Ok(())
    }

    /// Takes an entry out of its bucket, whose lock is held; `before` is the one before it.
    fn unlink(&self, head: &mut u32, before: Option<u32>, entry: u32) {
        let after = self.next[entry as usize].load(Ordering::Relaxed);
        match before {
            Some(before) => self.next[before as usize].store(after, Ordering::Relaxed),
            None => *head = after,
        }
        self.home[entry as usize].store(NIL, Ordering::Relaxed);
    }

    /// Takes an entry away from its key, so that it is the caller's. No lock is held.
    fn evict(&self, lru: &Lru) -> Option<u32> {
        (0..MAX_EVICTIONS).find_map(|_| {
            let entry = lru.victim();
            let bucket = self.home[entry].load(Ordering::Relaxed);
            let mut head = self.buckets.get(bucket as usize)?.lock();
            let before = self.before(*head, entry as u32)?;
            self.unlink(&mut head, before, entry as u32);
            Some(entry as u32)
        })
    }

    /// The entry before `wanted` in a bucket whose lock is held: `Some(None)` where it is the
    /// first, `None` where it is not there.
    fn before(&self, head: u32, wanted: u32) -> Option<Option<u32>> {
        let mut before = None;
        let mut entry = head;
        while entry != NIL {
            if entry == wanted {
                return Some(before);
            }
            before = Some(entry);
            entry = self.next[entry as usize].load(Ordering::Relaxed);
        }
        None
    }

    /// How many entries are in use. It looks at all of them: not for the hit path.
    pub(super) fn len(&self) -> usize {
        let is_used = |home: &&AtomicU32| home.load(Ordering::Relaxed) != NIL;
        self.home.iter().filter(is_used).count()
    }

    /// Copies the key of an entry and calls `copy_value`, both under the entry's lock, if the entry
    /// is in use.
    pub(super) fn copy_key(&self, entry: usize, key: &mut [u8], copy_value: impl FnOnce()) -> bool {
        let bucket = self.home[entry].load(Ordering::Relaxed);
        let Some(lock) = self.buckets.get(bucket as usize) else {
            return false;
        };
        let _guard = lock.lock();
        // It may have been deleted, and even reused elsewhere, since the first look. Then it is not
        // an entry that was there all the time, and may be left out.
        if self.home[entry].load(Ordering::Relaxed) != bucket {
            return false;
        }
        for (chunk, word) in key.chunks_mut(8).zip(self.key(entry)) {
            chunk.copy_from_slice(&word.load(Ordering::Relaxed).to_le_bytes()[..chunk.len()]);
        }
        copy_value();
        true
    }

    pub(super) fn bucket(&self, key: &[u8]) -> usize {
        hash(key) as usize & (self.buckets.len() - 1)
    }

    /// Walks a bucket whose lock is held.
    fn walk(&self, head: u32, key: &[u8]) -> Walk {
        let mut walk = Walk {
            entry: None,
            before: None,
            length: 0,
        };
        let mut entry = head;
        while entry != NIL {
            if self.has_key(entry, key) {
                walk.entry = Some(entry);
                return walk;
            }
            walk.before = Some(entry);
            walk.length += 1;
            entry = self.next[entry as usize].load(Ordering::Relaxed);
        }
        walk
    }

    fn take_free(&self) -> Option<u32> {
        let mut free = self.free.lock();
        let entry = *free;
        if entry == NIL {
            return None;
        }
        *free = self.next[entry as usize].load(Ordering::Relaxed);
        Some(entry)
    }

    fn give_free(&self, entry: u32) {
        let mut free = self.free.lock();
        self.next[entry as usize].store(*free, Ordering::Relaxed);
        *free = entry;
    }

    fn key(&self, entry: usize) -> &[AtomicU64] {
        &self.keys[entry * self.key_words..][..self.key_words]
    }

    fn has_key(&self, entry: u32, key: &[u8]) -> bool {
        let stored = self
            .key(entry as usize)
            .iter()
            .map(|word| word.load(Ordering::Relaxed));
        stored.eq(words(key))
    }

    fn set_key(&self, entry: u32, key: &[u8]) {
        for (stored, word) in self.key(entry as usize).iter().zip(words(key)) {
            stored.store(word, Ordering::Relaxed);
        }
    }
}

/// Where a key is, or would be appended, in the list of its bucket.
struct Walk {
    entry: Option<u32>,
    /// The entry before it, or the last of the list where the key is not in it.
    before: Option<u32>,
    /// How many entries come before it.
    length: usize,
}

/// The words of a key, the last zero-padded.
fn words(key: &[u8]) -> impl Iterator<Item = u64> {
    key.chunks(8).map(|chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        u64::from_le_bytes(word)
    })
}

/// Multiplies every word in and mixes high bits down; the constants are those of MurmurHash3's
/// 64-bit finalizer.
fn hash(key: &[u8]) -> u64 {
    mix(words(key))
}

/// A hash of a few addresses.
pub(super) fn of_words(words: &[u64]) -> u32 {
    mix(words.iter().copied()) as u32
}

fn mix(words: impl Iterator<Item = u64>) -> u64 {
    words.fold(0, |hash, word| {
        let mut mixed = (hash ^ word).wrapping_mul(0xff51_afd7_ed55_8ccd);
        mixed ^= mixed >> 33;
        mixed = mixed.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
        mixed ^ mixed >> 33
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    #[test]
    fn colliding_keys_do_not_make_a_walk_longer_than_its_bound() {
        let index = HashIndex::allocate(1024, 8, WhenFull::Refuse).expect("there should be memory");
        let in_first_bucket = |key: &u64| index.bucket(&key.to_le_bytes()) == 0;
        let keys: Vec<_> = (0..).filter(in_first_bucket).take(MAX_CHAIN + 1).collect();
        let insert = |key: u64| index.update(&key.to_le_bytes(), UpdateFlag::Any, |_, _| {});
        for &key in &keys[..MAX_CHAIN] {
            assert_eq!(insert(key), Ok(()));
        }
        assert_eq!(insert(keys[MAX_CHAIN]), Err(MapError::Full));
        assert_eq!(insert(keys[0]), Ok(()), "what is there can be replaced");
        assert_eq!(index.delete(&keys[5].to_le_bytes()), Ok(()));
        assert_eq!(insert(keys[MAX_CHAIN]), Ok(()));
        let free = (0..)
            .find(|key| !in_first_bucket(key))
            .expect("there are other buckets");
        assert_eq!(insert(free), Ok(()));
    }

    /// The usual keys (numbers, pointers) spread over the buckets: a full map takes them all.
    #[test]
    fn usual_keys_fill_a_map() {
        for stride in [1, 8, 64, 4096, 1 << 32] {
            let index = HashIndex::allocate(16_384, 8, WhenFull::Refuse);
            let index = index.expect("there should be memory");
            for number in 0..16_384_u64 {
                let key = 0xffff_0000_0000_0000 + number * stride;
                assert_eq!(
                    index.update(&key.to_le_bytes(), UpdateFlag::NoExist, |_, _| {}),
                    Ok(())
                );
            }
        }
    }
}
