//! The rings between hits and the consumer.
//!
//! Each physical CPU has a ring of records. The CPU itself is the only producer, with interrupts
//! masked from the first store to the last, so nothing interrupts it in the middle of an event. A
//! server drains all rings; servers take turns. A full ring drops the new event and counts it:
//! losing an event never delays a guest, and never goes unnoticed.
//!
//! The slots are atomics so that the whole needs no `unsafe`: the producer publishes with a release
//! store of `head`, a text with all its records at once; the consumer gives slots back with a
//! release store of `tail`.

use super::record::{Record, encode_words, records_of, text_length, unpack_text, word_of};
use super::{MAX_BYTES, MAX_CPUS, TraceEvent};
use crate::fixed::filled;
use alloc::boxed::Box;
use alloc::vec;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use ebpf::Lost;
use spin::Mutex;

/// Records per CPU. A power of two.
pub const RING_RECORDS: usize = 4096;
const MASK: usize = RING_RECORDS - 1;
const _: () = assert!(RING_RECORDS.is_power_of_two());

type Slot = [AtomicU64; 8];

/// The ring of one CPU.
struct Ring {
    slots: Box<[Slot; RING_RECORDS]>,
    /// Records ever written.
    head: AtomicUsize,
    /// Records ever taken.
    tail: AtomicUsize,
    lost: AtomicU64,
}

impl Ring {
    fn new() -> Self {
        Self {
            slots: filled(|| [const { AtomicU64::new(0) }; 8]),
            head: AtomicUsize::new(0),
            tail: AtomicUsize::new(0),
            lost: AtomicU64::new(0),
        }
    }

    /// Producer only: the number of the next record, if `count` records fit now.
    #[inline(always)]
    fn reserve(&self, count: usize) -> Option<usize> {
        let head = self.head.load(Ordering::Relaxed);
        let used = head.wrapping_sub(self.tail.load(Ordering::Acquire));
        if used > RING_RECORDS.saturating_sub(count) {
            // This CPU is the only one that counts here.
            let lost = self.lost.load(Ordering::Relaxed);
            self.lost.store(lost + 1, Ordering::Relaxed);
            return None;
        }
        Some(head)
    }

    #[inline(always)]
    fn put(&self, number: usize, record: &Record) {
        for (place, word) in self.slots[number & MASK].iter().zip(record) {
            place.store(*word, Ordering::Relaxed);
        }
    }

    fn get(&self, number: usize) -> Record {
        let slot = &self.slots[number & MASK];
        core::array::from_fn(|word| slot[word].load(Ordering::Relaxed))
    }

    fn time_of(&self, number: usize) -> u64 {
        self.slots[number & MASK][0].load(Ordering::Relaxed)
    }
}

/// The rings of all CPUs.
pub struct Rings {
    rings: Box<[Ring]>,
    /// Makes servers take turns, and holds the bytes of the event that is taken out. Never taken on
    /// the hit path.
    consumer: Mutex<Box<[u8]>>,
}

impl Rings {
    /// Allocates empty rings for `cpus` CPUs, [`MAX_CPUS`] at most.
    pub fn new(cpus: usize) -> Self {
        let cpus = cpus.min(MAX_CPUS);
        Self {
            rings: core::iter::repeat_with(Ring::new).take(cpus).collect(),
            consumer: Mutex::new(vec![0; MAX_BYTES].into()),
        }
    }

    /// Adds a hit to the ring of `event.cpu`, the CPU that calls, with interrupts masked. Where it
    /// does not fit it is lost and counted.
    #[inline]
    pub fn write(&self, event: &TraceEvent) {
        self.write_record(usize::from(event.cpu), &event.encode());
    }

    /// The same with a record of `cpu` that is made already.
    #[inline(always)]
    pub fn write_record(&self, cpu: usize, record: &Record) {
        let Some(ring) = self.rings.get(cpu) else {
            return;
        };
        if let Some(head) = ring.reserve(1) {
            ring.put(head, record);
            ring.head.store(head.wrapping_add(1), Ordering::Release);
        }
    }

    /// Adds a text, of which `head` is the head ([`TraceEvent::says`]), as [`Self::write`] does.
    /// Where not all of it fits it is lost as a whole. What is longer than the kind of event can be
    /// is cut.
    pub fn write_text(&self, head: &TraceEvent, text: &[u8]) {
        // Its loss is counted for the CPU.
        let _ = self.write_words(head, text.len(), &|index| word_of(text, index));
    }

