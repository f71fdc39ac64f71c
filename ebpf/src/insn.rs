//! One eBPF instruction: its encoding (RFC 9669) and its text.

use crate::helper::Helper;
use core::fmt;

/// An instruction as it is encoded: 8 bytes, little-endian (RFC 9669 section 3.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Insn {
    /// The opcode.
    pub code: u8,
    /// Destination register, 0 to 15 (valid: 0 to 10).
    pub dst: u8,
    /// Source register or a marker of the immediate's meaning, 0 to 15.
    pub src: u8,
    /// Signed offset.
    pub off: i16,
    /// Signed immediate.
    pub imm: i32,
}

/// Instruction classes: the low three bits of an opcode.
pub mod class {
    /// Non-standard loads: only [`super::LD_IMM64`] is in use.
    pub const LD: u8 = 0;
    /// Load into a register.
    pub const LDX: u8 = 1;
    /// Store an immediate.
    pub const ST: u8 = 2;
    /// Store a register; atomic operations.
    pub const STX: u8 = 3;
    /// 32-bit arithmetic.
    pub const ALU: u8 = 4;
    /// Jumps that compare 64 bits, calls, exit.
    pub const JMP: u8 = 5;
    /// Jumps that compare 32 bits.
    pub const JMP32: u8 = 6;
    /// 64-bit arithmetic.
    pub const ALU64: u8 = 7;
}

/// Arithmetic operations: the high four bits of an opcode of class `ALU` or `ALU64`.
pub mod alu {
    /// Addition.
    pub const ADD: u8 = 0x00;
    /// Subtraction.
    pub const SUB: u8 = 0x10;
    /// Multiplication.
    pub const MUL: u8 = 0x20;
    /// Division, signed where the offset is 1.
    pub const DIV: u8 = 0x30;
    /// Bitwise or.
    pub const OR: u8 = 0x40;
    /// Bitwise and.
    pub const AND: u8 = 0x50;
    /// Left shift.
    pub const LSH: u8 = 0x60;
    /// Logical right shift.
    pub const RSH: u8 = 0x70;
    /// Negation.
    pub const NEG: u8 = 0x80;
    /// Remainder, signed where the offset is 1.
    pub const MOD: u8 = 0x90;
    /// Bitwise exclusive or.
    pub const XOR: u8 = 0xa0;
    /// Move, sign-extending where the offset is 8, 16 or 32.
    pub const MOV: u8 = 0xb0;
    /// Arithmetic right shift.
    pub const ARSH: u8 = 0xc0;
    /// Byte swap.
    pub const END: u8 = 0xd0;
}

/// Jump operations: the high four bits of an opcode of class `JMP` or `JMP32`.
pub mod jmp {
    /// Always.
    pub const JA: u8 = 0x00;
    /// Equal.
    pub const JEQ: u8 = 0x10;
    /// Unsigned greater.
    pub const JGT: u8 = 0x20;
    /// Unsigned greater or equal.
    pub const JGE: u8 = 0x30;
    /// Any common bit.
    pub const JSET: u8 = 0x40;
    /// Not equal.
    pub const JNE: u8 = 0x50;
    /// Signed greater.
    pub const JSGT: u8 = 0x60;
    /// Signed greater or equal.
    pub const JSGE: u8 = 0x70;
    /// Call of a helper or a subprogram.
    pub const CALL: u8 = 0x80;
    /// Return.
    pub const EXIT: u8 = 0x90;
    /// Unsigned less.
    pub const JLT: u8 = 0xa0;
    /// Unsigned less or equal.
    pub const JLE: u8 = 0xb0;
    /// Signed less.
    pub const JSLT: u8 = 0xc0;
    /// Signed less or equal.
    pub const JSLE: u8 = 0xd0;
}

/// Atomic operations: the immediate of a [`mode::ATOMIC`] store (RFC 9669 section 5.3).
pub mod atomic {
    /// Addition.
    pub const ADD: i32 = 0x00;
    /// Bitwise or.
    pub const OR: i32 = 0x40;
    /// Bitwise and.
    pub const AND: i32 = 0x50;
    /// Bitwise exclusive or.
    pub const XOR: i32 = 0xa0;
    /// Flag: the source register receives the old value.
    pub const FETCH: i32 = 0x01;
    /// Exchange.
    pub const XCHG: i32 = 0xe1;
    /// Compare with r0 and exchange; r0 receives the old value.
    pub const CMPXCHG: i32 = 0xf1;
}

