//! Jumps and conditions.

use super::alu::magnitude;
use super::asm::{AddSub, Cond, Label, Logical, Reg, Size, ZR};
use super::emit::Emitter;
use super::immediate::Bitmask;
use super::native::Failure;
use super::registers::{self, OPERAND};
use crate::decode::{Condition, IMMEDIATE, Step};

/// What a conditional branch looks at.
#[derive(Clone, Copy)]
enum Test {
    /// The flags.
    Flags(Cond),
    /// Whether a register is 0.
    Zero(Reg),
    /// Whether it is not.
    NotZero(Reg),
}

impl Test {
    fn inverted(self) -> Self {
        match self {
            Self::Flags(cond) => Self::Flags(cond.inverted()),
            Self::Zero(register) => Self::NotZero(register),
            Self::NotZero(register) => Self::Zero(register),
        }
    }
}

impl Emitter<'_> {
    /// Jumps always.
    pub(super) fn jump(&mut self, step: &Step) {
        let target = step.argument as usize;
        let place = self.place(target);
        if target <= self.index {
            self.jump_back(target);
        } else {
            self.asm.b(place);
        }
    }

    /// Jumps if `dst condition src`.
    pub(super) fn jump_if(&mut self, condition: Condition, size: Size, step: &Step) {
        let target = step.argument as usize;
        let test = self.test(condition, size, step);
        if target > self.index {
            let place = self.place(target);
            return self.branch(test, size, place);
        }
        let stay = self.asm.label();
        self.branch(test.inverted(), size, stay);
        self.jump_back(target);
        self.asm.bind(stay);
    }

    /// Pays for the way back to `target` and goes there.
    fn jump_back(&mut self, target: usize) {
        let place = self.place(target);
        let stub = self.stub(Failure::Budget);
        self.charge((self.index + 1 - target) as u32);
        self.asm.b_cond(Cond::Hs, place);
        self.asm.b(stub);
    }

    fn branch(&mut self, test: Test, size: Size, to: Label) {
        match test {
            Test::Flags(cond) => self.asm.b_cond(cond, to),
            Test::Zero(register) => self.asm.cbz(size, register, to),
            Test::NotZero(register) => self.asm.cbnz(size, register, to),
        }
    }

    fn test(&mut self, condition: Condition, size: Size, step: &Step) -> Test {
        let n = registers::of(step.dst);
        let constant = (step.src == IMMEDIATE).then_some(step.immediate);
        match (condition, constant) {
            (Condition::Eq, Some(0)) => return Test::Zero(n),
            (Condition::Ne, Some(0)) => return Test::NotZero(n),
            (Condition::Set, Some(value)) => self.test_bits(size, n, value),
            (Condition::Set, None) => {
                let m = registers::of(step.src);
                self.asm.logical(Logical::Ands, size, ZR, n, m);
            }
            (_, Some(value)) => self.compare_constant(size, n, value),
            (_, None) => {
                let m = registers::of(step.src);
                self.asm.add_sub(AddSub::Subs, size, ZR, n, m, 0);
            }
        }
        Test::Flags(match condition {
            Condition::Eq => Cond::Eq,
            Condition::Ne | Condition::Set => Cond::Ne,
            Condition::Gt => Cond::Hi,
            Condition::Ge => Cond::Hs,
            Condition::Lt => Cond::Lo,
            Condition::Le => Cond::Ls,
            Condition::SignedGt => Cond::Gt,
            Condition::SignedGe => Cond::Ge,
            Condition::SignedLt => Cond::Lt,
            Condition::SignedLe => Cond::Le,
        })
    }

    /// TST.
    fn test_bits(&mut self, size: Size, n: Reg, value: u64) {
        match Bitmask::of(value, size).filter(|_| self.may_show()) {
            Some(bits) => self.asm.logical_imm(Logical::Ands, size, ZR, n, bits),
            None => {
                self.operand(size, value);
                self.asm.logical(Logical::Ands, size, ZR, n, OPERAND);
            }
        }
    }

    /// CMP; CMN for a negative number, which sets the same flags.
    fn compare_constant(&mut self, size: Size, n: Reg, value: u64) {
        let value = value as i64;
        match magnitude(value).filter(|_| self.may_show()) {
            Some(number) if value >= 0 => {
                self.asm.add_sub_imm(AddSub::Subs, size, ZR, n, number);
            }
            Some(number) => self.asm.add_sub_imm(AddSub::Adds, size, ZR, n, number),
            None => {
                self.operand(size, value as u64);
                self.asm.add_sub(AddSub::Subs, size, ZR, n, OPERAND, 0);
            }
        }
    }
}
