//! Bringing the other CPUs to rest, and letting them go on.
//!
//! A CPU **rests** inside an exception that it has taken at EL2: its registers are in that exception's [`Frame`], where
//! whoever stopped it reads and writes them, and it waits in WFI for nothing but the stop interrupt. It needs no lock to
//! rest and holds none of the debugger's own ([`crate::lock`]).
//!
//! There is one master, the service CPU: it alone stops the others, so no two CPUs ever wait for each other to rest. A CPU
//! that comes to a breakpoint rests by itself and tells the master (debugger.rs).
//!
//! How a CPU is reached: in a guest, the stop interrupt is an exit like any other and is acknowledged in
//! `interrupts::serve`, which rests through a `BRK` to have a frame of EL2's; in a window of EL2 it is taken right there;
//! in WFI it wakes the CPU. Code outside of windows is short. What does not come to rest in [`ANSWER_TIME`] is reported by
//! its number; a CPU that has crashed rests already.
//!
//! Guest time stands still from [`stop_cpus`] to [`resume_cpus`]: `time::stopped_ticks` grows by it, and every CPU that
//! rested puts the difference into its `CNTVOFF_EL2`.

use crate::lock::MaskedMutex;
use crate::vectors::Frame;
use crate::{cpu, fp, gic, masking, own_sys, sysreg, time};
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use probes::regs::{FpRegs, SysRegs};

/// The CPU that stops the others.
pub const MASTER: usize = 0;

/// How long a CPU may take to come to rest, in nanoseconds.
pub const ANSWER_TIME: u64 = 1_000_000_000;
/// The same for one that has not answered the last stop.
const SECOND_CHANCE: u64 = 10_000_000;

/// `BRK` immediates of this file. Probes on EL2 code have those from 0x4000 on.
pub mod brk {
    /// The stop interrupt has been acknowledged outside of an exception of EL2.
    pub const OBEY: u16 = 0x3f00;
    /// This CPU has crashed and goes no further.
    pub const CRASHED: u16 = 0x3f01;
    /// The debugger has to run here and now.
    pub const ATTEND: u16 = 0x3f02;
    /// The instruction before has been executed for the debugger.
    pub const STEPPED: u16 = 0x3f03;
}

/// What else is in the registers of a CPU that rests, to be read.
#[derive(Clone, Copy, Debug)]
pub struct Context {
    /// SIMD registers.
    pub fp: FpRegs,
    /// System registers: the guest's at EL1, and the CPU's own at EL2.
    pub sys: SysRegs,
}

/// Where one CPU rests.
struct Place {
    /// Its frame while it rests, else null.
    frame: AtomicPtr<Frame>,
    /// It rests until the master lets it go, however often the others are stopped and resumed meanwhile.
    kept: AtomicBool,
    /// It executes one instruction while the others rest.
    alone: AtomicBool,
    /// As of the moment when it came to rest.
    context: MaskedMutex<Option<Context>>,
}

static PLACES: [Place; cpu::MAX_CPUS] = [const {
    Place {
        frame: AtomicPtr::new(ptr::null_mut()),
        kept: AtomicBool::new(false),
        alone: AtomicBool::new(false),
        context: MaskedMutex::new(None),
    }
}; cpu::MAX_CPUS];

/// How many stops there are that have not been resumed.
static STOPS: AtomicUsize = AtomicUsize::new(0);
/// When the first of them began, in ticks.
static SINCE: AtomicU64 = AtomicU64::new(0);
/// The CPUs that did not come to rest then, as [`CpuSet::bits`].
static MISSING: AtomicU32 = AtomicU32::new(0);
/// Whether the master was in a window then.
static MASTER_UNMASKS: AtomicBool = AtomicBool::new(false);

/// A set of CPUs, by their numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CpuSet(u32);

impl CpuSet {
    /// One bit for each CPU, CPU 0 lowest.
    pub fn bits(self) -> u32 {
        self.0
    }

    /// From [`CpuSet::bits`].
    pub fn from_bits(bits: u32) -> Self {
        Self(bits)
    }

    /// Adds one.
    pub fn insert(&mut self, index: usize) {
        self.0 |= 1 << index;
    }

    /// Whether one is in it.
    fn contains(self, index: usize) -> bool {
        self.0 & 1 << index != 0
    }

    /// Their numbers, lowest first.
    pub fn iter(self) -> impl Iterator<Item = usize> {
        (0..cpu::MAX_CPUS).filter(move |index| self.contains(*index))
    }
}

