//! A session: one endpoint, one client at a time, and what it debugs: a VM, the hypervisor, or nothing.
//!
//! A client's first packet holds the VM; its going, in whatever way, releases it: the guest goes on, breakpoints of the
//! client are gone, probes stay. In between the VM is held, or runs and the client waits for a stop.
//!
//! # Stops
//!
//! Several vCPUs can stop at once. Each took a hold; the session keeps one hold for all of them and the stops that it
//! has not told the client yet. They are told when the client next resumes their vCPU, before anything runs, as
//! gdbserver does.
//!
//! # Tools
//!
//! A client that debugs would be in the way of a tool that only brings programs and takes events, and the other way round:
//! an endpoint has one client. So there is an endpoint for tools, whose session has a space with nothing in it: it holds
//! and stops nothing, and its files, programs and `monitor` are those of every session.

mod answer;
mod breakpoints;
mod files;
mod greet;
mod inferior;
mod landing;
mod lldb;
mod memory;
mod osdata;
mod registers;
mod resume;
mod scan;
mod settings;
mod stop;
mod stop_reply;
mod stub;
mod thread_events;
mod threads;
mod tracing;
mod transfer;

use crate::channel::{ByteChannel, Endpoint};
use crate::packet::request::{self, Errno, Request, Threads};
use crate::packet::{Heard, Incoming, Line, Outbox};
use crate::server::{Server, Taken};
use crate::target::{Commands, DebugTarget, Role, tid};
use crate::tracepoints::{self, SessionClose, SessionOpen};
use alloc::collections::{BTreeMap, VecDeque};
use alloc::string::{String, ToString};
use landing::Rewound;
use osdata::OsData;
use probes::machine::{Machine, RunMode, StepInterrupts, Stop, StopReason, VcpuId};
use probes::space::Space;
use probes::tracepoint::Event;
use scan::Scan;
use settings::Settings;
use stub::Stub;
use tracing::Tracer;

pub(crate) use greet::greeting;
pub(crate) use settings::error_text;

/// Whom the VM serves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// No client. The session holds nothing.
    Vacant,
    /// A client looks at the VM. The session has one hold.
    Stopped,
    /// The client waits for a stop. The session holds nothing.
    Running,
}

/// How the session learns that another client speaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Arrivals {
    /// The channel says so.
    Told,
    /// From what clients say first, as on a serial line.
    Guessed,
}

/// A stop that the client does not know of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Pending {
    stop: Stop,
    /// Where the vCPU stood. If it stands elsewhere, the stop is history.
    pc: u64,
}

/// One endpoint.
pub struct Session {
    server: &'static Server,
    space: &'static Space,
    line: Line,
    outbox: Outbox,
    stub: Stub,
    target: DebugTarget,
    state: State,
    arrivals: Arrivals,
    /// Whether the client has introduced itself: a second introduction is another client's.
    greeted: bool,
    /// Why the VM stands, as the client was told.
    last_stop: Stop,
    pending: VecDeque<Pending>,
    /// vCPUs that the client sees on a landing pad which they have executed.
    rewound: BTreeMap<VcpuId, Rewound>,
    /// The threads that a bare `c` or `s` means.
    resume_focus: Threads,
    /// What the client wants of the protocol.
    settings: Settings,
    /// A scan of memory that the client waits for.
    scan: Option<Scan>,
    /// The table of `info os` that the client reads.
    osdata: Option<OsData>,
    /// Number of the next line of live output.
    next_line: u64,
    /// Events that were lost before those that the client has seen.
    told_lost: u64,
    /// The client's look at trace frames.
    tracer: Tracer,
}

impl Session {
    /// The endpoint of the VM with that index among [`probes::periscope::Periscope::spaces`], or `None` where there is
    /// no such VM.
    pub fn new(server: &'static Server, index: usize) -> Option<Self> {
        let space = server.periscope().spaces().get(index)?;
        Some(Self::over(server, space, Role::Debugger))
    }

