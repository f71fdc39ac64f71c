//! Sets of places: registers and stack slots of all frames.

/// Frames at most.
pub(super) const FRAMES: usize = 8;

/// A set of registers and stack slots.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Touched {
    registers: [u16; FRAMES],
    slots: [u64; FRAMES],
}

impl Touched {
    pub(super) const NONE: Self = Self {
        registers: [0; FRAMES],
        slots: [0; FRAMES],
    };

    pub(super) const ALL: Self = Self {
        registers: [u16::MAX; FRAMES],
        slots: [u64::MAX; FRAMES],
    };

    pub(super) fn add(&mut self, place: Place) {
        match place {
            Place::Register { frame, register } => self.add_register(frame, register),
            Place::Slot { frame, slot } => self.slots[frame] |= 1 << slot,
        }
    }

    pub(super) fn add_register(&mut self, frame: usize, register: usize) {
        self.registers[frame] |= 1 << register;
    }

    pub(super) fn add_frame(&mut self, frame: usize) {
        self.registers[frame] = u16::MAX;
        self.slots[frame] = u64::MAX;
    }

    /// Its places.
    pub(super) fn places(self) -> impl Iterator<Item = Place> {
        (0..FRAMES).flat_map(move |frame| {
            let registers = (0..16)
                .filter(move |register| self.registers[frame] >> register & 1 != 0)
                .map(move |register| Place::Register { frame, register });
            let slots = (0..64)
                .filter(move |slot| self.slots[frame] >> slot & 1 != 0)
                .map(move |slot| Place::Slot { frame, slot });
            registers.chain(slots)
        })
    }

    pub(super) const fn has(&self, place: Place) -> bool {
        match place {
            Place::Register { frame, register } => self.registers[frame] >> register & 1 != 0,
            Place::Slot { frame, slot } => self.slots[frame] >> slot & 1 != 0,
        }
    }
}

/// A register or a stack slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Place {
    Register { frame: usize, register: usize },
    Slot { frame: usize, slot: usize },
}

impl Place {
    /// The place's bit among the sources of scalars, in a state of `frames` frames: 0 to 127.
    /// The innermost frame's registers and slots have bits of their own; r6 to r9 of the others
    /// too, and their slots share what is left. Who shares a bit is treated alike: that costs
    /// precision, never soundness.
    pub(super) const fn source(self, frames: usize) -> usize {
        const OUTER: usize = 10;
        const SHARED: usize = OUTER + 4 * (FRAMES - 1);
        match self {
            Self::Register { frame, register } if frame + 1 == frames => register,
            Self::Slot { frame, slot } if frame + 1 == frames => 64 + slot % 64,
            // r0 to r5 of a function that waits for another are mostly lost when that returns.
            Self::Register { frame, register } => OUTER + frame % (FRAMES - 1) * 4 + register % 4,
            Self::Slot { frame, slot } => SHARED + (frame * 64 + slot) % (64 - SHARED),
        }
    }
}
