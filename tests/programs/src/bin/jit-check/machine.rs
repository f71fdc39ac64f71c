//! The machine under the programs: a clock that ticks, a guest of one page, what was printed.

use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use ebpf::{Host, ReadFault};

/// Where the guest's page is.
pub const GUEST: u64 = 0xffff_8000_8000_0000;
const PAGE: usize = 4096;

/// A machine. Two that run the same programs stay the same.
#[derive(Default)]
pub struct Machine {
    pub cpu: usize,
    now: Cell<u64>,
    pub printed: RefCell<Vec<u8>>,
}

impl Machine {
    pub fn on_cpu(cpu: usize) -> Self {
        Self {
            cpu,
            ..Self::default()
        }
    }
}

impl Host for Machine {
    fn ktime_ns(&self) -> u64 {
        self.now.set(self.now.get() + 1);
        self.now.get()
    }

    fn cpu(&self) -> usize {
        self.cpu
    }

    fn read_guest(&self, address: u64, buffer: &mut [u8]) -> Result<(), ReadFault> {
        let start = address.checked_sub(GUEST).ok_or(ReadFault)? as usize;
        if start + buffer.len() > PAGE {
            return Err(ReadFault);
        }
        for (index, byte) in (start..).zip(buffer) {
            // A pointer into the page in every eighth word, and numbers.
            *byte = match index % 64 {
                at @ 0..8 => (GUEST + index as u64 * 5 % 4096).to_le_bytes()[at],
                _ => (index * 7) as u8,
            };
        }
        Ok(())
    }

    fn current(&self) -> Option<u64> {
        Some(GUEST + self.now.get() % 3 * 64)
    }

    fn print(&self, text: &[u8]) {
        self.printed.borrow_mut().extend(text);
        self.printed.borrow_mut().push(b'\n');
    }
}