    /// An endpoint for tools: programs and probes come and go with its client, and it debugs nothing.
    pub fn of_tools(server: &'static Server) -> Self {
        Self::over(server, server.periscope().nowhere(), Role::Tool)
    }

    /// The endpoint of the hypervisor itself, where it can be debugged. Its machine's holds stop the physical CPUs, so its
    /// bytes have to be taken in by code that goes on while these stand.
    pub fn of_hypervisor(server: &'static Server) -> Option<Self> {
        let space = server.periscope().hypervisor()?;
        Some(Self::over(server, space, Role::Debugger))
    }

    fn over(server: &'static Server, space: &'static Space, role: Role) -> Self {
        let mut target = DebugTarget::new(server, space, role, server.new_owner());
        Self {
            server,
            space,
            line: Line::new(),
            outbox: Outbox::new(),
            stub: Stub::new(&mut target),
            target,
            state: State::Vacant,
            arrivals: Arrivals::Guessed,
            greeted: false,
            last_stop: Stop {
                vcpu: VcpuId(0),
                reason: StopReason::Request,
            },
            pending: VecDeque::new(),
            rewound: BTreeMap::new(),
            resume_focus: Threads::Any,
            settings: Settings::default(),
            scan: None,
            osdata: None,
            next_line: 0,
            told_lost: 0,
            tracer: Tracer::default(),
        }
    }

