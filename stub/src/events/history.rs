//! The last events, in the order in which they came out of the rings.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use probes::event::TraceEvent;

/// How many events are kept.
pub(super) const KEPT: usize = 8192;

/// Bytes of text that are kept with them. Records of programs can be long; lines of text are short
/// enough for all.
pub(super) const KEPT_BYTES: usize = 8 << 20;

/// One event.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Entry {
    /// The event, or the head of a text.
    pub(crate) event: TraceEvent,
    /// The text, not necessarily UTF-8, or the bytes of a record; empty for a hit.
    pub(crate) text: Box<[u8]>,
    /// The name of the map that a record came out of; empty for anything else.
    pub(crate) map: Box<str>,
}

impl Entry {
    pub(super) fn new(event: &TraceEvent, text: &[u8]) -> Self {
        Self {
            event: *event,
            text: Box::from(text),
            map: Box::default(),
        }
    }

    /// Of a record that came out of the map called `map`.
    pub(super) fn of_record(event: &TraceEvent, bytes: &[u8], map: Box<str>) -> Self {
        Self {
            map,
            ..Self::new(event, bytes)
        }
    }

    fn bytes(&self) -> usize {
        self.text.len() + self.map.len()
    }
}

/// The last events. They have numbers from 0 on that are never used again.
#[derive(Default)]
pub(super) struct History {
    first: u64,
    entries: VecDeque<Entry>,
    /// Bytes of text of all entries.
    bytes: usize,
}

impl History {
    pub(super) fn push(&mut self, entry: Entry) {
        self.bytes += entry.bytes();
        self.entries.push_back(entry);
        while self.entries.len() > KEPT || self.bytes > KEPT_BYTES {
            let Some(oldest) = self.entries.pop_front() else {
                return;
            };
            self.bytes -= oldest.bytes();
            self.first += 1;
        }
    }

    /// Number of the first event that is kept.
    pub(super) fn first(&self) -> u64 {
        self.first
    }

    /// Number of the next event.
    pub(super) fn next(&self) -> u64 {
        self.first + self.entries.len() as u64
    }

    /// The kept events from number `from` on.
    pub(super) fn since(&self, from: u64) -> impl Iterator<Item = &Entry> {
        let skipped = usize::try_from(from.saturating_sub(self.first)).unwrap_or(usize::MAX);
        self.entries.iter().skip(skipped)
    }

    pub(super) fn clear(&mut self) {
        self.first = self.next();
        self.entries.clear();
        self.bytes = 0;
    }
}
