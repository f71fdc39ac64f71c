//! Tracked numbers: of every bit whether it is known, and what it is (`kernel/bpf/tnum.c`).

/// A set of 64-bit numbers: those that agree with `value` where `mask` is 0. Bits of `value` under
/// the mask are 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Tnum {
    pub(crate) value: u64,
    pub(crate) mask: u64,
}

/// The low 32 bits.
const LOW: u64 = u32::MAX as u64;

impl Tnum {
    /// Every number.
    pub(crate) const UNKNOWN: Self = Self {
        value: 0,
        mask: u64::MAX,
    };

    /// Only `value`.
    pub(crate) const fn constant(value: u64) -> Self {
        Self { value, mask: 0 }
    }

    /// The smallest tracked number that has all of `min..=max`.
    pub(crate) const fn range(min: u64, max: u64) -> Self {
        // Above the highest bit in which they differ, all agree.
        let differing = 64 - (min ^ max).leading_zeros();
        if differing == 64 {
            return Self::UNKNOWN;
        }
        let mask = (1 << differing) - 1;
        Self {
            value: min & !mask,
            mask,
        }
    }

    /// The number, if it is only one.
    pub(crate) const fn as_constant(self) -> Option<u64> {
        if self.mask == 0 {
            Some(self.value)
        } else {
            None
        }
    }

    /// The smallest member, unsigned.
    pub(crate) const fn min(self) -> u64 {
        self.value
    }

    /// The largest member, unsigned: all bits that may be set.
    pub(crate) const fn max(self) -> u64 {
        self.value | self.mask
    }

    pub(crate) const fn add(self, other: Self) -> Self {
        let masks = self.mask.wrapping_add(other.mask);
        let value = self.value.wrapping_add(other.value);
        let carries = masks.wrapping_add(value) ^ value;
        Self::masked(value, carries | self.mask | other.mask)
    }

    pub(crate) const fn sub(self, other: Self) -> Self {
        let value = self.value.wrapping_sub(other.value);
        let high = value.wrapping_add(self.mask);
        let low = value.wrapping_sub(other.mask);
        Self::masked(value, (high ^ low) | self.mask | other.mask)
    }

    pub(crate) const fn and(self, other: Self) -> Self {
        let value = self.value & other.value;
        Self::masked_out(value, self.max() & other.max())
    }

    pub(crate) const fn or(self, other: Self) -> Self {
        Self::masked_out(self.value | other.value, self.mask | other.mask)
    }

    pub(crate) const fn xor(self, other: Self) -> Self {
        Self::masked(self.value ^ other.value, self.mask | other.mask)
    }

    /// Multiplies by long multiplication: one partial product for each bit of `self`
    /// (Vishwanathan et al., "Sound, precise, and fast abstract interpretation with tristate
    /// numbers").
    pub(crate) const fn mul(self, other: Self) -> Self {
        let product = self.value.wrapping_mul(other.value);
        let (mut left, mut right) = (self, other);
        let mut uncertain = Self::constant(0);
        while left.value != 0 || left.mask != 0 {
            if left.value & 1 != 0 {
                uncertain = uncertain.add(Self::masked(0, right.mask));
            } else if left.mask & 1 != 0 {
                uncertain = uncertain.add(Self::masked(0, right.max()));
            }
            left = left.shift_right(1);
            right = right.shift_left(1);
        }
        Self::constant(product).add(uncertain)
    }

    /// Shifts by less than 64.
    pub(crate) const fn shift_left(self, bits: u32) -> Self {
        Self {
            value: self.value << bits,
            mask: self.mask << bits,
        }
    }

    /// Shifts by less than 64, filling with zeros.
    pub(crate) const fn shift_right(self, bits: u32) -> Self {
        Self {
            value: self.value >> bits,
            mask: self.mask >> bits,
        }
    }

    /// Shifts by less than 64, filling with the highest bit, known or not.
    pub(crate) const fn shift_right_signed(self, bits: u32) -> Self {
        Self {
            value: ((self.value as i64) >> bits) as u64,
            mask: ((self.mask as i64) >> bits) as u64,
        }
    }

    /// The low `bits` (1 to 64), zero-extended.
    pub(crate) const fn truncate(self, bits: u32) -> Self {
        let low = u64::MAX >> (64 - bits);
        Self {
            value: self.value & low,
            mask: self.mask & low,
        }
    }

    /// The low `bits` (1 to 64), sign-extended.
    pub(crate) const fn sign_extend(self, bits: u32) -> Self {
        self.shift_left(64 - bits).shift_right_signed(64 - bits)
    }

    /// This one's upper half and `low`'s lower half.
    pub(crate) const fn with_low_half(self, low: Self) -> Self {
        Self {
            value: self.value & !LOW | low.value & LOW,
            mask: self.mask & !LOW | low.mask & LOW,
        }
    }

    /// What is in both; `None` if a bit is known in both and differs.
    pub(crate) const fn intersect(self, other: Self) -> Option<Self> {
        if (self.value ^ other.value) & !self.mask & !other.mask != 0 {
            return None;
        }
        let mask = self.mask & other.mask;
        Some(Self::masked(self.value | other.value, mask))
    }

    /// Whether all of `other` is in it.
    pub(crate) const fn includes(self, other: Self) -> bool {
        other.mask & !self.mask == 0 && other.value & !self.mask == self.value
    }

    /// Whether `value` is in it.
    #[cfg(test)]
    pub(crate) const fn contains(self, value: u64) -> bool {
        value & !self.mask == self.value
    }

    const fn masked(value: u64, mask: u64) -> Self {
        Self {
            value: value & !mask,
            mask,
        }
    }

    const fn masked_out(value: u64, possible: u64) -> Self {
        Self {
            value,
            mask: possible & !value,
        }
    }
}
