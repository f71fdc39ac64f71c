//! `u32 get_prandom_u32()`.

use crate::run::Run;

/// A number that programs cannot foresee, for samples and not for secrets: the time, mixed as by SplitMix64
/// (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
pub(super) fn number(run: &mut Run<'_>) -> u32 {
    // The time may stand still between two calls, but what is left of the budget does not.
    let seed = run.host.ktime_ns() ^ run.budget.rotate_left(32) ^ (run.cpu as u64) << 56;
    let mixed = (seed ^ seed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    (mixed ^ mixed >> 31) as u32
}
