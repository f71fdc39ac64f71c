//! What an instruction does to the frame of its function.

use crate::a64::{Control, control, field, signed_field};

/// Numbers of registers.
pub(super) const FP: u8 = 29;
pub(super) const LR: u8 = 30;
pub(super) const SP: u8 = 31;

/// What an instruction does to the frame, as far as callers are found by it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Effect {
    /// Nothing.
    None,
    /// SP goes down by so many bytes.
    LowersSp(i32),
    /// SP goes down by `lowers` bytes, then a frame record is stored `at` bytes above it: x29 and where the caller goes on.
    StoresRecord { lowers: i32, at: i32 },
    /// x29 and x30 are loaded from `at` bytes above SP, then it goes up by `raises` bytes.
    LoadsRecord { at: i32, raises: i32 },
    /// x29 becomes the address so many bytes above SP.
    SetsFp(i32),
    /// x30 is signed.
    Signs,
    /// x30 is authenticated, and no longer signed.
    Authenticates,
    /// x30 gets the return address of a call.
    Calls,
    /// The instruction so many bytes further on may be the next.
    Forks(i64),
    /// The next instruction does not run after this one.
    Leaves,
}

impl Effect {
    /// Never fails: what is not known does nothing.
    pub(super) fn of(instruction: u32) -> Self {
        // Arm ARM C4.1, "A64 instruction set encoding": op0.
        match field(instruction, 25, 4) {
            0b1000 => add_or_subtract(instruction),
            0b1010 | 0b1011 => branch_or_hint(instruction),
            0b0100 | 0b0110 => pair(instruction),
            0b1100 => single(instruction),
            0b0000 => Self::Leaves,
            _ => Self::None,
        }
    }
}

fn base_is_sp(instruction: u32) -> bool {
    field(instruction, 5, 5) == SP.into()
}

/// `ADD` and `SUB` of an immediate, 64 bits, to and from SP (Arm ARM C4.1.92).
fn add_or_subtract(instruction: u32) -> Effect {
    if instruction & 0xbf80_0000 != 0x9100_0000 || !base_is_sp(instruction) {
        return Effect::None;
    }
    let shift = 12 * field(instruction, 22, 1);
    let amount = (field(instruction, 10, 12) << shift) as i32;
    let is_subtraction = field(instruction, 30, 1) == 1;
    match (field(instruction, 0, 5) as u8, is_subtraction) {
        (SP, true) => Effect::LowersSp(amount),
        (SP, false) => Effect::LowersSp(-amount),
        (FP, false) => Effect::SetsFp(amount),
        _ => Effect::None,
    }
}

fn branch_or_hint(instruction: u32) -> Effect {
    match instruction {
        // PACIASP, PACIBSP; AUTIASP, AUTIBSP.
        0xd503_233f | 0xd503_237f => return Effect::Signs,
        0xd503_23bf | 0xd503_23ff => return Effect::Authenticates,
        _ => {}
    }
    let raises_exception = instruction >> 24 == 0xd4;
    match control(instruction) {
        Control::Call if raises_exception => Effect::None,
        Control::Call => Effect::Calls,
        Control::Next => Effect::None,
        Control::Fork { offset } => Effect::Forks(offset),
        Control::Jump { .. } | Control::Indirect | Control::Return { .. } | Control::End => {
            Effect::Leaves
        }
    }
}

/// `STP` and `LDP` relative to SP (Arm ARM C4.1.94). A frame record begins with x29 (AAPCS64, 6.4.6); exceptions' entries store
/// another register than x30 behind it.
fn pair(instruction: u32) -> Effect {
    if !base_is_sp(instruction) {
        return Effect::None;
    }
    let (size, is_vector) = (field(instruction, 30, 2), field(instruction, 26, 1) == 1);
    let scale = match (size, is_vector) {
        (size, true) => 4 << size,
        (0b10, false) => 8,
        (_, false) => 4,
    };
    let offset = signed_field(instruction, 15, 7, scale) as i32;
    let registers = (
        field(instruction, 0, 5) as u8,
        field(instruction, 10, 5) as u8,
    );
    let are_general = size == 0b10 && !is_vector;
    let is_load = field(instruction, 22, 1) == 1;
    let is_stored_record = are_general && !is_load && registers.0 == FP;
    let is_loaded_record = are_general && is_load && registers == (FP, LR);
    // By an offset; post-indexed, pre-indexed.
    match field(instruction, 23, 2) {
        0b10 if is_stored_record => Effect::StoresRecord {
            lowers: 0,
            at: offset,
        },
        0b11 if is_stored_record => Effect::StoresRecord {
            lowers: -offset,
            at: 0,
        },
        0b10 if is_loaded_record => Effect::LoadsRecord {
            at: offset,
            raises: 0,
        },
        0b01 if is_loaded_record => Effect::LoadsRecord {
            at: 0,
            raises: offset,
        },
        0b01 | 0b11 => Effect::LowersSp(-offset),
        _ => Effect::None,
    }
}

