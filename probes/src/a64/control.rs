//! Where control goes after an instruction, as far as its encoding tells.

use super::{branch_offset, field};

/// What an instruction does to the flow of control.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Control {
    /// Goes on with the next instruction. Everything that is no branch, and what is not known.
    Next,
    /// Goes elsewhere and, as a rule, comes back behind itself: calls, and instructions that raise
    /// an exception. What follows the call of a function that never returns is another function.
    Call,
    /// Goes elsewhere for good (`B`).
    Jump {
        /// Bytes from the instruction to its target.
        offset: i64,
    },
    /// Goes elsewhere or to the next instruction (`B.cond`, `CBZ`, `TBNZ`, …).
    Fork {
        /// Bytes from the instruction to its target.
        offset: i64,
    },
    /// Goes where a register says (`BR` and its authenticating forms).
    Indirect,
    /// Returns to where a register says.
    Return {
        /// The register; the authenticating forms have 30.
        register: u8,
    },
    /// Goes nowhere that is known: `ERET`, `UDF`.
    End,
}

/// The number of the link register.
const LINK: u8 = 30;

/// Where control goes after `instruction` (Arm ARM C4.1.93, "Branches, exception generating and
/// system instructions"). Never fails: what is not known is [`Control::Next`].
pub const fn control(instruction: u32) -> Control {
    if let Some(offset) = branch_offset(instruction) {
        return match instruction >> 26 {
            0b00_0101 => Control::Jump { offset },
            0b10_0101 => Control::Call,
            _ => Control::Fork { offset },
        };
    }
    match instruction {
        // ERET, ERETAA, ERETAB.
        0xd69f_03e0 | 0xd69f_0bff | 0xd69f_0fff => return Control::End,
        // UDF.
        0..=0xffff => return Control::End,
        _ => {}
    }
    match instruction & 0xffff_fc1f {
        // BR, BLR, RET.
        0xd61f_0000 => return Control::Indirect,
        0xd63f_0000 => return Control::Call,
        0xd65f_0000 => {
            return Control::Return {
                register: field(instruction, 5, 5) as u8,
            };
        }
        _ => {}
    }
    if returns_authenticated(instruction) {
        return Control::Return { register: LINK };
    }
    // BRAA, BRAB, BRAAZ, BRABZ and BLRAA, BLRAB, BLRAAZ, BLRABZ.
    match instruction & 0xfeff_f800 {
        0xd61f_0800 => return Control::Indirect,
        0xd63f_0800 => return Control::Call,
        _ => {}
    }
    // SVC, HVC, SMC, BRK.
    match instruction & 0xffe0_001f {
        0xd400_0001..=0xd400_0003 | 0xd420_0000 => Control::Call,
        _ => Control::Next,
    }
}

/// `RETAA`, `RETAB`; `RETAASPPCR`, `RETABSPPCR` (a register in the place of 31) and `RETAASPPC`,
/// `RETABSPPC` (an offset) of FEAT_PAuth_LR.
const fn returns_authenticated(instruction: u32) -> bool {
    instruction & 0xffff_fbe0 == 0xd65f_0be0 || instruction & 0xffc0_001f == 0x5500_001f
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Words as llvm-mc assembles them.
    #[test]
    fn golden_encodings() {
        let golden = [
            (0xd503_201f, Control::Next, "nop"),
            (0xa9bf_7bfd, Control::Next, "stp x29, x30, [sp, #-16]!"),
            (0x1400_0010, Control::Jump { offset: 64 }, "b #64"),
            (0x17ff_ffff, Control::Jump { offset: -4 }, "b #-4"),
            (0x9400_0010, Control::Call, "bl #64"),
            (0x5400_0100, Control::Fork { offset: 32 }, "b.eq #32"),
            (0xb4ff_ffe0, Control::Fork { offset: -4 }, "cbz x0, #-4"),
            (0x3700_0040, Control::Fork { offset: 8 }, "tbnz w0, #0, #8"),
            (0xd61f_0120, Control::Indirect, "br x9"),
            (0xd71f_0a11, Control::Indirect, "braa x16, x17"),
            (0xd61f_0a1f, Control::Indirect, "braaz x16"),
            (0xd61f_0e1f, Control::Indirect, "brabz x16"),
            (0xd63f_0120, Control::Call, "blr x9"),
            (0xd73f_0931, Control::Call, "blraa x9, x17"),
            (0xd63f_093f, Control::Call, "blraaz x9"),
            (0xd65f_03c0, Control::Return { register: 30 }, "ret"),
            (0xd65f_0120, Control::Return { register: 9 }, "ret x9"),
            (0xd65f_0bff, Control::Return { register: 30 }, "retaa"),
            (0xd65f_0fff, Control::Return { register: 30 }, "retab"),
            (
                0xd65f_0bf0,
                Control::Return { register: 30 },
                "retaasppcr x16",
            ),
            (
                0x5500_003f,
                Control::Return { register: 30 },
                "retaasppc #-4",
            ),
            (
                0x5520_003f,
                Control::Return { register: 30 },
                "retabsppc #-4",
            ),
            (0xd69f_03e0, Control::End, "eret"),
            (0xd69f_0bff, Control::End, "eretaa"),
            (0x0000_0000, Control::End, "udf #0"),
            (0x0000_ffff, Control::End, "udf #0xffff"),
            (0xd400_0001, Control::Call, "svc #0"),
            (0xd400_0002, Control::Call, "hvc #0"),
            (0xd400_0003, Control::Call, "smc #0"),
            (0xd421_0000, Control::Call, "brk #0x800"),
            (0xd503_237f, Control::Next, "pacibsp"),
        ];
        for (word, expected, text) in golden {
            assert_eq!(control(word), expected, "{text}");
        }
    }
}
