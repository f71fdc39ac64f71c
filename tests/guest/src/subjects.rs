//! The subjects: functions whose first instruction is of every kind that a probe meets at a
//! function's entry.
//!
//! A call with argument `a` returns `3 * a + k` (wrapping), where `k` is the subject's own
//! constant, and adds one to the subject's counter of the CPU that runs it. Both depend on the
//! first instruction doing exactly what it should: a branch that goes wrong, a register that is not
//! written, a store that is lost changes the result. A run over the arguments `1..=n` returns the
//! wrapping sum of the results: `3 * n * (n + 1) / 2 + n * k`.
//!
//! `fn_ret` is the exception: it is nothing but a RET, so it returns its argument and counts
//! nothing.
//!
//! What a subject gets from `call_subject`: x0 and x19 the argument (`fn_hvc`: x0 the function
//! identifier of `PSCI_VERSION`), x1 its lowest bit and Z set where that is 0, x2 this CPU's
//! scratch words (the first holds the argument), x3 a word that all CPUs share, x4 an address that
//! is not mapped, x5 64 bytes after the first instruction (for `fn_br`), x7 the return address once
//! more (for `fn_bl`).

use crate::mmu;
use crate::smp;
use core::arch::global_asm;
use core::sync::atomic::{AtomicU64, Ordering};

/// What a subject needs, and what is special about calling it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Nothing; runs with the MMU off too.
    Plain,
    /// Only a RET: returns its argument and counts nothing.
    Bare,
    /// x0 is a PSCI function identifier.
    Hypercall,
    /// The MMU on: a fault needs a translation, an interrupt mask is given back.
    Mapped,
    /// The MMU on, since exclusives need Normal memory. Adds one to the shared word.
    Exclusive,
    /// FEAT_LSE, and else as `Exclusive`.
    Atomic,
}

impl Kind {
    /// As `list` shows it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Bare => "bare",
            Self::Hypercall => "hypercall",
            Self::Mapped => "mapped",
            Self::Exclusive => "exclusive",
            Self::Atomic => "atomic",
        }
    }

    /// Whether it runs with the MMU off.
    pub const fn runs_unmapped(self) -> bool {
        matches!(self, Self::Plain | Self::Bare | Self::Hypercall)
    }
}

/// A function with a first instruction of its own kind.
pub struct Subject {
    /// The symbol's name.
    pub name: &'static str,
    /// Its constant.
    pub k: u64,
    /// What it needs.
    pub kind: Kind,
    entry: unsafe extern "C" fn(),
}

/// Where code of a subject is executed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Alias {
    /// Where it is linked.
    Low,
    /// Through [`mmu::HIGH`].
    High,
}

impl Subject {
    /// Address of its first instruction.
    pub fn address(&self, alias: Alias) -> u64 {
        let linked = self.entry as usize as u64;
        match alias {
            Alias::Low => linked,
            Alias::High => linked | mmu::HIGH,
        }
    }

    fn expected(&self, argument: u64) -> u64 {
        match self.kind {
            Kind::Bare => argument,
            _ => argument.wrapping_mul(3).wrapping_add(self.k),
        }
    }
}

