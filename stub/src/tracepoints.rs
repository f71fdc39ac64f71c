//! The static events of the debug server: what sessions do.

use crate::target::tid;
use probes::machine::{Stop, StopReason, VcpuId};
use probes::space::Space;
use probes::tracepoint::FieldKind::{Names, Unsigned};
use probes::tracepoint::{Event, Origin, Tracer};

/// Why a VM stands.
pub const REASONS: &[&str] = &[
    "step",
    "site",
    "hw_breakpoint",
    "watchpoint",
    "request",
    "reset",
];

probes::tracepoints! {
    /// A client has come to a VM's endpoint.
    SessionOpen = "debug:session_open" {}
    /// A client has gone. The VM goes on.
    SessionClose = "debug:session_close" {}
    /// A VM has stopped for its client.
    DebugStop = "debug:stop" {
        /// Why.
        reason: Names(REASONS),
        /// Which thread, from 1.
        thread: Unsigned,
        /// The probe that has stopped it; 0 for none.
        probe: Unsigned,
    }
    /// A client lets a VM go on.
    DebugResume = "debug:resume" {}
}

impl DebugStop {
    /// That of `stop`.
    pub(crate) fn of(stop: Stop) -> Self {
        let (reason, probe) = match stop.reason {
            StopReason::Step => (0, 0),
            StopReason::Site { probe } => (1, probe.unwrap_or(0)),
            StopReason::HwBreakpoint => (2, 0),
            StopReason::Watchpoint { .. } => (3, 0),
            StopReason::Request => (4, 0),
            StopReason::Reset => (5, 0),
        };
        Self {
            reason,
            thread: tid(stop.vcpu).get() as u64,
            probe: probe.into(),
        }
    }
}

/// An event of the session at `space`, which concerns `vcpu`, fires if somebody wants it. The server runs where nothing
/// interrupts it.
pub(crate) fn fire<E: Event>(tracer: &Tracer, space: &Space, vcpu: VcpuId, event: E) {
    if !E::POINT.is_on() {
        return;
    }
    let machine = space.machine();
    let origin = Origin {
        vcpu,
        ..Origin::vm(machine, space.vm())
    };
    tracer.fire(event, &origin);
}
