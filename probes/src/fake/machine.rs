//! The traits of a machine.

use super::execute::FEATURES;
use super::memory::PhysicalAccess;
use super::{FakeMachine, HW_BREAKPOINTS, HW_WATCHPOINTS, INSTRUCTION_NS, PageView, Vcpu};
use crate::a64::SimulationFeatures;
use crate::addr::Gpa;
use crate::event::MAX_CPUS;
use crate::machine::{
    ArmError, Clock, ExecuteView, FetchTrap, HwDebug, HwError, HwPoint, Lifecycle, Machine, NoVcpu,
    PhysFault, PhysMemory, Power, Registers, RunControl, RunMode, StepInterrupts, Stop, VcpuId,
    ViewUsage, VmId, VmState,
};
use crate::regs::{CoreRegs, FpRegs, SysReg, SysRegAccess, SysRegs, pstate};
use alloc::collections::BTreeSet;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

impl RunControl for FakeMachine {
    fn vcpu_count(&self) -> usize {
        self.state.lock().vcpus.len()
    }

    fn power(&self, vcpu: VcpuId) -> Power {
        let state = self.state.lock();
        state
            .vcpus
            .get(usize::from(vcpu.0))
            .map_or(Power::Off, |vcpu| vcpu.power)
    }

    fn physical_cpu(&self, vcpu: VcpuId) -> Option<usize> {
        Some(usize::from(vcpu.0))
    }

    fn state(&self) -> VmState {
        self.state.lock().life
    }

    fn hold(&self) {
        self.state.lock().hold();
    }

    fn release(&self) {
        let mut state = self.state.lock();
        state.holds = state
            .holds
            .checked_sub(1)
            .expect("a release without its hold");
    }

    fn held(&self) -> bool {
        self.state.lock().holds > 0
    }

    fn held_ns(&self) -> u64 {
        self.held_idle.load(Ordering::Relaxed)
    }

    fn set_run_mode(&self, vcpu: VcpuId, mode: RunMode) {
        if let Some(vcpu) = self.state.lock().vcpus.get_mut(usize::from(vcpu.0)) {
            vcpu.mode = mode;
        }
    }

    fn step_interrupts(&self) -> StepInterrupts {
        *self.step_interrupts.lock()
    }

    fn set_step_interrupts(&self, interrupts: StepInterrupts) -> bool {
        *self.step_interrupts.lock() = interrupts;
        true
    }

    fn take_stop(&self) -> Option<Stop> {
        self.state.lock().stops.pop_front()
    }
}

impl FakeMachine {
    /// A vCPU that is on; the VM must be held, as in a real machine its registers would be moving.
    fn with_held<T>(&self, vcpu: VcpuId, access: impl FnOnce(&mut Vcpu) -> T) -> Result<T, NoVcpu> {
        let mut state = self.state.lock();
        assert!(
            state.holds > 0,
            "registers of {}/vcpu{} while it runs",
            self.vm,
            vcpu.0
        );
        let vcpu = state.vcpus.get_mut(usize::from(vcpu.0)).ok_or(NoVcpu)?;
        if vcpu.power == Power::Off {
            return Err(NoVcpu);
        }
        Ok(access(vcpu))
    }

    fn assert_held(&self, what: &str) {
        assert!(self.state.lock().holds > 0, "{what} while {} runs", self.vm);
    }
}

impl Registers for FakeMachine {
    fn core(&self, vcpu: VcpuId) -> Result<CoreRegs, NoVcpu> {
        self.with_held(vcpu, |vcpu| vcpu.regs)
    }

    fn set_core(&self, vcpu: VcpuId, regs: &CoreRegs) -> Result<(), NoVcpu> {
        self.with_held(vcpu, |vcpu| {
            let keeps_mode = pstate::MODE_MASK | pstate::AARCH32;
            let mode = vcpu.regs.pstate & keeps_mode;
            vcpu.regs = *regs;
            if regs.pstate & pstate::AARCH32 != 0 || regs.pstate & pstate::MODE_MASK > pstate::EL1H
            {
                vcpu.regs.pstate = regs.pstate & !keeps_mode | mode;
            }
        })
    }

    fn fp(&self, vcpu: VcpuId) -> Result<FpRegs, NoVcpu> {
        self.with_held(vcpu, |vcpu| vcpu.fp)
    }

    fn set_fp(&self, vcpu: VcpuId, regs: &FpRegs) -> Result<(), NoVcpu> {
        self.with_held(vcpu, |vcpu| vcpu.fp = *regs)
    }

    fn sys(&self, vcpu: VcpuId) -> Result<SysRegs, NoVcpu> {
        self.with_held(vcpu, |vcpu| vcpu.sys)
    }

