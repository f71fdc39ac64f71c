//! From the Image header to [`crate::primary_main`] and [`crate::secondary_main`].
//!
//! The entry state is Linux' (`Documentation/arch/arm64/booting.rst`): EL1, MMU off, x0 = physical
//! address of the device tree. A CPU started by PSCI `CPU_ON` comes in at `secondary_start` with
//! its index in x0.

use crate::smp::MAX_CPUS;
use core::arch::global_asm;

/// Bytes of stack per CPU.
pub const STACK_SIZE: usize = 16 * 1024;

/// The CPUs' stacks, lowest CPU first.
#[repr(C, align(4096))]
pub struct Stacks([[u8; STACK_SIZE]; MAX_CPUS]);

// `start_primary` and `secondary_start` point SP into it; Rust code never names it.
#[unsafe(no_mangle)]
static mut STACKS: Stacks = Stacks([[0; STACK_SIZE]; MAX_CPUS]);

/// How often [`early_entry`] ran. Written with the MMU off, so it lies in `.data`, which start-up
/// does not clear.
#[unsafe(link_section = ".data")]
#[unsafe(no_mangle)]
static EARLY_CALLS: core::sync::atomic::AtomicU64 = core::sync::atomic::AtomicU64::new(0);

/// How often `early_entry` ran before the MMU was switched on: once per boot of CPU 0.
pub fn early_calls() -> u64 {
    EARLY_CALLS.load(core::sync::atomic::Ordering::Relaxed)
}

global_asm!(
    r#"
    .pushsection .head, "ax"
    .global _start
_start:
    b       start_primary           // code0
    nop                             // code1
    .quad   0x200000                // text_offset: load 2 MiB past the start of RAM
    .quad   __image_size            // image_size
    .quad   2                       // flags: little-endian, 4 KiB pages, as low in RAM as possible
    .quad   0, 0, 0
    .ascii  "ARM\x64"
    .word   0

start_primary:
    mov     x20, x0
    mrs     x1, CurrentEL
    cmp     x1, #(1 << 2)
    adr     x0, text_wrong_level
    b.ne    give_up
    adr     x1, _start
    ldr     x2, =_start
    cmp     x1, x2
    adr     x0, text_wrong_place
    b.ne    give_up

    adrp    x1, __bss_start
    add     x1, x1, :lo12:__bss_start
    adrp    x2, __bss_end
    add     x2, x2, :lo12:__bss_end
1:  stp     xzr, xzr, [x1], #16
    cmp     x1, x2
    b.lo    1b

    mov     x0, #0
    bl      cpu_setup
    bl      early_entry
    mov     x29, xzr
    mov     x0, x20
    bl      primary_main
2:  wfi
    b       2b

    // x0 = CPU index. Vectors, floating point, stack.
cpu_setup:
    adrp    x1, vectors
    add     x1, x1, :lo12:vectors
    msr     vbar_el1, x1
    mov     x1, #(3 << 20)          // CPACR_EL1.FPEN: no traps
    msr     cpacr_el1, x1
    adrp    x1, STACKS
    add     x1, x1, :lo12:STACKS
    add     x2, x0, #1
    mov     x3, #{STACK_SIZE}
    madd    x1, x2, x3, x1
    mov     sp, x1
    isb
    ret

    .global secondary_start
secondary_start:
    mov     x20, x0
    bl      cpu_setup
    mov     x29, xzr
    mov     x0, x20
    bl      secondary_main
3:  wfi
    b       3b

    // x0 = text. Writes it to the PL011 of `virt` with nothing set up, and halts.
give_up:
    mov     x1, #0x09000000
4:  ldrb    w2, [x0], #1
    cbz     w2, 5f
    strb    w2, [x1]
    b       4b
5:  wfi
    b       5b

text_wrong_level:
    .asciz  "tiny-guest: err not entered at EL1\r\n"
text_wrong_place:
    .asciz  "tiny-guest: err not loaded at 0x40200000\r\n"
    .balign 4
    .popsection

    // Runs once per boot while the MMU is off: a subject for probes that are set before the first
    // instruction.
    .pushsection .text, "ax"
    .global early_entry
    .type   early_entry, %function
early_entry:
    nop
    adrp    x1, EARLY_CALLS
    ldr     x2, [x1, :lo12:EARLY_CALLS]
    add     x2, x2, #1
    str     x2, [x1, :lo12:EARLY_CALLS]
    ret
    .size   early_entry, . - early_entry
    .popsection
    "#,
    STACK_SIZE = const STACK_SIZE,
);
