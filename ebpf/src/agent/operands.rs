//! The values on an expression's stack while it is compiled: where each of them is.
//!
//! The latest are in registers that survive calls, or are constants that are nowhere yet. The others are in the frame,
//! each in a place of its own, so that wherever ways meet all of them can be there.

use super::MAX_DEPTH;
use crate::asm::reg::{FP, R0, R7, R8, R9};
use crate::asm::{load, mov, mov_imm, mov_imm64, store, store_imm};
use crate::insn::Insn;
use crate::stack::FRAME_SIZE;
use alloc::vec::Vec;

/// The registers for values.
const REGISTERS: [u8; 3] = [R7, R8, R9];

const _: () = assert!(8 * MAX_DEPTH <= FRAME_SIZE);

/// Where a value is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Operand {
    /// In its place in the frame.
    Frame,
    /// In this register.
    Register(u8),
    /// It is this.
    Constant(u64),
}

/// The place in the frame of the value with so many below it. An array grows towards the bottom of the stack, which is where
/// the further arguments of a `printf` are.
pub(super) const fn place(below: usize) -> i16 {
    -8 * (below as i16 + 1)
}

/// `value` as the immediate of an instruction, if it is one.
pub(super) fn immediate(value: u64) -> Option<i32> {
    i32::try_from(value as i64).ok()
}

/// `register = value`.
pub(super) fn set(insns: &mut Vec<Insn>, register: u8, value: u64) {
    match immediate(value) {
        Some(value) => insns.push(mov_imm(register, value)),
        None => insns.extend(mov_imm64(register, value)),
    }
}

/// The stack. Registers that were popped stay reserved until they are pushed or [freed](Operands::free).
#[derive(Default)]
pub(super) struct Operands {
    values: Vec<Operand>,
    reserved: Vec<u8>,
}

impl Operands {
    /// A stack of `depth` values, all in the frame.
    pub(super) fn in_frame(depth: usize) -> Self {
        Self {
            values: alloc::vec![Operand::Frame; depth],
            reserved: Vec::new(),
        }
    }

    pub(super) fn depth(&self) -> usize {
        self.values.len()
    }

    pub(super) fn push(&mut self, operand: Operand) {
        self.values.push(operand);
    }

    /// Takes the top away. What is in the frame is still there.
    pub(super) fn pop(&mut self) -> Operand {
        // `flow` has counted the values.
        self.values.pop().unwrap_or(Operand::Constant(0))
    }

    /// The register of an operand that was popped is used no more.
    pub(super) fn free(&mut self, operand: Operand) {
        if let Operand::Register(register) = operand {
            self.reserved.retain(|other| *other != register);
        }
    }

    /// Reserves a register. Where there is none left, the lowest value that has one goes to the frame. At most two registers
    /// are of values that were popped, so there is one.
    pub(super) fn reserve(&mut self, insns: &mut Vec<Insn>) -> u8 {
        let is_free = |register: &u8| !self.reserved.contains(register);
        match REGISTERS.into_iter().find(is_free) {
            Some(register) => {
                self.reserved.push(register);
                register
            }
            None => self.spill(insns),
        }
    }

    /// Brings the lowest value that has a register to the frame, and returns the register.
    fn spill(&mut self, insns: &mut Vec<Insn>) -> u8 {
        for (below, value) in self.values.iter_mut().enumerate() {
            if let Operand::Register(register) = *value {
                insns.push(store(FP, place(below), register));
                *value = Operand::Frame;
                return register;
            }
        }
        debug_assert!(false, "three values are popped");
        REGISTERS[0]
    }

    /// Takes the top away, into a register.
    pub(super) fn pop_register(&mut self, insns: &mut Vec<Insn>) -> u8 {
        let operand = self.pop();
        if let Operand::Register(register) = operand {
            return register;
        }
        let below = self.depth();
        let register = self.reserve(insns);
        self.load(insns, operand, below, register);
        register
    }

    /// `register = ` an operand with so many values below it.
    pub(super) fn load(&self, insns: &mut Vec<Insn>, operand: Operand, below: usize, register: u8) {
        match operand {
            Operand::Frame => insns.push(load(register, FP, place(below))),
            Operand::Register(from) => insns.push(mov(register, from)),
            Operand::Constant(value) => set(insns, register, value),
        }
    }

    /// `register = ` the value so far below the top, which stays.
    pub(super) fn copy(&self, insns: &mut Vec<Insn>, from_top: usize, register: u8) {
        let below = self.depth() - 1 - from_top;
        self.load(insns, self.values[below], below, register);
    }

    /// The value so far below the top.
    pub(super) fn peek(&self, from_top: usize) -> Operand {
        self.values[self.depth() - 1 - from_top]
    }

    /// Brings all values to the frame.
    pub(super) fn flush(&mut self, insns: &mut Vec<Insn>) {
        for (below, value) in self.values.iter_mut().enumerate() {
            match *value {
                Operand::Frame => {}
                Operand::Register(register) => {
                    insns.push(store(FP, place(below), register));
                    self.reserved.retain(|other| *other != register);
                }
                Operand::Constant(constant) => match immediate(constant) {
                    Some(constant) => insns.push(store_imm(FP, place(below), constant)),
                    None => {
                        insns.extend(mov_imm64(R0, constant));
                        insns.push(store(FP, place(below), R0));
                    }
                },
            }
            *value = Operand::Frame;
        }
    }
}
