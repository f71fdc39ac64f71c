//! A64 instructions: what the probe layer must know of the instruction that a probe displaces.
//!
//! - [`simulate`] executes the common instructions of function entries without a step;
//! - [`classify`] tells what an instruction means to a probe that wants to replace it;
//! - [`control`] tells where control goes after an instruction;
//! - [`step_plan`] finds the end of an exclusive sequence, which must run as one step.
//!
//! Encodings are those of the Arm ARM (DDI 0487), chapter C4.

mod classify;
mod control;
mod exclusive;
mod relocate;
mod simulate;

pub use classify::{Class, LandingPad, brk, classify, hvc, is_no_instruction};
pub use control::{Control, control};
pub use exclusive::{
    Ends, MAX_ENDS, SEQUENCE_LENGTH, StepPlan, exclusive_sequence_around, step_plan,
    step_plan_after_trap,
};
pub use relocate::{Execution, Unmovable, execution};
pub use simulate::{
    BranchTargetCheck, DataAccess, Simple, Simulated, SimulationFeatures, simulate,
};

/// Bytes of an A64 instruction.
const INSTRUCTION_SIZE: u64 = 4;

/// Bits `low..low + width` of an instruction.
pub(crate) const fn field(instruction: u32, low: u32, width: u32) -> u32 {
    (instruction >> low) & ((1 << width) - 1)
}

/// Bits `low..low + width` of an instruction as a signed number of the same weight, times `scale`.
pub(crate) const fn signed_field(instruction: u32, low: u32, width: u32, scale: i64) -> i64 {
    let unused = u32::BITS - width;
    ((field(instruction, low, width) << unused) as i32 >> unused) as i64 * scale
}

/// The branch target of a direct branch, relative to its own address; `None` for anything else.
///
/// B, BL (Arm ARM C4.1.66 "Unconditional branch (immediate)"), B.cond and BC.cond, CBZ and CBNZ,
/// TBZ and TBNZ.
const fn branch_offset(instruction: u32) -> Option<i64> {
    if instruction & 0x7c00_0000 == 0x1400_0000 {
        return Some(signed_field(instruction, 0, 26, 4));
    }
    let conditional = instruction & 0xff00_0000 == 0x5400_0000;
    let compare_and_branch = instruction & 0x7e00_0000 == 0x3400_0000;
    if conditional || compare_and_branch {
        return Some(signed_field(instruction, 5, 19, 4));
    }
    let test_and_branch = instruction & 0x7e00_0000 == 0x3600_0000;
    if test_and_branch {
        return Some(signed_field(instruction, 5, 14, 4));
    }
    None
}
