//! The A64 instructions that the compiler uses: one function for each form, with its name and the
//! section of the Arm Architecture Reference Manual (DDI 0487) that encodes it.
//!
//! The functions take operands that are in range for their field; who calls them checks
//! ([`super::immediate`] says what fits). A field is masked even so: a wrong operand can give a
//! wrong instruction, never a different one.

use alloc::vec::Vec;

/// A general-purpose register, 0 to 30; 31 is the zero register or the stack pointer, as the
/// instruction says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Reg(pub(super) u8);

/// The zero register.
pub(super) const ZR: Reg = Reg(31);
/// The stack pointer.
pub(super) const SP: Reg = Reg(31);
/// The frame pointer (AAPCS64 section 6.1.1).
pub(super) const FP: Reg = Reg(29);
/// The link register.
pub(super) const LR: Reg = Reg(30);

/// How many bits an instruction works on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Size {
    /// 32 bits; the upper half of the result is 0.
    W,
    /// 64 bits.
    X,
}

/// Conditions of C1.2.4.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Cond {
    Eq = 0,
    Ne = 1,
    Hs = 2,
    Lo = 3,
    Hi = 8,
    Ls = 9,
    Ge = 10,
    Lt = 11,
    Gt = 12,
    Le = 13,
}

impl Cond {
    /// The condition that holds where this one does not.
    pub(super) fn inverted(self) -> Self {
        match self {
            Self::Eq => Self::Ne,
            Self::Ne => Self::Eq,
            Self::Hs => Self::Lo,
            Self::Lo => Self::Hs,
            Self::Hi => Self::Ls,
            Self::Ls => Self::Hi,
            Self::Ge => Self::Lt,
            Self::Lt => Self::Ge,
            Self::Gt => Self::Le,
            Self::Le => Self::Gt,
        }
    }
}

/// Addition or subtraction, with or without flags: bits 30 and 29 of their encodings.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub(super) enum AddSub {
    Add = 0,
    Sub = 2 << 29,
    Subs = 3 << 29,
    Adds = 1 << 29,
}

/// A logical operation: bits 30 and 29 of their encodings.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub(super) enum Logical {
    And = 0,
    Orr = 1 << 29,
    Eor = 2 << 29,
    Ands = 3 << 29,
}

/// An operation on two registers (C4.1, data-processing (2 source)): bits 15 to 10.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub(super) enum TwoSource {
    Udiv = 0b000010,
    Sdiv = 0b000011,
    Lslv = 0b001000,
    Lsrv = 0b001001,
    Asrv = 0b001010,
}

/// A load or a store and the width of what is in memory: bits 31, 30 and 23, 22 of their encodings.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Transfer {
    /// The logarithm of the number of bytes.
    log: u32,
    opc: u32,
}

impl Transfer {
    /// STRB, STRH, STR: `bytes` is 1, 2, 4 or 8.
    pub(super) fn store(bytes: usize) -> Self {
        Self {
            log: bytes.ilog2(),
            opc: 0,
        }
    }

    /// LDRB, LDRH, LDR: zero-extending.
    pub(super) fn load(bytes: usize) -> Self {
        Self {
            log: bytes.ilog2(),
            opc: 1,
        }
    }

    /// LDRSB, LDRSH, LDRSW: sign-extending 1, 2 or 4 bytes to 64 bits.
    pub(super) fn load_signed(bytes: usize) -> Self {
        Self {
            log: bytes.ilog2(),
            opc: 2,
        }
    }

    /// The distance that the unsigned immediate form cannot exceed, and what it is a multiple of.
    pub(super) fn scaled(self, offset: i32) -> Option<u32> {
        let offset = u32::try_from(offset).ok()?;
        let fits = offset.is_multiple_of(1 << self.log) && offset >> self.log < 1 << 12;
        fits.then_some(offset >> self.log)
    }

    fn fields(self) -> u32 {
        self.log << 30 | self.opc << 22
    }
}

/// How the offset register of a load or store is extended (C6.2, LDR (register)).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub(super) enum Extend {
    /// The low 32 bits, zero-extended.
    Uxtw = 0b010,
    /// All 64 bits.
    Lsl = 0b011,
}

/// An atomic operation of FEAT_LSE with acquire and release (C6.2, LDADD and others): bits 15 to
/// 12.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub(super) enum Lse {
    Ldadd = 0b0000,
    Ldclr = 0b0001,
    Ldeor = 0b0010,
    Ldset = 0b0011,
    Swp = 0b1000,
}

/// A place in the code that branches go to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Label(usize);

/// A branch goes further than its field can say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct TooFar;

