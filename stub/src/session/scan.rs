//! `qSearch:memory` and `qCRC`: work on so much memory that it is done in pieces, one each time the session is polled, so
//! that other endpoints are served in between and Ctrl-C ends it. A client waits some two seconds for an answer, so
//! what takes longer is refused, and says so.

use super::Session;
use crate::packet::request::Errno;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use probes::addr::{Gva, PAGE_SIZE};
use probes::machine::VcpuId;
use probes::translate::{extent, translate};

/// How long a client waits, with some time to spare: GDB's `remotetimeout` is 2 seconds.
const LIMIT_NS: u64 = 1_500_000_000;
/// How long one piece takes at most.
const PIECE_NS: u64 = 20_000_000;
/// How many looks at memory one piece has at most. A look is at a page, or at a hole of any size.
const PIECE_LOOKS: usize = 4096;
/// How many looks there are in all: 1 GiB, where all is mapped.
const MAX_LOOKS: usize = 1 << 18;

/// What is looked for.
enum Goal {
    /// The first place of these bytes. Where nothing is mapped, nothing is found.
    Find {
        pattern: Vec<u8>,
        /// The last bytes before `at`, in which the pattern may have begun.
        tail: Vec<u8>,
    },
    /// The checksum so far.
    Checksum(u32),
}

/// A scan that goes on.
pub(super) struct Scan {
    goal: Goal,
    vcpu: VcpuId,
    first: u64,
    /// What has not been looked at: `at..=last`.
    at: u64,
    last: u64,
    looks: usize,
    started_ns: u64,
}

/// What one look has come to.
enum Look {
    /// There is more to look at.
    More,
    /// The answer.
    Done(String),
    /// Memory that has to be there is not.
    Fault,
}

impl Session {
    /// `qSearch:memory`.
    pub(super) fn search(&mut self, first: u64, last: u64, pattern: Vec<u8>) {
        let tail = Vec::new();
        self.begin_scan(Goal::Find { pattern, tail }, first, last);
    }

    /// `qCRC`.
    pub(super) fn checksum(&mut self, first: u64, last: u64) {
        self.begin_scan(Goal::Checksum(u32::MAX), first, last);
    }

    fn begin_scan(&mut self, goal: Goal, first: u64, last: u64) {
        self.scan = Some(Scan {
            goal,
            vcpu: self.target.focus(),
            first,
            at: first,
            last,
            looks: 0,
            started_ns: self.machine().now_ns(),
        });
        self.go_on_scanning();
    }

    /// The next piece, if there is one to do.
    pub(super) fn go_on_scanning(&mut self) {
        let Some(mut scan) = self.scan.take() else {
            return;
        };
        let piece_ends = self.machine().now_ns().saturating_add(PIECE_NS);
        for _ in 0..PIECE_LOOKS {
            match self.look(&mut scan) {
                Look::More => {}
                Look::Done(answer) => return self.reply(answer.as_bytes()),
                Look::Fault => return self.refuse(Errno::Fault),
            }
            scan.looks += 1;
            let now = self.machine().now_ns();
            if scan.looks >= MAX_LOOKS || now.saturating_sub(scan.started_ns) > LIMIT_NS {
                return self.give_up(&scan);
            }
            if now > piece_ends {
                break;
            }
        }
        self.scan = Some(scan);
    }

    /// To the end, for those who cannot come back.
    pub(super) fn finish_scanning(&mut self) {
        while self.scan.is_some() {
            self.go_on_scanning();
        }
    }

    /// Ctrl-C. Says whether there was something to end.
    pub(super) fn interrupt_scan(&mut self) -> bool {
        let interrupted = self.scan.take().is_some();
        if interrupted {
            self.explain_refusal(Errno::Intr, Errno::Intr.words());
        }
        interrupted
    }

    /// A client does not show what this refusal says, so it is said once more when the VM runs.
    fn give_up(&mut self, scan: &Scan) {
        let (from, to) = (Gva(scan.first), Gva(scan.at));
        let words = format!("{from} to {to} took too long to read: give a smaller range");
        self.target.notice(words.clone());
        self.explain_refusal(Errno::TooBig, &words);
    }

