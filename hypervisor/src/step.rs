//! Executing one instruction of the guest for real, in the step view.
//!
//! The vCPU moves to the step view, where the page is the untouched original, with `MDCR_EL2.TDE`, `MDSCR_EL1.SS` and
//! `SPSR_EL2.SS` set, and its pending virtual interrupts withheld where it could take them; the step exception brings it
//! back. The other vCPUs notice nothing. An exclusive sequence, which an exception return in the middle would break for
//! ever, runs freely to hardware breakpoints at its ends instead.
//!
//! Three things ask for it: a hit whose displaced instruction cannot be simulated, or a data access to a page with probes
//! (the vCPU then goes on by itself); the debugger's `s` and `vCont;r` (it then stops); and GDB tracepoints that collect
//! `while-stepping` (it goes on by itself after as many instructions as they want).

use crate::hwdebug::{StepKind, Watches};
use crate::vcpu::Vcpu;
use crate::vectors::Frame;
use crate::{cpu, esr, inject, interrupts, live, service, sysreg, time};
use core::ops::Range;
use devices::vgic::Delivery;
use probes::a64::{self, Ends, StepPlan};
use probes::addr::{Gpa, Gva};
use probes::engine::{HitOutcome, Trap};
use probes::machine::{FetchTrap, LiveMemory, StepInterrupts, StopReason, WatchKind};
use probes::regs::pstate;
use probes::space::Space;
use probes::view::View;

/// `HCR_EL2`: WFI and WFE trap.
const TRAP_WAITS: u64 = 1 << 13 | 1 << 14;
/// How long an exclusive sequence may run before it is taken to have left for good, in nanoseconds.
const SEQUENCE_TIME: u64 = 5_000_000;
/// Synchronous exception from EL1 with SP_EL1, relative to VBAR.
const VECTOR_SYNC_EL1: u64 = 0x200;
/// Size of a vector table.
const VECTORS_SIZE: u64 = 0x800;

/// The steps of one vCPU.
#[derive(Clone, Debug, Default)]
pub struct Stepper {
    /// The debugger's step goes on while the PC is in here; at least one instruction is executed.
    requested: Option<Range<Gva>>,
    /// GDB tracepoints want to look at the vCPU after every instruction (`while-stepping`).
    walks: bool,
    active: Option<Active>,
}

/// What an instruction is stepped for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// A site displaces it, and its programs have run.
    Displaced,
    /// The debugger's step, a data access to a page with probes, a hardware breakpoint to pass.
    Other,
}

/// A step in progress.
#[derive(Clone, Copy, Debug)]
struct Active {
    purpose: Purpose,
    /// The guest was about to take a step exception of its own after this instruction.
    guest_steps: bool,
    may_store: bool,
    sequence: Option<Ends>,
    deadline: u64,
}

impl Stepper {
    /// The debugger wants one instruction, and then more as long as the PC stays in `range`.
    pub fn request(&mut self, range: Range<Gva>) {
        self.requested = Some(range);
    }

    /// Whether an instruction is being stepped.
    pub fn is_active(&self) -> bool {
        self.active.is_some()
    }

    /// Whether no instruction is being stepped and nobody waits for one.
    pub fn is_idle(&self) -> bool {
        self.active.is_none() && self.requested.is_none() && !self.walks
    }

    /// An instruction has been executed. Returns whether that completes the debugger's request.
    fn instruction_done(&mut self, pc: u64) -> bool {
        let complete = self
            .requested
            .as_ref()
            .is_some_and(|range| !range.contains(&Gva(pc)));
        if complete {
            self.requested = None;
        }
        complete
    }

    /// Whether somebody waits for another instruction, and none is in progress.
    pub fn wants_next(&self) -> bool {
        (self.requested.is_some() || self.walks) && self.active.is_none()
    }

    /// Forgets the debugger's request: something else has stopped the vCPU, or the debugger lets it go.
    pub fn forget_request(&mut self) {
        self.requested = None;
    }
}

/// What has become of an instruction that trapped to EL2.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Progress {
    /// Emulated: the PC is behind it. Or it took an exception to the guest's EL1.
    Done,
    /// Nothing: the guest executes it again.
    Retry,
}

