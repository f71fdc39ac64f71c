//! The loader of linked programs, on any bytes behind a header that is right.

use crate::program;
use ebpf::Object;
use ebpf::linked::{Linked, VERSION};

/// Bytes of the header: magic, version, length, checksum.
const HEADER: usize = 20;

/// Reads a linked object, writes it again, loads it, and runs what was accepted.
pub fn check(bytes: &[u8]) {
    let Some((&mode, body)) = bytes.split_first() else {
        return;
    };
    let parsed = if mode.is_multiple_of(8) {
        Linked::parse(body)
    } else {
        Linked::parse(&with_header(body))
    };
    let Ok(linked) = parsed else {
        return;
    };
    let written = linked.encode().expect("what was read can be written");
    assert_eq!(Linked::parse(&written).as_ref(), Ok(&linked));
    if let Ok(object) = Object::load(&linked, 2) {
        for one in object.programs() {
            program::run(one);
        }
    }
}

/// A fuzzer does not guess a checksum.
fn with_header(body: &[u8]) -> Vec<u8> {
    let mut bytes = b"PSCPLINK".to_vec();
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend((body.len() as u32).to_le_bytes());
    bytes.extend(crc32(body).to_le_bytes());
    assert_eq!(bytes.len(), HEADER);
    bytes.extend(body);
    bytes
}

/// IEEE 802.3: polynomial 0xedb88320, bits reflected.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |mut crc, byte| {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            let polynomial = if crc & 1 == 1 { 0xedb8_8320 } else { 0 };
            crc = crc >> 1 ^ polynomial;
        }
        crc
    })
}
