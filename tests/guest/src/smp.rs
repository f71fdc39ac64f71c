//! The CPUs: what each has of its own, and how CPU 0 gives work to the others.

use crate::cpu::{self, read_sysreg, write_sysreg};
use crate::{debug, gic, platform, psci, timer};
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use spin::Mutex;

/// At most so many CPUs are used.
pub const MAX_CPUS: usize = 8;
/// At most so many subjects have a counter.
pub const MAX_COUNTS: usize = 64;
/// Where the subjects' assembly finds its scratch words: offset of [`Cpu::scratch`].
pub const SCRATCH_OFFSET: usize = MAX_COUNTS * 8;

/// Work for a CPU: words in, words out.
pub type Work = fn([u64; 4]) -> [u64; 4];

/// What a CPU has of its own. `TPIDR_EL1` points to it; the subjects' assembly knows where `counts`
/// and `scratch` are.
#[repr(C, align(64))]
pub struct Cpu {
    /// Calls of each subject on this CPU. Only this CPU writes.
    pub counts: [AtomicU64; MAX_COUNTS],
    /// Memory that subjects load from and store to.
    pub scratch: [AtomicU64; 8],
    index: AtomicU64,
    online: AtomicBool,
    /// Counter increments between ticks; 0 without ticks.
    pub timer_period: AtomicU64,
    /// Ticks so far.
    pub ticks: AtomicU64,
    /// Virtual timer, console and work interrupts so far.
    pub interrupts: AtomicU64,
    /// SVCs, BRKs of its own and expected faults so far.
    pub own_exceptions: AtomicU64,
    /// What its debug exceptions are used for.
    pub debug: debug::State,
    mailbox: Mailbox,
}

struct Mailbox {
    state: AtomicU32,
    job: Mutex<Option<(Work, [u64; 4])>>,
    results: Mutex<[u64; 4]>,
}

/// Nothing to do.
const IDLE: u32 = 0;
/// Posted or in work.
const BUSY: u32 = 1;
/// The results can be fetched.
const DONE: u32 = 2;

impl Cpu {
    const fn new() -> Self {
        Self {
            counts: [const { AtomicU64::new(0) }; MAX_COUNTS],
            scratch: [const { AtomicU64::new(0) }; 8],
            index: AtomicU64::new(0),
            online: AtomicBool::new(false),
            timer_period: AtomicU64::new(0),
            ticks: AtomicU64::new(0),
            interrupts: AtomicU64::new(0),
            own_exceptions: AtomicU64::new(0),
            debug: debug::State::new(),
            mailbox: Mailbox {
                state: AtomicU32::new(IDLE),
                job: Mutex::new(None),
                results: Mutex::new([0; 4]),
            },
        }
    }
}

const _: () = assert!(core::mem::offset_of!(Cpu, counts) == 0);
const _: () = assert!(core::mem::offset_of!(Cpu, scratch) == SCRATCH_OFFSET);

static CPUS: [Cpu; MAX_CPUS] = [const { Cpu::new() }; MAX_CPUS];

/// Adds one to a word that only this CPU writes, without exclusives.
pub fn bump(counter: &AtomicU64) {
    counter.store(
        counter.load(Ordering::Relaxed).wrapping_add(1),
        Ordering::Relaxed,
    );
}

/// The CPU of number `index`, below [`MAX_CPUS`].
pub fn cpu(index: usize) -> &'static Cpu {
    &CPUS[index]
}

/// The CPU that runs this.
pub fn this_cpu() -> &'static Cpu {
    let this = read_sysreg!("TPIDR_EL1") as *const Cpu;
    // SAFETY: `set_this_cpu` ran before anything that comes here, and CPUS is never freed.
    unsafe { &*this }
}

/// Number of the CPU that runs this.
pub fn this_index() -> usize {
    this_cpu().index.load(Ordering::Relaxed) as usize
}

/// Makes the CPU that runs this number `index`. Without exclusives: it may run with the MMU off.
pub fn set_this_cpu(index: usize) {
    CPUS[index].index.store(index as u64, Ordering::Relaxed);
    // SAFETY: TPIDR_EL1 is ours to use.
    unsafe { write_sysreg!("TPIDR_EL1", (&raw const CPUS[index]) as u64) };
}

