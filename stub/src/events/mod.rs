//! The one consumer of events.
//!
//! Whoever polls first empties the rings of all CPUs, merged by time, into three things: the history, of which `trace
//! stream`, `trace dump` and the file `events` show the last; the statistics; for each VM the lines that its session
//! shows while the guest runs; and the streams that clients read.

mod filter;
mod histogram;
mod history;
mod live;
mod render;
mod statistics;
mod stream;

pub(crate) use filter::{Filter, is_called};
pub(crate) use histogram::Octave;
pub(crate) use history::Entry;
pub(crate) use render::{dump_line, duration, hex, stream_line};
pub(crate) use statistics::{Naming, Stat};
pub(crate) use stream::{Stream, Wanted, Whose};

use alloc::format;
use alloc::string::String;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use ebpf::map::MapId;
use history::History;
use live::Live;
use probes::event::{EventKind, EventSource, MAX_CPUS, Record, Rings, TraceEvent};
use probes::machine::VmId;
use spin::Mutex;
use statistics::Statistics;

/// Bytes of the file `events` at most, roughly.
const MAX_RAW: usize = 4 << 20;
const RECORD_BYTES: usize = size_of::<Record>();
/// Streams at most: each can take a MiB.
const MAX_STREAMS: usize = 4;

/// Whether hits are shown live, or only what programs print.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verbosity {
    /// Texts only.
    Texts,
    /// Hits too.
    Hits,
}

/// What has come out of the rings.
pub(crate) struct Events {
    history: History,
    statistics: Statistics,
    live: Live,
    verbosity: Verbosity,
    /// Those that are open.
    streams: Vec<Weak<Mutex<Stream>>>,
    /// Losses of each CPU that `trace reset` has made forget.
    forgotten: [u64; MAX_CPUS],
}

impl Events {
    /// Nothing yet, with live lines for each of `vms`.
    pub(crate) fn new(vms: impl Iterator<Item = VmId>) -> Self {
        Self {
            history: History::default(),
            statistics: Statistics::default(),
            live: Live::new(vms),
            verbosity: Verbosity::Texts,
            streams: Vec::new(),
            forgotten: [0; MAX_CPUS],
        }
    }

    /// Empties the rings. `naming` says what users call a source; `also` sees every event too.
    pub(crate) fn collect(
        &mut self,
        rings: &Rings,
        naming: &dyn Naming,
        also: &dyn Fn(&TraceEvent, &[u8]),
    ) {
        rings.drain(&mut |event, text| {
            self.take(event, text, naming);
            also(event, text);
        });
    }

    fn take(&mut self, event: &TraceEvent, text: &[u8], naming: &dyn Naming) {
        let stat = self.statistics.take(event, naming);
        let entry = match event.kind {
            EventKind::Record => {
                let map = MapId(event.args[0] as u32);
                let name = naming.read_record(map, text.len());
                let name = name.unwrap_or_else(|| format!("map {}", map.0));
                Entry::of_record(event, text, name.into())
            }
            _ => Entry::new(event, text),
        };
        if event.kind.is_text() || self.verbosity == Verbosity::Hits {
            self.live.push(event.vm, &render::live_text(&entry, stat));
        }
        self.feed_streams(event, text, naming);
        self.history.push(entry);
    }

    fn feed_streams(&mut self, event: &TraceEvent, text: &[u8], naming: &dyn Naming) {
        let name = |whose| name_of(whose, naming);
        self.streams.retain(|stream| match stream.upgrade() {
            Some(stream) => {
                stream.lock().push(event, text, &name);
                true
            }
            // Its reader has closed it.
            None => false,
        });
    }

    /// Begins a stream, as long as its reader keeps it; `None` where there are too many. `totals` are the losses so far.
    pub(crate) fn open_stream(
        &mut self,
        wanted: Wanted,
        totals: Vec<(Whose, u64)>,
    ) -> Option<Arc<Mutex<Stream>>> {
        self.streams.retain(|stream| stream.strong_count() > 0);
        if self.streams.len() >= MAX_STREAMS {
            return None;
        }
        let stream = Arc::new(Mutex::new(Stream::new(wanted, totals)));
        self.streams.push(Arc::downgrade(&stream));
        Some(stream)
    }

