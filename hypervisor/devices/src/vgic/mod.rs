//! A GICv3 for one VM: distributor, redistributors and the contents of the list registers (Arm IHI 0069).
//!
//! What there is: one security state (`GICD_CTLR.DS`), affinity routing always on, interrupts of group 1 only, 16 SGIs
//! and 16 PPIs for each vCPU, 64 SPIs, no LPIs, no ITS, no message-signalled SPIs. vCPU n has affinity 0.0.0.n.
//!
//! # How an interrupt reaches the guest
//!
//! The state of every interrupt is kept here. Before a CPU enters a vCPU, [`Vgic::flush`] writes what that vCPU may
//! take into list registers; from then on the guest acknowledges and ends interrupts without an exit. After the exit
//! [`Vgic::sync`] reads the list registers back. Between the two, the state here of what is in a list register
//! is that of the flush: the guest reads the pending and active bits of an interrupt of *another, running* vCPU
//! as of that vCPU's last exit (so does KVM, which is why Linux does not rely on it).
//!
//! Every call that can change what some vCPU should see returns the [`VcpuMask`] of those to *kick*.
//!
//! - **Edge** (SGIs, and what the guest configures so): `flush` moves the pending latch into the list register, so an
//!   edge that comes meanwhile is a new one; the two make a pending-and-active list register.
//! - **Level** (an emulated device's line): pending while the line is high and the interrupt is not active. Its list
//!   register asks for a maintenance interrupt at deactivation: that exit is where the line is looked at again, and
//!   where it is still high the interrupt is pending anew. It is never pending and active at once, for the guest
//!   would take it again before anyone has asked the device.
//! - **The virtual timer** (INTID 27): the physical interrupt fires at EL2, which acknowledges it, drops its priority
//!   (`EOImode` 1) and leaves it active, then calls [`Vgic::timer_fired`]. The list register is linked to the
//!   physical interrupt (`HW`), so the guest's deactivation is also the physical one, with no exit.
//! - **More than fit**: actives first, then pendings by priority, and one register is kept for a pending one. What is
//!   left out comes with a maintenance interrupt: `NPIE` when the guest has acknowledged all the pending ones, and
//!   `LRENPIE` when it ends an active one that has no register; `EOIcount` says how many, and as priorities drop
//!   in order the ones meant are the highest of those left out. (A guest that deactivates out of order by `ICC_DIR_EL1` with
//!   more actives than list registers would need `ICH_HCR_EL2.TDIR`.)

mod bank;
mod list;
mod lr;
mod registers;
#[cfg(test)]
mod tests;

pub use list::{Delivery, PhysicalTimer};
pub use lr::{ListRegs, MAX_LIST_REGS, hcr};

use alloc::vec::Vec;
use bank::{Bank, bits};
use core::ops::{BitOr, BitOrAssign};

/// Most vCPUs of a VM.
pub const MAX_VCPUS: usize = 8;
/// SPIs of a VM: INTIDs 32 to 95.
pub const SPIS: usize = 64;
/// INTID of the EL1 virtual timer's interrupt, the guest's and the physical one.
pub const VTIMER_INTID: u32 = 27;
/// Size of the distributor's registers, in bytes.
pub const GICD_SIZE: u64 = 0x1_0000;
/// Size of the redistributor registers of one vCPU, in bytes: the frames `RD_base` and `SGI_base`.
pub const GICR_STRIDE: u64 = 0x2_0000;

/// INTIDs below are private to a vCPU.
const FIRST_SPI: u32 = 32;
const VTIMER: u32 = 1 << VTIMER_INTID;
/// INTIDs 0 to 15 are SGIs, always edge-triggered.
const SGI_BITS: u32 = 0xffff;

/// A set of vCPUs: bit n stands for vCPU n. Those that a call returns must be *kicked*: made to pass through
/// [`Vgic::sync`] and [`Vgic::flush`] soon, woken where they wait in WFI, interrupted where they run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[must_use = "vCPUs that are not kicked do not see the change"]
pub struct VcpuMask(pub u8);

impl VcpuMask {
    /// No vCPU.
    pub const NONE: VcpuMask = VcpuMask(0);

    /// Whether no vCPU is in the set.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether `vcpu` is in the set.
    pub const fn contains(self, vcpu: usize) -> bool {
        vcpu < MAX_VCPUS && self.0 >> vcpu & 1 == 1
    }

    /// The vCPUs of the set, from the lowest.
    pub fn iter(self) -> impl Iterator<Item = usize> {
        bits(u32::from(self.0))
    }

    /// The set without `vcpu`.
    pub const fn without(self, vcpu: usize) -> Self {
        if vcpu < MAX_VCPUS {
            Self(self.0 & !(1 << vcpu))
        } else {
            self
        }
    }

