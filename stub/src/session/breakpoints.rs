//! Breakpoints with conditions and commands.

use super::Session;
use crate::packet::request::{Errno, Wishes};
use alloc::string::ToString;

impl Session {
    /// `Z` with conditions or commands behind it: compiled, they go to the breakpoint that gdbstub has set for the rest of
    /// the packet.
    pub(super) fn set_breakpoint(&mut self, packet: &[u8], wishes: Wishes) {
        if let Err(refused) = self.target.take_orders(wishes) {
            return self.explain_refusal(Errno::Inval, &refused.to_string());
        }
        self.ask_stub(packet);
        self.target.drop_orders();
    }
}
