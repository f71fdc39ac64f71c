//! Simulation of displaced instructions: what a vCPU would do, done at EL2 without a step.
//!
//! Only instructions whose whole effect is known here are simulated; all others, every encoding
//! that is unallocated or CONSTRAINED UNPREDICTABLE included, are left to the CPU by
//! [`Simulated::Step`]. An executor checks first and changes registers last, so that what is
//! stepped has not happened in part.

mod branch;
mod immediate;
mod memory;
mod register;

use super::classify::brk_immediate;
use super::{INSTRUCTION_SIZE, field};
use crate::machine::LiveMemory;
use crate::regs::{CoreRegs, pstate};

/// What became of a displaced instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Simulated {
    /// Executed: the registers are as after it, the PC included.
    Done,
    /// Not executed, nothing changed. The caller steps it in the step view.
    Step,
    /// It is a BRK of the guest's own; nothing changed. The caller delivers the exception to the
    /// guest.
    Breakpoint {
        /// Immediate of the BRK, for the ESR.
        immediate: u16,
    },
}

/// Whether loads and stores may be simulated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DataAccess {
    /// Through [`LiveMemory`], at EL1 only: its permissions are those of EL1.
    Simulated,
    /// No: they are stepped. For a vCPU whose data accesses differ from what [`LiveMemory`] does:
    /// big-endian (`SCTLR_EL1.EE`), tag-checked (MTE), or observed by a read watchpoint of the
    /// guest's or ours.
    Stepped,
}

/// Whether the branch target check (BTI) of the displaced instruction is behind us.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BranchTargetCheck {
    /// The trap was an HVC in its place: the check came first and passed, for HVC is no landing
    /// pad.
    Passed,
    /// The trap came before it (`xn` and `hw` modes). With PSTATE.BTYPE set the instruction is
    /// stepped, so that the hardware checks.
    Pending,
}

/// What a simulation must know of the vCPU besides its registers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SimulationFeatures {
    /// FEAT_BTI is implemented (`ID_AA64PFR1_EL1.BT`), so BR and BLR set PSTATE.BTYPE.
    pub bti: bool,
    /// FEAT_PAuth is implemented (`ID_AA64ISAR1_EL1`, `ID_AA64ISAR2_EL1`). Without it `PACIASP` and
    /// the like are NOPs.
    pub pauth: bool,
    /// What to do with loads and stores.
    pub data: DataAccess,
    /// State of the branch target check.
    pub branch_target: BranchTargetCheck,
}

/// How control goes on after an instruction.
enum Flow {
    /// To the next instruction.
    Next,
    /// To `target`, with PSTATE.BTYPE set to `branch_type` (in place, see [`pstate::BTYPE`]).
    Branch { target: u64, branch_type: u64 },
}

impl Flow {
    /// A branch that no landing pad is asked for: every direct branch, and RET.
    fn to(target: u64) -> Self {
        Flow::Branch {
            target,
            branch_type: 0,
        }
    }
}

/// Executes `instruction` on `regs` as the vCPU would at `regs.pc`.
///
/// The vCPU is at EL1 or EL0 in AArch64 state, and `regs.sp` is the stack pointer in use. With
/// [`Simulated::Done`] `regs` is what the vCPU would have after it: PC, BTYPE and SS included (Arm
/// ARM D2.12.4). A branch to an address that cannot be fetched is done as well: the exception
/// return to it faults as the branch would.
pub fn simulate(
    instruction: u32,
    regs: &mut CoreRegs,
    memory: &dyn LiveMemory,
    features: &SimulationFeatures,
) -> Simulated {
    // BRK before the branch target check: it may be the target of any branch.
    if let Some(immediate) = brk_immediate(instruction) {
        return Simulated::Breakpoint { immediate };
    }
    let check_pending = features.branch_target == BranchTargetCheck::Pending;
    if check_pending && regs.pstate & pstate::BTYPE != 0 {
        return Simulated::Step;
    }
    match execute(instruction, regs, memory, features) {
        Some(flow) => {
            retire(regs, flow);
            Simulated::Done
        }
        None => Simulated::Step,
    }
}

/// The instructions that most functions begin with and whose simulation needs nothing but the registers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Simple {
    /// `NOP`.
    Nop,
    /// `MOV X9, X30` of Linux' patchable entries.
    SaveLink,
}

impl Simple {
    /// `None` for all others.
    #[inline]
    pub fn of(instruction: u32) -> Option<Self> {
        match instruction {
            NOP => Some(Self::Nop),
            MOV_X9_X30 => Some(Self::SaveLink),
            _ => None,
        }
    }

