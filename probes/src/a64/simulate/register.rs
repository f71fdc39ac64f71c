//! Data processing on registers (Arm ARM C4.1.95): MOV, and ADD and SUB with a shift.

use super::{AddSub, Flow, Register31, Width, read, write};
use crate::a64::field;
use crate::regs::CoreRegs;

pub(super) fn execute(instruction: u32, regs: &mut CoreRegs) -> Option<Flow> {
    let is_move = instruction & 0x7fe0_ffe0 == 0x2a00_03e0;
    let is_add_sub = instruction & 0x1f20_0000 == 0x0b00_0000;
    if is_move {
        move_register(instruction, regs);
    } else if is_add_sub {
        add_sub_shifted(instruction, regs)?;
    } else {
        return None;
    }
    Some(Flow::Next)
}

/// `MOV Rd, Rm`, which is `ORR Rd, ZR, Rm`.
fn move_register(instruction: u32, regs: &mut CoreRegs) {
    let value = read(regs, field(instruction, 16, 5), Register31::Zero);
    let value = Width::of(instruction).truncate(value);
    write(regs, field(instruction, 0, 5), Register31::Zero, value);
}

/// ADD, ADDS, SUB, SUBS of a register shifted by a constant.
fn add_sub_shifted(instruction: u32, regs: &mut CoreRegs) -> Option<()> {
    let operation = AddSub::of(instruction);
    let amount = field(instruction, 10, 6);
    if amount >= operation.width.bits() {
        return None;
    }
    let operand = read(regs, field(instruction, 16, 5), Register31::Zero);
    let narrow = operation.width.truncate(operand);
    let shifted = match (field(instruction, 22, 2), operation.width) {
        (0b00, _) => narrow << amount,
        (0b01, _) => narrow >> amount,
        (0b10, Width::W32) => (narrow as i32 >> amount) as u64,
        (0b10, Width::W64) => (narrow as i64 >> amount) as u64,
        _ => return None,
    };
    let first = read(regs, field(instruction, 5, 5), Register31::Zero);
    let result = operation.compute(regs, first, shifted);
    write(regs, field(instruction, 0, 5), Register31::Zero, result);
    Some(())
}
