//! Going on: `vCont`, `c`, `s`, `C`, `S`.

use super::threads::{Threads, threads};
use super::{MALFORMED, Request, split_at};
use crate::packet::hex_number;

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

/// `C` and `S`. A guest has no signals, so the number is read and ignored, as other servers for machines do.
pub(super) fn signalled(signal: &[u8], motion: Motion) -> Request {
    hex_number(signal).map_or(MALFORMED, |_| Request::ResumeFocused(motion))
}

/// One action of a `vCont`. `t` stops threads in non-stop mode only, which is not announced.
pub(super) fn action(bytes: &[u8]) -> Option<Action> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::request::{UNKNOWN, parse};
    use core::num::NonZeroUsize;

    fn one(tid: usize) -> Threads {
        Threads::One(NonZeroUsize::new(tid).unwrap())
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
}