    /// The same with a text of `length` bytes that is given in words, by number, of which those
    /// behind the end are 0. Says whether it is lost.
    pub fn write_words(
        &self,
        head: &TraceEvent,
        length: usize,
        word: &dyn Fn(usize) -> u64,
    ) -> Result<(), Lost> {
        let ring = self.rings.get(usize::from(head.cpu)).ok_or(Lost)?;
        let count = records_of(length.min(head.kind.max_length()));
        let first = ring.reserve(count).ok_or(Lost)?;
        let mut next = first;
        encode_words(head, length, word, &mut |record| {
            ring.put(next, &record);
            next = next.wrapping_add(1);
        });
        ring.head.store(next, Ordering::Release);
        Ok(())
    }

    /// Hands every event that waits to `visit`, with its text (empty for a hit), merged by time.
    /// Each CPU's are in order. Returns at once where another server drains already.
    pub fn drain(&self, visit: &mut dyn FnMut(&TraceEvent, &[u8])) {
        let Some(mut text) = self.consumer.try_lock() else {
            return;
        };
        // What comes in meanwhile waits for the next time: a busy producer cannot keep a server.
        let mut waiting = [const { Waiting::NONE }; MAX_CPUS];
        for (waiting, ring) in waiting.iter_mut().zip(&self.rings) {
            let tail = ring.tail.load(Ordering::Relaxed);
            *waiting = Waiting::new(ring, tail, ring.head.load(Ordering::Acquire));
        }
        loop {
            let with_time = waiting.iter_mut().zip(&self.rings);
            let oldest = with_time
                .filter(|(waiting, _)| waiting.next != waiting.end)
                .min_by_key(|(waiting, _)| waiting.time);
            let Some((waiting, ring)) = oldest else {
                return;
            };
            let record = ring.get(waiting.next);
            let event = TraceEvent::decode(&record);
            let length = match &event {
                Some(event) if event.kind.is_text() => text_length(&record),
                _ => 0,
            };
            let count = records_of(length);
            for index in 0..count {
                let record = ring.get(waiting.next.wrapping_add(index));
                unpack_text(&record, index, &mut text[..length]);
            }
            let next = waiting.next.wrapping_add(count);
            ring.tail.store(next, Ordering::Release);
            *waiting = Waiting::new(ring, next, waiting.end);
            if let Some(event) = event {
                visit(&event, &text[..length]);
            }
        }
    }

    /// How many CPUs have a ring.
    pub fn cpus(&self) -> usize {
        self.rings.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        let is_empty =
            |ring: &Ring| ring.head.load(Ordering::Relaxed) == ring.tail.load(Ordering::Relaxed);
        self.rings.iter().all(is_empty)
    }

    /// How many events of `cpu` were ever lost because its ring was full.
    pub fn lost(&self, cpu: usize) -> u64 {
        self.rings
            .get(cpu)
            .map_or(0, |ring| ring.lost.load(Ordering::Relaxed))
    }

    /// How many events were ever lost on all CPUs.
    pub fn total_lost(&self) -> u64 {
        (0..self.rings.len()).map(|cpu| self.lost(cpu)).sum()
    }
}

/// What waits in a ring.
struct Waiting {
    next: usize,
    end: usize,
    /// When the next record was written.
    time: u64,
}

impl Waiting {
    const NONE: Self = Self {
        next: 0,
        end: 0,
        time: 0,
    };

