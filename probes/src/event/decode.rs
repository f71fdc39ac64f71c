//! Reading events where they come as bytes: the files `events` and `stream` (`docs/events.md`).

use super::TraceEvent;
use super::record::{MORE, Record, records_of, text_length, unpack_text};
use alloc::vec;
use alloc::vec::Vec;

const RECORD_BYTES: usize = size_of::<Record>();

/// Puts events together from bytes that come in parts of any size.
#[derive(Default)]
pub struct Decoder {
    /// What is not a whole event yet.
    waiting: Vec<u8>,
    damaged: u64,
}

impl Decoder {
    /// Takes bytes, and hands every event that is whole now to `visit`, with its text (empty for a hit). Total: what is no
    /// event is left out and counted.
    pub fn take(&mut self, bytes: &[u8], visit: &mut dyn FnMut(&TraceEvent, &[u8])) {
        self.waiting.extend_from_slice(bytes);
        let mut at = 0;
        while let Some(size) = self.event_at(at, visit) {
            at += size;
        }
        self.waiting.drain(..at);
    }

    /// How many records were no events or no part of one.
    pub fn damaged(&self) -> u64 {
        self.damaged
    }

    /// Looks at the event that begins at `at`; how many bytes it has, or `None` where it is not whole.
    fn event_at(&mut self, at: usize, visit: &mut dyn FnMut(&TraceEvent, &[u8])) -> Option<usize> {
        let head = record(&self.waiting, at)?;
        let Some(event) = TraceEvent::decode(&head) else {
            self.damaged += 1;
            return Some(RECORD_BYTES);
        };
        if !event.kind.is_text() {
            visit(&event, &[]);
            return Some(RECORD_BYTES);
        }
        let mut text = vec![0; text_length(&head)];
        let count = records_of(text.len());
        for index in 0..count {
            let part = record(&self.waiting, at + index * RECORD_BYTES)?;
            let is_more = part[1] as u8 == MORE;
            if index > 0 && !is_more {
                // The text is cut off: what comes is another event.
                self.damaged += 1;
                return Some(index * RECORD_BYTES);
            }
            unpack_text(&part, index, &mut text);
        }
        visit(&event, &text);
        Some(count * RECORD_BYTES)
    }
}

fn record(bytes: &[u8], at: usize) -> Option<Record> {
    let bytes = bytes.get(at..at + RECORD_BYTES)?;
    Some(core::array::from_fn(|word| super::word_of(bytes, word)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::Gva;
    use crate::event::{EventKind, encode_text};
    use crate::machine::{VcpuId, VmId};
    use proptest::prelude::*;

    fn event(kind: EventKind, id: u32) -> TraceEvent {
        TraceEvent {
            time_ns: 7,
            kind,
            cpu: 1,
            vm: VmId(1),
            vcpu: VcpuId(0),
            id,
            args: [0; 4],
            duration_ns: 0,
            pc: Gva(0),
            origin: EventKind::Kprobe,
        }
    }

    fn encode(events: &[Option<Vec<u8>>]) -> (Vec<u8>, Vec<(TraceEvent, Vec<u8>)>) {
        let (mut bytes, mut expected) = (Vec::new(), Vec::new());
        for (id, text) in (0..).zip(events) {
            let mut put =
                |record: Record| bytes.extend(record.iter().flat_map(|w| w.to_le_bytes()));
            let event = match text {
                None => event(EventKind::Kprobe, id),
                Some(_) => event(EventKind::Record, id),
            };
            match text {
                None => put(event.encode()),
                Some(text) => encode_text(&event, text, &mut put),
            }
            expected.push((event, text.clone().unwrap_or_default()));
        }
        (bytes, expected)
    }

    fn decode(bytes: &[u8], part: usize) -> (Vec<(TraceEvent, Vec<u8>)>, u64) {
        let mut decoder = Decoder::default();
        let mut events = Vec::new();
        for part in bytes.chunks(part) {
            decoder.take(part, &mut |event, text| {
                events.push((*event, text.to_vec()))
            });
        }
        (events, decoder.damaged())
    }

    proptest! {
        #[test]
        fn events_come_out_however_they_are_cut(
            events in prop::collection::vec(prop::option::of(prop::collection::vec(any::<u8>(), 0..300)), 0..20),
            part in 1..500_usize,
        ) {
            let (bytes, expected) = encode(&events);
            prop_assert_eq!(decode(&bytes, part), (expected, 0));
        }

        #[test]
        fn any_bytes_are_read(bytes in prop::collection::vec(any::<u8>(), 0..2000), kind in any::<u8>()) {
            let mut bytes = bytes;
            for head in bytes.chunks_exact_mut(RECORD_BYTES) {
                head[8] = kind % 24;
            }
            let (events, damaged) = decode(&bytes, 64);
            prop_assert!(events.len() as u64 + damaged <= (bytes.len() / RECORD_BYTES) as u64);
        }
    }

    #[test]
    fn a_text_that_is_cut_off_costs_itself() {
        let (mut bytes, expected) = encode(&[Some(b"x".repeat(100)), None]);
        bytes.drain(RECORD_BYTES..2 * RECORD_BYTES);
        let (events, damaged) = decode(&bytes, 1000);
        // The head and what is left of the text.
        assert_eq!((events, damaged), (expected[1..].to_vec(), 1));
    }
}
