//! Every operation on sets contains what the machine's contains: random sets with a known member
//! each, and the interpreter to compute with the members.

use super::range::Range;
use super::*;
use crate::asm::reg::{R0, R1, R2};
use crate::asm::{exit, mov_imm, mov_imm64};
use crate::decode::{Alu, Condition};
use crate::insn::{Insn, X, alu, class, jmp};
use crate::testing::run;
use crate::width::Width;
use alloc::vec;
use alloc::vec::Vec;
use proptest::prelude::*;

/// Numbers near the borders of what ranges distinguish.
fn number() -> impl Strategy<Value = u64> {
    let border = prop::sample::select(vec![
        0,
        1 << 7,
        1 << 8,
        1 << 15,
        1 << 16,
        1 << 31,
        1 << 32,
        1 << 62,
        1 << 63,
        3 << 31,
        u64::from(u32::MAX) << 32,
    ]);
    prop_oneof![
        any::<u64>(),
        (border, -4..4_i64).prop_map(|(border, distance)| border.wrapping_add_signed(distance)),
    ]
}

/// A set and one of its members. The set is what several kinds of knowledge leave over.
fn member() -> impl Strategy<Value = (Bounds, u64)> {
    (number(), number(), number(), number(), 0..32_u8).prop_map(|(value, mask, a, b, kinds)| {
        let mut set = Bounds::UNKNOWN;
        let mut learn = |kind: u8, bounds: Bounds| {
            if kinds >> kind & 1 != 0 {
                set = set.intersect(&bounds).expect("both contain the member");
            }
        };
        let tnum = Tnum {
            value: value & !mask,
            mask,
        };
        let of_tnum = Bounds {
            tnum,
            ..Bounds::UNKNOWN
        };
        learn(0, of_tnum);
        learn(1, Bounds::unsigned(value.min(a), value.max(a)));
        let signed = |number: u64| number as i64;
        learn(
            2,
            Bounds::signed(signed(value).min(signed(b)), signed(value).max(signed(b))),
        );
        let narrow = |range: Range| Bounds {
            narrow: range,
            ..Bounds::UNKNOWN
        };
        let low = Bits::B32.unsigned(value);
        let other = Bits::B32.unsigned(a);
        learn(
            3,
            narrow(Range {
                umin: low.min(other),
                umax: low.max(other),
                ..Range::full(Bits::B32)
            }),
        );
        let low = Bits::B32.signed(value);
        let other = Bits::B32.signed(b);
        learn(
            4,
            narrow(Range {
                smin: low.min(other),
                smax: low.max(other),
                ..Range::full(Bits::B32)
            }),
        );
        (set, value)
    })
}

fn bits() -> impl Strategy<Value = Bits> {
    prop_oneof![Just(Bits::B64), Just(Bits::B32)]
}

const OPERATIONS: [(Alu, u8, i16); 13] = [
    (Alu::Add, alu::ADD, 0),
    (Alu::Sub, alu::SUB, 0),
    (Alu::Mul, alu::MUL, 0),
    (Alu::Div, alu::DIV, 0),
    (Alu::SignedDiv, alu::DIV, 1),
    (Alu::Mod, alu::MOD, 0),
    (Alu::SignedMod, alu::MOD, 1),
    (Alu::Or, alu::OR, 0),
    (Alu::And, alu::AND, 0),
    (Alu::Xor, alu::XOR, 0),
    (Alu::Lsh, alu::LSH, 0),
    (Alu::Rsh, alu::RSH, 0),
    (Alu::Arsh, alu::ARSH, 0),
];

const CONDITIONS: [(Condition, u8); 11] = [
    (Condition::Eq, jmp::JEQ),
    (Condition::Ne, jmp::JNE),
    (Condition::Set, jmp::JSET),
    (Condition::Gt, jmp::JGT),
    (Condition::Ge, jmp::JGE),
    (Condition::Lt, jmp::JLT),
    (Condition::Le, jmp::JLE),
    (Condition::SignedGt, jmp::JSGT),
    (Condition::SignedGe, jmp::JSGE),
    (Condition::SignedLt, jmp::JSLT),
    (Condition::SignedLe, jmp::JSLE),
];

