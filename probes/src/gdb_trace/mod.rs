//! GDB tracepoints (GDB manual, chapter 13): places in a guest where hits collect data into trace frames, which GDB looks
//! at later. Not to be confused with the hypervisor's own tracepoints ([`crate::tracepoint`]).
//!
//! A GDB tracepoint is an attachment like a probe's, at the same sites; what its hit leaves is a frame where a probe's
//! leaves an event ([`recorder`]). What a client defines ([`definition`]), the run that follows, and what it has collected
//! are an [`Experiment`], of which each space has one: it outlives its client where that asks for it (`QTDisconnected`).

mod buffer;
mod definition;
mod experiment;
mod frame;
pub(crate) mod recorder;
mod run;
mod variables;

pub use buffer::{MAX_BUFFER, Shape};
pub use definition::{
    Action, Definition, Moment, Origin, PointId, PointKind, Saying, Switch, VariableDefinition,
};
pub use experiment::{
    BadTrace, Compile, Experiment, Leaving, More, Notes, PointStatus, RunStatus, Running, Search,
    Selected, TIMESTAMP, VCPU,
};
pub use frame::{Block, Frame, Head, Registers};
pub use recorder::Mark;
pub use run::{MAX_FRAME, StopReason};
pub use variables::{MAX_VARIABLES, Variables};
