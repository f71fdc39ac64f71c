//! Answers to requests.

use super::{Session, State};
use crate::packet::request::{Errno, Request};
use crate::target::{Role, tid};
use alloc::format;
use probes::addr::Gva;

impl Session {
    pub(super) fn answer(&mut self, request: Request) {
        if self.target.role() == Role::Tool && !answered_to_tools(&request) {
            return self.explain_refusal(Errno::Inval, NOTHING_DEBUGGED);
        }
        match (self.state, while_running(&request)) {
            (State::Running, WhileRunning::Refused) => self.refuse(Errno::Busy),
            (State::Running, WhileRunning::Held) => {
                self.machine().hold();
                self.do_answer(request);
                // Breakpoints that were taken away go now: nobody is about to resume.
                self.space.reconcile();
                self.machine().release();
            }
            _ => self.do_answer(request),
        }
    }

    fn do_answer(&mut self, request: Request) {
        match request {
            Request::Stub(body) if self.answer_from_frame(&body) => {}
            Request::Stub(body) => self.ask_stub(&body),
            Request::Tracing(request) => self.trace_experiment(request),
            Request::Fixed(body) => self.reply(body),
            Request::Refused(errno) => self.refuse(errno),
            Request::Explained(text) => self.explain_refusal(Errno::Inval, text),
            Request::OnThread(threads, body) => self.ask_stub_on(threads, &body),
            Request::Set(setting) => self.set(setting),
            Request::Supported(errors) => self.greet(errors),
            Request::Breakpoint { packet, wishes } => self.set_breakpoint(&packet, wishes),
            Request::NoAcks => {
                self.reply(b"OK");
                self.outbox.stop_acks();
            }
            Request::Halted => self.tell_why_halted(),
            Request::CurrentThread => {
                let current = tid(self.target.focus());
                self.reply(format!("QC{current:02x}").as_bytes());
            }
            Request::Focus(threads) => self.focus_on(threads),
            Request::ResumeFocus(threads) => self.set_resume_focus(threads),
            Request::Alive(threads) => match self.one_of(threads) {
                Some(_) => self.reply(b"OK"),
                None => self.refuse(Errno::Srch),
            },
            Request::Threads => self.list_threads(),
            Request::ThreadName(threads) => self.name_thread(threads),
            Request::ThreadStop(threads) => self.tell_why_stands(threads),
            Request::ThreadXml(window) => {
                let xml = self.thread_xml();
                self.transfer(xml.as_bytes(), window);
            }
            Request::OsData(kind, window) => self.tell_osdata(&kind, window),
            Request::ExecFile(window) => self.tell_exec_file(window),
            Request::ReadFile(window) => self.read_file(window),
            Request::ResumeFocused(motion) => self.resume_focused(motion),
            Request::Resume(actions) => self.resume(&actions),
            Request::Detach => {
                self.reply(b"OK");
                self.release_client();
            }
            Request::Kill => {
                self.reply(KILLED);
                self.release_client();
            }
            Request::ReadMemory {
                address,
                length,
                encoding,
            } => self.read_memory(address, length, encoding),
            Request::Search {
                first,
                last,
                pattern,
            } => self.search(first, last, pattern),
            Request::Checksum { first, last } => self.checksum(first, last),
            Request::ProbeBinary => self.read_bare(),
            Request::MemoryRegion(address) => self.tell_region(Gva(address)),
            Request::HostInfo => self.tell_host(),
            Request::ThreadsJson => self.tell_threads(),
            Request::SaveRegisters(threads) => self.save_registers(threads),
            Request::RestoreRegisters(number) => self.restore_registers(number),
        }
    }

    pub(super) fn reply(&mut self, body: &[u8]) {
        self.outbox.packet(body);
    }

    /// Hands a packet to gdbstub and passes its replies on. Where the target has words for an error, the client gets
    /// them.
    pub(super) fn ask_stub(&mut self, body: &[u8]) {
        let replies = match self.state {
            State::Running => self.stub.ask_another(&mut self.target, body),
            State::Stopped | State::Vacant => self.stub.handle(&mut self.target, body),
        };
        if let Some(refusal) = self.target.take_refusal() {
            return self.explain_refusal(Errno::Inval, &refusal);
        }
        match replies {
            Ok(bodies) => bodies.iter().for_each(|body| self.outbox.packet(body)),
            Err(_) => self.refuse(Errno::Io),
        }
    }
}

/// The reply to `k`: what was debugged has ended by signal 9, as far as the client is concerned. GDB does not read it,
/// LLDB waits for it.
const KILLED: &[u8] = b"X09";

/// Why a tool does not get what only a debugger wants.
const NOTHING_DEBUGGED: &str = "this endpoint is for tools and debugs nothing: it has files, programs and `monitor`. Attach \
    a debugger to the endpoint of a VM";

/// What a tool may ask. Anything else is about a process, which there is not.
fn answered_to_tools(request: &Request) -> bool {
    match request {
        Request::Stub(body) => body.starts_with(b"qRcmd") || body.starts_with(b"vFile:"),
        Request::Tracing(_)
        | Request::Fixed(_)
        | Request::Refused(_)
        | Request::Explained(_)
        | Request::Set(_)
        | Request::Supported(_)
        | Request::NoAcks
        | Request::Halted
        | Request::Threads
        | Request::ReadFile(_)
        | Request::Detach
        | Request::Kill => true,
        _ => false,
    }
}

/// How a request is answered while the VM runs and the client waits for a stop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum WhileRunning {
    /// It touches no vCPU.
    Answered,
    /// The VM is held for the moment: the request is about its memory, or about the places where it stops.
    Held,
    /// It is about vCPUs that stand.
    Refused,
}

fn while_running(request: &Request) -> WhileRunning {
    match request {
        Request::Stub(body) => match body.first() {
            Some(b'M' | b'X' | b'Z' | b'z') => WhileRunning::Held,
            Some(b'q' | b'v') => WhileRunning::Answered,
            _ => WhileRunning::Refused,
        },
        Request::Breakpoint { .. }
        | Request::ReadMemory { .. }
        | Request::MemoryRegion(_)
        | Request::HostInfo => WhileRunning::Held,
        Request::Tracing(tracing) if tracing.needs_no_stop() => WhileRunning::Held,
        Request::Fixed(_)
        | Request::Refused(_)
        | Request::Explained(_)
        | Request::Set(_)
        | Request::NoAcks
        | Request::CurrentThread
        | Request::Focus(_)
        | Request::ResumeFocus(_)
        | Request::Alive(_)
        | Request::Threads
        | Request::ThreadName(_)
        | Request::ThreadXml(_)
        | Request::OsData(..)
        | Request::ReadFile(_)
        | Request::ExecFile(_)
        | Request::ProbeBinary
        | Request::Detach
        | Request::Kill => WhileRunning::Answered,
        _ => WhileRunning::Refused,
    }
}
