//! What an instruction means to a probe that wants to take its place.

use super::field;

/// Which indirect branches a landing pad accepts (Arm ARM D8.4.9, "BTI").
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LandingPad {
    /// `BTI c`: calls, and jumps through x16 or x17.
    Call,
    /// `BTI j`: jumps.
    Jump,
    /// `BTI jc`: both.
    JumpOrCall,
    /// `PACIASP` or `PACIBSP`: signs the return address, and lands as `BTI c` does (or `BTI jc`, by
    /// `SCTLR_EL1.BT1`).
    PacSp,
}

/// Kinds of instruction that a probe has to tell apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    /// `B` and `BL`.
    DirectBranch,
    /// `NOP` itself; no other hint.
    Nop,
    /// `ISB`.
    Isb,
    /// `SVC`.
    Svc,
    /// `HVC`.
    Hvc {
        /// Its immediate.
        immediate: u16,
    },
    /// `SMC`.
    Smc,
    /// `BRK`.
    Brk {
        /// Its immediate.
        immediate: u16,
    },
    /// A landing pad for indirect branches. `BTI` without operand accepts none and is
    /// [`Class::Other`].
    LandingPad(LandingPad),
    /// `LDXR`, `LDAXR`, `LDXP`, `LDAXP` of any size.
    LoadExclusive,
    /// `STXR`, `STLXR`, `STXP`, `STLXP` of any size.
    StoreExclusive,
    /// `CLREX`.
    ClearExclusive,
    /// Anything else, unallocated encodings too.
    Other,
}

impl Class {
    /// Whether the instruction may be replaced by another of this set, or another of this set by
    /// it, while a processing element executes it: "concurrent modification and execution of
    /// instructions", Arm ARM B2.2.5. Replacing any other needs the VM held.
    pub const fn replaceable_while_executed(self) -> bool {
        matches!(
            self,
            Class::DirectBranch
                | Class::Nop
                | Class::Isb
                | Class::Svc
                | Class::Hvc { .. }
                | Class::Smc
                | Class::Brk { .. }
        )
    }
}

/// Encodes `HVC #immediate` (Arm ARM C6.2, "HVC").
pub const fn hvc(immediate: u16) -> u32 {
    0xd400_0002 | (immediate as u32) << 5
}

/// Encodes `BRK #immediate` (Arm ARM C6.2, "BRK").
pub const fn brk(immediate: u16) -> u32 {
    0xd420_0000 | (immediate as u32) << 5
}

/// The immediate of a BRK.
pub(super) const fn brk_immediate(instruction: u32) -> Option<u16> {
    if instruction & 0xffe0_001f == brk(0) {
        Some(field(instruction, 5, 16) as u16)
    } else {
        None
    }
}

/// Whether no instruction is encoded like this, now or as long as the architecture keeps its word:
/// `UDF`, and the groups of encodings that are unallocated or reserved (Arm ARM C4.1, `op0` 0000
/// without bit 31, 0001, 0011).
pub const fn is_no_instruction(word: u32) -> bool {
    match field(word, 25, 4) {
        0b0000 => word >> 31 == 0,
        0b0001 | 0b0011 => true,
        _ => false,
    }
}

/// The kind of an instruction. Never fails: what is not known is [`Class::Other`].
pub const fn classify(instruction: u32) -> Class {
    let immediate = field(instruction, 5, 16) as u16;
    match instruction {
        0xd503_201f => return Class::Nop,
        0xd503_245f => return Class::LandingPad(LandingPad::Call),
        0xd503_249f => return Class::LandingPad(LandingPad::Jump),
        0xd503_24df => return Class::LandingPad(LandingPad::JumpOrCall),
        0xd503_233f | 0xd503_237f => return Class::LandingPad(LandingPad::PacSp),
        _ => {}
    }
    if let Some(immediate) = brk_immediate(instruction) {
        return Class::Brk { immediate };
    }
    match instruction & 0xffe0_001f {
        0xd400_0001 => return Class::Svc,
        0xd400_0002 => return Class::Hvc { immediate },
        0xd400_0003 => return Class::Smc,
        _ => {}
    }
    // The operand of barriers, CRm, is free: reserved values of ISB and CLREX do the same.
    match instruction & 0xffff_f0ff {
        0xd503_30df => return Class::Isb,
        0xd503_305f => return Class::ClearExclusive,
        _ => {}
    }
    if instruction & 0x7c00_0000 == 0x1400_0000 {
        return Class::DirectBranch;
    }
    exclusive(instruction)
}

