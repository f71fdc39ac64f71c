//! One eBPF instruction.

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
}
