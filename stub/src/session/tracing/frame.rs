//! Looking at a trace frame: `QTFrame`, and what is asked while one is selected.

use super::Session;
use crate::packet::request::Errno;
use crate::target::TraceFrame;
use alloc::format;
use probes::addr::Gva;
use probes::gdb_trace::Search;

/// Why a frame stays as it is.
const UNCHANGEABLE: &str = "a trace frame shows what was collected and cannot be changed: `tfind none` leads back to the \
    present";

impl Session {
    /// `QTFrame`. Where nothing is found, the frame that was selected stays so.
    pub(super) fn select_frame(&mut self, search: Option<&Search>) {
        let Some(search) = search else {
            self.tracer.frame = None;
            return self.reply(b"OK");
        };
        let after = self.tracer.frame.as_ref().map(TraceFrame::number);
        let found = self.space.experiment().find(search, after);
        match found {
            Some(selected) => {
                let (number, point) = (selected.number, selected.frame.head.number);
                self.tracer.frame = Some(TraceFrame::new(self.space, selected));
                self.reply(format!("F{number:x}T{point:x}").as_bytes());
            }
            None => self.reply(b"F-1"),
        }
    }

    /// Goes back to the present: the target moves.
    pub(in crate::session) fn leave_frame(&mut self) {
        self.tracer.frame = None;
    }

    /// Answers a packet that gdbstub would get from the selected frame, if there is one and the packet is about registers,
    /// or changes memory. Returns whether it has.
    pub(in crate::session) fn answer_from_frame(&mut self, body: &[u8]) -> bool {
        let Some(frame) = &self.tracer.frame else {
            return false;
        };
        match body {
            b"g" => self.reply(&frame.all_registers()),
            [b'p', number @ ..] => match frame.register(number) {
                Some(digits) => self.reply(&digits),
                None => self.refuse(Errno::Inval),
            },
            [b'P' | b'G' | b'M' | b'X', ..] => self.explain_refusal(Errno::Inval, UNCHANGEABLE),
            _ => return false,
        }
        true
    }

    /// What is to be shown of some memory: what the selected frame has of it, if one is selected.
    pub(in crate::session) fn frame_memory(&self, address: u64, length: u64) -> FrameMemory<'_> {
        let Some(frame) = &self.tracer.frame else {
            return FrameMemory::Present;
        };
        if let Some(bytes) = frame.memory(Gva(address)) {
            let count = usize::try_from(length).unwrap_or(usize::MAX);
            return FrameMemory::Collected(&bytes[..bytes.len().min(count)]);
        }
        let last = Gva(address.saturating_add(length.saturating_sub(1)));
        if self.space.experiment().is_readonly(Gva(address), last) {
            return FrameMemory::Present;
        }
        FrameMemory::Unavailable
    }

    /// `qXfer:traceframe-info:read`.
    pub(super) fn tell_frame_info(&mut self, window: (u64, u64)) {
        match self.tracer.frame.as_ref().map(TraceFrame::info) {
            Some(document) => self.transfer(document.as_bytes(), window),
            None => self.refuse(Errno::Inval),
        }
    }
}

/// What is to be shown of some memory.
pub(in crate::session) enum FrameMemory<'a> {
    /// These bytes, of a frame.
    Collected(&'a [u8]),
    /// What is there now: no frame is selected, or it does not change.
    Present,
    /// Nothing.
    Unavailable,
}