/// `STR` and `LDR` of an X register, pre- or post-indexed by SP (Arm ARM C4.1.94).
fn single(instruction: u32) -> Effect {
    if instruction & 0xffa0_0400 != 0xf800_0400 || !base_is_sp(instruction) {
        return Effect::None;
    }
    Effect::LowersSp(-signed_field(instruction, 12, 9, 1) as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Words as llvm-mc assembles them.
    #[test]
    fn golden_effects() {
        let golden = [
            (
                0xa9bd_7bfd,
                Effect::StoresRecord { lowers: 48, at: 0 },
                "stp x29, x30, [sp, #-48]!",
            ),
            (
                0xa903_7bfd,
                Effect::StoresRecord { lowers: 0, at: 48 },
                "stp x29, x30, [sp, #48]",
            ),
            (
                0xa913_5bfd,
                Effect::StoresRecord { lowers: 0, at: 304 },
                "stp x29, x22, [sp, #304]",
            ),
            (
                0xa8c3_7bfd,
                Effect::LoadsRecord { at: 0, raises: 48 },
                "ldp x29, x30, [sp], #48",
            ),
            (
                0xa941_7bfd,
                Effect::LoadsRecord { at: 16, raises: 0 },
                "ldp x29, x30, [sp, #16]",
            ),
            (
                0xa9be_53f3,
                Effect::LowersSp(32),
                "stp x19, x20, [sp, #-32]!",
            ),
            (
                0xa8c2_53f3,
                Effect::LowersSp(-32),
                "ldp x19, x20, [sp], #32",
            ),
            (
                0x29be_7bfd,
                Effect::LowersSp(16),
                "stp w29, w30, [sp, #-16]!",
            ),
            (0xadbf_07e0, Effect::LowersSp(32), "stp q0, q1, [sp, #-32]!"),
            (0x6dbf_27e8, Effect::LowersSp(16), "stp d8, d9, [sp, #-16]!"),
            (0xf81f_0ffe, Effect::LowersSp(16), "str x30, [sp, #-16]!"),
            (0xf841_07fe, Effect::LowersSp(-16), "ldr x30, [sp], #16"),
            (0xd101_83ff, Effect::LowersSp(96), "sub sp, sp, #0x60"),
            (
                0xd140_07ff,
                Effect::LowersSp(4096),
                "sub sp, sp, #1, lsl #12",
            ),
            (0x9101_83ff, Effect::LowersSp(-96), "add sp, sp, #0x60"),
            (0x9100_03fd, Effect::SetsFp(0), "mov x29, sp"),
            (0x9104_c3fd, Effect::SetsFp(304), "add x29, sp, #304"),
            (0xd503_233f, Effect::Signs, "paciasp"),
            (0xd503_237f, Effect::Signs, "pacibsp"),
            (0xd503_23bf, Effect::Authenticates, "autiasp"),
            (0xd503_23ff, Effect::Authenticates, "autibsp"),
            (0x9400_0001, Effect::Calls, "bl #4"),
            (0xd63f_0020, Effect::Calls, "blr x1"),
            (0x5400_0040, Effect::Forks(8), "b.eq #8"),
            (0x1400_0100, Effect::Leaves, "b #1024"),
            (0xd61f_0200, Effect::Leaves, "br x16"),
            (0xd65f_0bff, Effect::Leaves, "retaa"),
            (0xd69f_03e0, Effect::Leaves, "eret"),
            (0x0000_0000, Effect::Leaves, "udf #0"),
            (0xa900_07e0, Effect::None, "stp x0, x1, [sp]"),
            (0xa801_7bfd, Effect::None, "stnp x29, x30, [sp, #16]"),
            (0xf900_0bfe, Effect::None, "str x30, [sp, #16]"),
            (0x1100_43fd, Effect::None, "add w29, wsp, #16"),
            (0xb100_43fd, Effect::None, "adds x29, sp, #16"),
            (0xd100_43fd, Effect::None, "sub x29, sp, #16"),
            (0x9100_03bf, Effect::None, "mov sp, x29"),
            (0xd421_0000, Effect::None, "brk #0x800"),
            (0xd400_0001, Effect::None, "svc #0"),
        ];
        for (word, expected, text) in golden {
            assert_eq!(Effect::of(word), expected, "{text}");
        }
    }
}
