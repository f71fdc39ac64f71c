//! Files of inferiors: each has its own, and descriptors say whose they are.

use super::ids::{self, Pid};
use super::{MachineSession, Refused};
use crate::packet::hex_number;
use alloc::format;
use alloc::vec::Vec;

/// More descriptors than a session has: a descriptor of an inferior's is its own plus a multiple of this.
const DESCRIPTORS: u64 = 16;

impl MachineSession {
    /// `vFile:…`.
    pub(super) fn file(&mut self, rest: &[u8]) -> Result<(), Refused> {
        let end = rest.iter().position(|byte| *byte == b':');
        let (operation, arguments) = rest.split_at(end.unwrap_or(rest.len()));
        let arguments = arguments.strip_prefix(b":").unwrap_or(arguments);
        match operation {
            b"setfs" => self.choose_files(arguments),
            b"close" | b"pread" | b"pwrite" | b"fstat" => self.use_descriptor(operation, arguments),
            b"open" => self.open(arguments),
            _ => self.ask(self.files, &[b"vFile:", rest].concat()),
        }
    }

    /// `qXfer:exec-file:read:pid:window`: of the process in the annex, or of the current one.
    pub(super) fn ask_about_file(&mut self, rest: &[u8]) -> Result<(), Refused> {
        let end = rest.iter().position(|byte| *byte == b':');
        let (pid, window) = rest.split_at(end.unwrap_or(0));
        let index = match pid {
            b"" => self.focus,
            pid => self.of_pid(pid)?,
        };
        self.ask(index, &[b"qXfer:exec-file:read:", window].concat())
    }

    /// `vFile:setfs:pid`. A session knows one file system, its own.
    fn choose_files(&mut self, pid: &[u8]) -> Result<(), Refused> {
        let pid = ids::of_process(pid).ok_or_else(|| Refused::new("this is no process id"))?;
        self.files = match pid {
            Pid::One(pid) => self.of_thread(format!("p{pid:x}").as_bytes())?,
            Pid::All | Pid::Any => self.focus,
        };
        self.ask(self.files, b"vFile:setfs:0")
    }

    fn open(&mut self, arguments: &[u8]) -> Result<(), Refused> {
        let first = self.files as u64 * DESCRIPTORS;
        for reply in self.exchange(self.files, &[b"vFile:open:", arguments].concat())? {
            match reply.strip_prefix(b"F").and_then(hex_number) {
                Some(own) => self.reply(format!("F{:x}", first + own).as_bytes()),
                None => self.reply(&reply),
            }
        }
        Ok(())
    }

    fn use_descriptor(&mut self, operation: &[u8], arguments: &[u8]) -> Result<(), Refused> {
        let end = arguments.iter().position(|byte| *byte == b',');
        let (descriptor, others) = arguments.split_at(end.unwrap_or(arguments.len()));
        let descriptor =
            hex_number(descriptor).ok_or_else(|| Refused::new("this is no file descriptor"))?;
        let index = usize::try_from(descriptor / DESCRIPTORS).unwrap_or(usize::MAX);
        let own = format!("{:x}", descriptor % DESCRIPTORS).into_bytes();
        let body: Vec<u8> = [b"vFile:", operation, b":", &own, others].concat();
        self.ask(index, &body)
    }
}
