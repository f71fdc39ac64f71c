//! Events as bytes: 64 of them, little-endian, the same in the rings and in the file that a client
//! fetches. `docs/events.md` is the description for readers elsewhere.

use super::{EventKind, TraceEvent};
use crate::addr::Gva;
use crate::machine::{Stamp, VcpuId, VmId};
use crate::regs::CoreRegs;

/// One record: eight 64-bit words.
///
/// | word | a hit | the head of a text | more of a text |
/// |---|---|---|---|
/// | 0 | time in ns | the same | the same |
/// | 1 | kind, CPU, VM, vCPU, id (32 bits) | the same | kind 19, else the same |
/// | 2 | argument 0 | length (16 bits), kind of source (8 bits), 0 (8 bits), map (32 bits) | text |
/// | 3–5 | arguments 1 to 3 | text | text |
/// | 6 | duration in ns, or 0 | text | text |
/// | 7 | PC | PC | text |
pub type Record = [u64; 8];

/// Bytes of text at most; what is longer is cut.
pub const MAX_TEXT: usize = 1024;
/// Bytes of what a program puts out at most.
pub const MAX_BYTES: usize = ebpf::map::MAX_RECORD;
const _: () = assert!(MAX_BYTES <= u16::MAX as usize);
/// Bytes of text in its first record.
pub const FIRST_TEXT: usize = 8 * 4;
/// Bytes of text in each record that follows.
pub const MORE_TEXT: usize = 8 * 6;

/// Kind of a record that continues the text of the one before.
pub(super) const MORE: u8 = 19;

impl TraceEvent {
    /// The event as a record. Of a text, this is the head without its text.
    #[inline]
    pub fn encode(&self) -> Record {
        let [a, b, c, d] = self.args;
        [
            self.time_ns,
            self.header(self.kind as u8),
            a,
            b,
            c,
            d,
            self.duration_ns,
            self.pc.0,
        ]
    }

    #[inline]
    fn header(&self, kind: u8) -> u64 {
        let [a, b, c, d] = self.id.to_le_bytes();
        u64::from_le_bytes([kind, self.cpu, self.vm.0, self.vcpu.0, a, b, c, d])
    }

    /// Takes a record apart; `None` for one that continues a text or is none of ours.
    pub fn decode(record: &Record) -> Option<Self> {
        let [kind, cpu, vm, vcpu, id @ ..] = record[1].to_le_bytes();
        let kind = EventKind::from_byte(kind)?;
        let mut event = Self {
            time_ns: record[0],
            kind,
            cpu,
            vm: VmId(vm),
            vcpu: VcpuId(vcpu),
            id: u32::from_le_bytes(id),
            args: [record[2], record[3], record[4], record[5]],
            duration_ns: record[6],
            pc: Gva(record[7]),
            origin: kind,
        };
        if kind.is_text() {
            event.origin = EventKind::from_byte((record[2] >> 16) as u8)?;
            event.args = [record[2] >> 32, 0, 0, 0];
            event.duration_ns = 0;
        }
        Some(event)
    }
}

/// What is the same in the records of all hits of a probe, made once: a hit only fills in the rest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Template(u64);

impl Template {
    /// Of the probe `id`.
    pub fn new(kind: EventKind, id: u32) -> Self {
        Self(kind as u64 | u64::from(id) << 32)
    }

    /// The record of a hit, as [`TraceEvent::encode`] makes it.
    #[inline]
    pub fn hit(
        self,
        stamp: Stamp,
        vm: VmId,
        vcpu: VcpuId,
        regs: &CoreRegs,
        duration_ns: u64,
    ) -> Record {
        let place =
            (stamp.cpu as u64 & 0xff) << 8 | u64::from(vm.0) << 16 | u64::from(vcpu.0) << 24;
        let [x0, x1, x2, x3, ..] = regs.x;
        [
            stamp.time_ns,
            self.0 | place,
            x0,
            x1,
            x2,
            x3,
            duration_ns,
            regs.pc,
        ]
    }
}

/// How many records a text of `length` bytes takes.
pub(super) fn records_of(length: usize) -> usize {
    1 + length.saturating_sub(FIRST_TEXT).div_ceil(MORE_TEXT)
}

