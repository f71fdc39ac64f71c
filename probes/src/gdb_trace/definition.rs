//! GDB tracepoints as a client defines them (RSP packets `QTDP`, `QTDPsrc`, `QTDV`).

use crate::addr::Gva;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

/// A GDB tracepoint at one of its places: GDB gives all places of a tracepoint the same number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct PointId {
    /// As the client counts it.
    pub number: u32,
    /// Its place.
    pub address: Gva,
}

impl fmt::Display for PointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tracepoint {} at {}", self.number, self.address)
    }
}

/// Whether a GDB tracepoint collects.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Switch {
    /// It does.
    Enabled,
    /// It does not.
    Disabled,
}

/// What a GDB tracepoint is at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PointKind {
    /// An instruction.
    Code,
    /// A static tracepoint marker: a tracepoint of the hypervisor's own (`strace`).
    Marker,
}

/// When something is collected.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Moment {
    /// At the hit.
    Hit,
    /// After each instruction that follows (`while-stepping`).
    Step,
}

/// Something to collect.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// All registers. A trace file cannot say which of them there are.
    Registers,
    /// Memory at an address, or at an offset from a register.
    Memory {
        /// Which of [`crate::regs::CoreRegs::as_words`] is added to `offset`.
        base: Option<u8>,
        /// The address, or the offset.
        offset: u64,
        /// How many bytes.
        length: u32,
    },
    /// What an agent expression asks for (GDB manual, appendix F).
    Expression(Vec<u8>),
    /// The data of the marker (`collect $_sdata`).
    Static,
}

/// A piece of what a client has said, kept to tell the next one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Saying {
    /// The text of actions.
    Actions(Moment, Vec<u8>),
    /// A piece of source text: all of a `QTDPsrc` behind the address.
    Source(Vec<u8>),
}

impl Saying {
    /// Bytes that it takes.
    fn length(&self) -> usize {
        match self {
            Self::Actions(_, text) | Self::Source(text) => text.len(),
        }
    }
}

/// One GDB tracepoint at one place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Definition {
    /// Which.
    pub id: PointId,
    /// Whether it collects from the start.
    pub switch: Switch,
    /// What it is at.
    pub kind: PointKind,
    /// How many instructions are stepped after a hit.
    pub steps: u64,
    /// After how many hits the run stops; 0: it does not.
    pub passes: u64,
    /// The agent expression that says whether a hit counts.
    pub condition: Option<Vec<u8>>,
    /// What is collected, in order.
    pub actions: Vec<(Moment, Action)>,
    /// What the client has said of it.
    pub sayings: Vec<Saying>,
}

impl Definition {
    /// What is collected at a moment.
    pub(crate) fn at(&self, wanted: Moment) -> impl Iterator<Item = &Action> {
        let actions = self.actions.iter();
        actions.filter_map(move |(moment, action)| (*moment == wanted).then_some(action))
    }

    /// Bytes of text that it takes.
    pub(crate) fn length(&self) -> usize {
        let condition = self.condition.as_ref().map_or(0, Vec::len);
        self.sayings.iter().map(Saying::length).sum::<usize>() + condition
    }
}

/// A trace state variable as it is defined.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VariableDefinition {
    /// As the client counts it.
    pub number: u32,
    /// Its value when a run starts.
    pub initial: i64,
    /// Whether it is the target's own.
    pub origin: Origin,
    /// Its name, without the `$`.
    pub name: String,
}

/// Whose a trace state variable is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Origin {
    /// A client has defined it.
    Client,
    /// It is always there.
    Target,
}
