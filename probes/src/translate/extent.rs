//! How far a translation, or its absence, reaches: for those who look for holes in an address space.

use super::regime::Regime;
use super::{FaultKind, Translation, TranslationFault, TranslationRegs};
use crate::addr::PAGE_SIZE;

/// How many bytes around an address, as an aligned power of two, share what [`super::translate`] said of it: what the
/// descriptor maps, or would map if it mapped anything.
pub fn extent(regs: &TranslationRegs, result: &Result<Translation, TranslationFault>) -> u64 {
    match result {
        Ok(translation) => translation.size,
        Err(fault) => hole(regs, fault).unwrap_or(PAGE_SIZE),
    }
}

fn hole(regs: &TranslationRegs, fault: &TranslationFault) -> Option<u64> {
    let bits = match fault.kind {
        FaultKind::Unmapped | FaultKind::AddressSize | FaultKind::Table(_) => {
            let regime = Regime::of(regs, fault.address).ok()?;
            regime.level_shift(fault.level)
        }
        // Whatever differs only in the bits that tables resolve has the same bits above them.
        FaultKind::NonCanonical | FaultKind::WalkDisabled => {
            let size_field = if fault.address.0 >> 55 & 1 == 0 {
                regs.tcr & 0x3f
            } else {
                regs.tcr >> 16 & 0x3f
            };
            64 - size_field as u32
        }
        FaultKind::Configuration => return None,
    };
    1u64.checked_shl(bits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::Gva;

    fn fault(address: u64, level: i8, kind: FaultKind) -> Result<Translation, TranslationFault> {
        Err(TranslationFault {
            address: Gva(address),
            level,
            kind,
        })
    }

    #[test]
    fn holes_are_as_large_as_their_descriptor() {
        // 48 bits in both halves; 4K granules below, and above by TG1 (Arm ARM D17.2, "TCR_EL1").
        let regs = TranslationRegs {
            tcr: 16 | 16 << 16 | 0b10 << 30,
            ..TranslationRegs::default()
        };
        let at = |level| extent(&regs, &fault(0x1234_5000, level, FaultKind::Unmapped));
        assert_eq!(
            [at(0), at(1), at(2), at(3)],
            [1 << 39, 1 << 30, 1 << 21, 1 << 12]
        );
        let beyond = fault(1 << 50, 0, FaultKind::NonCanonical);
        assert_eq!(extent(&regs, &beyond), 1 << 48);
        let unknown = fault(0, 0, FaultKind::Configuration);
        assert_eq!(extent(&regs, &unknown), PAGE_SIZE);
    }
}
