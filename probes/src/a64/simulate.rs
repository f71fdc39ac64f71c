//! Simulation of displaced instructions.

use crate::machine::LiveMemory;
use crate::regs::CoreRegs;

use super::{Class, INSTRUCTION_SIZE, classify};

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
    /// Through [`LiveMemory`].
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

/// Executes `instruction` on `regs` as the vCPU would at `regs.pc`. The vCPU is at EL1 or EL0 in
/// AArch64 state.
pub fn simulate(
    instruction: u32,
    regs: &mut CoreRegs,
    _memory: &dyn LiveMemory,
    _features: &SimulationFeatures,
) -> Simulated {
    match classify(instruction) {
        Class::Brk { immediate } => Simulated::Breakpoint { immediate },
        Class::Nop => {
            regs.pc = regs.pc.wrapping_add(INSTRUCTION_SIZE);
            regs.retire();
            Simulated::Done
        }
        _ => Simulated::Step,
    }
}
