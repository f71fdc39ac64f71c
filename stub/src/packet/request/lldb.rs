//! What LLDB asks and GDB does not (`lldbgdbremote.md` of LLDB's documentation).

use super::threads::{Threads, threads, with_threads};
use super::{MALFORMED, Request, UNKNOWN, split_at};
use crate::packet::hex_number;

/// `qProcessInfo`: the one process there is. The triple is `aarch64-unknown-none` in hexadecimal.
const PROCESS_INFO: &[u8] =
    b"pid:1;triple:616172636836342d756e6b6e6f776e2d6e6f6e65;endian:little;ptrsize:8;";

/// `qWatchpointSupportInfo`: the number that every CPU has (Arm ARM D2.10.1). LLDB looks only whether there are any, and
/// without an answer does not step over the access that a watchpoint has stopped.
const WATCHPOINT_INFO: &[u8] = b"num:2;";

/// Why LLDB gets no memory for code and data of its own.
const NOT_OURS: &str = "the memory is the guest's and there is none to give away. Expressions that need no memory of \
    their own work: registers, variables, memory, arithmetic";

/// The packets of LLDB that begin with `q` and have a separator behind their name, or nothing.
pub(super) fn query(name: &[u8], rest: &[u8]) -> Option<Request> {
    Some(match name {
        b"qHostInfo" => Request::HostInfo,
        b"qProcessInfo" => Request::Fixed(PROCESS_INFO),
        b"qWatchpointSupportInfo" => Request::Fixed(WATCHPOINT_INFO),
        b"qMemoryRegionInfo" => hex_number(rest).map_or(UNKNOWN, Request::MemoryRegion),
        // No separator stands between its name and the thread.
        _ => match name.strip_prefix(b"qThreadStopInfo") {
            Some(id) => with_threads(id, Request::ThreadStop),
            None => return None,
        },
    })
}

/// `_Msize,permissions` and `_maddress`: memory for code that LLDB compiles. The empty reply would not do: LLDB would
/// then make the guest call a function named `mmap`.
pub(super) fn allocation(body: &[u8]) -> Request {
    match body {
        [b'_', b'M', rest @ ..] if split_at(rest, b',').is_some() => Request::Explained(NOT_OURS),
        [b'_', b'm', address @ ..] if hex_number(address).is_some() => Request::Explained(NOT_OURS),
        _ => MALFORMED,
    }
}

/// `QSaveRegisterState[;thread:ID;]`.
pub(super) fn save_registers(rest: &[u8]) -> Option<Request> {
    let threads = match rest {
        [] => Threads::Any,
        suffix => named_thread(suffix)?,
    };
    Some(Request::SaveRegisters(threads))
}

/// `QRestoreRegisterState:number[;thread:ID;]`. What is kept knows its thread.
pub(super) fn restore_registers(rest: &[u8]) -> Option<Request> {
    let number = match split_at(rest, b';') {
        Some((number, suffix)) => {
            named_thread(suffix)?;
            number
        }
        None => rest,
    };
    let number = core::str::from_utf8(number).ok()?.parse().ok()?;
    Some(Request::RestoreRegisters(number))
}

/// Takes `;thread:ID;` off the end of a register packet (`QThreadSuffixSupported`).
pub(super) fn split_thread(body: &[u8]) -> Option<(&[u8], Threads)> {
    const MARK: &[u8] = b";thread:";
    let at = body.windows(MARK.len()).position(|part| part == MARK)?;
    let threads = named_thread(&body[at + 1..])?;
    Some((&body[..at], threads))
}

/// `thread:ID` with or without a `;` at its end.
fn named_thread(suffix: &[u8]) -> Option<Threads> {
    let id = suffix.strip_prefix(b"thread:")?;
    threads(id.strip_suffix(b";").unwrap_or(id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::request::parse;
    use core::num::NonZeroUsize;

    fn two() -> Threads {
        Threads::One(NonZeroUsize::new(2).unwrap())
    }

    #[test]
    fn register_packets_name_their_thread() {
        let on_two = |body: &[u8]| Request::OnThread(two(), body.to_vec());
        assert_eq!(parse(b"p20;thread:0002;"), on_two(b"p20"));
        assert_eq!(parse(b"g;thread:2"), on_two(b"g"));
        assert_eq!(
            parse(b"P0=0011223344556677;thread:2;"),
            on_two(b"P0=0011223344556677")
        );
        assert_eq!(parse(b"p20;thread:;"), MALFORMED);
        assert_eq!(parse(b"pffff;thread:2;"), MALFORMED);
        assert_eq!(parse(b"p20;thraed:2;"), MALFORMED);
    }

    #[test]
    fn registers_are_saved_by_number() {
        assert_eq!(
            parse(b"QSaveRegisterState"),
            Request::SaveRegisters(Threads::Any)
        );
        assert_eq!(
            parse(b"QSaveRegisterState;thread:2;"),
            Request::SaveRegisters(two())
        );
        assert_eq!(
            parse(b"QRestoreRegisterState:7"),
            Request::RestoreRegisters(7)
        );
        assert_eq!(
            parse(b"QRestoreRegisterState:7;thread:2;"),
            Request::RestoreRegisters(7)
        );
        assert_eq!(parse(b"QRestoreRegisterState:"), MALFORMED);
        assert_eq!(parse(b"QSaveRegisterState;th"), MALFORMED);
    }

    #[test]
    fn no_memory_is_given_away() {
        assert_eq!(parse(b"_M1000,rw"), Request::Explained(NOT_OURS));
        assert_eq!(parse(b"_m40000000"), Request::Explained(NOT_OURS));
        assert_eq!(parse(b"_x"), MALFORMED);
    }
}
