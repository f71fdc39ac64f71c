//! Memory in binary, and what clients ask of memory beside its contents.

use super::Session;
use super::settings::BinaryReads;
use super::tracing::FrameMemory;
use crate::packet::request::{Encoding, Errno, MAX_READ, Threads};
use crate::packet::{escape, hex_encode};
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use probes::addr::{Gpa, Gva, PAGE_SIZE};
use probes::machine::PhysFault;
use probes::translate::{Permissions, TranslationRegs, extent, translate};

/// How many ranges of one descriptor a region is put together from. Without translation these are pages: 16 MiB.
const MAX_PIECES: usize = 4096;

impl Session {
    /// `m` and `x`: as far as memory is there. The protocol lets the reply hold fewer bytes than were asked for.
    pub(super) fn read_memory(&mut self, address: u64, length: u64, encoding: Encoding) {
        let Some(vcpu) = self.one_of(Threads::Any) else {
            return self.refuse(Errno::Srch);
        };
        let body = match self.frame_memory(address, length) {
            FrameMemory::Collected(bytes) => self.encode(bytes, encoding),
            FrameMemory::Present => {
                // Zero bytes can be read anywhere.
                let to_the_end = (u64::MAX - address).saturating_add(1);
                let mut data = vec![0; length.min(MAX_READ).min(to_the_end) as usize];
                match self.target.read_memory(vcpu, address, &mut data) {
                    Some(count) => self.encode(&data[..count], encoding),
                    None => return self.refuse(Errno::Fault),
                }
            }
            FrameMemory::Unavailable => return self.refuse(Errno::Fault),
        };
        self.reply(&body);
    }

    fn encode(&self, bytes: &[u8], encoding: Encoding) -> Vec<u8> {
        let mut body = Vec::new();
        match encoding {
            Encoding::Hex => hex_encode(bytes, &mut body),
            Encoding::Binary => {
                if self.settings.binary_reads == BinaryReads::Marked {
                    body.push(b'b');
                }
                escape(bytes, &mut body);
            }
        }
        body
    }

    /// `x0,0`: there is such a packet, and from here on its replies are as an older LLDB reads them.
    pub(super) fn read_bare(&mut self) {
        self.settings.binary_reads = BinaryReads::Bare;
        self.reply(b"OK");
    }

    /// `qMemoryRegionInfo`: the range around an address in which all has the same permissions. LLDB looks for holes in
    /// the address space with this, so a page without memory behind it counts as a hole, mapped or not.
    pub(super) fn tell_region(&mut self, address: Gva) {
        let Ok(regs) = self.target.translation(self.target.focus()) else {
            return self.refuse(Errno::Srch);
        };
        let first = self.piece(&regs, address);
        let mut end = first.last;
        for _ in 0..MAX_PIECES {
            let Some(next) = end.checked_add(1) else {
                break;
            };
            let piece = self.piece(&regs, Gva(next));
            if piece.permissions != first.permissions {
                break;
            }
            end = piece.last;
        }
        let size = (end - first.start).saturating_add(1);
        let permissions = first.permissions.map(letters).unwrap_or_default();
        self.reply(format!("start:{:x};size:{size:x};{permissions}", first.start).as_bytes());
    }

    /// The largest range around an address of which one look tells everything.
    fn piece(&self, regs: &TranslationRegs, address: Gva) -> Piece {
        let result = translate(regs, self.machine(), address);
        let size = extent(regs, &result);
        let around = |size: u64| (address.0 & !(size - 1), address.0 | (size - 1));
        let (start, last) = around(size);
        let (page, end_of_page) = around(PAGE_SIZE);
        let whole = Piece {
            start,
            last,
            permissions: None,
        };
        let Ok(translation) = result else {
            return whole;
        };
        // A block can reach beyond the end of RAM.
        let (first, here, end) = (
            translation.gpa.0 - (address.0 - start),
            translation.gpa.0,
            translation.gpa.0 + (last - address.0),
        );
        let [first, here, end] = [first, here, end].map(|gpa| self.is_ram(Gpa(gpa)));
        let permissions = here.then_some(translation.permissions);
        if first == here && here == end {
            Piece {
                permissions,
                ..whole
            }
        } else {
            Piece {
                start: page,
                last: end_of_page,
                permissions,
            }
        }
    }

    fn is_ram(&self, gpa: Gpa) -> bool {
        let read = self.machine().read_phys(gpa, &mut [0]);
        !matches!(read, Err(PhysFault::Unmapped(_)))
    }
}

/// A range of addresses with the same permissions.
struct Piece {
    start: u64,
    last: u64,
    /// `None` where there is nothing.
    permissions: Option<Permissions>,
}

/// As LLDB reads them.
fn letters(permissions: Permissions) -> String {
    let Permissions { el1, el0 } = permissions;
    let letter = |allowed: bool, letter| if allowed { letter } else { "" };
    let read = letter(el1.read || el0.read, "r");
    let write = letter(el1.write || el0.write, "w");
    let execute = letter(el1.execute || el0.execute, "x");
    format!("permissions:{read}{write}{execute};")
}
