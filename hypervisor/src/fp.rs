//! SIMD and floating-point registers of the vCPU that lives on this CPU. EL2 itself is compiled without them, so they
//! stay in the hardware until a debugger asks.

use core::arch::global_asm;
use core::mem::offset_of;
use core::sync::atomic::AtomicU64;
use probes::regs::FpRegs;

global_asm!(
    r#"
    .text
    .arch_extension fp
    .arch_extension simd
    .macro each_pair instruction
        \instruction q0, q1, [x0, #0]
        \instruction q2, q3, [x0, #32]
        \instruction q4, q5, [x0, #64]
        \instruction q6, q7, [x0, #96]
        \instruction q8, q9, [x0, #128]
        \instruction q10, q11, [x0, #160]
        \instruction q12, q13, [x0, #192]
        \instruction q14, q15, [x0, #224]
        \instruction q16, q17, [x0, #256]
        \instruction q18, q19, [x0, #288]
        \instruction q20, q21, [x0, #320]
        \instruction q22, q23, [x0, #352]
        \instruction q24, q25, [x0, #384]
        \instruction q26, q27, [x0, #416]
        \instruction q28, q29, [x0, #448]
        \instruction q30, q31, [x0, #480]
    .endm
    fp_save:
        each_pair stp
        mrs     x1, fpsr
        mrs     x2, fpcr
        str     w1, [x0, #{FPSR}]
        str     w2, [x0, #{FPCR}]
        ret
    fp_restore:
        each_pair ldp
        ldr     w1, [x0, #{FPSR}]
        ldr     w2, [x0, #{FPCR}]
        msr     fpsr, x1
        msr     fpcr, x2
        ret
    .arch_extension nosimd
    .arch_extension nofp
    "#,
    FPSR = const offset_of!(FpRegs, fpsr),
    FPCR = const offset_of!(FpRegs, fpcr),
);

unsafe extern "C" {
    fn fp_save(regs: *mut FpRegs);
    fn fp_restore(regs: *const FpRegs);
}

/// Stores the registers as they are now on this CPU where the words are.
pub fn store(place: &[AtomicU64; FpRegs::WORDS]) {
    const { assert!(size_of::<[AtomicU64; FpRegs::WORDS]>() == offset_of!(FpRegs, fpcr) + 4) };
    // SAFETY: `fp_save` writes 520 bytes from its argument on, all of them in `place`, which may change behind a shared
    // reference. Stores of two registers at a time need no more than the alignment of a word.
    unsafe { fp_save(place.as_ptr().cast::<FpRegs>().cast_mut()) };
}

/// The registers as they are now on this CPU.
pub fn save() -> FpRegs {
    let mut regs = FpRegs::default();
    // SAFETY: writes all fields of one FpRegs (`repr(C)`), clobbers x1 and x2 as an extern "C" call may.
    unsafe { fp_save(&raw mut regs) };
    regs
}

/// Sets the registers of this CPU.
pub fn restore(regs: &FpRegs) {
    // SAFETY: reads exactly one FpRegs; Rust code at EL2 keeps nothing in these registers.
    unsafe { fp_restore(&raw const *regs) };
}
