//! Driver of a physical PL011 (Arm DDI 0183G): the hypervisor's log, and a byte channel where there is no virtio.

use crate::channel::{Channel, ChannelEvent};
use crate::mmio::Mmio;
use crate::vuart::{control, flag, interrupt, line, register};
use stub::ByteChannel;

/// How often [`Pl011::write_all`] looks for room before it gives a byte up: about a second at 9600 baud.
const MAX_POLLS: u32 = 1_000_000;

/// A PL011.
#[derive(Clone, Debug)]
pub struct Pl011<M> {
    registers: M,
}

impl<M: Mmio> Pl011<M> {
    /// Takes the UART over: eight bits, FIFOs, no interrupts. Its speed stays what the firmware has set.
    pub fn new(registers: M) -> Self {
        let uart = Self { registers };
        uart.set(register::IMSC, 0);
        uart.set(register::ICR, interrupt::ALL);
        // LCRH may be written only while the UART is disabled (DDI 0183G, 3.3.7).
        uart.set(register::CR, 0);
        uart.set(register::LCRH, line::EIGHT_BITS | line::FIFO_ENABLE);
        uart.set(
            register::CR,
            control::ENABLE | control::TX_ENABLE | control::RX_ENABLE,
        );
        uart
    }

    /// Makes received bytes interrupt. The interrupt stays asserted until they are read.
    pub fn enable_rx_interrupt(&mut self) {
        self.set(register::IMSC, interrupt::RX | interrupt::RX_TIMEOUT);
    }

    /// Sends all of `bytes`, waiting for room; for the log and for panics. A byte that finds no room in a long while is
    /// dropped: a UART that is held up never holds up the hypervisor for good.
    pub fn write_all(&mut self, bytes: &[u8]) {
        for byte in bytes {
            let has_room = (0..MAX_POLLS).any(|_| !self.tx_full());
            if !has_room {
                return;
            }
            self.set(register::DR, u32::from(*byte));
        }
    }

    fn tx_full(&self) -> bool {
        self.get(register::FR) & flag::TX_FULL != 0
    }

    fn get(&self, offset: u64) -> u32 {
        self.registers.read(offset as usize)
    }

    fn set(&self, offset: u64, value: u32) {
        self.registers.write(offset as usize, value);
    }
}

impl<M: Mmio> ByteChannel for Pl011<M> {
    fn write(&mut self, bytes: &[u8]) -> usize {
        let mut length = 0;
        for byte in bytes {
            if self.tx_full() {
                break;
            }
            self.set(register::DR, u32::from(*byte));
            length += 1;
        }
        length
    }
}

impl<M: Mmio> Channel for Pl011<M> {
    fn has_data(&self) -> bool {
        self.get(register::FR) & flag::RX_EMPTY == 0
    }

    fn read(&mut self, buffer: &mut [u8]) -> usize {
        let mut length = 0;
        for place in buffer {
            if !self.has_data() {
                break;
            }
            *place = self.get(register::DR) as u8;
            length += 1;
        }
        length
    }

    /// Always `None`: a PL011 does not see who is at the other end.
    fn take_event(&mut self) -> Option<ChannelEvent> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vuart::{TX_CAPACITY, Vuart};
    use alloc::rc::Rc;
    use core::cell::RefCell;

    /// The emulated PL011 in place of a physical one.
    #[derive(Clone)]
    struct Emulated(Rc<RefCell<Vuart>>);

    impl Mmio for Emulated {
        fn read(&self, offset: usize) -> u32 {
            self.0.borrow_mut().read(offset as u64, 4) as u32
        }

        fn write(&self, offset: usize, value: u32) {
            self.0
                .borrow_mut()
                .write(offset as u64, 4, u64::from(value));
        }
    }

    fn connected() -> (Pl011<Emulated>, Rc<RefCell<Vuart>>) {
        let device = Rc::new(RefCell::new(Vuart::new()));
        (Pl011::new(Emulated(device.clone())), device)
    }

    #[test]
    fn bytes_go_both_ways() {
        let (mut uart, device) = connected();
        assert_eq!(uart.write(b"$OK#9a"), 6);
        let mut buffer = [0; 16];
        assert_eq!(device.borrow_mut().take_tx(&mut buffer), 6);
        assert_eq!(&buffer[..6], b"$OK#9a");
        assert_eq!(device.borrow_mut().push_rx(b"+$?#3f"), 6);
        assert_eq!(uart.read(&mut buffer[..4]), 4);
        assert_eq!(&buffer[..4], b"+$?#");
        assert_eq!(uart.read(&mut buffer), 2);
        assert_eq!(uart.read(&mut buffer), 0);
    }

    #[test]
    fn reception_interrupts_once_enabled() {
        let (mut uart, device) = connected();
        let _ = device.borrow_mut().push_rx(b"x");
        assert!(!device.borrow().irq_level());
        uart.enable_rx_interrupt();
        assert!(device.borrow().irq_level());
        assert_eq!(uart.read(&mut [0; 4]), 1);
        assert!(!device.borrow().irq_level());
    }

    #[test]
    fn a_stuck_line_stops_nobody() {
        let (mut uart, device) = connected();
        let long = [b'.'; TX_CAPACITY + 100];
        assert_eq!(uart.write(&long), TX_CAPACITY);
        assert_eq!(uart.write(b"more"), 0);
        uart.write_all(b"more");
        assert_eq!(device.borrow().tx_len(), TX_CAPACITY);
    }
}