/// The code so far.
#[derive(Debug, Default)]
pub(super) struct Assembler {
    words: Vec<u32>,
    /// Where labels are, by number.
    labels: Vec<Option<usize>>,
    /// Which branches go to which label.
    branches: Vec<(usize, Label)>,
}

const fn sf(size: Size) -> u32 {
    match size {
        Size::W => 0,
        Size::X => 1 << 31,
    }
}

const fn rd(reg: Reg) -> u32 {
    (reg.0 & 31) as u32
}

const fn rn(reg: Reg) -> u32 {
    rd(reg) << 5
}

const fn ra(reg: Reg) -> u32 {
    rd(reg) << 10
}

const fn rm(reg: Reg) -> u32 {
    rd(reg) << 16
}

/// A field of `bits` bits at bit `at`.
const fn field(value: u32, bits: u32, at: u32) -> u32 {
    (value & ((1 << bits) - 1)) << at
}

impl Assembler {
    /// Where the next instruction will be, in words.
    pub(super) fn here(&self) -> usize {
        self.words.len()
    }

    /// A label that is nowhere yet.
    pub(super) fn label(&mut self) -> Label {
        self.labels.push(None);
        Label(self.labels.len() - 1)
    }

    /// Puts a label here.
    pub(super) fn bind(&mut self, label: Label) {
        self.labels[label.0] = Some(self.words.len());
    }

    /// The code, all branches resolved. Every label that a branch goes to has been bound.
    pub(super) fn finish(mut self) -> Result<Vec<u32>, TooFar> {
        for (at, label) in self.branches {
            let target = self.labels[label.0].ok_or(TooFar)?;
            let distance = target as i64 - at as i64;
            let word = &mut self.words[at];
            // B and BL have 26 bits of distance, all others here 19.
            let (bits, shift) = if *word & 0x7c00_0000 == 0x1400_0000 {
                (26, 0)
            } else {
                (19, 5)
            };
            let limit = 1_i64 << (bits - 1);
            if !(-limit..limit).contains(&distance) {
                return Err(TooFar);
            }
            *word |= field(distance as u32, bits, shift);
        }
        Ok(self.words)
    }

    fn emit(&mut self, word: u32) {
        self.words.push(word);
    }

    fn branch(&mut self, word: u32, label: Label) {
        self.branches.push((self.words.len(), label));
        self.emit(word);
    }

    /// ADD, SUB, SUBS (immediate); `imm` below 1 << 12, or a multiple of that below 1 << 24
    /// (C4.1.92, add/subtract (immediate)).
    pub(super) fn add_sub_imm(&mut self, op: AddSub, size: Size, d: Reg, n: Reg, imm: u32) {
        let immediate = if imm < 1 << 12 {
            field(imm, 12, 10)
        } else {
            1 << 22 | field(imm >> 12, 12, 10)
        };
        self.emit(0x1100_0000 | sf(size) | op as u32 | immediate | rn(n) | rd(d));
    }

    /// ADD, SUB, SUBS (shifted register), `m` shifted left (C4.1.95, add/subtract (shifted
    /// register)).
    pub(super) fn add_sub(&mut self, op: AddSub, size: Size, d: Reg, n: Reg, m: Reg, shift: u32) {
        let shift = field(shift, 6, 10);
        self.emit(0x0b00_0000 | sf(size) | op as u32 | shift | rm(m) | rn(n) | rd(d));
    }

    /// ADD (extended register), UXTW, 64 bits: `d = n + low half of m` (C4.1.95, add/subtract
    /// (extended register)).
    pub(super) fn add_uxtw(&mut self, d: Reg, n: Reg, m: Reg) {
        self.emit(0x8b20_4000 | rm(m) | rn(n) | rd(d));
    }

    /// AND, ORR, EOR, ANDS (immediate) (C4.1.92, logical (immediate)).
    pub(super) fn logical_imm(
        &mut self,
        op: Logical,
        size: Size,
        d: Reg,
        n: Reg,
        bits: super::immediate::Bitmask,
    ) {
        let immediate = bits.encoding() << 10;
        self.emit(0x1200_0000 | sf(size) | op as u32 | immediate | rn(n) | rd(d));
    }

    /// AND, ORR, EOR, ANDS (shifted register) without a shift (C4.1.95, logical (shifted
    /// register)).
    pub(super) fn logical(&mut self, op: Logical, size: Size, d: Reg, n: Reg, m: Reg) {
        self.emit(0x0a00_0000 | sf(size) | op as u32 | rm(m) | rn(n) | rd(d));
    }

    /// MVN: ORN (shifted register) with the zero register.
    pub(super) fn mvn(&mut self, size: Size, d: Reg, m: Reg) {
        self.emit(0x2a20_0000 | sf(size) | rm(m) | rn(ZR) | rd(d));
    }