/// Load and store exclusive, register and pair (Arm ARM C4.1.94): `size 001000 o2=0 L o1 …`. With
/// `o1` set, only the sizes 1x are exclusive pairs; the sizes 0x are CASP, which is one atomic
/// instruction.
const fn exclusive(instruction: u32) -> Class {
    let single = instruction & 0x3fa0_0000 == 0x0800_0000;
    let pair = instruction & 0xbfa0_0000 == 0x8820_0000;
    if !single && !pair {
        return Class::Other;
    }
    let load = field(instruction, 22, 1) == 1;
    if load {
        Class::LoadExclusive
    } else {
        Class::StoreExclusive
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Words as llvm-mc 14 assembles them.
    #[test]
    fn golden_encodings() {
        let golden = [
            (0x1400_0010, Class::DirectBranch, "b #64"),
            (0x9600_0000, Class::DirectBranch, "bl #-134217728"),
            (0xd503_201f, Class::Nop, "nop"),
            (0xd503_3fdf, Class::Isb, "isb"),
            (0xd503_33df, Class::Isb, "isb #3"),
            (0xd400_0021, Class::Svc, "svc #1"),
            (0xd402_4682, Class::Hvc { immediate: 0x1234 }, "hvc #0x1234"),
            (0xd400_0003, Class::Smc, "smc #0"),
            (0xd421_0000, Class::Brk { immediate: 0x800 }, "brk #0x800"),
            (0xd503_245f, Class::LandingPad(LandingPad::Call), "bti c"),
            (0xd503_249f, Class::LandingPad(LandingPad::Jump), "bti j"),
            (
                0xd503_24df,
                Class::LandingPad(LandingPad::JumpOrCall),
                "bti jc",
            ),
            (0xd503_233f, Class::LandingPad(LandingPad::PacSp), "paciasp"),
            (0xd503_237f, Class::LandingPad(LandingPad::PacSp), "pacibsp"),
            (0x885f_7c20, Class::LoadExclusive, "ldxr w0, [x1]"),
            (0xc85f_fc20, Class::LoadExclusive, "ldaxr x0, [x1]"),
            (0x085f_7c20, Class::LoadExclusive, "ldxrb w0, [x1]"),
            (0x485f_fc20, Class::LoadExclusive, "ldaxrh w0, [x1]"),
            (0xc87f_0440, Class::LoadExclusive, "ldxp x0, x1, [x2]"),
            (0x887f_8440, Class::LoadExclusive, "ldaxp w0, w1, [x2]"),
            (0xc800_7c41, Class::StoreExclusive, "stxr w0, x1, [x2]"),
            (0x8800_fc41, Class::StoreExclusive, "stlxr w0, w1, [x2]"),
            (0x0800_7c41, Class::StoreExclusive, "stxrb w0, w1, [x2]"),
            (0x4800_fc41, Class::StoreExclusive, "stlxrh w0, w1, [x2]"),
            (0xc820_0861, Class::StoreExclusive, "stxp w0, x1, x2, [x3]"),
            (0x8820_8861, Class::StoreExclusive, "stlxp w0, w1, w2, [x3]"),
            (0xd503_3f5f, Class::ClearExclusive, "clrex"),
            (0xd503_325f, Class::ClearExclusive, "clrex #2"),
            (0xd503_203f, Class::Other, "yield"),
            (0xd503_241f, Class::Other, "bti"),
            (0xd503_23bf, Class::Other, "autiasp"),
            (0xd503_3b9f, Class::Other, "dsb ish"),
            (0xd503_3bbf, Class::Other, "dmb ish"),
            (0xd503_30ff, Class::Other, "sb"),
            (0xd440_0060, Class::Other, "hlt #3"),
            (0xd69f_03e0, Class::Other, "eret"),
            (0xd61f_0120, Class::Other, "br x9"),
            (0x5400_0100, Class::Other, "b.eq #32"),
            (0xc8df_fc20, Class::Other, "ldar x0, [x1]"),
            (0xc89f_fc20, Class::Other, "stlr x0, [x1]"),
            (0xc8df_7c20, Class::Other, "ldlar x0, [x1]"),
            (0xc8a0_7c41, Class::Other, "cas x0, x1, [x2]"),
            (0x4820_7c82, Class::Other, "casp x0, x1, x2, x3, [x4]"),
            (0x0860_fc82, Class::Other, "caspal w0, w1, w2, w3, [x4]"),
            (0xf820_0041, Class::Other, "ldadd x0, x1, [x2]"),
            (0, Class::Other, "udf #0"),
            (u32::MAX, Class::Other, "unallocated"),
        ];
        for (word, class, text) in golden {
            assert_eq!(classify(word), class, "{text}");
        }
    }

    #[test]
    fn encoders_and_classify_agree() {
        assert_eq!(hvc(0x1234), 0xd402_4682);
        assert_eq!(brk(0x800), 0xd421_0000);
        for immediate in 0..=u16::MAX {
            assert_eq!(classify(hvc(immediate)), Class::Hvc { immediate });
            assert_eq!(classify(brk(immediate)), Class::Brk { immediate });
        }
    }

    #[test]
    fn what_may_be_replaced_while_executed() {
        // b, bl, brk, hvc, isb, nop, smc, svc: Arm ARM B2.2.5.
        let allowed = [
            0x1400_0010,
            0x9600_0000,
            0xd421_0000,
            0xd402_4682,
            0xd503_3fdf,
            0xd503_201f,
            0xd400_0003,
            0xd400_0021,
        ];
        assert!(
            allowed
                .iter()
                .all(|word| classify(*word).replaceable_while_executed())
        );
        // bti c, paciasp, b.eq, ret, stp, ldxr, yield.
        let forbidden = [
            0xd503_245f,
            0xd503_233f,
            0x5400_0100,
            0xd65f_03c0,
            0xa9ba_7bfd,
            0x885f_7c20,
            0xd503_203f,
        ];
        assert!(
            !forbidden
                .iter()
                .any(|word| classify(*word).replaceable_while_executed())
        );
    }
}
