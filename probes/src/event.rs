//! Events: what programs print and what sites have to say, on their way from a hit to whoever
//! listens.
//!
//! Each physical CPU has a ring of fixed-size records. The CPU itself is the only producer: the hit
//! path runs with interrupts masked, so nothing interrupts it in the middle of a record, and no
//! other CPU writes there. A server drains all rings; servers take turns. A full ring drops the new
//! record and counts it: losing an event never delays a guest, and never goes unnoticed.
//!
//! The slots are atomics so that the whole needs no `unsafe`: the producer publishes a record with
//! a release store of `head`, the consumer gives the slot back with a release store of `tail`.

use crate::addr::Gva;
use crate::machine::{VcpuId, VmId};
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use spin::Mutex;

/// How many physical CPUs can have a ring.
pub const MAX_CPUS: usize = 8;

/// Bytes of text that one record holds. Longer text continues in the records that follow.
pub const TEXT_BYTES: usize = 112;

/// Records per CPU.
const RING_RECORDS: usize = 512;
const HEADER_WORDS: usize = 4;
const RECORD_WORDS: usize = HEADER_WORDS + TEXT_BYTES / 8;

/// What a record tells.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum EventKind {
    /// A line that a program printed.
    Print = 0,
    /// A program ended with an error; the text says which.
    ProgramError = 1,
    /// A site armed, disarmed or changed; the text says how.
    Note = 2,
}

impl EventKind {
    const fn from_byte(byte: u8) -> Self {
        match byte {
            0 => Self::Print,
            1 => Self::ProgramError,
            _ => Self::Note,
        }
    }
}

/// Whether more text of the same event follows in the next record of the same CPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Continues {
    /// This is the event's last record.
    Ends,
    /// The next record of this CPU continues the text.
    More,
}

/// Where an event comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Source {
    /// Nanoseconds since the hypervisor started.
    pub time_ns: u64,
    /// The VM.
    pub vm: VmId,
    /// The vCPU that trapped.
    pub vcpu: VcpuId,
    /// The probe or action, or `None` for a GDB breakpoint.
    pub probe: Option<u32>,
    /// The PC of the hit.
    pub pc: Gva,
}

/// One event, or a part of one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record {
    /// Where it comes from.
    pub source: Source,
    /// The physical CPU whose ring it was in.
    pub cpu: u8,
    /// What it tells.
    pub kind: EventKind,
    /// Whether the text goes on in the next record.
    pub continues: Continues,
    length: u8,
    text: [u8; TEXT_BYTES],
}

impl Record {
    /// The text, as the program printed it: not necessarily UTF-8, no newline added.
    pub fn text(&self) -> &[u8] {
        &self.text[..usize::from(self.length).min(TEXT_BYTES)]
    }

    fn encode(&self) -> [u64; RECORD_WORDS] {
        let mut words = [0; RECORD_WORDS];
        words[0] = self.source.time_ns;
        words[1] = self.source.pc.0;
        // Probe identifiers start at 1.
        words[2] = u64::from(self.source.probe.unwrap_or(0));
        words[3] = u64::from_le_bytes([
            self.source.vm.0,
            self.source.vcpu.0,
            self.cpu,
            self.kind as u8,
            u8::from(self.continues == Continues::More),
            self.length,
            0,
            0,
        ]);
        for (word, bytes) in words[HEADER_WORDS..]
            .iter_mut()
            .zip(self.text.chunks_exact(8))
        {
            let mut buffer = [0; 8];
            buffer.copy_from_slice(bytes);
            *word = u64::from_le_bytes(buffer);
        }
        words
    }

    fn decode(words: &[u64; RECORD_WORDS]) -> Self {
        let [vm, vcpu, cpu, kind, more, length, _, _] = words[3].to_le_bytes();
        let mut text = [0; TEXT_BYTES];
        for (bytes, word) in text.chunks_exact_mut(8).zip(&words[HEADER_WORDS..]) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        Self {
            source: Source {
                time_ns: words[0],
                vm: VmId(vm),
                vcpu: VcpuId(vcpu),
                probe: u32::try_from(words[2]).ok().filter(|id| *id != 0),
                pc: Gva(words[1]),
            },
            cpu,
            kind: EventKind::from_byte(kind),
            continues: if more == 0 {
                Continues::Ends
            } else {
                Continues::More
            },
            length,
            text,
        }
    }
}

