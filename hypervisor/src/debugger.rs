//! The hypervisor under its own debugger: the `hyp` endpoint at work.
//!
//! While a client looks at `hyp`, every physical CPU rests inside an exception that it took at EL2 (rendezvous.rs), and the
//! service CPU, inside one as well, runs [`attend`]: it serves this one endpoint and nothing else. VMs are not served and
//! their time stands still.
//!
//! # How the service CPU gets here
//!
//! - The service sees that the client has spoken ([`serve`]) and executes a `BRK` of ours: its own frame shows the service.
//! - Another CPU comes to a breakpoint ([`stop`]): it rests and sends the stop interrupt. That is taken in any window. If the
//!   service is in the middle of a piece of its work it goes on to the end of that piece ([`work`]), so that no lock of the
//!   server's is held here.
//! - It comes to a breakpoint itself.
//! - It waits for something that a resting CPU holds: who waits long on this CPU looks here ([`Wait`]).
//!
//! In the last two cases the server itself has been interrupted. Then `monitor` commands and files are refused, and events stay
//! in their rings, because all these use what the server may hold: the table of a VM's probes, while it arms one.
//! Everything else works, as it needs only what is held with interrupts masked ([`crate::lock`]).
//!
//! # The endpoint for the whole machine
//!
//! Its client may have attached itself to `hyp` or not. While it has not, the endpoint is served like those of single VMs. When
//! it has, it is served here, with every CPU at rest, and the VMs that it debugs are held besides: a vCPU whose CPU rests in
//! the middle of an exit is shown as of that exit (vcpu.rs). What could wait for a resting CPU is refused ([`obstacle`]).
//!
//! # The stack
//!
//! The loop has a stack of its own: the one below may be nearly full.

use crate::hyp::HYP;
use crate::lock::MaskedMutex;
use crate::own_step::{self, Stepped};
use crate::rendezvous::{self, CpuSet, MASTER, brk};
use crate::service::endpoint::Wired;
use crate::service::{self, ChannelPort};
use crate::vectors::Frame;
use crate::{cpu, gic, masking, time};
use alloc::format;
use alloc::string::ToString;
use core::sync::atomic::{AtomicBool, Ordering};
use devices::channel::Channel;
use log::error;
use probes::machine::{RunControl, RunMode, StopReason};
use stub::{Commands, Endpoint as _, MachineSession, Session, World};

/// Somebody wants the debugger to run: a CPU at a breakpoint, a client that has spoken.
static WANTED: AtomicBool = AtomicBool::new(false);
/// The debugger runs.
static ATTENDING: AtomicBool = AtomicBool::new(false);
/// The service is in the middle of a piece of its work.
static WORKING: AtomicBool = AtomicBool::new(false);

/// A client is there for whom to stop.
static WATCHED: AtomicBool = AtomicBool::new(false);

/// How many of the holds are [`attend`]'s own; others are the session's.
const OWN_HOLD: usize = 1;

/// Why `monitor` has to wait.
const INTERRUPTED: &str = "the hypervisor stands in the middle of the server's own work, which has what this needs: \
    continue, and try again";

/// Why nothing of the VMs can be touched.
const LOCKED: &str = "a physical CPU stands in the middle of work on a VM, and holds what this needs: continue, and try again";

/// The endpoint of the hypervisor alone.
static ENDPOINT: MaskedMutex<Option<Endpoint>> = MaskedMutex::new(None);
/// The endpoint for the whole machine. Not here while somebody serves it.
static MACHINE: MaskedMutex<Option<Wired<MachineSession, ChannelPort>>> = MaskedMutex::new(None);

type Endpoint = Wired<Session, ChannelPort>;

/// How many instructions are stepped before the client is listened to.
const STEPS_AT_ONCE: usize = 256;

/// The service CPU has come back from a step of its own.
static OWN_STEP_DONE: AtomicBool = AtomicBool::new(false);

/// What was stepped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Steps {
    /// Nothing: no CPU is to step.
    None,
    /// Instructions; perhaps there are more.
    Some,
    /// The next instruction is the service CPU's own.
    OwnCpu,
}

/// Whether what the client wanted CPU `index` to step has been stepped.
fn end_of_step(index: usize) -> bool {
    match HYP.mode(index) {
        RunMode::StepRange { start, end } => {
            own_step::pc(index).is_none_or(|pc| !(start..end).contains(&pc))
        }
        _ => true,
    }
}

/// Starts to serve the endpoint of the hypervisor. Once.
pub fn init(endpoint: Endpoint) {
    *ENDPOINT.lock() = Some(endpoint);
}

