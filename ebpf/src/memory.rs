//! The memory that a running program can reach: context, stack, map values. Every access of the
//! interpreter and of the helpers is checked here, against what it points into.

use crate::address::Place;
use crate::arena::{Arena, Atomic};
use crate::host::Context;
use crate::map::Map;
use crate::stack::frame_end;
use crate::width::{Width, extract};
use core::ops::Range;

/// Bytes of the context.
pub(crate) const CONTEXT_SIZE: usize = size_of::<Context>();

/// An access outside everything that the program may access so.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct OutOfBounds;

/// Whether something may be written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Permission {
    ReadOnly,
    ReadWrite,
}

/// The memory of one run.
pub(crate) struct Memory<'a> {
    pub(crate) context: &'a Context,
    pub(crate) arena: &'a Arena,
    /// The part of the arena that is the stack of this CPU.
    pub(crate) stack: Range<usize>,
    /// In the order of their values in the arena.
    pub(crate) maps: &'a [Map],
}

impl<'a> Memory<'a> {
    /// Loads, zero-extended.
    pub(crate) fn load(&self, address: u64, width: Width) -> Result<u64, OutOfBounds> {
        let value = match Place::parse(address) {
            Some(Place::Arena(offset)) => {
                self.check_arena(offset, width.bytes())?;
                self.arena.load(offset, width)
            }
            Some(Place::Context(offset)) => self.load_context(offset, width),
            Some(Place::Handle(_) | Place::Function(_)) | None => None,
        };
        value.ok_or(OutOfBounds)
    }

    /// Stores the low bits of `value`.
    pub(crate) fn store(&self, address: u64, width: Width, value: u64) -> Result<(), OutOfBounds> {
        let offset = self.writable(address, width.bytes())?;
        self.arena.store(offset, width, value).ok_or(OutOfBounds)
    }

    /// Does an atomic operation at an aligned address and returns the old value.
    pub(crate) fn atomic(&self, address: u64, atomic: Atomic) -> Result<u64, OutOfBounds> {
        let offset = self.writable(address, atomic.width.bytes())?;
        self.arena.atomic(offset, atomic).ok_or(OutOfBounds)
    }

    /// Whether `length` bytes at `address` can be read. None can anywhere, also behind the end of a
    /// value.
    pub(crate) fn check_read(&self, address: u64, length: usize) -> Result<(), OutOfBounds> {
        if length == 0 {
            return Ok(());
        }
        match Place::parse(address) {
            Some(Place::Arena(offset)) => self.check_arena(offset, length).map(|_| ()),
            Some(Place::Context(offset)) if offset.saturating_add(length) <= CONTEXT_SIZE => Ok(()),
            _ => Err(OutOfBounds),
        }
    }

    /// Whether `length` bytes at `address` can be written. None can anywhere.
    pub(crate) fn check_write(&self, address: u64, length: usize) -> Result<(), OutOfBounds> {
        if length == 0 {
            return Ok(());
        }
        self.writable(address, length).map(|_| ())
    }

    /// Makes the whole stack of this CPU zeros.
    pub(crate) fn clear_stack(&self) {
        self.arena.clear(&self.stack);
    }

    /// Copies bytes out.
    pub(crate) fn read(&self, address: u64, target: &mut [u8]) -> Result<(), OutOfBounds> {
        self.check_read(address, target.len())?;
        for (index, chunk) in target.chunks_mut(8).enumerate() {
            let word = self.load_up_to_word(address + 8 * index as u64, chunk.len())?;
            chunk.copy_from_slice(&word.to_le_bytes()[..chunk.len()]);
        }
        Ok(())
    }

    /// Copies bytes in, all or none.
    pub(crate) fn write(&self, address: u64, source: &[u8]) -> Result<(), OutOfBounds> {
        self.check_write(address, source.len())?;
        let (words, rest) = source.as_chunks::<8>();
        let mut address = address;
        for word in words {
            self.store(address, Width::Double, u64::from_le_bytes(*word))?;
            address += 8;
        }
        for &byte in rest {
            self.store(address, Width::Byte, byte.into())?;
            address += 1;
        }
        Ok(())
    }

    /// Copies bytes from one place to another, all or none.
    pub(crate) fn copy(&self, target: u64, source: u64, length: usize) -> Result<(), OutOfBounds> {
        self.check_write(target, length)?;
        self.check_read(source, length)?;
        for offset in (0..length).step_by(8) {
            let chunk = (length - offset).min(8);
            let word = self.load_up_to_word(source + offset as u64, chunk)?;
            self.write(target + offset as u64, &word.to_le_bytes()[..chunk])?;
        }
        Ok(())
    }

    /// The words of `length` bytes at `address` that can be read, by number; the last is
    /// zero-extended.
    pub(crate) fn words(&self, address: u64, length: usize) -> impl Fn(usize) -> u64 {
        move |index| {
            let offset = 8 * index;
            let chunk = length.saturating_sub(offset).min(8);
            // It can be read, and a program cannot take memory away.
            self.load_up_to_word(address + offset as u64, chunk)
                .unwrap_or(0)
        }
    }

    /// The `length` (at most 8) bytes at `address`, zero-extended.
    pub(crate) fn load_up_to_word(&self, address: u64, length: usize) -> Result<u64, OutOfBounds> {
        if length == 8 {
            return self.load(address, Width::Double);
        }
        (0..length as u64).try_fold(0, |word, index| {
            Ok(word | self.load(address + index, Width::Byte)? << (8 * index))
        })
    }

    /// The offset in the arena of `length` bytes that may be written.
    fn writable(&self, address: u64, length: usize) -> Result<usize, OutOfBounds> {
        let Some(Place::Arena(offset)) = Place::parse(address) else {
            return Err(OutOfBounds);
        };
        match self.check_arena(offset, length)? {
            Permission::ReadWrite => Ok(offset),
            Permission::ReadOnly => Err(OutOfBounds),
        }
    }

    /// Whether `length` bytes from `offset` on lie inside one frame or one value, and what may be
    /// done with them.
    fn check_arena(&self, offset: usize, length: usize) -> Result<Permission, OutOfBounds> {
        let (end, permission) = if self.stack.contains(&offset) {
            (frame_end(offset), Permission::ReadWrite)
        } else {
            let map = self.map_at(offset).ok_or(OutOfBounds)?;
            let end = map.values().end_of(offset).ok_or(OutOfBounds)?;
            let permission = if map.is_mutable() {
                Permission::ReadWrite
            } else {
                Permission::ReadOnly
            };
            (end, permission)
        };
        if length <= end - offset {
            Ok(permission)
        } else {
            Err(OutOfBounds)
        }
    }

    /// The map whose values begin last before `offset` of the arena, which may lie behind them even
    /// so.
    pub(crate) fn map_at(&self, offset: usize) -> Option<&'a Map> {
        let after = self
            .maps
            .partition_point(|map| map.values().start() <= offset);
        self.maps.get(after.checked_sub(1)?)
    }

    fn load_context(&self, offset: usize, width: Width) -> Option<u64> {
        if offset + width.bytes() > CONTEXT_SIZE {
            return None;
        }
        let index = offset / 8;
        let second = self.context.get(index + 1).copied().unwrap_or(0);
        Some(extract(
            *self.context.get(index)?,
            second,
            offset % 8,
            width,
        ))
    }
}
