//! How an instruction of the hypervisor's own executes, once a probe has taken its place.
//!
//! EL2 does not step itself: its single-step would share `MDSCR_EL1` with the guest. What depends on its own address is
//! simulated; everything else executes as it is at another address, followed by a branch back.

use super::{Class, branch_offset, classify, field};
use core::fmt;

/// How a displaced instruction executes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Execution {
    /// By [`super::simulate`]: it depends on its own address.
    Simulated,
    /// At another address.
    OutOfLine,
}

/// Why an instruction can execute neither way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unmovable {
    /// `ERET`, `DRPS` or a read or write of `ELR_EL2`, `SPSR_EL2`, `ESR_EL2`, `FAR_EL2`, `HPFAR_EL2`: taking the probe's
    /// exception changes these registers.
    ExceptionState,
    /// `BRK`, `HLT`, `HVC` or an encoding that is permanently undefined: it is there to trap.
    Traps,
    /// It depends on its own address in a way that is not simulated: an authenticated call, a literal load to a SIMD
    /// register, a conditional branch of a later architecture.
    AddressDependent,
}

impl fmt::Display for Unmovable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ExceptionState => {
                "it handles the registers of an exception in progress, which the probe's own exception changes"
            }
            Self::Traps => "it is there to trap",
            Self::AddressDependent => {
                "it depends on its own address in a way that is not simulated"
            }
        })
    }
}

/// How `instruction` executes when a probe of the hypervisor's own code has displaced it.
pub const fn execution(instruction: u32) -> Result<Execution, Unmovable> {
    let halts = instruction & 0xffe0_001f == 0xd440_0000;
    let undefined = instruction & 0xffff_0000 == 0;
    if halts || undefined {
        return Err(Unmovable::Traps);
    }
    if let Class::Brk { .. } | Class::Hvc { .. } = classify(instruction) {
        return Err(Unmovable::Traps);
    }
    if returns_from_exception(instruction) || names_exception_state(instruction) {
        return Err(Unmovable::ExceptionState);
    }
    // BC.cond of FEAT_HBC, and the compare-and-branch instructions of FEAT_CMPBR.
    let consistent = instruction & 0xff00_0010 == 0x5400_0010;
    let compares = instruction & 0x7e00_0000 == 0x7400_0000;
    if consistent || compares {
        return Err(Unmovable::AddressDependent);
    }
    // ADR, ADRP (Arm ARM C4.1.92); BLR.
    let pc_relative = instruction & 0x1f00_0000 == 0x1000_0000;
    let call = instruction & 0xffff_fc1f == 0xd63f_0000;
    if pc_relative || call || branch_offset(instruction).is_some() {
        return Ok(Execution::Simulated);
    }
    // Load register (literal) (Arm ARM C4.1.94): LDR, LDRSW, PRFM; the SIMD forms have bit 26 set.
    if instruction & 0x3b00_0000 == 0x1800_0000 {
        let is_vector = field(instruction, 26, 1) == 1;
        let is_prefetch = field(instruction, 30, 2) == 0b11;
        if is_vector || is_prefetch {
            return Err(Unmovable::AddressDependent);
        }
        return Ok(Execution::Simulated);
    }
    // BLRAA, BLRAB and their forms with a zero modifier.
    if instruction & 0xfeff_f800 == 0xd63f_0800 {
        return Err(Unmovable::AddressDependent);
    }
    Ok(Execution::OutOfLine)
}

/// ERET, ERETAA, ERETAB, DRPS (Arm ARM C4.1.66, "Unconditional branch (register)").
const fn returns_from_exception(instruction: u32) -> bool {
    instruction & 0xffdf_0000 == 0xd69f_0000
}

