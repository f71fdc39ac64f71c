//! What `TCR_EL1` and the identification registers say about one half of the address space.

use super::{Access, FaultKind, Permissions, SCTLR_EE, SCTLR_WXN, Translation, TranslationRegs};
use crate::addr::{Gpa, Gva, PAGE_SIZE};

/// Bits `low..low + width` of a register.
pub(super) const fn field(register: u64, low: u32, width: u32) -> u64 {
    (register >> low) & ((1 << width) - 1)
}

/// A mask of the bits `low..high`; `high` is at most 64.
pub(super) const fn bits(low: u32, high: u32) -> u64 {
    if low >= high {
        return 0;
    }
    (u64::MAX << low) & (u64::MAX >> (64 - high))
}

/// Translation granule.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Granule {
    K4,
    K16,
    K64,
}

impl Granule {
    /// Logarithm of the size of a page and of a full table, in bytes.
    pub(super) const fn shift(self) -> u32 {
        match self {
            Granule::K4 => 12,
            Granule::K16 => 14,
            Granule::K64 => 16,
        }
    }

    /// Address bits that one level resolves: a table is a page of descriptors of eight bytes.
    pub(super) const fn stride(self) -> u32 {
        self.shift() - 3
    }
}

/// Which translation table base register, and so which half of the address space.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Half {
    Lower,
    Upper,
}

impl Half {
    /// Bit 55 chooses, with or without a tag above it (Arm ARM D8.2.4).
    const fn of(gva: Gva) -> Self {
        if field(gva.0, 55, 1) == 0 {
            Half::Lower
        } else {
            Half::Upper
        }
    }
}

/// How the upper bits of an output address are kept in a descriptor (Arm ARM D8.3.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum WideAddress {
    /// Not at all: 48 bits.
    None,
    /// FEAT_LPA, 64K granule: `OA[51:48]` in bits 15:12.
    Lpa,
    /// FEAT_LPA2, 4K and 16K granules: `OA[51:50]` in bits 9:8, `OA[49:48]` in their own place.
    Lpa2,
}

/// Everything a walk must know before its first table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Regime {
    pub(super) granule: Granule,
    /// Size of the half, in bits.
    pub(super) input_bits: u32,
    /// Level of the first table.
    pub(super) start_level: i8,
    /// Address of the first table.
    pub(super) base: u64,
    /// Physical address size that the guest has chosen, in bits.
    pub(super) output_bits: u32,
    pub(super) wide: WideAddress,
    /// Hierarchical permissions are disabled (`TCR_EL1.HPDn`).
    pub(super) no_hierarchical: bool,
    /// EL0 has no access to this half (`TCR_EL1.E0PDn`).
    pub(super) no_el0: bool,
    /// Hardware marks pages dirty (`TCR_EL1.HD`).
    pub(super) dirty_management: bool,
    pub(super) write_xor_execute: bool,
    pub(super) big_endian: bool,
    pub(super) mair: u64,
}

impl Regime {
    /// The regime of the half that `gva` is in; checks that `gva` is in its range.
    pub(super) fn of(regs: &TranslationRegs, gva: Gva) -> Result<Self, FaultKind> {
        let tcr = regs.tcr;
        let half = Half::of(gva);
        // Positions in TCR_EL1 (Arm ARM D17.2, "TCR_EL1"): those of the lower half, then of the
        // upper.
        let pick = |lower: u32, upper: u32| match half {
            Half::Lower => lower,
            Half::Upper => upper,
        };
        let ttbr = match half {
            Half::Lower => regs.ttbr0,
            Half::Upper => regs.ttbr1,
        };
        let flag = |lower, upper| field(tcr, pick(lower, upper), 1) == 1;

        let granule = granule(regs, half).ok_or(FaultKind::Configuration)?;
        let lpa2 = field(tcr, 59, 1) == 1 && has_lpa2(regs.mmfr0, granule);
        let size_field = field(tcr, pick(0, 16), 6) as u32;
        let input_bits =
            input_bits(regs, granule, lpa2, size_field).ok_or(FaultKind::Configuration)?;
        check_range(gva, half, input_bits, flag(37, 38))?;
        if flag(7, 23) {
            return Err(FaultKind::WalkDisabled);
        }

        let wide = match granule {
            Granule::K64 if pa_bits(regs.mmfr0) == 52 => WideAddress::Lpa,
            Granule::K4 | Granule::K16 if lpa2 => WideAddress::Lpa2,
            _ => WideAddress::None,
        };
        let mut regime = Self {
            granule,
            input_bits,
            start_level: start_level(granule, input_bits),
            base: 0,
            output_bits: output_bits(regs, wide),
            wide,
            no_hierarchical: flag(41, 42),
            no_el0: flag(55, 56),
            dirty_management: field(tcr, 40, 1) == 1,
            write_xor_execute: regs.sctlr & SCTLR_WXN != 0,
            big_endian: regs.sctlr & SCTLR_EE != 0,
            mair: regs.mair,
        };
        regime.base = regime.table_base(ttbr);
        if !regime.in_output_range(regime.base) {
            return Err(FaultKind::AddressSize);
        }
        Ok(regime)
    }

    /// Address of the first table (Arm ARM D8.2.2 and `AArch64.S1TTBaseAddress`): aligned to the
    /// table's size, and to 64 bytes where the low bits hold address bits 51:48.
    fn table_base(&self, ttbr: u64) -> u64 {
        let entries_shift = self.input_bits - self.level_shift(self.start_level);
        let table_shift = entries_shift + 3;
        let wide = match self.wide {
            WideAddress::None => false,
            WideAddress::Lpa => self.output_bits == 52,
            WideAddress::Lpa2 => true,
        };
        if wide {
            ttbr & bits(table_shift.max(6), 48) | field(ttbr, 2, 4) << 48
        } else {
            ttbr & bits(table_shift, 48)
        }
    }

