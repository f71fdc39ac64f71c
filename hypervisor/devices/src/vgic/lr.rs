//! The hypervisor control interface of a vCPU: list registers and `ICH_HCR_EL2` (IHI 0069, 12.4).

/// Most list registers that the architecture allows.
pub const MAX_LIST_REGS: usize = 16;

/// Bits of `ICH_HCR_EL2` that the virtual GIC owns (IHI 0069, 12.4.8).
pub mod hcr {
    /// The virtual CPU interface is on.
    pub const EN: u64 = 1 << 0;
    /// Maintenance interrupt while `EOIcount` is not 0.
    pub const LRENPIE: u64 = 1 << 2;
    /// Maintenance interrupt while no list register is pending.
    pub const NPIE: u64 = 1 << 3;
    /// Lowest bit of `EOIcount`: how many deactivations found no list register.
    pub const EOICOUNT_SHIFT: u32 = 27;
    /// `EOIcount`, as a mask at bit 0.
    pub const EOICOUNT_MASK: u64 = 0x1f;
}

/// What goes to, and comes back from, the `ICH_LR<n>_EL2` and `ICH_HCR_EL2` of the CPU that runs a vCPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ListRegs {
    /// `ICH_LR<n>_EL2`. The CPU has the first `count` of them.
    pub lr: [u64; MAX_LIST_REGS],
    /// How many the CPU has: `ICH_VTR_EL2.ListRegs + 1`, 1 to 16.
    pub count: usize,
    /// `ICH_HCR_EL2`, bits of [`hcr`] only: `flush` sets it whole; `sync` wants it as read back from the CPU.
    pub hcr: u64,
}

impl ListRegs {
    /// Empty list registers of a CPU that has `count` of them.
    pub fn new(count: usize) -> Self {
        Self {
            lr: [0; MAX_LIST_REGS],
            count: count.clamp(1, MAX_LIST_REGS),
            hcr: hcr::EN,
        }
    }

    /// The registers that the CPU has.
    pub(super) fn present(&self) -> &[u64] {
        &self.lr[..self.count.clamp(1, MAX_LIST_REGS)]
    }

    /// The interrupts that are pending in them: INTID and priority.
    pub fn pending(&self) -> impl Iterator<Item = (u32, u8)> + '_ {
        let decoded = self.present().iter().map(|word| ListReg::decode(*word));
        let pending = decoded.filter(|lr| lr.pending);
        pending.map(|lr| (lr.intid, lr.priority))
    }

    /// How many deactivations found no list register since `flush`.
    pub(super) fn eoi_count(&self) -> u64 {
        self.hcr >> hcr::EOICOUNT_SHIFT & hcr::EOICOUNT_MASK
    }
}

/// One list register, taken apart (IHI 0069, 12.4.9).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct ListReg {
    /// Virtual INTID.
    pub(super) intid: u32,
    /// Priority, 0 the highest.
    pub(super) priority: u8,
    /// The interrupt is pending.
    pub(super) pending: bool,
    /// The interrupt is active.
    pub(super) active: bool,
    /// What its deactivation does.
    pub(super) on_deactivation: OnDeactivation,
}

/// What the deactivation of the interrupt in a list register does besides emptying it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum OnDeactivation {
    /// Nothing.
    Nothing,
    /// A maintenance interrupt (`ICH_LR.EOI`).
    Maintenance,
    /// The physical interrupt of this INTID is deactivated too (`ICH_LR.HW`).
    Physical(u32),
}

const PENDING: u64 = 1 << 62;
const ACTIVE: u64 = 1 << 63;
const HW: u64 = 1 << 61;
const GROUP1: u64 = 1 << 60;
const PRIORITY_SHIFT: u32 = 48;
/// Only where `HW` is 0.
const EOI: u64 = 1 << 41;
const PHYSICAL_SHIFT: u32 = 32;
const PHYSICAL_MASK: u64 = 0x1fff;

impl ListReg {
    /// The value for `ICH_LR<n>_EL2`. All interrupts are of group 1.
    pub(super) fn encode(self) -> u64 {
        let state = if self.pending { PENDING } else { 0 } | if self.active { ACTIVE } else { 0 };
        let deactivation = match self.on_deactivation {
            OnDeactivation::Nothing => 0,
            OnDeactivation::Maintenance => EOI,
            OnDeactivation::Physical(intid) => {
                HW | (u64::from(intid) & PHYSICAL_MASK) << PHYSICAL_SHIFT
            }
        };
        state
            | GROUP1
            | deactivation
            | u64::from(self.priority) << PRIORITY_SHIFT
            | u64::from(self.intid)
    }

    /// Takes the value of an `ICH_LR<n>_EL2` apart.
    pub(super) fn decode(lr: u64) -> Self {
        let on_deactivation = if lr & HW != 0 {
            OnDeactivation::Physical((lr >> PHYSICAL_SHIFT & PHYSICAL_MASK) as u32)
        } else if lr & EOI != 0 {
            OnDeactivation::Maintenance
        } else {
            OnDeactivation::Nothing
        };
        Self {
            intid: lr as u32,
            priority: (lr >> PRIORITY_SHIFT) as u8,
            pending: lr & PENDING != 0,
            active: lr & ACTIVE != 0,
            on_deactivation,
        }
    }
}
