//! The VM as the debugger sees it: [`probes::machine`] over [`Vm`].

use crate::trace::{About, trace};
use crate::vm::Vm;
use crate::{cpu, hwdebug, service, sysreg, time, vcpu};
use alloc::vec::Vec;
use probes::a64::SimulationFeatures;
use probes::addr::{Gpa, PAGE_SIZE};
use probes::machine::{
    ArmError, Clock, ExecuteView, FetchTrap, HwDebug, HwError, HwPoint, Lifecycle, Machine, NoVcpu,
    PhysFault, PhysMemory, Power, Registers, RunControl, RunMode, StepInterrupts, Stop, VcpuId,
    ViewUsage, VmId, VmState,
};
use probes::regs::{CoreRegs, FpRegs, SysReg, SysRegs};

/// In `tracepoints::MAPPINGS`.
const SHADOW: u64 = 1;

impl Machine for Vm {
    fn vm(&self) -> VmId {
        self.id
    }

    fn simulation(&self, _instruction: u32) -> SimulationFeatures {
        vcpu::simulation_features()
    }

    fn notify_server(&self) {
        service::notify();
    }

    fn console(&self) -> Option<Vec<u8>> {
        self.fetch_output();
        self.update_uart_line(None);
        Some(self.console.lock().contents())
    }
}

impl RunControl for Vm {
    fn vcpu_count(&self) -> usize {
        self.vcpus().len()
    }

    fn power(&self, vcpu: VcpuId) -> Power {
        self.vcpu(vcpu).map_or(Power::Off, |vcpu| vcpu.power())
    }

    fn physical_cpu(&self, vcpu: VcpuId) -> Option<usize> {
        Some(self.vcpu(vcpu)?.home())
    }

    fn state(&self) -> VmState {
        Vm::state(self)
    }

    fn hold(&self) {
        Vm::hold(self);
    }

    fn release(&self) {
        Vm::release(self);
    }

    fn held(&self) -> bool {
        self.is_held()
    }

    fn held_ns(&self) -> u64 {
        Vm::held_ns(self)
    }

    fn set_run_mode(&self, vcpu: VcpuId, mode: RunMode) {
        if let Some(vcpu) = self.vcpu(vcpu) {
            vcpu.set_mode(mode);
        }
    }

    fn step_interrupts(&self) -> StepInterrupts {
        Vm::step_interrupts(self)
    }

    fn set_step_interrupts(&self, interrupts: StepInterrupts) -> bool {
        Vm::set_step_interrupts(self, interrupts);
        true
    }

    fn take_stop(&self) -> Option<Stop> {
        Vm::take_stop(self)
    }
}

impl Registers for Vm {
    fn core(&self, vcpu: VcpuId) -> Result<CoreRegs, NoVcpu> {
        self.vcpu(vcpu).ok_or(NoVcpu)?.core()
    }

    fn set_core(&self, vcpu: VcpuId, regs: &CoreRegs) -> Result<(), NoVcpu> {
        self.vcpu(vcpu).ok_or(NoVcpu)?.set_core(regs)
    }

    fn fp(&self, vcpu: VcpuId) -> Result<FpRegs, NoVcpu> {
        self.vcpu(vcpu).ok_or(NoVcpu)?.fp()
    }

    fn set_fp(&self, vcpu: VcpuId, regs: &FpRegs) -> Result<(), NoVcpu> {
        self.vcpu(vcpu).ok_or(NoVcpu)?.set_fp(regs)
    }

    fn sys(&self, vcpu: VcpuId) -> Result<SysRegs, NoVcpu> {
        self.vcpu(vcpu).ok_or(NoVcpu)?.sys()
    }

    fn set_sys(&self, vcpu: VcpuId, reg: SysReg, value: u64) -> Result<(), NoVcpu> {
        self.vcpu(vcpu).ok_or(NoVcpu)?.set_sys(reg, value)
    }
}

impl PhysMemory for Vm {
    fn read_phys(&self, gpa: Gpa, buffer: &mut [u8]) -> Result<(), PhysFault> {
        Vm::read_phys(self, gpa, buffer)
    }

    fn write_phys(&self, gpa: Gpa, bytes: &[u8]) -> Result<(), PhysFault> {
        Vm::write_phys(self, gpa, bytes)
    }
}

impl ExecuteView for Vm {
    fn arm(&self, gpa: Gpa, trap: FetchTrap) -> Result<(), ArmError> {
        let mut views = self.views().lock();
        let before = views.shadows();
        let armed = views.arm(gpa, trap);
        if views.shadows() > before {
            trace!(
                About::Vm(self.id),
                MemoryMap {
                    gpa: gpa.page().0,
                    size: PAGE_SIZE,
                    what: SHADOW,
                }
            );
        }
        armed
    }

    fn disarm(&self, gpa: Gpa) {
        let mut views = self.views().lock();
        let before = views.shadows();
        views.disarm(gpa);
        if views.shadows() < before {
            trace!(
                About::Vm(self.id),
                MemoryUnmap {
                    gpa: gpa.page().0,
                    size: PAGE_SIZE,
                    what: SHADOW,
                }
            );
        }
    }

    fn view_usage(&self) -> ViewUsage {
        let views = self.views().lock();
        ViewUsage {
            sites: views.sites(),
            shadows: views.shadows(),
            no_execute: views.no_execute(),
            tables: views.tables(),
        }
    }
}

impl HwDebug for Vm {
    fn set_points(&self, points: &[HwPoint]) -> Result<(), HwError> {
        hwdebug::check(points)?;
        *self.points().lock() = points.to_vec();
        Ok(())
    }
}

impl Clock for Vm {
    fn now_ns(&self) -> u64 {
        time::hit_ns()
    }

    fn cpu(&self) -> usize {
        cpu::this().index
    }

    fn synchronize(&self) {
        sysreg::isb();
    }
}

impl Lifecycle for Vm {
    fn start(&self) {
        Vm::start(self);
    }

    fn power_off(&self) {
        Vm::power_off(self);
    }

    fn reset(&self) {
        Vm::reset(self);
    }
}
