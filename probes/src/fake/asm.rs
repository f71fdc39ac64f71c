//! Encodings of the instructions that guests of tests are made of (Arm ARM C6.2).

/// `NOP`.
pub const fn nop() -> u32 {
    0xd503_201f
}

/// `BTI c`.
pub const fn bti_c() -> u32 {
    0xd503_245f
}

/// `MOVZ Xd, #immediate`.
pub const fn movz(d: u32, immediate: u16) -> u32 {
    0xd280_0000 | (immediate as u32) << 5 | d & 31
}

/// `MOVK Xd, #immediate, LSL #(16 * part)`.
pub const fn movk(d: u32, immediate: u16, part: u32) -> u32 {
    0xf280_0000 | (part & 3) << 21 | (immediate as u32) << 5 | d & 31
}

/// `ADD Xd, Xn, #immediate`, up to 4095.
pub const fn add(d: u32, n: u32, immediate: u32) -> u32 {
    0x9100_0000 | (immediate & 0xfff) << 10 | (n & 31) << 5 | d & 31
}

/// `SUBS Xd, Xn, #immediate`, up to 4095.
pub const fn subs(d: u32, n: u32, immediate: u32) -> u32 {
    0xf100_0000 | (immediate & 0xfff) << 10 | (n & 31) << 5 | d & 31
}

/// `LDR Xt, [Xn, #offset]`, a multiple of 8.
pub const fn ldr(t: u32, n: u32, offset: u32) -> u32 {
    0xf940_0000 | ((offset / 8) & 0xfff) << 10 | (n & 31) << 5 | t & 31
}

/// `STR Xt, [Xn, #offset]`, a multiple of 8.
pub const fn str(t: u32, n: u32, offset: u32) -> u32 {
    0xf900_0000 | ((offset / 8) & 0xfff) << 10 | (n & 31) << 5 | t & 31
}

/// `STR Wt, [Xn]`.
pub const fn str_w(t: u32, n: u32) -> u32 {
    0xb900_0000 | (n & 31) << 5 | t & 31
}

/// `LDXR Xt, [Xn]`.
pub const fn ldxr(t: u32, n: u32) -> u32 {
    0xc85f_7c00 | (n & 31) << 5 | t & 31
}

/// `STXR Ws, Xt, [Xn]`.
pub const fn stxr(s: u32, t: u32, n: u32) -> u32 {
    0xc800_7c00 | (s & 31) << 16 | (n & 31) << 5 | t & 31
}

/// `B` to an address `offset` bytes away, a multiple of 4.
pub const fn b(offset: i32) -> u32 {
    0x1400_0000 | (offset >> 2) as u32 & 0x03ff_ffff
}

/// `BL` to an address `offset` bytes away, a multiple of 4.
pub const fn bl(offset: i32) -> u32 {
    0x9400_0000 | (offset >> 2) as u32 & 0x03ff_ffff
}

/// `CBNZ Xt` to an address `offset` bytes away, a multiple of 4.
pub const fn cbnz(t: u32, offset: i32) -> u32 {
    0xb500_0000 | ((offset >> 2) as u32 & 0x7_ffff) << 5 | t & 31
}

/// `RET`.
pub const fn ret() -> u32 {
    0xd65f_03c0
}

/// `ERET`.
pub const fn eret() -> u32 {
    0xd69f_03e0
}

/// `BRK #immediate`.
pub const fn brk(immediate: u16) -> u32 {
    crate::a64::brk(immediate)
}

/// `HVC #immediate`.
pub const fn hvc(immediate: u16) -> u32 {
    crate::a64::hvc(immediate)
}
