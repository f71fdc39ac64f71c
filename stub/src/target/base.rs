//! Registers and memory of the vCPUs.

use super::arch::VcpuRegisters;
use super::{DebugTarget, no_thread, tid};
use crate::packet::request::Errno;
use core::convert::Infallible;
use gdbstub::common::Tid;
use gdbstub::target::ext::base::multithread::{MultiThreadBase, MultiThreadResumeOps};
use gdbstub::target::ext::base::single_register_access::SingleRegisterAccessOps;
use gdbstub::target::ext::thread_extra_info::ThreadExtraInfoOps;
use gdbstub::target::{TargetError, TargetResult};
use probes::addr::Gva;
use probes::machine::{Machine, NoVcpu, VcpuId};
use probes::regs::{SysReg, SysRegAccess};
use probes::translate::{TranslationRegs, read_virt, write_virt};

impl DebugTarget {
    /// What the stage-1 translation of a vCPU depends on.
    pub(crate) fn translation(&self, vcpu: VcpuId) -> Result<TranslationRegs, NoVcpu> {
        let sys = self.machine().sys(vcpu)?;
        let regs = TranslationRegs::from(&sys);
        if self.space.vm().is_hypervisor() {
            // Its addresses are what `PhysMemory` takes. That is what a stage 1 does which is off.
            return Ok(TranslationRegs { sctlr: 0, ..regs });
        }
        Ok(regs)
    }

    /// Reads memory as a vCPU sees it, as far as it is there, and says how many bytes that are; `None` where not even the
    /// first is, or the vCPU is off.
    pub(crate) fn read_memory(&self, vcpu: VcpuId, start: u64, data: &mut [u8]) -> Option<usize> {
        let (regs, machine) = self.memory_of(vcpu, Gva(start)).ok()?;
        match read_virt(&regs, machine, Gva(start), data) {
            Ok(()) => Some(data.len()),
            Err(error) => (error.done > 0).then_some(error.done),
        }
    }

    /// Whose memory an address means, and how it is translated. EL2 has no addresses in the upper half (Arm ARM D8.1.8:
    /// `TTBR1_EL2` is for `HCR_EL2.E2H` only), so there a physical CPU shows the guest that it executes: a backtrace
    /// of the hypervisor goes on in that guest's kernel.
    fn memory_of(
        &self,
        vcpu: VcpuId,
        address: Gva,
    ) -> Result<(TranslationRegs, &dyn Machine), NoVcpu> {
        let is_upper_half = address.0 >> 63 != 0;
        match self.machine().guest(vcpu).filter(|_| is_upper_half) {
            Some(guest) => Ok((TranslationRegs::from(&self.machine().sys(vcpu)?), guest)),
            None => Ok((self.translation(vcpu)?, self.machine())),
        }
    }

    /// All registers of a vCPU.
    pub(crate) fn registers(&self, vcpu: VcpuId) -> Result<VcpuRegisters, NoVcpu> {
        let machine = self.machine();
        Ok(VcpuRegisters {
            set: super::register_set(self.space),
            core: machine.core(vcpu)?,
            fp: machine.fp(vcpu)?,
            sys: machine.sys(vcpu)?,
        })
    }

    /// Writes the registers of `new` that differ from `old`: writing a system register can have effects even where it
    /// changes nothing.
    pub(crate) fn change_registers(
        &self,
        vcpu: VcpuId,
        old: &VcpuRegisters,
        new: &VcpuRegisters,
    ) -> Result<(), NoVcpu> {
        let machine = self.machine();
        if old.core != new.core {
            machine.set_core(vcpu, &new.core)?;
        }
        if old.fp != new.fp {
            machine.set_fp(vcpu, &new.fp)?;
        }
        let writable = SysReg::ALL
            .iter()
            .filter(|r| r.access() == SysRegAccess::ReadWrite);
        for register in writable {
            let value = new.sys.get(*register);
            if value != old.sys.get(*register) {
                machine.set_sys(vcpu, *register, value)?;
            }
        }
        Ok(())
    }

    pub(super) fn vcpu_or_error(&self, tid: Tid) -> Result<VcpuId, TargetError<Infallible>> {
        self.vcpu(tid).ok_or_else(|| no_thread(()))
    }
}

const FAULT: TargetError<Infallible> = TargetError::Errno(Errno::Fault as u8);

impl MultiThreadBase for DebugTarget {
    fn read_registers(&mut self, regs: &mut VcpuRegisters, tid: Tid) -> TargetResult<(), Self> {
        let vcpu = self.vcpu_or_error(tid)?;
        *regs = self.registers(vcpu).map_err(no_thread)?;
        Ok(())
    }

    fn write_registers(&mut self, regs: &VcpuRegisters, tid: Tid) -> TargetResult<(), Self> {
        let vcpu = self.vcpu_or_error(tid)?;
        let old = self.registers(vcpu).map_err(no_thread)?;
        let mut new = *regs;
        // The `G` packet has only half of PSTATE.
        new.core.pstate |= old.core.pstate & !u64::from(u32::MAX);
        self.change_registers(vcpu, &old, &new).map_err(no_thread)
    }

    fn support_single_register_access(&mut self) -> Option<SingleRegisterAccessOps<'_, Tid, Self>> {
        Some(self)
    }

    /// Reads as far as memory is there; an error only where not even the first byte is.
    fn read_addrs(&mut self, start: u64, data: &mut [u8], tid: Tid) -> TargetResult<usize, Self> {
        let vcpu = self.vcpu_or_error(tid)?;
        self.read_memory(vcpu, start, data).ok_or(FAULT)
    }

    fn write_addrs(&mut self, start: u64, data: &[u8], tid: Tid) -> TargetResult<(), Self> {
        let vcpu = self.vcpu_or_error(tid)?;
        let (regs, machine) = self.memory_of(vcpu, Gva(start)).map_err(no_thread)?;
        write_virt(&regs, machine, Gva(start), data).map_err(|_| FAULT)
    }

    fn list_active_threads(&mut self, report: &mut dyn FnMut(Tid)) -> Result<(), Infallible> {
        self.active().map(tid).for_each(report);
        Ok(())
    }

    fn support_resume(&mut self) -> Option<MultiThreadResumeOps<'_, Self>> {
        Some(self)
    }

    fn support_thread_extra_info(&mut self) -> Option<ThreadExtraInfoOps<'_, Self>> {
        Some(self)
    }
}
