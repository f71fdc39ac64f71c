//! The console of a guest: its emulated UART on one side, a channel on the other.

use super::{Backlog, ChannelPort, drain};
use crate::vm::Vm;
use alloc::collections::VecDeque;
use devices::channel::Channel;

/// How much of a guest's console is kept while nobody is connected, in bytes.
const CONSOLE_BACKLOG: usize = 256 * 1024;

/// The console of a guest.
pub struct GuestConsole {
    vm: &'static Vm,
    port: ChannelPort,
    backlog: VecDeque<u8>,
    /// Read from the port, not yet taken by the guest's UART.
    input: VecDeque<u8>,
}

impl GuestConsole {
    /// Connects the UART of `vm` with `port`.
    pub fn new(vm: &'static Vm, port: ChannelPort) -> Self {
        Self {
            vm,
            port,
            backlog: VecDeque::new(),
            input: VecDeque::new(),
        }
    }

    /// Moves what there is to move, both ways.
    pub fn run(&mut self) -> Backlog {
        while self.port.take_event().is_some() {}
        let mut buffer = [0; 256];
        loop {
            let count = self.vm.vuart.lock().take_tx(&mut buffer);
            if count == 0 {
                break;
            }
            self.backlog.extend(&buffer[..count]);
            let excess = self.backlog.len().saturating_sub(CONSOLE_BACKLOG);
            self.backlog.drain(..excess);
        }
        if self.port.is_connected() {
            drain(&mut self.backlog, &mut self.port);
        }
        self.feed_guest();
        self.vm.update_uart_line(None);
        let waiting =
            self.port.is_connected() && !self.backlog.is_empty() || !self.input.is_empty();
        if waiting {
            Backlog::Waiting
        } else {
            Backlog::Empty
        }
    }

    fn feed_guest(&mut self) {
        let mut buffer = [0; 256];
        loop {
            if self.input.is_empty() {
                let count = self.port.read(&mut buffer);
                self.input.extend(&buffer[..count]);
            }
            let (front, _) = self.input.as_slices();
            if front.is_empty() {
                return;
            }
            let taken = self.vm.vuart.lock().push_rx(front);
            self.input.drain(..taken);
            if taken == 0 {
                return;
            }
        }
    }
}
