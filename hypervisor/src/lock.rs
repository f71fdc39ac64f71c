//! Locks that a stop can come in between of.
//!
//! A CPU may be stopped while it holds a lock: by the stop interrupt inside a window (masking.rs), or at a breakpoint on
//! EL2 code. So who waits for one of these locks can be stopped too, wherever the holder is:
//!
//! - [`Mutex`] is for what needs no more than that.
//! - [`MaskedMutex`] is held with interrupts masked, for a moment only. The debugger needs what is behind it (the heap, the
//!   log), so no CPU may be stopped while it holds one; code that holds one cannot be probed.

use crate::masking::{self, Before};
use crate::{cpu, debugger};
use core::sync::atomic::{AtomicBool, Ordering};
use lock_api::{GuardNoSend, RawMutex};

/// A lock whose holder can be stopped.
pub type Mutex<T> = lock_api::Mutex<Spin, T>;
/// The guard of a [`Mutex`].
pub type MutexGuard<'a, T> = lock_api::MutexGuard<'a, Spin, T>;
/// A lock whose holder takes no interrupt.
pub type MaskedMutex<T> = lock_api::Mutex<MaskedSpin, T>;

/// Whether a lock is held.
#[derive(Debug)]
struct Flag(AtomicBool);

impl Flag {
    /// Makes the caller the holder, if there is none.
    fn try_take(&self) -> bool {
        self.0
            .compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed)
            .is_ok()
    }

    fn give_back(&self) {
        self.0.store(false, Ordering::Release);
    }

    /// Waits until it looks free; the waiting CPU serves what it must.
    fn wait(&self) {
        let mut wait = debugger::Wait::default();
        while self.0.load(Ordering::Relaxed) {
            wait.turn();
        }
    }
}

/// Spins. Which CPUs hold such locks is known: the debugger cannot wait for one that rests.
#[derive(Debug)]
pub struct Spin(Flag);

// SAFETY: `lock` and `try_lock` return success only to who has taken the flag.
unsafe impl RawMutex for Spin {
    const INIT: Self = Self(Flag(AtomicBool::new(false)));

    type GuardMarker = GuardNoSend;

    fn lock(&self) {
        while !self.try_lock() {
            self.0.wait();
        }
    }

    fn try_lock(&self) -> bool {
        let taken = self.0.try_take();
        if taken {
            cpu::this().lock_taken();
        }
        taken
    }

    unsafe fn unlock(&self) {
        self.0.give_back();
        cpu::this().lock_dropped();
    }
}

/// Spins with interrupts as they were, holds with interrupts masked.
#[derive(Debug)]
pub struct MaskedSpin {
    inner: Flag,
    /// Whether the holder was in a window. Only the holder looks at it.
    unmask: AtomicBool,
}

// SAFETY: as `Spin`.
unsafe impl RawMutex for MaskedSpin {
    const INIT: Self = Self {
        inner: Flag(AtomicBool::new(false)),
        unmask: AtomicBool::new(false),
    };

    type GuardMarker = GuardNoSend;

    fn lock(&self) {
        while !self.try_lock() {
            self.inner.wait();
        }
    }

    fn try_lock(&self) -> bool {
        let before = masking::mask();
        let locked = self.inner.try_take();
        if locked {
            self.unmask
                .store(before == Before::Window, Ordering::Relaxed);
        } else {
            masking::restore(before);
        }
        locked
    }

    unsafe fn unlock(&self) {
        let unmask = self.unmask.load(Ordering::Relaxed);
        self.inner.give_back();
        if unmask {
            masking::restore(Before::Window);
        }
    }
}
