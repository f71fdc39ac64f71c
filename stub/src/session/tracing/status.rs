//! How a run stands: `qTStatus`, `qTP`, `qTV`.

use super::Session;
use crate::packet::hex_encode;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use probes::gdb_trace::{Leaving, PointId, RunStatus, Running, Shape, StopReason, TIMESTAMP, VCPU};

impl Session {
    /// `qTStatus`. Times are in microseconds since the hypervisor started: it knows no date.
    pub(super) fn tell_run_status(&mut self) {
        let status = self.space.experiment().status();
        self.reply(describe(&status).as_bytes());
    }

    /// `qTP`.
    pub(super) fn tell_point_status(&mut self, id: PointId) {
        let status = self.space.experiment().point_status(id);
        match status {
            Ok(status) => self.reply(format!("V{:x}:{:x}", status.hits, status.usage).as_bytes()),
            Err(refused) => self.confirm(Err(refused)),
        }
    }

    /// `qTV`: of the selected frame where one is selected.
    pub(super) fn tell_variable(&mut self, number: u32) {
        let value = match &self.tracer.frame {
            Some(frame) => frame.variable(number),
            None => match number {
                TIMESTAMP => Some((self.machine().now_ns() / 1000) as i64),
                VCPU => Some(self.target.focus().0.into()),
                number => self.space.variables().get(number),
            },
        };
        match value {
            Some(value) => self.reply(format!("V{:x}", value as u64).as_bytes()),
            None => self.reply(b"U"),
        }
    }
}

fn describe(status: &RunStatus) -> String {
    let (running, reason) = match &status.running {
        Running::Yes => (1, String::from("tunknown:0")),
        Running::Never => (0, String::from("tnotrun:0")),
        Running::Stopped(reason) => (0, stop_reason(reason)),
    };
    let (frames, created) = status.frames;
    let (size, free) = status.size;
    let circular = u8::from(status.shape == Shape::Circular);
    let goes_on = u8::from(status.leaving == Leaving::GoesOn);
    let mut text = format!(
        "T{running};{reason};tframes:{frames:x};tcreated:{created:x};tfree:{free:x};tsize:{size:x};\
         circular:{circular};disconn:{goes_on}"
    );
    for (name, ns) in [
        ("starttime", status.started_ns),
        ("stoptime", status.stopped_ns),
    ] {
        text.push_str(&format!(";{name}:{:x}", ns / 1000));
    }
    let notes = &status.notes;
    for (name, note) in [("username", &notes.user), ("notes", &notes.notes)] {
        if !note.is_empty() {
            text.push_str(&format!(";{name}:{}", hex(note)));
        }
    }
    // Not in the protocol, whose clients skip what they do not know.
    if status.lost != 0 {
        text.push_str(&format!(";tlost:{:x}", status.lost));
    }
    text
}

fn stop_reason(reason: &StopReason) -> String {
    match reason {
        // With words in any case: GDB 13 dies on `tsave` where it was told of none.
        StopReason::Command(words) => format!("tstop:{}:0", hex(words)),
        StopReason::Full => String::from("tfull:0"),
        StopReason::Disconnected => String::from("tdisconnected:0"),
        StopReason::PassCount(number) => format!("tpasscount:{number:x}"),
        StopReason::Error { number, text } => format!("terror:{}:{number:x}", hex(text)),
    }
}

/// Text in hexadecimal.
pub(super) fn hex(text: &str) -> String {
    let mut digits = Vec::new();
    hex_encode(text.as_bytes(), &mut digits);
    digits.into_iter().map(char::from).collect()
}
