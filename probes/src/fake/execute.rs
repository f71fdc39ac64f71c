//! What a vCPU executes beyond what [`crate::a64::simulate`] knows.

use super::FakeMachine;
use super::memory::{Role, VcpuMemory, Watched};
use crate::a64::{
    BranchTargetCheck, Class, DataAccess, Simulated, SimulationFeatures, classify, simulate,
};
use crate::addr::{Gpa, Gva};
use crate::machine::LiveMemory;
use crate::regs::{CoreRegs, SysReg, SysRegs, pstate};

/// What the vCPUs of a fake can: no BTI, no PAC, so landing pads and `PACIASP` are NOPs.
pub(super) const FEATURES: SimulationFeatures = SimulationFeatures {
    bti: false,
    pauth: false,
    data: DataAccess::Simulated,
    branch_target: BranchTargetCheck::Passed,
};

/// Exception classes (Arm ARM D17.2.37, `ESR_EL1.EC`).
mod ec {
    pub(super) const UNKNOWN: u64 = 0x00;
    pub(super) const SVC64: u64 = 0x15;
    pub(super) const INSTRUCTION_ABORT: u64 = 0x20;
    pub(super) const DATA_ABORT: u64 = 0x24;
    pub(super) const BRK64: u64 = 0x3c;
    /// Aborts "without a change in Exception level" have the next number.
    pub(super) const SAME_LEVEL: u64 = 1;
}

/// How an instruction ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Executed {
    /// It is done, or the guest takes its exception.
    Retired,
    /// Nothing happened: its access is watched.
    Watched(Watched),
}

impl FakeMachine {
    /// Executes `instruction`, at `regs.pc`, as the hardware would. `role` is one of the CPU's own.
    pub(super) fn execute(
        &self,
        instruction: u32,
        regs: &mut CoreRegs,
        sys: &mut SysRegs,
        role: Role,
    ) -> Executed {
        self.count_instruction();
        let memory = VcpuMemory::new(self, sys, regs.pstate, role);
        match simulate(instruction, regs, &memory, &FEATURES) {
            Simulated::Done => return Executed::Retired,
            Simulated::Breakpoint { immediate } => {
                breakpoint(immediate, regs, sys);
                return Executed::Retired;
            }
            Simulated::Step => {}
        }
        if let Some(watched) = memory.watched.get() {
            return Executed::Watched(watched);
        }
        if let Some(address) = memory.fault.get() {
            data_abort(address, regs, sys);
            return Executed::Retired;
        }
        let executed = match classify(instruction) {
            Class::LoadExclusive => self.load_exclusive(instruction, regs, &memory),
            Class::StoreExclusive => self.store_exclusive(instruction, regs, &memory),
            _ => {
                self.execute_system(instruction, regs, sys);
                return Executed::Retired;
            }
        };
        if executed.is_none() {
            return match memory.watched.get() {
                Some(watched) => Executed::Watched(watched),
                None => {
                    data_abort(memory.fault.get().unwrap_or_default(), regs, sys);
                    Executed::Retired
                }
            };
        }
        regs.pc = regs.pc.wrapping_add(4);
        regs.retire();
        Executed::Retired
    }

    fn execute_system(&self, instruction: u32, regs: &mut CoreRegs, sys: &mut SysRegs) {
        const ERET: u32 = 0xd69f_03e0;
        let is_hint = instruction & 0xffff_f01f == 0xd503_201f;
        let is_barrier = instruction & 0xffff_f01f == 0xd503_301f;
        match classify(instruction) {
            _ if is_hint || is_barrier => {}
            Class::Hvc { immediate: 0 } | Class::Smc if !regs.at_el0() => {
                // What follows a reset is the first instruction.
                regs.pc = regs.pc.wrapping_add(4);
                regs.retire();
                return self.psci(regs);
            }
            Class::Svc => {
                regs.pc = regs.pc.wrapping_add(4);
                return exception(ec::SVC64 << 26, regs, sys);
            }
            _ if instruction == ERET && !regs.at_el0() => {
                regs.pc = sys.get(SysReg::ElrEl1);
                regs.pstate = sys.get(SysReg::SpsrEl1);
                return;
            }
            _ => return exception(ec::UNKNOWN << 26, regs, sys),
        }
        regs.pc = regs.pc.wrapping_add(4);
        regs.retire();
    }