// ---- The master ----

/// Brings every other CPU to rest and masks the caller's interrupts. Nests; [`resume_cpus`] takes it back. Returns the CPUs
/// that do not answer: they may be executing anything.
///
/// On the master only.
pub fn stop_cpus() -> CpuSet {
    let before = masking::mask();
    if STOPS.fetch_add(1, Ordering::SeqCst) != 0 {
        // Who does not rest has had its time.
        return restless();
    }
    MASTER_UNMASKS.store(before == masking::Before::Window, Ordering::Relaxed);
    for other in others().filter(|other| !rests(other.index)) {
        gic::send(other, gic::SGI_STOP);
    }
    let missing = wait_for_rest();
    // Only now: no guest may see its time go back.
    SINCE.store(time::ticks(), Ordering::Relaxed);
    missing
}

fn wait_for_rest() -> CpuSet {
    let began = time::now_ns();
    let before = CpuSet::from_bits(MISSING.load(Ordering::Relaxed));
    for other in others() {
        let patience = match before.contains(other.index) {
            true => SECOND_CHANCE,
            false => ANSWER_TIME,
        };
        while !rests(other.index) && time::now_ns() - began < patience {
            cpu::relax();
        }
    }
    let missing = restless();
    MISSING.store(missing.bits(), Ordering::Relaxed);
    missing
}

/// The other CPUs that do not rest.
fn restless() -> CpuSet {
    let mut set = CpuSet::default();
    for other in others().filter(|other| !rests(other.index)) {
        set.insert(other.index);
    }
    set
}

/// Takes one [`stop_cpus`] back; with the last, the others go on from their frames and the caller's interrupts are as they
/// were.
///
/// On the master only.
pub fn resume_cpus() {
    if STOPS.load(Ordering::Relaxed) == 1 {
        let stopped = time::ticks().wrapping_sub(SINCE.load(Ordering::Relaxed));
        time::add_stopped_ticks(stopped);
        time::shift_guest_time(stopped);
    }
    if STOPS.fetch_sub(1, Ordering::SeqCst) != 1 {
        return;
    }
    for other in others() {
        gic::send(other, gic::SGI_STOP);
    }
    if MASTER_UNMASKS.load(Ordering::Relaxed) {
        masking::restore(masking::Before::Window);
    }
}

fn others() -> impl Iterator<Item = &'static cpu::Cpu> {
    cpu::online().filter(|cpu| cpu.index != MASTER)
}

/// Gives the master's own registers to [`with_frame`], until [`withdraw`].
pub fn publish(frame: &mut Frame) {
    let place = &PLACES[MASTER];
    *place.context.lock() = Some(Context::of_this_cpu(frame));
    place.frame.store(frame, Ordering::SeqCst);
}

/// Takes [`publish`] back.
pub fn withdraw() {
    PLACES[MASTER]
        .frame
        .store(ptr::null_mut(), Ordering::SeqCst);
}

/// Whether a CPU rests, or has crashed.
pub fn rests(index: usize) -> bool {
    let place = PLACES.get(index);
    place.is_some_and(|place| !place.frame.load(Ordering::SeqCst).is_null())
}

/// Reads or changes the registers of a CPU that rests. On the master, between [`stop_cpus`] and [`resume_cpus`]; `None` where
/// the CPU does not rest.
pub fn with_frame<T>(index: usize, action: impl FnOnce(&mut Frame) -> T) -> Option<T> {
    let frame = PLACES.get(index)?.frame.load(Ordering::SeqCst);
    // SAFETY: a CPU publishes the frame of the exception that it is in and leaves it alone until it has taken the pointer
    // back; it does that only with no stop in force, which the caller has. The master is the only caller.
    unsafe { frame.as_mut() }.map(action)
}

/// Reads what else is known of a CPU that rests.
pub fn with_context<T>(index: usize, action: impl FnOnce(&Context) -> T) -> Option<T> {
    PLACES.get(index)?.context.lock().as_ref().map(action)
}

// ---- A CPU that rests ----

impl Context {
    /// Of the calling CPU, which has come into the exception of `frame`.
    fn of_this_cpu(frame: &Frame) -> Self {
        Self {
            fp: fp::save(),
            sys: own_sys::save(frame),
        }
    }
}

