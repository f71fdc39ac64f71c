//! Registers: `g`, `G`, `p`, `P`.

use super::lldb::split_thread;
use super::{MALFORMED, Request, hex_or_malformed, split_at};
use crate::packet::{hex_decode, hex_number};
use crate::target::arch::RegisterSet;
use alloc::format;

/// A register packet, about the current thread or about the one that LLDB names behind it.
pub(super) fn on_any_thread(body: &[u8]) -> Request {
    let Some((body, threads)) = split_thread(body) else {
        return register_packet(body);
    };
    match register_packet(body) {
        Request::Stub(body) => Request::OnThread(threads, body),
        other => other,
    }
}

fn register_packet(body: &[u8]) -> Request {
    match body {
        b"g" => Request::Stub(body.to_vec()),
        [b'G', values @ ..] => hex_or_malformed(body, values),
        [b'p', number @ ..] => read_register(number).unwrap_or(MALFORMED),
        [b'P', rest @ ..] => write_register(rest).unwrap_or(MALFORMED),
        _ => MALFORMED,
    }
}

fn read_register(number: &[u8]) -> Option<Request> {
    let number = register_number(number)?;
    Some(Request::Stub(format!("p{number:x}").into_bytes()))
}

/// A register that there is: gdbstub would say of another one that it does not know the packet.
fn register_number(digits: &[u8]) -> Option<u64> {
    hex_number(digits).filter(|number| *number < RegisterSet::Hypervisor.count() as u64)
}

fn write_register(bytes: &[u8]) -> Option<Request> {
    let (number, value) = split_at(bytes, b'=')?;
    let number = register_number(number)?;
    hex_decode(value)?;
    let mut packet = format!("P{number:x}=").into_bytes();
    packet.extend_from_slice(value);
    Some(Request::Stub(packet))
}
