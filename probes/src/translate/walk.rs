//! The walk from table to table (Arm ARM D8.3; pseudocode `AArch64.S1Walk`).

use super::regime::{Granule, Regime, WideAddress, bits, field};
use super::{Access, FaultKind, Permissions, Translation, TranslationFault};
use crate::addr::{Gpa, Gva};
use crate::machine::PhysMemory;

/// What the tables on the way take away from the page's own permissions (Arm ARM D8.4.1,
/// hierarchical control).
#[derive(Clone, Copy, Default)]
struct Limits {
    no_el0: bool,
    read_only: bool,
    no_execute_el0: bool,
    no_execute_el1: bool,
}

/// What a descriptor says.
enum Descriptor {
    Invalid,
    /// The next table.
    Table,
    /// A page or a block.
    Leaf,
}

/// Walks the tables of `regime` for `gva`, which is in its range.
pub(super) fn walk<M: PhysMemory + ?Sized>(
    regime: &Regime,
    memory: &M,
    gva: Gva,
) -> Result<Translation, TranslationFault> {
    let mut table = regime.base;
    let mut limits = Limits::default();
    let mut level = regime.start_level;
    loop {
        let fault = |kind| TranslationFault {
            address: gva,
            level,
            kind,
        };
        let low = regime.level_shift(level);
        let high = if level == regime.start_level {
            regime.input_bits
        } else {
            low + regime.granule.stride()
        };
        let index = field(gva.0, low, high - low);
        let descriptor = read_descriptor(regime, memory, Gpa(table + index * 8)).map_err(fault)?;
        match kind(regime, level, descriptor) {
            Descriptor::Invalid => return Err(fault(FaultKind::Unmapped)),
            // At most five times round: no descriptor of level 3 is a table.
            Descriptor::Table => {
                table = address(regime, descriptor, regime.granule.shift());
                if !regime.in_output_range(table) {
                    return Err(fault(FaultKind::AddressSize));
                }
                if !regime.no_hierarchical {
                    limits = limits.and(descriptor);
                }
                level += 1;
            }
            Descriptor::Leaf => {
                let base = address(regime, descriptor, low);
                if !regime.in_output_range(base) {
                    return Err(fault(FaultKind::AddressSize));
                }
                return Ok(leaf(regime, level, descriptor, limits, base, gva));
            }
        }
    }
}

fn read_descriptor<M: PhysMemory + ?Sized>(
    regime: &Regime,
    memory: &M,
    entry: Gpa,
) -> Result<u64, FaultKind> {
    let mut bytes = [0; 8];
    memory
        .read_phys(entry, &mut bytes)
        .map_err(FaultKind::Table)?;
    Ok(if regime.big_endian {
        u64::from_be_bytes(bytes)
    } else {
        u64::from_le_bytes(bytes)
    })
}

fn kind(regime: &Regime, level: i8, descriptor: u64) -> Descriptor {
    match (field(descriptor, 0, 2), level) {
        (0b11, 3) => Descriptor::Leaf,
        (0b11, _) => Descriptor::Table,
        (0b01, _) if block_allowed(regime, level) => Descriptor::Leaf,
        _ => Descriptor::Invalid,
    }
}

/// Levels at which a block is legal (pseudocode `AArch64.BlockDescSupported`).
fn block_allowed(regime: &Regime, level: i8) -> bool {
    let wide = regime.wide != WideAddress::None;
    match regime.granule {
        Granule::K4 => level == 1 || level == 2 || (level == 0 && wide),
        Granule::K16 | Granule::K64 => level == 2 || (level == 1 && wide),
    }
}

/// The output address in a descriptor, from bit `low` up.
fn address(regime: &Regime, descriptor: u64, low: u32) -> u64 {
    let address = descriptor & bits(low, 48);
    match regime.wide {
        WideAddress::None => address,
        WideAddress::Lpa => address | field(descriptor, 12, 4) << 48,
        WideAddress::Lpa2 => address | descriptor & bits(48, 50) | field(descriptor, 8, 2) << 50,
    }
}

fn leaf(
    regime: &Regime,
    level: i8,
    descriptor: u64,
    limits: Limits,
    base: u64,
    gva: Gva,
) -> Translation {
    let size = 1 << regime.level_shift(level);
    let attribute_index = field(descriptor, 2, 3) as u32;
    Translation {
        gpa: Gpa(base | gva.0 & (size - 1)),
        size,
        level,
        memory_attributes: field(regime.mair, attribute_index * 8, 8) as u8,
        permissions: permissions(regime, descriptor, limits),
        accessed: field(descriptor, 10, 1) == 1,
        guarded: field(descriptor, 50, 1) == 1,
    }
}

/// Direct permissions (Arm ARM D8.4.1 and pseudocode `AArch64.S1DirectBasePermissions`).
fn permissions(regime: &Regime, descriptor: u64, limits: Limits) -> Permissions {
    let flag = |bit| field(descriptor, bit, 1) == 1;
    let dirty_when_written = regime.dirty_management && flag(51);
    let writable = (!flag(7) || dirty_when_written) && !limits.read_only;
    let user = flag(6) && !limits.no_el0;
    let no_execute_el0 = flag(54) || limits.no_execute_el0;
    let no_execute_el1 = flag(53) || limits.no_execute_el1;

    let user_writable = user && writable;
    let write_xor_execute = regime.write_xor_execute;
    // What applications can write the kernel never executes.
    let el1_never = no_execute_el1 || user_writable || (write_xor_execute && writable);
    let el0_never = no_execute_el0 || (write_xor_execute && user_writable);
    let el1 = Access {
        read: true,
        write: writable,
        execute: !el1_never,
    };
    let el0 = Access {
        read: user,
        write: user_writable,
        execute: !el0_never,
    };
    Permissions {
        el1,
        el0: if regime.no_el0 {
            Access::default()
        } else {
            el0
        },
    }
}

impl Limits {
    /// These limits and those of a table descriptor: APTable in bits 62:61, UXNTable in 60,
    /// PXNTable in 59.
    fn and(self, descriptor: u64) -> Self {
        let flag = |bit| field(descriptor, bit, 1) == 1;
        Self {
            no_el0: self.no_el0 || flag(61),
            read_only: self.read_only || flag(62),
            no_execute_el0: self.no_execute_el0 || flag(60),
            no_execute_el1: self.no_execute_el1 || flag(59),
        }
    }
}
