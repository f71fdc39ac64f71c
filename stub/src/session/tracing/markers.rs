//! Static tracepoint markers: `qTfSTM`, `qTsSTM`, `qTSTMat`, and what they have said: `qXfer:statictrace:read`.

use super::Session;
use super::status::hex;
use crate::markers::{self, Marker};
use crate::packet::escape;
use crate::packet::request::Errno;
use crate::target::TraceFrame;
use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use probes::addr::Gva;
use probes::gdb_trace::{BadTrace, Definition, PointKind};

/// Why there is no data.
const NO_DATA: &str =
    "the trace frame has no data of a marker: collect `$_sdata` at one (`strace -m`)";

impl Session {
    /// All markers, one to a packet.
    pub(super) fn marker_pieces(&self) -> VecDeque<Vec<u8>> {
        let all = markers::all(self.server.periscope());
        let piece = |marker: &Marker| format!("m{}", describe(marker)).into_bytes();
        all.iter().map(piece).collect()
    }

    /// `qTSTMat`.
    pub(super) fn tell_marker_at(&mut self, address: Gva) {
        match self.marker_at(address) {
            Some(marker) => self.reply(format!("m{}", describe(&marker)).as_bytes()),
            None => self.explain_refusal(Errno::Inval, "no static tracepoint marker is there"),
        }
    }

    fn marker_at(&self, address: Gva) -> Option<Marker> {
        let mut all = markers::all(self.server.periscope()).into_iter();
        all.find(|marker| marker.address == address)
    }

    /// Refuses a tracepoint at a marker that is not there.
    pub(super) fn check_marker(&self, definition: &Definition) -> Result<(), BadTrace> {
        let id = definition.id;
        if definition.kind == PointKind::Marker && self.marker_at(id.address).is_none() {
            return Err(BadTrace::NoMarker(id));
        }
        Ok(())
    }

    /// `qXfer:statictrace:read`.
    pub(super) fn tell_static_data(&mut self, (offset, length): (u64, u64)) {
        let frame = self.tracer.frame.as_ref();
        let Some(data) = frame.and_then(TraceFrame::static_data) else {
            return self.explain_refusal(Errno::Inval, NO_DATA);
        };
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        let rest = data.get(offset..).unwrap_or_default();
        let count = usize::try_from(length)
            .unwrap_or(usize::MAX)
            .min(rest.len());
        let mut body = Vec::from([if count < rest.len() { b'm' } else { b'l' }]);
        escape(&rest[..count], &mut body);
        self.reply(&body);
    }
}

/// `address:id:extra`, the texts in hexadecimal.
fn describe(marker: &Marker) -> String {
    let Marker { address, id, extra } = marker;
    format!("{:x}:{}:{}", address.0, hex(id), hex(extra))
}