/// Starts to serve the endpoint for the whole machine. Once.
pub fn init_machine(endpoint: Wired<MachineSession, ChannelPort>) {
    *MACHINE.lock() = Some(endpoint);
}

/// Whether the debugger runs on the service CPU, with all others at rest.
pub fn is_attending() -> bool {
    ATTENDING.load(Ordering::Relaxed)
}

// ---- The service CPU on its ordinary way ----

/// Does a piece of the service's work. The debugger comes before or after it.
pub fn work<T>(piece: impl FnOnce() -> T) -> T {
    WORKING.store(true, Ordering::Relaxed);
    let result = piece();
    WORKING.store(false, Ordering::Relaxed);
    attend_if_wanted();
    result
}

fn attend_if_wanted() {
    if WANTED.load(Ordering::SeqCst) {
        rendezvous::obey();
    }
}

/// What the service does for this endpoint: listens, and sends what probes print while the hypervisor runs. Returns whether
/// it has to be called again soon.
pub fn serve() -> bool {
    service::serve_console();
    if with_endpoint(|endpoint| has_news(endpoint)) == Some(true) || machine_wants_stand() {
        WANTED.store(true, Ordering::SeqCst);
        attend_if_wanted();
    }
    let poll = |endpoint: &mut Endpoint| {
        endpoint.session.set_commands(Commands::Allowed);
        endpoint.look();
        endpoint.session.wants_poll()
    };
    let hyp_wants_poll = with_endpoint(poll) == Some(true);
    work(serve_machine) | hyp_wants_poll
}

/// Whether the client of the endpoint for the whole machine can be served only with every CPU at rest.
fn machine_wants_stand() -> bool {
    MACHINE.lock().as_ref().is_some_and(|machine| {
        let session = &machine.session;
        session.wants_stand() || session.has_hypervisor() && has_news(machine)
    })
}

/// Does for the endpoint of the whole machine what can be done while all CPUs run. Returns whether it has to be called again
/// soon.
fn serve_machine() -> bool {
    let Some(mut machine) = MACHINE.lock().take() else {
        return false;
    };
    machine.session.set_world(World::Runs);
    if !machine.session.has_hypervisor() {
        machine.listen();
    }
    machine.look();
    let wants_stand = machine.session.wants_stand();
    let wants_poll = machine.session.wants_poll();
    *MACHINE.lock() = Some(machine);
    if wants_stand {
        WANTED.store(true, Ordering::SeqCst);
    }
    wants_poll
}

fn has_news<S>(endpoint: &Wired<S, ChannelPort>) -> bool {
    endpoint.channel.has_data() || endpoint.channel.has_event()
}

fn with_endpoint<T>(action: impl FnOnce(&mut Endpoint) -> T) -> Option<T> {
    ENDPOINT.try_lock()?.as_mut().map(action)
}

/// A wait, by turns, for what another CPU holds or does. That CPU may be at rest: on the service CPU the debugger must be able
/// to run here.
#[derive(Default)]
pub struct Wait {
    turns: u32,
}

impl Wait {
    /// So many turns the other is taken to run: it is done sooner.
    const PATIENCE: u32 = 100_000;

    /// One turn.
    pub fn turn(&mut self) {
        if self.turns < Self::PATIENCE {
            self.turns += 1;
        } else {
            attend_while_waiting();
        }
        cpu::relax();
    }
}

fn attend_while_waiting() {
    if cpu::this().index != MASTER || is_attending() {
        return;
    }
    let client_waits = || with_endpoint(|endpoint| endpoint.channel.has_data()) == Some(true);
    if WANTED.load(Ordering::SeqCst) || client_waits() {
        WANTED.store(true, Ordering::SeqCst);
        // SAFETY: the exception's handler (el2.rs) returns behind the instruction with all registers as they were.
        unsafe { core::arch::asm!("brk #{}", const brk::ATTEND) };
    }
}

// ---- Inside an exception of EL2 ----

/// A probe on this CPU says stop: rests until the debugger lets the CPU go on from `frame`. Where nobody looks, that is now.
pub fn stop(frame: &mut Frame, reason: StopReason) {
    let this = cpu::this().index;
    let is_unwatched = !WATCHED.load(Ordering::Relaxed);
    if is_unwatched || this == MASTER && is_attending() {
        return;
    }
    HYP.push_stop(this, reason);
    WANTED.store(true, Ordering::SeqCst);
    if this == MASTER {
        attend(frame);
    } else if let Some(master) = cpu::get(MASTER) {
        gic::send(master, gic::SGI_STOP);
        rendezvous::rest_until_let_go(frame);
    }
}

