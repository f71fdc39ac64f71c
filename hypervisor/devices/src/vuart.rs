//! A PL011 UART for a guest (Arm DDI 0183G, r1p5), as Linux' `amba-pl011` driver and its earlycon expect it.
//!
//! What the guest writes goes to a queue that [`Vuart::take_tx`] empties; while that queue is full, the transmit FIFO
//! is, and the guest waits as it would for a slow line. Who has no listener takes the bytes and drops them. What comes
//! from outside goes into a receive FIFO of 32 bytes and no further: [`Vuart::push_rx`] says how much it took, the
//! rest stays with its sender, so nothing is ever lost to an overrun. There is no line behind: no framing, parity or
//! break errors, no speed, and the modem inputs say that a peer is there. No DMA.
//!
//! After any call that can change it, the caller samples [`Vuart::irq_level`] and sets the line of the UART's SPI.

use alloc::collections::VecDeque;

/// Size of the register frame, in bytes.
pub const VUART_SIZE: u64 = 0x1000;
/// Depth of the receive FIFO, in bytes.
pub const FIFO_DEPTH: usize = 32;
/// How many bytes wait for [`Vuart::take_tx`] before the guest sees a full transmit FIFO.
pub const TX_CAPACITY: usize = 4096;

/// Offsets of the registers (DDI 0183G, table 3-1).
pub(crate) mod register {
    pub(crate) const DR: u64 = 0x000;
    pub(crate) const FR: u64 = 0x018;
    pub(crate) const ILPR: u64 = 0x020;
    pub(crate) const IBRD: u64 = 0x024;
    pub(crate) const FBRD: u64 = 0x028;
    pub(crate) const LCRH: u64 = 0x02c;
    pub(crate) const CR: u64 = 0x030;
    pub(crate) const IFLS: u64 = 0x034;
    pub(crate) const IMSC: u64 = 0x038;
    pub(crate) const RIS: u64 = 0x03c;
    pub(crate) const MIS: u64 = 0x040;
    pub(crate) const ICR: u64 = 0x044;
    pub(crate) const PERIPHERAL_ID0: u64 = 0xfe0;
    pub(crate) const CELL_ID3: u64 = 0xffc;
}

/// Bits of the flag register.
pub(crate) mod flag {
    pub(crate) const CTS: u32 = 1 << 0;
    pub(crate) const DSR: u32 = 1 << 1;
    pub(crate) const DCD: u32 = 1 << 2;
    pub(crate) const RX_EMPTY: u32 = 1 << 4;
    pub(crate) const TX_FULL: u32 = 1 << 5;
    pub(crate) const RX_FULL: u32 = 1 << 6;
    pub(crate) const TX_EMPTY: u32 = 1 << 7;
}

/// Bits of the interrupt registers.
pub(crate) mod interrupt {
    pub(crate) const RX: u32 = 1 << 4;
    pub(crate) const TX: u32 = 1 << 5;
    pub(crate) const RX_TIMEOUT: u32 = 1 << 6;
    /// All that the PL011 has.
    pub(crate) const ALL: u32 = 0x7ff;
}

/// Bits of the control register.
pub(crate) mod control {
    pub(crate) const ENABLE: u32 = 1 << 0;
    pub(crate) const LOOPBACK: u32 = 1 << 7;
    pub(crate) const TX_ENABLE: u32 = 1 << 8;
    pub(crate) const RX_ENABLE: u32 = 1 << 9;
}

/// Bits of the line control register.
pub(crate) mod line {
    pub(crate) const FIFO_ENABLE: u32 = 1 << 4;
    pub(crate) const EIGHT_BITS: u32 = 0b11 << 5;
}

/// `UARTPeriphID0` to 3 and `UARTPCellID0` to 3: part 0x011, designer Arm, revision 3 (r1p5, whose FIFOs hold 32).
const IDENTIFICATION: [u8; 8] = [0x11, 0x10, 0x34, 0x00, 0x0d, 0xf0, 0x05, 0xb1];

/// The UART.
#[derive(Debug)]
pub struct Vuart {
    rx: VecDeque<u8>,
    tx: VecDeque<u8>,
    control: u32,
    line: u32,
    integer_baud: u32,
    fractional_baud: u32,
    low_power: u32,
    fifo_levels: u32,
    mask: u32,
    raw: u32,
}

impl Default for Vuart {
    fn default() -> Self {
        Self::new()
    }
}

impl Vuart {
    /// A UART out of reset. It transmits before the guest has enabled it, as earlycon expects of one that the firmware
    /// left on; it receives only once the guest has enabled that.
    pub fn new() -> Self {
        Self {
            rx: VecDeque::with_capacity(FIFO_DEPTH),
            tx: VecDeque::with_capacity(TX_CAPACITY),
            control: control::TX_ENABLE | control::RX_ENABLE,
            line: 0,
            integer_baud: 0,
            fractional_baud: 0,
            low_power: 0,
            fifo_levels: 0x12,
            mask: 0,
            raw: 0,
        }
    }

