//! The guest's own debug exceptions (Arm ARM D2): single-stepping itself, a hardware breakpoint, a
//! watchpoint.
//!
//! All state is per CPU, as the debug registers are.

use crate::cpu::{read_sysreg, write_sysreg};
use crate::smp::{self, bump};
use crate::vectors::Frame;
use core::arch::global_asm;
use core::sync::atomic::{AtomicU64, Ordering};

const SPSR_SS: u64 = 1 << 21;
const SPSR_D: u64 = 1 << 9;

const MDSCR_SS: u64 = 1 << 0;
const MDSCR_KDE: u64 = 1 << 13;
const MDSCR_MDE: u64 = 1 << 15;

/// DBGBCR: any instruction byte, EL1 only, enabled.
const BCR: u64 = 0xf << 5 | 0b01 << 1 | 1;
/// DBGWCR: all eight bytes, EL1 only, enabled; which accesses is in bits 4:3.
const WCR: u64 = 0xff << 5 | 0b01 << 1 | 1;
const ENABLE: u64 = 1;

/// What the debug exceptions of a CPU are used for.
pub struct State {
    purpose: AtomicU64,
    /// Steps to go.
    remaining: AtomicU64,
    /// Step exceptions so far in this command.
    steps: AtomicU64,
    /// Breakpoint and watchpoint hits so far in this command.
    hits: AtomicU64,
    /// Fold of the stepped PCs.
    checksum: AtomicU64,
}

/// Nothing: a debug exception is unexpected.
const NOTHING: u64 = 0;
/// [`run_steps`] counts steps.
const COUNT_STEPS: u64 = 1;
/// Waiting for hits of the breakpoint, or stepping past one.
const BREAKPOINT: u64 = 2;
/// Waiting for hits of the watchpoint, or stepping past one.
const WATCHPOINT: u64 = 3;

impl State {
    /// Debug exceptions in no use.
    pub const fn new() -> Self {
        Self {
            purpose: AtomicU64::new(NOTHING),
            remaining: AtomicU64::new(0),
            steps: AtomicU64::new(0),
            hits: AtomicU64::new(0),
            checksum: AtomicU64::new(0),
        }
    }

    fn begin(&self, purpose: u64) {
        self.steps.store(0, Ordering::Relaxed);
        self.hits.store(0, Ordering::Relaxed);
        self.checksum.store(0, Ordering::Relaxed);
        self.purpose.store(purpose, Ordering::Relaxed);
    }

    fn end(&self) -> [u64; 2] {
        self.purpose.store(NOTHING, Ordering::Relaxed);
        [
            self.hits.load(Ordering::Relaxed),
            self.steps.load(Ordering::Relaxed),
        ]
    }
}

/// Unlocks the OS lock, which resets to locked and holds debug exceptions back.
pub fn init_cpu() {
    // SAFETY: no breakpoint is set yet.
    unsafe {
        write_sysreg!("OSLAR_EL1", 0u64);
        write_sysreg!("MDSCR_EL1", 0u64);
    }
}

unsafe extern "C" {
    /// Starts stepping by an SVC and runs the loop until the last step; returns how often its ADD
    /// ran.
    fn step_run() -> u64;
    /// First instruction of the loop; only its address is used.
    static step_loop: u8;
    /// Returns its argument plus one.
    fn hwbp_target(value: u64) -> u64;
}

global_asm!(
    r#"
    .pushsection .text, "ax"
    .global step_run, step_loop, hwbp_target
    .type   step_run, %function
    .type   hwbp_target, %function
    .balign 16
step_run:
    mov     x0, #0
    mov     x1, #0
    svc     #0x200                  // the handler returns with the step armed
step_loop:
    cbnz    x0, 1f                  // the last step sets x0
    add     x1, x1, #1
    b       step_loop
1:  mov     x0, x1
    ret
    .size   step_run, . - step_run

hwbp_target:
    add     x0, x0, #1
    ret
    .size   hwbp_target, . - hwbp_target
    .popsection
    "#
);

/// Steps the loop `steps` times, at least once. Returns the number of step exceptions, the fold of
/// the PCs they came with (`sum = sum * 31 + (pc - step_loop)`, wrapping), and how often the loop's
/// ADD ran.
pub fn run_steps([steps, ..]: [u64; 4]) -> [u64; 4] {
    let state = &smp::this_cpu().debug;
    state.remaining.store(steps.max(1), Ordering::Relaxed);
    state.begin(COUNT_STEPS);
    // SAFETY: keeps the procedure call standard.
    let additions = unsafe { step_run() };
    let [_, count] = state.end();
    [count, state.checksum.load(Ordering::Relaxed), additions, 0]
}

/// The SVC of `step_run`: one step from here on.
pub fn begin_step(frame: &mut Frame) {
    set_mdscr(MDSCR_SS | MDSCR_KDE);
    frame.spsr = frame.spsr & !SPSR_D | SPSR_SS;
}

fn set_mdscr(value: u64) {
    // SAFETY: debug exceptions have handlers.
    unsafe { write_sysreg!("MDSCR_EL1", value) };
}

