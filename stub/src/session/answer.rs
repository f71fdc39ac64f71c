//! Answers to requests.

use super::{Session, State};
use crate::packet::PACKET_SIZE;
use crate::packet::request::{Errno, Request, Threads};
use crate::target::{Role, tid};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use probes::addr::{Gva, PAGE_SIZE};
use probes::machine::{PhysFault, VcpuId};
use probes::translate::{Permissions, translate};

impl Session {
    pub(super) fn answer(&mut self, request: Request) {
        if self.state == State::Running && !answered_while_running(&request) {
            return self.refuse(Errno::Busy);
        }
        if self.target.role() == Role::Tool && !answered_to_tools(&request) {
            return self.reply(&error_text(NOTHING_DEBUGGED));
        }
        match request {
            Request::Stub(body) => self.ask_stub(&body),
            Request::Fixed(body) => self.reply(body),
            Request::Refused(errno) => self.refuse(errno),
            Request::Supported => self.greet(),
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
            Request::MemoryRegion(address) => self.tell_region(Gva(address)),
        }
    }

    pub(super) fn reply(&mut self, body: &[u8]) {
        self.outbox.packet(body);
    }

    pub(super) fn refuse(&mut self, errno: Errno) {
        self.reply(format!("E{:02x}", errno as u8).as_bytes());
    }

    /// Hands a packet to gdbstub and passes its replies on. Where the target has words for an error, the client gets
    /// them (`E.` and text, GDB manual E.1 "Standard replies").
    fn ask_stub(&mut self, body: &[u8]) {
        let replies = self.stub.handle(&mut self.target, body);
        if let Some(refusal) = self.target.take_refusal() {
            return self.reply(&error_text(&refusal));
        }
        match replies {
            Ok(bodies) => bodies.iter().for_each(|body| self.outbox.packet(body)),
            Err(_) => self.refuse(Errno::Io),
        }
    }

    /// What this server can do. `multiprocess` is not in it: there is one VM behind an endpoint. Nor are conditions and
    /// commands of breakpoints: an announced feature has to be honoured.
    fn greet(&mut self) {
        self.greeted = true;
        let features = match self.target.role() {
            Role::Debugger => {
                "QStartNoAckMode+;vContSupported+;swbreak+;hwbreak+;\
                 qXfer:features:read+;qXfer:memory-map:read+;qXfer:threads:read+"
            }
            Role::Tool => "QStartNoAckMode+",
        };
        self.reply(format!("PacketSize={PACKET_SIZE:x};{features}").as_bytes());
    }

    /// The vCPU of a thread that a packet names. `0` and `-1` mean the current one, where packets need one.
    pub(super) fn one_of(&self, threads: Threads) -> Option<VcpuId> {
        match threads {
            Threads::One(tid) => self.target.vcpu(tid),
            Threads::All | Threads::Any => {
                let focus = self.target.vcpu(tid(self.target.focus()));
                focus.or_else(|| self.target.active().next())
            }
        }
    }

    fn focus_on(&mut self, threads: Threads) {
        match self.one_of(threads) {
            Some(vcpu) => {
                self.set_focus(vcpu);
                self.reply(b"OK");
            }
            None => self.refuse(Errno::Srch),
        }
    }

    fn set_resume_focus(&mut self, threads: Threads) {
        if let Threads::One(tid) = threads
            && self.target.vcpu(tid).is_none()
        {
            return self.refuse(Errno::Srch);
        }
        self.resume_focus = threads;
        self.reply(b"OK");
    }

    /// gdbstub would answer with a list of no thread, which is not in the protocol.
    fn list_threads(&mut self) {
        if self.target.active().next().is_none() {
            return self.reply(b"l");
        }
        self.ask_stub(b"qfThreadInfo");
    }

    fn name_thread(&mut self, threads: Threads) {
        let Some(vcpu) = self.one_of(threads) else {
            return self.refuse(Errno::Srch);
        };
        self.ask_stub(format!("qThreadExtraInfo,{:x}", tid(vcpu)).as_bytes());
    }

    /// All threads in one document (GDB manual, E.4 "qXfer threads read"): the only way by which GDB learns names.
    fn thread_xml(&self) -> String {
        let mut xml = String::from("<?xml version=\"1.0\"?>\n<threads>\n");
        for vcpu in self.target.active() {
            let (id, name) = (tid(vcpu), self.target.vcpu_name(vcpu));
            xml.push_str(&format!("<thread id=\"{id:02x}\" name=\"{name}\"/>\n"));
        }
        xml.push_str("</threads>\n");
        xml
    }

    /// One window of a document. None of ours holds a character that needs an escape.
    fn transfer(&mut self, document: &[u8], (offset, length): (u64, u64)) {
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        let rest = document.get(offset..).unwrap_or_default();
        let count = rest
            .len()
            .min(usize::try_from(length).unwrap_or(usize::MAX));
        let more = if count < rest.len() { b'm' } else { b'l' };
        let mut body = Vec::from([more]);
        body.extend_from_slice(&rest[..count]);
        self.reply(&body);
    }

    /// `qMemoryRegionInfo`: the page around an address. LLDB looks for holes in the address space with this, so a page
    /// without memory behind it counts as a hole, mapped or not.
    fn tell_region(&mut self, address: Gva) {
        let page = address.page();
        let permissions = self.page_permissions(page).unwrap_or_default();
        self.reply(format!("start:{:x};size:{PAGE_SIZE:x};{permissions}", page.0).as_bytes());
    }

    fn page_permissions(&self, page: Gva) -> Option<String> {
        let regs = self.target.translation(self.target.focus()).ok()?;
        let translation = translate(&regs, self.machine(), page).ok()?;
        let read = self.machine().read_phys(translation.gpa, &mut [0]);
        if let Err(PhysFault::Unmapped(_)) = read {
            return None;
        }
        let Permissions { el1, el0 } = translation.permissions;
        let letter = |allowed: bool, letter| if allowed { letter } else { "" };
        let read = letter(el1.read || el0.read, "r");
        let write = letter(el1.write || el0.write, "w");
        let execute = letter(el1.execute || el0.execute, "x");
        Some(format!("permissions:{read}{write}{execute};"))
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
        Request::Fixed(_)
        | Request::Refused(_)
        | Request::Supported
        | Request::NoAcks
        | Request::Halted
        | Request::Threads
        | Request::Detach
        | Request::Kill => true,
        _ => false,
    }
}

/// What a client may ask while it waits for a stop. Anything else would need the vCPUs to stand.
fn answered_while_running(request: &Request) -> bool {
    matches!(
        request,
        Request::Fixed(_) | Request::Refused(_) | Request::NoAcks | Request::Detach | Request::Kill
    )
}

/// An error reply with text. Characters that would need an escape do not occur in what a client reads as text, so they
/// are replaced.
fn error_text(text: &str) -> Vec<u8> {
    let mut body = Vec::from(*b"E.");
    let safe = |byte| {
        if matches!(byte, b'#' | b'$' | b'}' | b'*' | b'\n') {
            b' '
        } else {
            byte
        }
    };
    body.extend(text.bytes().map(safe));
    body
}
