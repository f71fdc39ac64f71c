//! Time at EL2, from the physical counter.

use crate::sysreg;

/// The physical counter, in ticks. Ordered after everything before it.
pub fn ticks() -> u64 {
    sysreg::isb();
    sysreg::read!("cntpct_el0")
}

/// Ticks per second.
pub fn frequency() -> u64 {
    sysreg::read!("cntfrq_el0").max(1)
}

/// Nanoseconds since power-on.
pub fn now_ns() -> u64 {
    (u128::from(ticks()) * 1_000_000_000 / u128::from(frequency())) as u64
}