/// Begins to execute the instruction at the PC of `frame`.
pub fn begin(vcpu: &'static Vcpu, frame: &mut Frame, purpose: Purpose) {
    begin_with(vcpu, frame, purpose, Watches::On);
}

fn begin_with(vcpu: &'static Vcpu, frame: &mut Frame, purpose: Purpose, watches: Watches) {
    let memory = vcpu.vm().live(&frame.regs);
    let fetch = |at: Gva| {
        let mut word = [0; 4];
        memory
            .read(at, &mut word)
            .ok()
            .map(|()| u32::from_le_bytes(word))
    };
    let pc = Gva(frame.regs.pc);
    let may_store = fetch(pc).is_none_or(may_store);
    let plan = match watches {
        Watches::On => a64::step_plan(pc, fetch),
        Watches::Off => a64::step_plan_after_trap(pc, fetch),
    };
    let guest_mdscr = vcpu.local().debug.guest_mdscr();
    let mut active = Active {
        purpose,
        guest_steps: guest_mdscr & crate::hwdebug::mdscr::SS != 0,
        may_store,
        sequence: None,
        deadline: 0,
    };

    let interrupts_masked = frame.regs.pstate & pstate::I != 0;
    let delivery = if takes_interrupts(vcpu, purpose, &plan) {
        Delivery::Normal
    } else {
        interrupts::delivery_for_step(interrupts_masked)
    };
    vcpu.set_delivery(delivery);
    vcpu.switch_view(View::Step);
    trap_waits(TRAP_WAITS);
    match plan {
        StepPlan::Single => {
            vcpu.local().debug.begin_step(StepKind::Single, watches);
            frame.regs.pstate |= pstate::SS;
        }
        StepPlan::Sequence { ends } => {
            // One more end: the sequence faults and the guest's handler begins.
            let handler = Gva(sysreg::read!("vbar_el1").wrapping_add(VECTOR_SYNC_EL1));
            let mut stops = [handler; a64::MAX_ENDS + 1];
            let known = ends.as_slice();
            stops[..known.len()].copy_from_slice(known);
            let stops = &stops[..=known.len()];
            let until = StepKind::Until(stops);
            vcpu.local().debug.begin_step(until, watches);
            active.sequence = Some(ends);
            active.deadline = time::now_ns() + SEQUENCE_TIME;
            time::start_timer(SEQUENCE_TIME);
        }
    }
    sysreg::isb();
    vcpu.local().stepper.active = Some(active);
    vcpu.will_step();
}

/// Loads and stores are one group of encodings (Arm ARM C4.1.88), and so are the cache instructions that write (DC ZVA)
/// among the system instructions.
fn may_store(instruction: u32) -> bool {
    let load_or_store = instruction & 0x0a00_0000 == 0x0800_0000;
    let system_instruction = instruction & 0xfff8_0000 == 0xd508_0000;
    load_or_store || system_instruction
}

fn trap_waits(bits: u64) {
    let others = sysreg::read!("hcr_el2") & !TRAP_WAITS;
    // SAFETY: traps of the guest's own WFI and WFE.
    unsafe { sysreg::write!("hcr_el2", others | bits) };
}

/// A step exception, or a breakpoint while a sequence runs. Returns whether it was ours.
pub fn debug_exception(vcpu: &'static Vcpu, frame: &mut Frame, class: u64) -> bool {
    let Some(active) = vcpu.local().stepper.active else {
        return false;
    };
    let ended = match active.sequence {
        None => class == esr::ec::SOFTWARE_STEP,
        Some(_) => class == esr::ec::BREAKPOINT,
    };
    if ended {
        finish(vcpu, frame);
    }
    ended
}

/// Whether an interrupt may get ahead of the instruction: where its user has asked for that, and only of what he steps
/// himself. A displaced instruction has its hit behind it, and a sequence has its ends armed.
fn takes_interrupts(vcpu: &Vcpu, purpose: Purpose, plan: &StepPlan) -> bool {
    vcpu.vm().step_interrupts() == StepInterrupts::Taken
        && purpose == Purpose::Other
        && matches!(plan, StepPlan::Single)
        && vcpu.local().stepper.requested.is_some()
}