/// The stop interrupt has come to the service CPU.
pub fn called(frame: &mut Frame) {
    // At the end of its piece of work, or when it waits, the service comes back by itself.
    if WANTED.load(Ordering::SeqCst) && !WORKING.load(Ordering::Relaxed) {
        attend(frame);
    }
}

/// Runs the debugger, the service CPU standing at `frame`, until every CPU may go on.
pub fn attend(frame: &mut Frame) {
    if ATTENDING.swap(true, Ordering::SeqCst) {
        return;
    }
    let missing = stop_outside_of_locks();
    run(frame, missing);
}

/// Brings every other CPU to rest, where it can be had outside of work that holds a lock: what such a CPU keeps cannot be
/// shown. A CPU at a breakpoint stays where it is.
fn stop_outside_of_locks() -> CpuSet {
    /// Who holds a lock gives it back within microseconds, once it runs, for which an emulator may take its time. In
    /// nanoseconds.
    const PATIENCE: u64 = 200_000_000;
    let in_the_way =
        |cpu: &cpu::Cpu| cpu.index != MASTER && !rendezvous::is_kept(cpu.index) && cpu.holds_lock();
    let deadline = time::now_ns() + PATIENCE;
    let is_time_left = || time::now_ns() < deadline;
    let mut missing = HYP.stop();
    while cpu::online().any(&in_the_way) && is_time_left() {
        HYP.release();
        while cpu::online().any(&in_the_way) && is_time_left() {
            cpu::relax();
        }
        missing = HYP.stop();
    }
    missing
}

/// The service CPU has executed the instruction that the debugger left it for.
pub fn stepped(frame: &mut Frame) {
    OWN_STEP_DONE.store(true, Ordering::Relaxed);
    run(frame, CpuSet::default());
}

fn run(frame: &mut Frame, missing: CpuSet) {
    rendezvous::publish(frame);
    let end = on_own_stack(missing);
    rendezvous::withdraw();
    if end == End::AllGoOn as u64 {
        HYP.release();
        ATTENDING.store(false, Ordering::SeqCst);
    }
}

/// Why the loop ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u64)]
enum End {
    /// Every CPU goes on that the client lets.
    AllGoOn,
    /// The service CPU executes one instruction, and the debugger runs again.
    OwnStep,
}

fn on_own_stack(missing: CpuSet) -> u64 {
    let top = cpu::stack(cpu::DEBUGGER_STACK).end;
    let end: u64;
    // SAFETY: the stack is mapped, nobody else uses it (`ATTENDING`), and SP is back before anything looks at the old one.
    // What a function may change besides is named.
    unsafe {
        core::arch::asm!(
            "mov x20, sp",
            "mov sp, {top}",
            "bl {serve}",
            "mov sp, x20",
            top = in(reg) top,
            serve = sym serve_stopped,
            inout("x0") u64::from(missing.bits()) => end,
            out("x20") _,
            clobber_abi("C"),
        );
    }
    end
}

extern "C" fn serve_stopped(missing: u64) -> u64 {
    let missing = CpuSet::from_bits(missing as u32);
    let serve = |hyp: &mut Endpoint| {
        let mut machine = MACHINE.lock().take();
        let end = Stopped {
            hyp,
            machine: machine.as_mut(),
        }
        .serve(missing);
        *MACHINE.lock() = machine;
        end
    };
    let end = with_endpoint(serve).unwrap_or_else(|| {
        error!("hyp stands at a breakpoint, and nobody can look: it goes on");
        while HYP.pop_stop().is_some() {}
        End::AllGoOn
    });
    if end == End::AllGoOn {
        own_step::clear_monitor();
        let_go();
    }
    end as u64
}

/// Lets every CPU go on that the client lets, once no stop is in force.
fn let_go() {
    for index in 0..cpu::MAX_CPUS {
        if HYP.mode(index) == RunMode::Stay {
            rendezvous::keep(index);
        } else {
            rendezvous::let_go(index);
        }
    }
}

/// What keeps the server from touching VMs while every CPU but this rests.
fn obstacle() -> Commands {
    if WORKING.load(Ordering::Relaxed) {
        Commands::Refused(INTERRUPTED)
    } else if cpu::online().any(cpu::Cpu::holds_lock) {
        Commands::Refused(LOCKED)
    } else {
        Commands::Allowed
    }
}

