//! The log: every record goes to the PL011 and into a ring that the `log` command shows.

use crate::cpu;
use crate::lock::MaskedMutex;
use alloc::collections::VecDeque;
use alloc::string::String;
use core::fmt::{self, Write};
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use log::{LevelFilter, Log, Metadata, Record};

/// How many lines the ring keeps.
const KEPT_LINES: usize = 500;

/// PL011 data register.
const UARTDR: u64 = 0x000;
/// PL011 flag register.
const UARTFR: u64 = 0x018;
/// Transmit FIFO full.
const TXFF: u32 = 1 << 5;

/// Base of the PL011, 0 before the device tree has been read.
static UART: AtomicU64 = AtomicU64::new(0);

/// Whether the log goes to the PL011 at all.
static OWNS_UART: AtomicBool = AtomicBool::new(true);

/// Held for one line at a time, so that CPUs do not mix their lines. A panic takes its turn by force.
static LINE: MaskedMutex<()> = MaskedMutex::new(());
static KEPT: MaskedMutex<VecDeque<String>> = MaskedMutex::new(VecDeque::new());

struct Uart(u64);

impl Write for Uart {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.0 == 0 {
            return Ok(());
        }
        for byte in text.bytes() {
            if byte == b'\n' {
                self.put(b'\r');
            }
            self.put(byte);
        }
        Ok(())
    }
}

impl Uart {
    fn put(&self, byte: u8) {
        // SAFETY: `init` was given the base of a PL011 that is mapped as device memory; these two registers have no
        // effect on memory.
        unsafe {
            while ptr::read_volatile((self.0 + UARTFR) as *const u32) & TXFF != 0 {}
            ptr::write_volatile((self.0 + UARTDR) as *mut u32, u32::from(byte));
        }
    }
}

struct ConsoleLog;

impl Log for ConsoleLog {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let micros = crate::time::now_ns() / 1000;
        let mut line = String::new();
        let _ = write!(
            line,
            "[{:4}.{:06}] cpu{} {:5} {}",
            micros / 1_000_000,
            micros % 1_000_000,
            cpu::this().index,
            record.level(),
            record.args()
        );
        let _turn = LINE.lock();
        if OWNS_UART.load(Ordering::Relaxed) {
            let _ = writeln!(Uart(UART.load(Ordering::Relaxed)), "{line}");
        }
        let mut kept = KEPT.lock();
        if kept.len() == KEPT_LINES {
            kept.pop_front();
        }
        kept.push_back(line);
    }

    fn flush(&self) {}
}

/// Starts logging to the PL011 at `uart`.
///
/// # Safety
///
/// `uart` is the base of a PL011, mapped as device memory (or nothing is mapped and no one translates).
pub unsafe fn init(uart: u64, level: LevelFilter) {
    UART.store(uart, Ordering::Relaxed);
    log::set_max_level(level);
    // The only error is a second call, which changes nothing.
    let _ = log::set_logger(&ConsoleLog);
}

/// Somebody else speaks over the PL011 from now on: the log goes to the ring alone. A CPU that dies still says so there.
pub fn leave_uart() {
    OWNS_UART.store(false, Ordering::Relaxed);
}

/// The lines of the ring, oldest first.
pub fn kept(visit: &mut dyn FnMut(&str)) {
    for line in KEPT.lock().iter() {
        visit(line);
    }
}

/// Writes straight to the PL011, whoever holds its turn: for a CPU that is about to stop for ever.
pub fn emergency(arguments: fmt::Arguments<'_>) {
    let turn = LINE.try_lock();
    let _ = Uart(UART.load(Ordering::Relaxed)).write_fmt(arguments);
    drop(turn);
}

/// Waits for a CPU that logs in the same moment, but not for ever.
pub fn emergency_begin() {
    for _ in 0..1_000_000 {
        if LINE.try_lock().is_some() {
            break;
        }
        cpu::relax();
    }
}