/// MRS and MSR of the registers that taking an exception to EL2 writes (Arm ARM D1.3.1), and of their EL1 names too,
/// which mean the same at EL2 with `HCR_EL2.E2H` set.
const fn names_exception_state(instruction: u32) -> bool {
    let is_register_move = instruction & 0xffd0_0000 == 0xd510_0000;
    if !is_register_move {
        return false;
    }
    let (op0, op1) = (2 + field(instruction, 19, 1), field(instruction, 16, 3));
    let (crn, crm, op2) = (
        field(instruction, 12, 4),
        field(instruction, 8, 4),
        field(instruction, 5, 3),
    );
    if op0 != 3 || (op1 != 4 && op1 != 0) {
        return false;
    }
    match (crn, crm, op2) {
        // SPSR, ELR; ESR; FAR; HPFAR.
        (4, 0, 0 | 1) | (5, 2, 0) | (6, 0, 0) => true,
        (6, 0, 4) => op1 == 4,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::a64::{BranchTargetCheck, DataAccess, Simulated, SimulationFeatures, simulate};
    use crate::addr::Gva;
    use crate::machine::{GuestFault, LiveMemory};
    use crate::regs::CoreRegs;
    use proptest::prelude::*;

    /// Words as llvm-mc 14 assembles them.
    #[test]
    fn golden() {
        let out_of_line = [
            (0xa9ba_7bfd, "stp x29, x30, [sp, #-0x60]!"),
            (0xd101_43ff, "sub sp, sp, #0x50"),
            (0xd503_233f, "paciasp"),
            (0xd503_201f, "nop"),
            (0xd503_3fdf, "isb"),
            (0xd503_207f, "wfi"),
            (0xd65f_03c0, "ret"),
            (0xd61f_0120, "br x9"),
            (0xd400_0003, "smc #0"),
            (0x885f_7c20, "ldxr w0, [x1]"),
            (0xd538_d080, "mrs x0, tpidr_el1"),
            (0xd53c_d040, "mrs x0, tpidr_el2"),
            (0xd53c_1100, "mrs x0, hcr_el2"),
            (0xd538_7400, "mrs x0, par_el1"),
            (0xd503_4fdf, "msr daifset, #15"),
        ];
        for (word, text) in out_of_line {
            assert_eq!(execution(word), Ok(Execution::OutOfLine), "{text}");
        }
        let simulated = [
            (0x1000_0000, "adr x0, ."),
            (0x9000_0000, "adrp x0, ."),
            (0x9600_0000, "bl #-134217728"),
            (0x1400_0010, "b #64"),
            (0x5400_0040, "b.eq #8"),
            (0x3400_0040, "cbz w0, #8"),
            (0x3700_0040, "tbnz w0, #0, #8"),
            (0xd63f_0120, "blr x9"),
            (0x5800_0040, "ldr x0, #8"),
            (0x9800_0040, "ldrsw x0, #8"),
        ];
        for (word, text) in simulated {
            assert_eq!(execution(word), Ok(Execution::Simulated), "{text}");
        }
        let unmovable = [
            (0xd69f_03e0, Unmovable::ExceptionState, "eret"),
            (0xd69f_0bff, Unmovable::ExceptionState, "eretaa"),
            (0xd6bf_03e0, Unmovable::ExceptionState, "drps"),
            (0xd53c_4020, Unmovable::ExceptionState, "mrs x0, elr_el2"),
            (0xd51c_4000, Unmovable::ExceptionState, "msr spsr_el2, x0"),
            (0xd53c_5200, Unmovable::ExceptionState, "mrs x0, esr_el2"),
            (0xd53c_6000, Unmovable::ExceptionState, "mrs x0, far_el2"),
            (0xd53c_6080, Unmovable::ExceptionState, "mrs x0, hpfar_el2"),
            (0xd421_0000, Unmovable::Traps, "brk #0x800"),
            (0xd400_0002, Unmovable::Traps, "hvc #0"),
            (0xd440_0000, Unmovable::Traps, "hlt #0"),
            (0x0000_0000, Unmovable::Traps, "udf #0"),
            (0x9c00_0080, Unmovable::AddressDependent, "ldr q0, #16"),
            (
                0xd800_0040,
                Unmovable::AddressDependent,
                "prfm pldl1keep, #8",
            ),
            (0xd63f_093f, Unmovable::AddressDependent, "blraaz x9"),
            (0xd73f_0922, Unmovable::AddressDependent, "blraa x9, x2"),
            (0x5400_0050, Unmovable::AddressDependent, "bc.eq #8"),
        ];
        for (word, reason, text) in unmovable {
            assert_eq!(execution(word), Err(reason), "{text}");
        }
    }

    /// Memory that reads as zero.
    struct Zeros;

    impl LiveMemory for Zeros {
        fn task(&self) -> u64 {
            0
        }

        fn read(&self, _: Gva, buffer: &mut [u8]) -> Result<(), GuestFault> {
            buffer.fill(0);
            Ok(())
        }

        fn write(&self, address: Gva, _: &[u8]) -> Result<(), GuestFault> {
            Err(GuestFault { address })
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]

        /// What is to be simulated is simulated, whatever the registers hold.
        #[test]
        fn nothing_is_promised_in_vain(word in any::<u32>(), x in any::<[u64; 31]>(), slot in 0..1u64 << 30) {
            let features = SimulationFeatures {
                bti: false,
                pauth: false,
                data: DataAccess::Simulated,
                branch_target: BranchTargetCheck::Passed,
            };
            if execution(word) == Ok(Execution::Simulated) {
                // 8-byte literals at odd words fault in place too.
                let mut regs = CoreRegs { x, pc: slot * 8, pstate: 0b1001, ..CoreRegs::default() };
                let done = simulate(word, &mut regs, &Zeros, &features);
                let is_misaligned_literal = word & 0x3b00_0000 == 0x1800_0000 && word >> 5 & 1 == 1;
                prop_assert!(done == Simulated::Done || is_misaligned_literal, "{word:#010x}");
            }
        }

        /// What moves computes the same at two addresses as far as it is simulated.
        #[test]
        fn what_moves_does_not_look_at_its_address(word in any::<u32>(), x in any::<[u64; 31]>()) {
            let features = SimulationFeatures {
                bti: false,
                pauth: false,
                data: DataAccess::Simulated,
                branch_target: BranchTargetCheck::Passed,
            };
            if execution(word) == Ok(Execution::OutOfLine) {
                let run = |pc: u64| {
                    let mut regs = CoreRegs { x, pc, pstate: 0b1001, ..CoreRegs::default() };
                    (simulate(word, &mut regs, &Zeros, &features), regs)
                };
                let ((done, here), (_, there)) = (run(0x1000), run(0x20_0000));
                if done == Simulated::Done {
                    prop_assert_eq!(here.x, there.x);
                    let falls_through = here.pc == 0x1004 && there.pc == 0x20_0004;
                    prop_assert!(falls_through || here.pc == there.pc, "{word:#010x}");
                }
            }
        }
    }
}