/// The clients for whom the hypervisor stands.
struct Stopped<'a> {
    hyp: &'a mut Endpoint,
    /// `None` while its own work is what has been interrupted.
    machine: Option<&'a mut Wired<MachineSession, ChannelPort>>,
}

impl Stopped<'_> {
    /// The endpoint for the whole machine, where it has to do with the hypervisor.
    fn machine(&mut self) -> Option<&mut Wired<MachineSession, ChannelPort>> {
        let machine = self.machine.as_deref_mut()?;
        let session = &machine.session;
        (session.has_hypervisor() || session.wants_stand()).then_some(machine)
    }

    fn has_news(&mut self) -> bool {
        has_news(self.hyp) || self.machine().is_some_and(|machine| has_news(machine))
    }

    fn tell(&mut self, line: &str) {
        self.hyp.session.tell(line.to_string());
        if let Some(machine) = self.machine() {
            machine.session.tell(line);
        }
    }

    /// Serves the clients until they let the hypervisor go on.
    fn serve(&mut self, missing: CpuSet) -> End {
        for index in missing.iter() {
            error!("hyp/cpu{index} does not stop");
            self.tell(&format!(
                "hyp/cpu{index} does not stop: its registers cannot be shown, and it runs on."
            ));
        }
        WANTED.store(false, Ordering::SeqCst);
        loop {
            self.attend();
            let is_held = HYP.holds() > OWN_HOLD;
            if is_held {
                self.wait();
                continue;
            }
            match self.step() {
                Steps::None if HYP.has_stop() => {}
                Steps::None if HYP.mode(MASTER) == RunMode::Stay => self.let_others_run(),
                Steps::None => return End::AllGoOn,
                Steps::Some => {}
                Steps::OwnCpu => return End::OwnStep,
            }
        }
    }

    /// Takes what has come, answers, and looks for stops.
    fn attend(&mut self) {
        let commands = obstacle();
        // Who came and went, before any bytes.
        service::serve_console();
        self.hyp.session.set_commands(commands);
        self.hyp.run();
        let mut is_watched = self.hyp.session.has_client();
        if let Some(machine) = self.machine() {
            machine.session.set_world(World::Stands(commands));
            machine.run();
            is_watched |= machine.session.has_hypervisor();
        }
        WATCHED.store(is_watched, Ordering::Relaxed);
    }

    /// Executes what the client wants to step.
    fn step(&mut self) -> Steps {
        if OWN_STEP_DONE.swap(false, Ordering::Relaxed) && end_of_step(MASTER) {
            HYP.push_stop(MASTER, StopReason::Step);
            return Steps::Some;
        }
        let steps =
            |index: &usize| matches!(HYP.mode(*index), RunMode::Step | RunMode::StepRange { .. });
        let Some(index) = (0..cpu::MAX_CPUS).find(steps) else {
            return Steps::None;
        };
        // From time to time the client is listened to.
        for _ in 0..STEPS_AT_ONCE {
            match own_step::step(index) {
                Stepped::Done if !end_of_step(index) => {}
                Stepped::Done => {
                    HYP.push_stop(index, StopReason::Step);
                    break;
                }
                Stepped::Stopped(reason) => {
                    HYP.push_stop(index, reason);
                    break;
                }
                Stepped::LeavesDebugger => return Steps::OwnCpu,
                Stepped::Refused => {
                    self.tell(&format!(
                        "hyp/cpu{index}: this instruction cannot be stepped. Set a breakpoint behind it and continue."
                    ));
                    // Not the end of a step, which a client would take for progress.
                    HYP.push_stop(index, StopReason::Request);
                    break;
                }
            }
        }
        Steps::Some
    }

    /// The client holds the service CPU and lets others go on: they do, until it has something to say or one of them stops.
    fn let_others_run(&mut self) {
        own_step::clear_monitor();
        let_go();
        HYP.release();
        while !WANTED.load(Ordering::SeqCst) && !self.has_news() {
            masking::wait(gic::PriorityMask::ChannelsOnly);
            service::take_channel_interrupts();
            service::serve_console();
        }
        WANTED.store(false, Ordering::SeqCst);
        for index in HYP.stop().iter() {
            error!("hyp/cpu{index} does not stop");
        }
    }

    /// Waits for the client.
    fn wait(&mut self) {
        let mut waits_for_room = self.hyp.session.wants_poll();
        waits_for_room |= self.machine().is_some_and(|it| it.session.wants_poll());
        if !waits_for_room {
            masking::wait(gic::PriorityMask::ChannelsOnly);
        }
        service::take_channel_interrupts();
    }
}
