//! The last events, in the order in which they came out of the rings.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use probes::event::TraceEvent;

/// How many events are kept.
pub(super) const KEPT: usize = 8192;

/// One event.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Entry {
    /// The event, or the head of a text.
    pub(crate) event: TraceEvent,
    /// The text, not necessarily UTF-8; empty for a hit.
    pub(crate) text: Box<[u8]>,
}

impl Entry {
    pub(super) fn new(event: &TraceEvent, text: &[u8]) -> Self {
        Self {
            event: *event,
            text: Box::from(text),
        }
    }
}

/// The last events. They have numbers from 0 on that are never used again.
#[derive(Default)]
pub(super) struct History {
    first: u64,
    entries: VecDeque<Entry>,
}

impl History {
    pub(super) fn push(&mut self, entry: Entry) {
        if self.entries.len() == KEPT {
            self.entries.pop_front();
            self.first += 1;
        }
        self.entries.push_back(entry);
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
    }
}
