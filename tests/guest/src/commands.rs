//! The command loop. The commands are listed at the head of `main.rs`.

use crate::leaving;
use crate::measure::{self, What};
use crate::routines::{self, Access, Patch};
use crate::smp::{self, Work};
use crate::subjects::{self, Alias, Kind, Outcome, SUBJECTS};
use crate::uart::{self, Receive, println};
use crate::{cpu, mmu, psci, timer};
use core::fmt;
use core::str::SplitAsciiWhitespace;
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

/// Why a command was not done.
enum Refusal {
    UnknownCommand,
    UnknownSubject,
    Missing(&'static str),
    BadNumber,
    BadWord,
    CpuNotThere,
    CpuBusy,
    NotOnCpu0,
    NeedsMmu,
    NeedsLse,
    NotSpinning,
    Psci(i32),
    TimeOut,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownCommand => f.write_str("no such command: try help"),
            Self::UnknownSubject => f.write_str("no such subject: try list"),
            Self::Missing(what) => write!(f, "{what} is missing"),
            Self::BadNumber => f.write_str("not a number: decimal or 0x hexadecimal, 64 bits"),
            Self::BadWord => f.write_str("no such option of this command"),
            Self::CpuNotThere => f.write_str("that CPU is not online: see cpus"),
            Self::CpuBusy => f.write_str("that CPU spins: stop it first"),
            Self::NotOnCpu0 => f.write_str("CPU 0 runs the commands: name another"),
            Self::NeedsMmu => f.write_str("this subject does not run with the MMU off"),
            Self::NeedsLse => f.write_str("this subject needs FEAT_LSE, which the CPU has not"),
            Self::NotSpinning => f.write_str("no CPU spins"),
            Self::Psci(error) => write!(f, "PSCI says {error}"),
            Self::TimeOut => f.write_str("it did not happen within a second"),
        }
    }
}

impl From<smp::PowerError> for Refusal {
    fn from(error: smp::PowerError) -> Self {
        match error {
            smp::PowerError::Psci(error) => Self::Psci(error),
            smp::PowerError::TimeOut => Self::TimeOut,
        }
    }
}

type Done = Result<(), Refusal>;

/// The words after the command's name.
struct Words<'a>(SplitAsciiWhitespace<'a>);

impl<'a> Words<'a> {
    fn word(&mut self, what: &'static str) -> Result<&'a str, Refusal> {
        self.0.next().ok_or(Refusal::Missing(what))
    }

    fn number(&mut self, what: &'static str) -> Result<u64, Refusal> {
        parse(self.word(what)?)
    }

    fn number_or(&mut self, default: u64) -> Result<u64, Refusal> {
        self.0.next().map_or(Ok(default), parse)
    }

    /// A CPU that takes work; CPU 0 if there is no word left.
    fn cpu_or_0(&mut self) -> Result<usize, Refusal> {
        usable_cpu(self.number_or(0)?)
    }

    /// A CPU other than 0, whether it is on or not.
    fn other_cpu(&mut self) -> Result<usize, Refusal> {
        match self.number("CPU")? {
            0 => Err(Refusal::NotOnCpu0),
            index if index < crate::platform::get().cpus as u64 => Ok(index as usize),
            _ => Err(Refusal::CpuNotThere),
        }
    }

    fn subject(&mut self) -> Result<usize, Refusal> {
        subject_of(self.word("NAME")?)
    }

    /// `low` (the default) or `high`.
    fn alias(&mut self) -> Result<Alias, Refusal> {
        match self.0.next() {
            None | Some("low") => Ok(Alias::Low),
            Some("high") => Ok(Alias::High),
            Some(_) => Err(Refusal::BadWord),
        }
    }
}

/// The number of a subject that this CPU can run.
fn subject_of(name: &str) -> Result<usize, Refusal> {
    let (index, subject) = subjects::by_name(name).ok_or(Refusal::UnknownSubject)?;
    if subject.kind == Kind::Atomic && !cpu::has_lse() {
        return Err(Refusal::NeedsLse);
    }
    Ok(index)
}

fn parse(word: &str) -> Result<u64, Refusal> {
    let parsed = match word.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => word.parse(),
    };
    parsed.map_err(|_| Refusal::BadNumber)
}

fn usable_cpu(index: u64) -> Result<usize, Refusal> {
    let index = usize::try_from(index).unwrap_or(usize::MAX);
    if !smp::is_online(index) {
        Err(Refusal::CpuNotThere)
    } else if index != 0 && smp::is_busy(index) {
        Err(Refusal::CpuBusy)
    } else {
        Ok(index)
    }
}