    /// Looks at what comes next: the rest of a page, or of a hole.
    fn look(&self, scan: &mut Scan) -> Look {
        let room = PAGE_SIZE - scan.at % PAGE_SIZE;
        let left = (scan.last - scan.at).saturating_add(1);
        let mut page = vec![0; room.min(left) as usize];
        let count = self.target.read_memory(scan.vcpu, scan.at, &mut page);
        page.truncate(count.unwrap_or(0));
        match &mut scan.goal {
            Goal::Find { pattern, tail } => {
                let begins = scan.at.wrapping_sub(tail.len() as u64);
                tail.extend(&page);
                if let Some(found) = position(tail, pattern) {
                    let address = begins.wrapping_add(found as u64);
                    return Look::Done(format!("1,{address:x}"));
                }
                let kept = if page.is_empty() {
                    0
                } else {
                    pattern.len() - 1
                };
                tail.drain(..tail.len().saturating_sub(kept));
            }
            Goal::Checksum(_) if page.is_empty() => return Look::Fault,
            Goal::Checksum(sum) => *sum = crc(*sum, &page),
        }
        let step = match page.len() as u64 {
            0 => self.rest_of_hole(scan.vcpu, Gva(scan.at)),
            count => count,
        };
        match scan.at.checked_add(step) {
            Some(next) if next <= scan.last => scan.at = next,
            _ => return Look::Done(scan.goal.result()),
        }
        Look::More
    }

    /// How many bytes from an address on are no memory either.
    fn rest_of_hole(&self, vcpu: VcpuId, address: Gva) -> u64 {
        let Ok(regs) = self.target.translation(vcpu) else {
            return PAGE_SIZE;
        };
        let translation = translate(&regs, self.machine(), address);
        let size = match &translation {
            // What is mapped to nothing can be mapped to something a page further.
            Ok(_) => PAGE_SIZE,
            Err(_) => extent(&regs, &translation),
        };
        size - (address.0 & (size - 1))
    }
}

impl Goal {
    /// The answer when all has been looked at.
    fn result(&self) -> String {
        match self {
            Self::Find { .. } => "0".to_string(),
            Self::Checksum(sum) => format!("C{sum:x}"),
        }
    }
}

/// Where `needle` begins first in `haystack`.
fn position(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    let (first, _) = needle.split_first()?;
    let mut from = 0;
    loop {
        let next = haystack
            .get(from..)?
            .iter()
            .position(|byte| byte == first)?;
        from += next;
        if haystack[from..].starts_with(needle) {
            return Some(from);
        }
        from += 1;
    }
}

/// The CRC of GDB (manual, E.5 "qCRC"): polynomial 0x04c11db7, the most significant bit first, from all ones.
fn crc(sum: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(sum, |sum, byte| {
        let index = (sum >> 24) as u8 ^ byte;
        sum << 8 ^ CRC_TABLE[usize::from(index)]
    })
}

const CRC_TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut index = 0;
    while index < table.len() {
        let mut sum = (index as u32) << 24;
        let mut bit = 0;
        while bit < 8 {
            let carry = sum >> 31;
            sum = (sum << 1) ^ (carry * 0x04c1_1db7);
            bit += 1;
        }
        table[index] = sum;
        index += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    /// The check value of CRC-32/MPEG-2, which has these parameters.
    #[test]
    fn the_checksum_is_gdbs() {
        assert_eq!(crc(u32::MAX, b"123456789"), 0x0376_e6e7);
        let (first, second) = b"123456789".split_at(4);
        assert_eq!(crc(crc(u32::MAX, first), second), 0x0376_e6e7);
    }

    #[test]
    fn positions() {
        assert_eq!(position(b"aabaac", b"aac"), Some(3));
        assert_eq!(position(b"aabaac", b"aad"), None);
        assert_eq!(position(b"aa", b"aab"), None);
        assert_eq!(position(b"", b"a"), None);
    }
}
