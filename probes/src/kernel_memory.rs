//! The kernel's memory, through tables that a vCPU in the kernel had.

use crate::addr::Gva;
use crate::kernel_file::ReadCode;
use crate::kernel_types::TEXT;
use crate::machine::{Machine, Power, VcpuId};
use crate::symbols::Symbols;
use crate::translate::{TranslationRegs, read_virt, translate};
use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;

/// Kernel memory. The kernel's tables stay where they are as long as it runs, so this may be read
/// while the VM runs.
pub(crate) struct KernelMemory<'a> {
    machine: &'a dyn Machine,
    regs: TranslationRegs,
}

impl<'a> KernelMemory<'a> {
    pub(crate) fn new(machine: &'a dyn Machine, regs: TranslationRegs) -> Self {
        Self { machine, regs }
    }

    /// Fills `buffer`, or nothing is promised about it.
    pub(crate) fn read(&self, at: Gva, buffer: &mut [u8]) -> Option<()> {
        read_virt(&self.regs, self.machine, at, buffer).ok()
    }

    /// At most `length` bytes: fewer where the memory ends.
    pub(crate) fn read_some(&self, at: Gva, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        if let Err(error) = read_virt(&self.regs, self.machine, at, &mut bytes) {
            bytes.truncate(error.done);
        }
        bytes
    }

    /// Consecutive words.
    pub(crate) fn words<const N: usize>(&self, at: Gva) -> Option<[u64; N]> {
        let mut words = [0; N];
        for (index, word) in words.iter_mut().enumerate() {
            let mut bytes = [0; 8];
            self.read(at.checked_add(8 * index as u64)?, &mut bytes)?;
            *word = u64::from_le_bytes(bytes);
        }
        Some(words)
    }
}

/// The registers by which some vCPU translates `anchor`, an address of the kernel's: under KPTI one
/// in user code does not. Holds the VM for a moment.
pub(crate) fn kernel_regs(machine: &dyn Machine, anchor: Gva) -> Option<TranslationRegs> {
    let count = u8::try_from(machine.vcpu_count()).unwrap_or(u8::MAX);
    machine.hold();
    let mut regs = (0..count)
        .map(VcpuId)
        .filter(|vcpu| machine.power(*vcpu) == Power::On)
        .filter_map(|vcpu| machine.sys(vcpu).ok())
        .map(|sys| TranslationRegs::from(&sys));
    let found = regs.find(|regs| translate(regs, machine, anchor).is_ok());
    machine.release();
    found
}

/// Reads the code of the kernel whose symbols these are, as long as it runs. The VM may run meanwhile.
pub(crate) fn reader(
    machine: &'static dyn Machine,
    symbols: &dyn Symbols,
) -> Option<Box<ReadCode>> {
    let regs = kernel_regs(machine, symbols.by_name(TEXT)?)?;
    Some(Box::new(move |address, buffer| {
        KernelMemory::new(machine, regs).read(Gva(address), buffer)
    }))
}
