//! The console of a guest: its emulated UART on one side, a channel on the other.

use super::{Backlog, ChannelPort};
use crate::vm::Vm;
use alloc::collections::VecDeque;
use core::sync::atomic::Ordering;
use devices::channel::Channel;
use stub::ByteChannel;

/// The console of a guest.
pub struct GuestConsole {
    vm: &'static Vm,
    port: ChannelPort,
    /// How far the channel has what the guest has written.
    sent: u64,
    /// Read from the port, not yet taken by the guest's UART.
    input: VecDeque<u8>,
}

impl GuestConsole {
    /// Connects the UART of `vm` with `port`.
    pub fn new(vm: &'static Vm, port: ChannelPort) -> Self {
        Self {
            vm,
            port,
            sent: 0,
            input: VecDeque::new(),
        }
    }

    /// Moves what there is to move, both ways.
    pub fn run(&mut self) -> Backlog {
        while self.port.take_event().is_some() {}
        self.vm.fetch_output();
        if self.port.is_connected() {
            self.send();
        }
        self.feed_guest();
        let input_waits = !self.input.is_empty();
        self.vm.input_waits.store(input_waits, Ordering::Relaxed);
        self.vm.update_uart_line(None);
        let is_behind = self.port.is_connected() && self.sent < self.vm.console.lock().end();
        if is_behind || input_waits {
            Backlog::Waiting
        } else {
            Backlog::Empty
        }
    }

    /// Sends what the channel takes.
    fn send(&mut self) {
        let mut buffer = [0; 1024];
        loop {
            let (start, count) = self.vm.console.lock().read(self.sent, &mut buffer);
            let taken = self.port.write(&buffer[..count]);
            self.sent = start + taken as u64;
            if taken == 0 {
                return;
            }
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