    /// A guest's read of `size` bytes (1, 2 or 4; others read as 0) at `offset`. Reading the data register takes a byte
    /// from the receive FIFO.
    pub fn read(&mut self, offset: u64, size: usize) -> u64 {
        let mask = match size {
            1 => 0xff,
            2 => 0xffff,
            4 => 0xffff_ffff,
            _ => return 0,
        };
        u64::from(self.register(offset)) & mask
    }

    /// A guest's write of `size` bytes (1, 2 or 4; others are ignored) at `offset`.
    pub fn write(&mut self, offset: u64, size: usize, value: u64) {
        let value = match size {
            1 => value as u32 & 0xff,
            2 => value as u32 & 0xffff,
            4 => value as u32,
            _ => return,
        };
        self.set_register(offset, value);
    }

    /// Receives as many of `bytes` as there is room for; returns how many: none before the guest has enabled reception.
    pub fn push_rx(&mut self, bytes: &[u8]) -> usize {
        let accepted = bytes.len().min(self.rx_space());
        self.receive(&bytes[..accepted]);
        accepted
    }

    /// Whether the guest has read all that it has received.
    pub fn is_drained(&self) -> bool {
        self.rx.is_empty()
    }

    /// How many bytes [`Vuart::push_rx`] takes now. Grows when the guest reads, enables reception or its FIFOs.
    pub fn rx_space(&self) -> usize {
        let wanted = control::ENABLE | control::RX_ENABLE;
        let receives = self.control & (wanted | control::LOOPBACK) == wanted;
        if receives {
            self.rx_depth().saturating_sub(self.rx.len())
        } else {
            0
        }
    }

    /// Moves what the guest has sent to the front of `buffer`; returns how many bytes.
    pub fn take_tx(&mut self, buffer: &mut [u8]) -> usize {
        let taken = buffer.len().min(self.tx.len());
        let was_full = self.tx.len() >= TX_CAPACITY;
        for (place, byte) in buffer.iter_mut().zip(self.tx.drain(..taken)) {
            *place = byte;
        }
        if was_full && taken != 0 {
            self.raw |= interrupt::TX;
        }
        taken
    }

    /// How many bytes wait for [`Vuart::take_tx`].
    pub fn tx_len(&self) -> usize {
        self.tx.len()
    }

    /// The combined interrupt output (`UARTINTR`): high while an interrupt is asserted and not masked.
    pub fn irq_level(&self) -> bool {
        self.raw & self.mask != 0
    }

    fn register(&mut self, offset: u64) -> u32 {
        match offset {
            register::DR => self.take_rx(),
            register::FR => self.flags(),
            register::ILPR => self.low_power,
            register::IBRD => self.integer_baud,
            register::FBRD => self.fractional_baud,
            register::LCRH => self.line,
            register::CR => self.control,
            register::IFLS => self.fifo_levels,
            register::IMSC => self.mask,
            register::RIS => self.raw,
            register::MIS => self.raw & self.mask,
            register::PERIPHERAL_ID0..=register::CELL_ID3 if offset.is_multiple_of(4) => {
                u32::from(IDENTIFICATION[(offset - register::PERIPHERAL_ID0) as usize / 4])
            }
            // UARTRSR: no receive errors. The DMA and test registers: there is neither.
            _ => 0,
        }
    }

    fn set_register(&mut self, offset: u64, value: u32) {
        match offset {
            register::DR => self.transmit(value as u8),
            register::ILPR => self.low_power = value & 0xff,
            register::IBRD => self.integer_baud = value & 0xffff,
            register::FBRD => self.fractional_baud = value & 0x3f,
            register::LCRH => self.set_line(value & 0xff),
            register::CR => self.control = value & 0xff87,
            register::IFLS => self.fifo_levels = value & 0x3f,
            register::IMSC => self.mask = value & interrupt::ALL,
            register::ICR => self.raw &= !value,
            _ => {}
        }
    }

    fn flags(&self) -> u32 {
        let mut flags = flag::CTS | flag::DSR | flag::DCD;
        if self.rx.is_empty() {
            flags |= flag::RX_EMPTY;
        }
        if self.rx.len() >= self.rx_depth() {
            flags |= flag::RX_FULL;
        }
        if self.tx.len() >= TX_CAPACITY {
            flags |= flag::TX_FULL;
        } else {
            flags |= flag::TX_EMPTY;
        }
        flags
    }

    /// Without FIFOs there is a holding register of one byte.
    fn rx_depth(&self) -> usize {
        if self.line & line::FIFO_ENABLE != 0 {
            FIFO_DEPTH
        } else {
            1
        }
    }