    const fn one(vcpu: usize) -> Self {
        Self(1 << vcpu)
    }
}

impl BitOr for VcpuMask {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitOrAssign for VcpuMask {
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

/// Which 32 interrupts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum BankId {
    /// SGIs and PPIs of a vCPU.
    Private(usize),
    /// SPIs from INTID `32 * (n + 1)`.
    Spi(usize),
}

/// What a vCPU has of its own.
#[derive(Clone, Debug)]
struct Private {
    bank: Bank,
    /// `GICR_WAKER.ProcessorSleep`. Does not keep interrupts back.
    asleep: bool,
    /// The physical timer interrupt must be deactivated before this vCPU runs again.
    deactivate_timer: bool,
}

/// Where an SPI goes.
#[derive(Clone, Copy, Debug, Default)]
struct Route {
    /// `GICD_IROUTER<n>`.
    affinity: u64,
    /// The vCPU in whose list registers the interrupt is or was: it keeps an active one.
    holder: usize,
}

/// The interrupt controller of a VM.
#[derive(Debug)]
pub struct Vgic {
    /// `GICD_CTLR.EnableGrp1`.
    enabled: bool,
    vcpus: Vec<Private>,
    spis: [Bank; SPIS / 32],
    routes: [Route; SPIS],
}

impl Vgic {
    /// A GIC out of reset for `vcpus` vCPUs, 1 to [`MAX_VCPUS`] (clamped).
    pub fn new(vcpus: usize) -> Self {
        let private = Private {
            bank: Bank::new(SGI_BITS),
            asleep: true,
            deactivate_timer: false,
        };
        Self {
            enabled: false,
            vcpus: alloc::vec![private; vcpus.clamp(1, MAX_VCPUS)],
            spis: [Bank::new(0), Bank::new(0)],
            routes: [Route::default(); SPIS],
        }
    }

    /// Resets the GIC; no vCPU runs, and list registers that were not synced are void. Where the guest held a physical
    /// timer interrupt, the next [`Vgic::flush`] of that vCPU says to deactivate it. Input lines drop: who drives one
    /// sets it again.
    pub fn reset(&mut self) {
        let mut fresh = Self::new(self.vcpus.len());
        for (new, old) in fresh.vcpus.iter_mut().zip(&self.vcpus) {
            new.deactivate_timer = old.deactivate_timer || old.bank.linked != 0;
        }
        *self = fresh;
    }

    /// How many vCPUs there are.
    pub fn vcpu_count(&self) -> usize {
        self.vcpus.len()
    }

    /// Sets the input line of the SPI `intid` (32 to 95; others have no effect).
    pub fn set_spi_level(&mut self, intid: u32, level: bool) -> VcpuMask {
        match spi_position(intid) {
            Some((id, bit)) => self.set_line(id, bit, level),
            None => VcpuMask::NONE,
        }
    }

    /// Sets the input line of the PPI `intid` (16 to 31) of `vcpu`; others have no effect.
    pub fn set_private_level(&mut self, vcpu: usize, intid: u32, level: bool) -> VcpuMask {
        if vcpu >= self.vcpus.len() || !(16..FIRST_SPI).contains(&intid) {
            return VcpuMask::NONE;
        }
        self.set_line(BankId::Private(vcpu), 1 << intid, level)
    }

    /// Makes the private interrupt `intid` (0 to 31) of `vcpu` pending once, as an edge does.
    pub fn pulse_private(&mut self, vcpu: usize, intid: u32) -> VcpuMask {
        if vcpu >= self.vcpus.len() || intid >= FIRST_SPI {
            return VcpuMask::NONE;
        }
        let bit = 1 << intid;
        self.vcpus[vcpu].bank.latch |= bit;
        self.appeared(BankId::Private(vcpu), bit)
    }

    /// A trapped write of `value` to `ICC_SGI1R_EL1` by `vcpu` (IHI 0069, 12.2.19). The range selector is RES0, as
    /// `GICD_TYPER.RSS` is 0.
    pub fn sgi1r(&mut self, vcpu: usize, value: u64) -> VcpuMask {
        const ALL_BUT_SELF: u64 = 1 << 40;
        const UPPER_AFFINITY: u64 = 0xff << 48 | 0xff << 32 | 0xff << 16;
        let listed = if value & ALL_BUT_SELF != 0 {
            VcpuMask(!0).without(vcpu)
        } else if value & UPPER_AFFINITY == 0 {
            VcpuMask(value as u8)
        } else {
            VcpuMask::NONE
        };
        let intid = (value >> 24 & 0xf) as u32;
        let mut kick = VcpuMask::NONE;
        for target in listed.iter() {
            kick |= self.pulse_private(target, intid);
        }
        kick
    }