/// Addressing modes: the high three bits of a load's or store's opcode.
pub mod mode {
    /// 64-bit immediate.
    pub const IMM: u8 = 0x00;
    /// Memory at register plus offset.
    pub const MEM: u8 = 0x60;
    /// The same, sign-extending (loads only).
    pub const MEMSX: u8 = 0x80;
    /// Atomic operation.
    pub const ATOMIC: u8 = 0xc0;
}

/// Access sizes: bits 3 and 4 of a load's or store's opcode.
pub mod size {
    /// Four bytes.
    pub const W: u8 = 0x00;
    /// Two bytes.
    pub const H: u8 = 0x08;
    /// One byte.
    pub const B: u8 = 0x10;
    /// Eight bytes.
    pub const DW: u8 = 0x18;
}

/// Bit of an arithmetic or jump opcode: the operand is the source register, not the immediate.
pub const X: u8 = 0x08;
/// The two-slot load of a 64-bit immediate.
pub const LD_IMM64: u8 = class::LD | mode::IMM | size::DW;
/// `src` of [`LD_IMM64`]: the immediate is the index of a map (`BPF_PSEUDO_MAP_FD`).
pub const PSEUDO_MAP: u8 = 1;
/// `src` of [`LD_IMM64`]: index of an array map, and in the second slot a byte offset into its
/// first value (`BPF_PSEUDO_MAP_VALUE`).
pub const PSEUDO_MAP_VALUE: u8 = 2;
/// `src` of [`LD_IMM64`]: the immediate is the distance to a function of the program, as in a call;
/// helpers call it back (`BPF_PSEUDO_FUNC`).
pub const PSEUDO_FUNCTION: u8 = 4;
/// The helper that a poisoned instruction calls. Linkers put it where a CO-RE relocation asks for what
/// the kernel does not have: there is no helper of that number, 0xbad2310, "bad relo".
pub const BAD_RELO: i32 = 195_896_080;
/// `src` of a call: the immediate is the distance to a subprogram, not a helper's number
/// (`BPF_PSEUDO_CALL`).
pub const PSEUDO_CALL: u8 = 1;
/// `src` of a call: the immediate is the number of a kernel function (`BPF_PSEUDO_KFUNC_CALL`).
pub const PSEUDO_KERNEL_CALL: u8 = 2;
/// The call opcode.
pub const CALL: u8 = class::JMP | jmp::CALL;
/// The exit opcode.
pub const EXIT: u8 = class::JMP | jmp::EXIT;
/// The frame pointer: read-only.
pub const FP: u8 = 10;

impl Insn {
    /// Bytes of an encoded instruction.
    pub const SIZE: usize = 8;

    /// Decodes an instruction. Every pattern decodes; whether it is valid is the verifier's matter.
    pub const fn decode(bytes: [u8; Self::SIZE]) -> Self {
        let [code, regs, off0, off1, imm0, imm1, imm2, imm3] = bytes;
        Self {
            code,
            dst: regs & 0xf,
            src: regs >> 4,
            off: i16::from_le_bytes([off0, off1]),
            imm: i32::from_le_bytes([imm0, imm1, imm2, imm3]),
        }
    }

    /// Encodes the instruction. Register numbers above 15 lose their high bits.
    pub const fn encode(self) -> [u8; Self::SIZE] {
        let [off0, off1] = self.off.to_le_bytes();
        let [imm0, imm1, imm2, imm3] = self.imm.to_le_bytes();
        [
            self.code,
            (self.dst & 0xf) | (self.src << 4),
            off0,
            off1,
            imm0,
            imm1,
            imm2,
            imm3,
        ]
    }

    /// The class: one of [`class`].
    pub const fn class(self) -> u8 {
        self.code & 0x07
    }

    /// The operation: one of [`alu`] or [`jmp`], by class.
    pub const fn operation(self) -> u8 {
        self.code & 0xf0
    }

    /// The addressing mode: one of [`mode`].
    pub const fn mode(self) -> u8 {
        self.code & 0xe0
    }

    /// How many bytes a load or store accesses.
    pub const fn access_size(self) -> u8 {
        match self.code & 0x18 {
            size::W => 4,
            size::H => 2,
            size::B => 1,
            _ => 8,
        }
    }

    /// Whether an arithmetic or jump instruction takes its operand from the source register.
    pub const fn uses_src(self) -> bool {
        self.code & X != 0
    }

    /// Whether this is the first slot of a 64-bit immediate load.
    pub const fn is_wide(self) -> bool {
        self.code == LD_IMM64
    }
}

/// One instruction of a program as text, in the syntax of `llvm-objdump`. Jumps show their
/// distance.
///
/// rbpf's disassembler is not used for this: it panics on opcodes it does not know, and knows
/// neither atomics nor map references.
#[derive(Clone, Copy, Debug)]
pub struct Text<'a> {
    insns: &'a [Insn],
    index: usize,
}

