//! How often each source has had a hit, how long what it measures took, and what it is called.

use super::histogram::{Histogram, Octave};
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cmp::Reverse;
use ebpf::map::MapId;
use probes::event::{EventSource, TraceEvent};
use probes::tracepoint::Field;

/// Sources at most. Numbers of probes are never used again, so a client can make ever more; the one that has been silent
/// for longest makes room.
const MAX_SOURCES: usize = 1024;

/// Knows what users call the sources of events.
pub(crate) trait Naming {
    /// `vm1:vfs_read`, `vmm:page_fault`; `None` for what has gone.
    fn name(&self, source: &EventSource) -> Option<String>;
    /// The fields of a tracepoint; nothing for anything else.
    fn fields(&self, source: &EventSource) -> &'static [Field];
    /// Lets the map of that number know that a record of `length` bytes has been read, and tells its
    /// name; `None` for one that has gone.
    fn read_record(&self, map: MapId, length: usize) -> Option<String>;
    /// What users call a map: `opens:events`; `None` for one that has gone.
    fn map_path(&self, map: MapId) -> Option<String>;
}

/// One source.
pub(crate) struct Stat {
    /// As a user reads it: `vm1:vfs_read`.
    name: String,
    /// Of a tracepoint.
    fields: &'static [Field],
    count: u64,
    durations: Option<Histogram>,
    last_ns: u64,
}

impl Stat {
    /// As a user reads it: `vm1:vfs_read`.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The fields of a tracepoint; nothing for anything else.
    pub(crate) fn fields(&self) -> &'static [Field] {
        self.fields
    }

    /// How many hits.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// The duration that `percent` of all do not exceed, in nanoseconds. `None` where nothing is measured.
    pub(crate) fn percentile(&self, percent: u64) -> Option<u64> {
        Some(self.durations.as_ref()?.percentile(percent))
    }

    /// The longest duration, in nanoseconds.
    pub(crate) fn max(&self) -> Option<u64> {
        Some(self.durations.as_ref()?.max())
    }

    /// The durations by powers of two; nothing where none is measured.
    pub(crate) fn octaves(&self) -> Vec<Octave> {
        let durations = self.durations.iter();
        durations.flat_map(Histogram::octaves).collect()
    }
}

/// All sources.
#[derive(Default)]
pub(super) struct Statistics(BTreeMap<EventSource, Stat>);

impl Statistics {
    /// Counts an event and tells whose it is.
    pub(super) fn take(&mut self, event: &TraceEvent, naming: &dyn Naming) -> &Stat {
        let source = event.source();
        if !self.0.contains_key(&source) {
            self.make_room();
        }
        let stat = self.0.entry(source).or_insert_with(|| Stat {
            name: naming.name(&source).unwrap_or_else(|| event.pc.to_string()),
            fields: naming.fields(&source),
            count: 0,
            durations: None,
            last_ns: 0,
        });
        stat.last_ns = event.time_ns;
        if !event.kind.is_text() {
            stat.count += 1;
            if event.duration_ns != 0 {
                let durations = stat.durations.get_or_insert_with(Histogram::new);
                durations.add(event.duration_ns);
            }
        }
        stat
    }

    fn make_room(&mut self) {
        if self.0.len() < MAX_SOURCES {
            return;
        }
        let oldest = self.0.iter().min_by_key(|(_, stat)| stat.last_ns);
        if let Some(source) = oldest.map(|(source, _)| *source) {
            self.0.remove(&source);
        }
    }

    pub(super) fn get(&self, source: &EventSource) -> Option<&Stat> {
        self.0.get(source)
    }

    /// A line for each: number of the kind, VM, id, name.
    pub(super) fn to_lines(&self) -> String {
        let line = |(source, stat): (&EventSource, &Stat)| {
            let EventSource { kind, vm, id } = source;
            format!("{} {} {id} {}\n", *kind as u8, vm.0, stat.name)
        };
        self.0.iter().map(line).collect()
    }

    /// Those with hits, most hits first.
    pub(super) fn by_count(&self) -> Vec<(&EventSource, &Stat)> {
        let mut all: Vec<_> = self.0.iter().filter(|(_, stat)| stat.count > 0).collect();
        all.sort_by_key(|(_, stat)| Reverse(stat.count));
        all
    }

    /// Counts anew. Names stay: what is detached could not be asked for its name again.
    pub(super) fn reset(&mut self) {
        for stat in self.0.values_mut() {
            stat.count = 0;
            stat.durations = None;
        }
    }
}