/// The stepped instruction trapped to EL2 and was dealt with there.
pub fn after_trap(vcpu: &'static Vcpu, frame: &mut Frame, progress: Progress) {
    let Some(active) = active(vcpu) else {
        return;
    };
    if progress == Progress::Done && active.sequence.is_none() {
        finish(vcpu, frame);
    }
}

/// After an interrupt: a sequence that does not come to its end is left to itself.
pub fn after_interrupt(vcpu: &'static Vcpu, frame: &mut Frame) {
    let Some(active) = active(vcpu) else {
        return;
    };
    if active.sequence.is_some() && time::now_ns() >= active.deadline {
        finish(vcpu, frame);
    }
}

fn active(vcpu: &Vcpu) -> Option<Active> {
    // No lock on the way of most exits.
    if vcpu.may_step() {
        vcpu.local().stepper.active
    } else {
        None
    }
}

/// The instruction has been executed (or its exception is being taken): back to the run view.
fn finish(vcpu: &'static Vcpu, frame: &mut Frame) {
    if leave_step_view(vcpu, frame).is_some() {
        instruction_done(vcpu, frame);
    }
}

/// A watchpoint of the debugger's fired on the stepped instruction, which has not executed: the step is off. Where it
/// was to execute what a site displaces, the vCPU does that when it resumes, and the hit is not counted again. No effect
/// where no step is in progress.
fn abandon(vcpu: &'static Vcpu, frame: &mut Frame) {
    let Some(purpose) = leave_step_view(vcpu, frame) else {
        return;
    };
    vcpu.local().stepper.forget_request();
    if purpose == Purpose::Displaced
        && let Some(space) = service::space(vcpu.vm().id)
    {
        space.interrupted(vcpu.id, &frame.regs);
    }
}

/// The vCPU is about to access what watchpoints of the debugger's of that kind watch, at `address`: stops, or executes the
/// instruction without them where their conditions are not true.
pub fn watchpoint(vcpu: &'static Vcpu, frame: &mut Frame, address: Gva, kind: WatchKind) {
    let outcome = serve(frame, |space, trap| space.watch_hit(address, kind, trap));
    if outcome == HitOutcome::Step {
        // A step that this access has interrupted begins anew.
        let purpose = leave_step_view(vcpu, frame).unwrap_or(Purpose::Other);
        return begin_with(vcpu, frame, purpose, Watches::Off);
    }
    // Before the stop: a vCPU in the middle of a step does not park.
    abandon(vcpu, frame);
    vcpu.stop(StopReason::Watchpoint { address, kind });
}

/// Ends a step, if there is one, and returns what it was for.
fn leave_step_view(vcpu: &'static Vcpu, frame: &mut Frame) -> Option<Purpose> {
    let active = vcpu.local().stepper.active.take()?;
    if active.sequence.is_some() {
        time::stop_timer();
        // The service uses the same timer on its CPU.
        service::tick();
    }
    vcpu.local().debug.end_step();
    trap_waits(0);
    vcpu.switch_view(View::Run);
    vcpu.set_delivery(Delivery::Normal);
    frame.regs.pstate &= !pstate::SS;
    if !active.guest_steps {
        hide_step_from_handler(frame.regs.pc);
    }
    if active.may_store {
        refresh_shadows(vcpu);
    }
    Some(active.purpose)
}

/// An exception that the stepped instruction took saved our SS bit in `SPSR_EL1`, where the guest would see it.
fn hide_step_from_handler(pc: u64) {
    let vectors = sysreg::read!("vbar_el1");
    if pc.wrapping_sub(vectors) < VECTORS_SIZE {
        let saved = sysreg::read!("spsr_el1");
        // SAFETY: the guest's register, without the bit that we put there.
        unsafe { sysreg::write!("spsr_el1", saved & !pstate::SS) };
    }
}

/// The step view let a store through to pages with probes, if that is where it went.
fn refresh_shadows(vcpu: &'static Vcpu) {
    vcpu.vm().refresh_all();
}

