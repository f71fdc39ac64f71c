//! The memory-mapped registers: GICD (IHI 0069, 12.9) and GICR (12.11).
//!
//! Registers that do not exist, and accesses of a size or alignment that a register does not support, read as zero
//! and ignore writes.

use super::bank::bits;
use super::{BankId, FIRST_SPI, GICR_STRIDE, SPIS, VcpuMask, Vgic};

const CTLR: u64 = 0x0000;
const TYPER: u64 = 0x0004;
const IIDR: u64 = 0x0008;
const IROUTER: u64 = 0x6000;
const PIDR2: u64 = 0xffe8;

const GICR_IIDR: u64 = 0x0004;
const GICR_TYPER: u64 = 0x0008;
const GICR_TYPER_HIGH: u64 = 0x000c;
const GICR_WAKER: u64 = 0x0014;
/// Offset of the frame `SGI_base`.
const SGI_FRAME: u64 = 0x1_0000;

/// `GICD_CTLR.EnableGrp1`, where there is one security state.
const CTLR_ENABLE_GRP1: u32 = 1 << 1;
/// `GICD_CTLR.ARE` and `DS`: both always set.
const CTLR_FIXED: u32 = 1 << 4 | 1 << 6;
/// Ten bits of INTID, 96 of them (`ITLinesNumber` 2), no 1-of-N routing.
const TYPER_VALUE: u32 = 1 << 25 | 9 << 19 | ((SPIS as u32 + FIRST_SPI) / 32 - 1);
/// Product `P`, revision 0, implementer Arm, as KVM's: Linux matches its errata against this.
const IIDR_VALUE: u32 = 0x5000_043b;
/// Architecture revision 3: GICv3.
const PIDR2_VALUE: u32 = 0x3b;
/// `GICR_WAKER.ProcessorSleep`.
const WAKER_PROCESSOR_SLEEP: u32 = 1 << 1;
/// `GICR_WAKER.ChildrenAsleep`.
const WAKER_CHILDREN_ASLEEP: u32 = 1 << 2;
/// `GICR_TYPER.Last`.
const TYPER_LAST: u32 = 1 << 4;
/// The affinity fields of `GICD_IROUTER<n>`.
const IROUTER_AFFINITY: u64 = 0xff_00ff_ffff;

/// A register that GICD and `SGI_base` have for every bank of 32 interrupts, at the same offsets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum BankRegister {
    Group,
    SetEnable,
    ClearEnable,
    SetPending,
    ClearPending,
    SetActive,
    ClearActive,
    /// The four priorities from this interrupt of the bank.
    Priority(usize),
    /// The configuration of the lower or upper 16 interrupts of the bank.
    Config(usize),
}

/// Which bank register is at `offset`, and of which bank.
fn bank_register(offset: u64) -> Option<(BankRegister, usize)> {
    let of_bits = |register| Some((register, (offset % 0x80 / 4) as usize));
    match offset {
        0x080..0x100 => of_bits(BankRegister::Group),
        0x100..0x180 => of_bits(BankRegister::SetEnable),
        0x180..0x200 => of_bits(BankRegister::ClearEnable),
        0x200..0x280 => of_bits(BankRegister::SetPending),
        0x280..0x300 => of_bits(BankRegister::ClearPending),
        0x300..0x380 => of_bits(BankRegister::SetActive),
        0x380..0x400 => of_bits(BankRegister::ClearActive),
        0x400..0x800 => {
            let intid = (offset - 0x400) as usize;
            Some((BankRegister::Priority(intid % 32), intid / 32))
        }
        0xc00..0xd00 => {
            let word = (offset - 0xc00) as usize / 4;
            Some((BankRegister::Config(word % 2), word / 2))
        }
        _ => None,
    }
}

/// Which priority register a byte at `offset` of a bank frame is in, if any: the only ones with byte access.
fn has_bytes(offset: u64) -> bool {
    (0x400..0x800).contains(&offset)
}

/// Reads `size` bytes at `offset` by way of 32-bit registers.
fn read_sized(offset: u64, size: usize, read: impl Fn(u64) -> u32) -> u64 {
    let word = offset & !3;
    match size {
        8 if offset.is_multiple_of(8) => {
            u64::from(read(offset)) | u64::from(read(offset + 4)) << 32
        }
        4 if offset == word => u64::from(read(offset)),
        2 if offset.is_multiple_of(2) => u64::from(read(word) >> (8 * (offset - word)) & 0xffff),
        1 => u64::from(read(word) >> (8 * (offset - word)) & 0xff),
        _ => 0,
    }
}