    /// Logarithm of the bytes that one descriptor of `level` maps.
    pub(super) fn level_shift(&self, level: i8) -> u32 {
        self.granule.shift() + self.granule.stride() * (3 - level) as u32
    }

    /// Whether `address` fits the physical address size.
    pub(super) fn in_output_range(&self, address: u64) -> bool {
        address & !bits(0, self.output_bits) == 0
    }
}

/// The granule of a half, unless the value is reserved or the CPU lacks it
/// (`ID_AA64MMFR0_EL1.TGran*`).
fn granule(regs: &TranslationRegs, half: Half) -> Option<Granule> {
    let granule = match half {
        Half::Lower => match field(regs.tcr, 14, 2) {
            0b00 => Granule::K4,
            0b01 => Granule::K64,
            0b10 => Granule::K16,
            _ => return None,
        },
        Half::Upper => match field(regs.tcr, 30, 2) {
            0b10 => Granule::K4,
            0b11 => Granule::K64,
            0b01 => Granule::K16,
            _ => return None,
        },
    };
    let implemented = match granule {
        Granule::K4 => field(regs.mmfr0, 28, 4) != 0xf,
        Granule::K16 => field(regs.mmfr0, 20, 4) != 0,
        Granule::K64 => field(regs.mmfr0, 24, 4) != 0xf,
    };
    implemented.then_some(granule)
}

/// Whether the CPU has FEAT_LPA2 for a granule. With 64K, `TCR_EL1.DS` means nothing.
fn has_lpa2(mmfr0: u64, granule: Granule) -> bool {
    match granule {
        Granule::K4 => field(mmfr0, 28, 4) == 1,
        Granule::K16 => field(mmfr0, 20, 4) == 2,
        Granule::K64 => false,
    }
}

/// Size of a half from its `TnSZ`, unless out of range (Arm ARM D8.2.5). The architecture lets a
/// CPU clamp such a value instead; a guest that relies on that is told that its configuration is
/// wrong.
fn input_bits(
    regs: &TranslationRegs,
    granule: Granule,
    lpa2: bool,
    size_field: u32,
) -> Option<u32> {
    let lva = field(regs.mmfr2, 16, 4) != 0;
    let small_tables = field(regs.mmfr2, 28, 4) != 0;
    let wide = if granule == Granule::K64 { lva } else { lpa2 };
    let minimum = if wide { 12 } else { 16 };
    let maximum = match (small_tables, granule) {
        (false, _) => 39,
        (true, Granule::K64) => 47,
        (true, _) => 48,
    };
    (minimum..=maximum)
        .contains(&size_field)
        .then(|| 64 - size_field)
}

/// Bits above the half's size must all equal bit 55; with top-byte-ignore (`TCR_EL1.TBIn`) bits
/// 63:56 are a tag.
fn check_range(gva: Gva, half: Half, input_bits: u32, tagged: bool) -> Result<(), FaultKind> {
    let mask = bits(input_bits, if tagged { 56 } else { 64 });
    let expected = match half {
        Half::Lower => 0,
        Half::Upper => mask,
    };
    if gva.0 & mask == expected {
        Ok(())
    } else {
        Err(FaultKind::NonCanonical)
    }
}

/// Level of the first table: as few levels as resolve the input.
fn start_level(granule: Granule, input_bits: u32) -> i8 {
    let levels = (input_bits - granule.shift()).div_ceil(granule.stride());
    4 - levels as i8
}

/// Implemented physical address size from `ID_AA64MMFR0_EL1.PARange`. 56 bits need 128-bit
/// descriptors, so 52 are the most; a reserved value is taken for the common 48.
fn pa_bits(mmfr0: u64) -> u32 {
    address_bits(field(mmfr0, 0, 4)).unwrap_or(48)
}

/// The encoding that `PARange` and `TCR_EL1.IPS` share.
fn address_bits(encoded: u64) -> Option<u32> {
    Some(match encoded {
        0 => 32,
        1 => 36,
        2 => 40,
        3 => 42,
        4 => 44,
        5 => 48,
        6 | 7 => 52,
        _ => return None,
    })
}

/// Output address size: `TCR_EL1.IPS`, at most what is implemented, at most what a descriptor can
/// hold.
fn output_bits(regs: &TranslationRegs, wide: WideAddress) -> u32 {
    let chosen = address_bits(field(regs.tcr, 32, 3)).unwrap_or(48);
    let holds = if wide == WideAddress::None { 48 } else { 52 };
    chosen.min(pa_bits(regs.mmfr0)).min(holds)
}

/// Stage 1 with the MMU off (Arm ARM D8.2.10): the address itself, Device-nGnRnE, all permitted.
pub(super) fn mmu_off(regs: &TranslationRegs, gva: Gva) -> Result<Translation, FaultKind> {
    let tag_flag = match Half::of(gva) {
        Half::Lower => 37,
        Half::Upper => 38,
    };
    let top = if field(regs.tcr, tag_flag, 1) == 1 {
        56
    } else {
        64
    };
    let pa_bits = pa_bits(regs.mmfr0);
    if gva.0 & bits(pa_bits, top) != 0 {
        return Err(FaultKind::AddressSize);
    }
    let all = Access {
        read: true,
        write: true,
        execute: true,
    };
    Ok(Translation {
        gpa: Gpa(gva.0 & bits(0, pa_bits)),
        size: PAGE_SIZE,
        level: 0,
        memory_attributes: 0,
        permissions: Permissions { el1: all, el0: all },
        accessed: true,
        guarded: false,
    })
}
