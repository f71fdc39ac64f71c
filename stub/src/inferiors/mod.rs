//! The endpoint for the whole machine: the hypervisor and all VMs as the inferiors of one client.
//!
//! Each inferior is a [`Session`] like those of the single endpoints, and answers its own packets. What stands here is what
//! they cannot know: which of them a packet means, and that in all-stop mode (GDB manual 5.5.1) they stop and go together.
//! A space is debugged through one endpoint at a time: inferiors that are taken elsewhere are left out.
//!
//! # Process ids
//!
//! `vm1` is process 1, and so on; `hyp` is process [`HYP_PID`]. A client that comes has none of them and stops nothing, until
//! it asks: `attach 1`; `add-inferior`, `inferior 2`, `attach 2`. Of inferiors that are there from the start GDB 13 makes
//! little: it asks for the target description of the current one only, and takes the first stop of one that it has never
//! resumed itself for a part of connecting.
//!
//! # With the hypervisor
//!
//! The VMs run on it. So a VM goes on only together with `hyp`, but for single steps, and what concerns `hyp` can be done only while the physical
//! CPUs stand ([`World::Stands`]): whoever owns the endpoint brings them to that where [`MachineSession::wants_stand`].

mod files;
mod ids;
mod resume;
mod threads;

use crate::channel::{ByteChannel, Endpoint};
use crate::packet::request::{self, Request};
use crate::packet::{Bodies, Heard, Incoming, Line, Outbox, hex_number};
use crate::server::Server;
use crate::session::{Session, error_text, greeting};
use crate::target::{Commands, Role};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use ids::Pid;

/// The process id of the hypervisor. VMs have small ones.
pub const HYP_PID: u64 = 100;

/// Whether the physical CPUs stand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum World {
    /// They execute guests and the hypervisor.
    Runs,
    /// All but the caller's rest; whether the server may do what needs its locks.
    Stands(Commands),
}

/// A space that the client can debug.
struct Inferior {
    pid: u64,
    session: Session,
    attached: bool,
}

/// The endpoint.
pub struct MachineSession {
    line: Line,
    outbox: Outbox,
    inferiors: Vec<Inferior>,
    world: World,
    /// How the client has introduced itself, for inferiors that it attaches later.
    introduction: Vec<u8>,
    /// The inferior that packets mean which name none.
    focus: usize,
    /// The inferior whose files `vFile` means.
    files: usize,
    /// A stop that the client has not been told, because something still runs.
    stop: Option<(usize, Vec<u8>)>,
    /// A packet that waits for the physical CPUs to stand.
    deferred: Option<Vec<u8>>,
}

/// Why a client that debugs nothing gets no answer.
const NOTHING_ATTACHED: &str =
    "no inferior is attached: `attach 1` debugs vm1, `attach 100` the hypervisor";

/// Why a packet gets no answer: the client is told by an error reply.
struct Refused(String);

impl Refused {
    fn new(why: &str) -> Self {
        Self(why.to_string())
    }
}

impl MachineSession {
    /// The endpoint of all spaces of `server`'s.
    pub fn new(server: &'static Server) -> Self {
        let vms = (0..).map_while(|index| Session::new(server, index));
        let mut inferiors: Vec<Inferior> = (1..)
            .zip(vms)
            .map(|(pid, session)| Inferior {
                pid,
                session,
                attached: false,
            })
            .collect();
        inferiors.extend(Session::of_hypervisor(server).map(|session| Inferior {
            pid: HYP_PID,
            session,
            attached: false,
        }));
        Self {
            line: Line::new(),
            outbox: Outbox::new(),
            inferiors,
            world: World::Runs,
            introduction: Vec::new(),
            focus: 0,
            files: 0,
            stop: None,
            deferred: None,
        }
    }

    /// Whether the client debugs the hypervisor.
    pub fn has_hypervisor(&self) -> bool {
        self.hypervisor()
            .is_some_and(|index| self.inferiors[index].attached)
    }

    /// Whether there is something to do for which the physical CPUs have to stand.
    pub fn wants_stand(&self) -> bool {
        self.deferred.is_some() || self.stop.is_some()
    }

    /// Keeps a line for the user until the hypervisor runs again.
    pub fn tell(&mut self, line: &str) {
        if let Some(index) = self.hypervisor() {
            self.inferiors[index].session.tell(line.to_string());
        }
    }

    /// Says whether the physical CPUs stand, before anything else is asked.
    pub fn set_world(&mut self, world: World) {
        self.world = world;
        let commands = match world {
            World::Runs => Commands::Allowed,
            World::Stands(commands) => commands,
        };
        for inferior in &mut self.inferiors {
            inferior.session.set_commands(commands);
        }
    }

