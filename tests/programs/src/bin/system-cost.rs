//! Times what a Linux guest does, in counter increments, inside it:
//!
//! * `system-cost calls BATCHES CALLS [FUNCTION]`: batches of a system call that does nothing. With FUNCTION, a kprobe of
//!   Linux' own with an eBPF program that counts is on that function of the kernel's meanwhile; the last line says its count.
//! * `system-cost load ROUNDS`: rounds of a fork, an exec, and opened files.
//!
//! Prints a number for each batch or round.
#![no_std]
#![no_main]

use core::arch::{asm, global_asm};
use core::ffi::CStr;
use core::fmt::Write;
use guest_programs::linux::{self, Forked, Stdout};
use guest_programs::tracing::Counter;

global_asm!(
    "    .globl _start",
    "_start:",
    "    mov x0, sp",
    "    b {start}",
    start = sym start,
);

/// How many numbers there are at most.
const MOST: usize = 4096;
/// Files that a round of the load opens.
const OPENS: usize = 10;

/// The program, with its arguments on the initial stack: their number, then pointers to them.
extern "C" fn start(stack: *const usize) -> ! {
    let mut times = [0; MOST];
    // SAFETY: the kernel has put the stack there.
    let argument = |number| unsafe { linux::argument(stack, number) };
    let word = |number| argument(number).map(CStr::to_str)?.ok();
    let number = |number| word(number).and_then(|word| word.parse().ok()).unwrap_or(1);
    let (count, counter) = match word(1) {
        Some("calls") => {
            let counter = argument(4).map(Counter::attach).transpose();
            let counter = counter.unwrap_or_else(|failure| panic!("no {failure:?}"));
            let calls = number(3);
            let count = repeat(&mut times, number(2), || {
                for _ in 0..calls {
                    linux::getppid();
                }
            });
            (count, counter)
        }
        Some("load") => (repeat(&mut times, number(2), round), None),
        _ => panic!("`calls BATCHES CALLS [FUNCTION]` or `load ROUNDS`"),
    };
    // Only now: the console's interrupts would fall into the batches.
    for time in &times[..count] {
        let _ = writeln!(Stdout, "{time}");
    }
    if let Some(counter) = counter {
        match counter.count() {
            Ok(hits) => {
                let _ = writeln!(Stdout, "hits={hits}");
            }
            Err(failure) => panic!("no {failure:?}"),
        }
    }
    linux::exit(0)
}

/// Times each of `count` repetitions, [`MOST`] at most. Returns how many.
fn repeat(times: &mut [u64; MOST], count: usize, mut action: impl FnMut()) -> usize {
    let times = times.iter_mut().take(count);
    let mut done = 0;
    for time in times {
        let began = counter();
        action();
        *time = counter() - began;
        done += 1;
    }
    done
}

fn round() {
    for _ in 0..OPENS {
        match linux::open(c"/etc/profile") {
            Ok(file) => linux::close(file),
            Err(errno) => panic!("no file: {errno:?}"),
        }
    }
    match linux::fork() {
        Ok(Forked::Parent(child)) => {
            child.wait();
        }
        Ok(Forked::Child) => {
            let errno = linux::exec(c"/bin/busybox", c"true");
            panic!("no exec: {errno:?}");
        }
        Err(errno) => panic!("no fork: {errno:?}"),
    }
}

/// The virtual counter, after everything before.
fn counter() -> u64 {
    let value;
    // SAFETY: Linux lets programs read it.
    unsafe { asm!("isb", "mrs {}, cntvct_el0", out(reg) value, options(nomem, nostack)) };
    value
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    let _ = writeln!(Stdout, "system-cost: {info}");
    linux::exit(1);
}
