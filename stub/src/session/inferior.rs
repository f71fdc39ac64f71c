//! A session without a channel of its own: one inferior among those of the endpoint for the whole machine.
//!
//! Its packets come unframed, and its answers are handed back instead of being sent.

use super::{Session, State};
use crate::channel::Endpoint;
use crate::packet::Bodies;
use crate::server::Taken;
use crate::target::tid;
use gdbstub::common::Signal;
use gdbstub::stub::MultiThreadStopReason;

impl Session {
    /// Holds the space for the endpoint's client.
    pub(crate) fn begin(&mut self) -> Result<(), Taken> {
        self.opened();
        self.outbox.stop_acks();
        self.attach()
    }

    /// Answers the body of a packet.
    pub(crate) fn exchange(&mut self, body: &[u8]) -> Bodies {
        self.packet(body);
        self.finish_scanning();
        self.outbox.take_bodies()
    }

    /// Answers Ctrl-C.
    pub(crate) fn exchange_interrupt(&mut self) -> Bodies {
        self.interrupt();
        self.outbox.take_bodies()
    }

    /// What there is to say without being asked: output, and a stop.
    pub(crate) fn exchange_nothing(&mut self) -> Bodies {
        self.poll();
        self.outbox.take_bodies()
    }

    /// Whether the client waits for a stop.
    pub(crate) fn is_running(&self) -> bool {
        self.state == State::Running
    }

    /// Whether a vCPU is on: GDB knows no process without a thread.
    pub(crate) fn has_threads(&self) -> bool {
        self.target.active().next().is_some()
    }

    /// Stops the space because another one has stopped. A stop that it comes to meanwhile is told when the client lets it
    /// go on.
    pub(crate) fn halt(&mut self) {
        if self.state != State::Running {
            return;
        }
        self.machine().hold();
        self.state = State::Stopped;
        self.drain_stops();
        let reason = MultiThreadStopReason::SignalWithThread {
            tid: tid(self.target.focus()),
            signal: Signal::SIGZERO,
        };
        // gdbstub waits for a stop. What it says of this one is for nobody.
        let _ = self.stub.report(&mut self.target, reason);
    }
}
