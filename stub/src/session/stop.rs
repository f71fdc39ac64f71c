//! Stops: taking them from the machine, telling the client, and what it is told while the VM runs.

use super::{Pending, Session, State};
use crate::commands::kind_name;
use crate::packet::request::{Errno, Threads};
use crate::target::tid;
use crate::tracepoints::DebugStop;
use alloc::format;
use alloc::string::String;
use gdbstub::common::Signal;
use gdbstub::stub::MultiThreadStopReason;
use gdbstub::target::ext::breakpoints::WatchKind as GdbWatchKind;
use probes::addr::Gva;
use probes::machine::{Stop, StopReason, VcpuId, VmId, VmState, WatchKind};
use probes::space::{Listing, ProbeId};

/// More stops than vCPUs cannot wait, but a machine is not trusted to end a loop.
const MAX_STOPS: usize = 256;
/// Live output waits in the history while so many bytes wait for the channel.
const OUTPUT_WINDOW: usize = 16 * 1024;

impl Session {
    /// Byte 0x03: stops the VM. Meaningless while it stands, as when the client's Ctrl-C crosses our stop.
    pub(super) fn interrupt(&mut self) {
        if self.interrupt_scan() || self.state != State::Running || self.finish_if_off() {
            return;
        }
        self.machine().hold();
        self.state = State::Stopped;
        self.drain_stops();
        let stop = self.take_first().unwrap_or_else(|| {
            let vcpu = self.one_of(Threads::Any);
            Stop {
                vcpu: vcpu.unwrap_or(VcpuId(0)),
                reason: StopReason::Request,
            }
        });
        self.report(stop);
    }

    /// The VM runs and the client waits.
    pub(super) fn poll_running(&mut self) {
        match self.machine().take_stop() {
            // Its hold is ours now.
            Some(stop) => {
                self.state = State::Stopped;
                self.keep(stop);
                self.drain_stops();
                // A vCPU that is not let go does not come to a stop; a reset does to it.
                let first = self.take_first();
                if let Some(stop) = first.or_else(|| Some(self.pending.pop_back()?.stop)) {
                    self.report(stop);
                }
            }
            None if self.finish_if_off() || self.stop_for_thread_event() => {}
            None => self.tell_output(OUTPUT_WINDOW),
        }
    }

    /// Nobody looks: a probe that says stop does not stop a VM for a client that may never come.
    pub(super) fn release_unwatched_stops(&mut self) {
        for _ in 0..MAX_STOPS {
            if self.machine().take_stop().is_none() {
                return;
            }
            self.machine().release();
        }
    }

    /// Takes all stops from the machine. The session has a hold of its own, so theirs are given back.
    pub(super) fn drain_stops(&mut self) {
        for _ in 0..MAX_STOPS {
            let Some(stop) = self.machine().take_stop() else {
                return;
            };
            self.keep(stop);
            self.machine().release();
        }
    }

    fn keep(&mut self, stop: Stop) {
        let pc = self.machine().core(stop.vcpu).map_or(0, |core| core.pc);
        // A vCPU has one reason to stand; after a reset the others are history.
        let reset = stop.reason == StopReason::Reset;
        self.pending
            .retain(|pending| !reset && pending.stop.vcpu != stop.vcpu);
        self.pending.push_back(Pending { stop, pc });
    }

    /// Of the vCPUs that the client has let go, the stop to tell first: the end of a step comes before breakpoints, which
    /// the client expects to lose no step. The others' wait until they are let go.
    fn take_first(&mut self) -> Option<Stop> {
        let pending = self.pending.iter().enumerate();
        let let_go = pending.filter(|(_, pending)| self.moves(pending.stop.vcpu));
        let (first, _) =
            let_go.min_by_key(|(_, pending)| pending.stop.reason != StopReason::Step)?;
        self.pending.remove(first).map(|pending| pending.stop)
    }

    /// A stop of a vCPU that the plan moves, and that still stands where it stopped.
    pub(super) fn take_pending(&mut self) -> Option<Stop> {
        let machine = self.machine();
        self.pending.retain(|pending| {
            machine
                .core(pending.stop.vcpu)
                .is_ok_and(|core| core.pc == pending.pc)
        });
        let next = self
            .pending
            .iter()
            .position(|pending| self.moves(pending.stop.vcpu))?;
        self.pending.remove(next).map(|pending| pending.stop)
    }

    /// Tells the client, which waits, why the VM stands.
    pub(super) fn report(&mut self, stop: Stop) {
        self.state = State::Stopped;
        self.last_stop = stop;
        self.target.set_focus(stop.vcpu);
        self.trace(stop.vcpu, DebugStop::of(stop));
        self.target.collect_events();
        self.tell_output(usize::MAX);
        self.explain(stop);
        // By where the vCPU really is.
        let reason = self.reason(stop);
        self.rewind_to_pad(stop);
        match self.stub.report(&mut self.target, reason) {
            Ok(bodies) => bodies.into_iter().for_each(|body| {
                let body = self.complete_stop_reply(body, stop.vcpu);
                self.outbox.packet(&body);
            }),
            Err(_) => self.tell_why_halted(),
        }
    }

    /// `?`, and the stop reply where gdbstub could not make one.
    pub(super) fn tell_why_halted(&mut self) {
        let last = tid(self.last_stop.vcpu);
        let vcpu = self
            .target
            .vcpu(last)
            .or_else(|| self.target.active().next());
        match vcpu {
            Some(vcpu) => self.tell_stands(Signal::SIGTRAP, vcpu),
            // No vCPU is on: to the client a process that has exited.
            None => self.reply(b"W00"),
        }
    }

