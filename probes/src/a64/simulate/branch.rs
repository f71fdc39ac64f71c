//! Branches and hints (Arm ARM C4.1.93).
//!
//! # BTYPE
//!
//! BR and BLR leave PSTATE.BTYPE set for the check at their target (Arm ARM C6.2 and D8.4.9): BLR
//! 0b10; BR through x16 or x17 0b01; BR through another register 0b01 from an unguarded page and
//! 0b11 from a guarded one. Which kind of page the branch is in would take a walk of the guest's
//! tables, so with FEAT_BTI that last form is stepped; it opens no function. RET and direct
//! branches leave 0b00.

use super::{Flow, Register31, SimulationFeatures, Width, read};
use crate::a64::{INSTRUCTION_SIZE, branch_offset, field};
use crate::regs::{CoreRegs, pstate};

/// BTYPE after a BR that may enter a function: `BTI c` takes it.
const BTYPE_JUMP_TO_CALL: u64 = 0b01 << pstate::BTYPE.trailing_zeros();
/// BTYPE after BLR.
const BTYPE_CALL: u64 = 0b10 << pstate::BTYPE.trailing_zeros();

/// Number of the link register.
const LINK: usize = 30;

pub(super) fn execute(
    instruction: u32,
    regs: &mut CoreRegs,
    features: &SimulationFeatures,
) -> Option<Flow> {
    if let Some(offset) = branch_offset(instruction) {
        return direct(instruction, regs, offset);
    }
    let number = field(instruction, 5, 5);
    let target = read(regs, number, Register31::Zero);
    match instruction & 0xffff_fc1f {
        BR => {
            let branch_type = match (features.bti, number) {
                (false, _) => 0,
                (true, 16 | 17) => BTYPE_JUMP_TO_CALL,
                (true, _) => return None,
            };
            Some(Flow::Branch {
                target,
                branch_type,
            })
        }
        BLR => {
            regs.x[LINK] = regs.pc.wrapping_add(INSTRUCTION_SIZE);
            Some(Flow::Branch {
                target,
                branch_type: if features.bti { BTYPE_CALL } else { 0 },
            })
        }
        RET => Some(Flow::to(target)),
        _ => nop_hint(instruction, features).then_some(Flow::Next),
    }
}

const BR: u32 = 0xd61f_0000;
const BLR: u32 = 0xd63f_0000;
const RET: u32 = 0xd65f_0000;

/// B, BL, B.cond, CBZ, CBNZ, TBZ, TBNZ.
fn direct(instruction: u32, regs: &mut CoreRegs, offset: i64) -> Option<Flow> {
    let taken = match instruction >> 24 {
        0x14..=0x17 => true,
        0x94..=0x97 => {
            regs.x[LINK] = regs.pc.wrapping_add(INSTRUCTION_SIZE);
            true
        }
        0x54 => {
            let consistent = field(instruction, 4, 1) == 1;
            if consistent {
                // BC.cond (FEAT_HBC), unallocated on most CPUs.
                return None;
            }
            condition_holds(field(instruction, 0, 4), regs.pstate)
        }
        0x34 | 0x35 | 0xb4 | 0xb5 => compare_holds(instruction, regs),
        _ => test_holds(instruction, regs),
    };
    Some(if taken {
        Flow::to(regs.pc.wrapping_add_signed(offset))
    } else {
        Flow::Next
    })
}

/// CBZ, CBNZ.
fn compare_holds(instruction: u32, regs: &CoreRegs) -> bool {
    let value = read(regs, field(instruction, 0, 5), Register31::Zero);
    let is_zero = Width::of(instruction).truncate(value) == 0;
    let wants_zero = field(instruction, 24, 1) == 0;
    is_zero == wants_zero
}

/// TBZ, TBNZ: the bit's number is in `b5:b40`.
fn test_holds(instruction: u32, regs: &CoreRegs) -> bool {
    let bit = field(instruction, 31, 1) << 5 | field(instruction, 19, 5);
    let value = read(regs, field(instruction, 0, 5), Register31::Zero);
    let is_zero = value >> bit & 1 == 0;
    let wants_zero = field(instruction, 24, 1) == 0;
    is_zero == wants_zero
}

/// Arm ARM J1, `ConditionHolds`; `flags` is PSTATE.
fn condition_holds(condition: u32, flags: u64) -> bool {
    let [n, z, c, v] = [pstate::N, pstate::Z, pstate::C, pstate::V].map(|bit| flags & bit != 0);
    let holds = match condition >> 1 {
        0b000 => z,
        0b001 => c,
        0b010 => n,
        0b011 => v,
        0b100 => c && !z,
        0b101 => n == v,
        0b110 => n == v && !z,
        // AL, and NV which is AL too: nothing to invert.
        _ => return true,
    };
    let inverted = condition & 1 == 1;
    holds != inverted
}

/// Whether the instruction is a hint that does nothing on this CPU.
///
/// An unallocated hint is a NOP as well, but not on a CPU that is newer than this list: it is
/// stepped.
fn nop_hint(instruction: u32, features: &SimulationFeatures) -> bool {
    let is_hint = instruction & 0xffff_f01f == 0xd503_201f;
    if !is_hint {
        return false;
    }
    match field(instruction, 5, 7) {
        // NOP, YIELD, DGH; BTI, whose check is behind us.
        0 | 1 | 6 | 32 | 34 | 36 | 38 => true,
        // XPACLRI, PAC*1716, AUT*1716; PAC* and AUT* with SP or zero as modifier.
        7 | 8 | 10 | 12 | 14 | 24..=31 => !features.pauth,
        _ => false,
    }
}
