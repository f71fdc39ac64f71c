//! The slots of a map of programs, which tail calls go through.

use super::{Entry, MapError};
use crate::arena::{OutOfMemory, allocate};
use alloc::boxed::Box;
use core::sync::atomic::{AtomicU32, Ordering};

/// Which program of the object is where: its number plus 1, or 0. The slots lie outside of the arena: no
/// program writes them.
#[derive(Debug)]
pub(super) struct Programs(Box<[AtomicU32]>);

/// What the map holds in the beginning, of the bytes in a definition.
pub(crate) fn initial(bytes: &[u8]) -> impl Iterator<Item = (usize, usize)> {
    let (slots, _) = bytes.as_chunks();
    let slots = slots.iter().map(|&slot| u32::from_le_bytes(slot));
    let filled = |(slot, number): (usize, u32)| Some((slot, number.checked_sub(1)? as usize));
    slots.enumerate().filter_map(filled)
}

impl Programs {
    /// So many slots, filled as `bytes` say.
    pub(super) fn allocate(entries: u32, bytes: &[u8]) -> Result<Self, OutOfMemory> {
        let programs = Self(allocate(entries as usize, |_| AtomicU32::new(0))?);
        for (slot, program) in initial(bytes) {
            // A definition has no more than there are slots.
            let _ = programs.set(slot, Some(program));
        }
        Ok(programs)
    }

    /// The program in a slot.
    pub(super) fn get(&self, slot: usize) -> Option<usize> {
        let number = self.0.get(slot)?.load(Ordering::Relaxed);
        Some(number.checked_sub(1)? as usize)
    }

    /// Puts a program into a slot, or none.
    pub(super) fn set(&self, slot: usize, program: Option<usize>) -> Result<(), MapError> {
        let number = program.map_or(0, |program| program as u32 + 1);
        let place = self.0.get(slot).ok_or(MapError::OutOfRange)?;
        let before = place.swap(number, Ordering::Relaxed);
        if before == 0 && program.is_none() {
            Err(MapError::NotFound)
        } else {
            Ok(())
        }
    }

    /// All of them.
    pub(super) fn all(&self) -> impl Iterator<Item = usize> {
        (0..self.0.len()).filter_map(|slot| self.get(slot))
    }

    /// How many slots hold one.
    pub(super) fn len(&self) -> usize {
        self.all().count()
    }

    /// Calls `visit` for every slot that holds a program until it returns `false`.
    pub(super) fn for_each(&self, visit: &mut dyn FnMut(Entry<'_>) -> bool) {
        let filled = (0..self.0.len()).filter_map(|slot| Some((slot as u32, self.get(slot)?)));
        for (slot, program) in filled {
            let is_wanted = visit(Entry {
                key: &slot.to_le_bytes(),
                cpu: None,
                value: &(program as u32).to_le_bytes(),
            });
            if !is_wanted {
                return;
            }
        }
    }
}
