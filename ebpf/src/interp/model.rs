//! A model of arithmetic and jumps, written from RFC 9669 with numbers that cannot overflow: what
//! rbpf does not know, or gets wrong, is compared with this.

use crate::asm::reg::{R0, R1};
use crate::asm::{exit, mov_imm, mov_imm64};
use crate::insn::{Insn, X, alu, class, jmp};
use crate::testing::run;
use alloc::vec;
use alloc::vec::Vec;
use proptest::prelude::*;

/// An operation on numbers of 32 or 64 bits.
#[derive(Clone, Copy, Debug)]
struct Operation {
    class: u8,
    operation: u8,
    off: i16,
}

impl Operation {
    fn bits(self) -> u32 {
        if self.class == class::ALU64 { 64 } else { 32 }
    }

    /// Sections 4.1 and 4.2. `left` and `right` are whole registers.
    fn result(self, left: u64, right: u64) -> u64 {
        let bits = self.bits();
        let modulus = 1_i128 << bits;
        let unsigned = |value: u64| i128::from(value) % modulus;
        let signed = |value: u64| signed(unsigned(value), bits);
        let [a, b] = [unsigned(left), unsigned(right)];
        let [sa, sb] = [signed(left), signed(right)];
        let count = (b % i128::from(bits)) as u32;
        let result = match (self.operation, self.off) {
            (alu::ADD, _) => a + b,
            (alu::SUB, _) => a - b,
            // The low half of a product is the same for signed numbers, whose product is small enough.
            (alu::MUL, _) => sa * sb,
            (alu::DIV, _) if b == 0 => 0,
            (alu::DIV, 0) => a / b,
            (alu::DIV, _) => sa / sb,
            (alu::MOD, _) if b == 0 => a,
            (alu::MOD, 0) => a % b,
            (alu::MOD, _) => sa % sb,
            (alu::OR, _) => a | b,
            (alu::AND, _) => a & b,
            (alu::XOR, _) => a ^ b,
            (alu::LSH, _) => (a as u128).wrapping_shl(count) as i128,
            (alu::RSH, _) => a >> count,
            (alu::ARSH, _) => sa >> count,
            (alu::NEG, _) => -a,
            (alu::MOV, 0) => b,
            (alu::MOV, from) => self::signed(b % (1 << from), from as u32),
            (operation, _) => panic!("there is no operation {operation:#x}"),
        };
        result.rem_euclid(modulus) as u64
    }

    fn instruction(self, right: Right) -> Insn {
        let (code, imm) = match right {
            _ if self.operation == alu::NEG => (0, 0),
            Right::Register(_) => (X, 0),
            Right::Immediate(imm) => (0, imm),
        };
        Insn {
            code: self.class | self.operation | code,
            dst: R0,
            src: if code == X { R1 } else { 0 },
            off: self.off,
            imm,
        }
    }
}

fn signed(value: i128, bits: u32) -> i128 {
    let half = 1_i128 << (bits - 1);
    if value < half {
        value
    } else {
        value - 2 * half
    }
}

/// The right operand.
#[derive(Clone, Copy, Debug)]
enum Right {
    Register(u64),
    Immediate(i32),
}

impl Right {
    /// As the operation sees it: immediates are sign-extended.
    fn value(self) -> u64 {
        match self {
            Self::Register(value) => value,
            Self::Immediate(imm) => imm as u64,
        }
    }

    /// r1 is the register.
    fn load(self) -> Vec<Insn> {
        match self {
            Self::Register(value) => mov_imm64(R1, value).into(),
            Self::Immediate(_) => Vec::new(),
        }
    }
}

/// Numbers at which arithmetic goes wrong, and others.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![
        any::<u64>(),
        any::<u32>().prop_map(u64::from),
        (0..64_u32, -2..3_i64).prop_map(|(bit, near)| (1_u64 << bit).wrapping_add_signed(near)),
        (-2..3_i64).prop_map(|near| near as u64),
    ]
}

fn right() -> impl Strategy<Value = Right> {
    prop_oneof![
        number().prop_map(Right::Register),
        number().prop_map(|value| Right::Immediate(value as i32)),
    ]
}

