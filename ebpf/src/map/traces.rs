//! The index of a map of backtraces: a backtrace is found by its hash, which gives its number.
//!
//! Each number has a lock of its own, which is held while one backtrace is compared, stored or
//! copied; [`super::hash`] says why such locks are harmless.

use super::MapError;
use crate::arena::{OutOfMemory, allocate};
use alloc::boxed::Box;
use spin::mutex::TicketMutex;

/// What happens to a backtrace whose number another one has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum OnCollision {
    /// It is refused.
    Refuse,
    /// It takes the other's place (`BPF_F_REUSE_STACKID`).
    Replace,
}

/// When two backtraces are the same.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Compare {
    /// When all their addresses are.
    All,
    /// When their hashes are (`BPF_F_FAST_STACK_CMP`).
    Hash,
}

/// How many numbers a map of so many entries has (`stack_map_alloc`).
pub(super) fn numbers(max_entries: u32) -> usize {
    (max_entries as usize).next_power_of_two()
}

/// Bytes of a map of so many entries beside its values.
pub(super) fn overhead(max_entries: u32) -> u64 {
    (numbers(max_entries) * size_of::<Slot>()) as u64
}

/// The hash of the backtrace that a number stands for.
type Slot = TicketMutex<Option<u32>>;

/// Which numbers are taken, and by what.
#[derive(Debug)]
pub(super) struct Traces(Box<[Slot]>);

impl Traces {
    pub(super) fn allocate(max_entries: u32) -> Result<Self, OutOfMemory> {
        let slots = allocate(numbers(max_entries), |_| TicketMutex::new(None))?;
        Ok(Self(slots))
    }

    /// The number of the backtrace with that hash. `is_same` compares it with what the number stands
    /// for, `write` stores it.
    pub(super) fn store(
        &self,
        hash: u32,
        on_collision: OnCollision,
        is_same: impl FnOnce(usize) -> bool,
        write: impl FnOnce(usize),
    ) -> Result<u32, MapError> {
        let number = hash as usize & (self.0.len() - 1);
        let mut slot = self.0[number].lock();
        let found = *slot == Some(hash) && is_same(number);
        if !found && slot.is_some() && on_collision == OnCollision::Refuse {
            return Err(MapError::Exists);
        }
        if !found {
            write(number);
            *slot = Some(hash);
        }
        Ok(number as u32)
    }

    /// Lets `read` copy the backtrace of a number; `false` where there is none.
    pub(super) fn read(&self, number: usize, read: impl FnOnce()) -> bool {
        let Some(slot) = self.0.get(number) else {
            return false;
        };
        let slot = slot.lock();
        if slot.is_some() {
            read();
        }
        slot.is_some()
    }

    pub(super) fn delete(&self, number: usize) -> Result<(), MapError> {
        let slot = self.0.get(number).ok_or(MapError::NotFound)?;
        slot.lock().take().map(drop).ok_or(MapError::NotFound)
    }

    /// How many numbers are taken.
    pub(super) fn len(&self) -> usize {
        self.0.iter().filter(|slot| slot.lock().is_some()).count()
    }
}
