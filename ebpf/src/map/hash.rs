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
//! As in Linux' preallocated hash maps, a value that is deleted while a program on another CPU
//! still holds its address can be reused for another key under it. It stays a value of the same
//! map.

use super::{MapError, UpdateFlag};
use crate::arena::{OutOfMemory, allocate};
use alloc::boxed::Box;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use spin::mutex::TicketMutex;

/// Entries of a bucket at most. A million random keys fill the fullest of a million buckets with
/// about ten.
const MAX_CHAIN: usize = 32;

/// The end of a list; in `home`: the entry is free.
const NIL: u32 = u32::MAX;

/// Bytes of an entry beside its value: key, links, bucket.
pub(super) fn overhead(key_size: u32) -> u64 {
    u64::from(key_size).next_multiple_of(8) + 2 * 4 + 2 * size_of::<TicketMutex<u32>>() as u64
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
}

impl HashIndex {
    pub(super) fn allocate(max_entries: u32, key_size: usize) -> Result<Self, OutOfMemory> {
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
        })
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
        write: impl FnOnce(usize),
    ) -> Result<(), MapError> {
        let bucket = self.bucket(key);
        let mut head = self.buckets[bucket].lock();
        let walk = self.walk(*head, key);
        match (walk.entry, flag) {
            (Some(_), UpdateFlag::NoExist) => return Err(MapError::Exists),
            (Some(entry), _) => {
                write(entry as usize);
                return Ok(());
            }
            (None, UpdateFlag::Exist) => return Err(MapError::NotFound),
            (None, _) if walk.length >= MAX_CHAIN => return Err(MapError::Full),
            (None, _) => {}
        }
        let entry = self.take_free().ok_or(MapError::Full)?;
        self.set_key(entry, key);
        write(entry as usize);
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
        let after = self.next[entry as usize].load(Ordering::Relaxed);
        match walk.before {
            Some(before) => self.next[before as usize].store(after, Ordering::Relaxed),
            None => *head = after,
        }
        self.home[entry as usize].store(NIL, Ordering::Relaxed);
        let mut free = self.free.lock();
        self.next[entry as usize].store(*free, Ordering::Relaxed);
        *free = entry;
        Ok(())
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

    fn bucket(&self, key: &[u8]) -> usize {
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
    words(key).fold(0, |hash, word| {
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
        let index = HashIndex::allocate(1024, 8).expect("there should be memory");
        let in_first_bucket = |key: &u64| index.bucket(&key.to_le_bytes()) == 0;
        let keys: Vec<_> = (0..).filter(in_first_bucket).take(MAX_CHAIN + 1).collect();
        let insert = |key: u64| index.update(&key.to_le_bytes(), UpdateFlag::Any, |_| {});
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
            let index = HashIndex::allocate(16_384, 8).expect("there should be memory");
            for number in 0..16_384_u64 {
                let key = 0xffff_0000_0000_0000 + number * stride;
                assert_eq!(
                    index.update(&key.to_le_bytes(), UpdateFlag::NoExist, |_| {}),
                    Ok(())
                );
            }
        }
    }
}