/// Runs an instruction between r1 and r2, and returns r1, or for a jump whether it jumps.
fn execute(code: u8, off: i16, left: u64, right: u64) -> u64 {
    let is_jump = matches!(code & 7, class::JMP | class::JMP32);
    let mut program = Vec::from(mov_imm64(R1, left));
    program.extend(mov_imm64(R2, right));
    program.push(mov_imm(R0, 1));
    program.push(Insn {
        code: code | X,
        dst: R1,
        src: R2,
        off: if is_jump { 1 } else { off },
        imm: 0,
    });
    program.push(if is_jump {
        mov_imm(R0, 0)
    } else {
        crate::asm::mov(R0, R1)
    });
    program.push(exit());
    run(&program).expect("arithmetic and jumps cannot fail")
}

fn agrees(bounds: &Bounds) -> bool {
    bounds.sync().as_ref() == Some(bounds) || bounds.sync().is_some_and(|b| bounds.includes(&b))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn sets_contain_their_members((set, value) in member()) {
        prop_assert!(set.contains(value), "{set} {value:#x}");
        prop_assert!(set.includes(&Bounds::constant(value)));
        prop_assert!(agrees(&set));
    }

    #[test]
    fn arithmetic_contains_the_machines(
        operation in prop::sample::select(OPERATIONS.to_vec()),
        bits in bits(),
        (left, a) in member(),
        (right, b) in member(),
    ) {
        let (operation, code, off) = operation;
        let class = if bits == Bits::B64 { class::ALU64 } else { class::ALU };
        let result = execute(class | code, off, a, b);
        let set = apply(operation, bits, &left, &right);
        prop_assert!(set.contains(result), "{left} {operation:?} {right} = {set}: {a:#x} {b:#x} {result:#x}");
    }

    #[test]
    fn constants_stay_constant(
        operation in prop::sample::select(OPERATIONS.to_vec()),
        bits in bits(),
        (_, a) in member(),
        (_, b) in member(),
    ) {
        let (operation, _, _) = operation;
        let set = apply(operation, bits, &Bounds::constant(a), &Bounds::constant(b));
        let divides = matches!(operation, Alu::SignedDiv | Alu::SignedMod);
        let divides = divides || matches!(operation, Alu::Mod | Alu::Div);
        prop_assert!(divides || set.as_constant().is_some(), "{operation:?} {set}");
    }

    #[test]
    fn negation_and_moves_contain_the_machines((set, value) in member(), bits in bits()) {
        let negated = apply(Alu::Neg, bits, &set, &set);
        prop_assert!(negated.contains(bits.unsigned(value.wrapping_neg())));
        prop_assert!(apply(Alu::Mov, bits, &set, &set).contains(bits.unsigned(value)));
        for width in [Width::Byte, Width::Half, Width::Word] {
            let extended = apply(Alu::MovSigned(width), bits, &set, &set);
            prop_assert!(extended.contains(bits.unsigned(width.sign_extend(value))), "{set} {extended}");
            prop_assert!(set.truncate(8 * width.bytes() as u32).contains(value & width.mask()));
        }
    }

    #[test]
    fn comparisons_keep_what_they_hold_for(
        condition in prop::sample::select(CONDITIONS.to_vec()),
        bits in bits(),
        (left, a) in member(),
        (right, b) in member(),
        same: bool,
    ) {
        // Equal members are rare among random ones.
        let (right, b) = if same { (left, a) } else { (right, b) };
        let (condition, code) = condition;
        let class = if bits == Bits::B64 { class::JMP } else { class::JMP32 };
        let outcome = if execute(class | code, 0, a, b) == 1 { Outcome::Holds } else { Outcome::Fails };
        let refined = assume(condition, outcome, bits, &left, &right);
        let Some((new_left, new_right)) = refined else {
            return Err(TestCaseError::fail(alloc::format!(
                "{left} {condition:?} {right} {outcome:?} is possible: {a:#x} {b:#x}"
            )));
        };
        prop_assert!(new_left.contains(a) && left.includes(&new_left), "{left} -> {new_left}");
        prop_assert!(new_right.contains(b) && right.includes(&new_right), "{right} -> {new_right}");
    }

    /// Between constants, exactly one outcome is possible.
    #[test]
    fn constants_are_compared_exactly(
        condition in prop::sample::select(CONDITIONS.to_vec()),
        bits in bits(),
        a in number(),
        b in number(),
    ) {
        let (condition, _) = condition;
        let possible = |outcome| {
            assume(condition, outcome, bits, &Bounds::constant(a), &Bounds::constant(b)).is_some()
        };
        prop_assert!(possible(Outcome::Holds) != possible(Outcome::Fails));
    }
}

