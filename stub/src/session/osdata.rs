//! `qXfer:osdata:read`: the tables of `info os`.

use super::Session;
use crate::commands::osdata;
use crate::packet::request::Errno;
use alloc::string::String;

/// A table that a client reads in windows: the rows must not change between them.
pub(super) struct OsData {
    kind: String,
    document: String,
}

impl Session {
    /// A window of a table. The first one makes the table.
    pub(super) fn tell_osdata(&mut self, kind: &str, window: (u64, u64)) {
        let (offset, _) = window;
        let is_kept = self.osdata.as_ref().is_some_and(|kept| kept.kind == kind);
        if offset == 0 || !is_kept {
            if let Some(reason) = self.target.why_no_commands() {
                return self.explain_refusal(Errno::Busy, reason);
            }
            let document = osdata::document(self.server, &self.target.caller(), kind);
            let Some(document) = document else {
                return self.refuse(Errno::Inval);
            };
            self.osdata = Some(OsData {
                kind: kind.into(),
                document,
            });
        }
        let kept = self.osdata.take();
        if let Some(kept) = &kept {
            self.transfer(kept.document.as_bytes(), window);
        }
        self.osdata = kept;
    }
}
