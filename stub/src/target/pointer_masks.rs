//! Which bits of a pointer are not its address, and may be a pointer authentication code (Arm ARM D8.8 "Pointer
//! authentication"): between the size of the virtual address and bit 55, which says which half of the address space it is,
//! and above bit 55 where the top byte is not ignored.

use probes::regs::{SysReg, SysRegs};

/// Bit 55, which selects the half and is never part of a code.
const SELECT: u32 = 55;
/// The largest address that any CPU has, in bits (FEAT_LPA2): a `TxSZ` that says more has not been set up.
const MAX_VA: u64 = 52;

/// What a pointer leads to: the top byte can be ignored of data alone (`TCR_EL1.TBIDx`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum PointerKind {
    /// Data.
    Data,
    /// Code.
    Code,
}

/// Which half of the address space.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Half {
    /// Bit 55 clear: `TTBR0_EL1`, user space.
    Low,
    /// Bit 55 set: `TTBR1_EL1`, the kernel.
    High,
}

/// The bits of such a pointer that hold its authentication code, where the guest signs pointers of that kind: 0 where it
/// does not, as on a CPU that cannot. GDB 13 takes the bits of `pauth_cmask` off every return address, kernel's or not,
/// so they have to be none wherever there is nothing to take off.
pub(crate) fn authentication_mask(sys: &SysRegs, kind: PointerKind, half: Half) -> u64 {
    // Arm ARM D17.2, "SCTLR_EL1": EnIA, EnIB; EnDA, EnDB. Without FEAT_PAuth they are RES0.
    let enabled = match kind {
        PointerKind::Code => 1 << 31 | 1 << 30,
        PointerKind::Data => 1 << 27 | 1 << 13,
    };
    match sys.get(SysReg::SctlrEl1) & enabled {
        0 => 0,
        _ => pointer_mask(sys, kind, half),
    }
}

/// The bits of such a pointer that are not address, bit 55 left out. 0 where the guest has not set its translation up.
pub(crate) fn pointer_mask(sys: &SysRegs, kind: PointerKind, half: Half) -> u64 {
    let tcr = sys.get(SysReg::TcrEl1);
    // Arm ARM D17.2, "TCR_EL1": T0SZ, TBI0, TBID0 and their likes for the high half.
    let (size, ignored, only_data) = match half {
        Half::Low => (tcr & 0x3f, tcr >> 37 & 1, tcr >> 51 & 1),
        Half::High => (tcr >> 16 & 0x3f, tcr >> 38 & 1, tcr >> 52 & 1),
    };
    let address_bits = 64 - size;
    if address_bits > MAX_VA {
        return 0;
    }
    let below = (1 << SELECT) - (1 << address_bits);
    let top_is_ignored = ignored == 1 && (kind == PointerKind::Data || only_data == 0);
    let above = if top_is_ignored { 0 } else { 0xff << 56 };
    below | above
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masks(tcr: u64) -> [u64; 4] {
        let mut sys = SysRegs::default();
        sys.set(SysReg::TcrEl1, tcr);
        [
            pointer_mask(&sys, PointerKind::Data, Half::Low),
            pointer_mask(&sys, PointerKind::Code, Half::Low),
            pointer_mask(&sys, PointerKind::Data, Half::High),
            pointer_mask(&sys, PointerKind::Code, Half::High),
        ]
    }

    /// Linux with 48 bits and TBI0, TBID0: the masks that its `PTRACE_GETREGSET` gives a debugger for user space.
    #[test]
    fn linux_with_48_bits() {
        let tcr = 16 | 16 << 16 | 1 << 37 | 1 << 51;
        let code = 0xff7f_0000_0000_0000;
        assert_eq!(masks(tcr), [0x007f_0000_0000_0000, code, code, code]);
    }

    #[test]
    fn linux_with_52_bits() {
        let tcr = 12 | 12 << 16 | 1 << 37;
        let user = 0x0070_0000_0000_0000;
        let kernel = 0xff70_0000_0000_0000;
        assert_eq!(masks(tcr), [user, user, kernel, kernel]);
    }

    #[test]
    fn who_signs_nothing_has_nothing_to_take_off() {
        let mut sys = SysRegs::default();
        sys.set(SysReg::TcrEl1, 16 | 16 << 16);
        let code = |sys: &SysRegs| authentication_mask(sys, PointerKind::Code, Half::High);
        let data = |sys: &SysRegs| authentication_mask(sys, PointerKind::Data, Half::High);
        assert_eq!((code(&sys), data(&sys)), (0, 0));
        sys.set(SysReg::SctlrEl1, 1 << 31);
        assert_eq!((code(&sys), data(&sys)), (0xff7f_0000_0000_0000, 0));
        sys.set(SysReg::SctlrEl1, 1 << 13);
        assert_eq!((code(&sys), data(&sys)), (0, 0xff7f_0000_0000_0000));
    }

    #[test]
    fn nothing_is_known_before_the_guest_says() {
        assert_eq!(masks(0), [0; 4]);
    }
}
