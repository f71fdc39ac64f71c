//! What is known of a number.

use super::range::{Bits, Range};
use super::tnum::Tnum;
use core::fmt;

/// A set of 64-bit numbers: those that all three views allow. Kept in agreement by
/// [`Bounds::sync`], and never empty.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Bounds {
    pub(super) tnum: Tnum,
    /// Of all 64 bits.
    pub(super) wide: Range,
    /// Of the lower 32.
    pub(super) narrow: Range,
}

/// The lower half of a number.
const LOW: u64 = u32::MAX as u64;

impl Bounds {
    /// Every number.
    pub(crate) const UNKNOWN: Self = Self {
        tnum: Tnum::UNKNOWN,
        wide: Range::full(Bits::B64),
        narrow: Range::full(Bits::B32),
    };

    /// Only `value`.
    pub(crate) const fn constant(value: u64) -> Self {
        Self {
            tnum: Tnum::constant(value),
            wide: Range::constant(Bits::B64, value),
            narrow: Range::constant(Bits::B32, value),
        }
    }

    /// All of `min..=max`, unsigned.
    #[cfg(test)]
    pub(crate) fn unsigned(min: u64, max: u64) -> Self {
        Self::from_wide(Range::of_unsigned(Bits::B64, min, max), Tnum::UNKNOWN)
    }

    /// All of `min..=max`, signed.
    #[cfg(test)]
    pub(crate) fn signed(min: i64, max: i64) -> Self {
        Self::from_wide(Range::of_signed(Bits::B64, min, max), Tnum::UNKNOWN)
    }

    /// What a load of `bytes` (1 to 8) can give, zero-extended.
    pub(crate) fn loaded(bytes: usize) -> Self {
        Self::UNKNOWN.truncate(8 * bytes as u32)
    }

    fn from_wide(wide: Range, tnum: Tnum) -> Self {
        let bounds = Self {
            tnum,
            wide,
            narrow: Range::full(Bits::B32),
        };
        // Sets that are given as ranges are not empty; if one were, nothing known is always right.
        bounds.sync().unwrap_or(Self::UNKNOWN)
    }

    /// The number, if it is only one.
    pub(crate) const fn as_constant(&self) -> Option<u64> {
        self.tnum.as_constant()
    }

    /// The lower half, if it is only one.
    pub(crate) const fn as_constant_in(&self, bits: Bits) -> Option<u64> {
        self.tnum.truncate(bits.count()).as_constant()
    }

    pub(crate) const fn tnum(&self) -> Tnum {
        self.tnum
    }

    pub(crate) const fn umin(&self) -> u64 {
        self.wide.umin
    }

    pub(crate) const fn umax(&self) -> u64 {
        self.wide.umax
    }

    pub(crate) const fn smin(&self) -> i64 {
        self.wide.smin
    }

    pub(crate) const fn smax(&self) -> i64 {
        self.wide.smax
    }

    /// Whether the upper half is certainly 0.
    pub(crate) const fn fits_32_bits(&self) -> bool {
        self.wide.umax <= LOW
    }

    /// Whether all of `other` is in it.
    pub(crate) const fn includes(&self, other: &Self) -> bool {
        self.tnum.includes(other.tnum)
            && self.wide.includes(other.wide)
            && self.narrow.includes(other.narrow)
    }

    /// Whether `value` is in it.
    #[cfg(test)]
    pub(crate) fn contains(&self, value: u64) -> bool {
        self.tnum.contains(value)
            && self.wide.includes(Range::constant(Bits::B64, value))
            && self.narrow.includes(Range::constant(Bits::B32, value))
    }

    /// What is in both; `None` if nothing is.
    pub(super) fn intersect(&self, other: &Self) -> Option<Self> {
        Self {
            tnum: self.tnum.intersect(other.tnum)?,
            wide: self.wide.intersect(other.wide),
            narrow: self.narrow.intersect(other.narrow),
        }
        .sync()
    }