    /// The physical virtual-timer interrupt has been acknowledged, with its priority dropped and left active, on the
    /// CPU that runs `vcpu`.
    pub fn timer_fired(&mut self, vcpu: usize) -> VcpuMask {
        let Some(private) = self.vcpus.get_mut(vcpu) else {
            return VcpuMask::NONE;
        };
        private.bank.linked |= VTIMER;
        self.set_line(BankId::Private(vcpu), VTIMER, true)
    }

    /// Looks at the virtual timer of `vcpu` again, between [`Vgic::sync`] and [`Vgic::flush`]. `asserted` is its
    /// condition: `CNTV_CTL_EL0` has ENABLE and ISTATUS and not IMASK. An interrupt that the guest has not
    /// acknowledged goes away with its condition, and the flush says to deactivate the physical one.
    pub fn timer_sample(&mut self, vcpu: usize, asserted: bool) {
        let Some(private) = self.vcpus.get_mut(vcpu) else {
            return;
        };
        let bank = &mut private.bank;
        let waits = bank.linked & bank.level & !bank.active & !bank.in_lr & VTIMER != 0;
        if waits && !asserted {
            bank.level &= !VTIMER;
            bank.linked &= !VTIMER;
            private.deactivate_timer = true;
        }
    }

    /// Whether an interrupt waits that ends a WFI of `vcpu`. Does not look at its priority mask: a wake-up too many is
    /// what the architecture allows.
    pub fn has_pending(&self, vcpu: usize) -> bool {
        let Some(private) = self.vcpus.get(vcpu) else {
            return false;
        };
        let spi = |word: usize| {
            let waiting = self.spis[word].deliverable_or_listed();
            bits(waiting).any(|bit| self.recipient(word, bit) == Some(vcpu))
        };
        self.enabled && (private.bank.deliverable_or_listed() != 0 || (0..self.spis.len()).any(spi))
    }

    fn set_line(&mut self, id: BankId, bit: u32, level: bool) -> VcpuMask {
        let bank = self.bank_mut(id);
        bank.set_level(bit, level);
        let sampled_at_deactivation = bank.in_lr & !bank.edge & bit;
        if level {
            self.appeared(id, bit & !sampled_at_deactivation)
        } else {
            self.vanished(id, bit & sampled_at_deactivation)
        }
    }

    fn bank(&self, id: BankId) -> &Bank {
        match id {
            BankId::Private(vcpu) => &self.vcpus[vcpu].bank,
            BankId::Spi(word) => &self.spis[word],
        }
    }

    fn bank_mut(&mut self, id: BankId) -> &mut Bank {
        match id {
            BankId::Private(vcpu) => &mut self.vcpus[vcpu].bank,
            BankId::Spi(word) => &mut self.spis[word],
        }
    }

    /// Whom to kick where the interrupts in `bits` may have become deliverable.
    fn appeared(&self, id: BankId, bits: u32) -> VcpuMask {
        let new = self.bank(id).deliverable() & bits;
        if self.enabled {
            self.recipients(id, new)
        } else {
            VcpuMask::NONE
        }
    }

    /// Whom to kick where the interrupts in `bits` may have to leave a list register, or change in it.
    fn vanished(&self, id: BankId, bits: u32) -> VcpuMask {
        self.recipients(id, self.bank(id).in_lr & bits)
    }

    fn recipients(&self, id: BankId, word: u32) -> VcpuMask {
        match id {
            BankId::Private(_) if word == 0 => VcpuMask::NONE,
            BankId::Private(vcpu) => VcpuMask::one(vcpu),
            BankId::Spi(index) => bits(word)
                .filter_map(|bit| self.recipient(index, bit))
                .fold(VcpuMask::NONE, |mask, vcpu| mask | VcpuMask::one(vcpu)),
        }
    }

    /// The vCPU that a change of an SPI concerns: the one that holds it, else the one it is routed to, if there is one.
    fn recipient(&self, word: usize, bit: usize) -> Option<usize> {
        let bank = &self.spis[word];
        let route = &self.routes[32 * word + bit];
        if (bank.in_lr | bank.active) >> bit & 1 == 1 {
            return Some(route.holder);
        }
        self.target(route.affinity)
    }

    /// The vCPU with the affinity that `GICD_IROUTER<n>` names.
    fn target(&self, affinity: u64) -> Option<usize> {
        let vcpu = usize::try_from(affinity).ok()?;
        (vcpu < self.vcpus.len()).then_some(vcpu)
    }
}

/// Where the SPI `intid` is.
fn spi_position(intid: u32) -> Option<(BankId, u32)> {
    let index = intid
        .checked_sub(FIRST_SPI)
        .filter(|&index| (index as usize) < SPIS)?;
    Some((BankId::Spi(index as usize / 32), 1 << (index % 32)))
}
