//! Exceptions: the vector table, the interrupts, the synchronous exceptions that the guest makes on
//! purpose, and a report of all others.
//!
//! Every entry saves x0 to x30, ELR_EL1 and SPSR_EL1 in a [`Frame`] on the stack, calls Rust with
//! interrupts and debug exceptions masked, and restores all that from the frame. No code here
//! touches V registers.

use crate::cpu::{self, read_sysreg};
use crate::{debug, gic, smp, timer, uart};
use core::arch::global_asm;

/// What an exception saves; what it restores when the handler returns.
#[repr(C)]
pub struct Frame {
    /// x0 to x30.
    pub x: [u64; 31],
    /// Where the exception returns to.
    pub elr: u64,
    /// PSTATE that it returns with.
    pub spsr: u64,
}

const FRAME_SIZE: usize = 272;
const _: () = assert!(size_of::<Frame>() <= FRAME_SIZE);

global_asm!(
    r#"
    .macro vector kind
    .balign 0x80
    sub     sp, sp, #{FRAME_SIZE}
    stp     x0, x1, [sp]
    mov     x1, #\kind
    b       exception_common
    .endm

    .pushsection .text.vectors, "ax"
    .balign 0x800
    .global vectors
vectors:
    vector 0
    vector 1
    vector 2
    vector 3
    vector 4
    vector 5
    vector 6
    vector 7
    vector 8
    vector 9
    vector 10
    vector 11
    vector 12
    vector 13
    vector 14
    vector 15

exception_common:
    stp     x2, x3, [sp, #16]
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
    mrs     x2, elr_el1
    stp     x30, x2, [sp, #240]
    mrs     x3, spsr_el1
    str     x3, [sp, #256]
    mov     x0, sp
    bl      exception
    ldr     x3, [sp, #256]
    msr     spsr_el1, x3
    ldp     x30, x2, [sp, #240]
    msr     elr_el1, x2
    ldp     x28, x29, [sp, #224]
    ldp     x26, x27, [sp, #208]
    ldp     x24, x25, [sp, #192]
    ldp     x22, x23, [sp, #176]
    ldp     x20, x21, [sp, #160]
    ldp     x18, x19, [sp, #144]
    ldp     x16, x17, [sp, #128]
    ldp     x14, x15, [sp, #112]
    ldp     x12, x13, [sp, #96]
    ldp     x10, x11, [sp, #80]
    ldp     x8, x9, [sp, #64]
    ldp     x6, x7, [sp, #48]
    ldp     x4, x5, [sp, #32]
    ldp     x2, x3, [sp, #16]
    ldp     x0, x1, [sp]
    add     sp, sp, #{FRAME_SIZE}
    eret
    .popsection
    "#,
    FRAME_SIZE = const FRAME_SIZE,
);

/// Vector table entries (Arm ARM D1.4.2) of the current level with its own stack pointer.
const SYNCHRONOUS: u64 = 4;
const INTERRUPT: u64 = 5;

/// Exception classes of ESR_EL1.
mod class {
    pub const SVC: u64 = 0x15;
    pub const DATA_ABORT: u64 = 0x25;
    pub const BREAKPOINT: u64 = 0x31;
    pub const STEP: u64 = 0x33;
    pub const WATCHPOINT: u64 = 0x35;
    pub const BRK: u64 = 0x3c;
}

/// `BRK #0x100`: the first instruction of `fn_brk`.
pub const BRK_SUBJECT: u64 = 0x100;
/// `BRK #0x101`: the `brk` command.
pub const BRK_COMMAND: u64 = 0x101;
/// `BRK #0x102`: what the `patch` commands can put into `fn_patch`.
pub const BRK_PATCH: u64 = 0x102;
/// `SVC #0x42`: the first instruction of `fn_svc`.
pub const SVC_SUBJECT: u64 = 0x42;
/// `SVC #0x200`: starts single-stepping itself.
pub const SVC_STEP: u64 = 0x200;

#[unsafe(no_mangle)]
extern "C" fn exception(frame: &mut Frame, vector: u64) {
    let handled = match vector {
        SYNCHRONOUS => synchronous(frame),
        INTERRUPT => {
            interrupt();
            true
        }
        _ => false,
    };
    if !handled {
        report(frame, vector);
    }
}

/// One at a time: a handler that waited until none is pending would never end under a debugger that steps it more slowly
/// than the timer ticks.
fn interrupt() {
    if let Some(intid) = gic::acknowledge() {
        smp::bump(&smp::this_cpu().interrupts);
        match intid {
            timer::INTID => timer::interrupt(),
            uart::INTID => uart::interrupt(),
            gic::SGI_WORK => {} // the idle loop looks at its mailbox
            other => uart::print_unlocked(format_args!("EXC unexpected interrupt {other}\n")),
        }
        gic::end(intid);
    }
}

/// Handles what the guest does on purpose. `false` for anything else.
fn synchronous(frame: &mut Frame) -> bool {
    let esr = read_sysreg!("ESR_EL1");
    let immediate = esr & 0xffff;
    let this = smp::this_cpu();
    match esr >> 26 {
        class::SVC if immediate == SVC_SUBJECT => {
            frame.x[8] = frame.x[0].wrapping_add(immediate);
            smp::bump(&this.own_exceptions);
            true
        }
        class::SVC if immediate == SVC_STEP => {
            debug::begin_step(frame);
            true
        }
        class::BRK if immediate == BRK_SUBJECT || immediate == BRK_COMMAND => {
            frame.x[8] = immediate;
            frame.elr += 4;
            smp::bump(&this.own_exceptions);
            true
        }
        class::BRK if immediate == BRK_PATCH => {
            frame.x[0] = frame.x[0].wrapping_add(0x20);
            frame.elr += 4;
            smp::bump(&this.own_exceptions);
            true
        }
        class::DATA_ABORT => data_abort(frame, esr),
        class::STEP => debug::step(frame),
        class::BREAKPOINT => debug::breakpoint(frame),
        class::WATCHPOINT => debug::watchpoint(frame),
        _ => false,
    }
}

unsafe extern "C" {
    /// The load of `fn_ldr_fault` that always faults; only its address is used.
    static fn_ldr_fault: u8;
    /// The accesses of the `fault` command; only their addresses are used.
    static fault_load: u8;
    static fault_store: u8;
}

/// A data abort of an instruction that is there to fault: skips it, with what it met in x8 (and ESR
/// in x9).
fn data_abort(frame: &mut Frame, esr: u64) -> bool {
    let expected = [
        &raw const fn_ldr_fault,
        &raw const fault_load,
        &raw const fault_store,
    ];
    // `fn_ldr_fault` may run through the high alias.
    let low = frame.elr & !crate::mmu::HIGH;
    if !expected.iter().any(|&address| address as u64 == low) {
        return false;
    }
    frame.x[8] = read_sysreg!("FAR_EL1");
    frame.x[9] = esr;
    frame.elr += 4;
    smp::bump(&smp::this_cpu().own_exceptions);
    true
}

/// Prints an exception that nobody expects. A BRK is skipped; any other ends this CPU.
fn report(frame: &mut Frame, vector: u64) {
    let esr = read_sysreg!("ESR_EL1");
    let far = read_sysreg!("FAR_EL1");
    uart::print_unlocked(format_args!(
        "EXC cpu={} vector={vector} el=1 esr={esr:#x} elr={:#x} far={far:#x} x30={:#x}\n",
        smp::this_index(),
        frame.elr,
        frame.x[30],
    ));
    if vector == SYNCHRONOUS && esr >> 26 == class::BRK {
        frame.elr += 4;
        return;
    }
    uart::print_unlocked(format_args!("EXC halted\n"));
    cpu::halt();
}
