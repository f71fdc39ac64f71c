//! The hit path: what happens when a vCPU traps at a site.
//!
//! Nothing here allocates, parses, or takes a lock that a stopped CPU can hold. The one lock is a read of the space's
//! table: its writers hold the VM, and a vCPU of a held VM is never on the hit path ([`crate::machine`], "Holds"); a
//! vCPU that stops returns from here before it parks. So a hit never waits for a writer, and readers do not exclude each
//! other.

use crate::machine::StopReason;

/// The first immediate of the reserved range: slot `n` of a space traps with `HVC #(HVC_BASE + n)`.
pub const HVC_BASE: u16 = 0x4000;

/// What the hypervisor does with a vCPU after a trap.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HitOutcome {
    /// The displaced instruction has been executed: enter the guest with the changed registers.
    Resume,
    /// The displaced instruction must run for real: step the vCPU over it in the step view, then go on.
    Step,
    /// The displaced instruction is a `BRK` of the guest's own: deliver its exception to guest EL1.
    Breakpoint {
        /// The immediate of the `BRK`.
        immediate: u16,
    },
    /// Stop the VM for this reason. The PC is the site; its instruction has not executed.
    Stop(StopReason),
    /// No site of ours. [`crate::space::Space::hit`]: the guest executed an `HVC` of its own.
    /// [`crate::space::Space::pass`]: nothing is displaced at the PC, enter the guest as it is.
    NotOurs,
}