impl Vgic {
    /// A guest's read of `size` bytes (1, 2, 4 or 8) at `offset` from the start of GICD.
    pub fn dist_read(&self, offset: u64, size: usize) -> u64 {
        read_sized(offset, size, |register| self.dist_register(register))
    }

    /// A guest's write of `size` bytes (1, 2, 4 or 8) at `offset` from the start of GICD.
    pub fn dist_write(&mut self, offset: u64, size: usize, value: u64) -> VcpuMask {
        let word = offset & !3;
        match size {
            8 if offset.is_multiple_of(8) => {
                let low = self.set_dist_register(offset, value as u32);
                low | self.set_dist_register(offset + 4, (value >> 32) as u32)
            }
            4 if offset == word => self.set_dist_register(offset, value as u32),
            1 if has_bytes(offset) => {
                let merged = merge_byte(self.dist_register(word), offset - word, value);
                self.set_dist_register(word, merged)
            }
            _ => VcpuMask::NONE,
        }
    }

    /// A guest's read of `size` bytes (1, 2, 4 or 8) at `offset` from the start of the redistributors: those of vCPU n
    /// are at `n * GICR_STRIDE`.
    pub fn redist_read(&self, offset: u64, size: usize) -> u64 {
        match self.redistributor(offset) {
            Some((vcpu, offset)) => read_sized(offset, size, |register| {
                self.redist_register(vcpu, register)
            }),
            None => 0,
        }
    }

    /// A guest's write of `size` bytes (1, 2, 4 or 8) at `offset` from the start of the redistributors.
    pub fn redist_write(&mut self, offset: u64, size: usize, value: u64) -> VcpuMask {
        let Some((vcpu, offset)) = self.redistributor(offset) else {
            return VcpuMask::NONE;
        };
        let word = offset & !3;
        match size {
            8 if offset.is_multiple_of(8) => {
                let low = self.set_redist_register(vcpu, offset, value as u32);
                low | self.set_redist_register(vcpu, offset + 4, (value >> 32) as u32)
            }
            4 if offset == word => self.set_redist_register(vcpu, offset, value as u32),
            1 if offset.checked_sub(SGI_FRAME).is_some_and(has_bytes) => {
                let merged = merge_byte(self.redist_register(vcpu, word), offset - word, value);
                self.set_redist_register(vcpu, word, merged)
            }
            _ => VcpuMask::NONE,
        }
    }

    /// Whose redistributor `offset` lies in, and where.
    fn redistributor(&self, offset: u64) -> Option<(usize, u64)> {
        let vcpu = usize::try_from(offset / GICR_STRIDE).ok()?;
        (vcpu < self.vcpus.len()).then_some((vcpu, offset % GICR_STRIDE))
    }

    fn dist_register(&self, offset: u64) -> u32 {
        match offset {
            CTLR => CTLR_FIXED | if self.enabled { CTLR_ENABLE_GRP1 } else { 0 },
            TYPER => TYPER_VALUE,
            IIDR => IIDR_VALUE,
            PIDR2 => PIDR2_VALUE,
            _ => match (bank_register(offset), route_register(offset)) {
                (Some((register, bank)), _) => self
                    .spi_bank(bank)
                    .map_or(0, |id| self.bank_register(id, register)),
                (None, Some((spi, high))) => (self.routes[spi].affinity >> high) as u32,
                (None, None) => 0,
            },
        }
    }

    fn set_dist_register(&mut self, offset: u64, value: u32) -> VcpuMask {
        if offset == CTLR {
            return self.set_enabled(value & CTLR_ENABLE_GRP1 != 0);
        }
        if let Some((register, bank)) = bank_register(offset) {
            return match self.spi_bank(bank) {
                Some(id) => self.set_bank_register(id, register, value),
                None => VcpuMask::NONE,
            };
        }
        match route_register(offset) {
            Some((spi, high)) => self.set_route(spi, high, value),
            None => VcpuMask::NONE,
        }
    }

    fn redist_register(&self, vcpu: usize, offset: u64) -> u32 {
        match offset {
            GICR_IIDR => IIDR_VALUE,
            GICR_TYPER => {
                let last = vcpu + 1 == self.vcpus.len();
                (vcpu as u32) << 8 | if last { TYPER_LAST } else { 0 }
            }
            GICR_TYPER_HIGH => vcpu as u32,
            GICR_WAKER if self.vcpus[vcpu].asleep => WAKER_PROCESSOR_SLEEP | WAKER_CHILDREN_ASLEEP,
            PIDR2 => PIDR2_VALUE,
            _ => match offset.checked_sub(SGI_FRAME).and_then(bank_register) {
                Some((register, 0)) => self.bank_register(BankId::Private(vcpu), register),
                _ => 0,
            },
        }
    }

