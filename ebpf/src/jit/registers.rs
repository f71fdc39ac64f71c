//! Which A64 register holds what.
//!
//! | A64 | holds |
//! |-----|-------|
//! | x0 | r0; results of calls |
//! | x2 to x6 | r1 to r5, where [`super::helper`] takes them |
//! | x19 to x22 | r6 to r9, which calls keep (AAPCS64 section 6.1.1) |
//! | x23 | r10 |
//! | x24 | the address of the arena |
//! | x25 | the address of the frame's lowest byte |
//! | x26 | the address of the context |
//! | x27 | the mark of the arena's addresses |
//! | x28 | the budget |
//! | x29 | the frame of the code, which holds the rest |
//! | x1, x7 to x13 | temporary |
//!
//! x14 to x18 are not used: linkers and platforms have uses for the last three.

use super::asm::Reg;
use crate::address;

/// The arena's base.
pub(super) const ARENA: Reg = Reg(24);
/// The lowest byte of the frame.
pub(super) const FRAME: Reg = Reg(25);
/// The context.
pub(super) const CONTEXT: Reg = Reg(26);
/// [`address::ARENA`].
pub(super) const MARK: Reg = Reg(27);
/// What is left of the budget.
pub(super) const BUDGET: Reg = Reg(28);
/// The status in an [`super::Outcome`]; what a helper leaves of the budget.
pub(super) const STATUS: Reg = Reg(1);
/// Arguments of a helper beside r1 to r5.
pub(super) const RUN: Reg = Reg(0);
/// See [`RUN`].
pub(super) const HELPER: Reg = Reg(1);
/// See [`RUN`].
pub(super) const LEFT: Reg = Reg(7);
/// The function to call.
pub(super) const CALLEE: Reg = Reg(8);
/// The offset in the arena of an access. A failed check leaves it to be reported.
pub(super) const OFFSET: Reg = Reg(9);
/// The register of the immediate: a constant operand.
pub(super) const OPERAND: Reg = Reg(10);
/// Temporary.
pub(super) const TEMPORARY: Reg = Reg(11);
/// Temporary.
pub(super) const TEMPORARY2: Reg = Reg(12);
/// What a constant is blinded with.
pub(super) const BLIND: Reg = Reg(13);

/// Saved by every subprogram: r6 to r9.
pub(super) const SAVED: [Reg; 4] = [Reg(19), Reg(20), Reg(21), Reg(22)];

/// The register of r0 to r10.
pub(super) const fn of(register: u8) -> Reg {
    match register {
        0 => Reg(0),
        1..=5 => Reg(register + 1),
        6..=10 => Reg(register + 13),
        _ => OPERAND,
    }
}

const _: () = assert!(address::ARENA & 0xffff_ffff == 0);
