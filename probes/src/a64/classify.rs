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
    match instruction & 0xffe0_001f {
        0xd400_0001 => return Class::Svc,
        0xd400_0002 => return Class::Hvc { immediate },
        0xd400_0003 => return Class::Smc,
        0xd420_0000 => return Class::Brk { immediate },
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
