use super::AddSub::{Add, Adds, Sub, Subs};
use super::Extend::{Lsl, Uxtw};
use super::Logical::{And, Ands, Eor, Orr};
use super::Lse::{Ldadd, Ldclr, Ldeor, Ldset, Swp};
use super::Size::{W, X};
use super::TwoSource::{Asrv, Lslv, Lsrv, Sdiv, Udiv};
use super::*;
use crate::jit::immediate::Bitmask;

fn bits(value: u64, size: Size) -> Bitmask {
    Bitmask::of(value, size).expect("there is such an immediate")
}

/// What LLVM's assembler makes of these lines (version 14, `-march=armv8.5-a+lse`). Label 1 is
/// at `b 1b`, label 2 behind the last branch.
const EXPECTED: &[(u32, &str)] = &[
    (0x913f_fc41, "add x1, x2, #4095"),
    (0x5140_0483, "sub w3, w4, #4096"),
    (0xf100_179c, "subs x28, x28, #5"),
    (0x3100_0cff, "cmn w7, #3"),
    (0x8b04_0319, "add x25, x24, x4"),
    (0xcb1b_0009, "sub x9, x0, x27"),
    (0xeb0b_013f, "subs xzr, x9, x11"),
    (0x8b0a_0d60, "add x0, x11, x10, lsl #3"),
    (0x8b29_430a, "add x10, x24, w9, uxtw"),
    (0xb208_9fe5, "orr x5, xzr, #0xff00ff00ff00ff00"),
    (0x1200_0883, "and w3, w4, #0x7"),
    (0xf241_005f, "tst x2, #0x8000000000000000"),
    (0xd27f_f883, "eor x3, x4, #0xfffffffffffffffe"),
    (0xaa02_03e1, "orr x1, xzr, x2"),
    (0x4a03_0041, "eor w1, w2, w3"),
    (0xea06_00bf, "ands xzr, x5, x6"),
    (0x2a23_03ec, "mvn w12, w3"),
    (0xd2c2_4681, "movz x1, #0x1234, lsl #32"),
    (0x1280_00e2, "movn w2, #7"),
    (0xf2fd_601b, "movk x27, #0xeb00, lsl #48"),
    (0xd37b_e841, "lsl x1, x2, #5"),
    (0x531f_7c41, "lsr w1, w2, #31"),
    (0x937f_fc83, "asr x3, x4, #63"),
    (0x5300_3cc5, "uxth w5, w6"),
    (0x9340_7d07, "sxtw x7, w8"),
    (0x1300_1d07, "sxtb w7, w8"),
    (0x1ac3_0841, "udiv w1, w2, w3"),
    (0x9ac3_0c41, "sdiv x1, x2, x3"),
    (0x9ac3_2041, "lsl x1, x2, x3"),
    (0x1ac3_2441, "lsr w1, w2, w3"),
    (0x9ac3_2841, "asr x1, x2, x3"),
    (0x9b03_7c41, "mul x1, x2, x3"),
    (0x9b0c_2c0b, "madd x11, x0, x12, x11"),
    (0x1b03_8561, "msub w1, w11, w3, w1"),
    (0x5ac0_0441, "rev16 w1, w2"),
    (0x5ac0_0841, "rev w1, w2"),
    (0xdac0_0c41, "rev x1, x2"),
    (0x9a9f_3020, "csel x0, x1, xzr, lo"),
    (0x3947_ff21, "ldrb w1, [x25, #511]"),
    (0x7900_3f42, "strh w2, [x26, #30]"),
    (0xf940_37a3, "ldr x3, [x29, #104]"),
    (0xb900_0b24, "str w4, [x25, #8]"),
    (0x3980_0725, "ldrsb x5, [x25, #1]"),
    (0xb980_0726, "ldrsw x6, [x25, #4]"),
    (0xf850_0327, "ldur x7, [x25, #-256]"),
    (0xb80f_f348, "stur w8, [x26, #255]"),
    (0xf869_4b01, "ldr x1, [x24, w9, uxtw]"),
    (0xb829_6b02, "str w2, [x24, x9]"),
    (0x78a9_4b03, "ldrsh x3, [x24, w9, uxtw]"),
    (0x3829_6b02, "strb w2, [x24, x9]"),
    (0xa901_53f3, "stp x19, x20, [sp, #16]"),
    (0xa942_7ffe, "ldp x30, xzr, [sp, #32]"),
    (0xa9b9_7bfd, "stp x29, x30, [sp, #-112]!"),
    (0xa8c7_7bfd, "ldp x29, x30, [sp], #112"),
    (0x885f_fd4b, "ldaxr w11, [x10]"),
    (0xc85f_fd4b, "ldaxr x11, [x10]"),
    (0x8808_fd4c, "stlxr w8, w12, [x10]"),
    (0xc808_fd4c, "stlxr w8, x12, [x10]"),
    (0xb8e1_014b, "ldaddal w1, w11, [x10]"),
    (0xf8ec_114b, "ldclral x12, x11, [x10]"),
    (0xf8e1_214b, "ldeoral x1, x11, [x10]"),
    (0xb8e1_314b, "ldsetal w1, w11, [x10]"),
    (0xf8e1_814b, "swpal x1, x11, [x10]"),
    (0xc8eb_fd41, "casal x11, x1, [x10]"),
    (0x88eb_fd41, "casal w11, w1, [x10]"),
    (0xd63f_0100, "blr x8"),
    (0xd65f_03c0, "ret"),
    (0xd503_245f, "bti c"),
    (0x1400_0000, "b 1b"),
    (0x97ff_ffff, "bl 1b"),
    (0x54ff_ffc8, "b.hi 1b"),
    (0xb400_0041, "cbz x1, 2f"),
    (0x35ff_ff88, "cbnz w8, 1b"),
    (0x9100_03fd, "add x29, sp, #0"),
    (0x9100_03bf, "mov sp, x29"),
];

