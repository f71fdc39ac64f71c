//! `qHostInfo`: what LLDB wants to know of the machine.

use super::Session;
use crate::packet::hex_encode;
use crate::target::pointer_masks::{Half, PointerKind, pointer_mask};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use probes::addr::PAGE_SIZE;
use probes::machine::VcpuId;

/// `aarch64-unknown-none`. A watchpoint stops before the access, which LLDB has to be told or it shows no new value. A
/// server under emulation may need longer for a packet than LLDB's 5 seconds.
const FIXED: &str =
    "endian:little;ptrsize:8;watchpoint_exceptions_received:before;default_packet_timeout:20;";

impl Session {
    /// LLDB's question about the host.
    pub(super) fn tell_host(&mut self) {
        let triple = hex("aarch64-unknown-none");
        let hostname = hex(&self.space.vm().to_string());
        let bits = self.addressing_bits(self.target.focus());
        self.reply(
            format!("triple:{triple};{FIXED}hostname:{hostname};vm-page-size:{PAGE_SIZE};{bits}")
                .as_bytes(),
        );
    }

    /// How many bits of an address are address, in both halves of the address space. The others can be a pointer
    /// authentication code, which LLDB takes off.
    /// Nothing where the guest has not said yet.
    pub(super) fn addressing_bits(&self, vcpu: VcpuId) -> String {
        let Ok(sys) = self.machine().sys(vcpu) else {
            return String::new();
        };
        let bits = |name, half| match pointer_mask(&sys, PointerKind::Code, half) {
            0 => String::new(),
            mask => format!("{name}_mem_addressing_bits:{};", mask.trailing_zeros()),
        };
        bits("low", Half::Low) + &bits("high", Half::High)
    }
}

fn hex(text: &str) -> String {
    let mut digits = Vec::new();
    hex_encode(text.as_bytes(), &mut digits);
    String::from_utf8_lossy(&digits).into_owned()
}