    /// Does what [`simulate`] does, with the branch target check passed.
    #[inline]
    pub fn execute(self, regs: &mut CoreRegs) {
        if self == Self::SaveLink {
            regs.x[9] = regs.x[30];
        }
        retire(regs, Flow::Next);
    }
}

/// `MOV X9, X30`: `ORR X9, XZR, X30`.
const MOV_X9_X30: u32 = 0xaa1e_03e9;
/// The hint that does nothing.
const NOP: u32 = 0xd503_201f;

/// Executes what is known, by the main groups of the encoding (Arm ARM C4.1, `op0`); changes
/// nothing where it returns `None`.
fn execute(
    instruction: u32,
    regs: &mut CoreRegs,
    memory: &dyn LiveMemory,
    features: &SimulationFeatures,
) -> Option<Flow> {
    match field(instruction, 25, 4) {
        0b1000 | 0b1001 => immediate::execute(instruction, regs),
        0b1010 | 0b1011 => branch::execute(instruction, regs, features),
        0b0101 | 0b1101 => register::execute(instruction, regs),
        0b0100 | 0b0110 | 0b1100 | 0b1110 if features.data == DataAccess::Simulated => {
            memory::execute(instruction, regs, memory)
        }
        _ => None,
    }
}

/// What the end of an instruction does to PC and PSTATE.
#[inline]
fn retire(regs: &mut CoreRegs, flow: Flow) {
    regs.retire();
    match flow {
        Flow::Next => regs.pc = regs.pc.wrapping_add(INSTRUCTION_SIZE),
        Flow::Branch {
            target,
            branch_type,
        } => {
            regs.pc = target;
            regs.pstate |= branch_type;
        }
    }
}

/// Operand size, bit 31 (`sf`) of most instructions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Width {
    W32,
    W64,
}

impl Width {
    const fn of(instruction: u32) -> Self {
        if field(instruction, 31, 1) == 1 {
            Width::W64
        } else {
            Width::W32
        }
    }

    /// `value` as far as this width holds it: writing a W register clears the upper half of the X.
    const fn truncate(self, value: u64) -> u64 {
        match self {
            Width::W32 => value as u32 as u64,
            Width::W64 => value,
        }
    }

    const fn bits(self) -> u32 {
        match self {
            Width::W32 => 32,
            Width::W64 => 64,
        }
    }
}

/// The register that number 31 names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Register31 {
    Zero,
    StackPointer,
}

/// Reads a general register by its number of five bits.
fn read(regs: &CoreRegs, number: u32, meaning: Register31) -> u64 {
    match regs.x.get(number as usize) {
        Some(value) => *value,
        None if meaning == Register31::StackPointer => regs.sp,
        None => 0,
    }
}

/// Writes a general register by its number of five bits.
fn write(regs: &mut CoreRegs, number: u32, meaning: Register31, value: u64) {
    match regs.x.get_mut(number as usize) {
        Some(register) => *register = value,
        None if meaning == Register31::StackPointer => regs.sp = value,
        None => {}
    }
}

/// ADD, ADDS, SUB or SUBS, by `op` and `S` in bits 30 and 29.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct AddSub {
    width: Width,
    subtract: bool,
    set_flags: bool,
}

impl AddSub {
    const fn of(instruction: u32) -> Self {
        Self {
            width: Width::of(instruction),
            subtract: field(instruction, 30, 1) == 1,
            set_flags: field(instruction, 29, 1) == 1,
        }
    }

    /// The result; sets NZCV where the instruction does (Arm ARM J1, `AddWithCarry`).
    fn compute(self, regs: &mut CoreRegs, a: u64, b: u64) -> u64 {
        let (operand, carry_in) = if self.subtract { (!b, 1) } else { (b, 0) };
        let result = self
            .width
            .truncate(a.wrapping_add(operand).wrapping_add(carry_in));
        if self.set_flags {
            let flags = self.flags(a, operand, carry_in, result);
            let others = regs.pstate & !(pstate::N | pstate::Z | pstate::C | pstate::V);
            regs.pstate = others | flags;
        }
        result
    }

    fn flags(self, a: u64, b: u64, carry_in: u64, result: u64) -> u64 {
        let (a, b) = (self.width.truncate(a), self.width.truncate(b));
        let sign = 1 << (self.width.bits() - 1);
        let sum = u128::from(a) + u128::from(b) + u128::from(carry_in);
        let carry = sum >> self.width.bits() != 0;
        let overflow = (a ^ result) & (b ^ result) & sign != 0;
        let flag = |condition, bit| if condition { bit } else { 0 };
        flag(result & sign != 0, pstate::N)
            | flag(result == 0, pstate::Z)
            | flag(carry, pstate::C)
            | flag(overflow, pstate::V)
    }
}

#[cfg(test)]
mod oracle;
#[cfg(test)]
mod tests;
