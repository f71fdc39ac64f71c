//! gdbstub, kept alive.
//!
//! gdbstub's state machine is consumed by every byte and lost with every error. [`Stub`] feeds it whole packets with a
//! good checksum, keeps it in no-ack mode (the acknowledgements that a client sees are the outbox'), takes its replies
//! out of their frames, and builds it anew after an error.

use crate::packet::{self, Bodies, PACKET_SIZE};
use crate::target::DebugTarget;
use alloc::vec::Vec;
use core::convert::Infallible;
use gdbstub::common::Tid;
use gdbstub::conn::Connection;
use gdbstub::stub::state_machine::GdbStubStateMachine;
use gdbstub::stub::{GdbStub, MultiThreadStopReason};

/// gdbstub's buffer. With each packet it looks through all of it for a second `#`, so it is no larger than most packets need.
const BUFFER: usize = 1024;
/// What a packet takes in a buffer beside its body: its frame, and what gdbstub decodes.
const BESIDE: usize = 256;

type Machine = GdbStubStateMachine<'static, DebugTarget, Replies>;

/// Where gdbstub writes to.
#[derive(Default)]
struct Replies(Vec<u8>);

impl Connection for Replies {
    type Error = Infallible;

    fn write(&mut self, byte: u8) -> Result<(), Infallible> {
        self.0.push(byte);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Infallible> {
        Ok(())
    }
}

/// gdbstub could not handle what it was given. It has been built anew.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Failed;

/// One gdbstub state machine.
pub(super) struct Stub {
    /// `None` only where gdbstub refuses to be built, which it has no reason to.
    machine: Option<Machine>,
}

impl Stub {
    /// gdbstub with nothing behind it.
    pub(super) fn new(target: &mut DebugTarget) -> Self {
        Self::with_buffer(target, BUFFER)
    }

    fn with_buffer(target: &mut DebugTarget, size: usize) -> Self {
        let mut stub = Self {
            machine: build(target, size),
        };
        // Its reply is for nobody.
        let _ = stub.pump(target, b"QStartNoAckMode");
        stub
    }

    /// Whether gdbstub has resumed its target and waits for a stop.
    pub(super) fn is_running(&self) -> bool {
        matches!(self.machine, Some(GdbStubStateMachine::Running(_)))
    }

    /// Hands gdbstub the body of a packet. Long packets are about memory and files, and leave gdbstub as it is.
    pub(super) fn handle(
        &mut self,
        target: &mut DebugTarget,
        body: &[u8],
    ) -> Result<Bodies, Failed> {
        if buffer_for(body) > BUFFER {
            return self.ask_another(target, body);
        }
        let replies = self.pump(target, body);
        if replies.is_err() {
            self.rebuild(target);
        }
        replies
    }

    /// Hands the body of a packet to another gdbstub, because this one waits for a stop and takes none, or has no room.
    pub(super) fn ask_another(
        &self,
        target: &mut DebugTarget,
        body: &[u8],
    ) -> Result<Bodies, Failed> {
        let mut other = Self::with_buffer(target, buffer_for(body));
        let tid = crate::target::tid(target.focus());
        other.focus(target, tid);
        other.pump(target, body)
    }

    /// Reports a stop of the running target.
    pub(super) fn report(
        &mut self,
        target: &mut DebugTarget,
        reason: MultiThreadStopReason<u64>,
    ) -> Result<Bodies, Failed> {
        let reported = match self.machine.take() {
            Some(GdbStubStateMachine::Running(running)) => running.report_stop(target, reason).ok(),
            _ => None,
        };
        let Some(machine) = reported else {
            self.rebuild(target);
            return Err(Failed);
        };
        self.machine = Some(machine);
        Ok(self.take_replies())
    }

    /// Tells gdbstub which thread `g`, `m` and the like mean.
    pub(super) fn focus(&mut self, target: &mut DebugTarget, tid: Tid) {
        let _ = self.handle(target, alloc::format!("Hg{tid:x}").as_bytes());
    }

    /// Puts an idle gdbstub in the place of this one.
    pub(super) fn rebuild(&mut self, target: &mut DebugTarget) {
        *self = Self::new(target);
        let tid = crate::target::tid(target.focus());
        let _ = self.pump(target, alloc::format!("Hg{tid:x}").as_bytes());
    }

    fn pump(&mut self, target: &mut DebugTarget, body: &[u8]) -> Result<Bodies, Failed> {
        for byte in packet::frame(body) {
            let next = match self.machine.take() {
                Some(GdbStubStateMachine::Idle(idle)) => idle.incoming_data(target, byte),
                Some(GdbStubStateMachine::Running(running)) => running.incoming_data(target, byte),
                _ => return Err(Failed),
            };
            self.machine = Some(next.map_err(|_| Failed)?);
        }
        Ok(self.take_replies())
    }

    fn take_replies(&mut self) -> Bodies {
        let connection = match &mut self.machine {
            Some(GdbStubStateMachine::Idle(inner)) => inner.borrow_conn(),
            Some(GdbStubStateMachine::Running(inner)) => inner.borrow_conn(),
            Some(GdbStubStateMachine::CtrlCInterrupt(inner)) => inner.borrow_conn(),
            Some(GdbStubStateMachine::Disconnected(inner)) => inner.borrow_conn(),
            None => return Vec::new(),
        };
        packet::unframe(&core::mem::take(connection).0)
    }
}

/// How large a buffer gdbstub needs for a packet. What it transfers goes through the buffer as well.
fn buffer_for(body: &[u8]) -> usize {
    let transferred = match body.starts_with(b"qXfer:") {
        true => PACKET_SIZE,
        false => 0,
    };
    BUFFER.max(body.len() + transferred + BESIDE)
}

fn build(target: &mut DebugTarget, size: usize) -> Option<Machine> {
    let stub = GdbStub::builder(Replies::default())
        .packet_buffer_size(size)
        .build()
        .ok()?;
    stub.run_state_machine(target).ok()
}
