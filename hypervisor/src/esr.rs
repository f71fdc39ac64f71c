//! Exception syndromes (Arm ARM D24.2.37, `ESR_EL2`).

/// Exception class, bits 31:26.
pub const fn class(esr: u64) -> u64 {
    esr >> 26 & 0x3f
}

/// Instruction specific syndrome, bits 24:0.
pub const fn iss(esr: u64) -> u64 {
    esr & 0x1ff_ffff
}

/// Length of the instruction that trapped, in bytes.
pub const fn instruction_length(esr: u64) -> u64 {
    if esr & (1 << 25) != 0 { 4 } else { 2 }
}

/// Exception classes that a guest can show us.
pub mod ec {
    /// WFI or WFE.
    pub const WFX: u64 = 0x01;
    /// HVC from AArch64.
    pub const HVC: u64 = 0x16;
    /// SMC from AArch64.
    pub const SMC: u64 = 0x17;
    /// MSR, MRS or system instruction.
    pub const SYSREG: u64 = 0x18;
    /// Instruction abort from a lower exception level.
    pub const INSTRUCTION_ABORT: u64 = 0x20;
    /// Data abort from a lower exception level.
    pub const DATA_ABORT: u64 = 0x24;
    /// Hardware breakpoint, lower exception level.
    pub const BREAKPOINT: u64 = 0x30;
    /// Software step, lower exception level.
    pub const SOFTWARE_STEP: u64 = 0x32;
    /// Watchpoint, lower exception level.
    pub const WATCHPOINT: u64 = 0x34;
    /// BRK from AArch64.
    pub const BRK: u64 = 0x3c;
}

/// The class in words.
pub fn describe(esr: u64) -> &'static str {
    match class(esr) {
        0x00 => "undefined instruction",
        0x01 => "WFI or WFE",
        0x07 => "SIMD or floating point",
        0x0e => "illegal execution state",
        0x16 => "HVC",
        0x17 => "SMC",
        0x18 => "system register access",
        0x19 => "SVE",
        0x20 | 0x21 => "instruction abort",
        0x22 => "PC alignment",
        0x24 | 0x25 => "data abort",
        0x26 => "SP alignment",
        0x2f => "SError",
        0x30 | 0x31 => "breakpoint",
        0x32 | 0x33 => "software step",
        0x34 | 0x35 => "watchpoint",
        0x3c => "BRK",
        _ => "other",
    }
}