/// Reads and does commands for ever.
pub fn serve() -> ! {
    let mut buffer = [0; 256];
    loop {
        let line = uart::read_line(&mut buffer);
        let mut words = line.split_ascii_whitespace();
        let Some(command) = words.next() else {
            continue;
        };
        if let Err(refusal) = run(command, Words(words)) {
            println!("err {refusal}");
        }
    }
}

fn run(command: &str, words: Words<'_>) -> Done {
    match command {
        "version" => version(),
        "cpus" => cpus(),
        "list" => list(),
        "call" => call(words),
        "callboth" => call_both(words),
        "counts" => counts(words),
        "spin" => spin(words),
        "stop" => stop(),
        "brk" => brk(words),
        "step" => step(words),
        "hwbp" => hwbp(words),
        "watch" => watch(words),
        "touch" => touch(words),
        "patch" => patch(words),
        "patch-now" => patch_now(words),
        "patch-undo" => patch_undo(),
        "patch-call" => patch_call(words),
        "checksum" => checksum(words),
        "read" => read(words),
        "ldxr" => ldxr(words),
        "timer" => timer_command(words),
        "sleep" => sleep(words),
        "psci" => psci_command(words),
        "fault" => fault(words),
        "regs" => regs(words),
        "stack" => stack(words),
        "leave" => leave(words),
        "mmuoff" => mmu_off(words),
        "measure" => measure(words),
        "rx" => receive(words),
        "reset" => Err(Refusal::Psci(psci::system_reset())),
        "off" => Err(Refusal::Psci(psci::system_off())),
        "help" => help(),
        _ => Err(Refusal::UnknownCommand),
    }
}

fn help() -> Done {
    println!("version cpus list call callboth counts spin stop brk step hwbp watch touch");
    println!("patch patch-now patch-undo patch-call checksum read ldxr timer sleep");
    println!("psci fault regs stack leave mmuoff measure rx reset off");
    println!("ok the head of tests/guest/src/main.rs says what they do");
    Ok(())
}

fn version() -> Done {
    println!(
        "ok tiny-guest version={} early={} pauth={} bti={} lse={} unmapped={:#x} high={:#x}",
        env!("CARGO_PKG_VERSION"),
        crate::boot::early_calls(),
        u8::from(cpu::has_pauth()),
        u8::from(cpu::has_bti()),
        u8::from(cpu::has_lse()),
        subjects::UNMAPPED,
        mmu::HIGH,
    );
    Ok(())
}

fn cpus() -> Done {
    println!(
        "ok cpus={} present={}",
        smp::online_count(),
        crate::platform::get().cpus
    );
    Ok(())
}

fn list() -> Done {
    for subject in SUBJECTS {
        let kind = subject.kind.name();
        let address = subject.address(Alias::Low);
        println!(
            "{} k={:#x} kind={kind} address={address:#x}",
            subject.name, subject.k
        );
    }
    println!("ok subjects={}", SUBJECTS.len());
    Ok(())
}

/// Calls of a subject on a CPU so far.
fn count_of(subject: usize, cpu: usize) -> u64 {
    smp::cpu(cpu).counts[subject].load(Ordering::Acquire)
}

/// A run of a subject as work for any CPU: subject, calls, alias, CPUs that start together.
fn run_subject([subject, count, alias, together]: [u64; 4]) -> [u64; 4] {
    let index = subject as usize;
    let this = smp::this_index();
    let before = count_of(index, this);
    if together > 1 {
        smp::meet(together as u32);
    }
    let alias = if alias == 0 { Alias::Low } else { Alias::High };
    let Outcome { sum, bad } = SUBJECTS[index].run(count, alias);
    [sum, bad, count_of(index, this).wrapping_sub(before), 0]
}

fn call(mut words: Words<'_>) -> Done {
    let subject = words.subject()?;
    let calls = words.number("N")?;
    let cpu = words.cpu_or_0()?;
    let alias = words.alias()?;
    let shared = subjects::shared();
    let arguments = [subject as u64, calls, u64::from(alias == Alias::High), 1];
    let [sum, bad, count, _] = smp::run_on(cpu, run_subject, arguments);
    let shared = subjects::shared().wrapping_sub(shared);
    println!("ok calls={calls} count={count} sum={sum:#x} bad={bad} shared={shared}");
    Ok(())
}

/// Runs work on CPUs 0 and 1 at the same time.
fn on_both(work: Work, arguments: [u64; 4]) -> Result<[[u64; 4]; 2], Refusal> {
    usable_cpu(1)?;
    smp::reset_gate();
    smp::post(1, work, arguments);
    let first = work(arguments);
    Ok([first, smp::wait(1)])
}

