//! Sorts the packets of a client: which gdbstub may see, and which the session answers itself.
//!
//! What gdbstub sees is written anew from what was understood, so that no spelling reaches it that it dies on, hangs
//! on, or half understands. Whatever is not known here gets the empty reply, as the protocol asks.

use super::{hex_decode, hex_number};
use crate::target::arch::RegisterSet;
use alloc::format;
use alloc::vec::Vec;
use core::num::NonZeroUsize;

/// The most bytes that one `m` reads: their digits fill a packet. The protocol lets a stub answer with fewer than asked.
pub(crate) const MAX_READ: u64 = super::PACKET_SIZE as u64 / 2 - 8;

/// Error numbers of the protocol's `E` replies. Their meaning is not standardised; these are Linux'.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Errno {
    /// No such thread.
    Srch = 3,
    /// The stub failed on the packet.
    Io = 5,
    /// An address is not mapped.
    Fault = 14,
    /// The vCPUs run.
    Busy = 16,
    /// The packet is malformed, or asks for what cannot be honoured.
    Inval = 22,
    /// More than the layer takes.
    TooBig = 7,
}

/// Which threads a packet names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Threads {
    /// `-1`.
    All,
    /// `0`, or no thread named.
    Any,
    /// One.
    One(NonZeroUsize),
}

/// What a resumed thread does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Motion {
    /// Runs.
    Continue,
    /// One instruction.
    Step,
    /// Steps while the PC is in `start..end`.
    StepRange {
        /// First address of the range.
        start: u64,
        /// First address after it.
        end: u64,
    },
}

/// One action of a `vCont`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Action {
    /// What.
    pub(crate) motion: Motion,
    /// Who.
    pub(crate) threads: Threads,
}

/// A packet, understood.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Request {
    /// For gdbstub, in its safe spelling.
    Stub(Vec<u8>),
    /// The reply is always the same.
    Fixed(&'static [u8]),
    /// Cannot be honoured.
    Refused(Errno),
    /// `qSupported`: a client introduces itself.
    Supported,
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
    /// Bare `c` or `s`: the motion of the thread that `Hc` chose.
    ResumeFocused(Motion),
    /// `vCont`.
    Resume(Vec<Action>),
    /// `D` and `vKill`: reply OK, then the client is gone.
    Detach,
    /// `k`: the same with the reply that LLDB expects.
    Kill,
    /// `qMemoryRegionInfo` (LLDB): about an address.
    MemoryRegion(u64),
}

/// `qHostInfo` (LLDB): the triple is `aarch64-unknown-none` in hexadecimal. A watchpoint stops before the access, which
/// LLDB has to be told or it shows no new value.
const HOST_INFO: &[u8] = b"triple:616172636836342d756e6b6e6f776e2d6e6f6e65;endian:little;\
    ptrsize:8;watchpoint_exceptions_received:before;";

/// `qProcessInfo` (LLDB): as [`HOST_INFO`], with the one process there is.
const PROCESS_INFO: &[u8] =
    b"pid:1;triple:616172636836342d756e6b6e6f776e2d6e6f6e65;endian:little;ptrsize:8;";

/// `qWatchpointSupportInfo` (LLDB): the number that every CPU has (Arm ARM D2.10.1). LLDB looks only whether there are
/// any, and without an answer does not step over the access that a watchpoint has stopped.
const WATCHPOINT_INFO: &[u8] = b"num:2;";

const UNKNOWN: Request = Request::Fixed(b"");
const MALFORMED: Request = Request::Refused(Errno::Inval);

