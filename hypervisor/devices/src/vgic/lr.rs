//! The hypervisor control interface of a vCPU: list registers and `ICH_HCR_EL2` (GIC architecture, IHI 0069, 12.4).

/// Most list registers that the architecture allows.
pub const MAX_LIST_REGS: usize = 16;

/// Bits of `ICH_HCR_EL2` that the virtual GIC owns (IHI 0069, 12.4.8).
pub mod hcr {
    /// The virtual CPU interface is on.
    pub const EN: u64 = 1 << 0;
    /// Maintenance interrupt while `EOICOUNT` is not 0.
    pub const LRENPIE: u64 = 1 << 2;
    /// Maintenance interrupt while no list register is pending.
    pub const NPIE: u64 = 1 << 3;
    /// Lowest bit of the number of deactivations that found no list register.
    pub const EOICOUNT_SHIFT: u32 = 27;
    /// Width of that number, as a mask at bit 0.
    pub const EOICOUNT_MASK: u64 = 0x1f;
}

/// What goes to, and comes back from, the `ICH_LR<n>_EL2` and `ICH_HCR_EL2` of the CPU that runs a vCPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ListRegs {
    /// `ICH_LR<n>_EL2`. The ones from `count` on do not exist.
    pub lr: [u64; MAX_LIST_REGS],
    /// How many the CPU has: `ICH_VTR_EL2.ListRegs + 1`, 1 to 16.
    pub count: usize,
    /// `ICH_HCR_EL2`: the bits of [`hcr`], others 0. Before `sync`, as read back from the CPU (EOIcount matters).
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
}