impl<'a> Text<'a> {
    /// The text of the instruction at `index`; the second slot of a 64-bit immediate is taken from
    /// behind it.
    pub fn new(insns: &'a [Insn], index: usize) -> Self {
        Self { insns, index }
    }
}

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(&insn) = self.insns.get(self.index) else {
            return f.write_str("(past the end)");
        };
        let high = self.insns.get(self.index + 1).map_or(0, |next| next.imm);
        match insn.class() {
            class::LD if insn.is_wide() => write_wide(f, insn, high),
            class::LDX | class::ST | class::STX => write_memory(f, insn),
            class::ALU | class::ALU64 => write_alu(f, insn),
            class::JMP | class::JMP32 => write_jump(f, insn),
            _ => write_unknown(f, insn),
        }
    }
}

fn write_unknown(f: &mut fmt::Formatter<'_>, insn: Insn) -> fmt::Result {
    write!(f, "unknown opcode {:#04x}", insn.code)
}

fn write_wide(f: &mut fmt::Formatter<'_>, insn: Insn, high: i32) -> fmt::Result {
    match insn.src {
        0 => {
            let value = u64::from(insn.imm as u32) | u64::from(high as u32) << 32;
            write!(f, "r{} = {value:#x} ll", insn.dst)
        }
        PSEUDO_MAP => write!(f, "r{} = map[{}] ll", insn.dst, insn.imm),
        PSEUDO_MAP_VALUE => write!(f, "r{} = map[{}][0] + {high} ll", insn.dst, insn.imm),
        PSEUDO_FUNCTION => write!(f, "r{} = subprog[{:+}] ll", insn.dst, insn.imm),
        src => write!(f, "r{} = {:#x} ll (source {src})", insn.dst, insn.imm),
    }
}

/// `*(u64 *)(r1 + 8)`.
struct Place {
    signed: bool,
    size: u8,
    base: u8,
    off: i16,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letter = if self.signed { 's' } else { 'u' };
        let sign = if self.off < 0 { '-' } else { '+' };
        let bits = u32::from(self.size) * 8;
        let distance = self.off.unsigned_abs();
        write!(f, "*({letter}{bits} *)(r{} {sign} {distance})", self.base)
    }
}

fn write_memory(f: &mut fmt::Formatter<'_>, insn: Insn) -> fmt::Result {
    let is_load = insn.class() == class::LDX;
    let place = Place {
        signed: insn.mode() == mode::MEMSX,
        size: insn.access_size(),
        base: if is_load { insn.src } else { insn.dst },
        off: insn.off,
    };
    match (insn.class(), insn.mode()) {
        (class::LDX, mode::MEM | mode::MEMSX) => write!(f, "r{} = {place}", insn.dst),
        (class::ST, mode::MEM) => write!(f, "{place} = {}", insn.imm),
        (class::STX, mode::MEM) => write!(f, "{place} = r{}", insn.src),
        (class::STX, mode::ATOMIC) => write_atomic(f, insn, &place),
        _ => write_unknown(f, insn),
    }
}

fn write_atomic(f: &mut fmt::Formatter<'_>, insn: Insn, place: &Place) -> fmt::Result {
    let src = insn.src;
    let fetch = insn.imm & atomic::FETCH != 0;
    let name = match insn.imm & !atomic::FETCH {
        atomic::ADD => "add",
        atomic::OR => "or",
        atomic::AND => "and",
        atomic::XOR => "xor",
        _ if insn.imm == atomic::XCHG => return write!(f, "r{src} = xchg({place}, r{src})"),
        _ if insn.imm == atomic::CMPXCHG => return write!(f, "r0 = cmpxchg({place}, r0, r{src})"),
        _ => return write!(f, "unknown atomic operation {:#x}", insn.imm),
    };
    if fetch {
        write!(f, "r{src} = atomic_fetch_{name}({place}, r{src})")
    } else {
        write!(f, "lock {place} {name}= r{src}")
    }
}

/// The right-hand operand of an arithmetic or jump instruction.
struct Operand(Insn, char);

impl fmt::Display for Operand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(insn, letter) = self;
        if insn.uses_src() {
            write!(f, "{letter}{}", insn.src)
        } else {
            write!(f, "{}", insn.imm)
        }
    }
}