/// Understands the body of a packet.
pub(crate) fn parse(body: &[u8]) -> Request {
    match body {
        b"?" => Request::Halted,
        b"k" => Request::Kill,
        b"D" | [b'D', b';', ..] => Request::Detach,
        b"g" => Request::Stub(body.to_vec()),
        [b'G', values @ ..] => hex_or_malformed(body, values),
        [b'H', b'g', id @ ..] => with_threads(id, Request::Focus),
        [b'H', b'c', id @ ..] => with_threads(id, Request::ResumeFocus),
        [b'T', id @ ..] => with_threads(id, Request::Alive),
        [b'm', range @ ..] => read_memory(range).unwrap_or(MALFORMED),
        [b'M', rest @ ..] => write_memory(rest).unwrap_or(MALFORMED),
        [b'X', rest @ ..] => write_memory_binary(rest).unwrap_or(MALFORMED),
        [b'p', number @ ..] => read_register(number).unwrap_or(MALFORMED),
        [b'P', rest @ ..] => write_register(rest).unwrap_or(MALFORMED),
        [b'Z' | b'z', ..] => breakpoint(body).unwrap_or(MALFORMED),
        b"c" => Request::ResumeFocused(Motion::Continue),
        b"s" => Request::ResumeFocused(Motion::Step),
        [b'C', signal @ ..] => signalled(signal, Motion::Continue),
        [b'S', signal @ ..] => signalled(signal, Motion::Step),
        // Resuming at another address: no client of today sends it, and a `P` of the PC says the same.
        [b'c' | b's', ..] => MALFORMED,
        [b'q', ..] => query(body),
        [b'Q', ..] if body == b"QStartNoAckMode" => Request::NoAcks,
        [b'v', ..] => verb(body),
        _ => UNKNOWN,
    }
}