fn call_both(mut words: Words<'_>) -> Done {
    let subject = words.subject()?;
    let calls = words.number("N")?;
    let alias = words.alias()?;
    let shared = subjects::shared();
    let arguments = [subject as u64, calls, u64::from(alias == Alias::High), 2];
    let [first, second] = on_both(run_subject, arguments)?;
    println!(
        "ok calls={} count={} sum={:#x} bad={} shared={} count0={} count1={}",
        calls.wrapping_mul(2),
        first[2].wrapping_add(second[2]),
        first[0].wrapping_add(second[0]),
        first[1] + second[1],
        subjects::shared().wrapping_sub(shared),
        first[2],
        second[2],
    );
    Ok(())
}

fn counts(mut words: Words<'_>) -> Done {
    let subject = words.subject()?;
    println!(
        "ok count0={} count1={}",
        count_of(subject, 0),
        count_of(subject, 1)
    );
    Ok(())
}

/// Tells another CPU to end what it does over and over.
static STOP: AtomicBool = AtomicBool::new(false);
/// The CPU that spins; 0 if none.
static SPINNING: AtomicUsize = AtomicUsize::new(0);
/// Calls that it has made.
static SPIN_CALLS: AtomicU64 = AtomicU64::new(0);

/// How many arguments a spinning CPU runs through before it looks at [`STOP`].
const SPIN_BATCH: u64 = 16;

fn spin_work([subject, ..]: [u64; 4]) -> [u64; 4] {
    let index = subject as usize;
    let this = smp::this_index();
    let before = count_of(index, this);
    let (mut total, mut bad) = (0u64, 0);
    while !STOP.load(Ordering::Acquire) {
        let outcome = SUBJECTS[index].run(SPIN_BATCH, Alias::Low);
        total = total.wrapping_add(outcome.sum);
        bad += outcome.bad;
        SPIN_CALLS.fetch_add(SPIN_BATCH, Ordering::Relaxed);
    }
    [total, bad, count_of(index, this).wrapping_sub(before), 0]
}

fn spin(mut words: Words<'_>) -> Done {
    let subject = words.subject()?;
    let cpu = usable_cpu(words.number_or(1)?)?;
    if cpu == 0 {
        return Err(Refusal::NotOnCpu0);
    }
    if SPINNING.load(Ordering::Relaxed) != 0 {
        return Err(Refusal::CpuBusy);
    }
    STOP.store(false, Ordering::Release);
    SPIN_CALLS.store(0, Ordering::Relaxed);
    SPINNING.store(cpu, Ordering::Relaxed);
    smp::post(cpu, spin_work, [subject as u64, 0, 0, 0]);
    println!("ok cpu={cpu}");
    Ok(())
}

fn stop() -> Done {
    let cpu = SPINNING.swap(0, Ordering::Relaxed);
    if cpu == 0 {
        return Err(Refusal::NotSpinning);
    }
    STOP.store(true, Ordering::Release);
    let [sum, bad, count, _] = smp::wait(cpu);
    let calls = SPIN_CALLS.load(Ordering::Relaxed);
    println!("ok calls={calls} count={count} sum={sum:#x} bad={bad}");
    Ok(())
}

fn brk(mut words: Words<'_>) -> Done {
    let count = words.number("N")?;
    let cpu = words.cpu_or_0()?;
    let [returned, ..] = smp::run_on(cpu, routines::run_brks, [count, 0, 0, 0]);
    println!("ok brks={returned}");
    Ok(())
}

fn step(mut words: Words<'_>) -> Done {
    let count = words.number("N")?;
    let cpu = words.cpu_or_0()?;
    let [steps, sum, adds, _] = smp::run_on(cpu, crate::debug::run_steps, [count, 0, 0, 0]);
    println!("ok steps={steps} sum={sum:#x} adds={adds}");
    Ok(())
}

fn hwbp(mut words: Words<'_>) -> Done {
    let count = words.number("N")?;
    let cpu = words.cpu_or_0()?;
    let [hits, steps, value, _] = smp::run_on(cpu, crate::debug::run_breakpoint, [count, 0, 0, 0]);
    println!("ok hits={hits} steps={steps} result={value}");
    Ok(())
}

fn watch(mut words: Words<'_>) -> Done {
    let count = words.number("N")?;
    let accesses = match words.0.next() {
        None | Some("w") => 0b10,
        Some("r") => 0b01,
        Some("rw") => 0b11,
        Some(_) => return Err(Refusal::BadWord),
    };
    let cpu = words.cpu_or_0()?;
    let arguments = [count, accesses, 0, 0];
    let [hits, steps, value, _] = smp::run_on(cpu, crate::debug::run_watchpoint, arguments);
    println!("ok hits={hits} steps={steps} result={value}");
    Ok(())
}

