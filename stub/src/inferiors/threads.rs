//! Which threads there are and which packets mean.

use super::{MachineSession, Refused, ids};
use crate::packet::{hex_number, window};
use crate::session::Session;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

impl MachineSession {
    /// `Hg`, `Hc`: what packets mean from here on.
    pub(super) fn focus_on(&mut self, id: &[u8], body: &[u8]) -> Result<(), Refused> {
        self.focus = self.of_thread(id)?;
        self.ask(self.focus, body)
    }

    /// A packet about one thread.
    pub(super) fn ask_about(&mut self, id: &[u8], body: &[u8]) -> Result<(), Refused> {
        let index = self.of_thread(id)?;
        self.ask(index, body)
    }

    /// `?`.
    pub(super) fn tell_why_halted(&mut self) -> Result<(), Refused> {
        if self.attached().is_empty() {
            // Nothing to show; GDB stays connected, for `attach`.
            return self.say(b"W00");
        }
        let pid = self.inferiors[self.focus].pid;
        for body in self.exchange(self.focus, b"?")? {
            self.reply(&ids::stop_reply(pid, &body));
        }
        Ok(())
    }

    /// `qC`.
    pub(super) fn tell_current(&mut self) -> Result<(), Refused> {
        let pid = self.inferiors[self.focus].pid;
        for body in self.exchange(self.focus, b"qC")? {
            let tid = body.strip_prefix(b"QC").unwrap_or(b"0");
            let tid = String::from_utf8_lossy(tid);
            self.reply(format!("QCp{pid:x}.{tid}").as_bytes());
        }
        Ok(())
    }

    /// `qfThreadInfo`, of all inferiors.
    pub(super) fn list_threads(&mut self) -> Result<(), Refused> {
        let mut threads = Vec::new();
        for index in self.attached() {
            let pid = self.inferiors[index].pid;
            for body in self.exchange(index, b"qfThreadInfo")? {
                threads.extend(ids::threads(pid, &body));
            }
        }
        match threads.is_empty() {
            true => self.say(b"l"),
            false => self.say(&[b"m", &threads.join(&b',')[..]].concat()),
        }
    }

    /// `qXfer:threads:read`, of all inferiors.
    pub(super) fn tell_thread_names(&mut self, asked: &[u8]) -> Result<(), Refused> {
        let numbers: Option<Vec<u64>> = asked.split(|byte| *byte == b',').map(hex_number).collect();
        let Some(&[offset, length]) = numbers.as_deref() else {
            return Err(Refused::new("a window is an offset and a length"));
        };
        let attached = self.attached();
        let inferiors = attached.iter().map(|index| &self.inferiors[*index]);
        let threads: String = inferiors
            .map(|inferior| inferior.session.thread_elements(Some(inferior.pid)))
            .collect();
        let document = Session::thread_document(&threads);
        self.say(&window(document.as_bytes(), (offset, length)))
    }
}