    fn set_sys(&self, vcpu: VcpuId, reg: SysReg, value: u64) -> Result<(), NoVcpu> {
        assert_eq!(
            reg.access(),
            SysRegAccess::ReadWrite,
            "{} is read-only",
            reg.name()
        );
        self.with_held(vcpu, |vcpu| vcpu.sys.set(reg, value))
    }
}

impl PhysMemory for FakeMachine {
    fn read_phys(&self, gpa: Gpa, buffer: &mut [u8]) -> Result<(), PhysFault> {
        self.access_phys(gpa, PhysicalAccess::Read(buffer))
    }

    fn write_phys(&self, gpa: Gpa, bytes: &[u8]) -> Result<(), PhysFault> {
        self.access_phys(gpa, PhysicalAccess::Write(bytes))
    }
}

impl ExecuteView for FakeMachine {
    fn arm(&self, gpa: Gpa, trap: FetchTrap) -> Result<(), ArmError> {
        self.assert_held("arming");
        assert!(
            gpa.0.is_multiple_of(4),
            "arming half an instruction at {gpa}"
        );
        let mut word = [0; 4];
        self.read_phys(gpa, &mut word)
            .map_err(|_| ArmError::NotRam(gpa))?;
        self.state.lock().armed.insert(gpa, trap);
        Ok(())
    }

    fn disarm(&self, gpa: Gpa) {
        self.assert_held("disarming");
        self.state.lock().armed.remove(&gpa);
    }

    /// A fake has no stage-2 tables.
    fn view_usage(&self) -> ViewUsage {
        let state = self.state.lock();
        let pages: BTreeSet<Gpa> = state.armed.keys().map(|gpa| gpa.page()).collect();
        let sites = state.armed.len();
        drop(state);
        let is_shadow = |page: &&Gpa| self.page_view(**page) == PageView::Shadow;
        let shadows = pages.iter().filter(is_shadow).count();
        ViewUsage {
            sites,
            shadows,
            no_execute: pages.len() - shadows,
            tables: 0,
        }
    }
}

impl HwDebug for FakeMachine {
    fn set_points(&self, points: &[HwPoint]) -> Result<(), HwError> {
        self.assert_held("setting hardware points");
        let is_break = |point: &&HwPoint| matches!(point, HwPoint::Break(_));
        let breaks = points.iter().filter(is_break).count();
        if breaks > usize::from(HW_BREAKPOINTS) {
            return Err(HwError::TooMany {
                available: HW_BREAKPOINTS,
            });
        }
        if points.len() - breaks > usize::from(HW_WATCHPOINTS) {
            return Err(HwError::TooMany {
                available: HW_WATCHPOINTS,
            });
        }
        if points.iter().any(|point| !coverable(point)) {
            return Err(HwError::BadRange);
        }
        self.state.lock().points = points.to_vec();
        Ok(())
    }
}

/// Whether one watchpoint register covers a point (Arm ARM D2.10): bytes of one aligned doubleword,
/// or an aligned power of two.
fn coverable(point: &HwPoint) -> bool {
    let HwPoint::Watch {
        address, length, ..
    } = *point
    else {
        return true;
    };
    let Some(last) = length
        .checked_sub(1)
        .and_then(|rest| address.0.checked_add(rest))
    else {
        return false;
    };
    let in_doubleword = address.0 / 8 == last / 8;
    let aligned_power = length.is_power_of_two() && address.0.is_multiple_of(length);
    in_doubleword || aligned_power && length <= 1 << 31
}

impl Clock for FakeMachine {
    fn now_ns(&self) -> u64 {
        let executed = self.executed.load(Ordering::Relaxed);
        let idle = self.idle.load(Ordering::Relaxed);
        executed.saturating_mul(INSTRUCTION_NS).saturating_add(idle)
    }

    fn cpu(&self) -> usize {
        let first = usize::from(self.vm.0.saturating_sub(1)) * self.vcpu_count();
        (first + self.turn.load(Ordering::Relaxed)) % MAX_CPUS
    }

    /// It executes no code.
    fn synchronize(&self) {}
}

impl Lifecycle for FakeMachine {
    fn start(&self) {
        if self.state() != VmState::Running {
            self.boot();
        }
    }

    fn power_off(&self) {
        let mut state = self.state.lock();
        state.life = VmState::Off;
        for vcpu in &mut state.vcpus {
            vcpu.power = Power::Off;
        }
    }

    fn reset(&self) {
        self.boot();
    }
}

impl Machine for FakeMachine {
    fn vm(&self) -> VmId {
        self.vm
    }

    fn simulation(&self, _instruction: u32) -> SimulationFeatures {
        FEATURES
    }

    /// A fake has no server of its own: whoever runs it looks after it.
    fn notify_server(&self) {}

    fn console(&self) -> Option<Vec<u8>> {
        Some(self.console.lock().clone())
    }
}
