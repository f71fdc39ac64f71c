//! The names of threads: `vm1/vcpu0`, `hyp/cpu0`.

use super::DebugTarget;
use alloc::format;
use alloc::string::String;
use core::convert::Infallible;
use gdbstub::common::Tid;
use gdbstub::target::ext::thread_extra_info::ThreadExtraInfo;
use probes::machine::VcpuId;

impl DebugTarget {
    /// A vCPU as users see it; the hypervisor's are the physical CPUs.
    pub(crate) fn vcpu_name(&self, vcpu: VcpuId) -> String {
        let vm = self.space.vm();
        let kind = if vm.is_hypervisor() { "cpu" } else { "vcpu" };
        format!("{vm}/{kind}{}", vcpu.0)
    }
}

impl ThreadExtraInfo for DebugTarget {
    fn thread_extra_info(&self, tid: Tid, buffer: &mut [u8]) -> Result<usize, Infallible> {
        let Some(vcpu) = self.vcpu(tid) else {
            return Ok(0);
        };
        let name = self.vcpu_name(vcpu);
        let count = name.len().min(buffer.len());
        buffer[..count].copy_from_slice(&name.as_bytes()[..count]);
        Ok(count)
    }
}
