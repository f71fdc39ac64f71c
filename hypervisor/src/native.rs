//! Compiled programs: memory for their code, and the calls between it and Rust.
//!
//! Code lies in a region of its own that is mapped R-X like text and is written like it, through an alias (text.rs): no
//! address is ever both writable and executable. It is handed out in units and taken back when the program goes.
//!
//! A CPU may have fetched what was in a unit before. Who installs code makes that void for the caches of all CPUs; what a
//! CPU holds in its pipeline goes with its next context synchronization (Arm ARM B2.4.4). [`Installed::enter`] makes sure
//! that there has been one since the last installation.

use crate::cpu::{self, MAX_CPUS};
use crate::lock::MaskedMutex;
use crate::platform::{Platform, Range};
use crate::{sysreg, text, time};
use alloc::boxed::Box;
use core::ffi::c_void;
use core::sync::atomic::{AtomicU32, Ordering};
use ebpf::jit::{
    Atomics, Blinding, Checks, Code, Compiler, Entry, EntryPoint, HelperOutcome, Native, Options,
    Outcome, Run, Runtime,
};

/// Bytes that are handed out at once.
const UNIT: usize = 256;
/// Bytes of the region (`hypervisor.ld`).
const SIZE: usize = 512 * 1024;
const UNITS: usize = SIZE / UNIT;

/// Which units are in use: a bit each.
static USED: MaskedMutex<[u64; UNITS / 64]> = MaskedMutex::new([0; UNITS / 64]);

/// How many programs have been installed.
static INSTALLED: AtomicU32 = AtomicU32::new(0);
/// How many of them each CPU has synchronized with.
static SEEN: [AtomicU32; MAX_CPUS] = [const { AtomicU32::new(0) }; MAX_CPUS];

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
            // The verifier is structural: it does not prove what a program accesses.
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
        INSTALLED.fetch_add(1, Ordering::Release);
        Some(Box::new(Installed(units)))
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

#[derive(Debug)]
struct Installed(Units);

impl Native for Installed {
    fn enter(&self, entry: &Entry) -> Outcome {
        let installed = INSTALLED.load(Ordering::Acquire);
        let seen = &SEEN[cpu::this().index];
        if seen.load(Ordering::Relaxed) != installed {
            sysreg::isb();
            seen.store(installed, Ordering::Relaxed);
        }
        // SAFETY: these units hold what the compiler made, which is a function of that type, as long as they are ours.
        let program =
            unsafe { core::mem::transmute::<*const u32, EntryPoint>(self.0.start() as *const u32) };
        let Entry {
            run,
            context,
            arena,
            budget,
            stack,
            cpu,
        } = *entry;
        // SAFETY: these are the arguments that it was compiled for.
        unsafe { program(run, context, arena, budget, stack, cpu) }
    }
}

/// What compiled code calls.
extern "C" fn helper_entry(
    run: *mut c_void,
    number: u64,
    first: u64,
    second: u64,
    third: u64,
    fourth: u64,
    fifth: u64,
    left: u64,
) -> HelperOutcome {
    // SAFETY: compiled code hands back the run that it was entered with, which nobody uses meanwhile.
    let run = unsafe { &mut *run.cast::<Run<'_>>() };
    let arguments = [first, second, third, fourth, fifth];
    ebpf::jit::helper(run, number as u32, arguments, left)
}
