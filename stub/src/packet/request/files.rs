//! Files: `vFile`.

use super::{MALFORMED, Request, split_at};
use crate::packet::hex_number;

/// What is wanted of an open file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct FileWindow {
    /// Its descriptor.
    pub(crate) descriptor: u32,
    /// Bytes at most.
    pub(crate) count: usize,
    /// From which byte on.
    pub(crate) offset: u64,
}

/// `vFile:operation:…`. Reading is not left to gdbstub: files have megabytes, and it goes over each byte several times.
pub(super) fn file(bytes: &[u8]) -> Option<Request> {
    let (operation, rest) = split_at(bytes, b':')?;
    if operation == b"pread" {
        return Some(read(rest).unwrap_or(MALFORMED));
    }
    let known: &[&[u8]] = &[b"open", b"close", b"pwrite", b"fstat", b"unlink", b"setfs"];
    if !known.contains(&operation) {
        return None;
    }
    Some(Request::Stub([b"vFile:", operation, b":", rest].concat()))
}

/// `descriptor,count,offset` (GDB manual, E.7 "Host I/O Packets").
fn read(bytes: &[u8]) -> Option<Request> {
    let (descriptor, rest) = split_at(bytes, b',')?;
    let (count, offset) = split_at(rest, b',')?;
    Some(Request::ReadFile(FileWindow {
        descriptor: hex_number(descriptor)?.try_into().ok()?,
        count: usize::try_from(hex_number(count)?).unwrap_or(usize::MAX),
        offset: hex_number(offset)?,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::request::parse;
    use alloc::format;

    #[test]
    fn windows_of_files() {
        let window = FileWindow {
            descriptor: 2,
            count: 0x1000,
            offset: 0xffff_ffff_0000,
        };
        let read = parse(b"vFile:pread:2,1000,ffffffff0000");
        assert_eq!(read, Request::ReadFile(window));
        for bad in ["", "1", "1,2", "1,2,x", "100000000,1,0", "-1,1,0"] {
            assert_eq!(parse(format!("vFile:pread:{bad}").as_bytes()), MALFORMED);
        }
    }
}
