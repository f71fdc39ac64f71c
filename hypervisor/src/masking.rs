//! Which interrupts EL2 takes, and when.
//!
//! Two masks work together: PSTATE.I, and the CPU interface's priority mask `ICC_PMR_EL1`. A CPU at EL2 is in one of three
//! states:
//!
//! | state | PSTATE.I | priority mask | where |
//! |---|---|---|---|
//! | **closed** | masked | open | from a vector to `ERET` or to a window: the way of a probe hit, entering a guest |
//! | **window** | open | stop only | everything that may take long: [`Window`] |
//! | **masked** | masked | stop only | a few short sections inside a window: [`Masked`] |
//!
//! In a window a CPU takes the stop interrupt (rendezvous.rs) and nothing else; all others it fetches itself, as it does in
//! the closed state (interrupts.rs). A guest always runs with an open priority mask, so that every interrupt ends its turn.
//! Code that runs closed or masked is short and takes no lock that a stopped CPU may hold: that bounds how long a CPU
//! takes to stop.

use crate::{PERISCOPE, gic, sysreg};

/// PSTATE.I as `DAIF` shows it.
const DAIF_I: u64 = 1 << 7;

fn is_masked() -> bool {
    sysreg::read!("daif") & DAIF_I != 0
}

fn set_mask() {
    // SAFETY: fewer interrupts are taken.
    unsafe { core::arch::asm!("msr daifset, #2", options(nostack, preserves_flags)) };
}

fn clear_mask() {
    // SAFETY: callers are in a window, where the only interrupt is the stop interrupt. Its handler (rendezvous.rs) leaves
    // all of the interrupted code's state as it was.
    unsafe { core::arch::asm!("msr daifclr, #2", options(nostack, preserves_flags)) };
}

/// While it lives, the stop interrupt is taken. Nests; inside [`Masked`] it has no effect before that ends.
#[derive(Debug)]
pub struct Window {
    opened: bool,
}

impl Window {
    /// Opens one, unless the CPU is in one already.
    pub fn open() -> Self {
        // Nobody stops a CPU where there is no debugger.
        let opened = PERISCOPE && gic::priority_mask() == gic::PriorityMask::Open;
        if opened {
            gic::set_priority_mask(gic::PriorityMask::StopOnly);
            clear_mask();
        }
        Self { opened }
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        if self.opened {
            set_mask();
            gic::set_priority_mask(gic::PriorityMask::Open);
        }
    }
}

/// While it lives, this CPU takes no interrupt at all.
#[derive(Debug)]
pub struct Masked {
    before: Before,
}

/// What a mask goes back to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Before {
    /// Interrupts were masked already.
    Masked,
    /// The CPU was in a window.
    Window,
}

impl Masked {
    /// Masks.
    pub fn new() -> Self {
        Self { before: mask() }
    }
}

impl Drop for Masked {
    fn drop(&mut self) {
        restore(self.before);
    }
}

/// Masks interrupts until [`restore`]: [`Masked`] for those who cannot keep a guard.
pub fn mask() -> Before {
    if is_masked() {
        Before::Masked
    } else {
        set_mask();
        Before::Window
    }
}

/// Ends what [`mask`] began and returned `before` from.
pub fn restore(before: Before) {
    if before == Before::Window {
        clear_mask();
    }
}

/// Runs `action` with interrupts masked and the priority mask at `mask`: what passes it can be waited for and acknowledged.
pub fn with_priority_mask<T>(mask: gic::PriorityMask, action: impl FnOnce() -> T) -> T {
    let _masked = Masked::new();
    let before = gic::priority_mask();
    gic::set_priority_mask(mask);
    let result = action();
    gic::set_priority_mask(before);
    result
}

/// Waits until an interrupt that passes `mask` is pending. WFI wakes for one that PSTATE.I masks, but not for one that the
/// priority mask holds back.
pub fn wait(mask: gic::PriorityMask) {
    with_priority_mask(mask, || {
        sysreg::dsb_ish();
        aarch64_cpu::asm::wfi();
    });
}
