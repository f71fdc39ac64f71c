//! The receiving end of an endpoint: whose bytes come in, and what they turn out to be.

use super::request::{self, Request};
use super::{Framer, Incoming};

/// Whose bytes come in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Speaker {
    /// The client's.
    Client,
    /// The client's or its predecessor's, until somebody introduces itself.
    Uncertain,
}

/// Finds the packets of a client, and none of its predecessor's.
pub(crate) struct Line {
    framer: Framer,
    speaker: Speaker,
}

impl Line {
    /// A line on which nothing has come.
    pub(crate) fn new() -> Self {
        Self {
            framer: Framer::new(),
            speaker: Speaker::Client,
        }
    }

    /// Another client may speak while bytes of the last one are still on the way: what comes before an introduction is
    /// not heard.
    pub(crate) fn wait_for_introduction(&mut self) {
        self.speaker = Speaker::Uncertain;
    }

    /// Takes the next byte.
    pub(crate) fn push(&mut self, byte: u8) -> Option<Incoming> {
        let incoming = self.framer.push(byte)?;
        if self.speaker == Speaker::Uncertain {
            if !is_introduction(&incoming) {
                return None;
            }
            self.speaker = Speaker::Client;
        }
        Some(incoming)
    }
}

/// Whether this is what clients say first: `qSupported` of GDB, `QStartNoAckMode` of LLDB.
fn is_introduction(incoming: &Incoming) -> bool {
    let Incoming::Packet(body) = incoming else {
        return false;
    };
    matches!(
        request::parse(body),
        Request::Supported(_) | Request::NoAcks
    )
}
