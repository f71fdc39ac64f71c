//! What perf event arrays and ring buffers have of their own: counts, and memory for records that a
//! program fills in.
//!
//! A record leaves a program through [`crate::Host::record`], whatever the kind of its map: what
//! comes out of all programs and probes travels one way, in the order of its CPU and with the time
//! and the source that it has. So nothing waits here for a reader. A ring buffer counts how many of
//! its bytes have not been read yet, and refuses as Linux' does when they would be more than it has.
//!
//! A program that reserves memory gets some of its CPU's, so reserving takes no lock, and a record
//! that is being filled in holds up nobody. A run that fails gives back what it holds.

use super::MapDef;
use crate::arena::{OutOfMemory, allocate};
use alloc::boxed::Box;
use core::sync::atomic::{AtomicU64, Ordering};

/// Bytes of a record at most.
pub const MAX_RECORD: usize = 32 << 10;

/// Records of a ring buffer that a run can have reserved at the same time.
const MAX_OPEN: usize = 8;

/// Bytes before each record in Linux' ring buffer (`BPF_RINGBUF_HDR_SZ`), which its counts include.
const HEADER: u64 = 8;

/// Bytes of memory for reserved records that each CPU has in a ring buffer of that size.
pub(super) fn reservable(max_entries: u32) -> usize {
    (max_entries as usize).min(MAX_RECORD)
}

/// What [`Records::query`] is asked, by Linux' numbers (`BPF_RB_AVAIL_DATA`, …).
const AVAILABLE: u64 = 0;
const SIZE: u64 = 1;
const CONSUMER: u64 = 2;
const PRODUCER: u64 = 3;

/// The counts of a map of records.
#[derive(Debug)]
pub(crate) struct Records {
    /// Bytes that may wait for a reader. No limit for a perf event array, whose size the
    /// definition does not say.
    room: u64,
    /// Bytes ever reserved or put out, headers included.
    produced: AtomicU64,
    /// Those of them that are read, discarded or lost.
    consumed: AtomicU64,
    /// Records ever put out.
    count: AtomicU64,
    lost: AtomicU64,
    open: Box<[Open]>,
}

/// The records that the run on a CPU has reserved: offset in the CPU's memory and length, the
/// length in the low 32 bits; 0 for none. Only that CPU uses them.
#[derive(Debug)]
struct Open([AtomicU64; MAX_OPEN]);

/// Why there is no memory for a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct NoRoom;

impl Records {
    /// Of a perf event array.
    pub(super) fn unlimited() -> Self {
        Self {
            room: u64::MAX,
            produced: AtomicU64::new(0),
            consumed: AtomicU64::new(0),
            count: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            open: Box::default(),
        }
    }

    /// Of a ring buffer.
    pub(super) fn ring(definition: &MapDef, cpus: usize) -> Result<Self, OutOfMemory> {
        Ok(Self {
            room: definition.max_entries.into(),
            open: allocate(cpus, |_| Open([const { AtomicU64::new(0) }; MAX_OPEN]))?,
            ..Self::unlimited()
        })
    }

    /// Makes room for a record of `length` bytes that is put out at once.
    pub(crate) fn claim(&self, length: usize) -> Result<(), NoRoom> {
        let size = size(length);
        let claim = |produced: u64| {
            let unread = difference(produced, self.consumed.load(Ordering::Acquire));
            let fits = length <= MAX_RECORD && unread.saturating_add(size) <= self.room;
            fits.then(|| produced.wrapping_add(size))
        };
        let (set, fetch) = (Ordering::AcqRel, Ordering::Acquire);
        match self.produced.fetch_update(set, fetch, claim) {
            Ok(_) => Ok(()),
            Err(_) => {
                self.lost.fetch_add(1, Ordering::Relaxed);
                Err(NoRoom)
            }
        }
    }

