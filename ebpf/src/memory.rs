//! The memory that a running program can reach: context, stack, map values. Every access is checked
//! here.

use crate::address::{Place, Region};
use crate::host::Context;
use crate::map::{AtomicOp, Map};
use crate::width::{Width, extract};

/// Bytes of stack that every function of a program has.
pub const FRAME_SIZE: usize = 512;

/// The stack of one function.
pub(crate) type Frame = [u8; FRAME_SIZE];

/// Bytes of the context.
pub(crate) const CONTEXT_SIZE: usize = size_of::<Context>();

/// An access outside everything that the program may access so.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct OutOfBounds;

/// An atomic operation, ready to be done.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Atomic {
    pub(crate) op: AtomicOp,
    pub(crate) width: Width,
    pub(crate) operand: u64,
    /// What [`AtomicOp::CompareExchange`] compares with.
    pub(crate) expected: u64,
}

/// The memory of one run.
pub(crate) struct Memory<'a> {
    pub(crate) context: &'a Context,
    pub(crate) stack: &'a mut [Frame],
    pub(crate) maps: &'a [Map],
}

impl Memory<'_> {
    /// Loads, zero-extended.
    pub(crate) fn load(&self, address: u64, width: Width) -> Result<u64, OutOfBounds> {
        let place = Place::parse(address).ok_or(OutOfBounds)?;
        let value = match place.region {
            Region::Context => self.load_context(place, width),
            Region::Stack => self.load_stack(place, width),
            Region::Map(map) => self
                .maps
                .get(map)
                .and_then(|map| map.values().load(place.slot, place.offset, width)),
            Region::Handle(_) => None,
        };
        value.ok_or(OutOfBounds)
    }

    /// Stores the low bits of `value`.
    pub(crate) fn store(
        &mut self,
        address: u64,
        width: Width,
        value: u64,
    ) -> Result<(), OutOfBounds> {
        let place = Place::parse(address).ok_or(OutOfBounds)?;
        match place.region {
            Region::Stack => {
                let bytes = self.stack_bytes(place, width.bytes()).ok_or(OutOfBounds)?;
                bytes.copy_from_slice(&value.to_le_bytes()[..width.bytes()]);
                Ok(())
            }
            Region::Map(map) => {
                let map = self.mutable_map(map)?;
                map.values()
                    .store(place.slot, place.offset, width, value)
                    .ok_or(OutOfBounds)
            }
            Region::Context | Region::Handle(_) => Err(OutOfBounds),
        }
    }

    /// Does an atomic operation at an aligned address and returns the old value.
    pub(crate) fn atomic(&mut self, address: u64, atomic: Atomic) -> Result<u64, OutOfBounds> {
        let place = Place::parse(address).ok_or(OutOfBounds)?;
        let Atomic {
            op,
            width,
            operand,
            expected,
        } = atomic;
        if let Region::Map(map) = place.region {
            let values = self.mutable_map(map)?.values();
            let old = values.atomic(place.slot, place.offset, width, op, operand, expected);
            return old.ok_or(OutOfBounds);
        }
        if !place.offset.is_multiple_of(width.bytes()) {
            return Err(OutOfBounds);
        }
        // A stack belongs to one CPU: no other can come between.
        let old = self.load(address, width)?;
        self.store(
            address,
            width,
            op.apply(old, operand & width.mask(), expected & width.mask()),
        )?;
        Ok(old)
    }

    /// Whether `length` bytes at `address` can be read.
    pub(crate) fn check_read(&self, address: u64, length: usize) -> Result<(), OutOfBounds> {
        let place = Place::parse(address).ok_or(OutOfBounds)?;
        let end = place.offset.checked_add(length).ok_or(OutOfBounds)?;
        let inside = match place.region {
            Region::Context => place.slot == 0 && end <= CONTEXT_SIZE,
            Region::Stack => place.slot < self.stack.len() && end <= FRAME_SIZE,
            Region::Map(map) => self
                .maps
                .get(map)
                .is_some_and(|map| map.values().contains(place.slot, place.offset, length)),
            Region::Handle(_) => false,
        };
        if inside { Ok(()) } else { Err(OutOfBounds) }
    }

    /// Whether `length` bytes at `address` can be written.
    pub(crate) fn check_write(&self, address: u64, length: usize) -> Result<(), OutOfBounds> {
        self.check_read(address, length)?;
        match Place::parse(address).map(|place| place.region) {
            Some(Region::Stack) => Ok(()),
            Some(Region::Map(map)) => self.mutable_map(map).map(|_| ()),
            _ => Err(OutOfBounds),
        }
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
    pub(crate) fn write(&mut self, address: u64, source: &[u8]) -> Result<(), OutOfBounds> {
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

    /// The `length` (1 to 8) bytes at `address`, zero-extended.
    pub(crate) fn load_up_to_word(&self, address: u64, length: usize) -> Result<u64, OutOfBounds> {
        if length == 8 {
            return self.load(address, Width::Double);
        }
        (0..length as u64).try_fold(0, |word, index| {
            Ok(word | self.load(address + index, Width::Byte)? << (8 * index))
        })
    }

    fn load_context(&self, place: Place, width: Width) -> Option<u64> {
        if place.slot != 0 || place.offset + width.bytes() > CONTEXT_SIZE {
            return None;
        }
        let index = place.offset / 8;
        let second = self.context.get(index + 1).copied().unwrap_or(0);
        Some(extract(
            *self.context.get(index)?,
            second,
            place.offset % 8,
            width,
        ))
    }

    fn load_stack(&self, place: Place, width: Width) -> Option<u64> {
        let bytes = self
            .stack
            .get(place.slot)?
            .get(place.offset..)?
            .get(..width.bytes())?;
        let mut word = [0; 8];
        word[..width.bytes()].copy_from_slice(bytes);
        Some(u64::from_le_bytes(word))
    }

    fn stack_bytes(&mut self, place: Place, length: usize) -> Option<&mut [u8]> {
        self.stack
            .get_mut(place.slot)?
            .get_mut(place.offset..)?
            .get_mut(..length)
    }

    fn mutable_map(&self, map: usize) -> Result<&Map, OutOfBounds> {
        self.maps
            .get(map)
            .filter(|map| map.is_mutable())
            .ok_or(OutOfBounds)
    }
}