    /// MOV (register): ORR with the zero register.
    pub(super) fn mov(&mut self, size: Size, d: Reg, m: Reg) {
        self.logical(Logical::Orr, size, d, ZR, m);
    }

    /// MOVZ: 16 bits at `16 * hw`, 0 elsewhere (C4.1.92, move wide (immediate)).
    pub(super) fn movz(&mut self, size: Size, d: Reg, imm: u16, hw: u32) {
        self.emit(0x5280_0000 | sf(size) | field(hw, 2, 21) | u32::from(imm) << 5 | rd(d));
    }

    /// MOVN: the inverse of what MOVZ gives.
    pub(super) fn movn(&mut self, size: Size, d: Reg, imm: u16, hw: u32) {
        self.emit(0x1280_0000 | sf(size) | field(hw, 2, 21) | u32::from(imm) << 5 | rd(d));
    }

    /// MOVK: replaces 16 bits at `16 * hw`.
    pub(super) fn movk(&mut self, size: Size, d: Reg, imm: u16, hw: u32) {
        self.emit(0x7280_0000 | sf(size) | field(hw, 2, 21) | u32::from(imm) << 5 | rd(d));
    }

    /// UBFM (C4.1.92, bitfield).
    pub(super) fn ubfm(&mut self, size: Size, d: Reg, n: Reg, immr: u32, imms: u32) {
        self.bitfield(0x5300_0000, size, d, n, [immr, imms]);
    }

    /// SBFM.
    pub(super) fn sbfm(&mut self, size: Size, d: Reg, n: Reg, immr: u32, imms: u32) {
        self.bitfield(0x1300_0000, size, d, n, [immr, imms]);
    }

    fn bitfield(&mut self, base: u32, size: Size, d: Reg, n: Reg, [immr, imms]: [u32; 2]) {
        let n_bit = sf(size) >> 9;
        let fields = field(immr, 6, 16) | field(imms, 6, 10);
        self.emit(base | sf(size) | n_bit | fields | rn(n) | rd(d));
    }

    /// UDIV, SDIV, LSLV, LSRV, ASRV (C4.1.95, data-processing (2 source)).
    pub(super) fn two_source(&mut self, op: TwoSource, size: Size, d: Reg, n: Reg, m: Reg) {
        self.emit(0x1ac0_0000 | sf(size) | (op as u32) << 10 | rm(m) | rn(n) | rd(d));
    }

    /// MADD: `d = a + n * m` (C4.1.95, data-processing (3 source)).
    pub(super) fn madd(&mut self, size: Size, d: Reg, n: Reg, m: Reg, a: Reg) {
        self.emit(0x1b00_0000 | sf(size) | rm(m) | ra(a) | rn(n) | rd(d));
    }

    /// MSUB: `d = a - n * m`.
    pub(super) fn msub(&mut self, size: Size, d: Reg, n: Reg, m: Reg, a: Reg) {
        self.emit(0x1b00_8000 | sf(size) | rm(m) | ra(a) | rn(n) | rd(d));
    }

    /// REV16: swaps the bytes of each half word (C4.1.95, data-processing (1 source)).
    pub(super) fn rev16(&mut self, d: Reg, n: Reg) {
        self.emit(0x5ac0_0400 | rn(n) | rd(d));
    }

    /// REV: swaps all 4 or 8 bytes.
    pub(super) fn rev(&mut self, size: Size, d: Reg, n: Reg) {
        let opcode = match size {
            Size::W => 0x0800,
            Size::X => 0x0c00,
        };
        self.emit(0x5ac0_0000 | sf(size) | opcode | rn(n) | rd(d));
    }

    /// CSEL, 64 bits: `d = n` where the condition holds, else `m` (C4.1.95, conditional select).
    pub(super) fn csel(&mut self, d: Reg, n: Reg, m: Reg, cond: Cond) {
        self.emit(0x9a80_0000 | rm(m) | (cond as u32) << 12 | rn(n) | rd(d));
    }

    /// A load or store at `n` plus `scaled` times its width (C4.1.94, load/store register (unsigned
    /// immediate)); [`Transfer::scaled`] gives the number.
    pub(super) fn transfer(&mut self, op: Transfer, t: Reg, n: Reg, scaled: u32) {
        self.emit(0x3900_0000 | op.fields() | field(scaled, 12, 10) | rn(n) | rd(t));
    }

    /// A load or store at `n` plus -256 to 255 (C4.1.94, load/store register (unscaled immediate)).
    pub(super) fn transfer_unscaled(&mut self, op: Transfer, t: Reg, n: Reg, offset: i32) {
        let offset = field(offset as u32, 9, 12);
        self.emit(0x3800_0000 | op.fields() | offset | rn(n) | rd(t));
    }

