//! Compiled programs: memory for their code, and the calls between it and Rust.
//!
//! Code lies in a region of its own that is mapped R-X like text and is written like it, through an alias (text.rs): no
//! address is ever both writable and executable. It is handed out in units and taken back when the program goes.
//!
//! A CPU may have fetched what was in a unit before. Who installs code makes that void for the caches of all CPUs; what a
//! CPU holds in its pipeline goes with its next context synchronization event (Arm ARM B2.4.4). A program is bound to a
//! site while its space is held, when no CPU is on the way of a hit there: the next hit is an exception, which is such an event
//! (`SCTLR_EL2.EIS` is set). Where a tracepoint's program is called, the tracer makes one.

use crate::lock::MaskedMutex;
use crate::platform::{Platform, Range};
use crate::{sysreg, text, time};
use alloc::boxed::Box;
use core::arch::naked_asm;
use core::ffi::c_void;
use core::mem::offset_of;
use core::sync::atomic::AtomicU64;
use ebpf::Context;
use ebpf::jit::{
    Atomics, Blinding, Call, Checks, Code, Compiler, HelperOutcome, Native, Options, Outcome,
    Runtime,
};

/// Bytes that are handed out at once.
const UNIT: usize = 256;
/// Bytes of the region (`hypervisor.ld`).
const SIZE: usize = 512 * 1024;
const UNITS: usize = SIZE / UNIT;

/// Which units are in use: a bit each.
static USED: MaskedMutex<[u64; UNITS / 64]> = MaskedMutex::new([0; UNITS / 64]);

/// Where code lies.
pub fn range() -> Range {
    unsafe extern "C" {
        static __native_start: u8;
        static __native_end: u8;
    }
    Range {
        start: &raw const __native_start as u64,
        end: &raw const __native_end as u64,
    }
}

/// What compiles programs, as the command line has it: `jit=off` nothing, `jit=blind` so that no constant of a program is
/// found in executable memory.
pub fn compiler(platform: &Platform) -> Option<&'static dyn Compiler> {
    match platform.option("jit") {
        Some("off") => None,
        Some("blind") => Some(&OnTheseCpus { blind: true }),
        _ => Some(&OnTheseCpus { blind: false }),
    }
}

/// Makes programs run on these CPUs.
struct OnTheseCpus {
    blind: bool,
}

impl Compiler for OnTheseCpus {
    fn options(&self) -> Options {
        // ID_AA64ISAR0_EL1.Atomic. All CPUs of a machine have these instructions, or none.
        let has_lse = sysreg::read!("id_aa64isar0_el1") >> 20 & 0xf >= 2;
        Options {
            runtime: Runtime {
                helper_entry: helper_entry as *const () as u64,
                atomics: if has_lse {
                    Atomics::Lse
                } else {
                    Atomics::Exclusives
                },
            },
            // The verifier proves every access. It is young, and a mistake of its would be one at EL2.
            checks: Checks::Every,
            blinding: if self.blind {
                Blinding::Seed(time::now_ns() | 1)
            } else {
                Blinding::Off
            },
        }
    }

    fn install(&self, code: &Code) -> Option<Box<dyn Native>> {
        let units = Units::take(code.words().len().div_ceil(UNIT / 4))?;
        // SAFETY: the units are ours, nobody executes them, and only the server's CPU changes text and code.
        unsafe { text::write_words(units.start(), code.words()) };
        Some(Box::new(Installed {
            start: units.start() as *const u32,
            _units: units,
        }))
    }
}

/// Units in use.
#[derive(Debug)]
struct Units {
    first: usize,
    count: usize,
}

impl Units {
    /// The first free units of so many in a row.
    fn take(count: usize) -> Option<Self> {
        let mut used = USED.lock();
        let mut first = 0;
        while first + count <= UNITS {
            let taken = |unit: &usize| used[unit / 64] >> (unit % 64) & 1 != 0;
            match (first..first + count).rev().find(taken) {
                Some(unit) => first = unit + 1,
                None => {
                    (first..first + count).for_each(|unit| used[unit / 64] |= 1 << (unit % 64));
                    return Some(Self { first, count });
                }
            }
        }
        None
    }

    fn start(&self) -> u64 {
        range().start + (self.first * UNIT) as u64
    }
}

impl Drop for Units {
    fn drop(&mut self) {
        let mut used = USED.lock();
        (self.first..self.first + self.count)
            .for_each(|unit| used[unit / 64] &= !(1 << (unit % 64)));
    }
}

/// Code in its place.
#[derive(Debug)]
struct Installed {
    start: *const u32,
    _units: Units,
}

// SAFETY: code is only read.
unsafe impl Send for Installed {}
// SAFETY: the same.
unsafe impl Sync for Installed {}

impl Native for Installed {
    // SAFETY: the units hold what the compiler made, which is a function of type `EntryPoint`, as long as they are ours.
    // Its arguments are where this has them, so it is jumped to and returns to the caller.
    #[unsafe(naked)]
    extern "C" fn enter(
        &self,
        call: *const c_void,
        context: *const Context,
        arena: *const AtomicU64,
        budget: u64,
        cpu: u64,
    ) -> Outcome {
        naked_asm!(
            "ldr x16, [x0, {start}]",
            "br x16",
            start = const offset_of!(Installed, start),
        )
    }
}

/// What compiled code calls.
extern "C" fn helper_entry(
    call: *const c_void,
    number: u64,
    first: u64,
    second: u64,
    third: u64,
    fourth: u64,
    fifth: u64,
    left: u64,
) -> HelperOutcome {
    // SAFETY: compiled code hands back the call that it was entered with, which lives until the code returns.
    let call = unsafe { &*call.cast::<Call<'_>>() };
    let arguments = [first, second, third, fourth, fifth];
    ebpf::jit::helper(call, number as u32, arguments, left)
}