    /// The low `bits`, zero-extended (`coerce_reg_to_size`).
    pub(crate) fn truncate(&self, bits: u32) -> Self {
        if bits >= 64 {
            return *self;
        }
        let mask = u64::MAX >> (64 - bits);
        let Range { umin, umax, .. } = self.wide;
        let (low, high) = if umin & !mask == umax & !mask {
            (umin & mask, umax & mask)
        } else {
            (0, mask)
        };
        let narrow = if bits == 32 {
            self.narrow
        } else {
            Range::full(Bits::B32)
        };
        let truncated = Self {
            tnum: self.tnum.truncate(bits),
            wide: Range::of_unsigned(Bits::B64, low, high),
            narrow,
        };
        truncated.sync().unwrap_or(Self::UNKNOWN.only_low(mask))
    }

    /// The low `bits`, sign-extended (`coerce_reg_to_size_sx`).
    pub(crate) fn sign_extend(&self, bits: u32) -> Self {
        if bits >= 64 {
            return *self;
        }
        let low = self.truncate(bits);
        let sign = 1_u64 << (bits - 1);
        let extend = |value: u64| (value << (64 - bits)) as i64 >> (64 - bits);
        let (min, max) = if low.umax() < sign || low.umin() >= sign {
            (extend(low.umin()), extend(low.umax()))
        } else if bits == 32 {
            (low.narrow.smin, low.narrow.smax)
        } else {
            (extend(sign), (sign - 1) as i64)
        };
        Self::from_wide(
            Range::of_signed(Bits::B64, min, max),
            self.tnum.sign_extend(bits),
        )
    }

    fn only_low(self, mask: u64) -> Self {
        Self {
            tnum: Tnum { value: 0, mask },
            wide: Range::of_unsigned(Bits::B64, 0, mask),
            narrow: self.narrow,
        }
    }

    /// Lets each view sharpen the others (`reg_bounds_sync`); `None` if nothing is in all of them.
    pub(super) fn sync(mut self) -> Option<Self> {
        self.bits_to_ranges();
        // A range of one kind sharpens another that may have been looked at before.
        for _ in 0..3 {
            self.wide_to_narrow();
            self.narrow = agree(Bits::B32, self.narrow);
            self.wide = agree(Bits::B64, self.wide);
            self.narrow_to_wide();
        }
        if self.wide.is_empty() || self.narrow.is_empty() {
            return None;
        }
        self.ranges_to_bits()?;
        self.bits_to_ranges();
        if self.wide.is_empty() || self.narrow.is_empty() {
            return None;
        }
        Some(self)
    }

    /// `__update_reg_bounds`.
    fn bits_to_ranges(&mut self) {
        self.wide = self.wide.intersect(of_bits(Bits::B64, self.tnum));
        let low = self.tnum.truncate(32);
        self.narrow = self.narrow.intersect(of_bits(Bits::B32, low));
    }

    /// The first half of `__reg32_deduce_bounds`.
    fn wide_to_narrow(&mut self) {
        let Range {
            umin,
            umax,
            smin,
            smax,
        } = self.wide;
        self.narrow = self.narrow.intersect(low_halves(umin, umax));
        self.narrow = self.narrow.intersect(low_halves(smin as u64, smax as u64));
    }

    /// `__reg_deduce_mixed_bounds`.
    fn narrow_to_wide(&mut self) {
        let Range { umin, umax, .. } = self.narrow;
        let low = |value: u64| value & !LOW | umin;
        let high = |value: u64| value & !LOW | umax;
        let wide = self.wide;
        self.wide = wide.intersect(Range {
            umin: low(wide.umin),
            umax: high(wide.umax),
            smin: low(wide.smin as u64) as i64,
            smax: high(wide.smax as u64) as i64,
        });
        let is_sign_extended = self.wide.smin >= i32::MIN.into()
            && self.wide.smax <= i32::MAX.into()
            && !self.wide.is_empty();
        if is_sign_extended {
            let Range { smin, smax, .. } = self.narrow;
            let signed = Range::of_signed(Bits::B64, smin, smax);
            self.wide.smin = self.wide.smin.max(signed.smin);
            self.wide.smax = self.wide.smax.min(signed.smax);
        }
    }

