//! What a client has asked of the protocol. Forgotten when the client goes.

use super::Session;
use crate::packet::hex_encode;
use crate::packet::request::{Errno, Errors, Setting, Wanted};
use crate::target::arch::VcpuRegisters;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::vec::Vec;
use probes::machine::VcpuId;

/// How the data of an `x` reply begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum BinaryReads {
    /// With a `b`: GDB since 16 and LLDB since 21, which read `binary-upload+` in our introduction.
    #[default]
    Marked,
    /// With the data: older LLDBs, which ask `x0,0` first.
    Bare,
}

/// The wishes of a client.
#[derive(Default)]
pub(super) struct Settings {
    pub(super) errors: Errors,
    pub(super) binary_reads: BinaryReads,
    pub(super) threads_in_stops: bool,
    /// The vCPUs that the client knows of, where it wants to hear of those that come and go.
    pub(super) known_threads: Option<BTreeSet<VcpuId>>,
    /// Registers that are kept for the client, by number.
    pub(super) saved: BTreeMap<u32, (VcpuId, VcpuRegisters)>,
}

impl Session {
    /// Does as the client wishes.
    pub(super) fn set(&mut self, setting: Setting) {
        match setting {
            Setting::ThreadEvents(Wanted::Yes) => {
                self.settings.known_threads = Some(self.target.active().collect());
            }
            Setting::ThreadEvents(Wanted::No) => self.settings.known_threads = None,
            Setting::ErrorStrings => self.settings.errors = Errors::NumbersAndText,
            Setting::ThreadsInStops => self.settings.threads_in_stops = true,
        }
        self.reply(b"OK");
    }

    /// An error reply. Errors of memory stay a number: clients have better words for these, with the address.
    pub(super) fn refuse(&mut self, errno: Errno) {
        match self.settings.errors {
            Errors::Text if errno != Errno::Fault => self.explain_refusal(errno, errno.words()),
            Errors::NumbersAndText => self.explain_refusal(errno, errno.words()),
            Errors::Text | Errors::Numbers => {
                self.reply(format!("E{:02x}", errno as u8).as_bytes());
            }
        }
    }

    /// An error reply in words, which all GDBs show in answer to most packets; or as LLDB asks for it.
    pub(super) fn explain_refusal(&mut self, errno: Errno, text: &str) {
        let body = match self.settings.errors {
            Errors::Numbers | Errors::Text => error_text(text),
            Errors::NumbersAndText => {
                let mut body = format!("E{:02x};", errno as u8).into_bytes();
                hex_encode(text.as_bytes(), &mut body);
                body
            }
        };
        self.reply(&body);
    }
}

/// An error reply in words: `E.` and text (GDB manual, E.1 "Standard Replies").
pub(crate) fn error_text(text: &str) -> Vec<u8> {
    let mut body = Vec::from(*b"E.");
    body.extend(text.bytes().map(harmless));
    body
}

/// Characters that would need an escape do not occur in what a client reads as text, so they are replaced.
fn harmless(byte: u8) -> u8 {
    match byte {
        b'#' | b'$' | b'}' | b'*' | b'\n' => b' ',
        _ => byte,
    }
}