fn write_alu(f: &mut fmt::Formatter<'_>, insn: Insn) -> fmt::Result {
    let letter = if insn.class() == class::ALU64 {
        'r'
    } else {
        'w'
    };
    let dst = insn.dst;
    let operand = Operand(insn, letter);
    let signed = if insn.off == 1 { "s" } else { "" };
    let operator = match insn.operation() {
        alu::ADD => "+=",
        alu::SUB => "-=",
        alu::MUL => "*=",
        alu::DIV => "/=",
        alu::OR => "|=",
        alu::AND => "&=",
        alu::LSH => "<<=",
        alu::RSH => ">>=",
        alu::NEG => return write!(f, "{letter}{dst} = -{letter}{dst}"),
        alu::MOD => "%=",
        alu::XOR => "^=",
        alu::MOV if insn.off != 0 => {
            return write!(f, "{letter}{dst} = (s{}){operand}", insn.off);
        }
        alu::MOV => return write!(f, "{letter}{dst} = {operand}"),
        alu::ARSH => "s>>=",
        alu::END => {
            let order = match (insn.class(), insn.uses_src()) {
                (class::ALU64, _) => "bswap",
                (_, true) => "be",
                (_, false) => "le",
            };
            return write!(f, "r{dst} = {order}{} r{dst}", insn.imm);
        }
        _ => return write_unknown(f, insn),
    };
    write!(f, "{letter}{dst} {signed}{operator} {operand}")
}

fn write_jump(f: &mut fmt::Formatter<'_>, insn: Insn) -> fmt::Result {
    let wide = insn.class() == class::JMP;
    let letter = if wide { 'r' } else { 'w' };
    let operator = match insn.operation() {
        jmp::JA if wide => return write!(f, "goto {:+}", insn.off),
        jmp::JA => return write!(f, "gotol {:+}", insn.imm),
        jmp::CALL if insn.src == PSEUDO_CALL => return write!(f, "call {:+}", insn.imm),
        jmp::CALL => {
            return match Helper::from_number(insn.imm) {
                Some(helper) => write!(f, "call {}", helper.name()),
                None => write!(f, "call helper {}", insn.imm),
            };
        }
        jmp::EXIT => return f.write_str("exit"),
        jmp::JEQ => "==",
        jmp::JGT => ">",
        jmp::JGE => ">=",
        jmp::JSET => "&",
        jmp::JNE => "!=",
        jmp::JSGT => "s>",
        jmp::JSGE => "s>=",
        jmp::JLT => "<",
        jmp::JLE => "<=",
        jmp::JSLT => "s<",
        jmp::JSLE => "s<=",
        _ => return write_unknown(f, insn),
    };
    let operand = Operand(insn, letter);
    write!(
        f,
        "if {letter}{} {operator} {operand} goto {:+}",
        insn.dst, insn.off
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;
    use proptest::prelude::*;

    fn text(bytes: &[[u8; 8]]) -> alloc::string::String {
        let insns: alloc::vec::Vec<_> = bytes.iter().map(|&b| Insn::decode(b)).collect();
        Text::new(&insns, 0).to_string()
    }

    #[test]
    fn text_is_that_of_objdump() {
        let cases: &[(&[[u8; 8]], &str)] = &[
            (&[[0xb7, 0, 0, 0, 1, 0, 0, 0]], "r0 = 1"),
            (&[[0x79, 0x01, 0, 0, 0, 0, 0, 0]], "r1 = *(u64 *)(r0 + 0)"),
            (
                &[[0x7b, 0x1a, 0xf8, 0xff, 0, 0, 0, 0]],
                "*(u64 *)(r10 - 8) = r1",
            ),
            (
                &[[0x15, 0, 2, 0, 0xff, 0xff, 0xff, 0xff]],
                "if r0 == -1 goto +2",
            ),
            (
                &[[0xdb, 0x10, 0, 0, 0, 0, 0, 0]],
                "lock *(u64 *)(r0 + 0) add= r1",
            ),
            (&[[0x85, 0, 0, 0, 1, 0, 0, 0]], "call map_lookup_elem"),
            (&[[0x18, 0x11, 0, 0, 3, 0, 0, 0], [0; 8]], "r1 = map[3] ll"),
            (&[[0x95, 0, 0, 0, 0, 0, 0, 0]], "exit"),
            (&[[0xff, 0, 0, 0, 0, 0, 0, 0]], "unknown opcode 0xff"),
        ];
        for (bytes, expected) in cases {
            assert_eq!(text(bytes), *expected);
        }
    }

    proptest! {
        #[test]
        fn decoding_and_encoding_are_inverse(bytes: [u8; 8]) {
            prop_assert_eq!(Insn::decode(bytes).encode(), bytes);
        }

        #[test]
        fn every_pattern_has_a_text(bytes: [u8; 8]) {
            prop_assert!(!text(&[bytes]).is_empty());
        }
    }
}