    /// The space that the endpoint serves; an empty one for tools.
    pub fn space(&self) -> &'static Space {
        self.space
    }

    /// Whether a client looks at the VM or waits for a stop of it.
    pub fn has_client(&self) -> bool {
        self.state != State::Vacant
    }

    /// Says whether `monitor` commands may run now.
    pub fn set_commands(&mut self, commands: Commands) {
        self.target.set_commands(commands);
    }

    /// Keeps a line for the user until the target runs again.
    pub fn tell(&mut self, line: String) {
        self.target.notice(line);
    }

    fn machine(&self) -> &'static dyn Machine {
        self.space.machine()
    }

    fn incoming(&mut self, incoming: Incoming) {
        match self.outbox.hear(incoming) {
            None => {}
            Some(Heard::Interrupt) => self.interrupt(),
            Some(Heard::Oversize) => {
                self.outbox.accept();
                self.refuse(Errno::TooBig);
            }
            Some(Heard::Packet(body)) => self.packet(&body),
        }
    }

    fn packet(&mut self, body: &[u8]) {
        let request = request::parse(body);
        if self.is_new_client(&request) {
            self.end_client();
        }
        self.outbox.accept();
        // Who asks something else does not wait any more.
        self.scan = None;
        match (self.state, &request) {
            (State::Vacant, Request::Detach | Request::Kill) => {}
            (State::Vacant, _) => {
                if let Err(taken) = self.attach() {
                    return self.explain_refusal(Errno::Busy, &taken.to_string());
                }
            }
            (State::Stopped, Request::Supported(_)) if !self.greeted => self.forget_leftovers(),
            _ => {}
        }
        self.answer(request);
    }

    /// Whether a packet comes from a client that has not spoken before, where the channel does not tell. LLDB 22
    /// introduces itself once more before its first read of memory, which costs it its session there.
    fn is_new_client(&self, request: &Request) -> bool {
        let runs = self.state == State::Running;
        match (self.arrivals, request) {
            (Arrivals::Told, Request::Supported(_)) => !self.greeted && runs,
            (Arrivals::Guessed, Request::Supported(_)) => self.greeted || runs,
            (Arrivals::Guessed, Request::NoAcks) => !self.outbox.expects_acks(),
            _ => false,
        }
    }

    /// A client is there: holds the VM for it.
    fn attach(&mut self) -> Result<(), Taken> {
        if self.target.role() == Role::Debugger {
            self.server.claim(self.space.vm(), self.target.owner())?;
        }
        self.machine().hold();
        self.state = State::Stopped;
        self.target.forget_client();
        self.drain_stops();
        self.last_stop = match self.pending.pop_front() {
            Some(pending) => pending.stop,
            None => {
                let vcpu = self.target.active().next().unwrap_or(VcpuId(0));
                Stop {
                    vcpu,
                    reason: StopReason::Request,
                }
            }
        };
        self.target.set_focus(self.last_stop.vcpu);
        self.stub.rebuild(&mut self.target);
        self.target.collect_events();
        self.next_line = self.server.next_line(self.space.vm());
        self.told_lost = self.server.periscope().events().total_lost();
        self.trace(VcpuId(0), SessionOpen {});
        Ok(())
    }

    /// Something that sessions do has happened.
    fn trace<E: Event>(&self, vcpu: VcpuId, event: E) {
        if self.target.role() == Role::Tool {
            // Such events are about the space of a debugger.
            return;
        }
        tracepoints::fire(self.server.periscope().tracer(), self.space, vcpu, event);
    }

    /// Who introduces itself has set nothing yet. What is set came in packets that a client before it had left in the
    /// channel.
    fn forget_leftovers(&mut self) {
        self.put_all_forward();
        self.space.forget_breakpoints();
        self.leave_experiment();
        self.target.forget_client();
        self.target.set_focus(self.last_stop.vcpu);
        self.stub.rebuild(&mut self.target);
    }

    /// The client is gone: takes away what was its, and lets the guest go on.
    fn end_client(&mut self) {
        self.line = Line::new();
        self.outbox = Outbox::new();
        self.release_client();
    }

    /// The same, with what still has to be sent.
    fn release_client(&mut self) {
        if self.state == State::Running {
            self.machine().hold();
        }
        if self.state != State::Vacant {
            self.drain_stops();
            self.put_all_forward();
            self.space.forget_breakpoints();
            self.leave_experiment();
            self.let_all_continue();
            // The policy is the client's. Where it cannot be changed, it was not.
            self.machine()
                .set_step_interrupts(StepInterrupts::default());
            self.state = State::Vacant;
            self.trace(VcpuId(0), SessionClose {});
            self.machine().release();
            self.server.disclaim(self.space.vm(), self.target.owner());
        }
        self.pending.clear();
        self.greeted = false;
        self.resume_focus = Threads::Any;
        self.settings = Settings::default();
        self.scan = None;
        self.osdata = None;
        self.target.forget_client();
        self.stub.rebuild(&mut self.target);
    }

    fn let_all_continue(&mut self) {
        let machine = self.machine();
        for vcpu in self.target.active() {
            machine.set_run_mode(vcpu, RunMode::Continue);
        }
    }

    /// A thread for gdbstub's replies to name: that of the vCPU which the client looks at.
    fn set_focus(&mut self, vcpu: VcpuId) {
        self.target.set_focus(vcpu);
        // A gdbstub that waits for a stop gets the thread of the stop with it.
        if self.state != State::Running {
            self.stub.focus(&mut self.target, tid(vcpu));
        }
    }
}

impl Endpoint for Session {
    fn opened(&mut self) {
        self.arrivals = Arrivals::Told;
        self.end_client();
    }

    fn replaced(&mut self) {
        self.opened();
        self.line.wait_for_introduction();
    }

    fn closed(&mut self) {
        self.end_client();
    }

    fn receive(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if let Some(incoming) = self.line.push(*byte) {
                self.incoming(incoming);
            }
        }
    }

    fn poll(&mut self) {
        self.target.collect_events();
        match self.state {
            State::Vacant if self.server.is_debugged(self.space.vm()) => {}
            State::Vacant => self.release_unwatched_stops(),
            State::Stopped => self.go_on_scanning(),
            State::Running => self.poll_running(),
        }
    }

    fn flush(&mut self, channel: &mut dyn ByteChannel) {
        self.outbox.flush(channel);
    }

    fn wants_poll(&self) -> bool {
        self.state == State::Running || self.scan.is_some() || self.outbox.waiting() > 0
    }
}