    /// `__reg_bound_offset`.
    fn ranges_to_bits(&mut self) -> Option<()> {
        let Range { umin, umax, .. } = self.wide;
        let wide = self.tnum.intersect(Tnum::range(umin, umax))?;
        let Range { umin, umax, .. } = self.narrow;
        let low = wide.truncate(32).intersect(Tnum::range(umin, umax))?;
        self.tnum = wide.with_low_half(low);
        Some(())
    }
}

/// The range of the numbers with those bits, of which there are as many as the width has.
fn of_bits(bits: Bits, tnum: Tnum) -> Range {
    let sign = 1_u64 << (bits.count() - 1);
    Range {
        umin: tnum.min(),
        umax: tnum.max(),
        smin: bits.signed(tnum.value | tnum.mask & sign),
        smax: bits.signed(tnum.value | tnum.mask & !sign),
    }
}

/// Lets the signed and the unsigned half sharpen each other where neither crosses the border of the
/// other (`__reg64_deduce_bounds`).
fn agree(bits: Bits, range: Range) -> Range {
    let range = range.intersect(Range::of_unsigned(bits, range.umin, range.umax));
    range.intersect(Range::of_signed(bits, range.smin, range.smax))
}

/// The lower halves of the numbers from `min` to `max`, counted upwards.
fn low_halves(min: u64, max: u64) -> Range {
    let full = Range::full(Bits::B32);
    let (low_min, low_max) = (min & LOW, max & LOW);
    let (signed_min, signed_max) = (Bits::B32.signed(min), Bits::B32.signed(max));
    if min >> 32 == max >> 32 {
        let range = Range {
            umin: low_min,
            umax: low_max,
            ..full
        };
        return if signed_min <= signed_max {
            Range {
                smin: signed_min,
                smax: signed_max,
                ..range
            }
        } else {
            range
        };
    }
    // The upper half counts up by one on the way: the lower half goes through 0, so from a
    // negative number to a positive one without a gap.
    let passes_zero = (min >> 32).wrapping_add(1) & LOW == max >> 32;
    if passes_zero && signed_min < 0 && signed_max >= 0 {
        return Range {
            smin: signed_min,
            smax: signed_max,
            ..full
        };
    }
    full
}

impl fmt::Display for Bounds {
    /// As the kernel's log (`print_scalar_ranges`): the number, or what is known and not implied.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(value) = self.as_constant() {
            return write!(f, "{}", value as i64);
        }
        let mut separator = "";
        let mut part = |f: &mut fmt::Formatter<'_>, text: fmt::Arguments<'_>| {
            let result = write!(f, "{separator}{text}");
            separator = ",";
            result
        };
        let (wide, narrow) = (self.wide, self.narrow);
        f.write_str("scalar(")?;
        if wide.smin != i64::MIN {
            part(f, format_args!("smin={}", wide.smin))?;
        }
        if wide.smax != i64::MAX {
            part(f, format_args!("smax={}", wide.smax))?;
        }
        if wide.umin != 0 {
            part(f, format_args!("umin={}", wide.umin))?;
        }
        if wide.umax != u64::MAX {
            part(f, format_args!("umax={}", wide.umax))?;
        }
        let implied = Self::from_wide(wide, self.tnum).narrow;
        if narrow.smin != implied.smin {
            part(f, format_args!("smin32={}", narrow.smin))?;
        }
        if narrow.smax != implied.smax {
            part(f, format_args!("smax32={}", narrow.smax))?;
        }
        if narrow.umin != implied.umin {
            part(f, format_args!("umin32={}", narrow.umin))?;
        }
        if narrow.umax != implied.umax {
            part(f, format_args!("umax32={}", narrow.umax))?;
        }
        if self.tnum != Tnum::UNKNOWN {
            let Tnum { value, mask } = self.tnum;
            part(f, format_args!("var_off=({value:#x}; {mask:#x})"))?;
        }
        f.write_str(")")
    }
}
