//! Locks that a stop can come in between of.
//!
//! A CPU may be stopped while it holds a lock: by the stop interrupt inside a window (masking.rs), or at a breakpoint on
//! EL2 code. So who waits for one of these locks can be stopped too, wherever the holder is:
//!
//! - [`Mutex`] is for what needs no more than that.
//! - [`MaskedMutex`] is held with interrupts masked, for a moment only. The debugger needs what is behind it (the heap, the
//!   log), so no CPU may be stopped while it holds one; code that holds one cannot be probed.

use crate::debugger;
use crate::masking::{self, Before};
use core::sync::atomic::{AtomicBool, Ordering};
use lock_api::{GuardNoSend, RawMutex};

/// A lock whose holder can be stopped.
pub type Mutex<T> = lock_api::Mutex<Spin, T>;
/// The guard of a [`Mutex`].
pub type MutexGuard<'a, T> = lock_api::MutexGuard<'a, Spin, T>;
/// A lock whose holder takes no interrupt.
pub type MaskedMutex<T> = lock_api::Mutex<MaskedSpin, T>;

/// Spins; the waiting CPU serves what it must.
#[derive(Debug)]
pub struct Spin(AtomicBool);

impl Spin {
    /// Waits until it looks free.
    fn wait(&self) {
        let mut wait = debugger::Wait::default();
        while self.0.load(Ordering::Relaxed) {
            wait.turn();
        }
    }
}

// SAFETY: `lock` and `try_lock` return success only to who has changed the flag from clear to set.
unsafe impl RawMutex for Spin {
    const INIT: Self = Self(AtomicBool::new(false));

    type GuardMarker = GuardNoSend;

    fn lock(&self) {
        while !self.try_lock() {
            self.wait();
        }
    }

    fn try_lock(&self) -> bool {
        self.0
            .compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed)
            .is_ok()
    }

    unsafe fn unlock(&self) {
        self.0.store(false, Ordering::Release);
    }
}

/// Spins with interrupts as they were, holds with interrupts masked.
#[derive(Debug)]
pub struct MaskedSpin {
    inner: Spin,
    /// Whether the holder was in a window. Only the holder looks at it.
    unmask: AtomicBool,
}

// SAFETY: as `Spin`, which it wraps.
unsafe impl RawMutex for MaskedSpin {
    const INIT: Self = Self {
        inner: Spin::INIT,
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
        let locked = self.inner.try_lock();
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
        // SAFETY: forwarded to the caller, who holds the lock.
        unsafe { self.inner.unlock() };
        if unmask {
            masking::restore(Before::Window);
        }
    }
}
