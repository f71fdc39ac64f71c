//! Arithmetic on what is known of numbers (`adjust_scalar_min_max_vals`).

use super::bounds::Bounds;
use super::range::{Bits, Range};
use super::tnum::Tnum;
use crate::decode::Alu;

/// What `left op right` can be. With 32 bits the upper half of the result is 0.
pub(crate) fn apply(operation: Alu, bits: Bits, left: &Bounds, right: &Bounds) -> Bounds {
    match operation {
        Alu::Mov => return right.truncate(bits.count()),
        Alu::MovSigned(width) => {
            let extended = right.sign_extend(8 * width.bytes() as u32);
            return extended.truncate(bits.count());
        }
        Alu::Neg => return apply(Alu::Sub, bits, &Bounds::constant(0), left),
        _ => {}
    }
    let result = match bits {
        Bits::B64 => Bounds {
            tnum: tnums(operation, bits, left.tnum, right.tnum),
            wide: ranges(operation, bits, left, right),
            narrow: low_half(operation, left, right),
        },
        Bits::B32 => {
            let (left, right) = (left.truncate(32), right.truncate(32));
            let narrow = ranges(operation, bits, &left, &right);
            Bounds {
                tnum: tnums(operation, bits, left.tnum, right.tnum).truncate(32),
                wide: Range::of_unsigned(Bits::B64, narrow.umin, narrow.umax),
                narrow,
            }
        }
    };
    // Every part contains the machine's results, and there is at least one.
    result
        .sync()
        .unwrap_or(Bounds::UNKNOWN.truncate(bits.count()))
}

/// By how much a shift with that operand shifts, if it is known. The machine uses the low bits of
/// the operand (RFC 9669 section 4.1).
fn shift_count(bits: Bits, operand: Tnum) -> Option<u32> {
    let used = operand.truncate(bits.count().trailing_zeros());
    used.as_constant().map(|count| count as u32)
}

fn tnums(operation: Alu, bits: Bits, left: Tnum, right: Tnum) -> Tnum {
    let shifted = |shift: fn(Tnum, u32) -> Tnum| {
        shift_count(bits, right).map_or(Tnum::UNKNOWN, |count| shift(left, count))
    };
    match operation {
        Alu::Add => left.add(right),
        Alu::Sub => left.sub(right),
        Alu::Mul => left.mul(right),
        Alu::Or => left.or(right),
        Alu::And => left.and(right),
        Alu::Xor => left.xor(right),
        Alu::Lsh => shifted(Tnum::shift_left),
        Alu::Rsh => shifted(Tnum::shift_right),
        Alu::Arsh => match bits {
            Bits::B64 => shifted(Tnum::shift_right_signed),
            Bits::B32 => shift_count(bits, right).map_or(Tnum::UNKNOWN, |count| {
                left.sign_extend(32).shift_right_signed(count)
            }),
        },
        _ => Tnum::UNKNOWN,
    }
}

/// The range of the result in the operation's own width.
fn ranges(operation: Alu, bits: Bits, left: &Bounds, right: &Bounds) -> Range {
    let of = |bounds: &Bounds| match bits {
        Bits::B64 => bounds.wide,
        Bits::B32 => bounds.narrow,
    };
    let (a, b) = (of(left), of(right));
    match operation {
        Alu::Add => a.add(bits, b),
        Alu::Sub => a.sub(bits, b),
        Alu::Mul => a.mul(bits, b),
        Alu::Div => divide(bits, a, b),
        Alu::Mod => remainder(bits, a, b),
        // The bits say the rest.
        Alu::And => Range::of_unsigned(bits, 0, a.umax.min(b.umax)),
        Alu::Or => Range {
            umin: a.umin.max(b.umin),
            ..Range::full(bits)
        },
        Alu::Lsh => shift_left(bits, a, right.tnum),
        Alu::Rsh => match shift_count(bits, right.tnum) {
            Some(count) => Range::of_unsigned(bits, a.umin >> count, a.umax >> count),
            None => Range::of_unsigned(bits, 0, a.umax),
        },
        Alu::Arsh => match shift_count(bits, right.tnum) {
            Some(count) => Range::of_signed(bits, a.smin >> count, a.smax >> count),
            None => Range::full(bits),
        },
        _ => Range::full(bits),
    }
}

/// Division by zero gives 0.
fn divide(bits: Bits, a: Range, b: Range) -> Range {
    match a.umin.checked_div(b.umax) {
        Some(low) if b.umin > 0 => Range::of_unsigned(bits, low, a.umax / b.umin),
        _ => Range::of_unsigned(bits, 0, a.umax),
    }
}

/// The remainder by zero is the dividend.
fn remainder(bits: Bits, a: Range, b: Range) -> Range {
    let high = if b.umin > 0 {
        a.umax.min(b.umax - 1)
    } else {
        a.umax
    };
    Range::of_unsigned(bits, 0, high)
}

fn shift_left(bits: Bits, a: Range, count: Tnum) -> Range {
    match shift_count(bits, count) {
        Some(count) if a.umax <= bits.umax() >> count => {
            Range::of_unsigned(bits, a.umin << count, a.umax << count)
        }
        _ => Range::full(bits),
    }
}

/// The range of the lower half of a 64-bit result, for operations in which it depends on the lower
/// halves of the operands only.
fn low_half(operation: Alu, left: &Bounds, right: &Bounds) -> Range {
    use Alu::{Add, And, Mul, Or, Sub};
    match operation {
        Add | Sub | Mul | And | Or => ranges(operation, Bits::B32, left, right),
        _ => Range::full(Bits::B32),
    }
}
