//! The exception path.
//!
//! # From the guest
//!
//! Every exception from EL1 or EL0 enters one of four vectors, all of which do the same: push a [`Frame`] with the
//! guest's x0 to x30, SP, PC and PSTATE (laid out as Linux' `user_pt_regs`, which is also the context of an eBPF
//! program) and call `handle_guest_exit` (exits.rs). When that returns, the frame is written back and `ERET` continues
//! the guest. Everything else of a vCPU (its EL1 system registers, its SIMD registers, its list registers) stays in the
//! hardware: a vCPU lives on one physical CPU and EL2 code is compiled without SIMD. They are saved only when the vCPU
//! parks for a debugger (vcpu.rs).
//!
//! The syndrome goes into the frame too, and is read from there only: an exception that EL2 takes later, a probe on its
//! own code for one, overwrites ESR, FAR, HPFAR, ELR and SPSR. From the frame's completion to its way back, none of the
//! five holds anything that anybody still needs.
//!
//! EL2 runs with DAIF masked from the vector to `ERET`, but for windows in which it takes the stop interrupt
//! (masking.rs). Where it waits, it waits in WFI, which wakes for a masked interrupt too, and asks the GIC itself.
//!
//! # From EL2 itself
//!
//! The same frame goes below the interrupted code's stack, and `handle_el2_exception` (el2.rs) is called. Where it
//! returns, the interrupted code goes on with the registers of the frame, SP included. What is nobody's prints registers
//! and a backtrace and stops this CPU, no other (panic.rs).
//!
//! The stack may be what is broken: a stack is 32 KiB, aligned to 64 KiB, so that bit 15 of SP is set inside it and
//! clear in the hole below it; with it clear the CPU borrows the top of its stack again, whose contents no longer matter.

use crate::sysreg;
use core::arch::global_asm;
use core::mem::{offset_of, size_of};
use probes::regs::CoreRegs;

/// What the vectors save.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(16))]
pub struct Frame {
    /// x0 to x30, SP, PC and PSTATE of whoever was interrupted.
    pub regs: CoreRegs,
    /// `ESR_EL2` of the exception. Of an interrupt: nothing.
    pub syndrome: u64,
    /// `FAR_EL2`, where the syndrome says that it holds an address.
    pub fault_address: u64,
    /// `HPFAR_EL2`, where the syndrome says that it holds a page.
    pub fault_page: u64,
}

/// Which of the four vectors was taken: 2 is FIQ, and these.
pub mod kind {
    /// Synchronous exception.
    pub const SYNC: u64 = 0;
    /// IRQ.
    pub const IRQ: u64 = 1;
    /// SError.
    pub const SERROR: u64 = 3;
}

