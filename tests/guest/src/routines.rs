//! Small routines of the commands that are not subjects: BRKs, faults, self-patching, register
//! patterns, a call stack.

use crate::mmu;
use crate::smp;
use crate::vectors::BRK_COMMAND;
use core::arch::{asm, global_asm};

/// NOP.
const NOP: u32 = 0xd503_201f;
/// `B .+8`.
const B_OVER: u32 = 0x1400_0002;
/// `ADD x0, x0, #0x10`: an instruction that the architecture does not let be replaced while it may
/// execute.
const ADD_16: u32 = 0x9100_4000;
/// `BRK #0x102`, see [`crate::vectors::BRK_PATCH`].
const BRK: u32 = 0xd420_2040;
/// `BL .+12`: `patch_callee`, three words further.
const BL_CALLEE: u32 = 0x9400_0003;

global_asm!(
    r#"
    .arch_extension fp
    .arch_extension simd
    .pushsection .text, "ax"
    .global fn_patch, patch_callee, call_patch, chain_a, chain_b, chain_c, fn_regs, load_patterns
    .global fault_read, fault_write, fault_load, fault_store

    // The first instruction is the one that gets patched. Returns x0 + 1 while it is a NOP, to x7:
    // a BL there changes x30.
    .type   fn_patch, %function
    .balign 16
fn_patch:
    nop
    add     x0, x0, #1
    ret     x7
    .size   fn_patch, . - fn_patch

    .type   patch_callee, %function
patch_callee:
    add     x0, x0, #0x100
    ret
    .size   patch_callee, . - patch_callee

call_patch:
    stp     x29, x30, [sp, #-16]!
    mov     x29, sp
    adr     x7, 1f
    bl      fn_patch
1:  ldp     x29, x30, [sp], #16
    ret

    // x0 = address. Returns x8 = FAR and x9 = ESR where it faults; see vectors.rs.
fault_read:
    mov     x8, #0
    mov     x9, #0
fault_load:
    ldr     w10, [x0]
    b       1f
fault_write:
    mov     x8, #0
    mov     x9, #0
fault_store:
    str     wzr, [x0]
1:  str     x8, [x1]
    str     x9, [x1, #8]
    ret

    // Nested calls with frame records, each adding to x0 before and after.
    .type   chain_a, %function
chain_a:
    stp     x29, x30, [sp, #-16]!
    mov     x29, sp
    add     x0, x0, #1
    bl      chain_b
    add     x0, x0, #1
    ldp     x29, x30, [sp], #16
    ret
    .size   chain_a, . - chain_a

    .type   chain_b, %function
chain_b:
    stp     x29, x30, [sp, #-32]!
    mov     x29, sp
    add     x0, x0, #0x10
    bl      chain_c
    add     x0, x0, #0x10
    ldp     x29, x30, [sp], #32
    ret
    .size   chain_b, . - chain_b

    .type   chain_c, %function
chain_c:
    stp     x29, x30, [sp, #-16]!
    mov     x29, sp
    add     x0, x0, #0x100
    ldp     x29, x30, [sp], #16
    ret
    .size   chain_c, . - chain_c

    // Changes no register: what a debugger changes here is seen by the check after it.
    .type   fn_regs, %function
fn_regs:
    nop
    nop
    ret
    .size   fn_regs, . - fn_regs

    // x0 = the patterns (x0 to x28, then from byte 256 v0 to v31), x1 = where to store what came
    // back.
    .type   load_patterns, %function
load_patterns:
    stp     x29, x30, [sp, #-112]!
    mov     x29, sp
    stp     x19, x20, [sp, #16]
    stp     x21, x22, [sp, #32]
    stp     x23, x24, [sp, #48]
    stp     x25, x26, [sp, #64]
    stp     x27, x28, [sp, #80]
    str     x1, [sp, #96]
    add     x30, x0, #256
    .irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
    ldr     q\n, [x30], #16
    .endr
    .irp n, 1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28
    ldr     x\n, [x0, #(\n * 8)]
    .endr
    ldr     x0, [x0]
    bl      fn_regs
    ldr     x30, [x29, #96]
    .irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28
    str     x\n, [x30, #(\n * 8)]
    .endr
    add     x30, x30, #256
    .irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
    str     q\n, [x30], #16
    .endr
    ldp     x27, x28, [sp, #80]
    ldp     x25, x26, [sp, #64]
    ldp     x23, x24, [sp, #48]
    ldp     x21, x22, [sp, #32]
    ldp     x19, x20, [sp, #16]
    ldp     x29, x30, [sp], #112
    ret
    .size   load_patterns, . - load_patterns
    .popsection
    "#
);

unsafe extern "C" {
    /// Where `fn_patch` is; `call_patch` calls it.
    static fn_patch: u8;
    fn call_patch(value: u64) -> u64;
    fn fault_read(address: u64, found: *mut [u64; 2]);
    fn fault_write(address: u64, found: *mut [u64; 2]);
    fn chain_a(value: u64) -> u64;
    fn load_patterns(patterns: *const Registers, found: *mut Registers);
}

/// Executes `count` BRKs of its own. Returns how many came back from their handler.
pub fn run_brks([count, ..]: [u64; 4]) -> [u64; 4] {
    let mut returned = 0;
    for _ in 0..count {
        let immediate: u64;
        // SAFETY: the handler puts the immediate into x8 and returns after the BRK.
        unsafe {
            asm!("brk #{n}", n = const BRK_COMMAND, inout("x8") 0u64 => immediate, options(nostack))
        };
        returned += u64::from(immediate == BRK_COMMAND);
    }
    [returned, 0, 0, 0]
}

/// How the `fault` command accesses.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// A load.
    Read,
    /// A store of zero.
    Write,
}

/// Accesses the word at `address`. Returns FAR and ESR of the data abort, both 0 where there was
/// none.
pub fn fault(address: u64, access: Access) -> [u64; 2] {
    let mut found = [0; 2];
    // SAFETY: an abort is expected and skipped; what a user overwrites by `fault ADDR w` is theirs
    // to choose.
    unsafe {
        match access {
            Access::Read => fault_read(address, &mut found),
            Access::Write => fault_write(address, &mut found),
        }
    }
    found
}

/// Calls `chain_a`, which calls `chain_b`, which calls `chain_c`, `count` times. Returns the last
/// result, which is 1 + 0x10 + 0x100 + 0x10 + 1.
pub fn run_chain([count, ..]: [u64; 4]) -> [u64; 4] {
    let mut result = 0;
    for _ in 0..count {
        // SAFETY: keeps the procedure call standard.
        result = unsafe { chain_a(0) };
    }
    [result, 0, 0, 0]
}

/// What stands in the first word of `fn_patch`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Patch {
    /// As linked: a NOP; the function returns its argument plus 1.
    Nop,
    /// A branch over the addition: the argument.
    Branch,
    /// Another addition: the argument plus 0x11.
    Add,
    /// A BRK whose handler adds 0x20: the argument plus 0x21.
    Brk,
    /// A call of `patch_callee`, which adds 0x100: the argument plus 0x101.
    Bl,
}

impl Patch {
    fn word(self) -> u32 {
        match self {
            Self::Nop => NOP,
            Self::Branch => B_OVER,
            Self::Add => ADD_16,
            Self::Brk => BRK,
            Self::Bl => BL_CALLEE,
        }
    }

    /// What `fn_patch` adds to its argument.
    fn adds(self) -> u64 {
        match self {
            Self::Nop => 1,
            Self::Branch => 0,
            Self::Add => 0x11,
            Self::Brk => 0x21,
            Self::Bl => 0x101,
        }
    }
}

/// Address of `fn_patch`.
pub fn patch_address() -> u64 {
    (&raw const fn_patch) as u64
}

/// Patches `fn_patch`.
pub fn apply(patch: Patch) {
    mmu::patch_word(patch_address(), patch.word());
}

/// Calls `fn_patch` with `value`.
pub fn call_patched([value, ..]: [u64; 4]) -> [u64; 4] {
    // SAFETY: keeps the procedure call standard whatever its first word is.
    [unsafe { call_patch(value) }, 0, 0, 0]
}

/// Patches `fn_patch` to `patch` and back `count` times; the CPU `caller` calls it after each
/// change. Returns the number of changes and how many calls did not show the change, or whose word
/// did not read back.
///
/// `caller` stays out of `fn_patch` while it changes, and taking the work synchronises it.
pub fn run_patches(count: u64, patch: Patch, caller: usize) -> [u64; 2] {
    let (mut changes, mut bad) = (0, 0);
    for round in 0..count {
        for state in [patch, Patch::Nop] {
            apply(state);
            changes += 1;
            let [result, ..] = smp::run_on(caller, call_patched, [round, 0, 0, 0]);
            let works = result == round.wrapping_add(state.adds());
            // SAFETY: text is readable.
            let word = unsafe { (patch_address() as *const u32).read_volatile() };
            bad += u64::from(!works || word != state.word());
        }
    }
    [changes, bad]
}

/// x0 to x28 and v0 to v31.
#[repr(C, align(16))]
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Registers {
    x: [u64; 32],
    v: [u128; 32],
}

const _: () = assert!(core::mem::offset_of!(Registers, v) == 256);

/// How many x registers hold a pattern.
const X_PATTERNS: usize = 29;

impl Registers {
    const ZERO: Self = Self {
        x: [0; 32],
        v: [0; 32],
    };

    /// `xN` = `0x0101010101010101 * (N + 1)`, `vN` = the same byte sixteen times with the top bit
    /// set.
    fn patterns() -> Self {
        let mut registers = Self::ZERO;
        for (number, x) in registers.x[..X_PATTERNS].iter_mut().enumerate() {
            *x = u64::from_ne_bytes([number as u8 + 1; 8]);
        }
        for (number, v) in registers.v.iter_mut().enumerate() {
            *v = u128::from_ne_bytes([number as u8 + 0x81; 16]);
        }
        registers
    }
}

/// Loads the patterns, calls `fn_regs`, and compares `count` times. Returns how many registers came
/// back changed, the number of the last one (V registers from 32) and the lower half of what it
/// was.
pub fn run_registers([count, ..]: [u64; 4]) -> [u64; 4] {
    let expected = Registers::patterns();
    let (mut changed, mut last, mut value) = (0, 0, 0);
    for _ in 0..count {
        let mut found = Registers::ZERO;
        // SAFETY: saves what the procedure call standard wants kept; compiled code here uses no V
        // registers.
        unsafe { load_patterns(&expected, &mut found) };
        for number in 0..X_PATTERNS {
            if found.x[number] != expected.x[number] {
                (changed, last, value) = (changed + 1, number as u64, found.x[number]);
            }
        }
        for number in 0..32 {
            if found.v[number] != expected.v[number] {
                (changed, last, value) = (changed + 1, 32 + number as u64, found.v[number] as u64);
            }
        }
    }
    [changed, last, value, 0]
}

/// 64-bit FNV-1a of the text section, read as data at its linked address plus `offset`.
pub fn text_hash(offset: u64) -> (u64, u64) {
    let (start, end) = (mmu::text_start() | offset, mmu::text_end() | offset);
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    for address in start..end {
        // SAFETY: text is readable through every alias.
        let byte = unsafe { (address as *const u8).read_volatile() };
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    (end - start, hash)
}
