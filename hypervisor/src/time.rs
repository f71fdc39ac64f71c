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

/// Makes the EL2 timer of this CPU interrupt in `ns` nanoseconds.
pub fn start_timer(ns: u64) {
    let ticks = (u128::from(ns) * u128::from(frequency()) / 1_000_000_000) as u64;
    // SAFETY: the EL2 timer is ours; its interrupt is handled (interrupts.rs).
    unsafe {
        sysreg::write!("cnthp_tval_el2", ticks.min(i32::MAX as u64));
        sysreg::write!("cnthp_ctl_el2", 1);
    }
}

/// Makes the EL2 timer of this CPU interrupt in `ns` nanoseconds, unless it runs already.
pub fn ensure_timer(ns: u64) {
    const ENABLE: u64 = 1;
    if sysreg::read!("cnthp_ctl_el2") & ENABLE == 0 {
        start_timer(ns);
    }
}

/// Switches the EL2 timer of this CPU off.
pub fn stop_timer() {
    // SAFETY: as above.
    unsafe { sysreg::write!("cnthp_ctl_el2", 0) };
    sysreg::isb();
}
