//! The hypervisor itself as the debugger sees it: [`probes::machine`] over EL2 ("The hypervisor as a machine" there).

use crate::lock::MaskedMutex;
use crate::own_memory::{self, Access, Place};
use crate::rendezvous::{self, CpuSet, MASTER};
use crate::{cpu, debugger, hprobes, live, service, sysreg, time};
use core::sync::atomic::{AtomicUsize, Ordering};
use log::error;
use probes::a64::SimulationFeatures;
use probes::addr::{Gpa, Hpa};
use probes::machine::{
    ArmError, Clock, ExecuteView, FetchTrap, HwDebug, HwError, HwPoint, Lifecycle, Machine, NoVcpu,
    PhysFault, PhysMemory, Power, Registers, RunControl, RunMode, Stop, StopReason, VcpuId,
    ViewUsage, VmId, VmState,
};
use probes::regs::{CoreRegs, FpRegs, SysReg, SysRegs, pstate};

/// The hypervisor itself.
pub static HYP: Hyp = Hyp {
    holds: AtomicUsize::new(0),
    wishes: MaskedMutex::new(Wishes {
        modes: [RunMode::Continue; cpu::MAX_CPUS],
        stops: [None; cpu::MAX_CPUS],
    }),
};

/// All physical CPUs at EL2.
pub struct Hyp {
    holds: AtomicUsize,
    wishes: MaskedMutex<Wishes>,
}

/// What the debugger has asked for, and what it has not been told yet.
struct Wishes {
    modes: [RunMode; cpu::MAX_CPUS],
    stops: [Option<StopReason>; cpu::MAX_CPUS],
}

impl Hyp {
    /// [`RunControl::hold`], with the CPUs that do not come to rest.
    pub fn stop(&self) -> CpuSet {
        let missing = rendezvous::stop_cpus();
        if self.holds.fetch_add(1, Ordering::AcqRel) == 0 {
            cpu::this().begin_probe();
        }
        missing
    }

    /// How many holds there are.
    pub fn holds(&self) -> usize {
        self.holds.load(Ordering::Acquire)
    }

    /// A CPU has come to a stop; its registers are in its frame.
    pub fn push_stop(&self, index: usize, reason: StopReason) {
        if let Some(place) = self.wishes.lock().stops.get_mut(index) {
            *place = Some(reason);
        }
    }

    /// Whether a stop waits to be taken.
    pub fn has_stop(&self) -> bool {
        self.wishes.lock().stops.iter().any(Option::is_some)
    }

    /// The next stop that waits, of the lowest CPU.
    pub fn pop_stop(&self) -> Option<Stop> {
        let mut wishes = self.wishes.lock();
        let mut places = wishes.stops.iter_mut().enumerate();
        places.find_map(|(index, place)| {
            Some(Stop {
                vcpu: VcpuId(index as u8),
                reason: place.take()?,
            })
        })
    }

    /// How a CPU is to go on.
    pub fn mode(&self, index: usize) -> RunMode {
        let wishes = self.wishes.lock();
        wishes
            .modes
            .get(index)
            .copied()
            .unwrap_or(RunMode::Continue)
    }

    /// Changes it.
    pub fn set_mode(&self, index: usize, mode: RunMode) {
        if let Some(place) = self.wishes.lock().modes.get_mut(index) {
            *place = mode;
        }
    }
}

impl Machine for Hyp {
    fn vm(&self) -> VmId {
        VmId::HYPERVISOR
    }

    fn simulation(&self, instruction: u32) -> SimulationFeatures {
        hprobes::features(instruction)
    }

    fn notify_server(&self) {
        service::notify();
    }

    fn guest(&self, vcpu: VcpuId) -> Option<&dyn Machine> {
        let resident = cpu::get(usize::from(vcpu.0))?.resident.get()?;
        Some(resident.vcpu.vm())
    }
}

/// Holds are the service CPU's: it brings the others to rest (rendezvous.rs) and goes on itself, as if inside a probe: a
/// hit of its own would wait for the table that it changes.
impl RunControl for Hyp {
    fn vcpu_count(&self) -> usize {
        cpu::online().map(|cpu| cpu.index + 1).max().unwrap_or(1)
    }

