//! Threads: which there are, what they are called, and which of them packets mean.

use super::Session;
use crate::packet::request::{Errno, Threads};
use crate::target::tid;
use alloc::format;
use alloc::string::String;
use probes::machine::VcpuId;

impl Session {
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

    pub(super) fn focus_on(&mut self, threads: Threads) {
        match self.one_of(threads) {
            Some(vcpu) => {
                self.set_focus(vcpu);
                self.reply(b"OK");
            }
            None => self.refuse(Errno::Srch),
        }
    }

    pub(super) fn set_resume_focus(&mut self, threads: Threads) {
        if let Threads::One(tid) = threads
            && self.target.vcpu(tid).is_none()
        {
            return self.refuse(Errno::Srch);
        }
        self.resume_focus = threads;
        self.reply(b"OK");
    }

    /// gdbstub would answer with a list of no thread, which is not in the protocol.
    pub(super) fn list_threads(&mut self) {
        if self.target.active().next().is_none() {
            return self.reply(b"l");
        }
        self.ask_stub(b"qfThreadInfo");
    }

    pub(super) fn name_thread(&mut self, threads: Threads) {
        let Some(vcpu) = self.one_of(threads) else {
            return self.refuse(Errno::Srch);
        };
        self.ask_stub(format!("qThreadExtraInfo,{:x}", tid(vcpu)).as_bytes());
    }

    /// All threads in one document (GDB manual, E.4 "qXfer threads read"): the only way by which GDB learns names.
    pub(super) fn thread_xml(&self) -> String {
        Self::thread_document(&self.thread_elements(None))
    }

    /// The document of these elements.
    pub(crate) fn thread_document(elements: &str) -> String {
        format!("<?xml version=\"1.0\"?>\n<threads>\n{elements}</threads>\n")
    }

    /// An element for each thread; their ids name the process, where there are several.
    pub(crate) fn thread_elements(&self, pid: Option<u64>) -> String {
        let process = pid.map_or_else(String::new, |pid| format!("p{pid:x}."));
        let element = |vcpu| {
            let (id, name) = (tid(vcpu), self.target.vcpu_name(vcpu));
            let core = self.machine().physical_cpu(vcpu);
            let core = core.map_or_else(String::new, |core| format!(" core=\"{core}\""));
            format!("<thread id=\"{process}{id:02x}\"{core} name=\"{name}\"/>\n")
        };
        self.target.active().map(element).collect()
    }
}
