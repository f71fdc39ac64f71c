//! The PL011 console (Arm DDI 0183): output, and input by polling or by interrupt.

use crate::cpu;
use crate::platform;
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use spin::Mutex;

/// The console's interrupt: SPI 1.
pub const INTID: u32 = 33;

const DR: usize = 0x00;
const FR: usize = 0x18;
const LCR_H: usize = 0x2c;
const CR: usize = 0x30;
const IMSC: usize = 0x38;
const ICR: usize = 0x44;

const FR_RX_EMPTY: u32 = 1 << 4;
const FR_TX_FULL: u32 = 1 << 5;
/// Receive interrupt and receive time-out interrupt.
const RX_INTERRUPTS: u32 = 1 << 4 | 1 << 6;

fn read(register: usize) -> u32 {
    // SAFETY: a PL011 register, mapped as device memory.
    unsafe { ((platform::get().uart + register) as *const u32).read_volatile() }
}

fn write(register: usize, value: u32) {
    // SAFETY: as for `read`.
    unsafe { ((platform::get().uart + register) as *mut u32).write_volatile(value) }
}

/// The output side, one line at a time.
struct Output;

impl Write for Output {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if byte == b'\n' {
                put(b'\r');
            }
            put(byte);
        }
        Ok(())
    }
}

fn put(byte: u8) {
    while read(FR) & FR_TX_FULL != 0 {
        cpu::relax();
    }
    write(DR, u32::from(byte));
}

static LOCK: Mutex<()> = Mutex::new(());

/// Writes formatted text, whole against other CPUs' text.
pub fn print(text: fmt::Arguments<'_>) {
    let _guard = LOCK.lock();
    // `Output` never fails.
    let _ = Output.write_fmt(text);
}

/// Writes formatted text without the lock: for exceptions and panics, which may have interrupted
/// its holder.
pub fn print_unlocked(text: fmt::Arguments<'_>) {
    // `Output` never fails.
    let _ = Output.write_fmt(text);
}

/// Prints a line.
macro_rules! println {
    ($($argument:tt)*) => {
        $crate::uart::print(format_args!("{}\n", format_args!($($argument)*)))
    };
}
pub(crate) use println;

/// How characters come in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Receive {
    /// The command loop reads the flag register until there is one.
    Poll,
    /// The receive interrupt puts them into a ring; the command loop sleeps.
    Interrupt,
}

static BY_INTERRUPT: AtomicBool = AtomicBool::new(false);

/// Enables the device: 8 bits, FIFOs on, both directions.
pub fn init() {
    write(IMSC, 0);
    write(LCR_H, 0b111 << 4);
    write(CR, 1 | 1 << 8 | 1 << 9);
}

/// Chooses how characters come in.
pub fn set_receive(mode: Receive) {
    BY_INTERRUPT.store(mode == Receive::Interrupt, Ordering::Relaxed);
    write(
        IMSC,
        if mode == Receive::Interrupt {
            RX_INTERRUPTS
        } else {
            0
        },
    );
}

/// What the interrupt handler received and the command loop has not taken yet. Both are on CPU 0.
struct Ring {
    bytes: [AtomicU8; Ring::SIZE],
    head: AtomicUsize,
    tail: AtomicUsize,
}

impl Ring {
    const SIZE: usize = 1024;

    fn push(&self, byte: u8) {
        let head = self.head.load(Ordering::Relaxed);
        if head.wrapping_sub(self.tail.load(Ordering::Acquire)) == Self::SIZE {
            return; // a full ring loses input, as a full FIFO does
        }
        self.bytes[head % Self::SIZE].store(byte, Ordering::Relaxed);
        self.head.store(head.wrapping_add(1), Ordering::Release);
    }

    fn pop(&self) -> Option<u8> {
        let tail = self.tail.load(Ordering::Relaxed);
        if tail == self.head.load(Ordering::Acquire) {
            return None;
        }
        let byte = self.bytes[tail % Self::SIZE].load(Ordering::Relaxed);
        self.tail.store(tail.wrapping_add(1), Ordering::Release);
        Some(byte)
    }
}

static RING: Ring = Ring {
    bytes: [const { AtomicU8::new(0) }; Ring::SIZE],
    head: AtomicUsize::new(0),
    tail: AtomicUsize::new(0),
};

/// The receive interrupt. It is cleared first: what comes while the FIFO is read raises it again.
pub fn interrupt() {
    write(ICR, RX_INTERRUPTS);
    while read(FR) & FR_RX_EMPTY == 0 {
        RING.push(read(DR) as u8);
    }
}

/// The next character.
fn get() -> u8 {
    if let Some(byte) = RING.pop() {
        return byte;
    }
    if BY_INTERRUPT.load(Ordering::Relaxed) {
        let mut byte = None;
        cpu::wait_until(|| {
            byte = RING.pop();
            byte.is_some()
        });
        return byte.unwrap_or_default();
    }
    while read(FR) & FR_RX_EMPTY != 0 {
        cpu::relax();
    }
    read(DR) as u8
}

/// Reads a line into `buffer`, without its end. What does not fit is dropped; so are bytes that are
/// not ASCII.
pub fn read_line(buffer: &mut [u8]) -> &str {
    let mut length = 0;
    loop {
        match get() {
            b'\r' | b'\n' => break,
            byte if byte.is_ascii() && length < buffer.len() => {
                buffer[length] = byte;
                length += 1;
            }
            _ => {}
        }
    }
    core::str::from_utf8(&buffer[..length]).unwrap_or_default()
}
