//! Single registers: `p` and `P`.

use super::arch::RegisterId;
use super::{DebugTarget, no_thread};
use crate::packet::request::Errno;
use gdbstub::common::Tid;
use gdbstub::target::ext::base::single_register_access::SingleRegisterAccess;
use gdbstub::target::{TargetError, TargetResult};

impl SingleRegisterAccess<Tid> for DebugTarget {
    fn read_register(
        &mut self,
        tid: Tid,
        register: RegisterId,
        buffer: &mut [u8],
    ) -> TargetResult<usize, Self> {
        let vcpu = self.vcpu_or_error(tid)?;
        let registers = self.registers(vcpu).map_err(no_thread)?;
        if !registers.set.contains(register) {
            return Err(TargetError::Errno(Errno::Inval as u8));
        }
        let bytes = registers.get(register).to_le_bytes();
        let size = register.size().min(buffer.len());
        buffer[..size].copy_from_slice(&bytes[..size]);
        Ok(size)
    }

    fn write_register(
        &mut self,
        tid: Tid,
        register: RegisterId,
        value: &[u8],
    ) -> TargetResult<(), Self> {
        let vcpu = self.vcpu_or_error(tid)?;
        let old = self.registers(vcpu).map_err(no_thread)?;
        let mut new = old;
        new.set(register, value)
            .map_err(|_| TargetError::Errno(Errno::Inval as u8))?;
        self.change_registers(vcpu, &old, &new).map_err(no_thread)
    }
}