    /// Reserves memory for a record on `cpu`, on which the program runs: its offset in the CPU's
    /// memory, of which there are `memory` bytes.
    pub(crate) fn reserve(
        &self,
        cpu: usize,
        length: usize,
        memory: usize,
    ) -> Result<usize, NoRoom> {
        self.claim(length)?;
        let reserved = self.open_at(cpu).and_then(|open| {
            let offset = open.end().next_multiple_of(8);
            let fits = occupied(length) <= memory.saturating_sub(offset);
            let slot = open
                .0
                .iter()
                .find(|slot| slot.load(Ordering::Relaxed) == 0)?;
            let packed = (offset as u64 + 1) << 32 | length as u64;
            fits.then(|| slot.store(packed, Ordering::Relaxed))?;
            Some(offset)
        });
        reserved.ok_or_else(|| {
            self.lose(length);
            NoRoom
        })
    }

    /// Ends the reservation at `offset` of the memory of `cpu`, and says how long the record is.
    /// `None` if there is none.
    pub(crate) fn release(&self, cpu: usize, offset: usize) -> Option<usize> {
        let slots = self.open_at(cpu)?.0.iter();
        let mut open = slots.map(|slot| (slot, unpack(slot.load(Ordering::Relaxed))));
        let (slot, (_, length)) = open.find_map(|(slot, reservation)| {
            let reservation = reservation?;
            (reservation.0 == offset).then_some((slot, reservation))
        })?;
        slot.store(0, Ordering::Relaxed);
        Some(length)
    }

    /// Ends every reservation of `cpu`: the run that made them has failed.
    pub(crate) fn release_all(&self, cpu: usize) {
        for slot in self.open_at(cpu).iter().flat_map(|open| &open.0) {
            if let Some((_, length)) = unpack(slot.swap(0, Ordering::Relaxed)) {
                self.consume(length);
            }
        }
    }

    /// A record that was claimed has been put out.
    pub(crate) fn put_out(&self) {
        self.count.fetch_add(1, Ordering::Relaxed);
    }

    /// A record that was claimed could not be put out.
    pub(crate) fn lose(&self, length: usize) {
        self.lost.fetch_add(1, Ordering::Relaxed);
        self.consume(length);
    }

    /// A record of `length` bytes has been read or discarded.
    pub(crate) fn consume(&self, length: usize) {
        self.consumed.fetch_add(size(length), Ordering::Release);
    }

    /// What `bpf_ringbuf_query` answers; 0 to a question that there is not.
    pub(crate) fn query(&self, question: u64) -> u64 {
        match question {
            AVAILABLE => self.unread(),
            SIZE => self.room,
            CONSUMER => self.consumed.load(Ordering::Relaxed),
            PRODUCER => self.produced.load(Ordering::Relaxed),
            _ => 0,
        }
    }

    /// Bytes that have not been read yet, headers included.
    pub(crate) fn unread(&self) -> u64 {
        let produced = self.produced.load(Ordering::Acquire);
        difference(produced, self.consumed.load(Ordering::Acquire))
    }

    /// Records ever put out.
    pub(crate) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Records for which there was no room.
    pub(crate) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    fn open_at(&self, cpu: usize) -> Option<&Open> {
        self.open.get(cpu)
    }
}

impl Open {
    /// Where the memory behind all reservations begins.
    fn end(&self) -> usize {
        let reservations = self.0.iter().map(|slot| slot.load(Ordering::Relaxed));
        let ends = reservations
            .filter_map(unpack)
            .map(|(at, length)| at + occupied(length));
        ends.max().unwrap_or(0)
    }
}

/// How much memory a reservation takes: even one of no bytes has an address of its own.
fn occupied(length: usize) -> usize {
    length.max(1)
}

/// Offset and length of a reservation.
fn unpack(packed: u64) -> Option<(usize, usize)> {
    let offset = (packed >> 32).checked_sub(1)?;
    Some((offset as usize, packed as u32 as usize))
}

/// How far `produced` is ahead; 0 where `consumed`, which was looked at later, has caught up.
fn difference(produced: u64, consumed: u64) -> u64 {
    let ahead = produced.wrapping_sub(consumed);
    if ahead > u64::MAX / 2 { 0 } else { ahead }
}

/// What a record counts for: header and bytes, rounded up (`bpf_ringbuf_reserve`).
fn size(length: usize) -> u64 {
    (length as u64 + HEADER).next_multiple_of(8)
}