    fn set_redist_register(&mut self, vcpu: usize, offset: u64, value: u32) -> VcpuMask {
        if offset == GICR_WAKER {
            self.vcpus[vcpu].asleep = value & WAKER_PROCESSOR_SLEEP != 0;
            return VcpuMask::NONE;
        }
        match offset.checked_sub(SGI_FRAME).and_then(bank_register) {
            Some((register, 0)) => self.set_bank_register(BankId::Private(vcpu), register, value),
            _ => VcpuMask::NONE,
        }
    }

    /// The bank that GICD shows as its `bank`-th. With affinity routing, the first 32 INTIDs are in GICR only.
    fn spi_bank(&self, bank: usize) -> Option<BankId> {
        let word = bank.checked_sub(1)?;
        (word < self.spis.len()).then_some(BankId::Spi(word))
    }

    fn set_enabled(&mut self, enabled: bool) -> VcpuMask {
        self.enabled = enabled;
        let mut kick = VcpuMask::NONE;
        let privates = (0..self.vcpus.len()).map(BankId::Private);
        for id in privates.chain((0..self.spis.len()).map(BankId::Spi)) {
            kick |= self.appeared(id, !0) | self.vanished(id, !0);
        }
        kick
    }

    fn set_route(&mut self, spi: usize, high: u32, value: u32) -> VcpuMask {
        let affinity = &mut self.routes[spi].affinity;
        let other_half = *affinity & !(0xffff_ffff << high);
        *affinity = (other_half | u64::from(value) << high) & IROUTER_AFFINITY;
        let (id, bit) = (BankId::Spi(spi / 32), 1 << (spi % 32));
        self.appeared(id, bit) | self.vanished(id, bit)
    }

    fn bank_register(&self, id: BankId, register: BankRegister) -> u32 {
        let bank = self.bank(id);
        match register {
            BankRegister::Group => bank.group1,
            BankRegister::SetEnable | BankRegister::ClearEnable => bank.enabled,
            BankRegister::SetPending | BankRegister::ClearPending => bank.pending(),
            BankRegister::SetActive | BankRegister::ClearActive => bank.active,
            BankRegister::Priority(first) => bank.priorities(first),
            BankRegister::Config(half) => bank.config(half),
        }
    }

    fn set_bank_register(&mut self, id: BankId, register: BankRegister, value: u32) -> VcpuMask {
        let bank = self.bank_mut(id);
        let mut changed = value;
        match register {
            BankRegister::Group => {
                changed = bank.group1 ^ value;
                bank.group1 = value;
            }
            BankRegister::SetEnable => bank.enabled |= value,
            BankRegister::ClearEnable => bank.enabled &= !value,
            BankRegister::SetPending => bank.latch |= value,
            BankRegister::ClearPending => bank.clear_pending(value),
            BankRegister::SetActive => self.set_active(id, value),
            BankRegister::ClearActive => self.clear_active(id, value),
            BankRegister::Priority(first) => {
                bank.set_priorities(first, value);
                changed = 0;
            }
            BankRegister::Config(half) => {
                // SGIs are edge-triggered, PPIs level-sensitive: the guest cannot change that.
                if let BankId::Spi(_) = id {
                    bank.set_config(half, value);
                }
                changed = 0;
            }
        }
        self.appeared(id, changed) | self.vanished(id, changed)
    }

    fn set_active(&mut self, id: BankId, value: u32) {
        let bank = self.bank(id);
        let unheld = value & !(bank.active | bank.in_lr);
        if let BankId::Spi(word) = id {
            for spi in bits(unheld).map(|bit| 32 * word + bit) {
                self.routes[spi].holder = self.target(self.routes[spi].affinity).unwrap_or(0);
            }
        }
        self.bank_mut(id).set_active(value);
    }

    fn clear_active(&mut self, id: BankId, value: u32) {
        let physical = self.bank_mut(id).clear_active(value);
        if let BankId::Private(vcpu) = id {
            self.vcpus[vcpu].deactivate_timer |= physical != 0;
        }
    }
}

/// Which SPI's `IROUTER` is at `offset`, and the lowest bit of the half that is.
fn route_register(offset: u64) -> Option<(usize, u32)> {
    let index = offset.checked_sub(IROUTER + 8 * u64::from(FIRST_SPI))? / 8;
    let spi = usize::try_from(index).ok().filter(|&spi| spi < SPIS)?;
    Some((spi, if offset.is_multiple_of(8) { 0 } else { 32 }))
}

/// `word` with its `byte`-th byte replaced.
fn merge_byte(word: u32, byte: u64, value: u64) -> u32 {
    let shift = 8 * byte as u32;
    word & !(0xff << shift) | (value as u32 & 0xff) << shift
}
