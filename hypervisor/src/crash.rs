//! Crashing on purpose: `crash=panic|fault|overflow|hang` on the command line makes the last CPU that has no vCPU do it once
//! everything runs. For the tests of panic.rs: a CPU that stops must leave the guests and the server alone; and for those of
//! rendezvous.rs: so must one that answers no interrupt any more.

use crate::platform::Platform;
use crate::{cpu, masking};
use core::hint::black_box;
use spin::Once;

/// Where nothing is mapped: the hypervisor's map leaves the first page out.
const UNMAPPED: *const u8 = 0x10 as *const u8;

/// How to crash.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Panic,
    Fault,
    Overflow,
    Hang,
}

/// What was asked for, and of which CPU.
static REQUESTED: Once<(Kind, usize)> = Once::new();

/// Reads the request. A CPU that waits for work must be woken to see it.
pub fn arm(platform: &Platform) {
    let kind = match platform.option("crash") {
        Some("panic") => Kind::Panic,
        Some("fault") => Kind::Fault,
        Some("overflow") => Kind::Overflow,
        Some("hang") => Kind::Hang,
        _ => return,
    };
    let idle = cpu::online().filter(|cpu| cpu.resident.get().is_none());
    let Some(last) = idle.last() else { return };
    REQUESTED.call_once(|| (kind, last.index));
    crate::interrupts::kick(last);
}

/// Crashes, if this CPU has been asked to.
pub fn if_requested() {
    let Some(&(kind, index)) = REQUESTED.get() else {
        return;
    };
    if index != cpu::this().index {
        return;
    }
    match kind {
        Kind::Panic => panic!("asked for on the command line"),
        // SAFETY: none: this read is meant to fault, and nothing comes after it.
        Kind::Fault => drop(black_box(unsafe { UNMAPPED.read_volatile() })),
        Kind::Overflow => drop(black_box(descend(0))),
        Kind::Hang => hang(),
    }
}

/// Is deaf for ever.
fn hang() -> ! {
    let _masked = masking::Masked::new();
    loop {
        cpu::relax();
    }
}

/// Never comes to an end.
#[expect(unconditional_recursion, reason = "overflows the stack on purpose")]
#[inline(never)]
fn descend(depth: u64) -> u64 {
    let frame = black_box([depth; 32]);
    descend(depth + 1) + frame[0]
}