    /// While the hypervisor is held, a CPU that does not come to rest counts as off: there is nothing to show of it.
    fn power(&self, vcpu: VcpuId) -> Power {
        let index = usize::from(vcpu.0);
        let shows = !self.held() || index == MASTER || rendezvous::rests(index);
        if cpu::get(index).is_some() && shows {
            Power::On
        } else {
            Power::Off
        }
    }

    fn physical_cpu(&self, vcpu: VcpuId) -> Option<usize> {
        Some(usize::from(vcpu.0))
    }

    fn state(&self) -> VmState {
        VmState::Running
    }

    fn hold(&self) {
        for index in self.stop().iter() {
            error!("cpu{index} does not come to rest: what it executes changes under it");
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

    fn held_ns(&self) -> u64 {
        time::to_ns(time::stopped_ticks())
    }

    fn set_run_mode(&self, vcpu: VcpuId, mode: RunMode) {
        self.set_mode(usize::from(vcpu.0), mode);
    }

    fn take_stop(&self) -> Option<Stop> {
        // Only there are the service CPU's own registers to be had.
        if !debugger::is_attending() {
            return None;
        }
        let stop = self.pop_stop()?;
        self.hold();
        for index in 0..cpu::MAX_CPUS {
            self.set_mode(index, RunMode::Continue);
        }
        Some(stop)
    }
}

impl Registers for Hyp {
    /// A CPU in the slot of a probe is shown in the function.
    fn core(&self, vcpu: VcpuId) -> Result<CoreRegs, NoVcpu> {
        let regs = rendezvous::with_frame(usize::from(vcpu.0), |frame| frame.regs);
        let regs = regs.ok_or(NoVcpu)?;
        Ok(CoreRegs {
            pc: hprobes::address_of(regs.pc),
            ..regs
        })
    }

    /// Flags change, the exception level and the masks of PSTATE do not. SP stays aligned: EL2 checks that.
    fn set_core(&self, vcpu: VcpuId, regs: &CoreRegs) -> Result<(), NoVcpu> {
        const FLAGS: u64 = pstate::N | pstate::Z | pstate::C | pstate::V;
        let change = |old: &mut CoreRegs| {
            let stays = hprobes::address_of(old.pc) == regs.pc;
            *old = CoreRegs {
                sp: regs.sp & !0xf,
                pc: if stays { old.pc } else { regs.pc },
                pstate: old.pstate & !FLAGS | regs.pstate & FLAGS,
                ..*regs
            };
        };
        rendezvous::with_frame(usize::from(vcpu.0), |frame| change(&mut frame.regs)).ok_or(NoVcpu)
    }

    /// EL2 code uses none of these: they are the guest's.
    fn fp(&self, vcpu: VcpuId) -> Result<FpRegs, NoVcpu> {
        rendezvous::with_context(usize::from(vcpu.0), |context| context.fp).ok_or(NoVcpu)
    }

    fn set_fp(&self, _: VcpuId, _: &FpRegs) -> Result<(), NoVcpu> {
        Err(NoVcpu)
    }

    /// The EL1 registers of the CPU, which are the guest's, and its own at EL2.
    fn sys(&self, vcpu: VcpuId) -> Result<SysRegs, NoVcpu> {
        rendezvous::with_context(usize::from(vcpu.0), |context| context.sys).ok_or(NoVcpu)
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
    fn arm(&self, gpa: Gpa, trap: FetchTrap) -> Result<(), ArmError> {
        let FetchTrap::Instruction(instruction) = trap else {
            return Err(ArmError::NoView);
        };
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
            no_execute: 0,
            tables: 0,
        }
    }
}

impl HwDebug for Hyp {
    /// A breakpoint of ours in a debug register (`HMC`, for EL2 alone) would be one that the guest does not have, and would need
    /// `MDCR_EL2.TDE` and `MDSCR_EL1.KDE` (Arm ARM D2.2): every debug exception of the guest would come to EL2.
    fn set_points(&self, points: &[HwPoint]) -> Result<(), HwError> {
        if points.is_empty() {
            return Ok(());
        }
        Err(HwError::Guests)
    }
}

impl Clock for Hyp {
    fn now_ns(&self) -> u64 {
        time::now_ns()
    }

    fn cpu(&self) -> usize {
        cpu::this().index
    }

    fn synchronize(&self) {
        sysreg::isb();
    }
}

/// The hypervisor lives as long as the machine.
impl Lifecycle for Hyp {
    fn start(&self) {}

    fn power_off(&self) {}

    fn reset(&self) {}
}