    fn incoming(&mut self, incoming: Incoming) {
        match self.outbox.hear(incoming) {
            None => {}
            Some(Heard::Interrupt) => self.interrupt(),
            Some(Heard::Oversize) => {
                self.outbox.accept();
                self.refuse(&Refused::new("this packet is longer than PacketSize"));
            }
            Some(Heard::Packet(body)) => {
                self.outbox.accept();
                self.answer(&body);
            }
        }
    }

    /// Answers a packet that names its inferiors, and passes any other on.
    fn answer(&mut self, body: &[u8]) {
        let result = match body {
            b"QStartNoAckMode" => {
                self.reply(b"OK");
                self.outbox.stop_acks();
                Ok(())
            }
            // Extended mode is what makes GDB's `attach` and `detach` work.
            b"!" => self.say(b"OK"),
            b"?" => self.tell_why_halted(),
            [b'H', b'g' | b'c', id @ ..] => self.focus_on(id, body),
            [b'T', id @ ..] => self.ask_about(id, body),
            b"qC" => self.tell_current(),
            b"qfThreadInfo" => self.list_threads(),
            b"k" => {
                self.end_client();
                Ok(())
            }
            b"D" => {
                self.reply(b"OK");
                self.detach_all();
                Ok(())
            }
            [b'D', b';', pid @ ..] => self.detach(pid),
            [b'c' | b's' | b'C' | b'S', ..] => self.resume_focused(body),
            _ => self.answer_long(body),
        };
        if let Err(refused) = result {
            self.refuse(&refused);
        }
    }

    /// Those whose names are words.
    fn answer_long(&mut self, body: &[u8]) -> Result<(), Refused> {
        let after = |name: &[u8]| body.strip_prefix(name);
        if body.starts_with(b"qSupported") {
            self.greet(body)
        } else if let Some(actions) = after(b"vCont;") {
            self.resume(actions)
        } else if let Some(pid) = after(b"vAttach;") {
            self.attach(pid, body)
        } else if let Some(pid) = after(b"vKill;") {
            self.detach(pid)
        } else if let Some(id) = after(b"qThreadExtraInfo,") {
            self.ask_about(id, body)
        } else if let Some(window) = after(b"qXfer:threads:read::") {
            self.tell_thread_names(window)
        } else if let Some(rest) = after(b"qXfer:exec-file:read:") {
            self.ask_about_file(rest)
        } else if let Some(rest) = after(b"vFile:") {
            self.file(rest)
        } else if self.attached().is_empty() {
            self.answer_without_inferior(body)
        } else {
            self.ask(self.focus, body)
        }
    }

    /// What a client asks before it attaches: what there is, whatever is debugged.
    fn answer_without_inferior(&mut self, body: &[u8]) -> Result<(), Refused> {
        if body.starts_with(b"qRcmd,") {
            // GDB shows what is printed, and takes an error with words for bad digits.
            self.outbox
                .console(format!("{NOTHING_ATTACHED}\n").as_bytes());
            return self.say(b"OK");
        }
        match request::parse(body) {
            Request::Fixed(reply) => self.say(reply),
            _ if body == b"vCont?" => self.say(b"vCont;c;C;s;S;r"),
            // GDB asks when it connects, and shows an error as one of its own: no run, no tracepoints, variables or markers.
            _ if body == b"qTStatus" => self.say(b"T0;tnotrun:0"),
            _ if [&b"qTfP"[..], b"qTfV", b"qTfSTM"].contains(&body) => self.say(b"l"),
            _ => Err(Refused::new(NOTHING_ATTACHED)),
        }
    }

    fn reply(&mut self, body: &[u8]) {
        self.outbox.packet(body);
    }

    fn say(&mut self, body: &[u8]) -> Result<(), Refused> {
        self.reply(body);
        Ok(())
    }

    fn refuse(&mut self, refused: &Refused) {
        self.reply(&error_text(&refused.0));
    }

    /// Passes a packet on to one inferior.
    fn ask(&mut self, index: usize, body: &[u8]) -> Result<(), Refused> {
        for reply in self.exchange(index, body)? {
            self.reply(&reply);
        }
        Ok(())
    }

    fn exchange(&mut self, index: usize, body: &[u8]) -> Result<Bodies, Refused> {
        if !self
            .inferiors
            .get(index)
            .is_some_and(|inferior| inferior.attached)
        {
            return Err(Refused::new(NOTHING_ATTACHED));
        }
        self.check_reachable(index)?;
        Ok(self.inferiors[index].session.exchange(body))
    }

    /// While the server itself stands in the middle of its work, what it holds of a VM cannot be touched.
    fn check_reachable(&self, index: usize) -> Result<(), Refused> {
        match self.world {
            World::Stands(Commands::Refused(why)) if !self.is_hypervisor(index) => {
                Err(Refused::new(why))
            }
            _ => Ok(()),
        }
    }

    fn is_reachable(&self, index: usize) -> bool {
        self.check_reachable(index).is_ok()
    }

    fn is_hypervisor(&self, index: usize) -> bool {
        self.hypervisor() == Some(index)
    }

