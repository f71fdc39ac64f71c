//! The virtual timer (PPI 27): ticks at a steady rate, sleep, and the counter.

use crate::cpu::{self, read_sysreg, write_sysreg};
use crate::smp;
use core::sync::atomic::Ordering;

/// The virtual timer's interrupt.
pub const INTID: u32 = 27;

const ENABLE: u64 = 1;

/// The virtual counter.
pub fn counter() -> u64 {
    // SAFETY: ISB orders the read of the counter after what came before it.
    unsafe { core::arch::asm!("isb", options(nostack)) }
    read_sysreg!("CNTVCT_EL0")
}

/// Counter increments per second.
pub fn frequency() -> u64 {
    read_sysreg!("CNTFRQ_EL0")
}

/// Starts ticks every `period` counter increments on this CPU; 0 stops them.
pub fn set_period(period: u64) {
    smp::this_cpu()
        .timer_period
        .store(period, Ordering::Relaxed);
    // SAFETY: the timer's interrupt has a handler.
    unsafe {
        if period == 0 {
            write_sysreg!("CNTV_CTL_EL0", 0);
        } else {
            write_sysreg!("CNTV_CVAL_EL0", counter().wrapping_add(period));
            write_sysreg!("CNTV_CTL_EL0", ENABLE);
        }
    }
}

/// The timer's interrupt: the next tick is one period after this one, however late this one came.
pub fn interrupt() {
    let this = smp::this_cpu();
    let period = this.timer_period.load(Ordering::Relaxed);
    if period == 0 {
        // SAFETY: as for `set_period`.
        unsafe { write_sysreg!("CNTV_CTL_EL0", 0) };
        return;
    }
    let next = read_sysreg!("CNTV_CVAL_EL0").wrapping_add(period);
    // SAFETY: as for `set_period`.
    unsafe { write_sysreg!("CNTV_CVAL_EL0", next) };
    smp::bump(&this.ticks);
}

/// Sleeps until `increments` counter increments have passed. Returns how many really have.
pub fn sleep(increments: u64) -> u64 {
    let start = counter();
    if smp::this_cpu().timer_period.load(Ordering::Relaxed) == 0 {
        // SAFETY: as for `set_period`.
        unsafe {
            write_sysreg!("CNTV_CVAL_EL0", start.wrapping_add(increments));
            write_sysreg!("CNTV_CTL_EL0", ENABLE);
        }
    }
    cpu::wait_until(|| counter().wrapping_sub(start) >= increments);
    counter().wrapping_sub(start)
}
