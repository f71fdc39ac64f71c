//! What a client asks of the protocol itself: the `Q` packets (GDB manual, E.5 "General Query Packets"; LLDB,
//! `lldbgdbremote.md`).

use super::{MALFORMED, Request, lldb, split_name, tracing};
use crate::packet::hex_number;

/// One wish of a client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Setting {
    /// `QThreadEvents`: whether vCPUs that come and go are stops.
    ThreadEvents(Wanted),
    /// `QEnableErrorStrings` (LLDB): errors have text behind their number.
    ErrorStrings,
    /// `QListThreadsInStopReply` (LLDB): stop replies list the threads and where they stand.
    ThreadsInStops,
}

/// `1` or `0` behind the name of a setting.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Wanted {
    /// `1`.
    Yes,
    /// `0`.
    No,
}

const OK: Request = Request::Fixed(b"OK");

/// Why there is no non-stop mode. GDB does not ask for it unless it is offered.
const ALL_STOP: &str = "a stop of one vCPU stops its VM, and with it the guest's time: there is no non-stop mode. \
    `set non-stop off`; `set scheduler-locking on` moves one vCPU alone";

/// Why system calls cannot be caught by number.
const NO_SYSCALLS: &str = "a VM makes no system calls: break at the guest kernel's function, as in \
    `break do_sys_openat2`, or attach a program there with `monitor trace kprobe`";

/// The packets that begin with `Q`.
pub(super) fn setting(body: &[u8]) -> Request {
    let (name, rest) = split_name(body);
    match name {
        b"QStartNoAckMode" => Request::NoAcks,
        b"QThreadEvents" => wanted(rest, |wanted| Request::Set(Setting::ThreadEvents(wanted))),
        b"QNonStop" => wanted(rest, |wanted| match wanted {
            Wanted::Yes => Request::Explained(ALL_STOP),
            Wanted::No => OK,
        }),
        b"QCatchSyscalls" => wanted(
            rest.split(|byte| *byte == b';').next().unwrap_or(rest),
            |wanted| match wanted {
                Wanted::Yes => Request::Explained(NO_SYSCALLS),
                Wanted::No => OK,
            },
        ),
        // A guest has no signals, so whatever is to become of them is done.
        b"QPassSignals" | b"QProgramSignals" => signals(rest),
        b"QEnableErrorStrings" => Request::Set(Setting::ErrorStrings),
        b"QListThreadsInStopReply" => Request::Set(Setting::ThreadsInStops),
        b"QSaveRegisterState" => lldb::save_registers(rest).unwrap_or(MALFORMED),
        b"QRestoreRegisterState" => lldb::restore_registers(rest).unwrap_or(MALFORMED),
        // Register packets are understood with a `;thread:` behind them at any time.
        b"QThreadSuffixSupported" => OK,
        _ => tracing::set(body),
    }
}

fn wanted(digit: &[u8], request: impl FnOnce(Wanted) -> Request) -> Request {
    match digit {
        b"0" => request(Wanted::No),
        b"1" => request(Wanted::Yes),
        _ => MALFORMED,
    }
}

/// A list of signal numbers with `;` in between, which may be empty. GDB 13 writes one behind the last as well.
fn signals(list: &[u8]) -> Request {
    let list = list.strip_suffix(b";").unwrap_or(list);
    let mut numbers = list.split(|byte| *byte == b';');
    if list.is_empty() || numbers.all(|number| hex_number(number).is_some()) {
        OK
    } else {
        MALFORMED
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::request::{UNKNOWN, parse};

    #[test]
    fn wishes() {
        let events = |wanted| Request::Set(Setting::ThreadEvents(wanted));
        assert_eq!(parse(b"QThreadEvents:1"), events(Wanted::Yes));
        assert_eq!(parse(b"QThreadEvents:0"), events(Wanted::No));
        assert_eq!(parse(b"QThreadEvents:"), MALFORMED);
        assert_eq!(parse(b"QThreadEvents"), MALFORMED);
        assert_eq!(parse(b"QPassSignals:e;10;14"), OK);
        assert_eq!(parse(b"QProgramSignals:"), OK);
        assert_eq!(parse(b"QPassSignals:4c;97;"), OK);
        assert_eq!(parse(b"QPassSignals:e;;x"), MALFORMED);
        assert_eq!(parse(b"QAgent:1"), UNKNOWN);
    }

    #[test]
    fn what_cannot_be_had_is_refused_in_words() {
        assert_eq!(parse(b"QNonStop:1"), Request::Explained(ALL_STOP));
        assert_eq!(parse(b"QNonStop:0"), OK);
        assert_eq!(
            parse(b"QCatchSyscalls:1;3f;40"),
            Request::Explained(NO_SYSCALLS)
        );
        assert_eq!(parse(b"QCatchSyscalls:0"), OK);
        assert_eq!(parse(b"QNonStop:2"), MALFORMED);
    }
}