    fn hypervisor(&self) -> Option<usize> {
        self.inferiors
            .iter()
            .position(|inferior| inferior.pid == HYP_PID)
    }

    /// `qSupported`.
    fn greet(&mut self, body: &[u8]) -> Result<(), Refused> {
        let features = body.split(|byte| matches!(byte, b':' | b';'));
        if !features.into_iter().any(|word| word == b"multiprocess+") {
            return Err(Refused::new(
                "this endpoint shows several inferiors and needs a client with multiprocess+, as GDB: others debug \
                 vm1 at its own endpoint",
            ));
        }
        self.introduction = body.to_vec();
        let features = greeting(Role::Debugger);
        self.say(format!("{features};multiprocess+").as_bytes())
    }

    // ---- Attaching ----

    fn attached(&self) -> Vec<usize> {
        let attached = |index: &usize| self.inferiors[*index].attached;
        (0..self.inferiors.len()).filter(attached).collect()
    }

    /// The inferior of a process id, attached or not.
    fn of_pid(&self, digits: &[u8]) -> Result<usize, Refused> {
        let pid = hex_number(digits).ok_or_else(|| Refused::new("this is no process id"))?;
        let found = self
            .inferiors
            .iter()
            .position(|inferior| inferior.pid == pid);
        found.ok_or_else(|| {
            let vms = self.inferiors.len() - usize::from(self.hypervisor().is_some());
            Refused(format!(
                "there is no process {pid}: VMs are 1 to {vms}, hyp is {HYP_PID}"
            ))
        })
    }

    fn try_attach(&mut self, index: usize) -> Result<(), Refused> {
        self.check_reachable(index)?;
        let inferior = &mut self.inferiors[index];
        if inferior.attached {
            return Err(Refused::new("this inferior is attached already"));
        }
        let begun = inferior.session.begin();
        begun.map_err(|taken| Refused(taken.to_string()))?;
        if !inferior.session.has_threads() {
            inferior.session.closed();
            return Err(Refused::new("this VM is off"));
        }
        inferior.attached = true;
        Ok(())
    }

    /// `vAttach`.
    fn attach(&mut self, pid: &[u8], body: &[u8]) -> Result<(), Refused> {
        let index = self.of_pid(pid)?;
        if self.is_hypervisor(index) && self.world == World::Runs {
            self.deferred = Some(body.to_vec());
            return Ok(());
        }
        self.try_attach(index)?;
        let introduction = self.introduction.clone();
        self.inferiors[index].session.exchange(&introduction);
        self.focus = index;
        self.files = index;
        self.tell_why_halted()
    }

    /// `D;pid`: the inferior goes on without a debugger.
    fn detach(&mut self, pid: &[u8]) -> Result<(), Refused> {
        let index = self.of_pid(pid)?;
        self.exchange(index, b"D")?;
        self.left(index);
        self.say(b"OK")
    }

    fn detach_all(&mut self) {
        for inferior in &mut self.inferiors {
            inferior.session.closed();
            inferior.attached = false;
        }
    }

    /// An inferior is not the client's any more.
    fn left(&mut self, index: usize) {
        self.inferiors[index].attached = false;
        if self.focus == index {
            self.focus = self.attached().first().copied().unwrap_or(0);
        }
    }

    fn end_client(&mut self) {
        self.line = Line::new();
        self.outbox = Outbox::new();
        self.detach_all();
        self.introduction.clear();
        self.stop = None;
        self.deferred = None;
    }

    /// The inferior that a thread id names, among those attached.
    fn of_thread(&self, id: &[u8]) -> Result<usize, Refused> {
        let pid = ids::of_thread(id).ok_or_else(|| Refused::new("this is no thread id"))?;
        match pid {
            Pid::All | Pid::Any => Ok(self.focus),
            Pid::One(pid) => {
                let mut attached = self.attached().into_iter();
                let found = attached.find(|index| self.inferiors[*index].pid == pid);
                found.ok_or_else(|| Refused::new("this process is not attached"))
            }
        }
    }
}

impl Endpoint for MachineSession {
    fn opened(&mut self) {
        self.end_client();
    }

    fn replaced(&mut self) {
        self.end_client();
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
        if let Some(body) = self.deferred.take_if(|_| self.world != World::Runs) {
            self.answer(&body);
        }
        for index in 0..self.inferiors.len() {
            if self.inferiors[index].attached && self.stop.is_none() && self.is_reachable(index) {
                let bodies = self.inferiors[index].session.exchange_nothing();
                self.take_stop_or_output(index, bodies);
            }
        }
        self.settle();
    }

    fn flush(&mut self, channel: &mut dyn ByteChannel) {
        self.outbox.flush(channel);
    }

    fn wants_poll(&self) -> bool {
        let runs = |inferior: &Inferior| inferior.attached && inferior.session.is_running();
        self.inferiors.iter().any(runs) || self.outbox.waiting() > 0
    }
}
