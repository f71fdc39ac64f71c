//! Registers of threads that are not the current one, and registers that are kept (LLDB).

use super::Session;
use crate::packet::request::{Errno, Threads};
use alloc::format;

/// How many threads' registers are kept for a client. LLDB keeps one for each call that it makes in the target.
const MAX_SAVED: usize = 16;

impl Session {
    /// A register packet about a thread.
    pub(super) fn ask_stub_on(&mut self, threads: Threads, body: &[u8]) {
        let Some(vcpu) = self.one_of(threads) else {
            return self.refuse(Errno::Srch);
        };
        let focus = self.target.focus();
        self.set_focus(vcpu);
        self.ask_stub(body);
        self.set_focus(focus);
    }

    /// `QSaveRegisterState`: the reply is the number under which the registers are kept.
    pub(super) fn save_registers(&mut self, threads: Threads) {
        let vcpu = self.one_of(threads);
        let registers = vcpu.and_then(|vcpu| Some((vcpu, self.target.registers(vcpu).ok()?)));
        let Some(registers) = registers else {
            return self.refuse(Errno::Srch);
        };
        let saved = &mut self.settings.saved;
        if saved.len() == MAX_SAVED {
            return self.refuse(Errno::TooBig);
        }
        let last = saved.last_key_value().map_or(0, |(number, _)| *number);
        let number = last + 1;
        saved.insert(number, registers);
        self.reply(format!("{number}").as_bytes());
    }

    /// `QRestoreRegisterState`: what was kept is put back, once.
    pub(super) fn restore_registers(&mut self, number: u32) {
        let Some((vcpu, kept)) = self.settings.saved.remove(&number) else {
            return self.refuse(Errno::Inval);
        };
        let now = self.target.registers(vcpu);
        match now.and_then(|now| self.target.change_registers(vcpu, &now, &kept)) {
            Ok(()) => self.reply(b"OK"),
            Err(_) => self.refuse(Errno::Srch),
        }
    }
}