fn between(min: u64, max: u64) -> Bounds {
    Bounds::unsigned(min, max)
}

#[test]
fn a_check_of_the_lower_half_tells_of_the_whole() {
    // w1 = w1 leaves a zero upper half.
    let truncated = Bounds::UNKNOWN.truncate(32);
    let limit = Bounds::constant(8);
    let refined = assume(Condition::Lt, Outcome::Holds, Bits::B32, &truncated, &limit);
    let (low, _) = refined.expect("some numbers are below 8");
    assert_eq!((low.umin(), low.umax()), (0, 7));
}

#[test]
fn a_signed_check_of_a_sign_extended_number_bounds_it() {
    let extended = Bounds::UNKNOWN.sign_extend(32);
    assert_eq!(
        (extended.smin(), extended.smax()),
        (i32::MIN.into(), i32::MAX.into())
    );
    let zero = Bounds::constant(0);
    let refined = assume(
        Condition::SignedGt,
        Outcome::Holds,
        Bits::B64,
        &extended,
        &zero,
    );
    let (positive, _) = refined.expect("some numbers are positive");
    assert_eq!((positive.umin(), positive.umax()), (1, i32::MAX as u64));
}

#[test]
fn masks_bound() {
    let mask = Bounds::constant(0x3f);
    let masked = apply(Alu::And, Bits::B64, &Bounds::UNKNOWN, &mask);
    assert_eq!((masked.umin(), masked.umax()), (0, 0x3f));
    let eight = Bounds::constant(3);
    let shifted = apply(Alu::Lsh, Bits::B64, &masked, &eight);
    assert_eq!((shifted.umax(), shifted.tnum().max() & 7), (0x1f8, 0));
}

#[test]
fn sums_of_ranges_are_ranges() {
    let sum = apply(Alu::Add, Bits::B64, &between(3, 10), &between(1, 2));
    assert_eq!((sum.umin(), sum.umax()), (4, 12));
    let difference = apply(Alu::Sub, Bits::B64, &between(3, 10), &between(1, 20));
    assert_eq!((difference.smin(), difference.smax()), (-17, 9));
    let product = apply(Alu::Mul, Bits::B64, &between(3, 10), &between(1, 2));
    assert_eq!((product.umin(), product.umax()), (3, 20));
    let quotient = apply(Alu::Div, Bits::B64, &between(30, 100), &between(3, 10));
    assert_eq!((quotient.umin(), quotient.umax()), (3, 33));
    let remainder = apply(Alu::Mod, Bits::B32, &Bounds::UNKNOWN, &between(3, 10));
    assert_eq!((remainder.umin(), remainder.umax()), (0, 9));
}

#[test]
fn impossible_comparisons_are_found() {
    let cases = [
        (Condition::Lt, between(8, 9), between(0, 8)),
        (Condition::Eq, between(0, 3), between(4, 9)),
        (
            Condition::SignedGt,
            Bounds::signed(-9, -1),
            Bounds::constant(0),
        ),
        (Condition::Set, between(0, 3), Bounds::constant(4)),
        (Condition::Ne, Bounds::constant(7), Bounds::constant(7)),
    ];
    for (condition, left, right) in cases {
        assert_eq!(
            assume(condition, Outcome::Holds, Bits::B64, &left, &right),
            None,
            "{left} {condition:?} {right}"
        );
    }
}

#[test]
fn what_is_known_is_shown_as_the_kernel_shows_it() {
    let shown = |bounds: Bounds| alloc::format!("{bounds}");
    assert_eq!(shown(Bounds::constant(u64::MAX)), "-1");
    assert_eq!(shown(Bounds::UNKNOWN), "scalar()");
    assert_eq!(
        shown(between(0, 7)),
        "scalar(smin=0,smax=7,umax=7,var_off=(0x0; 0x7))"
    );
}