fn operation() -> impl Strategy<Value = Operation> {
    use alu::*;
    let all = [
        (ADD, 0),
        (SUB, 0),
        (MUL, 0),
        (DIV, 0),
        (DIV, 1),
        (OR, 0),
        (AND, 0),
        (LSH, 0),
        (RSH, 0),
        (NEG, 0),
        (MOD, 0),
        (MOD, 1),
        (XOR, 0),
        (MOV, 0),
        (MOV, 8),
        (MOV, 16),
        (MOV, 32),
        (ARSH, 0),
    ];
    let class = prop::sample::select(&[class::ALU, class::ALU64][..]);
    (class, prop::sample::select(all.to_vec()))
        .prop_filter("32 bits are not extended to 32", |&(class, of)| {
            (class, of) != (class::ALU, (MOV, 32))
        })
        .prop_map(|(class, (operation, off))| Operation {
            class,
            operation,
            off,
        })
}

/// What the verifier refuses.
fn is_refused(operation: Operation, right: Right) -> bool {
    let Right::Immediate(imm) = right else {
        return false;
    };
    match operation.operation {
        alu::DIV | alu::MOD => imm == 0,
        alu::LSH | alu::RSH | alu::ARSH => !(0..operation.bits() as i32).contains(&imm),
        alu::MOV => operation.off != 0,
        _ => false,
    }
}

/// Section 4.3: whether the condition holds.
fn holds(class: u8, operation: u8, left: u64, right: u64) -> bool {
    let bits = if class == class::JMP { 64 } else { 32 };
    let unsigned = |value: u64| i128::from(value) % (1_i128 << bits);
    let [a, b] = [unsigned(left), unsigned(right)];
    let [sa, sb] = [signed(a, bits), signed(b, bits)];
    match operation {
        jmp::JEQ => a == b,
        jmp::JGT => a > b,
        jmp::JGE => a >= b,
        jmp::JSET => a & b != 0,
        jmp::JNE => a != b,
        jmp::JSGT => sa > sb,
        jmp::JSGE => sa >= sb,
        jmp::JLT => a < b,
        jmp::JLE => a <= b,
        jmp::JSLT => sa < sb,
        jmp::JSLE => sa <= sb,
        operation => panic!("there is no condition {operation:#x}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn arithmetic_is_that_of_the_standard(
        operation in operation(), left in number(), right in right(),
    ) {
        prop_assume!(!is_refused(operation, right));
        let mut program = Vec::from(mov_imm64(R0, left));
        program.extend(right.load());
        program.extend([operation.instruction(right), exit()]);
        prop_assert_eq!(run(&program), Ok(operation.result(left, right.value())));
    }

    #[test]
    fn conditions_are_those_of_the_standard(
        class in prop::sample::select(&[class::JMP, class::JMP32][..]),
        operation in prop::sample::select(vec![
            jmp::JEQ, jmp::JGT, jmp::JGE, jmp::JSET, jmp::JNE, jmp::JSGT, jmp::JSGE, jmp::JLT,
            jmp::JLE, jmp::JSLT, jmp::JSLE,
        ]),
        left in number(),
        right in right(),
    ) {
        let mut program = Vec::from(mov_imm64(R0, left));
        program.extend(right.load());
        let jump = Operation { class, operation, off: 2 };
        program.extend([jump.instruction(right), mov_imm(R0, 0), exit(), mov_imm(R0, 1), exit()]);
        let jumps = holds(class, operation, left, right.value());
        prop_assert_eq!(run(&program), Ok(jumps.into()));
    }

    /// Section 4.2, byte swap instructions.
    #[test]
    fn bytes_are_swapped_as_the_standard_says(
        code in prop::sample::select(vec![
            class::ALU | alu::END, class::ALU | alu::END | X, class::ALU64 | alu::END,
        ]),
        bits in prop::sample::select(vec![16, 32, 64]),
        value in number(),
    ) {
        let swap = Insn { code, dst: R0, src: 0, off: 0, imm: bits };
        let mut program = Vec::from(mov_imm64(R0, value));
        program.extend([swap, exit()]);
        let mut bytes = value.to_le_bytes()[..bits as usize / 8].to_vec();
        if code != class::ALU | alu::END {
            bytes.reverse();
        }
        bytes.resize(8, 0);
        let expected = u64::from_le_bytes(bytes.try_into().expect("there are 8"));
        prop_assert_eq!(run(&program), Ok(expected));
    }
}