/// The ring of one CPU.
struct Ring {
    slots: Box<[AtomicU64]>,
    /// Records ever written.
    head: AtomicUsize,
    /// Records ever taken.
    tail: AtomicUsize,
    lost: AtomicU64,
}

impl Ring {
    fn new() -> Self {
        let slots: Vec<_> = (0..RING_RECORDS * RECORD_WORDS)
            .map(|_| AtomicU64::new(0))
            .collect();
        Self {
            slots: slots.into_boxed_slice(),
            head: AtomicUsize::new(0),
            tail: AtomicUsize::new(0),
            lost: AtomicU64::new(0),
        }
    }

    fn slot(&self, index: usize) -> &[AtomicU64] {
        let start = index % RING_RECORDS * RECORD_WORDS;
        &self.slots[start..start + RECORD_WORDS]
    }

    /// How many records fit now. Only grows until the producer writes.
    fn room(&self) -> usize {
        let used = self
            .head
            .load(Ordering::Relaxed)
            .wrapping_sub(self.tail.load(Ordering::Acquire));
        RING_RECORDS.saturating_sub(used)
    }

    /// Producer only; the caller has checked for room.
    fn push(&self, record: &Record) {
        let head = self.head.load(Ordering::Relaxed);
        for (slot, word) in self.slot(head).iter().zip(record.encode()) {
            slot.store(word, Ordering::Relaxed);
        }
        self.head.store(head.wrapping_add(1), Ordering::Release);
    }

    /// Consumer only.
    fn pop(&self) -> Option<Record> {
        let tail = self.tail.load(Ordering::Relaxed);
        if tail == self.head.load(Ordering::Acquire) {
            return None;
        }
        let mut words = [0; RECORD_WORDS];
        for (word, slot) in words.iter_mut().zip(self.slot(tail)) {
            *word = slot.load(Ordering::Relaxed);
        }
        self.tail.store(tail.wrapping_add(1), Ordering::Release);
        Some(Record::decode(&words))
    }
}

/// The rings of all CPUs.
pub struct Rings {
    rings: [Ring; MAX_CPUS],
    /// Makes servers take turns. Never taken on the hit path.
    consumer: Mutex<()>,
}

impl Default for Rings {
    fn default() -> Self {
        Self::new()
    }
}

impl Rings {
    /// Allocates empty rings for [`MAX_CPUS`] CPUs.
    pub fn new() -> Self {
        Self {
            rings: core::array::from_fn(|_| Ring::new()),
            consumer: Mutex::new(()),
        }
    }

