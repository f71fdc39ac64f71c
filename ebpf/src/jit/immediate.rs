//! Which constants fit into A64 instructions, and how the others get into a register.

use super::asm::{Assembler, Logical, Reg, Size, ZR};

/// Whether ADD and SUB have a form with this immediate.
pub(super) fn fits_add_sub(value: u32) -> bool {
    value < 1 << 12 || value < 1 << 24 && value.is_multiple_of(1 << 12)
}

/// An immediate of the logical instructions: a run of ones, rotated and repeated (Arm ARM,
/// `DecodeBitMasks`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Bitmask {
    n: u32,
    immr: u32,
    imms: u32,
}

impl Bitmask {
    /// The immediate for `value`, of which [`Size::W`] takes the low half; `None` where there is
    /// none.
    pub(super) fn of(value: u64, size: Size) -> Option<Self> {
        let value = match size {
            Size::W => (value & 0xffff_ffff) | value << 32,
            Size::X => value,
        };
        if value == 0 || value == u64::MAX {
            return None;
        }
        // The shortest element that, repeated, is the value.
        let mut bits = 64_u32;
        while bits > 2 && value.rotate_right(bits / 2) == value {
            bits /= 2;
        }
        let mask = u64::MAX >> (64 - bits);
        let element = value & mask;
        let ones = element.count_ones();
        let run = (1_u64 << ones) - 1;
        let rotated = |by: u32| (run >> by | run << ((bits - by) % bits)) & mask;
        let immr = (0..bits).find(|&by| rotated(by) == element)?;
        Some(Self {
            n: (bits == 64).into(),
            immr,
            imms: ((bits * 2).wrapping_neg() | (ones - 1)) & 0x3f,
        })
    }

    /// Its 13 bits, N, immr, imms.
    pub(super) fn encoding(self) -> u32 {
        self.n << 12 | self.immr << 6 | self.imms
    }
}

/// `d = value`, all 64 bits, in as few instructions as MOVZ, MOVN, MOVK and ORR make it.
pub(super) fn load(asm: &mut Assembler, d: Reg, value: u64) {
    let chunks = |value: u64| [0, 1, 2, 3].map(|hw| (value >> (16 * hw)) as u16);
    let count = |of: u64, chunk: u16| chunks(of).iter().filter(|&&c| c != chunk).count();
    let by_zeros = count(value, 0).max(1);
    let by_ones = count(value, u16::MAX).max(1);
    // A write of 32 bits clears the rest, so that the upper half of the value counts as ones.
    let is_word = value >> 32 == 0;
    let by_word_ones = count(value | !0 << 32, u16::MAX).max(1);
    let fewest = by_zeros.min(by_ones);
    if is_word && by_word_ones < fewest {
        return negated(asm, Size::W, d, value | !0 << 32);
    }
    if fewest > 1
        && let Some(bits) = Bitmask::of(value, Size::X)
    {
        return asm.logical_imm(Logical::Orr, Size::X, d, ZR, bits);
    }
    if by_ones < by_zeros {
        return negated(asm, Size::X, d, value);
    }
    let mut filled = (0..).zip(chunks(value)).filter(|&(_, chunk)| chunk != 0);
    let (hw, chunk) = filled.next().unwrap_or((0, 0));
    asm.movz(Size::X, d, chunk, hw);
    for (hw, chunk) in filled {
        asm.movk(Size::X, d, chunk, hw);
    }
}

/// `d = value`, of which most chunks are ones.
fn negated(asm: &mut Assembler, size: Size, d: Reg, value: u64) {
    let chunks = (0..).zip([0, 1, 2, 3].map(|hw| (value >> (16 * hw)) as u16));
    let mut filled = chunks.filter(|&(_, chunk)| chunk != u16::MAX);
    let (hw, chunk) = filled.next().unwrap_or((0, u16::MAX));
    asm.movn(size, d, !chunk, hw);
    for (hw, chunk) in filled {
        asm.movk(size, d, chunk, hw);
    }
}

#[cfg(test)]
mod tests;
