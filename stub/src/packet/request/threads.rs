//! Thread ids and the packets that name one.

use super::{MALFORMED, Request};
use crate::packet::hex_number;
use core::num::NonZeroUsize;

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

/// A thread id: `-1`, `0`, a number, each perhaps behind `p<pid>.`. There is one process, so the pid says nothing.
pub(super) fn threads(id: &[u8]) -> Option<Threads> {
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

pub(super) fn with_threads(id: &[u8], request: fn(Threads) -> Request) -> Request {
    threads(id).map_or(MALFORMED, request)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::request::parse;

    fn one(tid: usize) -> Threads {
        Threads::One(NonZeroUsize::new(tid).unwrap())
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
}
