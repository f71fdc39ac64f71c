//! Physical CPUs: per-CPU data, stacks, and switching the other CPUs on.

use crate::platform::Range;
use crate::{gic, mmu, sysreg, vcpu, vectors};
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use log::{error, info};
use spin::Once;

/// How many CPUs we use at most. `hypervisor.ld` reserves as many stack slots, and one for the debugger.
pub const MAX_CPUS: usize = 8;
/// The slot of the stack on which the debugger runs while the hypervisor is stopped (debugger.rs).
pub const DEBUGGER_STACK: usize = MAX_CPUS;

const SLOT: u64 = 0x1_0000;
/// Size of a CPU's stack in bytes. The same size below it in the slot is a hole: an overflow faults there, and because
/// slots are aligned to twice the stack, one bit of SP tells (vectors.rs).
pub const STACK_SIZE: u64 = SLOT / 2;

/// What belongs to one CPU. `TPIDR_EL2` points to it.
pub struct Cpu {
    /// Linear number, from 0 in the order of the device tree.
    pub index: usize,
    /// Affinity fields of `MPIDR_EL1`.
    pub affinity: AtomicU32,
    /// Set once this CPU has come up.
    pub online: AtomicBool,
    /// The vCPU that lives here, if any.
    pub resident: Once<vcpu::Resident>,
    /// It serves a hit of a probe. Its own.
    probing: AtomicBool,
    /// How many locks (lock.rs) it holds. Only it writes this; others can rely on it while it rests.
    locks: AtomicU32,
}

/// The time in which a CPU serves a hit.
pub struct Probing(&'static Cpu);

impl Drop for Probing {
    fn drop(&mut self) {
        self.0.end_probe();
    }
}

impl Cpu {
    /// It has taken a lock.
    pub fn lock_taken(&self) {
        // Only this CPU changes it, and an interrupt that does gives back what it has taken.
        self.locks
            .store(self.locks.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    /// It has given a lock back.
    pub fn lock_dropped(&self) {
        self.locks
            .store(self.locks.load(Ordering::Relaxed) - 1, Ordering::Relaxed);
    }

    /// Whether it holds a lock: others would wait for it while it rests.
    pub fn holds_lock(&self) -> bool {
        self.locks.load(Ordering::Relaxed) != 0
    }

    /// Begins to serve a hit on this CPU; `None` where it serves one already.
    pub fn enter_probe(&'static self) -> Option<Probing> {
        // Only this CPU looks at it, so this need not be one access.
        if self.probing.load(Ordering::Relaxed) {
            return None;
        }
        self.begin_probe();
        Some(Probing(self))
    }

    /// From here on, hits on this CPU count as hits inside a probe, until [`Cpu::end_probe`].
    pub fn begin_probe(&self) {
        self.probing.store(true, Ordering::Relaxed);
    }

    /// Ends what [`Cpu::begin_probe`] began.
    pub fn end_probe(&self) {
        self.probing.store(false, Ordering::Relaxed);
    }
}

static CPUS: [Cpu; MAX_CPUS] = {
    let mut cpus = [const {
        Cpu {
            index: 0,
            affinity: AtomicU32::new(0),
            online: AtomicBool::new(false),
            resident: Once::new(),
            probing: AtomicBool::new(false),
            locks: AtomicU32::new(0),
        }
    }; MAX_CPUS];
    let mut index = 0;
    while index < MAX_CPUS {
        cpus[index].index = index;
        index += 1;
    }
    cpus
};

/// The CPU that this code runs on.
pub fn this() -> &'static Cpu {
    let pointer = sysreg::read_constant!("tpidr_el2") as *const Cpu;
    // SAFETY: `enter` set TPIDR_EL2 to an element of CPUS before any code that calls this; nothing else writes it.
    unsafe { &*pointer }
}

/// A CPU by its number.
pub fn get(index: usize) -> Option<&'static Cpu> {
    CPUS.get(index)
        .filter(|cpu| cpu.online.load(Ordering::Acquire))
}

/// All CPUs that are online.
pub fn online() -> impl Iterator<Item = &'static Cpu> {
    CPUS.iter().filter(|cpu| cpu.online.load(Ordering::Acquire))
}

/// The stack of CPU `index`, or [`DEBUGGER_STACK`].
pub fn stack(index: usize) -> Range {
    unsafe extern "C" {
        static __stacks_start: u8;
    }
    let slot = &raw const __stacks_start as u64 + index as u64 * SLOT;
    Range {
        start: slot + STACK_SIZE,
        end: slot + SLOT,
    }
}

/// Makes the calling CPU number `index`: per-CPU pointer and exception vectors. First thing in Rust on every CPU.
pub fn enter(index: usize) {
    let cpu = &CPUS[index];
    let affinity = sysreg::read!("mpidr_el1");
    cpu.affinity
        .store((affinity & 0xff_ffff) as u32, Ordering::Relaxed);
    // SAFETY: TPIDR_EL2 is ours alone.
    unsafe { sysreg::write!("tpidr_el2", cpu as *const Cpu as u64) };
    vectors::install();
    cpu.online.store(true, Ordering::Release);
}

/// In a loop that waits for another CPU. YIELD, not the ISB of `spin_loop`: an emulator that runs its CPUs in turn (QEMU with
/// `-icount`) goes on with the next one here, else it may never run the one that we wait for.
pub fn relax() {
    // SAFETY: a hint.
    unsafe { core::arch::asm!("yield", options(nomem, nostack, preserves_flags)) };
}

/// Switches all other CPUs on and waits for them. Returns how many are online.
pub fn start_others(affinities: &[u64]) -> usize {
    let own = sysreg::read!("mpidr_el1") & 0xff_00ff_ffff;
    let mut index = 0;
    for &affinity in affinities.iter().filter(|&&affinity| affinity != own) {
        index += 1;
        if index >= MAX_CPUS {
            info!("using {MAX_CPUS} of {} CPUs", affinities.len());
            break;
        }
        let entry = crate::boot::_start_secondary as *const () as u64;
        if let Err(reason) = smccc::psci::cpu_on::<smccc::Smc>(affinity, entry, index as u64) {
            error!("CPU {index} (affinity {affinity:#x}) does not start: {reason}");
            continue;
        }
        while !CPUS[index].online.load(Ordering::Acquire) {
            relax();
        }
    }
    online().count()
}

/// Where the other CPUs arrive (boot.rs), with the first map of the boot CPU's making.
#[unsafe(no_mangle)]
extern "C" fn secondary_cpu_main(index: u64) -> ! {
    mmu::switch();
    enter(index as usize);
    gic::init_cpu(index as usize);
    crate::run_cpu()
}
