//! The frames as a trace file has them (`qTBuffer`): what `tsave` writes on the host.

use super::Session;
use crate::packet::hex_encode;
use crate::packet::request::MAX_READ;
use crate::target::file_bytes;
use alloc::vec::Vec;

/// Where a client has come to: it reads from the beginning to the end, and a file is made frame by frame.
#[derive(Default)]
pub(in crate::session) struct Reader {
    /// Where in the file `bytes` begin.
    start: u64,
    /// One frame.
    bytes: Vec<u8>,
    /// Where the frame after it is in the buffer; `None` at the beginning.
    next: Option<u64>,
}

impl Session {
    /// `qTBuffer`.
    pub(super) fn read_trace_file(&mut self, offset: u64, length: u64) {
        if offset < self.tracer.file.start {
            self.tracer.file = Reader::default();
        }
        let wanted = length.min(MAX_READ) as usize;
        let mut bytes = Vec::new();
        while bytes.len() < wanted {
            let at = offset + bytes.len() as u64;
            let reader = &self.tracer.file;
            let within = usize::try_from(at - reader.start).unwrap_or(usize::MAX);
            let rest = reader.bytes.get(within..).unwrap_or_default();
            let count = rest.len().min(wanted - bytes.len());
            bytes.extend_from_slice(&rest[..count]);
            if count == 0 && !self.next_frame_of_file() {
                break;
            }
        }
        if bytes.is_empty() {
            return self.reply(b"l");
        }
        let mut digits = Vec::new();
        hex_encode(&bytes, &mut digits);
        self.reply(&digits);
    }

    /// Goes to the next frame. Returns whether there is one.
    fn next_frame_of_file(&mut self) -> bool {
        let reader = &self.tracer.file;
        let Some((frame, next)) = self.space.experiment().frame_at(reader.next) else {
            return false;
        };
        self.tracer.file = Reader {
            start: reader.start + reader.bytes.len() as u64,
            bytes: file_bytes(self.space, &frame),
            next: Some(next),
        };
        true
    }
}
