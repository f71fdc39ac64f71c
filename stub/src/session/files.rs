//! Files: the one that runs, and what is read of any.

use super::Session;
use crate::packet::request::{Errno, FileWindow};
use crate::packet::{PACKET_SIZE, escape_within};
use alloc::format;
use alloc::vec::Vec;

/// Bytes of a packet that hold none of a file: its frame, and how much it holds.
const AROUND: usize = 16;

impl Session {
    /// The name of the file that runs (GDB manual, E.4 "qXfer executable filename read"), which GDB opens by `vFile` where
    /// its user has named none. Before there is a kernel there is no such file.
    pub(super) fn tell_exec_file(&mut self, window: (u64, u64)) {
        if !self.target.offers_kernel_file() {
            return self.refuse(Errno::NoEnt);
        }
        let name = format!("/{}/vmlinux", self.space.vm());
        self.transfer(name.as_bytes(), window);
    }

    /// `vFile:pread`: as much as fits a packet.
    pub(super) fn read_file(&mut self, window: FileWindow) {
        let room = PACKET_SIZE - AROUND;
        let mut data = Vec::new();
        let read = self.target.read_file(window, room, |bytes| {
            data.reserve(room.min(2 * bytes.len()));
            escape_within(room, bytes, &mut data)
        });
        let mut reply = match read {
            Ok(count) => format!("F{count:x};").into_bytes(),
            Err(errno) => format!("F-1,{:x}", errno as u32).into_bytes(),
        };
        reply.extend_from_slice(&data);
        self.reply(&reply);
    }
}
