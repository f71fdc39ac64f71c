//! Signed and unsigned ranges of one width, and arithmetic on them.
//!
//! One implementation serves 64 and 32 bits: bounds of either are kept in 64 bits, unsigned ones
//! zero-extended and signed ones sign-extended. The rules are those of `scalar_min_max_*` in
//! `kernel/bpf/verifier.c`, where they are written once for each width.

/// How many bits of a register an operation works on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Bits {
    /// All of them.
    B64,
    /// The lower half.
    B32,
}

impl Bits {
    pub(crate) const fn count(self) -> u32 {
        match self {
            Self::B64 => 64,
            Self::B32 => 32,
        }
    }

    /// The largest unsigned number.
    pub(crate) const fn umax(self) -> u64 {
        u64::MAX >> (64 - self.count())
    }

    pub(crate) const fn smin(self) -> i64 {
        i64::MIN >> (64 - self.count())
    }

    pub(crate) const fn smax(self) -> i64 {
        i64::MAX >> (64 - self.count())
    }

    /// `value` cut to the width, zero-extended.
    pub(crate) const fn unsigned(self, value: u64) -> u64 {
        value & self.umax()
    }

    /// `value` cut to the width, sign-extended.
    pub(crate) const fn signed(self, value: u64) -> i64 {
        match self {
            Self::B64 => value as i64,
            Self::B32 => value as i32 as i64,
        }
    }
}

/// The numbers of a width that are both in `umin..=umax` read as unsigned and in `smin..=smax` read
/// as signed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Range {
    pub(crate) umin: u64,
    pub(crate) umax: u64,
    pub(crate) smin: i64,
    pub(crate) smax: i64,
}

impl Range {
    /// Every number of the width.
    pub(crate) const fn full(bits: Bits) -> Self {
        Self {
            umin: 0,
            umax: bits.umax(),
            smin: bits.smin(),
            smax: bits.smax(),
        }
    }

    /// Only `value`, cut to the width.
    pub(crate) const fn constant(bits: Bits, value: u64) -> Self {
        Self {
            umin: bits.unsigned(value),
            umax: bits.unsigned(value),
            smin: bits.signed(value),
            smax: bits.signed(value),
        }
    }

    /// From unsigned bounds, the signed ones where these follow.
    pub(crate) const fn of_unsigned(bits: Bits, umin: u64, umax: u64) -> Self {
        let mut range = Self {
            umin,
            umax,
            ..Self::full(bits)
        };
        if bits.signed(umin) <= bits.signed(umax) {
            range.smin = bits.signed(umin);
            range.smax = bits.signed(umax);
        }
        range
    }

    /// From signed bounds, the unsigned ones where these follow.
    pub(crate) const fn of_signed(bits: Bits, smin: i64, smax: i64) -> Self {
        let mut range = Self {
            smin,
            smax,
            ..Self::full(bits)
        };
        if bits.unsigned(smin as u64) <= bits.unsigned(smax as u64) {
            range.umin = bits.unsigned(smin as u64);
            range.umax = bits.unsigned(smax as u64);
        }
        range
    }

    /// Whether no number can be in it.
    pub(crate) const fn is_empty(self) -> bool {
        self.umin > self.umax || self.smin > self.smax
    }

    /// Whether all of `other` is in it.
    pub(crate) const fn includes(self, other: Self) -> bool {
        self.umin <= other.umin
            && other.umax <= self.umax
            && self.smin <= other.smin
            && other.smax <= self.smax
    }

    /// What is in both; perhaps nothing.
    pub(crate) fn intersect(self, other: Self) -> Self {
        Self {
            umin: self.umin.max(other.umin),
            umax: self.umax.min(other.umax),
            smin: self.smin.max(other.smin),
            smax: self.smax.min(other.smax),
        }
    }

    /// Puts unsigned and signed results together. Each was computed without wrapping; where both
    /// ends wrap alike, the wrapped ends are right, else nothing is known.
    fn wrapped(bits: Bits, unsigned: [i128; 2], signed: [i128; 2]) -> Self {
        let mut range = Self::full(bits);
        let turns = |value: i128| value >> bits.count();
        if turns(unsigned[0]) == turns(unsigned[1]) {
            range.umin = bits.unsigned(unsigned[0] as u64);
            range.umax = bits.unsigned(unsigned[1] as u64);
        }
        let half = 1_i128 << (bits.count() - 1);
        if turns(signed[0] + half) == turns(signed[1] + half) {
            range.smin = bits.signed(signed[0] as u64);
            range.smax = bits.signed(signed[1] as u64);
        }
        range
    }

    fn wide(self) -> [i128; 4] {
        [
            self.umin.into(),
            self.umax.into(),
            self.smin.into(),
            self.smax.into(),
        ]
    }

    pub(crate) fn add(self, bits: Bits, other: Self) -> Self {
        let [umin, umax, smin, smax] = self.wide();
        let [umin2, umax2, smin2, smax2] = other.wide();
        Self::wrapped(
            bits,
            [umin + umin2, umax + umax2],
            [smin + smin2, smax + smax2],
        )
    }

    pub(crate) fn sub(self, bits: Bits, other: Self) -> Self {
        let [umin, umax, smin, smax] = self.wide();
        let [umin2, umax2, smin2, smax2] = other.wide();
        Self::wrapped(
            bits,
            [umin - umax2, umax - umin2],
            [smin - smax2, smax - smin2],
        )
    }

    pub(crate) fn mul(self, bits: Bits, other: Self) -> Self {
        let mut range = Self::full(bits);
        let umax = u128::from(self.umax) * u128::from(other.umax);
        if umax <= u128::from(bits.umax()) {
            range.umin = self.umin * other.umin;
            range.umax = self.umax * other.umax;
        }
        let [_, _, smin, smax] = self.wide();
        let [_, _, smin2, smax2] = other.wide();
        let corners = [smin * smin2, smin * smax2, smax * smin2, smax * smax2];
        let low = corners.into_iter().fold(i128::MAX, i128::min);
        let high = corners.into_iter().fold(i128::MIN, i128::max);
        if low >= bits.smin().into() && high <= bits.smax().into() {
            range.smin = low as i64;
            range.smax = high as i64;
        }
        range
    }
}
