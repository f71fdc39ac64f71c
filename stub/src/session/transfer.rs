//! Documents that are read in windows: `qXfer`.

use super::Session;
use alloc::vec::Vec;

impl Session {
    /// One window of a document. None of ours holds a character that needs an escape.
    pub(super) fn transfer(&mut self, document: &[u8], (offset, length): (u64, u64)) {
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
}
