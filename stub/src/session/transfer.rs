//! Documents that are read in windows: `qXfer`.

use super::Session;
use crate::packet::window;

impl Session {
    /// One window of a document.
    pub(super) fn transfer(&mut self, document: &[u8], (offset, length): (u64, u64)) {
        self.reply(&window(document, (offset, length)));
    }
}