    /// How full the receive FIFO must be for its interrupt (`UARTIFLS.RXIFLSEL`: 1/8, 1/4, 1/2, 3/4, 7/8).
    fn rx_trigger(&self) -> usize {
        let depth = self.rx_depth();
        let eighths = match self.fifo_levels >> 3 & 7 {
            0 => 1,
            1 => 2,
            2 => 4,
            3 => 6,
            _ => 7,
        };
        (depth * eighths / 8).max(1)
    }

    /// Disabling the FIFOs empties them.
    fn set_line(&mut self, value: u32) {
        if self.line & !value & line::FIFO_ENABLE != 0 {
            self.rx.clear();
            self.raw &= !(interrupt::RX | interrupt::RX_TIMEOUT);
        }
        self.line = value;
    }

    fn transmit(&mut self, byte: u8) {
        if self.control & control::LOOPBACK != 0 {
            if self.rx.len() < self.rx_depth() {
                self.receive(&[byte]);
            }
            self.raw |= interrupt::TX;
            return;
        }
        if self.tx.len() >= TX_CAPACITY {
            // The guest did not heed TXFF; the PL011 drops the byte.
            return;
        }
        self.tx.push_back(byte);
        // The queue behind drains the FIFO at once: it falls through its trigger level with each byte.
        if self.tx.len() < TX_CAPACITY {
            self.raw |= interrupt::TX;
        } else {
            self.raw &= !interrupt::TX;
        }
    }

    /// Puts bytes that fit into the FIFO. The timeout of 32 bit times passes at once.
    fn receive(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        self.rx.extend(bytes);
        self.raw |= interrupt::RX_TIMEOUT;
        if self.rx.len() >= self.rx_trigger() {
            self.raw |= interrupt::RX;
        }
    }