fn touch(mut words: Words<'_>) -> Done {
    let count = words.number("N")?;
    let cpu = words.cpu_or_0()?;
    let [address, value, ..] = smp::run_on(cpu, crate::debug::run_touches, [count, 0, 0, 0]);
    println!("ok address={address:#x} result={value}");
    Ok(())
}

/// `b` (the default), `add`, `brk` or `bl`.
fn patch_kind(words: &mut Words<'_>) -> Result<Patch, Refusal> {
    match words.0.next() {
        None | Some("b") => Ok(Patch::Branch),
        Some("add") => Ok(Patch::Add),
        Some("brk") => Ok(Patch::Brk),
        Some("bl") => Ok(Patch::Bl),
        Some(_) => Err(Refusal::BadWord),
    }
}

fn patch(mut words: Words<'_>) -> Done {
    let count = words.number("N")?;
    let kind = patch_kind(&mut words)?;
    let caller = words.cpu_or_0()?;
    let [changes, bad] = routines::run_patches(count, kind, caller);
    println!("ok patches={changes} bad={bad}");
    Ok(())
}

fn patch_now(mut words: Words<'_>) -> Done {
    routines::apply(patch_kind(&mut words)?);
    println!("ok address={:#x}", routines::patch_address());
    Ok(())
}

fn patch_undo() -> Done {
    routines::apply(Patch::Nop);
    println!("ok address={:#x}", routines::patch_address());
    Ok(())
}

fn patch_call(mut words: Words<'_>) -> Done {
    let value = words.number("VALUE")?;
    let cpu = words.cpu_or_0()?;
    let [result, ..] = smp::run_on(cpu, routines::call_patched, [value, 0, 0, 0]);
    println!("ok result={result:#x}");
    Ok(())
}

fn checksum(mut words: Words<'_>) -> Done {
    let offset = match words.0.next() {
        None | Some("low") => 0,
        Some("high") => mmu::HIGH,
        Some("writable") => mmu::WRITABLE,
        Some(_) => return Err(Refusal::BadWord),
    };
    let (length, hash) = routines::text_hash(offset);
    println!("ok length={length:#x} fnv={hash:#x}");
    Ok(())
}

fn read(mut words: Words<'_>) -> Done {
    let subject = &SUBJECTS[words.subject()?];
    let address = subject.address(words.alias()?) as *const u32;
    // SAFETY: subjects are followed by at least three more words of text, and text is readable.
    let first = unsafe { [0, 1, 2, 3].map(|index| address.add(index).read_volatile()) };
    let [a, b, c, d] = first;
    println!("ok {a:#010x} {b:#010x} {c:#010x} {d:#010x}");
    Ok(())
}

fn ldxr_work([count, subject, together, _]: [u64; 4]) -> [u64; 4] {
    run_subject([subject, count, 0, together])
}

fn ldxr(mut words: Words<'_>) -> Done {
    let count = words.number("N")?;
    let before = subjects::shared();
    let (subject, _) = subjects::by_name("fn_ldxr").ok_or(Refusal::UnknownSubject)?;
    match words.0.next() {
        None => {
            ldxr_work([count, subject as u64, 1, 0]);
        }
        Some("both") => {
            on_both(ldxr_work, [count, subject as u64, 2, 0])?;
        }
        Some(_) => return Err(Refusal::BadWord),
    }
    println!("ok added={}", subjects::shared().wrapping_sub(before));
    Ok(())
}

fn timer_command(mut words: Words<'_>) -> Done {
    match words.0.next() {
        None => {}
        Some("start") => {
            let hertz = words.number("HZ")?.clamp(1, timer::frequency());
            set_period_everywhere(timer::frequency() / hertz);
        }
        Some("stop") => set_period_everywhere(0),
        Some(_) => return Err(Refusal::BadWord),
    }
    println!(
        "ok counter={} frequency={} ticks0={} ticks1={}",
        timer::counter(),
        timer::frequency(),
        smp::cpu(0).ticks.load(Ordering::Relaxed),
        smp::cpu(1).ticks.load(Ordering::Relaxed),
    );
    Ok(())
}

fn set_period_everywhere(period: u64) {
    for index in 0..smp::MAX_CPUS {
        if usable_cpu(index as u64).is_ok() {
            smp::run_on(index, set_period, [period, 0, 0, 0]);
        }
    }
}

