//! From the boot loader's jump to Rust, on the boot CPU and on the others.
//!
//! The arm64 boot protocol (Linux `Documentation/arch/arm64/booting.rst`) enters `_start` with the MMU off and the
//! device tree's address in x0. Rust needs memory that atomics work on, so a first identity map made of 1 GiB blocks
//! (devices below 1 GiB, RAM from there) is switched on here; `mmu.rs` replaces it with the real, W^X one within the
//! first thing that Rust does. The other CPUs come up later through PSCI and go straight to the real map.

use core::arch::global_asm;

global_asm!(
    r#"
    .section .text.head, "ax"
    .global _start
_head:
    b       _start
    .long   0
    .quad   0x200000                // text_offset: load 2 MiB past the start of RAM
    .quad   __image_end - _head     // image_size
    .quad   0x2                     // flags: little endian, 4 KiB pages
    .quad   0
    .quad   0
    .quad   0
    .ascii  "ARM\x64"
    .long   0

_start:
    .cfi_startproc simple
    .cfi_def_cfa sp, 0
    .cfi_undefined x30              // a debugger's backtrace ends here
    mrs     x1, CurrentEL
    cmp     x1, #(2 << 2)
    b.ne    dead                    // not EL2: nothing we could do would be right
    adr     x2, _head
    ldr     x3, =__text_start
    cmp     x2, x3
    b.ne    dead                    // not loaded where linked
    mov     x20, x0                 // the device tree

    ldr     x1, =__bss_start
    ldr     x2, =__bss_end
1:  cmp     x1, x2
    b.hs    2f
    stp     xzr, xzr, [x1], #16
    b       1b
2:
    // First identity map: one table of 1 GiB blocks.
    adrp    x1, boot_table
    add     x1, x1, :lo12:boot_table
    mov     x2, #0x0401             // block, AttrIndx 0 (device), AF
    movk    x2, #0x0040, lsl #48    // XN
    str     x2, [x1]
    mov     x3, #0x0705             // block, AttrIndx 1 (normal), inner shareable, AF
    mov     x4, #1
1:  lsl     x5, x4, #30
    orr     x5, x5, x3
    str     x5, [x1, x4, lsl #3]
    add     x4, x4, #1
    cmp     x4, #512
    b.ne    1b

    ldr     x0, =__stacks_start
    add     x0, x0, #0x10000        // top of CPU 0's slot
    mov     sp, x0
    mov     x0, x1
    bl      enable_mmu
    mov     x0, x20
    bl      boot_cpu_main
    b       dead
    .cfi_endproc

    // x0: root table. Turns MMU and caches on.
enable_mmu:
    ldr     x2, ={MAIR}
    msr     mair_el2, x2
    mrs     x3, id_aa64mmfr0_el1
    ubfx    x3, x3, #0, #4          // PARange
    cmp     x3, #5
    mov     x4, #5
    csel    x3, x3, x4, lo          // at most 48 bits
    ldr     x2, ={TCR}
    orr     x2, x2, x3, lsl #16     // TCR_EL2.PS
    msr     tcr_el2, x2
    msr     ttbr0_el2, x0
    ic      iallu
    tlbi    alle2
    dsb     sy
    isb
    ldr     x2, ={SCTLR}
    msr     sctlr_el2, x2
    isb
    ret

    .global _start_secondary
    // From PSCI CPU_ON, x0: this CPU's number. The root table was published by mmu.rs.
_start_secondary:
    .cfi_startproc simple
    .cfi_def_cfa sp, 0
    .cfi_undefined x30
    mov     x20, x0
    adrp    x1, {ROOT}
    ldr     x0, [x1, :lo12:{ROOT}]
    bl      enable_mmu
    ldr     x1, =__stacks_start
    add     x2, x20, #1
    add     x1, x1, x2, lsl #16
    mov     sp, x1
    mov     x0, x20
    bl      secondary_cpu_main
    .cfi_endproc

dead:
    wfe
    b       dead

    .ltorg

    .section .bss.boot_table, "aw", @nobits
    .balign 4096
boot_table:
    .skip   4096
    .text
    "#,
    MAIR = const crate::mmu::MAIR,
    TCR = const crate::mmu::TCR,
    SCTLR = const crate::mmu::SCTLR,
    ROOT = sym crate::mmu::ROOT_TABLE,
);

unsafe extern "C" {
    /// Where a CPU starts that PSCI switches on.
    pub fn _start_secondary();
}