    fn new(ring: &Ring, next: usize, end: usize) -> Self {
        Self {
            next,
            end,
            time: ring.time_of(next),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::Gva;
    use crate::event::EventKind;
    use crate::machine::{VcpuId, VmId};
    use alloc::vec::Vec;
    use proptest::prelude::*;

    const HIT: TraceEvent = TraceEvent {
        time_ns: 0x1234_5678_9abc,
        kind: EventKind::Kprobe,
        cpu: 1,
        vm: VmId(2),
        vcpu: VcpuId(3),
        id: 7,
        args: [1, 2, 3, 4],
        duration_ns: 0,
        pc: Gva(0xffff_8000_8001_2340),
        origin: EventKind::Kprobe,
    };

    fn on(cpu: u8) -> TraceEvent {
        TraceEvent { cpu, ..HIT }
    }

    fn drained(rings: &Rings) -> Vec<(TraceEvent, Vec<u8>)> {
        let mut events = Vec::new();
        rings.drain(&mut |event, text| events.push((*event, text.to_vec())));
        events
    }

    #[test]
    fn a_full_ring_counts_what_it_loses() {
        let rings = Rings::new(2);
        for _ in 0..RING_RECORDS + 5 {
            rings.write(&HIT);
        }
        let lost = (rings.lost(1), rings.lost(0), rings.total_lost());
        assert_eq!(lost, (5, 0, 5));
        assert_eq!(drained(&rings).len(), RING_RECORDS);
        rings.write(&HIT);
        assert_eq!((rings.lost(1), drained(&rings).len()), (5, 1));
        assert!(rings.is_empty());
    }

    #[test]
    fn a_long_text_is_lost_as_a_whole() {
        let rings = Rings::new(2);
        for _ in 0..RING_RECORDS - 1 {
            rings.write(&HIT);
        }
        rings.write_text(&HIT.says(EventKind::Print), &[b'x'; 33]);
        assert_eq!(rings.lost(1), 1);
        assert!(drained(&rings).iter().all(|(event, _)| *event == HIT));
    }

    #[test]
    fn a_cpu_without_ring_is_ignored() {
        let rings = Rings::new(MAX_CPUS + 1);
        assert_eq!(rings.cpus(), MAX_CPUS);
        rings.write(&on(MAX_CPUS as u8));
        rings.write_text(&on(MAX_CPUS as u8).says(EventKind::Note), b"text");
        assert_eq!((drained(&rings).len(), rings.lost(MAX_CPUS)), (0, 0));
    }

    #[test]
    fn one_server_drains_at_a_time() {
        let rings = Rings::new(1);
        rings.write(&on(0));
        let mut inner = 0;
        rings.drain(&mut |_, _| rings.drain(&mut |_, _| inner += 1));
        assert_eq!(inner, 0);
    }

    #[test]
    fn what_comes_while_a_server_drains_waits_for_the_next() {
        let rings = Rings::new(2);
        rings.write(&HIT);
        let mut seen = 0;
        rings.drain(&mut |_, _| {
            seen += 1;
            rings.write(&HIT);
        });
        assert_eq!((seen, drained(&rings).len()), (1, 1));
    }

    /// What one CPU writes: hits (`None`) and texts, with the time that has passed before each.
    type Written = Vec<(u64, Option<Vec<u8>>)>;

    fn written() -> impl Strategy<Value = Written> {
        let text = prop::option::of(prop::collection::vec(any::<u8>(), 0..200));
        prop::collection::vec((0..5_u64, text), 0..60)
    }

    proptest! {
        #[test]
        fn all_cpus_are_merged_by_time(
            rounds in prop::collection::vec(prop::array::uniform3(written()), 1..40),
        ) {
            let rings = Rings::new(3);
            let mut now = 0;
            for round in rounds {
                let begin = now;
                let mut expected = [const { Vec::new() }; 3];
                for (cpu, written) in round.into_iter().enumerate() {
                    let mut time_ns = begin;
                    for (pause, text) in written {
                        time_ns += pause;
                        now = now.max(time_ns);
                        let event = TraceEvent { time_ns, ..on(cpu as u8) };
                        expected[cpu].push(match text {
                            None => {
                                rings.write(&event);
                                (event, Vec::new())
                            }
                            Some(text) => {
                                rings.write_text(&event.says(EventKind::Print), &text);
                                (event.says(EventKind::Print), text)
                            }
                        });
                    }
                }
                let events = drained(&rings);
                prop_assert!(events.is_sorted_by_key(|(event, _)| event.time_ns));
                for (cpu, expected) in expected.into_iter().enumerate() {
                    let of_cpu = |(event, _): &&(TraceEvent, Vec<u8>)| usize::from(event.cpu) == cpu;
                    let got: Vec<_> = events.iter().filter(of_cpu).cloned().collect();
                    prop_assert_eq!(got, expected);
                }
            }
            prop_assert_eq!(rings.total_lost(), 0);
        }
    }
}