/// Bytes of text behind the head `record`.
pub(super) fn text_length(record: &Record) -> usize {
    usize::from(record[2] as u16).min(MAX_BYTES)
}

/// Hands the records of a text to `put`, in order. Of `text`, as many bytes as the kind of `head` can
/// have.
pub fn encode_text(head: &TraceEvent, text: &[u8], put: &mut dyn FnMut(Record)) {
    encode_words(head, text.len(), &|index| word_of(text, index), put);
}

/// The same with the text in words, by number, of which those behind the end are 0.
pub(super) fn encode_words(
    head: &TraceEvent,
    length: usize,
    word: &dyn Fn(usize) -> u64,
    put: &mut dyn FnMut(Record),
) {
    let length = length.min(head.kind.max_length());
    let mut record = head.encode();
    record[2] = length as u64 | (head.origin as u64) << 16 | head.args[0] << 32;
    record[3..7].copy_from_slice(&core::array::from_fn::<_, { FIRST_TEXT / 8 }, _>(word));
    put(record);
    let more = length.saturating_sub(FIRST_TEXT);
    for start in (FIRST_TEXT..FIRST_TEXT + more).step_by(MORE_TEXT) {
        let mut record = [0; 8];
        record[0] = head.time_ns;
        record[1] = head.header(MORE);
        let words =
            core::array::from_fn::<_, { MORE_TEXT / 8 }, _>(|index| word(start / 8 + index));
        record[2..].copy_from_slice(&words);
        put(record);
    }
}

/// The eight bytes number `index` of `bytes`, with zeros behind the end.
pub fn word_of(bytes: &[u8], index: usize) -> u64 {
    let rest = bytes.get(8 * index..).unwrap_or(&[]);
    let mut word = [0; 8];
    let length = rest.len().min(8);
    word[..length].copy_from_slice(&rest[..length]);
    u64::from_le_bytes(word)
}

