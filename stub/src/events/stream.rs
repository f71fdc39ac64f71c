//! Events for a client that reads on and on: the file `stream` (`docs/events.md`).
//!
//! What comes out of the rings goes into a queue of the client's as well, encoded as in the file `events`. Before what is
//! the first of its source or map, its name goes in. What has no room, or was lost on its way here, is counted for its
//! source, and told as soon as there is room.

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::string::String;
use alloc::vec::Vec;
use ebpf::map::MapId;
use probes::addr::Gva;
use probes::event::{EventKind, EventSource, Record, TraceEvent, encode_text};
use probes::machine::{VcpuId, VmId};

/// Bytes that wait for a client at most.
const MAX_WAITING: usize = 1 << 20;
/// Names and losses that are remembered at most. Beyond that names are told again.
const MAX_REMEMBERED: usize = 4096;

/// Which events a client wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Wanted {
    /// All.
    All,
    /// What programs print and put out, their errors and the debugger's notes.
    Outputs,
}

/// Whose events were lost.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord)]
pub(crate) enum Whose {
    /// Of a probe or a tracepoint.
    Source(EventSource),
    /// That came out of a map.
    Map(MapId),
    /// On a CPU, of whatever source.
    Cpu(u8),
}

impl Whose {
    fn of(event: &TraceEvent) -> Self {
        match event.kind {
            EventKind::Record => Self::Map(MapId(event.args[0] as u32)),
            _ => Self::Source(event.source()),
        }
    }

    /// Appends what it is called, if it has a name.
    fn encode_name(self, time_ns: u64, name: &dyn Fn(Self) -> Option<String>, bytes: &mut Vec<u8>) {
        if let Some(name) = name(self) {
            let head = self.event(EventKind::Name, time_ns);
            encode(&head, name.as_bytes(), bytes);
        }
    }

    /// An event that is about it and no hit.
    fn event(self, kind: EventKind, time_ns: u64) -> TraceEvent {
        let nobody = TraceEvent {
            time_ns,
            kind,
            cpu: 0,
            vm: VmId::HYPERVISOR,
            vcpu: VcpuId(0),
            id: 0,
            args: [0; 4],
            duration_ns: 0,
            pc: Gva(0),
            origin: kind,
        };
        match self {
            Self::Source(EventSource { kind, vm, id }) => TraceEvent {
                vm,
                id,
                origin: kind,
                ..nobody
            },
            Self::Map(map) => TraceEvent {
                args: [map.0.into(), 0, 0, 0],
                ..nobody
            },
            Self::Cpu(cpu) => TraceEvent { cpu, ..nobody },
        }
    }
}

/// A client's events.
pub(crate) struct Stream {
    wanted: Wanted,
    waiting: VecDeque<u8>,
    /// How many bytes the client has taken.
    taken: u64,
    named: BTreeSet<Whose>,
    /// Losses that the client has not been told.
    lost: BTreeMap<Whose, u64>,
    /// How much was lost on the way here when that was last looked at.
    counters: BTreeMap<Whose, u64>,
    /// When the last event happened.
    now: u64,
}

impl Stream {
    /// A stream from now on: what was lost before, by `totals`, does not count.
    pub(super) fn new(wanted: Wanted, totals: Vec<(Whose, u64)>) -> Self {
        Self {
            wanted,
            waiting: VecDeque::new(),
            taken: 0,
            named: BTreeSet::new(),
            lost: BTreeMap::new(),
            counters: totals.into_iter().collect(),
            now: 0,
        }
    }

    /// Queues an event; `name` tells what its source and its map are called.
    pub(super) fn push(
        &mut self,
        event: &TraceEvent,
        text: &[u8],
        name: &dyn Fn(Whose) -> Option<String>,
    ) {
        if self.wanted == Wanted::Outputs && !event.kind.is_text() {
            return;
        }
        self.now = event.time_ns;
        self.tell_lost(name);
        if !self.lost.is_empty() {
            // What was lost before it is told first.
            return self.count(Whose::of(event), 1);
        }
        let mut bytes = Vec::new();
        let source = Whose::Source(event.source());
        let mut unnamed = Vec::new();
        for whose in [source, Whose::of(event)] {
            if self.named.contains(&whose) || unnamed.contains(&whose) {
                continue;
            }
            unnamed.push(whose);
            whose.encode_name(event.time_ns, name, &mut bytes);
        }
        encode(event, text, &mut bytes);
        if !self.has_room(bytes.len()) {
            return self.count(Whose::of(event), 1);
        }
        if self.named.len() >= MAX_REMEMBERED {
            self.named.clear();
        }
        self.named.extend(unnamed);
        self.waiting.extend(bytes);
    }

    /// Looks at all counters of what was lost on the way here.
    pub(crate) fn look_at_losses(&mut self, totals: Vec<(Whose, u64)>) {
        let known = core::mem::take(&mut self.counters);
        for (whose, total) in totals {
            let newly = total.saturating_sub(known.get(&whose).copied().unwrap_or(0));
            if newly > 0 {
                self.count(whose, newly);
            }
            self.counters.insert(whose, total);
        }
    }

    /// The next bytes, as many as fit, of which `offset` were taken before. `None` for any other offset: nothing is kept
    /// of what has been taken.
    pub(crate) fn read(
        &mut self,
        offset: u64,
        buffer: &mut [u8],
        name: &dyn Fn(Whose) -> Option<String>,
    ) -> Option<usize> {
        if offset != self.taken {
            return None;
        }
        self.tell_lost(name);
        let count = self.waiting.len().min(buffer.len());
        for (place, byte) in buffer.iter_mut().zip(self.waiting.drain(..count)) {
            *place = byte;
        }
        self.taken += count as u64;
        Some(count)
    }

    fn has_room(&self, bytes: usize) -> bool {
        self.waiting.len() + bytes <= MAX_WAITING
    }

    fn count(&mut self, whose: Whose, count: u64) {
        let is_known = self.lost.contains_key(&whose) || self.lost.len() < MAX_REMEMBERED;
        // Beyond so many sources nobody asks which.
        let whose = if is_known { whose } else { Whose::Cpu(u8::MAX) };
        *self.lost.entry(whose).or_default() += count;
    }

    /// Tells what has been lost, once the reader has taken half of what waits: a line for each source then, not for each event.
    fn tell_lost(&mut self, name: &dyn Fn(Whose) -> Option<String>) {
        while self.waiting.len() < MAX_WAITING / 2
            && let Some((&whose, &count)) = self.lost.first_key_value()
        {
            let mut bytes = Vec::new();
            if !self.named.contains(&whose) {
                whose.encode_name(self.now, name, &mut bytes);
            }
            let head = whose.event(EventKind::Lost, self.now);
            encode(&head, &count.to_le_bytes(), &mut bytes);
            self.named.insert(whose);
            self.waiting.extend(bytes);
            self.lost.pop_first();
        }
    }
}

/// Appends the records of an event.
pub(super) fn encode(event: &TraceEvent, text: &[u8], bytes: &mut Vec<u8>) {
    let mut put = |record: Record| bytes.extend(record.iter().flat_map(|w| w.to_le_bytes()));
    if event.kind.is_text() {
        encode_text(event, text, &mut put);
    } else {
        put(event.encode());
    }
}
