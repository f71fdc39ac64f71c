//! Sorts the packets of a client: which gdbstub may see, and which the session answers itself.
//!
//! What gdbstub sees is written anew from what was understood, so that no spelling reaches it that it dies on, hangs
//! on, or half understands. Whatever is not known here gets the empty reply, as the protocol asks.

mod breakpoints;
mod errors;
mod files;
mod lldb;
mod memory;
mod registers;
mod resume;
mod scan;
mod settings;
mod threads;
pub(crate) mod tracing;
mod transfer;

pub(crate) use breakpoints::Wishes;
pub(crate) use errors::{Errno, Errors};
pub(crate) use files::FileWindow;
pub(crate) use memory::{Encoding, MAX_READ};
pub(crate) use resume::{Action, Motion};
pub(crate) use settings::{Setting, Wanted};
pub(crate) use threads::Threads;
pub(crate) use tracing::Tracing;

use super::hex_decode;
use alloc::string::String;
use alloc::vec::Vec;
use threads::with_threads;

/// A packet, understood.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Request {
    /// For gdbstub, in its safe spelling.
    Stub(Vec<u8>),
    /// The reply is always the same.
    Fixed(&'static [u8]),
    /// Cannot be honoured.
    Refused(Errno),
    /// Cannot be honoured, for a reason that the client is told.
    Explained(&'static str),
    /// For gdbstub, about the registers of a thread that is not the current one (LLDB).
    OnThread(Threads, Vec<u8>),
    /// A wish about the protocol.
    Set(Setting),
    /// `qSupported`: a client introduces itself, and says how it wants errors.
    Supported(Errors),
    /// `Z` with conditions or commands: the packet without them, for gdbstub, and what they are.
    Breakpoint {
        /// The packet.
        packet: Vec<u8>,
        /// What is behind it.
        wishes: Wishes,
    },
    /// `QStartNoAckMode`.
    NoAcks,
    /// `?`: why the target stands.
    Halted,
    /// `qC`: the current thread.
    CurrentThread,
    /// `Hg`: the thread that register and memory packets mean.
    Focus(Threads),
    /// `Hc`: the thread that a bare `c` or `s` means.
    ResumeFocus(Threads),
    /// `T`: whether a thread is there.
    Alive(Threads),
    /// `qfThreadInfo`.
    Threads,
    /// `qThreadExtraInfo`.
    ThreadName(Threads),
    /// `qThreadStopInfo` (LLDB): why one thread stands.
    ThreadStop(Threads),
    /// `qXfer:threads:read`: a window, offset and length.
    ThreadXml((u64, u64)),
    /// `qXfer:osdata:read`: which table of `info os`, and a window.
    OsData(String, (u64, u64)),
    /// `vFile:pread`.
    ReadFile(FileWindow),
    /// `qXfer:exec-file:read`: a window of the name of the file that runs.
    ExecFile((u64, u64)),
    /// Bare `c` or `s`: the motion of the thread that `Hc` chose.
    ResumeFocused(Motion),
    /// `vCont`.
    Resume(Vec<Action>),
    /// `D` and `vKill`: reply OK, then the client is gone.
    Detach,
    /// `k`: the same with the reply that LLDB expects.
    Kill,
    /// `m` and `x`: reads memory, as far as it is there.
    ReadMemory {
        address: u64,
        length: u64,
        encoding: Encoding,
    },
    /// `qSearch:memory`: where these bytes are in `first..=last`.
    Search {
        first: u64,
        last: u64,
        pattern: Vec<u8>,
    },
    /// `qCRC`: the checksum of `first..=last`.
    Checksum { first: u64, last: u64 },
    /// `x0,0`: whether there is the `x` of LLDB, whose replies begin with the data.
    ProbeBinary,
    /// `qMemoryRegionInfo` (LLDB): about an address.
    MemoryRegion(u64),
    /// `qHostInfo` (LLDB).
    HostInfo,
    /// `jThreadsInfo` (LLDB): why all threads stand.
    ThreadsJson,
    /// `QSaveRegisterState` (LLDB): keeps a thread's registers.
    SaveRegisters(Threads),
    /// `QRestoreRegisterState` (LLDB): puts back what was kept under a number.
    RestoreRegisters(u32),
    /// `QT…` and `qT…`: GDB tracepoints.
    Tracing(Tracing),
}

const UNKNOWN: Request = Request::Fixed(b"");
const MALFORMED: Request = Request::Refused(Errno::Inval);

/// Understands the body of a packet.
pub(crate) fn parse(body: &[u8]) -> Request {
    match body {
        b"?" => Request::Halted,
        b"k" => Request::Kill,
        b"D" | [b'D', b';', ..] => Request::Detach,
        [b'g' | b'G' | b'p' | b'P', ..] => registers::on_any_thread(body),
        [b'H', b'g', id @ ..] => with_threads(id, Request::Focus),
        [b'H', b'c', id @ ..] => with_threads(id, Request::ResumeFocus),
        [b'T', id @ ..] => with_threads(id, Request::Alive),
        [b'm', range @ ..] => memory::read_memory(Encoding::Hex, range).unwrap_or(MALFORMED),
        [b'x', range @ ..] => memory::read_memory(Encoding::Binary, range).unwrap_or(MALFORMED),
        [b'M', rest @ ..] => memory::write_memory(rest).unwrap_or(MALFORMED),
        [b'X', rest @ ..] => memory::write_memory_binary(rest).unwrap_or(MALFORMED),
        [b'Z' | b'z', ..] => breakpoints::breakpoint(body).unwrap_or(MALFORMED),
        b"c" => Request::ResumeFocused(Motion::Continue),
        b"s" => Request::ResumeFocused(Motion::Step),
        [b'C', signal @ ..] => resume::signalled(signal, Motion::Continue),
        [b'S', signal @ ..] => resume::signalled(signal, Motion::Step),
        // Resuming at another address: no client of today sends it, and a `P` of the PC says the same.
        [b'c' | b's', ..] => MALFORMED,
        [b'q', ..] => query(body),
        [b'Q', ..] => settings::setting(body),
        [b'v', ..] => verb(body),
        [b'_', ..] => lldb::allocation(body),
        b"jThreadsInfo" => Request::ThreadsJson,
        _ => UNKNOWN,
    }
}

/// The packets that begin with `q`.
fn query(body: &[u8]) -> Request {
    let (name, rest) = split_name(body);
    match name {
        b"qSupported" => Request::Supported(errors::introduction(body)),
        b"qC" => Request::CurrentThread,
        b"qAttached" => Request::Fixed(b"1"),
        b"qfThreadInfo" => Request::Threads,
        b"qsThreadInfo" => Request::Fixed(b"l"),
        b"qThreadExtraInfo" => with_threads(rest, Request::ThreadName),
        b"qRcmd" => hex_or_malformed(body, rest),
        b"qSearch" => scan::search(rest).unwrap_or(MALFORMED),
        b"qCRC" => scan::checksum(rest).unwrap_or(MALFORMED),
        b"qXfer" => transfer::transfer(rest).unwrap_or(UNKNOWN),
        _ => tracing::query(name, rest)
            .or_else(|| lldb::query(name, rest))
            .unwrap_or(UNKNOWN),
    }
}

/// The packets that begin with `v`.
fn verb(body: &[u8]) -> Request {
    if body == b"vCont?" {
        return Request::Stub(body.to_vec());
    }
    if let Some(actions) = body.strip_prefix(b"vCont;") {
        return actions
            .split(|byte| *byte == b';')
            .map(resume::action)
            .collect::<Option<Vec<_>>>()
            .map_or(MALFORMED, Request::Resume);
    }
    let (name, rest) = split_name(body);
    match name {
        b"vKill" => Request::Detach,
        b"vFile" => files::file(rest).unwrap_or(UNKNOWN),
        _ => UNKNOWN,
    }
}

/// The name of a packet and what follows the character that ends it.
fn split_name(body: &[u8]) -> (&[u8], &[u8]) {
    let end = body
        .iter()
        .position(|byte| matches!(byte, b':' | b',' | b';'));
    end.map_or((body, &[]), |end| (&body[..end], &body[end + 1..]))
}

fn hex_or_malformed(body: &[u8], digits: &[u8]) -> Request {
    if hex_decode(digits).is_some() {
        Request::Stub(body.to_vec())
    } else {
        MALFORMED
    }
}

/// Splits at the first `separator`.
fn split_at(bytes: &[u8], separator: u8) -> Option<(&[u8], &[u8])> {
    let at = bytes.iter().position(|byte| *byte == separator)?;
    Some((&bytes[..at], &bytes[at + 1..]))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(super) fn stub(text: &str) -> Request {
        Request::Stub(text.as_bytes().to_vec())
    }

    #[test]
    fn what_is_not_known_gets_the_empty_reply() {
        let unknown: &[&[u8]] = &[
            b"",
            b"!",
            b"vMustReplyEmpty",
            b"vFile:readlink:2f",
            b"jThreadExtendedInfo:{\"thread\":1}]",
            b"QLaunchArch:arm64",
            b"\x80\xff",
        ];
        for body in unknown {
            assert_eq!(parse(body), UNKNOWN, "{body:?}");
        }
    }

    /// `docs/protocol.md` says who answers what.
    #[test]
    fn every_packet_of_the_page() {
        let page = include_str!("../../../../docs/protocol.md");
        let rows = page.lines().filter_map(|line| {
            let (example, rest) = line.strip_prefix("| `")?.split_once("` | ")?;
            Some((example, rest.split_once(" |")?.0))
        });
        let mut count = 0;
        for (example, who) in rows {
            let found = match parse(example.as_bytes()) {
                UNKNOWN => "unknown",
                Request::Fixed(_) => "fixed",
                Request::Refused(_) | Request::Explained(_) => "refused",
                Request::Stub(_) | Request::OnThread(..) => "gdbstub",
                _ => "server",
            };
            assert_eq!(found, who, "{example}");
            count += 1;
        }
        assert!(count > 60, "{count} examples were found");
    }

    #[test]
    fn killing_is_detaching() {
        assert_eq!(parse(b"k"), Request::Kill);
        assert_eq!(parse(b"vKill;1"), Request::Detach);
        assert_eq!(parse(b"D"), Request::Detach);
        assert_eq!(parse(b"D;1"), Request::Detach);
    }
}
