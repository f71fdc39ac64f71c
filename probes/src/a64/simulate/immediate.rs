//! Data processing with an immediate (Arm ARM C4.1.92).

use super::{AddSub, Flow, Register31, Width, read, write};
use crate::a64::{field, signed_field};
use crate::regs::CoreRegs;

pub(super) fn execute(instruction: u32, regs: &mut CoreRegs) -> Option<Flow> {
    match field(instruction, 23, 3) {
        0b000 | 0b001 => pc_relative(instruction, regs),
        0b010 => add_sub(instruction, regs),
        0b101 => move_wide(instruction, regs)?,
        _ => return None,
    }
    Some(Flow::Next)
}

/// ADR, ADRP.
fn pc_relative(instruction: u32, regs: &mut CoreRegs) {
    let upper = signed_field(instruction, 5, 19, 4);
    let offset = upper | i64::from(field(instruction, 29, 2));
    let to_page = field(instruction, 31, 1) == 1;
    let address = if to_page {
        (regs.pc & !0xfff).wrapping_add_signed(offset << 12)
    } else {
        regs.pc.wrapping_add_signed(offset)
    };
    write(regs, field(instruction, 0, 5), Register31::Zero, address);
}

/// ADD, ADDS, SUB, SUBS. Without flags, number 31 as destination is the stack pointer.
fn add_sub(instruction: u32, regs: &mut CoreRegs) {
    let operation = AddSub::of(instruction);
    let shift = 12 * field(instruction, 22, 1);
    let immediate = u64::from(field(instruction, 10, 12)) << shift;
    let operand = read(regs, field(instruction, 5, 5), Register31::StackPointer);
    let result = operation.compute(regs, operand, immediate);
    let destination = if operation.set_flags {
        Register31::Zero
    } else {
        Register31::StackPointer
    };
    write(regs, field(instruction, 0, 5), destination, result);
}

/// MOVN, MOVZ, MOVK.
fn move_wide(instruction: u32, regs: &mut CoreRegs) -> Option<()> {
    let width = Width::of(instruction);
    let shift = 16 * field(instruction, 21, 2);
    if shift >= width.bits() {
        return None;
    }
    let number = field(instruction, 0, 5);
    let immediate = u64::from(field(instruction, 5, 16)) << shift;
    let result = match field(instruction, 29, 2) {
        0b00 => !immediate,
        0b10 => immediate,
        0b11 => read(regs, number, Register31::Zero) & !(0xffff << shift) | immediate,
        _ => return None,
    };
    write(regs, number, Register31::Zero, width.truncate(result));
    Some(())
}
