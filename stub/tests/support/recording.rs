//! What real clients send, kept for tests that play it again and for the fuzzer to begin with (`docs/fuzzing.md`):
//! `PERISCOPE_RECORD=fuzz/seeds/session cargo test -p stub --test gdb --test lldb -- --include-ignored`.
//!
//! A file holds packets without their frames, with a `#` in between; a client that goes is `0x81`, the next one that comes
//! `0x82`, and Ctrl-C `0x03`. It begins with `0x84` and the number of the endpoint. Acknowledgements are left out.

use std::path::PathBuf;

/// The client is gone, and another has come.
pub const NEXT_CLIENT: [&[u8]; 2] = [&[0x81], &[0x82]];
/// Larger recordings are programs being uploaded, which other fuzz targets look at.
const MAX_SIZE: usize = 16 * 1024;

/// The numbers of endpoints.
pub const VM1: u8 = 0;
/// That of the whole machine.
pub const MACHINE: u8 = 3;

/// The variable that names a directory for recordings.
const VARIABLE: &str = "PERISCOPE_RECORD";

/// What the clients of one server have sent.
pub struct Recording {
    path: PathBuf,
    happenings: Vec<Vec<u8>>,
    /// The packet that has begun.
    packet: Option<Vec<u8>>,
    /// Digits of a checksum that are to come.
    digits: usize,
}

impl Recording {
    /// A recording of an endpoint, named for the test, if the environment asks for one.
    pub fn wanted(endpoint: u8) -> Option<Self> {
        let directory = PathBuf::from(std::env::var_os(VARIABLE)?);
        let thread = std::thread::current();
        let test = thread.name().unwrap_or("main").replace("::", "-");
        Some(Self {
            path: directory.join(test),
            happenings: vec![vec![0x84, endpoint], vec![0x82]],
            packet: None,
            digits: 0,
        })
    }

    /// Takes what a client has sent.
    pub fn take(&mut self, bytes: &[u8]) {
        for byte in bytes {
            match (self.digits, &mut self.packet, byte) {
                (1.., _, _) => self.digits -= 1,
                (0, Some(_), b'#') => {
                    self.happenings.extend(self.packet.take());
                    self.digits = 2;
                }
                (0, Some(packet), byte) => packet.push(*byte),
                (0, None, b'$') => self.packet = Some(Vec::new()),
                (0, None, 3) => self.happenings.push(vec![3]),
                (0, None, _) => {}
            }
        }
    }

    /// The client has gone.
    pub fn end_of_client(&mut self) {
        self.happenings.extend(NEXT_CLIENT.map(<[u8]>::to_vec));
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        let bytes = self.happenings.join(&b'#');
        if bytes.len() <= MAX_SIZE {
            std::fs::write(&self.path, bytes).expect("the directory for recordings is there");
        }
    }
}
