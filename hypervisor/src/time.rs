//! Time at EL2, from the physical counter.

use crate::masking::Masked;
use crate::{cpu, sysreg};
use core::sync::atomic::{AtomicU64, Ordering};
use probes::machine::Stamp;

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

/// Nanoseconds since power-on.
pub fn now_ns() -> u64 {
    sysreg::isb();
    hit_ns()
}

/// Nanoseconds since power-on, for the way of a hit: the exception that began it has ordered this read after everything
/// before, without a barrier of its own.
#[inline]
pub fn hit_ns() -> u64 {
    to_ns(sysreg::read!("cntpct_el0"))
}

/// Ticks in nanoseconds, without a division.
#[inline]
pub fn to_ns(ticks: u64) -> u64 {
    let fixed_point = u128::from(ticks) * u128::from(TICK_LENGTH.load(Ordering::Relaxed));
    (fixed_point >> TICK_FRACTION) as u64
}

/// When and where a hit happens: now, here.
#[inline]
pub fn stamp() -> Stamp {
    Stamp {
        time_ns: hit_ns(),
        cpu: cpu::this().index,
    }
}

/// Bits behind the point of [`TICK_LENGTH`].
const TICK_FRACTION: u32 = 32;
/// Nanoseconds of a tick, as a fixed-point number. A division by the frequency would be most of what a hit costs.
static TICK_LENGTH: AtomicU64 = AtomicU64::new(0);

/// Looks how long a tick is. Boot CPU; until then all times are 0.
pub fn init() {
    // CNTFRQ_EL0 is at least 1 MHz where it says the truth: 1000 << 32 fits.
    let length = (1_000_000_000 << TICK_FRACTION) / u128::from(frequency());
    let length = u64::try_from(length).unwrap_or(u64::MAX);
    TICK_LENGTH.store(length, Ordering::Relaxed);
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