    /// A load or store at `n` plus `m` (C4.1.94, load/store register (register offset)).
    pub(super) fn transfer_reg(&mut self, op: Transfer, t: Reg, n: Reg, m: Reg, extend: Extend) {
        let option = (extend as u32) << 13;
        self.emit(0x3820_0800 | op.fields() | option | rm(m) | rn(n) | rd(t));
    }

    /// STP, 64 bits, at `n + offset` (C4.1.94, load/store register pair (offset)); offsets of pairs
    /// are multiples of 8 from -512 to 504.
    pub(super) fn stp(&mut self, t: Reg, t2: Reg, n: Reg, offset: i32) {
        self.pair(0xa900_0000, [t, t2], n, offset);
    }

    /// LDP, 64 bits, at `n + offset`.
    pub(super) fn ldp(&mut self, t: Reg, t2: Reg, n: Reg, offset: i32) {
        self.pair(0xa940_0000, [t, t2], n, offset);
    }

    /// STP at `n + offset`, which becomes the new `n` (C4.1.94, load/store register pair
    /// (pre-indexed)).
    pub(super) fn stp_pre(&mut self, t: Reg, t2: Reg, n: Reg, offset: i32) {
        self.pair(0xa980_0000, [t, t2], n, offset);
    }

    /// LDP at `n`, to which `offset` is added then (C4.1.94, load/store register pair
    /// (post-indexed)).
    pub(super) fn ldp_post(&mut self, t: Reg, t2: Reg, n: Reg, offset: i32) {
        self.pair(0xa8c0_0000, [t, t2], n, offset);
    }

    fn pair(&mut self, base: u32, [t, t2]: [Reg; 2], n: Reg, offset: i32) {
        let offset = field((offset / 8) as u32, 7, 15);
        self.emit(base | offset | ra(t2) | rn(n) | rd(t));
    }

    /// LDAXR: load-acquire exclusive (C4.1.94, load/store exclusive register).
    pub(super) fn ldaxr(&mut self, size: Size, t: Reg, n: Reg) {
        self.emit(0x885f_fc00 | sf(size) >> 1 | rn(n) | rd(t));
    }

    /// STLXR: store-release exclusive; `s` becomes 0 where it stored.
    pub(super) fn stlxr(&mut self, size: Size, s: Reg, t: Reg, n: Reg) {
        self.emit(0x8800_fc00 | sf(size) >> 1 | rm(s) | rn(n) | rd(t));
    }

    /// LDADDAL, LDCLRAL, LDEORAL, LDSETAL, SWPAL: applies `s` to memory and loads the old value
    /// (C4.1.94, atomic memory operations; FEAT_LSE).
    pub(super) fn lse(&mut self, op: Lse, size: Size, s: Reg, t: Reg, n: Reg) {
        let opcode = (op as u32) << 12;
        self.emit(0xb8e0_0000 | sf(size) >> 1 | opcode | rm(s) | rn(n) | rd(t));
    }

    /// CASAL: stores `t` where memory holds `s`, which receives the old value (C4.1.94, compare and
    /// swap; FEAT_LSE).
    pub(super) fn casal(&mut self, size: Size, s: Reg, t: Reg, n: Reg) {
        self.emit(0x88e0_fc00 | sf(size) >> 1 | rm(s) | rn(n) | rd(t));
    }

    /// B (C4.1.93, unconditional branch (immediate)).
    pub(super) fn b(&mut self, label: Label) {
        self.branch(0x1400_0000, label);
    }

    /// BL.
    pub(super) fn bl(&mut self, label: Label) {
        self.branch(0x9400_0000, label);
    }

    /// B.cond (C4.1.93, conditional branch (immediate)).
    pub(super) fn b_cond(&mut self, cond: Cond, label: Label) {
        self.branch(0x5400_0000 | cond as u32, label);
    }

    /// CBZ (C4.1.93, compare and branch (immediate)).
    pub(super) fn cbz(&mut self, size: Size, t: Reg, label: Label) {
        self.branch(0x3400_0000 | sf(size) | rd(t), label);
    }

    /// CBNZ.
    pub(super) fn cbnz(&mut self, size: Size, t: Reg, label: Label) {
        self.branch(0x3500_0000 | sf(size) | rd(t), label);
    }

    /// BLR (C4.1.93, unconditional branch (register)).
    pub(super) fn blr(&mut self, n: Reg) {
        self.emit(0xd63f_0000 | rn(n));
    }

    /// RET to the link register.
    pub(super) fn ret(&mut self) {
        self.emit(0xd65f_0000 | rn(LR));
    }

    /// BTI c: where an indirect call may land; no operation without FEAT_BTI (C4.1.93, hints).
    pub(super) fn bti_c(&mut self) {
        self.emit(0xd503_245f);
    }
}

#[cfg(test)]
mod tests;