/// Says that this CPU takes work and interrupts.
pub fn set_online() {
    this_cpu().online.store(true, Ordering::Release);
}

/// Whether the CPU of number `index` takes work.
pub fn is_online(index: usize) -> bool {
    index < MAX_CPUS && CPUS[index].online.load(Ordering::Acquire)
}

/// How many CPUs take work.
pub fn online_count() -> usize {
    (0..MAX_CPUS).filter(|&index| is_online(index)).count()
}

/// Why a CPU could not be switched on or off.
pub enum PowerError {
    /// PSCI refused.
    Psci(i32),
    /// It did not happen within a second.
    TimeOut,
}

/// Switches a CPU on and waits until it takes work.
pub fn power_on(index: usize) -> Result<(), PowerError> {
    let affinity = platform::get().affinities[index];
    let entry = (&raw const secondary_start) as u64;
    CPUS[index].mailbox.state.store(IDLE, Ordering::Relaxed);
    match psci::cpu_on(affinity, entry, index as u64) {
        0 => within_a_second(|| is_online(index)),
        error => Err(PowerError::Psci(error)),
    }
}

/// Lets a CPU switch itself off and waits until PSCI says that it is off.
pub fn power_off(index: usize) -> Result<(), PowerError> {
    post(index, |_| [psci::cpu_off() as u64, 0, 0, 0], [0; 4]);
    CPUS[index].online.store(false, Ordering::Release);
    let affinity = platform::get().affinities[index];
    within_a_second(|| psci::affinity_info(affinity) == psci::AFFINITY_OFF)
}

fn within_a_second(mut done: impl FnMut() -> bool) -> Result<(), PowerError> {
    let start = timer::counter();
    while !done() {
        if timer::counter().wrapping_sub(start) > timer::frequency() {
            return Err(PowerError::TimeOut);
        }
    }
    Ok(())
}

unsafe extern "C" {
    /// Where PSCI starts a CPU; only its address is used.
    static secondary_start: u8;
}

/// Whether the CPU has work that nobody has waited for.
pub fn is_busy(index: usize) -> bool {
    CPUS[index].mailbox.state.load(Ordering::Acquire) != IDLE
}

/// Gives work to another CPU, which is idle.
pub fn post(index: usize, work: Work, arguments: [u64; 4]) {
    let mailbox = &CPUS[index].mailbox;
    *mailbox.job.lock() = Some((work, arguments));
    mailbox.state.store(BUSY, Ordering::Release);
    gic::send(gic::SGI_WORK, platform::get().affinities[index]);
}

/// Waits for work that was posted.
pub fn wait(index: usize) -> [u64; 4] {
    let mailbox = &CPUS[index].mailbox;
    cpu::wait_until(|| mailbox.state.load(Ordering::Acquire) == DONE);
    mailbox.state.store(IDLE, Ordering::Release);
    *mailbox.results.lock()
}

/// Runs work on a CPU, this one or another, and waits for it.
pub fn run_on(index: usize, work: Work, arguments: [u64; 4]) -> [u64; 4] {
    if index == this_index() {
        return work(arguments);
    }
    post(index, work, arguments);
    wait(index)
}

/// What a CPU other than 0 does for ever.
pub fn serve() -> ! {
    let mailbox = &this_cpu().mailbox;
    loop {
        cpu::wait_until(|| mailbox.state.load(Ordering::Acquire) == BUSY);
        let job = mailbox.job.lock().take();
        if let Some((work, arguments)) = job {
            *mailbox.results.lock() = work(arguments);
        }
        mailbox.state.store(DONE, Ordering::Release);
        // CPU 0 may wait for it in WFI.
        gic::send(gic::SGI_WORK, platform::get().affinities[0]);
    }
}

/// How many CPUs have come to the gate.
static GATE: AtomicU32 = AtomicU32::new(0);

/// Opens a new gate. Before the CPUs that are to meet get their work.
pub fn reset_gate() {
    GATE.store(0, Ordering::Release);
}

/// Waits until `count` CPUs are at the gate, so that they go on at the same time.
pub fn meet(count: u32) {
    GATE.fetch_add(1, Ordering::AcqRel);
    while GATE.load(Ordering::Acquire) < count {
        cpu::relax();
    }
}
