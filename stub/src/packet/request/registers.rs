//! Registers: `p`, `P`.

use super::{Request, split_at};
use crate::packet::{hex_decode, hex_number};
use crate::target::arch::RegisterSet;
use alloc::format;

pub(super) fn read_register(number: &[u8]) -> Option<Request> {
    let number = register_number(number)?;
    Some(Request::Stub(format!("p{number:x}").into_bytes()))
}

/// A register that there is: gdbstub would say of another one that it does not know the packet.
fn register_number(digits: &[u8]) -> Option<u64> {
    hex_number(digits).filter(|number| *number < RegisterSet::Hypervisor.count() as u64)
}

pub(super) fn write_register(bytes: &[u8]) -> Option<Request> {
    let (number, value) = split_at(bytes, b'=')?;
    let number = register_number(number)?;
    hex_decode(value)?;
    let mut packet = format!("P{number:x}=").into_bytes();
    packet.extend_from_slice(value);
    Some(Request::Stub(packet))
}