    /// Number of the next live line of `vm`.
    pub(crate) fn next_line(&self, vm: VmId) -> u64 {
        self.live.next(vm)
    }

    /// The first live line of `vm` from number `from` on that is still kept.
    pub(crate) fn line(&self, vm: VmId, from: u64) -> Option<(u64, String)> {
        self.live.line(vm, from)
    }

    /// Number that the next event will get.
    pub(crate) fn next_event(&self) -> u64 {
        self.history.next()
    }

    /// Number of the first event that is kept.
    pub(crate) fn first_event(&self) -> u64 {
        self.history.first()
    }

    /// The kept events from number `from` on that every filter matches, in order of time.
    pub(crate) fn since(&self, from: u64, filters: &[Filter]) -> Vec<(&Entry, Option<&Stat>)> {
        let named = |entry| (entry, self.stat_of(entry));
        let matching = |(entry, stat): &(&Entry, Option<&Stat>)| {
            filters.iter().all(|filter| filter.matches(entry, *stat))
        };
        let mut events: Vec<_> = self.history.since(from).map(named).collect();
        events.retain(matching);
        // The rings merge what has come at a time; an event may have been on its way then.
        events.sort_by_key(|(entry, _)| entry.event.time_ns);
        events
    }

    fn stat_of(&self, entry: &Entry) -> Option<&Stat> {
        self.statistics.get(&entry.event.source())
    }

    /// The statistics of every source that has had a hit, those with most hits first.
    pub(crate) fn statistics(&self) -> Vec<(&EventSource, &Stat)> {
        self.statistics.by_count()
    }

    /// The history as the records that `docs/events.md` describes: the latest, where all would be too many.
    pub(crate) fn raw(&self) -> Vec<u8> {
        let all = self.since(0, &[]);
        let size = |entry: &Entry| RECORD_BYTES + entry.text.len() * 2;
        let mut room = MAX_RAW;
        let fits = |(entry, _): &&(&Entry, _)| {
            room = room.saturating_sub(size(entry));
            room > 0
        };
        let count = all.iter().rev().take_while(fits).count();
        let mut bytes = Vec::new();
        for (entry, _) in &all[all.len() - count..] {
            stream::encode(&entry.event, &entry.text, &mut bytes);
        }
        bytes
    }

    /// What the sources of events are called: a line for each, with kind, VM, id and name.
    pub(crate) fn sources(&self) -> String {
        self.statistics.to_lines()
    }

    /// Whether hits are shown live.
    pub(crate) fn verbosity(&self) -> Verbosity {
        self.verbosity
    }

    /// Changes whether hits are shown live.
    pub(crate) fn set_verbosity(&mut self, verbosity: Verbosity) {
        self.verbosity = verbosity;
    }

    /// The CPUs that have lost events since the last reset, and how many.
    pub(crate) fn lost(&self, rings: &Rings) -> Vec<(usize, u64)> {
        let lost = |cpu| (cpu, rings.lost(cpu).saturating_sub(self.forgotten[cpu]));
        let cpus = (0..rings.cpus().min(MAX_CPUS)).map(lost);
        cpus.filter(|(_, lost)| *lost > 0).collect()
    }

    /// Forgets history, statistics and losses. What sources are called stays known.
    pub(crate) fn reset(&mut self, rings: &Rings) {
        self.history.clear();
        self.statistics.reset();
        for (cpu, forgotten) in self.forgotten.iter_mut().enumerate() {
            *forgotten = rings.lost(cpu);
        }
    }
}

/// What users call those whose events come or are lost.
pub(crate) fn name_of(whose: Whose, naming: &dyn Naming) -> Option<String> {
    match whose {
        Whose::Source(source) => naming.name(&source),
        Whose::Map(map) => naming.map_path(map),
        Whose::Cpu(_) => None,
    }
}

#[cfg(test)]
mod tests;
