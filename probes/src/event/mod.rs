//! Events: what probes and tracepoints have seen, on the way from a hit to whoever listens.
//!
//! Every source writes the same thing, a [`TraceEvent`] of 64 bytes, into the ring of its physical
//! CPU ([`Rings`]). One consumer drains all rings merged by time. What programs print, errors of
//! programs, notes of the debugger and the records that programs put out through maps travel the same
//! way: their bytes are spread over as many records as it takes ([`Record`]). `docs/events.md` describes the bytes.

mod decode;
mod record;
mod ring;

pub use decode::Decoder;
pub use record::{
    FIRST_TEXT, MAX_BYTES, MAX_TEXT, MORE_TEXT, Record, Template, encode_text, word_of,
};
pub use ring::{RING_RECORDS, Rings};

use crate::addr::Gva;
use crate::machine::{VcpuId, VmId};
use ebpf::map::MapId;

/// How many physical CPUs can have a ring.
pub const MAX_CPUS: usize = 8;

/// How many arguments an event carries.
pub const ARGS: usize = 4;

/// What an event tells. The numbers are those of the records.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum EventKind {
    /// A static event of the hypervisor.
    Tracepoint = 1,
    /// A probe in the hypervisor's own code.
    Hprobe = 2,
    /// A function of the hypervisor returned.
    Hretprobe = 3,
    /// A probe in a guest's code.
    Kprobe = 4,
    /// A function of a guest returned.
    Kretprobe = 5,
    /// Text: a line that a program printed.
    Print = 16,
    /// Text: a program ended with an error, and which.
    ProgramError = 17,
    /// Text: a site armed, disarmed or changed, and how.
    Note = 18,
    /// Bytes that a program put out through a perf event array or a ring buffer.
    Record = 20,
    /// Only where events are read, in none of the rings: what a source or a map is called.
    Name = 21,
    /// Only where events are read, in none of the rings: how many events of a source, of a map or on a CPU were lost, as
    /// a number of 8 bytes.
    Lost = 22,
}

impl EventKind {
    /// All that happen.
    pub const ALL: [Self; 9] = [
        Self::Tracepoint,
        Self::Hprobe,
        Self::Hretprobe,
        Self::Kprobe,
        Self::Kretprobe,
        Self::Print,
        Self::ProgramError,
        Self::Note,
        Self::Record,
    ];

    /// Of a probe at an entry in the space of `vm`.
    pub const fn probe_in(vm: VmId) -> Self {
        match vm {
            VmId(0) => Self::Hprobe,
            _ => Self::Kprobe,
        }
    }

    /// Of a probe at the returns of a function in the space of `vm`.
    pub const fn return_in(vm: VmId) -> Self {
        match vm {
            VmId(0) => Self::Hretprobe,
            _ => Self::Kretprobe,
        }
    }

    /// As users write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tracepoint => "tracepoint",
            Self::Hprobe => "hprobe",
            Self::Hretprobe => "hretprobe",
            Self::Kprobe => "kprobe",
            Self::Kretprobe => "kretprobe",
            Self::Print => "print",
            Self::ProgramError => "error",
            Self::Note => "note",
            Self::Record => "record",
            Self::Name => "name",
            Self::Lost => "lost",
        }
    }

    /// Whether the event is a text or a record of a program, not a hit.
    pub const fn is_text(self) -> bool {
        self.max_length() > 0
    }

    /// How many bytes it can have beside what every event has; 0 for a hit.
    pub const fn max_length(self) -> usize {
        match self {
            Self::Print | Self::ProgramError | Self::Note | Self::Name | Self::Lost => MAX_TEXT,
            Self::Record => MAX_BYTES,
            _ => 0,
        }
    }

    const fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Tracepoint,
            2 => Self::Hprobe,
            3 => Self::Hretprobe,
            4 => Self::Kprobe,
            5 => Self::Kretprobe,
            16 => Self::Print,
            17 => Self::ProgramError,
            18 => Self::Note,
            20 => Self::Record,
            21 => Self::Name,
            22 => Self::Lost,
            _ => return None,
        })
    }
}

/// One event: a hit, or the head of a text.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TraceEvent {
    /// When: nanoseconds since the hypervisor started.
    pub time_ns: u64,
    /// What.
    pub kind: EventKind,
    /// The physical CPU.
    pub cpu: u8,
    /// The VM that it concerns; `VmId(0)` for the hypervisor itself.
    pub vm: VmId,
    /// The vCPU; for the hypervisor itself, the physical CPU.
    pub vcpu: VcpuId,
    /// Number of the probe in its space, or of the tracepoint; 0 where there is none.
    pub id: u32,
    /// For a probe at an entry x0 to x3, for one at a return x0 first; for a tracepoint its fields;
    /// for a record of a program the number of the map ([`ebpf::map::MapId`]); for a text nothing.
    pub args: [u64; ARGS],
    /// How long what ends here took, at least 1; 0 where nothing ends.
    pub duration_ns: u64,
    /// Where: the PC of the hit, a GVA or an address of EL2; 0 for a tracepoint.
    pub pc: Gva,
    /// For a text, what kind of source it comes from; else `kind`.
    pub origin: EventKind,
}

impl TraceEvent {
    /// A text from where `self` comes from.
    #[must_use]
    pub fn says(&self, kind: EventKind) -> Self {
        Self {
            kind,
            args: [0; ARGS],
            duration_ns: 0,
            ..*self
        }
    }

    /// A record of a program from where `self` comes from, through `map`.
    #[must_use]
    pub fn gives(&self, map: MapId) -> Self {
        let mut event = self.says(EventKind::Record);
        event.args[0] = map.0.into();
        event
    }

    /// Whose event it is: what has a name and statistics of its own.
    pub fn source(&self) -> EventSource {
        EventSource {
            kind: self.origin,
            vm: self.vm,
            id: self.id,
        }
    }
}

/// What events come from: a probe or a tracepoint, per space.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord, Hash)]
pub struct EventSource {
    /// Never a text.
    pub kind: EventKind,
    /// The space.
    pub vm: VmId,
    /// Number of the probe in the space, or of the tracepoint; 0: GDB's breakpoints, and notes of
    /// no probe.
    pub id: u32,
}
