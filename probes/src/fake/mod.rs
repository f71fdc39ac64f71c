//! A machine for unit tests: VMs whose vCPUs execute a subset of A64 on the host, one instruction at a time and in a
//! deterministic order.
//!
//! It stands in for the hypervisor under the server and the probe layer, and keeps the same rules: a vCPU traps at an
//! armed word, [`crate::space::Space::hit`] says what follows, and a held VM does not move.

use crate::machine::VmId;
use crate::space::Space;

/// One fake VM.
pub struct FakeMachine {
    vm: VmId,
}

impl FakeMachine {
    /// A VM with `vcpus` vCPUs and `ram` bytes of RAM at [`FakeMachine::RAM_BASE`]; a device page at
    /// [`FakeMachine::DEVICE`]. vCPU 0 is on, at the first byte of RAM, at EL1h with the MMU off; the others are off. It
    /// lives as long as the process, as machines do.
    pub fn leak(vm: VmId, vcpus: usize, ram: usize) -> &'static Self {
        let _ = (vm, vcpus, ram);
        todo!()
    }

    /// Lets every vCPU that may run execute up to `steps` instructions, in turn, until the VM is held or no vCPU can
    /// move. `space` is this VM's.
    pub fn run(&self, space: &Space, steps: usize) {
        let _ = (space, steps, self.vm);
        todo!()
    }
}