    fn take_rx(&mut self) -> u32 {
        let byte = self.rx.pop_front().unwrap_or(0);
        if self.rx.len() < self.rx_trigger() {
            self.raw &= !interrupt::RX;
        }
        if self.rx.is_empty() {
            self.raw &= !interrupt::RX_TIMEOUT;
        }
        u32::from(byte)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What `pl011_startup` and `pl011_set_termios` leave behind.
    fn opened() -> Vuart {
        let mut uart = Vuart::new();
        uart.write(register::IFLS, 2, 0x12);
        uart.write(register::ICR, 2, 0xffff);
        uart.write(register::LCRH, 2, 0x70);
        uart.write(register::CR, 2, 0x301);
        uart.write(
            register::IMSC,
            2,
            u64::from(interrupt::RX | interrupt::RX_TIMEOUT),
        );
        uart
    }

    fn sent(uart: &mut Vuart) -> alloc::vec::Vec<u8> {
        let mut buffer = [0; TX_CAPACITY];
        let length = uart.take_tx(&mut buffer);
        buffer[..length].to_vec()
    }

    #[test]
    fn amba_bus_recognises_it() {
        let mut uart = Vuart::new();
        let id = |uart: &mut Vuart, base: u64| {
            (0..4).fold(0, |id, n| {
                id | (uart.read(base + 4 * n, 4) & 0xff) << (8 * n)
            })
        };
        let peripheral = id(&mut uart, 0xfe0);
        assert_eq!(
            peripheral & 0x000f_ffff,
            0x0004_1011,
            "pl011_ids of amba-pl011.c"
        );
        assert!(peripheral >> 20 & 0xf >= 3, "FIFOs of 32: get_fifosize_arm");
        assert_eq!(id(&mut uart, 0xff0), 0xb105_f00d);
    }

    #[test]
    fn earlycon_writes_before_anything_is_set_up() {
        let mut uart = Vuart::new();
        for byte in b"Booting" {
            assert_eq!(uart.read(register::FR, 4) as u32 & flag::TX_FULL, 0);
            uart.write(register::DR, 1, u64::from(*byte));
            assert_ne!(uart.read(register::FR, 4) as u32 & flag::TX_EMPTY, 0);
        }
        assert_eq!(sent(&mut uart), b"Booting");
        assert!(!uart.irq_level());
    }

    #[test]
    fn nothing_is_received_before_the_guest_listens() {
        let mut uart = Vuart::new();
        assert_eq!(uart.push_rx(b"early"), 0);
        let mut uart = opened();
        assert_eq!(uart.push_rx(b"now"), 3);
        uart.write(register::CR, 2, 0x101);
        assert_eq!(uart.push_rx(b"not"), 0);
    }

    #[test]
    fn a_single_byte_interrupts_and_reading_it_ends_that() {
        let mut uart = opened();
        assert_eq!(uart.push_rx(b"x"), 1);
        assert!(uart.irq_level());
        assert_eq!(
            uart.read(register::MIS, 2) as u32,
            interrupt::RX_TIMEOUT,
            "below the trigger level"
        );
        assert_eq!(uart.read(register::DR, 2), u64::from(b'x'));
        assert!(!uart.irq_level());
        assert_ne!(uart.read(register::FR, 2) as u32 & flag::RX_EMPTY, 0);
    }

    #[test]
    fn the_receive_fifo_is_bounded_and_has_a_trigger_level() {
        let mut uart = opened();
        let bytes: alloc::vec::Vec<u8> = (0..100).collect();
        assert!(uart.is_drained());
        assert_eq!(uart.push_rx(&bytes), FIFO_DEPTH);
        assert!(!uart.is_drained());
        assert_ne!(uart.read(register::FR, 2) as u32 & flag::RX_FULL, 0);
        for expected in 0..16 {
            assert_ne!(uart.read(register::RIS, 2) as u32 & interrupt::RX, 0);
            assert_eq!(uart.read(register::DR, 2), expected);
        }
        assert_ne!(
            uart.read(register::RIS, 2) as u32 & interrupt::RX,
            0,
            "16 is half"
        );
        assert_eq!(uart.read(register::DR, 2), 16);
        assert_eq!(uart.read(register::RIS, 2) as u32 & interrupt::RX, 0);
        assert_eq!(uart.push_rx(&bytes[32..]), 17);
    }

    #[test]
    fn transmit_interrupt_primes_and_clears() {
        let mut uart = opened();
        uart.write(register::IMSC, 2, u64::from(interrupt::TX));
        assert!(!uart.irq_level(), "nothing was sent yet");
        uart.write(register::DR, 1, 0x61);
        assert!(uart.irq_level());
        uart.write(register::ICR, 2, u64::from(interrupt::TX));
        assert!(!uart.irq_level());
    }

    #[test]
    fn a_listener_that_does_not_drain_holds_the_guest_back() {
        let mut uart = opened();
        uart.write(register::IMSC, 2, u64::from(interrupt::TX));
        for n in 0..TX_CAPACITY + 7 {
            uart.write(register::DR, 1, n as u64);
        }
        assert_ne!(uart.read(register::FR, 4) as u32 & flag::TX_FULL, 0);
        assert!(!uart.irq_level());
        assert_eq!(
            sent(&mut uart).len(),
            TX_CAPACITY,
            "what was written past TXFF is dropped"
        );
        assert!(uart.irq_level(), "room again");
        assert_eq!(uart.read(register::FR, 4) as u32 & flag::TX_FULL, 0);
    }

    #[test]
    fn loopback_receives_what_it_sends() {
        let mut uart = opened();
        uart.write(register::CR, 2, 0x381);
        uart.write(register::DR, 1, 0x55);
        assert_eq!(uart.tx_len(), 0);
        assert_eq!(uart.push_rx(b"outside"), 0);
        assert_eq!(uart.read(register::DR, 1), 0x55);
    }

    #[test]
    fn without_fifos_there_is_one_byte() {
        let mut uart = opened();
        assert_eq!(uart.push_rx(b"abc"), 3);
        uart.write(register::LCRH, 2, 0x60);
        assert!(!uart.irq_level(), "emptied");
        assert_eq!(uart.push_rx(b"abc"), 1);
        assert_ne!(uart.read(register::RIS, 2) as u32 & interrupt::RX, 0);
    }

    proptest! {
        #[test]
        fn bytes_pass_in_order(sizes in prop::collection::vec((0..80usize, 0..80usize), 1..50)) {
            let mut uart = opened();
            let (mut next_in, mut next_out) = (0u8, 0u8);
            for (pushes, reads) in sizes {
                let bytes: alloc::vec::Vec<u8> = (0..pushes).map(|n| next_in.wrapping_add(n as u8)).collect();
                next_in = next_in.wrapping_add(uart.push_rx(&bytes) as u8);
                for _ in 0..reads {
                    if uart.read(register::FR, 4) as u32 & flag::RX_EMPTY != 0 {
                        break;
                    }
                    prop_assert!(uart.irq_level(), "a byte waits in silence");
                    prop_assert_eq!(uart.read(register::DR, 4), u64::from(next_out));
                    next_out = next_out.wrapping_add(1);
                }
            }
        }

        #[test]
        fn no_access_panics(accesses in prop::collection::vec((0..0x1010u64, 0..9usize, any::<u64>()), 1..300)) {
            let mut uart = Vuart::new();
            for (offset, size, value) in accesses {
                uart.write(offset, size, value);
                let _ = uart.read(offset, size);
                let _ = uart.push_rx(b"0123456789");
                prop_assert!(uart.rx.len() <= FIFO_DEPTH);
            }
        }
    }
}
