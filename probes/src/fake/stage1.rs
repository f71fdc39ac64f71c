//! Stage-1 tables for guests of tests: 4 KiB granule, 39-bit addresses, levels 1 to 3.

use super::FakeMachine;
use crate::addr::{Gpa, Gva, PAGE_SIZE};
use crate::machine::{PhysMemory, VcpuId};
use crate::regs::SysReg;

/// What a page is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Page {
    /// EL1 reads, writes and executes.
    Kernel,
    /// The same, and indirect branches must meet a landing pad.
    GuardedKernel,
    /// EL1 reads and writes.
    KernelData,
    /// EL0 reads and executes.
    User,
}

/// Descriptor bits (Arm ARM D8.3).
mod bits {
    pub(super) const TABLE_OR_PAGE: u64 = 0b11;
    pub(super) const AP_EL0: u64 = 1 << 6;
    pub(super) const AP_READ_ONLY: u64 = 1 << 7;
    pub(super) const INNER_SHAREABLE: u64 = 0b11 << 8;
    pub(super) const ACCESSED: u64 = 1 << 10;
    pub(super) const GUARDED: u64 = 1 << 50;
    pub(super) const PXN: u64 = 1 << 53;
    pub(super) const UXN: u64 = 1 << 54;
}

/// Tables under construction, in RAM of the guest.
pub struct Stage1 {
    machine: &'static FakeMachine,
    /// Roots of `TTBR0_EL1` and `TTBR1_EL1`.
    roots: [Gpa; 2],
    next: Gpa,
}

impl Stage1 {
    /// Empty tables, in the pages from `area` on: two at first, and one or two for each region
    /// that is mapped. `area` is RAM that is zero.
    pub fn new(machine: &'static FakeMachine, area: Gpa) -> Self {
        let roots = [area, Gpa(area.0 + PAGE_SIZE)];
        Self {
            machine,
            roots,
            next: Gpa(area.0 + 2 * PAGE_SIZE),
        }
    }

    /// Maps the page at `gva` to `gpa`.
    pub fn map(&mut self, gva: Gva, gpa: Gpa, page: Page) {
        let mut table = self.roots[(gva.0 >> 55 & 1) as usize];
        for level in [1, 2] {
            table = self.next_table(table, gva, level);
        }
        let permissions = match page {
            Page::Kernel => bits::UXN,
            Page::GuardedKernel => bits::UXN | bits::GUARDED,
            Page::KernelData => bits::UXN | bits::PXN,
            Page::User => bits::PXN | bits::AP_EL0 | bits::AP_READ_ONLY,
        };
        let common = bits::TABLE_OR_PAGE | bits::INNER_SHAREABLE | bits::ACCESSED;
        self.write(slot(table, gva, 3), gpa.0 | common | permissions);
    }

    /// Takes the page at `gva` out.
    pub fn unmap(&mut self, gva: Gva) {
        let mut table = self.roots[(gva.0 >> 55 & 1) as usize];
        for level in [1, 2] {
            table = self.next_table(table, gva, level);
        }
        self.write(slot(table, gva, 3), 0);
    }

    /// Turns the MMU of a vCPU on, with these tables. The VM is held.
    pub fn install(&self, vcpu: VcpuId) {
        const T0SZ_39_BITS: u64 = 25;
        const T1SZ_39_BITS: u64 = 25 << 16;
        const TG1_4K: u64 = 0b10 << 30;
        const IPS_40_BITS: u64 = 0b010 << 32;
        const NORMAL_MEMORY: u64 = 0xff;
        let values = [
            (
                SysReg::TcrEl1,
                T0SZ_39_BITS | T1SZ_39_BITS | TG1_4K | IPS_40_BITS,
            ),
            (SysReg::MairEl1, NORMAL_MEMORY),
            (SysReg::Ttbr0El1, self.roots[0].0),
            (SysReg::Ttbr1El1, self.roots[1].0),
            (SysReg::SctlrEl1, 1),
        ];
        for (reg, value) in values {
            crate::machine::Registers::set_sys(self.machine, vcpu, reg, value)
                .expect("the vCPU is on");
        }
    }

    fn next_table(&mut self, table: Gpa, gva: Gva, level: u32) -> Gpa {
        let entry = slot(table, gva, level);
        let mut bytes = [0; 8];
        self.machine
            .read_phys(entry, &mut bytes)
            .expect("tables are in RAM");
        let descriptor = u64::from_le_bytes(bytes);
        if descriptor != 0 {
            return Gpa(descriptor).page();
        }
        let table = self.next;
        self.next = Gpa(table.0 + PAGE_SIZE);
        self.write(entry, table.0 | bits::TABLE_OR_PAGE);
        table
    }

    fn write(&self, entry: Gpa, descriptor: u64) {
        self.machine
            .write_phys(entry, &descriptor.to_le_bytes())
            .expect("tables are in RAM");
    }
}

/// Where a table has the descriptor of an address.
fn slot(table: Gpa, gva: Gva, level: u32) -> Gpa {
    let shift = 12 + 9 * (3 - level);
    Gpa(table.0 + (gva.0 >> shift & 511) * 8)
}
