//! Time at EL2, from the physical counter.

use crate::masking::Masked;
use crate::sysreg;
use core::sync::atomic::{AtomicU64, Ordering};

/// How long the physical CPUs have been stopped, in ticks (rendezvous.rs).
static STOPPED: AtomicU64 = AtomicU64::new(0);

/// The physical counter, in ticks. Ordered after everything before it.
pub fn ticks() -> u64 {
    sysreg::isb();
    sysreg::read!("cntpct_el0")
}

/// Ticks per second.
pub fn frequency() -> u64 {
    sysreg::read!("cntfrq_el0").max(1)
}

/// Nanoseconds per tick in units of 2^-32; 0 until somebody asks. A division by the frequency would be most of what a
/// hit of a probe costs.
static SCALE: AtomicU64 = AtomicU64::new(0);

/// Nanoseconds since power-on.
pub fn now_ns() -> u64 {
    let known = SCALE.load(Ordering::Relaxed);
    let scale = if known == 0 { init_scale() } else { known };
    ((u128::from(ticks()) * u128::from(scale)) >> 32) as u64
}

#[cold]
fn init_scale() -> u64 {
    // Every CPU comes to the same result. CNTFRQ_EL0 is at least 1 MHz where it says the truth: 1000 << 32 fits.
    let scale = (1_000_000_000 << 32) / u128::from(frequency());
    let scale = u64::try_from(scale).unwrap_or(u64::MAX);
    SCALE.store(scale, Ordering::Relaxed);
    scale
}

/// How long the physical CPUs have been stopped since power-on, in ticks.
pub fn stopped_ticks() -> u64 {
    STOPPED.load(Ordering::Relaxed)
}

/// A stop of `ticks` ends.
pub fn add_stopped_ticks(ticks: u64) {
    STOPPED.fetch_add(ticks, Ordering::Relaxed);
}

/// A clock that stands still while the physical CPUs are stopped, in ticks.
pub fn running_ticks() -> u64 {
    // No stop may come between the two.
    let _masked = Masked::new();
    ticks().wrapping_sub(stopped_ticks())
}

/// The same in nanoseconds: for time limits on what other CPUs do.
pub fn running_ns() -> u64 {
    (u128::from(running_ticks()) * 1_000_000_000 / u128::from(frequency())) as u64
}

/// Sets the virtual counter of this CPU back by `ticks`.
pub fn shift_guest_time(ticks: u64) {
    let offset = sysreg::read!("cntvoff_el2").wrapping_add(ticks);
    // SAFETY: the guest's view of time only.
    unsafe { sysreg::write!("cntvoff_el2", offset) };
    sysreg::isb();
}

/// Sets the virtual counter of this CPU: `offset` is how far it is behind [`running_ticks`].
pub fn set_guest_time(offset: u64) {
    let _masked = Masked::new();
    // SAFETY: the guest's view of time only.
    unsafe { sysreg::write!("cntvoff_el2", offset.wrapping_add(stopped_ticks())) };
    sysreg::isb();
}

fn ticks_to_ns(ticks: u64) -> u64 {
    (u128::from(ticks) * 1_000_000_000 / u128::from(frequency())) as u64
}

/// How long ago the EL2 timer of this CPU was to fire, in nanoseconds.
pub fn timer_lateness() -> u64 {
    ticks_to_ns(ticks().saturating_sub(sysreg::read!("cnthp_cval_el2")))
}

/// How long ago the guest's virtual timer on this CPU was to fire, in nanoseconds.
pub fn guest_timer_lateness() -> u64 {
    let now = sysreg::read!("cntvct_el0");
    ticks_to_ns(now.saturating_sub(sysreg::read!("cntv_cval_el0")))
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
