//! The hypervisor itself as the debugger sees it: [`probes::machine`] over EL2 ("The hypervisor as a machine" there).

use crate::own_memory::{self, Access, Place};
use crate::{cpu, hprobes, live, rendezvous, service, time};
use core::sync::atomic::{AtomicUsize, Ordering};
use log::error;
use probes::addr::{Gpa, Hpa};
use probes::machine::{
    ArmError, Clock, ExecuteView, HwDebug, HwError, HwPoint, Lifecycle, Machine, NoVcpu, PhysFault,
    PhysMemory, Power, Registers, RunControl, RunMode, Stop, VcpuId, ViewUsage, VmId, VmState,
};
use probes::regs::{CoreRegs, FpRegs, SysReg, SysRegs};

/// The hypervisor itself.
pub static HYP: Hyp = Hyp {
    holds: AtomicUsize::new(0),
};

/// All physical CPUs at EL2.
pub struct Hyp {
    holds: AtomicUsize,
}

impl Machine for Hyp {
    fn vm(&self) -> VmId {
        VmId::HYPERVISOR
    }

    fn notify_server(&self) {
        service::notify();
    }
}

/// Holds are the service CPU's: it brings the others to rest (rendezvous.rs) and goes on itself, as if inside a probe: a
/// hit of its own would wait for the table that it changes.
impl RunControl for Hyp {
    fn vcpu_count(&self) -> usize {
        cpu::online().count()
    }

    fn power(&self, vcpu: VcpuId) -> Power {
        match cpu::get(usize::from(vcpu.0)) {
            Some(_) => Power::On,
            None => Power::Off,
        }
    }

    fn state(&self) -> VmState {
        VmState::Running
    }

    fn hold(&self) {
        let missing = rendezvous::stop_cpus();
        for index in missing.iter() {
            error!("cpu{index} does not come to rest: what it executes changes under it");
        }
        if self.holds.fetch_add(1, Ordering::AcqRel) == 0 {
            cpu::this().begin_probe();
        }
    }

    fn release(&self) {
        if self.holds.fetch_sub(1, Ordering::AcqRel) == 1 {
            cpu::this().end_probe();
        }
        rendezvous::resume_cpus();
    }

    fn held(&self) -> bool {
        self.holds.load(Ordering::Acquire) > 0
    }

    /// Physical CPUs are not stepped.
    fn set_run_mode(&self, _: VcpuId, _: RunMode) {}

    /// No probe stops them.
    fn take_stop(&self) -> Option<Stop> {
        None
    }
}

/// Physical CPUs are no debugger's yet: their registers are not shown.
impl Registers for Hyp {
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

impl PhysMemory for Hyp {
    fn read_phys(&self, gpa: Gpa, buffer: &mut [u8]) -> Result<(), PhysFault> {
        own_memory::check(gpa.0, buffer.len(), Access::Read).map_err(fault)?;
        live::copy_from(Hpa(gpa.0), buffer);
        hide_probes(gpa.0, buffer);
        Ok(())
    }

    fn write_phys(&self, gpa: Gpa, bytes: &[u8]) -> Result<(), PhysFault> {
        own_memory::check(gpa.0, bytes.len(), Access::Write).map_err(fault)?;
        live::copy_to(Hpa(gpa.0), bytes);
        Ok(())
    }
}

fn fault((address, place): (u64, Place)) -> PhysFault {
    match place {
        Place::Device => PhysFault::Device(Gpa(address)),
        Place::Memory | Place::Nothing => PhysFault::Unmapped(Gpa(address)),
    }
}

/// Shows the instructions that probes displace in what was read from `start`.
fn hide_probes(start: u64, buffer: &mut [u8]) {
    let end = start + buffer.len() as u64;
    hprobes::each_displaced(|address, instruction| {
        for (byte, at) in instruction.to_le_bytes().into_iter().zip(address..) {
            if (start..end).contains(&at) {
                buffer[(at - start) as usize] = byte;
            }
        }
    });
}

impl ExecuteView for Hyp {
    fn arm(&self, gpa: Gpa, instruction: u32) -> Result<(), ArmError> {
        // SAFETY: the hypervisor is held, so the others are at rest; `probes` arms only what `execution` knows a way for.
        unsafe { hprobes::arm(gpa.0, instruction) }.ok_or(ArmError::NotRam(gpa))
    }

    fn disarm(&self, gpa: Gpa) {
        // SAFETY: as above.
        unsafe { hprobes::disarm(gpa.0) };
    }

    /// There are no views: the text itself changes.
    fn view_usage(&self) -> ViewUsage {
        ViewUsage {
            sites: hprobes::count(),
            shadows: 0,
            tables: 0,
        }
    }
}

impl HwDebug for Hyp {
    /// The debug registers are the guests'.
    fn set_points(&self, points: &[HwPoint]) -> Result<(), HwError> {
        if points.is_empty() {
            return Ok(());
        }
        Err(HwError::TooMany { available: 0 })
    }
}

impl Clock for Hyp {
    fn now_ns(&self) -> u64 {
        time::now_ns()
    }

    fn cpu(&self) -> usize {
        cpu::this().index
    }
}

/// The hypervisor lives as long as the machine.
impl Lifecycle for Hyp {
    fn start(&self) {}

    fn power_off(&self) {}

    fn reset(&self) {}
}