    /// `LDXR Xt, [Xn]`; of other sizes and of pairs, nothing is known.
    fn load_exclusive(
        &self,
        instruction: u32,
        regs: &mut CoreRegs,
        memory: &VcpuMemory<'_>,
    ) -> Option<()> {
        let (t, base) = exclusive_operands(instruction, regs);
        let mut bytes = [0; 8];
        memory.read(base, &mut bytes).ok()?;
        let gpa = memory.translate(base, |access| access.read).ok()?;
        if let Some(register) = regs.x.get_mut(t) {
            *register = u64::from_le_bytes(bytes);
        }
        self.with_turn(|vcpu| vcpu.monitor = Some(Gpa(gpa.0 & !7)));
        Some(())
    }

    /// `STXR Ws, Xt, [Xn]`.
    fn store_exclusive(
        &self,
        instruction: u32,
        regs: &mut CoreRegs,
        memory: &VcpuMemory<'_>,
    ) -> Option<()> {
        const FAILED: u64 = 1;
        let (t, base) = exclusive_operands(instruction, regs);
        let gpa = memory.translate(base, |access| access.write).ok()?;
        let monitored = self.with_turn(|vcpu| vcpu.monitor.take());
        let succeeds = monitored == Some(Gpa(gpa.0 & !7));
        if succeeds {
            let value = regs.x.get(t).copied().unwrap_or(0);
            memory.write(base, &value.to_le_bytes()).ok()?;
        }
        let status = (instruction >> 16 & 31) as usize;
        if let Some(register) = regs.x.get_mut(status) {
            *register = if succeeds { 0 } else { FAILED };
        }
        Some(())
    }
}

/// The data register's number and the address.
fn exclusive_operands(instruction: u32, regs: &CoreRegs) -> (usize, Gva) {
    let n = (instruction >> 5 & 31) as usize;
    (
        (instruction & 31) as usize,
        Gva(regs.x.get(n).copied().unwrap_or(regs.sp)),
    )
}

/// The guest takes its `BRK`.
pub(super) fn breakpoint(immediate: u16, regs: &mut CoreRegs, sys: &mut SysRegs) {
    exception(ec::BRK64 << 26 | u64::from(immediate), regs, sys);
}

/// The guest cannot fetch the instruction at its PC.
pub(super) fn instruction_abort(regs: &mut CoreRegs, sys: &mut SysRegs) {
    sys.set(SysReg::FarEl1, regs.pc);
    abort(ec::INSTRUCTION_ABORT, regs, sys);
}

fn data_abort(address: Gva, regs: &mut CoreRegs, sys: &mut SysRegs) {
    sys.set(SysReg::FarEl1, address.0);
    abort(ec::DATA_ABORT, regs, sys);
}

fn abort(class: u64, regs: &mut CoreRegs, sys: &mut SysRegs) {
    let class = if regs.at_el0() {
        class
    } else {
        class + ec::SAME_LEVEL
    };
    exception(class << 26, regs, sys);
}

/// The guest takes a synchronous exception to EL1 (Arm ARM D1.3).
fn exception(esr: u64, regs: &mut CoreRegs, sys: &mut SysRegs) {
    /// `ESR_EL1.IL`: the instruction has 32 bits.
    const IL: u64 = 1 << 25;
    let vector = match regs.pstate & pstate::MODE_MASK {
        pstate::EL0T => 0x400,
        pstate::EL1T => 0x000,
        _ => 0x200,
    };
    sys.set(SysReg::EsrEl1, esr | IL);
    sys.set(SysReg::ElrEl1, regs.pc);
    sys.set(SysReg::SpsrEl1, regs.pstate);
    regs.pc = sys.get(SysReg::VbarEl1).wrapping_add(vector);
    regs.pstate = super::BOOT_PSTATE;
}
