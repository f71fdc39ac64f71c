//! The machine of a session that debugs nothing: no vCPU, no memory, always off. With it, what a server does for a
//! debugger comes out right for a tool that only brings programs and takes events: there is no thread, no register, no
//! address, and nothing to stop.

use crate::a64::{BranchTargetCheck, DataAccess, SimulationFeatures};
use crate::addr::Gpa;
use crate::machine::{
    ArmError, Clock, ExecuteView, FetchTrap, HwDebug, HwError, HwPoint, Lifecycle, Machine, NoVcpu,
    PhysFault, PhysMemory, Power, Registers, RunControl, RunMode, Stop, VcpuId, ViewUsage, VmId,
    VmState,
};
use crate::regs::{CoreRegs, FpRegs, SysReg, SysRegs};

/// A machine with nothing in it.
pub(crate) struct NoMachine;

impl RunControl for NoMachine {
    fn vcpu_count(&self) -> usize {
        0
    }

    fn power(&self, _: VcpuId) -> Power {
        Power::Off
    }

    fn state(&self) -> VmState {
        VmState::Off
    }

    fn hold(&self) {}

    fn release(&self) {}

    fn held(&self) -> bool {
        false
    }

    fn held_ns(&self) -> u64 {
        0
    }

    fn set_run_mode(&self, _: VcpuId, _: RunMode) {}

    fn take_stop(&self) -> Option<Stop> {
        None
    }
}

impl Registers for NoMachine {
    fn core(&self, _: VcpuId) -> Result<CoreRegs, NoVcpu> {
        Err(NoVcpu)
    }

    fn set_core(&self, _: VcpuId, _: &CoreRegs) -> Result<(), NoVcpu> {
        Err(NoVcpu)
    }

    fn fp(&self, _: VcpuId) -> Result<FpRegs, NoVcpu> {
        Err(NoVcpu)
    }

    fn set_fp(&self, _: VcpuId, _: &FpRegs) -> Result<(), NoVcpu> {
        Err(NoVcpu)
    }

    fn sys(&self, _: VcpuId) -> Result<SysRegs, NoVcpu> {
        Err(NoVcpu)
    }

    fn set_sys(&self, _: VcpuId, _: SysReg, _: u64) -> Result<(), NoVcpu> {
        Err(NoVcpu)
    }
}

impl PhysMemory for NoMachine {
    fn read_phys(&self, gpa: Gpa, _: &mut [u8]) -> Result<(), PhysFault> {
        Err(PhysFault::Unmapped(gpa))
    }

    fn write_phys(&self, gpa: Gpa, _: &[u8]) -> Result<(), PhysFault> {
        Err(PhysFault::Unmapped(gpa))
    }
}

impl ExecuteView for NoMachine {
    fn arm(&self, gpa: Gpa, _: FetchTrap) -> Result<(), ArmError> {
        Err(ArmError::NotRam(gpa))
    }

    fn disarm(&self, _: Gpa) {}

    fn view_usage(&self) -> ViewUsage {
        ViewUsage {
            sites: 0,
            shadows: 0,
            no_execute: 0,
            tables: 0,
        }
    }
}

impl HwDebug for NoMachine {
    fn set_points(&self, _: &[HwPoint]) -> Result<(), HwError> {
        Err(HwError::TooMany { available: 0 })
    }
}

impl Clock for NoMachine {
    fn now_ns(&self) -> u64 {
        0
    }

    fn cpu(&self) -> usize {
        0
    }

    fn synchronize(&self) {}
}

impl Lifecycle for NoMachine {
    fn start(&self) {}

    fn power_off(&self) {}

    fn reset(&self) {}
}

impl Machine for NoMachine {
    /// What such a session does is told as the hypervisor's own doing.
    fn vm(&self) -> VmId {
        VmId::HYPERVISOR
    }

    fn simulation(&self, _: u32) -> SimulationFeatures {
        SimulationFeatures {
            bti: false,
            pauth: false,
            data: DataAccess::Stepped,
            branch_target: BranchTargetCheck::Pending,
        }
    }

    fn notify_server(&self) {}
}
