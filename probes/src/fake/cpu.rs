//! One turn of a vCPU.

use super::execute::{Executed, breakpoint, instruction_abort};
use super::memory::{Role, VcpuMemory};
use super::{FakeMachine, PageView};
use crate::a64::{Class, classify};
use crate::addr::{Gpa, Gva};
use crate::engine::{HitOutcome, Trap};
use crate::machine::{Clock, FetchTrap, HwPoint, PhysMemory, RunMode, StopReason, VcpuId};
use crate::regs::{CoreRegs, SysRegs};

/// The registers of the vCPU whose turn it is.
struct Turn {
    vcpu: usize,
    regs: CoreRegs,
    sys: SysRegs,
}

/// What happens at the PC.
enum Fetched {
    /// The guest's instruction, to be executed.
    Instruction(u32),
    /// The debugger has dealt with it.
    Served(HitOutcome),
    /// Nothing can be fetched.
    Abort,
}

impl FakeMachine {
    /// Lets a vCPU execute one instruction, or trap.
    pub(super) fn step(&self, vcpu: usize) {
        let (mut turn, mode, enters) = {
            let mut state = self.state.lock();
            let this = &mut state.vcpus[vcpu];
            let enters = core::mem::replace(&mut this.enters, false);
            (
                Turn {
                    vcpu,
                    regs: this.regs,
                    sys: this.sys,
                },
                this.mode,
                enters,
            )
        };
        let stop = self.one_instruction(&mut turn, enters);
        if stop.is_none() {
            self.walk(&turn);
        }
        let pc = Gva(turn.regs.pc);
        {
            let mut state = self.state.lock();
            let this = &mut state.vcpus[vcpu];
            this.regs = turn.regs;
            this.sys = turn.sys;
        }
        let step_ends = match mode {
            RunMode::Step => true,
            RunMode::StepRange { start, end } => !(start..end).contains(&pc),
            RunMode::Continue | RunMode::Stay => false,
        };
        match stop {
            Some(reason) => self.stop(vcpu, reason),
            None if step_ends => self.stop(vcpu, StopReason::Step),
            None => {}
        }
    }

    /// GDB tracepoints that step the vCPU look at it.
    fn walk(&self, turn: &Turn) {
        let vcpu = VcpuId(turn.vcpu as u8);
        let Some(space) = self.space().filter(|space| space.walks(vcpu)) else {
            return;
        };
        let memory = VcpuMemory::new(self, &turn.sys, turn.regs.pstate, Role::Simulation);
        space.walked(vcpu, &turn.regs, &memory, self.stamp());
    }

    fn one_instruction(&self, turn: &mut Turn, enters: bool) -> Option<StopReason> {
        let fetched = match self.pass(turn, enters) {
            HitOutcome::NotOurs => self.fetch(turn),
            outcome => Fetched::Served(outcome),
        };
        match fetched {
            Fetched::Instruction(instruction) => self.finish(instruction, turn),
            Fetched::Abort => {
                instruction_abort(&mut turn.regs, &mut turn.sys);
                None
            }
            Fetched::Served(outcome) => self.obey(outcome, turn),
        }
    }

    /// A vCPU that has been held goes past the site where it stopped.
    fn pass(&self, turn: &mut Turn, enters: bool) -> HitOutcome {
        let Some(space) = self.space().filter(|_| enters) else {
            return HitOutcome::NotOurs;
        };
        let memory = VcpuMemory::new(self, &turn.sys, turn.regs.pstate, Role::Simulation);
        space.pass(&mut Trap {
            vcpu: VcpuId(turn.vcpu as u8),
            regs: &mut turn.regs,
            memory: &memory,
            stamp: self.stamp(),
        })
    }

    fn obey(&self, outcome: HitOutcome, turn: &mut Turn) -> Option<StopReason> {
        match outcome {
            HitOutcome::Resume => {
                self.count_instruction();
                None
            }
            HitOutcome::Stop(reason) => Some(reason),
            HitOutcome::Breakpoint { immediate } => {
                breakpoint(immediate, &mut turn.regs, &mut turn.sys);
                None
            }
            HitOutcome::Step | HitOutcome::NotOurs => match self.original(turn) {
                Some((_, instruction)) => self.finish(instruction, turn),
                None => {
                    instruction_abort(&mut turn.regs, &mut turn.sys);
                    None
                }
            },
        }
    }

    /// Executes the guest's own instruction, in the step view as it were.
    fn finish(&self, instruction: u32, turn: &mut Turn) -> Option<StopReason> {
        let (regs, sys) = (&mut turn.regs, &mut turn.sys);
        let Executed::Watched(watched) = self.execute(instruction, regs, sys, Role::Cpu) else {
            return None;
        };
        let Some(space) = self.space() else {
            return Some(StopReason::Watchpoint {
                address: watched.address,
                kind: watched.kind,
            });
        };
        let vcpu = VcpuId(turn.vcpu as u8);
        let memory = VcpuMemory::new(self, sys, regs.pstate, Role::Simulation);
        let trap = Trap {
            vcpu,
            regs,
            memory: &memory,
            stamp: self.stamp(),
        };
        match space.watch_hit(watched.address, watched.kind, &trap) {
            HitOutcome::Stop(reason) => {
                space.interrupted(vcpu, regs);
                Some(reason)
            }
            _ => {
                self.execute(instruction, regs, sys, Role::Unwatched);
                None
            }
        }
    }

    /// What the vCPU meets at its PC in the run view.
    fn fetch(&self, turn: &mut Turn) -> Fetched {
        let Some((gpa, original)) = self.original(turn) else {
            return Fetched::Abort;
        };
        let memory = VcpuMemory::new(self, &turn.sys, turn.regs.pstate, Role::Simulation);
        let pc = Gva(turn.regs.pc);
        let trap = &mut Trap {
            vcpu: VcpuId(turn.vcpu as u8),
            regs: &mut turn.regs,
            memory: &memory,
            stamp: self.stamp(),
        };
        if self.points().contains(&HwPoint::Break(pc)) {
            let outcome = match self.space() {
                Some(space) => space.hw_hit(trap),
                None => HitOutcome::Stop(StopReason::HwBreakpoint),
            };
            return Fetched::Served(outcome);
        }
        let Some(space) = self.space() else {
            return Fetched::Instruction(original);
        };
        if self.page_view(gpa) == PageView::NoExecute {
            return Fetched::Served(space.fetch(gpa, trap));
        }
        let seen = match self.state.lock().armed.get(&gpa) {
            Some(FetchTrap::Instruction(probe)) => *probe,
            Some(FetchTrap::NoExecute) | None => original,
        };
        let Class::Hvc { immediate } = classify(seen) else {
            return Fetched::Instruction(original);
        };
        match space.hit(immediate, trap) {
            HitOutcome::NotOurs => Fetched::Instruction(seen),
            outcome => Fetched::Served(outcome),
        }
    }

    /// The guest's own instruction at the PC.
    fn original(&self, turn: &Turn) -> Option<(Gpa, u32)> {
        let memory = VcpuMemory::new(self, &turn.sys, turn.regs.pstate, Role::Cpu);
        let gpa = memory
            .translate(Gva(turn.regs.pc), |access| access.execute)
            .ok()?;
        let mut bytes = [0; 4];
        self.read_phys(gpa, &mut bytes).ok()?;
        Some((gpa, u32::from_le_bytes(bytes)))
    }
}