fn set_period([period, ..]: [u64; 4]) -> [u64; 4] {
    timer::set_period(period);
    [0; 4]
}

fn sleep(mut words: Words<'_>) -> Done {
    let milliseconds = words.number("MS")?;
    let increments = milliseconds.saturating_mul(timer::frequency()) / 1000;
    let passed = timer::sleep(increments);
    println!("ok asked={increments} passed={passed}");
    Ok(())
}

fn measure(mut words: Words<'_>) -> Done {
    let name = words.word("WHAT")?;
    let what = match What::by_name(name) {
        Some(what) => what,
        None => What::Subject(subject_of(name)?),
    };
    let batches = words.number("BATCHES")?.min(measure::MAX_BATCHES as u64);
    let calls = words.number("CALLS")?;
    let cpu = words.cpu_or_0()?;
    let arguments = [what.to_word(), batches, calls, 0];
    let [batches, ..] = smp::run_on(cpu, measure::run, arguments);
    for increments in measure::times(batches) {
        println!("{increments}");
    }
    println!("ok batches={batches}");
    Ok(())
}

fn psci_command(mut words: Words<'_>) -> Done {
    match words.word("version, info, on or off")? {
        "version" => {
            println!("ok version={:#x}", psci::version());
        }
        "info" => {
            let cpu = words.other_cpu()?;
            let affinity = crate::platform::get().affinities[cpu];
            println!("ok info={}", psci::affinity_info(affinity) as i32);
        }
        "on" => {
            let cpu = words.other_cpu()?;
            smp::power_on(cpu)?;
            println!("ok cpus={}", smp::online_count());
        }
        "off" => {
            let cpu = words.other_cpu()?;
            usable_cpu(cpu as u64)?;
            smp::power_off(cpu)?;
            println!("ok cpus={}", smp::online_count());
        }
        _ => return Err(Refusal::BadWord),
    }
    Ok(())
}

fn fault(mut words: Words<'_>) -> Done {
    let address = words.number("ADDRESS")?;
    let access = match words.0.next() {
        None | Some("r") => Access::Read,
        Some("w") => Access::Write,
        Some(_) => return Err(Refusal::BadWord),
    };
    let [far, esr] = routines::fault(address, access);
    println!("ok esr={esr:#x} far={far:#x}");
    Ok(())
}

fn regs(mut words: Words<'_>) -> Done {
    let count = words.number_or(1)?;
    let cpu = words.cpu_or_0()?;
    let [changed, last, value, _] = smp::run_on(cpu, routines::run_registers, [count, 0, 0, 0]);
    println!("ok changed={changed} last={last} value={value:#x}");
    Ok(())
}

fn stack(mut words: Words<'_>) -> Done {
    let count = words.number_or(1)?;
    let cpu = words.cpu_or_0()?;
    let [result, ..] = smp::run_on(cpu, routines::run_chain, [count, 0, 0, 0]);
    println!("ok result={result:#x}");
    Ok(())
}

fn leave(mut words: Words<'_>) -> Done {
    let work: Work = match words.word("tree, relay or bolt")? {
        "tree" => leaving::run_tree,
        "relay" => leaving::run_relay,
        "bolt" => leaving::run_bolt,
        _ => return Err(Refusal::BadWord),
    };
    let arguments = [words.number("N")?, 0, 0, 0];
    let result = match words.0.clone().next() {
        Some("both") => {
            let [[first, ..], [second, ..]] = on_both(work, arguments)?;
            first.wrapping_add(second)
        }
        _ => smp::run_on(words.cpu_or_0()?, work, arguments)[0],
    };
    println!("ok result={result}");
    Ok(())
}

fn mmu_off(mut words: Words<'_>) -> Done {
    let subject = words.subject()?;
    let calls = words.number("N")?;
    if !SUBJECTS[subject].kind.runs_unmapped() {
        return Err(Refusal::NeedsMmu);
    }
    if SPINNING.load(Ordering::Relaxed) != 0 {
        return Err(Refusal::CpuBusy);
    }
    let [sum, bad, count, _] = mmu::with_mmu_off(|| run_subject([subject as u64, calls, 0, 1]));
    println!("ok calls={calls} count={count} sum={sum:#x} bad={bad}");
    Ok(())
}

fn receive(mut words: Words<'_>) -> Done {
    match words.word("poll or irq")? {
        "poll" => uart::set_receive(Receive::Poll),
        "irq" => uart::set_receive(Receive::Interrupt),
        _ => return Err(Refusal::BadWord),
    }
    println!("ok");
    Ok(())
}