/// Counts an executed instruction against what the debugger asked for, and stops if that is all.
fn instruction_done(vcpu: &'static Vcpu, frame: &mut Frame) {
    let walks = walk(frame);
    if walks {
        vcpu.will_step();
    }
    let mut local = vcpu.local();
    local.stepper.walks = walks;
    let complete = local.stepper.instruction_done(frame.regs.pc);
    drop(local);
    if complete {
        vcpu.stop(StopReason::Step);
    }
}

/// Lets the GDB tracepoints that step the vCPU of this CPU look at it. Returns whether they still do.
fn walk(frame: &Frame) -> bool {
    let Some(resident) = cpu::this().resident.get() else {
        return false;
    };
    resident.walk(&frame.regs)
}

/// Begins the next instruction of what was asked for. A site at the PC is a hit. Returns whether the vCPU may
/// have come to a stop, or to another instruction that must not be entered freely.
pub fn advance(vcpu: &'static Vcpu, frame: &mut Frame) -> bool {
    if !vcpu.local().stepper.wants_next() {
        return false;
    }
    let pc = Gva(frame.regs.pc);
    if vcpu.local().debug.breaks_at(pc) {
        hardware_breakpoint(vcpu, frame);
        return true;
    }
    match armed(vcpu, pc) {
        Some((gpa, FetchTrap::NoExecute)) => fetch(vcpu, frame, gpa),
        Some((_, FetchTrap::Instruction(probe))) => match a64::classify(probe) {
            a64::Class::Hvc { immediate } => hit(vcpu, frame, immediate),
            _ => begin(vcpu, frame, Purpose::Other),
        },
        None => begin(vcpu, frame, Purpose::Other),
    }
    true
}

/// The site at `pc`, and how it traps.
fn armed(vcpu: &'static Vcpu, pc: Gva) -> Option<(Gpa, FetchTrap)> {
    let gpa = live::translate(pc, live::Stage1::Read)?;
    let trap = vcpu.vm().views().lock().armed(gpa)?;
    Some((gpa, trap))
}

/// The vCPU is at the word at `gpa` of a page that is not executable.
pub fn fetch(vcpu: &'static Vcpu, frame: &mut Frame, gpa: Gpa) {
    let outcome = serve(frame, |space, trap| space.fetch(gpa, trap));
    finish_hit(vcpu, frame, outcome);
}

/// The vCPU is at a hardware breakpoint of ours.
pub fn hardware_breakpoint(vcpu: &'static Vcpu, frame: &mut Frame) {
    match serve(frame, |space, trap| space.hw_hit(trap)) {
        HitOutcome::NotOurs => vcpu.stop(StopReason::HwBreakpoint),
        outcome => finish_hit(vcpu, frame, outcome),
    }
}

/// The vCPU is at a site, `regs.pc` its address.
pub fn hit(vcpu: &'static Vcpu, frame: &mut Frame, immediate: u16) {
    let outcome = serve(frame, |space, trap| space.hit(immediate, trap));
    finish_hit(vcpu, frame, outcome);
}

/// Has a trap of the vCPU of the calling CPU served.
fn serve(frame: &mut Frame, serve: impl FnOnce(&Space, &mut Trap<'_>) -> HitOutcome) -> HitOutcome {
    match cpu::this().resident.get() {
        Some(resident) => resident.serve(&mut frame.regs, serve),
        None => HitOutcome::NotOurs,
    }
}

/// Does what a hit has come to.
pub fn finish_hit(vcpu: &'static Vcpu, frame: &mut Frame, outcome: HitOutcome) {
    match outcome {
        HitOutcome::Resume => instruction_done(vcpu, frame),
        HitOutcome::Step => begin(vcpu, frame, Purpose::Displaced),
        HitOutcome::Breakpoint { immediate } => {
            inject::breakpoint(&mut frame.regs, immediate);
            instruction_done(vcpu, frame);
        }
        HitOutcome::Stop(reason) => {
            vcpu.local().stepper.forget_request();
            vcpu.stop(reason);
        }
        HitOutcome::NotOurs => {}
    }
}