/// Copies the text of record `index` of a chain into its place in `text`.
pub(super) fn unpack_text(record: &Record, index: usize, text: &mut [u8]) {
    let (start, words) = match index.checked_sub(1) {
        None => (0, &record[3..7]),
        Some(more) => (FIRST_TEXT + more * MORE_TEXT, &record[2..]),
    };
    let Some(place) = text.get_mut(start..) else {
        return;
    };
    for (bytes, word) in place.chunks_mut(8).zip(words) {
        bytes.copy_from_slice(&word.to_le_bytes()[..bytes.len()]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ebpf::map::MapId;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_template_makes_the_same_record(
            (x, pc, time_ns, duration_ns) in (any::<[u64; 31]>(), any::<u64>(), any::<u64>(), any::<u64>()),
            (id, cpu, vm, vcpu) in (any::<u32>(), any::<u8>(), any::<u8>(), any::<u8>()),
        ) {
            let kind = EventKind::Kprobe;
            let (vm, vcpu) = (VmId(vm), VcpuId(vcpu));
            let event = TraceEvent {
                time_ns,
                kind,
                cpu,
                vm,
                vcpu,
                id,
                args: [x[0], x[1], x[2], x[3]],
                duration_ns,
                pc: Gva(pc),
                origin: kind,
            };
            let regs = CoreRegs { x, pc, ..CoreRegs::default() };
            let stamp = Stamp { time_ns, cpu: cpu.into() };
            prop_assert_eq!(Template::new(kind, id).hit(stamp, vm, vcpu, &regs, duration_ns), event.encode());
        }
    }

    fn any_event() -> impl Strategy<Value = TraceEvent> {
        let numbers = (any::<[u64; 4]>(), any::<u64>(), any::<u64>(), any::<u64>());
        let origin = (any::<u8>(), any::<u8>(), any::<u8>(), any::<u32>());
        let kind = prop::sample::select(EventKind::ALL.to_vec());
        (numbers, origin, kind).prop_map(|((args, time_ns, duration_ns, pc), who, kind)| {
            let (cpu, vm, vcpu, id) = who;
            TraceEvent {
                time_ns,
                kind,
                cpu,
                vm: VmId(vm),
                vcpu: VcpuId(vcpu),
                id,
                args,
                duration_ns,
                pc: Gva(pc),
                origin: kind,
            }
        })
    }

    /// The example of `docs/events.md`.
    #[test]
    fn the_bytes_are_those_of_the_documentation() {
        let event = TraceEvent {
            time_ns: 0x1122_3344_5566_7788,
            kind: EventKind::Kretprobe,
            cpu: 1,
            vm: VmId(2),
            vcpu: VcpuId(3),
            id: 0x0102_0304,
            args: [10, 11, 12, 13],
            duration_ns: 14,
            pc: Gva(15),
            origin: EventKind::Kretprobe,
        };
        let bytes = event.encode().map(u64::to_le_bytes).concat();
        assert_eq!(bytes.len(), 64);
        assert_eq!(bytes[..8], 0x1122_3344_5566_7788_u64.to_le_bytes());
        assert_eq!(bytes[8..16], [5, 1, 2, 3, 4, 3, 2, 1]);
        let last: [u8; 6] = core::array::from_fn(|word| bytes[16 + 8 * word]);
        assert_eq!(last, [10, 11, 12, 13, 14, 15]);

        let mut records = alloc::vec::Vec::new();
        let head = event.says(EventKind::Print);
        encode_text(&head, &[b'x'; 33], &mut |record| records.push(record));
        let bytes = records.concat().into_iter().flat_map(u64::to_le_bytes);
        let bytes: alloc::vec::Vec<u8> = bytes.collect();
        assert_eq!(bytes[8..20], [16, 1, 2, 3, 4, 3, 2, 1, 33, 0, 5, 0]);
        assert_eq!(bytes[24..56], [b'x'; 32]);
        assert_eq!(bytes[64..72], bytes[..8]);
        assert_eq!(bytes[72..84], [19, 1, 2, 3, 4, 3, 2, 1, b'x', 0, 0, 0]);

        let mut records = alloc::vec::Vec::new();
        let head = event.gives(MapId(0x0908_0706));
        encode_text(&head, &[1, 2, 3], &mut |record| records.push(record));
        let bytes = records.concat().into_iter().flat_map(u64::to_le_bytes);
        let bytes: alloc::vec::Vec<u8> = bytes.collect();
        assert_eq!(
            bytes[8..24],
            [20, 1, 2, 3, 4, 3, 2, 1, 3, 0, 5, 0, 6, 7, 8, 9]
        );
        assert_eq!((&bytes[24..27], bytes.len()), (&[1, 2, 3][..], 64));
    }

    #[test]
    fn no_record_of_ours() {
        assert_eq!(TraceEvent::decode(&[0; 8]), None);
        assert_eq!(TraceEvent::decode(&[u64::MAX; 8]), None);
        assert_eq!(
            TraceEvent::decode(&[0, u64::from(MORE), 0, 0, 0, 0, 0, 0]),
            None
        );
    }

    proptest! {
        #[test]
        fn a_hit_survives_its_record(event in any_event().prop_filter("a hit", |e| !e.kind.is_text())) {
            prop_assert_eq!(TraceEvent::decode(&event.encode()), Some(event));
        }

        #[test]
        fn a_text_survives_its_records(
            event in any_event(),
            kind in prop::sample::select(EventKind::ALL[5..].to_vec()),
            map: u32,
            text in prop::collection::vec(any::<u8>(), 0..MAX_TEXT + 100),
        ) {
            let head = match kind {
                EventKind::Record => event.gives(MapId(map)),
                kind => event.says(kind),
            };
            let mut records = alloc::vec::Vec::new();
            encode_text(&head, &text, &mut |record| records.push(record));
            let kept = &text[..text.len().min(kind.max_length())];
            prop_assert_eq!(records.len(), records_of(kept.len()));
            prop_assert_eq!(TraceEvent::decode(&records[0]), Some(head));
            prop_assert_eq!(text_length(&records[0]), kept.len());
            let mut back = alloc::vec![0; kept.len()];
            for (index, record) in records.iter().enumerate() {
                unpack_text(record, index, &mut back);
            }
            prop_assert_eq!(&back, kept);
        }

        #[test]
        fn any_record_decodes_or_does_not(record in any::<[u64; 8]>()) {
            if let Some(event) = TraceEvent::decode(&record) && !event.kind.is_text() {
                prop_assert_eq!(event.encode(), record);
            }
        }
    }
}
