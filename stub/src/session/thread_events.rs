//! vCPUs that come and go, as stops (`QThreadEvents`; GDB manual, E.3 "Stop Reply Packets", `create` and `w`). They are
//! seen when the session is polled: a new vCPU may have executed some of its code by then.

use super::{Session, State};
use crate::target::tid;
use alloc::format;
use probes::machine::{Stop, StopReason, VcpuId};

/// What has become of a vCPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum ThreadEvent {
    /// The guest has switched it on.
    Created(VcpuId),
    /// The guest has switched it off.
    Exited(VcpuId),
}

impl Session {
    /// Stops the VM, which runs, where a vCPU has come or gone and the client wants to know. Says whether it did.
    pub(super) fn stop_for_thread_event(&mut self) -> bool {
        let Some(event) = self.take_thread_event() else {
            return false;
        };
        self.machine().hold();
        self.state = State::Stopped;
        self.drain_stops();
        let (vcpu, body) = match event {
            ThreadEvent::Created(vcpu) => {
                (Some(vcpu), format!("T05create:;thread:{:02x};", tid(vcpu)))
            }
            ThreadEvent::Exited(vcpu) => {
                (self.target.active().next(), format!("w00;{:x}", tid(vcpu)))
            }
        };
        if let Some(vcpu) = vcpu {
            self.last_stop = Stop {
                vcpu,
                reason: StopReason::Request,
            };
            self.target.set_focus(vcpu);
        }
        // gdbstub knows no such stop and would wait for one.
        self.stub.rebuild(&mut self.target);
        let body = self.complete_stop_reply(body.into_bytes(), self.last_stop.vcpu);
        self.reply(&body);
        true
    }

    /// One difference between the vCPUs that the client knows of and those that there are.
    fn take_thread_event(&mut self) -> Option<ThreadEvent> {
        let mut active = self.target.active();
        let known = self.settings.known_threads.as_mut()?;
        if let Some(vcpu) = active.find(|vcpu| !known.contains(vcpu)) {
            known.insert(vcpu);
            return Some(ThreadEvent::Created(vcpu));
        }
        let mut gone = known.iter().copied();
        let gone = gone.find(|vcpu| self.target.vcpu(tid(*vcpu)).is_none())?;
        known.remove(&gone);
        Some(ThreadEvent::Exited(gone))
    }
}