/// Counts the call and returns `3 * x0 + x8`.
macro_rules! finish {
    () => {
        "mrs x11, tpidr_el1
         ldr x12, [x11, #{COUNT}]
         add x12, x12, #1
         str x12, [x11, #{COUNT}]
         add x0, x0, x0, lsl #1
         add x0, x0, x8
         ret"
    };
}

/// The table of subjects and their code. `{K}` is the constant, `{COUNT}` the offset of the
/// counter, `{SCRATCH}` that of the scratch words.
macro_rules! subjects {
    ($($index:literal $name:ident $k:literal $kind:ident $section:literal: $($line:expr),+;)+) => {
        $(global_asm!(
            ".arch_extension fp",
            ".arch_extension simd",
            ".arch_extension lse",
            concat!(".pushsection ", $section, ", \"ax\""),
            ".balign 16",
            concat!(".global ", stringify!($name)),
            concat!(".type ", stringify!($name), ", %function"),
            concat!(stringify!($name), ":"),
            $($line,)+
            concat!(".size ", stringify!($name), ", . - ", stringify!($name)),
            ".popsection",
            "// {K} {COUNT} {SCRATCH}",
            K = const $k,
            COUNT = const $index * 8,
            SCRATCH = const smp::SCRATCH_OFFSET,
        );)+

        unsafe extern "C" { $(fn $name();)+ }

        /// All subjects. The position is the number of the counter.
        pub static SUBJECTS: &[Subject] = &[$(
            Subject { name: stringify!($name), k: $k, kind: Kind::$kind, entry: $name },
        )+];

        const INDEXES: &[usize] = &[$($index),+];
        const _: () = {
            let mut position = 0;
            while position < INDEXES.len() {
                assert!(INDEXES[position] == position);
                position += 1;
            }
            assert!(position <= smp::MAX_COUNTS);
        };
    };
}

subjects! {
    0 fn_nop 0x101 Plain ".text.subjects":
        "nop", "mov x8, #{K}", finish!();
    1 fn_bti 0x202 Plain ".guarded":
        "hint #34 // bti c", "mov x8, #{K}", finish!();
    2 fn_mov_x9_x30 0x303 Plain ".text.subjects":
        "mov x9, x30", "mov x30, xzr", "mov x8, #{K}", "mov x30, x9", finish!();
    3 fn_stp 0x404 Plain ".text.subjects":
        "stp x29, x30, [sp, #-16]!", "mov x29, sp", "mov x30, xzr", "mov x8, #{K}",
        "ldp x29, x30, [sp], #16", finish!();
    4 fn_sub_sp 0x505 Plain ".text.subjects":
        "sub sp, sp, #32", "stp x29, x30, [sp, #16]", "mov x29, xzr", "mov x8, #{K}",
        "ldp x29, x30, [sp, #16]", "add sp, sp, #32", finish!();
    5 fn_paciasp 0x606 Plain ".guarded":
        "hint #25 // paciasp", "stp x29, x30, [sp, #-16]!", "mov x30, xzr", "mov x8, #{K}",
        "ldp x29, x30, [sp], #16", "hint #29 // autiasp", finish!();
    6 fn_adrp 0x707 Plain ".text.subjects":
        "adrp x8, 1f", "ldr x8, [x8, :lo12:1f]", finish!(), ".balign 8", "1: .quad {K}";
    7 fn_adr 0x808 Plain ".text.subjects":
        "adr x8, 1f", "ldr x8, [x8]", finish!(), ".balign 8", "1: .quad {K}";
    8 fn_b 0x909 Plain ".text.subjects":
        "b 1f", "mov x8, #1", finish!(), "1: mov x8, #{K}", finish!();
    9 fn_bl 0xa0a Plain ".text.subjects":
        "bl 1f", "2: mov x30, x7", finish!(),
        "1: adr x9, 2b", "sub x8, x30, x9", "add x8, x8, #0xa", "add x8, x8, #({K} - 0xa)", "ret";
    10 fn_cbz 0xb0b Plain ".text.subjects":
        "cbz x1, 1f", "mov x8, #({K} - 0x100)", "add x8, x8, x1, lsl #8", finish!(),
        "1: mov x8, #{K}", "add x8, x8, x1, lsl #8", finish!();
    11 fn_cbnz 0xc0c Plain ".text.subjects":
        "cbnz x1, 1f", "mov x8, #{K}", "add x8, x8, x1, lsl #8", finish!(),
        "1: mov x8, #({K} - 0x100)", "add x8, x8, x1, lsl #8", finish!();
    12 fn_tbz 0xd0d Plain ".text.subjects":
        "tbz x19, #0, 1f", "mov x8, #({K} - 0x100)", "add x8, x8, x1, lsl #8", finish!(),
        "1: mov x8, #{K}", "add x8, x8, x1, lsl #8", finish!();
    13 fn_tbnz 0xe0e Plain ".text.subjects":
        "tbnz w19, #0, 1f", "mov x8, #{K}", "add x8, x8, x1, lsl #8", finish!(),
        "1: mov x8, #({K} - 0x100)", "add x8, x8, x1, lsl #8", finish!();
    14 fn_bcond 0xf0f Plain ".text.subjects":
        "b.eq 1f", "mov x8, #({K} - 0x100)", "add x8, x8, x1, lsl #8", finish!(),
        "1: mov x8, #{K}", "add x8, x8, x1, lsl #8", finish!();
    15 fn_ldr_literal 0x1010 Plain ".text.subjects":
        "ldr x8, 1f", finish!(), ".balign 8", "1: .quad {K}";
    16 fn_ldrsw_literal 0x1111 Plain ".text.subjects":
        "ldrsw x8, 1f", "neg x8, x8", finish!(), "1: .word -{K}";
    17 fn_ldr 0x1212 Plain ".text.subjects":
        "ldr x8, [x2]", "sub x8, x8, x19", "mov x9, #{K}", "add x8, x8, x9", finish!();
    18 fn_str 0x1313 Plain ".text.subjects":
        "str x19, [x2, #8]", "ldr x8, [x2, #8]", "sub x8, x8, x19", "mov x9, #{K}",
        "add x8, x8, x9", "str xzr, [x2, #8]", finish!();
    19 fn_ldp 0x1414 Plain ".text.subjects":
        "ldp x8, x9, [x2]", "sub x8, x8, x19", "add x8, x8, x9", "mov x9, #{K}",
        "add x8, x8, x9", finish!();
    20 fn_ret 0 Bare ".text.subjects":
        "ret";
    21 fn_movz 0x1515 Plain ".text.subjects":
        "movz x8, #{K}", finish!();
    22 fn_msr 0x1616 Plain ".text.subjects":
        "msr tpidr_el0, x19", "mrs x8, tpidr_el0", "sub x8, x8, x19", "mov x9, #{K}",
        "add x8, x8, x9", "msr tpidr_el0, xzr", finish!();
    23 fn_daifset 0x1717 Mapped ".text.subjects":
        "msr daifset, #2", "mrs x8, daif", "msr daifclr, #2", "ubfx x8, x8, #7, #1",
        "mov x9, #({K} - 1)", "add x8, x8, x9", finish!();
    24 fn_mrs 0x1818 Plain ".text.subjects":
        "mrs x8, tpidr_el1", "add x8, x8, #{SCRATCH}", "sub x8, x8, x2", "mov x9, #{K}",
        "add x8, x8, x9", finish!();
    25 fn_svc 0x1919 Plain ".text.subjects":
        "svc #0x42", "sub x8, x8, x19", "mov x9, #({K} - 0x42)", "add x8, x8, x9", finish!();
    26 fn_hvc 0x1a1a Hypercall ".text.subjects":
        "hvc #0", "lsr x8, x0, #16", "mov x0, x19", "mov x9, #({K} - 1)",
        "add x8, x8, x9", finish!();
    27 fn_brk 0x1b1b Plain ".text.subjects":
        "brk #0x100", "mov x9, #({K} - 0x100)", "add x8, x8, x9", finish!();
    28 fn_ldxr 0x1c1c Exclusive ".text.subjects":
        "ldxr x9, [x3]", "add x9, x9, #1", "stxr w10, x9, [x3]", "cbnz w10, fn_ldxr",
        "mov x8, #{K}", finish!();
    29 fn_ldxr_outer 0x1d1d Exclusive ".text.subjects":
        "ldxr x9, [x3]",
        ".global fn_ldxr_inner",
        ".type fn_ldxr_inner, %function",
        "fn_ldxr_inner:",
        "add x9, x9, #1", "stxr w10, x9, [x3]", "cbnz w10, fn_ldxr_outer",
        "mov x8, #{K}", finish!(),
        ".size fn_ldxr_inner, . - fn_ldxr_inner";
    30 fn_cas_loop 0x1e1e Exclusive ".text.subjects":
        "ldr x9, [x3]",
        "1: add x10, x9, #1",
        "2: ldaxr x11, [x3]", "cmp x11, x9", "b.ne 3f", "stlxr w12, x10, [x3]", "cbnz w12, 2b",
        "mov x8, #{K}", finish!(),
        "3: clrex", "mov x9, x11", "b 1b";
    31 fn_ldadd 0x1f1f Atomic ".text.subjects":
        "ldadd x1, x9, [x3]", "mov x9, #1", "sub x9, x9, x1", "ldadd x9, x9, [x3]",
        "mov x8, #{K}", finish!();
    32 fn_dup 0x2020 Plain ".text.subjects":
        "dup v0.2d, x19", "umov x8, v0.d[1]", "sub x8, x8, x19", "mov x9, #{K}",
        "add x8, x8, x9", finish!();
    33 fn_ldr_q 0x2121 Plain ".text.subjects":
        "ldr q0, [x2]", "umov x8, v0.d[0]", "sub x8, x8, x19", "mov x9, #{K}",
        "add x8, x8, x9", finish!();
    34 fn_csel 0x2222 Plain ".text.subjects":
        "csel x8, xzr, x19, eq", "mul x9, x19, x1", "sub x8, x8, x9", "mov x9, #{K}",
        "add x8, x8, x9", finish!();
    35 fn_ldr_fault 0x2323 Mapped ".text.subjects":
        "ldr x8, [x4]", "sub x8, x8, x4", "mov x9, #{K}", "add x8, x8, x9", finish!();
    36 fn_isb 0x2424 Plain ".text.subjects":
        "isb", "mov x8, #{K}", finish!();
    37 fn_dsb 0x2525 Plain ".text.subjects":
        "dsb ish", "mov x8, #{K}", finish!();
    38 fn_mul 0x2626 Plain ".text.subjects":
        "mul x8, x19, x19", "mul x9, x0, x0", "sub x8, x8, x9", "mov x9, #{K}",
        "add x8, x8, x9", finish!();
    39 fn_br 0x2727 Plain ".text.subjects":
        "br x5", "mov x8, #1", finish!(),
        ".zero 64 - (. - fn_br)", "mov x8, #{K}", finish!();
}

/// A virtual address that the tables do not map.
pub const UNMAPPED: u64 = 0x0000_7fff_0000_0000;

/// The word that the exclusive and atomic subjects of all CPUs add to.
static SHARED: AtomicU64 = AtomicU64::new(0);

/// What all calls of `fn_ldxr`, `fn_ldxr_outer`, `fn_cas_loop` and `fn_ldadd` have added up.
pub fn shared() -> u64 {
    SHARED.load(Ordering::Acquire)
}

unsafe extern "C" {
    /// Calls `entry` with the registers that the head of this file lists.
    fn call_subject(
        entry: u64,
        argument: u64,
        x0: u64,
        scratch: *const AtomicU64,
        shared: *const AtomicU64,
        unmapped: u64,
    ) -> u64;
}

global_asm!(
    r#"
    .pushsection .text, "ax"
    .global call_subject
    .type   call_subject, %function
call_subject:
    stp     x29, x30, [sp, #-32]!
    mov     x29, sp
    str     x19, [sp, #16]
    mov     x9, x0
    mov     x19, x1
    mov     x0, x2
    mov     x2, x3
    mov     x3, x4
    mov     x4, x5
    add     x5, x9, #64
    str     x19, [x2]
    str     xzr, [x2, #8]
    adr     x7, 1f
    ands    x1, x19, #1
    blr     x9
1:  ldr     x19, [sp, #16]
    ldp     x29, x30, [sp], #32
    ret
    .size   call_subject, . - call_subject
    .popsection
    "#
);

/// What a run of calls gave.
#[derive(Clone, Copy)]
pub struct Outcome {
    /// Wrapping sum of the results.
    pub sum: u64,
    /// How many results were not what they should be.
    pub bad: u64,
}

impl Subject {
    /// Calls it with the arguments `1..=count`.
    pub fn run(&self, count: u64, alias: Alias) -> Outcome {
        let mut outcome = Outcome { sum: 0, bad: 0 };
        for argument in 1..=count {
            let result = self.call(argument, alias);
            outcome.sum = outcome.sum.wrapping_add(result);
            outcome.bad += u64::from(result != self.expected(argument));
        }
        outcome
    }

    fn call(&self, argument: u64, alias: Alias) -> u64 {
        let x0 = match self.kind {
            Kind::Hypercall => crate::psci::VERSION,
            _ => argument,
        };
        let scratch = smp::this_cpu().scratch.as_ptr();
        // SAFETY: subjects keep the procedure call standard but for x0 to x18 and V registers,
        // which compiled code here does not use; they write to the scratch and shared words only.
        unsafe {
            call_subject(
                self.address(alias),
                argument,
                x0,
                scratch,
                &SHARED,
                UNMAPPED,
            )
        }
    }
}

/// Number and description of the subject of that name.
pub fn by_name(name: &str) -> Option<(usize, &'static Subject)> {
    SUBJECTS
        .iter()
        .enumerate()
        .find(|(_, subject)| subject.name == name)
}