    /// Adds an event to the ring of `cpu`, the CPU that calls, with interrupts masked. Text of more
    /// than [`TEXT_BYTES`] spreads over several records; where not all of them fit, the event is
    /// lost as a whole and counted.
    pub fn push(&self, cpu: usize, source: Source, kind: EventKind, text: &[u8]) {
        let Some(ring) = self.rings.get(cpu) else {
            return;
        };
        let parts = text.len().div_ceil(TEXT_BYTES).max(1);
        if ring.room() < parts {
            ring.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let mut rest = text;
        for part in 0..parts {
            let (now, later) = rest.split_at(rest.len().min(TEXT_BYTES));
            rest = later;
            let mut record = Record {
                source,
                cpu: cpu as u8,
                kind,
                continues: if part + 1 < parts {
                    Continues::More
                } else {
                    Continues::Ends
                },
                length: now.len() as u8,
                text: [0; TEXT_BYTES],
            };
            record.text[..now.len()].copy_from_slice(now);
            ring.push(&record);
        }
    }

    /// Hands every waiting record to `visit`, CPU by CPU, each CPU's in order. Returns at once
    /// where another server drains already.
    pub fn drain(&self, visit: &mut dyn FnMut(&Record)) {
        let Some(_turn) = self.consumer.try_lock() else {
            return;
        };
        for ring in &self.rings {
            // At most one ring full: a busy producer cannot keep a server here.
            for _ in 0..RING_RECORDS {
                let Some(record) = ring.pop() else { break };
                visit(&record);
            }
        }
    }

    /// How many events of `cpu` were lost because its ring was full.
    pub fn lost(&self, cpu: usize) -> u64 {
        self.rings
            .get(cpu)
            .map_or(0, |ring| ring.lost.load(Ordering::Relaxed))
    }

    /// How many events were lost on all CPUs.
    pub fn total_lost(&self) -> u64 {
        (0..MAX_CPUS).map(|cpu| self.lost(cpu)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use proptest::prelude::*;

    const SOURCE: Source = Source {
        time_ns: 0x1234_5678_9abc,
        vm: VmId(2),
        vcpu: VcpuId(3),
        probe: Some(7),
        pc: Gva(0xffff_8000_8001_2340),
    };

    fn drained(rings: &Rings) -> Vec<Record> {
        let mut records = Vec::new();
        rings.drain(&mut |record| records.push(*record));
        records
    }

    #[test]
    fn a_full_ring_counts_what_it_loses() {
        let rings = Rings::new();
        for _ in 0..RING_RECORDS + 5 {
            rings.push(1, SOURCE, EventKind::Print, b"text");
        }
        assert_eq!(
            (rings.lost(1), rings.lost(0), rings.total_lost()),
            (5, 0, 5)
        );
        assert_eq!(drained(&rings).len(), RING_RECORDS);
        rings.push(1, SOURCE, EventKind::Print, b"text");
        assert_eq!((rings.lost(1), drained(&rings).len()), (5, 1));
    }

    #[test]
    fn a_long_event_is_lost_as_a_whole() {
        let rings = Rings::new();
        for _ in 0..RING_RECORDS - 1 {
            rings.push(0, SOURCE, EventKind::Print, b"text");
        }
        rings.push(0, SOURCE, EventKind::Print, &[b'x'; TEXT_BYTES + 1]);
        assert_eq!(rings.lost(0), 1);
        assert!(
            drained(&rings)
                .iter()
                .all(|record| record.text() == b"text")
        );
    }

    #[test]
    fn a_cpu_without_ring_is_ignored() {
        let rings = Rings::new();
        rings.push(MAX_CPUS, SOURCE, EventKind::Print, b"text");
        assert_eq!((drained(&rings).len(), rings.lost(MAX_CPUS)), (0, 0));
    }

    #[test]
    fn one_server_drains_at_a_time() {
        let rings = Rings::new();
        rings.push(0, SOURCE, EventKind::Note, b"text");
        let mut inner = 0;
        rings.drain(&mut |_| rings.drain(&mut |_| inner += 1));
        assert_eq!(inner, 0);
    }

    proptest! {
        #[test]
        fn what_goes_in_comes_out(
            texts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..400), 0..40),
            probe in prop::option::of(1..u32::MAX),
            rounds in 1..30_usize,
        ) {
            let rings = Rings::new();
            let source = Source { probe, ..SOURCE };
            for _ in 0..rounds {
                for text in &texts {
                    rings.push(5, source, EventKind::ProgramError, text);
                }
                let mut whole = vec![Vec::new()];
                for record in drained(&rings) {
                    prop_assert_eq!(record.source, source);
                    prop_assert_eq!((record.cpu, record.kind), (5, EventKind::ProgramError));
                    whole.last_mut().unwrap().extend_from_slice(record.text());
                    if record.continues == Continues::Ends {
                        whole.push(Vec::new());
                    }
                }
                whole.pop();
                prop_assert_eq!(&whole, &texts);
            }
            prop_assert_eq!(rings.total_lost(), 0);
        }
    }
}
