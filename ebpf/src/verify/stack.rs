//! The stack of one function: which bytes are initialized, and which registers are spilled there.

use super::domain::{Bits, Bounds, apply};
use super::value::{Scalar, Value};
use crate::decode::Alu;
use crate::stack::FRAME_SIZE;
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ops::Range;

/// Bytes of a slot.
pub(super) const SLOT: usize = 8;
/// Slots of a frame.
pub(super) const SLOTS: usize = FRAME_SIZE / SLOT;

/// What is known of a byte.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Byte {
    /// Never written.
    Unset,
    /// Part of the slot's spilled register.
    Spilled,
    /// Written, with anything.
    Any,
    /// 0.
    Zero,
}

impl Byte {
    /// As the kernel's log shows it (`slot_type_char`).
    pub(super) const fn letter(self) -> &'static str {
        match self {
            Self::Unset => "?",
            Self::Spilled => "r",
            Self::Any => "m",
            Self::Zero => "0",
        }
    }
}

/// Eight aligned bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Slot {
    pub(super) bytes: [Byte; SLOT],
    /// The register that was spilled into the first bytes; whether all are still there, the bytes
    /// tell. A pointer takes all eight.
    pub(super) spilled: Option<Box<Value>>,
}

impl Slot {
    const UNSET: Self = Self {
        bytes: [Byte::Unset; SLOT],
        spilled: None,
    };

    /// How many bytes, from the first, the spilled register has.
    pub(super) fn spill_size(&self) -> usize {
        let is_spilled = |byte: &&Byte| **byte == Byte::Spilled;
        self.bytes.iter().take_while(is_spilled).count()
    }

    fn forget_spill(&mut self) {
        if self.spilled.take().is_some() {
            for byte in self.bytes.iter_mut().filter(|byte| **byte == Byte::Spilled) {
                *byte = Byte::Any;
            }
        }
    }
}

/// The stack of one function. Slot 0 is the one just below the frame pointer.
#[derive(Clone, Debug, Default)]
pub(super) struct Stack {
    slots: Vec<Slot>,
}

/// What a load finds.
pub(super) enum Found {
    /// All of the spilled register.
    Spilled(Value),
    /// A part of a spilled pointer.
    PartOfPointer,
    /// Bytes.
    Bytes(Bounds),
}

/// The slots that the bytes in `offsets` (negative, from the frame pointer) lie in.
pub(super) fn slots_of(offsets: Range<i32>) -> Range<usize> {
    let slot = |offset: i32| (-1 - offset) as usize / SLOT;
    if offsets.is_empty() {
        return 0..0;
    }
    slot(offsets.end - 1)..slot(offsets.start) + 1
}

/// The slot of a byte, and which byte of it.
fn place(offset: i32) -> (usize, usize) {
    (
        (-1 - offset) as usize / SLOT,
        offset.rem_euclid(SLOT as i32) as usize,
    )
}

impl Stack {
    pub(super) fn slots(&self) -> &[Slot] {
        &self.slots
    }

    pub(super) fn slots_mut(&mut self) -> &mut [Slot] {
        &mut self.slots
    }

    /// How many bytes below the frame pointer are in use.
    pub(super) fn depth(&self) -> usize {
        self.slots.len() * SLOT
    }

    pub(super) fn slot(&self, index: usize) -> Option<&Slot> {
        self.slots.get(index)
    }

    fn slot_mut(&mut self, index: usize) -> &mut Slot {
        let wanted = (index + 1).min(SLOTS);
        if self.slots.len() < wanted {
            self.slots.resize(wanted, Slot::UNSET);
        }
        &mut self.slots[index.min(SLOTS - 1)]
    }

    /// Stores a register into `size` bytes at `offset`, which is a multiple of the size. Where the
    /// register is not kept, a 0 is remembered in the bytes, whatever it was computed from.
    pub(super) fn store(&mut self, offset: i32, size: usize, value: Value) {
        let (index, first) = place(offset);
        let slot = self.slot_mut(index);
        slot.forget_spill();
        let is_kept = first == 0 && (size == SLOT || matches!(value, Value::Scalar(_)));
        if is_kept {
            slot.spilled = Some(Box::new(value));
        }
        let byte = match value {
            _ if is_kept => Byte::Spilled,
            Value::Scalar(scalar) if scalar.is_zero(Bits::B64) => Byte::Zero,
            _ => Byte::Any,
        };
        slot.bytes[first..first + size].fill(byte);
    }

    /// Whether a store there keeps the register, and not only its bytes.
    pub(super) fn keeps_registers(offset: i32) -> bool {
        place(offset).1 == 0
    }

    /// Something that is not followed is written into these bytes; if `certainly` not, they may
    /// also keep what they have.
    pub(super) fn scribble(&mut self, offsets: Range<i32>, certainty: Certainty) {
        for offset in offsets {
            let (index, byte) = place(offset);
            let slot = self.slot_mut(index);
            slot.forget_spill();
            let byte = &mut slot.bytes[byte];
            if certainty == Certainty::Certain || *byte != Byte::Unset {
                *byte = Byte::Any;
            }
        }
    }

    /// Loads `size` bytes at `offset`, which is a multiple of the size.
    pub(super) fn load(&self, offset: i32, size: usize) -> Found {
        let (index, first) = place(offset);
        let Some(slot) = self.slots.get(index) else {
            return Found::Bytes(Bounds::loaded(size));
        };
        if let Some(value) = slot.spilled.as_deref() {
            match value {
                Value::Pointer(_) if size < SLOT => return Found::PartOfPointer,
                Value::Scalar(scalar) if first + size <= slot.spill_size() => {
                    return Found::Spilled(part(*scalar, first, size).into());
                }
                Value::Pointer(_) => return Found::Spilled(*value),
                _ => {}
            }
        }
        let bytes = &slot.bytes[first..first + size];
        Found::Bytes(if bytes.iter().all(|&byte| byte == Byte::Zero) {
            Bounds::constant(0)
        } else {
            Bounds::loaded(size)
        })
    }

    /// Whether some of these bytes were never written.
    pub(super) fn has_unset(&self, mut offsets: Range<i32>) -> bool {
        offsets.any(|offset| {
            let (index, byte) = place(offset);
            self.slots
                .get(index)
                .is_none_or(|slot| slot.bytes[byte] == Byte::Unset)
        })
    }
}

/// Whether a write happens for certain.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Certainty {
    Certain,
    Possible,
}

/// `size` bytes of a scalar, from its byte `first` on.
fn part(scalar: Scalar, first: usize, size: usize) -> Scalar {
    if first == 0 {
        return narrowed(scalar, size);
    }
    let distance = Bounds::constant(8 * first as u64);
    let shifted = apply(Alu::Rsh, Bits::B64, &scalar.bounds, &distance);
    scalar.computed(shifted.truncate(8 * size as u32))
}

/// The low bytes of a scalar as they are in memory.
pub(super) fn narrowed(scalar: Scalar, size: usize) -> Scalar {
    let bits = 8 * size as u32;
    let fits = scalar.bounds.umax() <= u64::MAX >> (64 - bits);
    if fits {
        return scalar;
    }
    scalar.computed(scalar.bounds.truncate(bits))
}
