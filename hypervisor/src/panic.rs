//! What happens when the hypervisor itself is wrong: registers, a backtrace with names, and this CPU stops. The others
//! go on, and so do the consoles they serve.

use crate::backtrace::Backtrace;
use crate::console_log::{emergency, emergency_begin};
use crate::rendezvous::brk;
use crate::vectors::Frame;
use crate::{cpu, hprobes, sysreg};
use core::panic::PanicInfo;

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    emergency_begin();
    emergency(format_args!(
        "\nhypervisor panic on cpu{}: {info}\n",
        cpu::this().index
    ));
    let frame: u64;
    // SAFETY: reads a register.
    unsafe { core::arch::asm!("mov {}, x29", out(reg) frame, options(nomem, nostack)) };
    emergency(format_args!("{}", Backtrace::from_frame_pointer(frame)));
    stop()
}

/// An exception that EL2 itself took and that is nobody's (el2.rs). `kind`: which vector.
pub fn el2_fault(frame: &Frame, kind: u64) -> ! {
    emergency_begin();
    let esr = frame.syndrome;
    let what = ["synchronous exception", "IRQ", "FIQ", "SError"][kind as usize & 3];
    emergency(format_args!(
        "\nEL2 fault on cpu{}: {what}, ESR {esr:#x} ({}), FAR {:#x}\n",
        cpu::this().index,
        crate::esr::describe(esr),
        frame.fault_address,
    ));
    let regs = &frame.regs;
    for (row, values) in regs.x.chunks(4).enumerate() {
        for (column, value) in values.iter().enumerate() {
            emergency(format_args!("  x{:<2} {value:#018x}", row * 4 + column));
        }
        emergency(format_args!("\n"));
    }
    emergency(format_args!(
        "  sp  {:#018x}  pstate {:#x}\n",
        regs.sp, regs.pstate
    ));
    // A displaced instruction that faults does so in its slot.
    let pc = hprobes::address_of(regs.pc);
    emergency(format_args!("{}", Backtrace::new(pc, regs.x[29])));
    stop()
}

/// The stack ran into its hole (vectors.rs).
#[unsafe(no_mangle)]
extern "C" fn el2_stack_overflow(pc: u64, sp: u64) -> ! {
    emergency_begin();
    emergency(format_args!(
        "\nEL2 stack overflow on cpu{}: SP {sp:#x}, FAR {:#x}\n{}",
        cpu::this().index,
        sysreg::read!("far_el2"),
        Backtrace::new(pc, 0),
    ));
    stop()
}

fn stop() -> ! {
    emergency(format_args!(
        "cpu{} stopped; the other CPUs go on\n",
        cpu::this().index
    ));
    // SAFETY: the exception's handler (el2.rs) keeps what the registers are now and does not return.
    unsafe { core::arch::asm!("brk #{}", const brk::CRASHED, options(noreturn)) }
}
