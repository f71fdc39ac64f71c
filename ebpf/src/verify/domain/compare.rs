//! What a comparison tells of the numbers that it compares (`reg_set_min_max`), and whether it can
//! come out that way at all (`is_branch_taken`).

use super::bounds::Bounds;
use super::range::{Bits, Range};
use super::tnum::Tnum;
use crate::decode::Condition;

/// How a comparison comes out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Outcome {
    Holds,
    Fails,
}

/// What remains of `left` and `right` where the condition comes out so between their low `bits`;
/// `None` if it cannot.
pub(crate) fn assume(
    condition: Condition,
    outcome: Outcome,
    bits: Bits,
    left: &Bounds,
    right: &Bounds,
) -> Option<(Bounds, Bounds)> {
    use Condition::{Eq, Ge, Gt, Le, Lt, Ne, Set, SignedGe, SignedGt, SignedLe, SignedLt};
    use Order::{Signed, Unsigned};
    use Outcome::{Fails, Holds};
    match (condition, outcome) {
        (Eq, Holds) | (Ne, Fails) => assume_equal(bits, left, right),
        (Ne, Holds) | (Eq, Fails) => {
            Some((exclude(bits, left, right)?, exclude(bits, right, left)?))
        }
        (Set, Holds) => assume_common_bit(bits, left, right),
        (Set, Fails) => assume_no_common_bit(bits, left, right),
        (Lt, Holds) | (Ge, Fails) => below(bits, left, right, Unsigned, 1),
        (Le, Holds) | (Gt, Fails) => below(bits, left, right, Unsigned, 0),
        (Gt, Holds) | (Le, Fails) => below(bits, right, left, Unsigned, 1).map(swap),
        (Ge, Holds) | (Lt, Fails) => below(bits, right, left, Unsigned, 0).map(swap),
        (SignedLt, Holds) | (SignedGe, Fails) => below(bits, left, right, Signed, 1),
        (SignedLe, Holds) | (SignedGt, Fails) => below(bits, left, right, Signed, 0),
        (SignedGt, Holds) | (SignedLe, Fails) => below(bits, right, left, Signed, 1).map(swap),
        (SignedGe, Holds) | (SignedLt, Fails) => below(bits, right, left, Signed, 0).map(swap),
    }
}

fn swap<T>((first, second): (T, T)) -> (T, T) {
    (second, first)
}

fn range(bits: Bits, bounds: &Bounds) -> Range {
    match bits {
        Bits::B64 => bounds.wide,
        Bits::B32 => bounds.narrow,
    }
}

/// `bounds` with less in the range of that width.
fn within(bits: Bits, bounds: &Bounds, range: Range) -> Option<Bounds> {
    let mut bounds = *bounds;
    match bits {
        Bits::B64 => bounds.wide = bounds.wide.intersect(range),
        Bits::B32 => bounds.narrow = bounds.narrow.intersect(range),
    }
    bounds.sync()
}

fn with_bits(bits: Bits, bounds: &Bounds, tnum: Tnum) -> Option<Bounds> {
    let tnum = match bits {
        Bits::B64 => tnum,
        Bits::B32 => bounds.tnum.with_low_half(tnum),
    };
    Bounds { tnum, ..*bounds }.sync()
}

fn assume_equal(bits: Bits, left: &Bounds, right: &Bounds) -> Option<(Bounds, Bounds)> {
    if bits == Bits::B64 {
        let both = left.intersect(right)?;
        return Some((both, both));
    }
    let low = left.truncate(32).intersect(&right.truncate(32))?;
    let keep_upper_half = |bounds: &Bounds| {
        Bounds {
            tnum: bounds.tnum.with_low_half(low.tnum),
            wide: bounds.wide,
            narrow: low.narrow,
        }
        .sync()
    };
    Some((keep_upper_half(left)?, keep_upper_half(right)?))
}

/// `bounds` without `other`, where that is one number at an end of a range.
fn exclude(bits: Bits, bounds: &Bounds, other: &Bounds) -> Option<Bounds> {
    let Some(value) = other.as_constant_in(bits) else {
        return Some(*bounds);
    };
    let mut range = range(bits, bounds);
    let signed = bits.signed(value);
    if range.umin == value {
        range.umin = value.checked_add(1)?;
    }
    if range.umax == value {
        range.umax = value.checked_sub(1)?;
    }
    if range.smin == signed {
        range.smin = signed.checked_add(1)?;
    }
    if range.smax == signed {
        range.smax = signed.checked_sub(1)?;
    }
    within(bits, bounds, range)
}

#[derive(Clone, Copy)]
enum Order {
    Unsigned,
    Signed,
}

/// `left + gap <= right`.
fn below(
    bits: Bits,
    left: &Bounds,
    right: &Bounds,
    order: Order,
    gap: u8,
) -> Option<(Bounds, Bounds)> {
    let (mut low, mut high) = (range(bits, left), range(bits, right));
    match order {
        Order::Unsigned => {
            low.umax = low.umax.min(high.umax.checked_sub(gap.into())?);
            high.umin = high.umin.max(low.umin.checked_add(gap.into())?);
        }
        Order::Signed => {
            low.smax = low.smax.min(high.smax.checked_sub(gap.into())?);
            high.smin = high.smin.max(low.smin.checked_add(gap.into())?);
        }
    }
    Some((within(bits, left, low)?, within(bits, right, high)?))
}

fn assume_common_bit(bits: Bits, left: &Bounds, right: &Bounds) -> Option<(Bounds, Bounds)> {
    let (a, b) = (
        left.tnum.truncate(bits.count()),
        right.tnum.truncate(bits.count()),
    );
    if a.max() & b.max() == 0 {
        return None;
    }
    let learn = |bounds: &Bounds, tnum: Tnum, other: Tnum| match other.as_constant() {
        // The only bit that they can have in common is set.
        Some(bit) if bit.is_power_of_two() => with_bits(bits, bounds, tnum.or(other)),
        _ => Some(*bounds),
    };
    Some((learn(left, a, b)?, learn(right, b, a)?))
}

fn assume_no_common_bit(bits: Bits, left: &Bounds, right: &Bounds) -> Option<(Bounds, Bounds)> {
    let (a, b) = (
        left.tnum.truncate(bits.count()),
        right.tnum.truncate(bits.count()),
    );
    if a.value & b.value != 0 {
        return None;
    }
    // What is surely set in one is not in the other.
    let learn = |bounds: &Bounds, tnum: Tnum, other: Tnum| {
        with_bits(bits, bounds, tnum.and(Tnum::constant(!other.value)))
    };
    Some((learn(left, a, b)?, learn(right, b, a)?))
}