/// A step exception. `false` if nobody waits for one.
pub fn step(frame: &mut Frame) -> bool {
    let state = &smp::this_cpu().debug;
    bump(&state.steps);
    match state.purpose.load(Ordering::Relaxed) {
        COUNT_STEPS => count_step(state, frame),
        BREAKPOINT => {
            set_breakpoint(BCR);
            stop_stepping(frame, MDSCR_MDE | MDSCR_KDE);
        }
        WATCHPOINT => {
            set_watchpoint(read_sysreg!("DBGWCR0_EL1") | ENABLE);
            stop_stepping(frame, MDSCR_MDE | MDSCR_KDE);
        }
        _ => return false,
    }
    true
}

fn count_step(state: &State, frame: &mut Frame) {
    let offset = frame.elr.wrapping_sub((&raw const step_loop) as u64);
    let sum = state
        .checksum
        .load(Ordering::Relaxed)
        .wrapping_mul(31)
        .wrapping_add(offset);
    state.checksum.store(sum, Ordering::Relaxed);
    let remaining = state.remaining.load(Ordering::Relaxed) - 1;
    state.remaining.store(remaining, Ordering::Relaxed);
    if remaining > 0 {
        frame.spsr |= SPSR_SS;
    } else {
        stop_stepping(frame, 0);
        frame.x[0] = 1;
    }
}

fn stop_stepping(frame: &mut Frame, mdscr: u64) {
    set_mdscr(mdscr);
    frame.spsr &= !SPSR_SS;
}

/// Steps past the instruction that hit, as Linux does: the point is off for that one instruction.
fn step_past(frame: &mut Frame) {
    set_mdscr(MDSCR_MDE | MDSCR_KDE | MDSCR_SS);
    frame.spsr |= SPSR_SS;
}

/// A breakpoint exception. `false` if nobody waits for one there.
pub fn breakpoint(frame: &mut Frame) -> bool {
    let state = &smp::this_cpu().debug;
    let expected = frame.elr == hwbp_target as *const () as u64;
    if state.purpose.load(Ordering::Relaxed) != BREAKPOINT || !expected {
        return false;
    }
    bump(&state.hits);
    set_breakpoint(BCR & !ENABLE);
    step_past(frame);
    true
}

/// A watchpoint exception. `false` if nobody waits for one.
pub fn watchpoint(frame: &mut Frame) -> bool {
    let state = &smp::this_cpu().debug;
    if state.purpose.load(Ordering::Relaxed) != WATCHPOINT {
        return false;
    }
    bump(&state.hits);
    set_watchpoint(read_sysreg!("DBGWCR0_EL1") & !ENABLE);
    step_past(frame);
    true
}

fn set_breakpoint(control: u64) {
    // SAFETY: breakpoint exceptions have a handler.
    unsafe { write_sysreg!("DBGBCR0_EL1", control) };
}

fn set_watchpoint(control: u64) {
    // SAFETY: watchpoint exceptions have a handler.
    unsafe { write_sysreg!("DBGWCR0_EL1", control) };
}

/// Calls `hwbp_target` `count` times with a hardware breakpoint on it. Returns the hits, the steps
/// past them, and the result of the chain of calls, which is `count`.
pub fn run_breakpoint([count, ..]: [u64; 4]) -> [u64; 4] {
    let state = &smp::this_cpu().debug;
    state.begin(BREAKPOINT);
    // SAFETY: the exception it makes has a handler.
    unsafe { write_sysreg!("DBGBVR0_EL1", hwbp_target as *const () as u64) };
    set_breakpoint(BCR);
    set_mdscr(MDSCR_MDE | MDSCR_KDE);
    let mut value = 0;
    for _ in 0..count {
        // SAFETY: keeps the procedure call standard.
        value = unsafe { hwbp_target(value) };
    }
    set_breakpoint(0);
    set_mdscr(0);
    let [hits, steps] = state.end();
    [hits, steps, value, 0]
}

/// The word under the watchpoint, the guest's or a debugger's. Commands run one at a time, so it
/// serves all CPUs.
#[unsafe(export_name = "watched_word")]
static WATCHED: AtomicU64 = AtomicU64::new(0);

/// Stores to and loads from [`WATCHED`], in turns, `count` times each. Returns the last value
/// loaded, which is `count`.
fn touch_watched(count: u64) -> u64 {
    let mut value: u64 = 0;
    for _ in 0..count {
        WATCHED.store(value.wrapping_add(1), Ordering::Relaxed);
        value = WATCHED.load(Ordering::Relaxed);
    }
    value
}

/// [`touch_watched`] without a watchpoint of the guest's: for a debugger's. Returns the word's
/// address and the last value.
pub fn run_touches([count, ..]: [u64; 4]) -> [u64; 4] {
    [WATCHED.as_ptr() as u64, touch_watched(count), 0, 0]
}

/// Stores to and loads from a word `count` times each with a watchpoint on it; `accesses` is
/// DBGWCR.LSC (1 loads, 2 stores, 3 both). Returns the hits, the steps past them, and the last
/// value loaded, which is `count`.
pub fn run_watchpoint([count, accesses, ..]: [u64; 4]) -> [u64; 4] {
    let state = &smp::this_cpu().debug;
    WATCHED.store(0, Ordering::Relaxed);
    state.begin(WATCHPOINT);
    // SAFETY: the exception it makes has a handler.
    unsafe { write_sysreg!("DBGWVR0_EL1", WATCHED.as_ptr() as u64) };
    set_watchpoint(WCR | accesses << 3);
    set_mdscr(MDSCR_MDE | MDSCR_KDE);
    let value = touch_watched(count);
    set_watchpoint(0);
    set_mdscr(0);
    let [hits, steps] = state.end();
    [hits, steps, value, 0]
}
