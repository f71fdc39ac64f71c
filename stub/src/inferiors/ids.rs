//! Process ids in packets (GDB manual, E.1 "thread-id syntax"): `p<pid>.<tid>`, where the client knows several processes.
//!
//! What an inferior is asked keeps its ids: a session overlooks the pid. What it answers gets one.

use crate::packet::hex_number;
use alloc::format;
use alloc::vec::Vec;

/// Which processes a packet names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Pid {
    /// `-1`, or no process named.
    All,
    /// `0`: whichever.
    Any,
    /// One.
    One(u64),
}

/// The process of a thread id: `p1.2`, `p1`, `p1.-1`; a bare one names no process.
pub(super) fn of_thread(id: &[u8]) -> Option<Pid> {
    let Some(id) = id.strip_prefix(b"p") else {
        return Some(Pid::All);
    };
    let digits = id.split(|byte| *byte == b'.').next()?;
    of_process(digits)
}

/// A process id alone.
pub(super) fn of_process(digits: &[u8]) -> Option<Pid> {
    if digits == b"-1" {
        return Some(Pid::All);
    }
    Some(match hex_number(digits)? {
        0 => Pid::Any,
        pid => Pid::One(pid),
    })
}

/// A stop reply of the inferior `pid` as one of several: `T05thread:01;…`, `W00`, `X09`.
pub(super) fn stop_reply(pid: u64, body: &[u8]) -> Vec<u8> {
    match body.split_at_checked(3) {
        Some((head, fields)) if head[0] == b'T' => {
            let named: Vec<Vec<u8>> = fields
                .split(|byte| *byte == b';')
                .map(|field| match field.strip_prefix(b"thread:") {
                    Some(tid) => [format!("thread:p{pid:x}.").as_bytes(), tid].concat(),
                    None => field.to_vec(),
                })
                .collect();
            [head, &named.join(&b';')].concat()
        }
        Some((head, _)) if matches!(head[0], b'W' | b'X') => {
            [head, format!(";process:{pid:x}").as_bytes()].concat()
        }
        Some((head, thread)) if head[0] == b'w' => {
            let tid = thread.strip_prefix(b";").unwrap_or(thread);
            [head, format!(";p{pid:x}.").as_bytes(), tid].concat()
        }
        _ => body.to_vec(),
    }
}

/// Whether this is the answer to something that lets an inferior run.
pub(super) fn is_stop_reply(body: &[u8]) -> bool {
    matches!(body.first(), Some(b'T' | b'S' | b'W' | b'X' | b'w'))
}

/// The threads of a reply to `qfThreadInfo`, `m01,02`, each with its process.
pub(super) fn threads(pid: u64, body: &[u8]) -> Vec<Vec<u8>> {
    let Some(list) = body.strip_prefix(b"m") else {
        return Vec::new();
    };
    list.split(|byte| *byte == b',')
        .map(|tid| [format!("p{pid:x}.").as_bytes(), tid].concat())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_of_ids() {
        assert_eq!(of_thread(b"p2.1"), Some(Pid::One(2)));
        assert_eq!(of_thread(b"p64"), Some(Pid::One(0x64)));
        assert_eq!(of_thread(b"p1.-1"), Some(Pid::One(1)));
        assert_eq!(of_thread(b"p0.0"), Some(Pid::Any));
        assert_eq!(of_thread(b"p-1.-1"), Some(Pid::All));
        assert_eq!(of_thread(b"-1"), Some(Pid::All));
        assert_eq!(of_thread(b"px.1"), None);
        assert_eq!(of_thread(b"p.1"), None);
    }

    #[test]
    fn stop_replies_name_their_process() {
        let told = |body: &[u8]| stop_reply(0x64, body);
        assert_eq!(
            told(b"T05thread:01;swbreak:;"),
            b"T05thread:p64.01;swbreak:;"
        );
        assert_eq!(
            told(b"T0520:00;thread:02;name:a;"),
            b"T0520:00;thread:p64.02;name:a;"
        );
        assert_eq!(told(b"W00"), b"W00;process:64");
        assert_eq!(told(b"w00;2"), b"w00;p64.2");
        assert_eq!(told(b"X09"), b"X09;process:64");
        assert_eq!(told(b"OK"), b"OK");
    }

    #[test]
    fn threads_name_their_process() {
        assert_eq!(
            threads(2, b"m01,02"),
            [b"p2.01".to_vec(), b"p2.02".to_vec()]
        );
        assert!(threads(2, b"l").is_empty());
    }
}
