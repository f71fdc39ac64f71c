//! Files: `vFile`.

use super::{Request, split_at};

/// `vFile:operation:…`, of the operations that gdbstub passes on.
pub(super) fn file(bytes: &[u8]) -> Option<Request> {
    let (operation, rest) = split_at(bytes, b':')?;
    let known: &[&[u8]] = &[
        b"open", b"close", b"pread", b"pwrite", b"fstat", b"unlink", b"setfs",
    ];
    if !known.contains(&operation) {
        return None;
    }
    Some(Request::Stub([b"vFile:", operation, b":", rest].concat()))
}