/// The stop interrupt came in an exception of EL2: rests as long as it has to. Not on the master.
pub fn rest(frame: &mut Frame) {
    let place = &PLACES[cpu::this().index];
    let must_rest = || {
        let stopped = STOPS.load(Ordering::SeqCst) != 0;
        stopped && !place.alone.load(Ordering::SeqCst) || place.kept.load(Ordering::SeqCst)
    };
    if !must_rest() {
        return;
    }
    // What is saved here may carry breakpoints: they are not for this.
    let _inside = cpu::this().enter_probe();
    let stopped_before = time::stopped_ticks();
    *place.context.lock() = Some(Context::of_this_cpu(frame));
    loop {
        place.frame.store(frame, Ordering::SeqCst);
        while must_rest() {
            masking::wait(gic::PriorityMask::StopOnly);
            take_stop_interrupts();
        }
        place.frame.store(ptr::null_mut(), Ordering::SeqCst);
        // A stop that came in between has either seen the frame gone and waits for it, or we see the stop here. What it may
        // have seen before that is a CPU which executes this loop and nothing else.
        if !must_rest() {
            break;
        }
    }
    time::shift_guest_time(time::stopped_ticks().wrapping_sub(stopped_before));
    // Code may have changed. The ERET that follows synchronizes as well; this is for what lies before it.
    sysreg::isb();
}

/// Rests until the master says otherwise by [`let_go`]: for a CPU that has come to a breakpoint.
pub fn rest_until_let_go(frame: &mut Frame) {
    let place = &PLACES[cpu::this().index];
    place.kept.store(true, Ordering::SeqCst);
    rest(frame);
}

/// Ends what [`rest_until_let_go`] began. The CPU goes on when no stop is left.
pub fn let_go(index: usize) {
    if let (Some(place), Some(cpu)) = (PLACES.get(index), cpu::get(index))
        && place.kept.swap(false, Ordering::SeqCst)
    {
        gic::send(cpu, gic::SGI_STOP);
    }
}

/// Makes a CPU that rests stay at rest when the others go on, until [`let_go`].
pub fn keep(index: usize) {
    if let Some(place) = PLACES.get(index) {
        place.kept.store(true, Ordering::SeqCst);
    }
}

/// Whether a CPU rests whatever the others do.
pub fn is_kept(index: usize) -> bool {
    let place = PLACES.get(index);
    place.is_some_and(|place| place.kept.load(Ordering::SeqCst))
}

/// Lets a CPU that rests go on from its frame while the others rest, and waits until it rests again ([`rest_again`]). Returns
/// whether it does. On the master, with a stop in force.
pub fn run_alone(index: usize) -> bool {
    let (Some(place), Some(cpu)) = (PLACES.get(index), cpu::get(index)) else {
        return false;
    };
    place.kept.store(false, Ordering::SeqCst);
    place.alone.store(true, Ordering::SeqCst);
    gic::send(cpu, gic::SGI_STOP);
    let deadline = time::now_ns() + ANSWER_TIME;
    while place.alone.load(Ordering::SeqCst) || !rests(index) {
        if time::now_ns() > deadline {
            return false;
        }
        cpu::relax();
    }
    true
}

/// Ends what [`run_alone`] began, on its CPU.
pub fn rest_again(frame: &mut Frame) {
    PLACES[cpu::this().index]
        .alone
        .store(false, Ordering::SeqCst);
    rest(frame);
}

/// Publishes the last registers of a CPU that goes no further, and ends it.
pub fn rest_for_ever(frame: &mut Frame) -> ! {
    let place = &PLACES[cpu::this().index];
    *place.context.lock() = Some(Context::of_this_cpu(frame));
    place.frame.store(frame, Ordering::SeqCst);
    loop {
        aarch64_cpu::asm::wfe();
    }
}

/// Takes all pending stop interrupts away. They carry no message: who had one looks at what there is to do.
pub fn take_stop_interrupts() {
    masking::with_priority_mask(gic::PriorityMask::StopOnly, || {
        while let Some(intid) = gic::acknowledge() {
            gic::drop_priority(intid);
            gic::deactivate(intid);
        }
    });
}

/// Rests, or attends the debugger, where the stop interrupt was acknowledged outside of an exception of EL2.
#[inline(never)]
pub fn obey() {
    // SAFETY: the exception's handler (el2.rs) returns behind the instruction with all registers as they were.
    unsafe { core::arch::asm!("brk #{}", const brk::OBEY) };
}