global_asm!(
    r#"
    .macro save_begin kind
        sub     sp, sp, #{FRAME}
        stp     x0, x1, [sp, #0]
        stp     x2, x3, [sp, #16]
        mov     x1, #\kind
    .endm

    .macro from_guest kind
        .balign 0x80
        save_begin \kind
        b       guest_exit
    .endm

    // A synchronous exception in the table for measurements: the HVC of the trap floor goes back at once.
    .macro from_guest_or_back
        .balign 0x80
        save_begin 0
        b       guest_exit_or_back
    .endm

    .macro from_el2 kind
        .balign 0x80
        // Inside the stack, bit 15 of SP is set; test it without a register to spare (as Linux' entry.S does).
        add     sp, sp, x0
        sub     x0, sp, x0
        tbz     x0, #15, 1f
        sub     x0, sp, x0
        sub     sp, sp, x0
        save_begin \kind
        b       el2_exit
    1:  mov     x1, #\kind
        b       el2_overflow
    .endm

    .macro table synchronous
        from_el2 0          // current EL with SP_EL0: never used
        from_el2 1
        from_el2 2
        from_el2 3
        from_el2 0          // current EL with SP_EL2
        from_el2 1
        from_el2 2
        from_el2 3
        \synchronous        // lower EL, AArch64
        from_guest 1
        from_guest 2
        from_guest 3
        from_guest 0        // lower EL, AArch32 (a guest's EL0)
        from_guest 1
        from_guest 2
        from_guest 3
    .endm

    .section .text.vectors, "ax"
    .balign 0x800
    .global vector_table
vector_table:
    table "from_guest 0"

    .balign 0x800
    .global floor_vector_table
floor_vector_table:
    table from_guest_or_back

    .macro save_rest
        stp     x4, x5, [sp, #32]
        stp     x6, x7, [sp, #48]
        stp     x8, x9, [sp, #64]
        stp     x10, x11, [sp, #80]
        stp     x12, x13, [sp, #96]
        stp     x14, x15, [sp, #112]
        stp     x16, x17, [sp, #128]
        stp     x18, x19, [sp, #144]
        stp     x20, x21, [sp, #160]
        stp     x22, x23, [sp, #176]
        stp     x24, x25, [sp, #192]
        stp     x26, x27, [sp, #208]
        stp     x28, x29, [sp, #224]
        mrs     x2, elr_el2
        mrs     x3, spsr_el2
        stp     x2, x3, [sp, #{PC}]
        mrs     x4, esr_el2
        mrs     x5, far_el2
        stp     x4, x5, [sp, #{SYNDROME}]
        mrs     x4, hpfar_el2
        str     x4, [sp, #{FAULT_PAGE}]
    .endm

    // All but x0 to x3, x30 and SP, from the frame at \base.
    .macro restore_rest base
        ldp     x4, x5, [\base, #32]
        ldp     x6, x7, [\base, #48]
        ldp     x8, x9, [\base, #64]
        ldp     x10, x11, [\base, #80]
        ldp     x12, x13, [\base, #96]
        ldp     x14, x15, [\base, #112]
        ldp     x16, x17, [\base, #128]
        ldp     x18, x19, [\base, #144]
        ldp     x20, x21, [\base, #160]
        ldp     x22, x23, [\base, #176]
        ldp     x24, x25, [\base, #192]
        ldp     x26, x27, [\base, #208]
        ldp     x28, x29, [\base, #224]
    .endm

    .macro save_stack_pointer
        tst     x3, #1                  // PSTATE.M[0]: which stack pointer the guest used
        mrs     x4, sp_el1
        mrs     x5, sp_el0
        csel    x4, x4, x5, ne
        stp     x30, x4, [sp, #240]
    .endm

guest_exit_or_back:
    save_rest
    save_stack_pointer
    mrs     x4, esr_el2
    mov     w5, #{FLOOR}
    movk    w5, #0x5a00, lsl #16    // EC: HVC from AArch64; IL
    cmp     w4, w5
    b.eq    enter_guest
    b       handle_exit

guest_exit:
    .cfi_startproc simple
    // A debugger's backtrace goes on in the guest: its registers are in the frame. DWARF register 32 is the PC
    // (DWARF for the Arm 64-bit Architecture, 4.1).
    .cfi_signal_frame
    .cfi_return_column 32
    .cfi_def_cfa sp, 0
    .irp number, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31
    .cfi_offset \number, 8 * \number
    .endr
    .cfi_offset 32, {PC}
    save_rest
    save_stack_pointer
handle_exit:
    mov     x0, sp
    mov     x29, #0                 // a backtrace of EL2 ends here
    bl      handle_guest_exit

    .global enter_guest
    // Continues the guest from the frame at SP.
enter_guest:
    ldp     x2, x3, [sp, #{PC}]
    msr     elr_el2, x2
    msr     spsr_el2, x3
    ldp     x30, x4, [sp, #240]
    tst     x3, #1
    b.eq    1f
    msr     sp_el1, x4
    b       2f
1:  msr     sp_el0, x4
2:  restore_rest sp
    .cfi_endproc
    ldp     x0, x1, [sp, #0]
    ldp     x2, x3, [sp, #16]
    add     sp, sp, #{FRAME}
    eret
    dsb     nsh                     // no speculation past ERET
    isb

el2_exit:
    save_rest
    add     x4, sp, #{FRAME}
    stp     x30, x4, [sp, #240]
    mov     x0, sp
    bl      handle_el2_exception
    ldp     x2, x3, [sp, #{PC}]
    msr     elr_el2, x2
    msr     spsr_el2, x3
    mov     x0, sp
    ldp     x30, x4, [x0, #240]
    // From here the frame may lie below SP. Nothing comes in between: the exception has masked everything.
    mov     sp, x4
    restore_rest x0
    ldp     x2, x3, [x0, #16]
    ldp     x0, x1, [x0, #0]
    eret
    dsb     nsh
    isb

    // The stack has overflowed. x0 is lost; SP was (SP + x0), x0 the old SP.
el2_overflow:
    mov     x2, x0
    mrs     x3, tpidr_el2
    mrs     x0, elr_el2
    orr     x4, x2, #0xffff         // back to the top of the slot above the hole
    add     x4, x4, #1
    and     x4, x4, #~0xf
    mov     sp, x4
    mov     x1, x2
    bl      el2_stack_overflow
    b       .
    .text
    "#,
    FRAME = const size_of::<Frame>(),
    PC = const offset_of!(CoreRegs, pc),
    SYNDROME = const offset_of!(Frame, syndrome),
    FAULT_PAGE = const offset_of!(Frame, fault_page),
    FLOOR = const crate::cost::FLOOR,
);

unsafe extern "C" {
    static vector_table: u8;
    static floor_vector_table: u8;
}

/// The registers with which a guest has left CPU `index`.
///
/// # Safety
///
/// The CPU has left a guest and stands still in the exception.
pub unsafe fn guest_frame(index: usize) -> CoreRegs {
    let place = crate::cpu::stack(index).end - size_of::<Frame>() as u64;
    // SAFETY: the vectors find SP at the top of the stack and put the frame below it; nobody writes to it meanwhile.
    unsafe { (*(place as *const Frame)).regs }
}

/// Makes the calling CPU use our vectors.
pub fn install() {
    // SAFETY: the table above is a complete EL2 vector table.
    unsafe { sysreg::write!("vbar_el2", &raw const vector_table as u64) };
    sysreg::isb();
}

/// Makes the calling CPU use the table for measurements of the trap floor (cost.rs).
pub fn install_floor() {
    // SAFETY: a complete EL2 vector table too.
    unsafe { sysreg::write!("vbar_el2", &raw const floor_vector_table as u64) };
    sysreg::isb();
}

/// Continues a guest from `frame`, abandoning the stack of the caller. The first entry of a vCPU.
///
/// # Safety
///
/// `frame` describes a state at EL1 or EL0, and the caller's stack holds nothing that still has to be dropped.
pub unsafe fn enter(frame: *const Frame) -> ! {
    // SAFETY: the frame is copied to the top of this CPU's stack, where the vectors expect SP to be while the guest
    // runs plus one frame, and is then consumed by `enter_guest`. It may lie on that stack itself and overlap.
    unsafe {
        let top = crate::cpu::stack(crate::cpu::this().index).end;
        let place = (top - size_of::<Frame>() as u64) as *mut Frame;
        core::ptr::copy(frame, place, 1);
        core::arch::asm!("mov sp, {}", "b enter_guest", in(reg) place, options(noreturn));
    }
}