    /// `qThreadStopInfo`: signal 0 is a thread that stands because another one stopped.
    pub(super) fn tell_why_stands(&mut self, threads: Threads) {
        match self.one_of(threads) {
            Some(vcpu) if vcpu == self.last_stop.vcpu => self.tell_stands(Signal::SIGTRAP, vcpu),
            Some(vcpu) => self.tell_stands(Signal::SIGZERO, vcpu),
            None => self.refuse(Errno::Srch),
        }
    }

    fn tell_stands(&mut self, signal: Signal, vcpu: VcpuId) {
        let body = format!("T{:02x}thread:{:02x};", signal.0, tid(vcpu));
        let body = self.complete_stop_reply(body.into_bytes(), vcpu);
        self.reply(&body);
    }

    /// A stop that the client did not ask for says what it is.
    fn explain(&mut self, stop: Stop) {
        let vm = self.space.vm();
        let line = match stop.reason {
            StopReason::Site { probe: Some(id) } => {
                let name = self.target.vcpu_name(stop.vcpu);
                let cpu = name.rsplit('/').next().unwrap_or_default();
                format!("{} stopped {cpu}\n", self.probe_words(id))
            }
            StopReason::Reset => {
                format!("{vm} was reset: it stands before its first instruction\n")
            }
            _ => return,
        };
        self.outbox.console(line.as_bytes());
    }

    /// A probe as users know it: `probe 1: kprobe vm1:vfs_read`.
    pub(super) fn probe_words(&self, id: u32) -> String {
        let mut listing = self.space.list().into_iter();
        let entry = listing.find(|entry| entry.id == Some(ProbeId(id)));
        let what = entry.map_or_else(String::new, |entry| describe(self.space.vm(), &entry));
        format!("probe {id}{what}")
    }

    /// Lines that waited for the VM to run.
    pub(super) fn tell_notices(&mut self) {
        for mut line in self.target.take_notices() {
            line.push('\n');
            self.outbox.console(line.as_bytes());
        }
    }

    /// Sends what programs printed, as long as fewer than `window` bytes wait for the channel. What the client is too
    /// slow for is counted and told.
    fn tell_output(&mut self, window: usize) {
        let vm = self.space.vm();
        while self.outbox.waiting() < window && !self.outbox.is_full() {
            let Some((number, line)) = self.server.line(vm, self.next_line) else {
                break;
            };
            let skipped = number - self.next_line;
            self.tell_lost(skipped);
            self.next_line = number + 1;
            self.outbox.console(line.as_bytes());
        }
        let lost = self.server.periscope().events().total_lost();
        let newly_lost = lost.saturating_sub(self.told_lost);
        self.told_lost = lost;
        self.tell_lost(newly_lost);
    }

    fn tell_lost(&mut self, count: u64) {
        if count > 0 {
            self.outbox
                .console(format!("({count} lines lost)\n").as_bytes());
        }
    }

    /// If the guest has switched itself off, tells the client that it has exited, and lets the client go.
    fn finish_if_off(&mut self) -> bool {
        if self.machine().state() != VmState::Off {
            return false;
        }
        self.tell_output(usize::MAX);
        self.reply(b"W00");
        self.release_client();
        true
    }
}

fn describe(vm: VmId, listing: &Listing) -> String {
    format!(": {} {vm}:{}", kind_name(listing.kind), listing.site)
}

impl Session {
    /// The stop as gdbstub tells it. GDB never stops at a breakpoint of its own that is there for its commands, so one
    /// whose commands have failed is told as an interrupt.
    fn reason(&self, stop: Stop) -> MultiThreadStopReason<u64> {
        let is_breakpoint = matches!(
            stop.reason,
            StopReason::Site { probe: None } | StopReason::HwBreakpoint
        );
        let pc = self.machine().core(stop.vcpu).map(|core| Gva(core.pc));
        let failed = is_breakpoint && pc.is_ok_and(|pc| self.space.goes_on_at(pc));
        let reason = if failed {
            StopReason::Request
        } else {
            stop.reason
        };
        told(Stop { reason, ..stop })
    }
}

/// The stop as gdbstub tells it. Every stop names its thread.
///
/// A `--stop` probe is a plain SIGTRAP: GDB takes `swbreak` at an address where it has no breakpoint for one that it has
/// just removed, and goes on without a word.
fn told(stop: Stop) -> MultiThreadStopReason<u64> {
    let tid = tid(stop.vcpu);
    let signal = |signal| MultiThreadStopReason::SignalWithThread { tid, signal };
    match stop.reason {
        StopReason::Site { probe: None } => MultiThreadStopReason::SwBreak(tid),
        StopReason::HwBreakpoint => MultiThreadStopReason::HwBreak(tid),
        StopReason::Watchpoint { address, kind } => {
            let kind = match kind {
                WatchKind::Write => GdbWatchKind::Write,
                WatchKind::Read => GdbWatchKind::Read,
                WatchKind::Access => GdbWatchKind::ReadWrite,
            };
            MultiThreadStopReason::Watch {
                tid,
                kind,
                addr: address.0,
            }
        }
        StopReason::Request => signal(Signal::SIGINT),
        StopReason::Step | StopReason::Site { probe: Some(_) } | StopReason::Reset => {
            signal(Signal::SIGTRAP)
        }
    }
}