/// The packets that begin with `q`.
fn query(body: &[u8]) -> Request {
    let (name, rest) = split_name(body);
    match name {
        b"qSupported" => Request::Supported,
        b"qC" => Request::CurrentThread,
        b"qAttached" => Request::Fixed(b"1"),
        b"qfThreadInfo" => Request::Threads,
        b"qsThreadInfo" => Request::Fixed(b"l"),
        b"qThreadExtraInfo" => with_threads(rest, Request::ThreadName),
        b"qRcmd" => hex_or_malformed(body, rest),
        b"qXfer" => transfer(rest).unwrap_or(UNKNOWN),
        b"qHostInfo" => Request::Fixed(HOST_INFO),
        b"qWatchpointSupportInfo" => Request::Fixed(WATCHPOINT_INFO),
        b"qProcessInfo" => Request::Fixed(PROCESS_INFO),
        b"qMemoryRegionInfo" => hex_number(rest).map_or(UNKNOWN, Request::MemoryRegion),
        // No separator stands between its name and the thread.
        _ => match body.strip_prefix(b"qThreadStopInfo") {
            Some(id) => with_threads(id, Request::ThreadStop),
            None => UNKNOWN,
        },
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
            .map(action)
            .collect::<Option<Vec<_>>>()
            .map_or(MALFORMED, Request::Resume);
    }
    let (name, rest) = split_name(body);
    match name {
        b"vKill" => Request::Detach,
        b"vFile" => file(rest).unwrap_or(UNKNOWN),
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

/// A thread id: `-1`, `0`, a number, each perhaps behind `p<pid>.`. There is one process, so the pid says nothing.
fn threads(id: &[u8]) -> Option<Threads> {
    let id = match id.strip_prefix(b"p") {
        None => id,
        Some(id) => match id.iter().position(|byte| *byte == b'.') {
            Some(dot) => &id[dot + 1..],
            None => b"-1",
        },
    };
    if id == b"-1" {
        return Some(Threads::All);
    }
    let number = usize::try_from(hex_number(id)?).ok()?;
    Some(NonZeroUsize::new(number).map_or(Threads::Any, Threads::One))
}

fn with_threads(id: &[u8], request: fn(Threads) -> Request) -> Request {
    threads(id).map_or(MALFORMED, request)
}

/// Splits at the first `separator`.
fn split_at(bytes: &[u8], separator: u8) -> Option<(&[u8], &[u8])> {
    let at = bytes.iter().position(|byte| *byte == separator)?;
    Some((&bytes[..at], &bytes[at + 1..]))
}

/// `address,length`, where the range does not wrap.
fn range(bytes: &[u8]) -> Option<(u64, u64)> {
    let (address, length) = split_at(bytes, b',')?;
    let (address, length) = (hex_number(address)?, hex_number(length)?);
    address.checked_add(length.saturating_sub(1))?;
    Some((address, length))
}

/// `m`: gdbstub adds to the address without a check, so the end of the range is clamped to the address space.
fn read_memory(bytes: &[u8]) -> Option<Request> {
    let (address, length) = split_at(bytes, b',')?;
    let (address, length) = (hex_number(address)?, hex_number(length)?);
    if length == 0 {
        return Some(UNKNOWN);
    }
    let to_the_end = (u64::MAX - address).saturating_add(1);
    let length = length.min(MAX_READ).min(to_the_end);
    Some(Request::Stub(
        format!("m{address:x},{length:x}").into_bytes(),
    ))
}

fn write_memory(bytes: &[u8]) -> Option<Request> {
    let (place, digits) = split_at(bytes, b':')?;
    let (address, length) = range(place)?;
    let data = hex_decode(digits)?;
    if data.len() as u64 != length {
        return None;
    }
    let mut packet = format!("M{address:x},{length:x}:").into_bytes();
    packet.extend_from_slice(digits);
    Some(Request::Stub(packet))
}

fn write_memory_binary(bytes: &[u8]) -> Option<Request> {
    let (place, data) = split_at(bytes, b':')?;
    let (address, length) = range(place)?;
    if unescaped_length(data)? != length {
        return None;
    }
    let mut packet = format!("X{address:x},{length:x}:").into_bytes();
    packet.extend_from_slice(data);
    Some(Request::Stub(packet))
}

/// How many bytes escaped binary data stands for; `None` where an escape has no byte after it.
fn unescaped_length(data: &[u8]) -> Option<u64> {
    let mut bytes = data.iter();
    let mut length = 0;
    while let Some(byte) = bytes.next() {
        if *byte == b'}' {
            bytes.next()?;
        }
        length += 1;
    }
    Some(length)
}

fn read_register(number: &[u8]) -> Option<Request> {
    let number = register_number(number)?;
    Some(Request::Stub(format!("p{number:x}").into_bytes()))
}

/// A register that there is: gdbstub would say of another one that it does not know the packet.
fn register_number(digits: &[u8]) -> Option<u64> {
    hex_number(digits).filter(|number| *number < RegisterSet::Hypervisor.count() as u64)
}

fn write_register(bytes: &[u8]) -> Option<Request> {
    let (number, value) = split_at(bytes, b'=')?;
    let number = register_number(number)?;
    hex_decode(value)?;
    let mut packet = format!("P{number:x}=").into_bytes();
    packet.extend_from_slice(value);
    Some(Request::Stub(packet))
}

/// `Z` and `z`. Conditions and commands behind a `;` are refused: gdbstub would drop them and say OK.
fn breakpoint(body: &[u8]) -> Option<Request> {
    let (verb, rest) = body.split_first()?;
    let (kind, rest) = split_at(rest, b',')?;
    let kind = hex_number(kind)?;
    if kind > 4 {
        return Some(UNKNOWN);
    }
    let (address, size) = range(rest)?;
    let verb = char::from(*verb);
    Some(Request::Stub(
        format!("{verb}{kind:x},{address:x},{size:x}").into_bytes(),
    ))
}

/// `C` and `S`. A guest has no signals, so the number is read and ignored, as other servers for machines do.
fn signalled(signal: &[u8], motion: Motion) -> Request {
    hex_number(signal).map_or(MALFORMED, |_| Request::ResumeFocused(motion))
}

/// One action of a `vCont`. `t` stops threads in non-stop mode only, which is not announced.
fn action(bytes: &[u8]) -> Option<Action> {
    let (motion, threads) = match split_at(bytes, b':') {
        Some((motion, id)) => (motion, threads(id)?),
        None => (bytes, Threads::All),
    };
    let motion = match motion {
        b"c" => Motion::Continue,
        b"s" => Motion::Step,
        [b'C', signal @ ..] => hex_number(signal).map(|_| Motion::Continue)?,
        [b'S', signal @ ..] => hex_number(signal).map(|_| Motion::Step)?,
        [b'r', range @ ..] => {
            let (start, end) = split_at(range, b',')?;
            Motion::StepRange {
                start: hex_number(start)?,
                end: hex_number(end)?,
            }
        }
        _ => return None,
    };
    Some(Action {
        motion,
        threads: if threads == Threads::Any {
            Threads::All
        } else {
            threads
        },
    })
}

/// `qXfer:object:read:annex:offset,length`, of the objects that are announced.
fn transfer(bytes: &[u8]) -> Option<Request> {
    let (object, rest) = split_at(bytes, b':')?;
    let rest = rest.strip_prefix(b"read:")?;
    let (annex, window) = split_at(rest, b':')?;
    let window = split_at(window, b',');
    let window = window.and_then(|(from, size)| Some((hex_number(from)?, hex_number(size)?)));
    let Some((from, size)) = window else {
        return Some(MALFORMED);
    };
    let size = size.min(MAX_READ);
    let stub = |name| Request::Stub(format!("{name}:{from:x},{size:x}").into_bytes());
    Some(match (object, annex) {
        (b"features", b"target.xml") => stub("qXfer:features:read:target.xml"),
        (b"memory-map", b"") => stub("qXfer:memory-map:read:"),
        (b"threads", b"") => Request::ThreadXml((from, size)),
        (b"features" | b"memory-map" | b"threads", _) => MALFORMED,
        _ => return None,
    })
}

/// `vFile:operation:…`, of the operations that gdbstub passes on.
fn file(bytes: &[u8]) -> Option<Request> {
    let (operation, rest) = split_at(bytes, b':')?;
    let known: &[&[u8]] = &[
        b"open", b"close", b"pread", b"pwrite", b"fstat", b"unlink", b"setfs",
    ];
    if !known.contains(&operation) {
        return None;
    }
    Some(Request::Stub([b"vFile:", operation, b":", rest].concat()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(tid: usize) -> Threads {
        Threads::One(NonZeroUsize::new(tid).unwrap())
    }

    fn stub(text: &str) -> Request {
        Request::Stub(text.as_bytes().to_vec())
    }

    #[test]
    fn thread_ids_in_all_spellings() {
        assert_eq!(parse(b"Hg-1"), Request::Focus(Threads::All));
        assert_eq!(parse(b"Hgp1.-1"), Request::Focus(Threads::All));
        assert_eq!(parse(b"Hg0"), Request::Focus(Threads::Any));
        assert_eq!(parse(b"Hgp1.2"), Request::Focus(one(2)));
        assert_eq!(parse(b"Hc1f"), Request::ResumeFocus(one(0x1f)));
        assert_eq!(parse(b"Hg"), MALFORMED);
        assert_eq!(parse(b"Hgx"), MALFORMED);
        assert_eq!(parse(b"Tp1.1"), Request::Alive(one(1)));
    }

    #[test]
    fn reads_are_clamped() {
        assert_eq!(parse(b"m1000,4"), stub("m1000,4"));
        assert_eq!(parse(b"m0,ffffffffffffffff"), stub("m0,7f8"));
        assert_eq!(parse(b"mfffffffffffffffc,100"), stub("mfffffffffffffffc,4"));
        assert_eq!(parse(b"m0,0"), UNKNOWN);
        assert_eq!(parse(b"m10000000000000000,4"), MALFORMED);
        assert_eq!(parse(b"m,4"), MALFORMED);
        assert_eq!(parse(b"m4"), MALFORMED);
    }

    #[test]
    fn writes_say_what_they_hold() {
        assert_eq!(parse(b"M10,2:0102"), stub("M10,2:0102"));
        assert_eq!(parse(b"M10,3:0102"), MALFORMED);
        assert_eq!(parse(b"Mffffffffffffffff,2:0102"), MALFORMED);
        assert_eq!(
            parse(b"X10,2:}\x03a"),
            Request::Stub(b"X10,2:}\x03a".to_vec())
        );
        assert_eq!(parse(b"X10,0:"), stub("X10,0:"));
        assert_eq!(parse(b"X10,2:a}"), MALFORMED);
    }

    #[test]
    fn a_breakpoint_with_a_condition_or_commands_is_refused() {
        assert_eq!(parse(b"Z0,1000,4"), stub("Z0,1000,4"));
        assert_eq!(parse(b"z2,1000,8"), stub("z2,1000,8"));
        assert_eq!(parse(b"Z0,1000,4;X3,220027"), MALFORMED);
        assert_eq!(parse(b"Z0,1000,4;cmds:1,X3,220027"), MALFORMED);
        assert_eq!(parse(b"Z0,1000,4;"), MALFORMED);
        assert_eq!(parse(b"Z9,1000,4"), UNKNOWN);
    }

    #[test]
    fn resuming() {
        let everyone = |motion| Action {
            motion,
            threads: Threads::All,
        };
        assert_eq!(parse(b"c"), Request::ResumeFocused(Motion::Continue));
        assert_eq!(parse(b"S05"), Request::ResumeFocused(Motion::Step));
        assert_eq!(parse(b"c1000"), MALFORMED);
        assert_eq!(
            parse(b"vCont;c"),
            Request::Resume([everyone(Motion::Continue)].to_vec())
        );
        assert_eq!(
            parse(b"vCont;r10,20:p1.1;c:0"),
            Request::Resume(
                [
                    Action {
                        motion: Motion::StepRange {
                            start: 0x10,
                            end: 0x20
                        },
                        threads: one(1)
                    },
                    everyone(Motion::Continue),
                ]
                .to_vec()
            )
        );
        assert_eq!(parse(b"vCont;t"), MALFORMED);
        assert_eq!(parse(b"vCont;"), MALFORMED);
        assert_eq!(parse(b"vCont"), UNKNOWN);
    }

    #[test]
    fn transfers() {
        assert_eq!(
            parse(b"qXfer:features:read:target.xml:0,ffb"),
            stub("qXfer:features:read:target.xml:0,7f8")
        );
        assert_eq!(
            parse(b"qXfer:memory-map:read::0,10"),
            stub("qXfer:memory-map:read::0,10")
        );
        assert_eq!(parse(b"qXfer:features:read:other.xml:0,ffb"), MALFORMED);
        assert_eq!(parse(b"qXfer:features:read:target.xml:0"), MALFORMED);
        assert_eq!(parse(b"qXfer:auxv:read::0,ffb"), UNKNOWN);
    }

    #[test]
    fn what_is_not_known_gets_the_empty_reply() {
        let unknown: &[&[u8]] = &[
            b"",
            b"!",
            b"vMustReplyEmpty",
            b"qCRC:0,100",
            b"QTDP:1:1000:E:0:0:X3,220027",
            b"QTDP:1:1000:E:0:0:F4",
            b"QTDP:-1:1000:M-1,0,8",
            b"vFile:readlink:2f",
            b"jThreadsInfo",
            b"QThreadSuffixSupported",
            b"x0,0",
            b"\x80\xff",
        ];
        for body in unknown {
            assert_eq!(parse(body), UNKNOWN, "{body:?}");
        }
    }

    #[test]
    fn killing_is_detaching() {
        assert_eq!(parse(b"k"), Request::Kill);
        assert_eq!(parse(b"vKill;1"), Request::Detach);
        assert_eq!(parse(b"D"), Request::Detach);
        assert_eq!(parse(b"D;1"), Request::Detach);
    }
}
