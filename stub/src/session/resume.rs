//! Letting the VM go on.

use super::{Session, State};
use crate::packet::request::{Action, Errno, Motion, Threads};
use crate::target::tid;
use crate::tracepoints::DebugResume;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use probes::machine::{RunMode, VcpuId, VmState};

impl Session {
    /// Bare `c` and `s`, which LLDB and scripts send: as the `vCont` that says the same.
    pub(super) fn resume_focused(&mut self, motion: Motion) {
        let all = Action {
            motion: Motion::Continue,
            threads: Threads::All,
        };
        match (motion, self.resume_focus) {
            (Motion::Continue, Threads::All | Threads::Any) => self.resume(&[all]),
            (motion, Threads::One(_)) => {
                self.resume(&[Action {
                    motion,
                    threads: self.resume_focus,
                }]);
            }
            // The current thread steps, the others run: what GDB does by default.
            (motion, Threads::All | Threads::Any) => {
                let current = Threads::One(tid(self.target.focus()));
                self.resume(&[
                    Action {
                        motion,
                        threads: current,
                    },
                    all,
                ]);
            }
        }
    }

    /// `vCont`. The reply is the next stop.
    pub(super) fn resume(&mut self, actions: &[Action]) {
        let Some(packet) = self.spell(actions) else {
            return self.refuse(Errno::Srch);
        };
        let replies = self.stub.handle(&mut self.target, packet.as_bytes());
        if replies.is_err() || !self.stub.is_running() {
            self.stub.rebuild(&mut self.target);
            return self.refuse(Errno::Io);
        }
        self.leave_frame();
        self.drain_stops();
        let stepped = self.put_forward();
        match stepped.or_else(|| self.take_pending()) {
            Some(stop) => self.report(stop),
            None => self.depart(),
        }
    }

    /// A `vCont` that gdbstub takes: it knows no step of all threads, so each is named. `None` where a thread is not
    /// there, or none is.
    fn spell(&self, actions: &[Action]) -> Option<String> {
        let active: Vec<VcpuId> = self.target.active().collect();
        active.first()?;
        let mut packet = String::from("vCont");
        for Action { motion, threads } in actions {
            let word = match motion {
                Motion::Continue => String::from("c"),
                Motion::Step => String::from("s"),
                Motion::StepRange { start, end } => format!("r{start:x},{end:x}"),
            };
            match (motion, threads) {
                (_, Threads::One(tid)) => {
                    self.target.vcpu(*tid)?;
                    packet.push_str(&format!(";{word}:{tid:x}"));
                }
                (Motion::Continue, Threads::All | Threads::Any) => packet.push_str(";c"),
                (_, Threads::All | Threads::Any) => {
                    for vcpu in &active {
                        packet.push_str(&format!(";{word}:{:x}", tid(*vcpu)));
                    }
                }
            }
        }
        Some(packet)
    }

    /// The VM goes on as the client has planned.
    fn depart(&mut self) {
        let machine = self.machine();
        let count = u8::try_from(machine.vcpu_count()).unwrap_or(u8::MAX);
        for vcpu in (0..count).map(VcpuId) {
            let mode = self.target.plan().mode(vcpu);
            machine.set_run_mode(vcpu, mode);
        }
        self.space.reconcile();
        self.state = State::Running;
        self.trace(VcpuId(0), DebugResume {});
        self.tell_notices();
        if machine.state() == VmState::Ready {
            machine.start();
        }
        machine.release();
    }

    /// Whether the plan lets a vCPU move.
    pub(super) fn moves(&self, vcpu: VcpuId) -> bool {
        self.target.plan().mode(vcpu) != RunMode::Stay
    }
}