fn all(asm: &mut Assembler) {
    let [first, second] = [asm.label(), asm.label()];
    asm.add_sub_imm(Add, X, Reg(1), Reg(2), 4095);
    asm.add_sub_imm(Sub, W, Reg(3), Reg(4), 4096);
    asm.add_sub_imm(Subs, X, Reg(28), Reg(28), 5);
    asm.add_sub_imm(Adds, W, ZR, Reg(7), 3);
    asm.add_sub(Add, X, Reg(25), Reg(24), Reg(4), 0);
    asm.add_sub(Sub, X, Reg(9), Reg(0), Reg(27), 0);
    asm.add_sub(Subs, X, ZR, Reg(9), Reg(11), 0);
    asm.add_sub(Add, X, Reg(0), Reg(11), Reg(10), 3);
    asm.add_uxtw(Reg(10), Reg(24), Reg(9));
    asm.logical_imm(Orr, X, Reg(5), ZR, bits(0xff00_ff00_ff00_ff00, X));
    asm.logical_imm(And, W, Reg(3), Reg(4), bits(7, W));
    asm.logical_imm(Ands, X, ZR, Reg(2), bits(1 << 63, X));
    asm.logical_imm(Eor, X, Reg(3), Reg(4), bits(!1, X));
    asm.mov(X, Reg(1), Reg(2));
    asm.logical(Eor, W, Reg(1), Reg(2), Reg(3));
    asm.logical(Ands, X, ZR, Reg(5), Reg(6));
    asm.mvn(W, Reg(12), Reg(3));
    asm.movz(X, Reg(1), 0x1234, 2);
    asm.movn(W, Reg(2), 7, 0);
    asm.movk(X, Reg(27), 0xeb00, 3);
    asm.ubfm(X, Reg(1), Reg(2), 59, 58);
    asm.ubfm(W, Reg(1), Reg(2), 31, 31);
    asm.sbfm(X, Reg(3), Reg(4), 63, 63);
    asm.ubfm(W, Reg(5), Reg(6), 0, 15);
    asm.sbfm(X, Reg(7), Reg(8), 0, 31);
    asm.sbfm(W, Reg(7), Reg(8), 0, 7);
    asm.two_source(Udiv, W, Reg(1), Reg(2), Reg(3));
    asm.two_source(Sdiv, X, Reg(1), Reg(2), Reg(3));
    asm.two_source(Lslv, X, Reg(1), Reg(2), Reg(3));
    asm.two_source(Lsrv, W, Reg(1), Reg(2), Reg(3));
    asm.two_source(Asrv, X, Reg(1), Reg(2), Reg(3));
    asm.madd(X, Reg(1), Reg(2), Reg(3), ZR);
    asm.madd(X, Reg(11), Reg(0), Reg(12), Reg(11));
    asm.msub(W, Reg(1), Reg(11), Reg(3), Reg(1));
    asm.rev16(Reg(1), Reg(2));
    asm.rev(W, Reg(1), Reg(2));
    asm.rev(X, Reg(1), Reg(2));
    asm.csel(Reg(0), Reg(1), ZR, Cond::Lo);
    asm.transfer(Transfer::load(1), Reg(1), Reg(25), 511);
    asm.transfer(Transfer::store(2), Reg(2), Reg(26), 15);
    asm.transfer(Transfer::load(8), Reg(3), FP, 13);
    asm.transfer(Transfer::store(4), Reg(4), Reg(25), 2);
    asm.transfer(Transfer::load_signed(1), Reg(5), Reg(25), 1);
    asm.transfer(Transfer::load_signed(4), Reg(6), Reg(25), 1);
    asm.transfer_unscaled(Transfer::load(8), Reg(7), Reg(25), -256);
    asm.transfer_unscaled(Transfer::store(4), Reg(8), Reg(26), 255);
    asm.transfer_reg(Transfer::load(8), Reg(1), Reg(24), Reg(9), Uxtw);
    asm.transfer_reg(Transfer::store(4), Reg(2), Reg(24), Reg(9), Lsl);
    asm.transfer_reg(Transfer::load_signed(2), Reg(3), Reg(24), Reg(9), Uxtw);
    asm.transfer_reg(Transfer::store(1), Reg(2), Reg(24), Reg(9), Lsl);
    asm.stp(Reg(19), Reg(20), SP, 16);
    asm.ldp(LR, ZR, SP, 32);
    asm.stp_pre(FP, LR, SP, -112);
    asm.ldp_post(FP, LR, SP, 112);
    asm.ldaxr(W, Reg(11), Reg(10));
    asm.ldaxr(X, Reg(11), Reg(10));
    asm.stlxr(W, Reg(8), Reg(12), Reg(10));
    asm.stlxr(X, Reg(8), Reg(12), Reg(10));
    asm.lse(Ldadd, W, Reg(1), Reg(11), Reg(10));
    asm.lse(Ldclr, X, Reg(12), Reg(11), Reg(10));
    asm.lse(Ldeor, X, Reg(1), Reg(11), Reg(10));
    asm.lse(Ldset, W, Reg(1), Reg(11), Reg(10));
    asm.lse(Swp, X, Reg(1), Reg(11), Reg(10));
    asm.casal(X, Reg(11), Reg(1), Reg(10));
    asm.casal(W, Reg(11), Reg(1), Reg(10));
    asm.blr(Reg(8));
    asm.ret();
    asm.bti_c();
    asm.bind(first);
    asm.b(first);
    asm.bl(first);
    asm.b_cond(Cond::Hi, first);
    asm.cbz(X, Reg(1), second);
    asm.cbnz(W, Reg(8), first);
    asm.bind(second);
    asm.add_sub_imm(Add, X, FP, SP, 0);
    asm.add_sub_imm(Add, X, SP, FP, 0);
}

#[test]
fn every_form_is_encoded_as_llvm_does() {
    let mut asm = Assembler::default();
    all(&mut asm);
    let words = asm.finish().expect("the branches are short");
    assert_eq!(words.len(), EXPECTED.len());
    for (word, (expected, text)) in words.into_iter().zip(EXPECTED) {
        assert_eq!(
            word, *expected,
            "{text}: {word:#010x}, not {expected:#010x}"
        );
    }
}

#[test]
fn branches_that_do_not_reach_are_errors() {
    let far = |distance: usize| {
        let mut asm = Assembler::default();
        let label = asm.label();
        asm.bind(label);
        (0..distance).for_each(|_| asm.ret());
        asm.cbz(X, Reg(0), label);
        asm.finish().map(|words| words.len())
    };
    assert_eq!(far(1 << 18), Ok((1 << 18) + 1));
    assert_eq!(far((1 << 18) + 1), Err(TooFar));
}
