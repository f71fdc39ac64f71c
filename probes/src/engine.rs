//! The hit path: what happens when a vCPU traps at a site.
//!
//! Nothing here allocates, parses, or takes a lock that a stopped CPU can hold. The one lock is a
//! read of the space's table: its writers hold the VM, and a vCPU of a held VM is never on the hit
//! path ([`crate::machine`], "Holds"); a vCPU that stops returns from here before it parks. So a
//! hit never waits for a writer, and readers do not exclude each other.

use crate::a64::{BranchTargetCheck, Simple, Simulated, SimulationFeatures, simulate};
use crate::addr::{Gpa, Gva};
use crate::event::{EventKind, TraceEvent};
use crate::gdb_trace::recorder::{Occurrence, Recorder};
use crate::machine::{LiveMemory, Stamp, StopReason, VcpuId, WatchKind};
use crate::programs::ProgramRef;
use crate::registry::{Point, Registry};
use crate::regs::{CoreRegs, SysReg};
use crate::returns::{Arguments, Occasion, Role};
use crate::site::{Admission, Attachment, Bound, Site, Trace, Verdict};
use crate::space::Space;
use alloc::sync::Arc;
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicU64, Ordering};
use ebpf::map::MapId;
use ebpf::signature::Signature;
use ebpf::task::TaskFields;
use ebpf::{Context, Host, Lost, ReadFault, RunError, RunFault};

/// The first immediate of the reserved range: slot `n` of a VM traps with `HVC #(HVC_BASE + n)`, slot `n` of the
/// hypervisor's own code with `BRK #(HVC_BASE + n)`.
pub const HVC_BASE: u16 = 0x4000;

/// What the hypervisor does with a vCPU after a trap.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HitOutcome {
    /// The displaced instruction has been executed: enter the guest with the changed registers.
    Resume,
    /// The displaced instruction must run for real: step the vCPU over it in the step view, then go
    /// on.
    Step,
    /// The displaced instruction is a `BRK` of the guest's own: deliver its exception to guest EL1.
    Breakpoint {
        /// The immediate of the `BRK`.
        immediate: u16,
    },
    /// Stop the VM for this reason. The PC is the site; its instruction has not executed.
    Stop(StopReason),
    /// No site of ours. [`Space::hit`]: the guest executed an `HVC` of its own.
    /// [`Space::pass`]: nothing is displaced at the PC, enter the guest as it is.
    NotOurs,
}

/// Where a vCPU has stopped with its instruction still to execute. Written by the vCPU itself on
/// its way through here, so the fields need no order among each other.
pub(crate) struct Reported {
    pc: AtomicU64,
    /// The site, or [`Reported::NOTHING`] for a hardware breakpoint.
    gpa: AtomicU64,
    /// The address of the instruction that the vCPU was last asked to step, or
    /// [`Reported::NOTHING`].
    stepped_pc: AtomicU64,
    /// Its site, or [`Reported::NOTHING`] for a hardware breakpoint.
    stepped_gpa: AtomicU64,
}

impl Reported {
    /// No instruction has this address: it is no multiple of 4.
    const NOTHING: u64 = u64::MAX;

    pub(crate) const fn new() -> Self {
        Self {
            pc: AtomicU64::new(Self::NOTHING),
            gpa: AtomicU64::new(Self::NOTHING),
            stepped_pc: AtomicU64::new(Self::NOTHING),
            stepped_gpa: AtomicU64::new(Self::NOTHING),
        }
    }

    fn set(&self, pc: u64, site: Option<Gpa>) {
        self.pc.store(pc, Ordering::Relaxed);
        self.gpa.store(Self::word(site), Ordering::Relaxed);
    }

    fn word(site: Option<Gpa>) -> u64 {
        site.map_or(Self::NOTHING, |gpa| gpa.0)
    }

    fn site(word: u64) -> Option<Gpa> {
        (word != Self::NOTHING).then_some(Gpa(word))
    }

    /// Forgets it, and tells whether it was at `pc`: the site if it was one.
    fn take(&self, pc: u64) -> Option<Option<Gpa>> {
        let gpa = self.gpa.swap(Self::NOTHING, Ordering::Relaxed);
        let here = self.pc.swap(Self::NOTHING, Ordering::Relaxed) == pc;
        here.then_some(Self::site(gpa))
    }

    /// Remembers what the vCPU is asked to step now.
    fn set_stepped(&self, pc: u64, site: Option<Gpa>) {
        self.stepped_pc.store(pc, Ordering::Relaxed);
        self.stepped_gpa.store(Self::word(site), Ordering::Relaxed);
    }

    /// The step has not executed its instruction: the vCPU is where it was.
    fn interrupted(&self, pc: u64) {
        let gpa = self.stepped_gpa.load(Ordering::Relaxed);
        if self.stepped_pc.swap(Self::NOTHING, Ordering::Relaxed) == pc {
            self.set(pc, Self::site(gpa));
        }
    }

    pub(crate) fn clear(&self) {
        self.set(Self::NOTHING, None);
        self.set_stepped(Self::NOTHING, None);
    }
}

/// What has become of a hit on the short way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum QuickHit {
    /// It is over: the displaced instruction has been executed.
    Over,
    /// It is none for the short way. Nothing has happened.
    NotQuick,
    /// The program of a breakpoint of GDB's says that the VM stops ([`QuickHit::STOP`]).
    Stop,
}

impl QuickHit {
    /// What [`QuickHit::Stop`] means.
    pub const STOP: HitOutcome = HitOutcome::Stop(StopReason::Site { probe: None });
}

/// In the place of an instruction that cannot be read: no return probe is there.
const UNKNOWN: u32 = 0;

/// The trap that is being served.
pub struct Trap<'a> {
    /// Who trapped.
    pub vcpu: VcpuId,
    /// Its registers, of which the PC is the site's address.
    pub regs: &'a mut CoreRegs,
    /// Its memory.
    pub memory: &'a dyn LiveMemory,
    /// Now, here.
    pub stamp: Stamp,
}

impl Space {
    /// A vCPU trapped with `HVC #immediate`. The PC is the address of the `HVC`, not the one after
    /// it. Runs the site's programs; then stops, or executes the displaced instruction in the
    /// registers.
    #[inline]
    pub fn hit(&self, immediate: u16, trap: &mut Trap<'_>) -> HitOutcome {
        let registry = self.registry.read();
        let Some(site) = registry.table.trapped(immediate, Gva(trap.regs.pc)) else {
            return HitOutcome::NotOurs;
        };
        let displaced = || site.displaced.load(Ordering::Acquire);
        match self.run_all(site.bound.iter(), displaced, trap) {
            Some(reason) => {
                self.report(trap.vcpu, trap.regs, Some(site.gpa));
                HitOutcome::Stop(reason)
            }
            None => self.displaced(site, trap, BranchTargetCheck::Passed),
        }
    }

    /// The short way of most hits: of one probe or breakpoint that takes them all and stops only where its program says
    /// so, at an instruction whose simulation needs nothing but the registers. The PC is behind the `HVC`; `memory` is
    /// asked when a program reads the guest. What is no such hit, [`Space::hit`] serves.
    #[inline(always)]
    pub fn quick_hit<M: LiveMemory>(
        &self,
        immediate: u16,
        vcpu: VcpuId,
        regs: &mut CoreRegs,
        memory: impl Fn(&CoreRegs) -> M,
        stamp: impl FnOnce() -> Stamp,
    ) -> QuickHit {
        let registry = self.registry.read();
        let pc = Gva(regs.pc.wrapping_sub(4));
        let Some(site) = registry.table.trapped(immediate, pc) else {
            return QuickHit::NotQuick;
        };
        let [bound] = site.bound.as_slice() else {
            return QuickHit::NotQuick;
        };
        let simple = Simple::of(site.displaced.load(Ordering::Acquire));
        let (true, Some(simple)) = (bound.takes_all(), simple) else {
            return QuickHit::NotQuick;
        };
        let attachment = &bound.attachment;
        let stamp = stamp();
        regs.pc = pc.0;
        attachment.count();
        // One call at most, so that few registers have to be kept.
        if let Trace::Frame(recorder) = &attachment.trace {
            self.record_at(recorder, vcpu, regs, stamp, memory);
        } else {
            self.write_event(attachment, 0, vcpu, regs, stamp);
            if let Some(program) = &attachment.program {
                let says = self.run_at(program, attachment, regs, memory, vcpu, stamp);
                // Only breakpoints of GDB's leave it to the program.
                if says == ProgramSays::Stop && bound.verdict == Verdict::Program {
                    self.report(vcpu, regs, Some(site.gpa));
                    return QuickHit::Stop;
                }
            }
        }
        simple.execute(regs);
        QuickHit::Over
    }

    /// Apart from [`Space::quick_hit`], as [`Space::run_program`].
    #[inline(never)]
    fn run_at<M: LiveMemory>(
        &self,
        program: &ProgramRef,
        attachment: &Attachment,
        regs: &CoreRegs,
        memory: impl Fn(&CoreRegs) -> M,
        vcpu: VcpuId,
        stamp: Stamp,
    ) -> ProgramSays {
        let host = HitHost {
            space: self,
            attachment,
            duration_ns: 0,
            vcpu,
            regs,
            memory,
            stamp,
        };
        self.run_in(program, regs.as_words(), &host)
    }

    /// A hit from inside a probe, of slot `immediate` - [`HVC_BASE`]: nothing runs, it counts as
    /// missed. The hypervisor executes the displaced instruction.
    pub fn hit_inside_probe(&self, immediate: u16) {
        // Whoever changes the registry runs no code that can be probed, so this does not fail.
        let Some(registry) = self.registry.try_read() else {
            return;
        };
        let slot = immediate.checked_sub(HVC_BASE);
        let site = slot.and_then(|slot| registry.table.get(slot));
        let bound = site.map_or(&[][..], |site| &site.bound);
        // A call whose return goes by unseen counts when the next shows that it is over.
        let begins = |bound: &&Bound| matches!(bound.role, Role::Here | Role::Entry);
        for bound in bound.iter().filter(begins) {
            bound.attachment.missed.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A vCPU ran into a hardware breakpoint at its PC. For one of a probe, or one that covers a
    /// site which waits for its page, runs its programs and executes the guest's instruction in the
    /// registers; `Step` means: step the vCPU over the instruction with that breakpoint off.
    pub fn hw_hit(&self, trap: &mut Trap<'_>) -> HitOutcome {
        let registry = self.registry.read();
        let pc = Gva(trap.regs.pc);
        let cover = registry.table.cover(pc);
        let point = registry.hw_breakpoint(pc);
        if cover.is_none() && point.is_none() {
            return HitOutcome::NotOurs;
        }
        // The exception came before the trap of a site at the same place.
        let site = registry.site_at_address(pc);
        let instruction =
            guests_word(trap).or_else(|| Some(site?.displaced.load(Ordering::Acquire)));
        let cover_bound = cover.map_or([].as_slice(), |cover| &cover.bound);
        let site_bound = site.map_or([].as_slice(), |site| &site.bound);
        let bound = cover_bound.iter().chain(site_bound);
        let programs_say = self.run_all(bound, || instruction.unwrap_or(UNKNOWN), trap);
        let reason = match point {
            Some(point) if self.point_stops(point, trap) => Some(StopReason::HwBreakpoint),
            _ => programs_say,
        };
        let gpa = site.map(|site| site.gpa);
        match reason {
            Some(reason) => {
                self.report(trap.vcpu, trap.regs, gpa);
                HitOutcome::Stop(reason)
            }
            None => self.guests_own(trap, gpa),
        }
    }

    /// A vCPU is about to access what watchpoints of kind `kind` watch, at `address`. [`HitOutcome::Step`] means: they are
    /// not hit, step the vCPU over the instruction without them.
    pub fn watch_hit(&self, address: Gva, kind: WatchKind, trap: &Trap<'_>) -> HitOutcome {
        let registry = self.registry.read();
        let points = registry.points.iter();
        let mut points = points.filter(|point| point.at.watches(address)).peekable();
        // All of them run, whatever one says.
        let mut stops = points.peek().is_none();
        for point in points {
            stops |= self.point_stops(point, trap);
        }
        if stops {
            HitOutcome::Stop(StopReason::Watchpoint { address, kind })
        } else {
            HitOutcome::Step
        }
    }

    /// Whether a hit of a hardware point stops.
    fn point_stops(&self, point: &Point, trap: &Trap<'_>) -> bool {
        let Some(attachment) = &point.attachment else {
            return true;
        };
        self.run_one(attachment, Verdict::Program, &Occasion::default(), trap)
    }

    /// A vCPU fetched from the word at `gpa` of a page that is not executable
    /// ([`crate::view::Fault::NoExecute`]), whose address is its PC. Where it is a site, runs its
    /// programs; then stops, or executes the guest's own instruction in the registers, or has it
    /// stepped. Never [`HitOutcome::NotOurs`].
    pub fn fetch(&self, gpa: Gpa, trap: &mut Trap<'_>) -> HitOutcome {
        let registry = self.registry.read();
        let site = registry.table.at(gpa);
        // Most instructions of the page are no site.
        let stop = site.and_then(|site| {
            let displaced = || site.displaced.load(Ordering::Acquire);
            let instruction = || guests_word(trap).unwrap_or_else(displaced);
            self.run_all(site.bound.iter(), instruction, trap)
        });
        match stop {
            Some(reason) => {
                self.report(trap.vcpu, trap.regs, Some(gpa));
                HitOutcome::Stop(reason)
            }
            None => self.guests_own(trap, site.map(|site| site.gpa)),
        }
    }

    /// A vCPU is about to enter the guest after its VM was held (to run, or for one step). Where it
    /// stopped at a site or a hardware breakpoint and has not moved, executes the displaced
    /// instruction without running programs: `Resume` (done), `Step`, `Breakpoint`; otherwise
    /// `NotOurs`.
    pub fn pass(&self, trap: &mut Trap<'_>) -> HitOutcome {
        let Some(reported) = self.reported.get(usize::from(trap.vcpu.0)) else {
            return HitOutcome::NotOurs;
        };
        let pc = trap.regs.pc;
        let Some(gpa) = reported.take(pc) else {
            return HitOutcome::NotOurs;
        };
        let registry = self.registry.read();
        if is_hw_breakpoint(&registry, Gva(pc)) {
            return self.step(trap, gpa);
        }
        // Without one it stopped at a cover, which may have become a site meanwhile.
        let site = match gpa {
            Some(gpa) => registry.table.at(gpa),
            None => registry.site_at_address(Gva(pc)),
        };
        match site {
            Some(site) if registry.table.is_no_execute(site.gpa) => {
                self.guests_own(trap, Some(site.gpa))
            }
            Some(site) if gpa.is_some() => self.displaced(site, trap, BranchTargetCheck::Passed),
            Some(site) => self.displaced(site, trap, BranchTargetCheck::Pending),
            None => HitOutcome::NotOurs,
        }
    }

    /// The step that [`HitOutcome::Step`] asked for ended before the instruction executed: a
    /// watchpoint of the debugger fired on it. The vCPU passes the site when it resumes, and the
    /// hit is not counted twice.
    pub fn interrupted(&self, vcpu: VcpuId, regs: &CoreRegs) {
        if let Some(reported) = self.reported.get(usize::from(vcpu.0)) {
            reported.interrupted(regs.pc);
        }
    }

    /// Executes the instruction that a site displaces.
    #[inline]
    fn displaced(
        &self,
        site: &Site,
        trap: &mut Trap<'_>,
        branch_target: BranchTargetCheck,
    ) -> HitOutcome {
        let instruction = site.displaced.load(Ordering::Acquire);
        if branch_target == BranchTargetCheck::Passed
            && let Some(simple) = Simple::of(instruction)
        {
            simple.execute(trap.regs);
            return HitOutcome::Resume;
        }
        self.execute(instruction, trap, Some(site.gpa), branch_target)
    }

    /// Executes the instruction at the PC, which is the guest's own: the trap came before it was
    /// fetched. `site` is what traps there.
    fn guests_own(&self, trap: &mut Trap<'_>, site: Option<Gpa>) -> HitOutcome {
        match guests_word(trap) {
            Some(instruction) => self.execute(instruction, trap, site, BranchTargetCheck::Pending),
            None => self.step(trap, site),
        }
    }

    /// Apart from [`Space::displaced`], as [`Space::run_program`].
    #[inline(never)]
    fn execute(
        &self,
        instruction: u32,
        trap: &mut Trap<'_>,
        site: Option<Gpa>,
        branch_target: BranchTargetCheck,
    ) -> HitOutcome {
        let features = SimulationFeatures {
            branch_target,
            ..self.machine().simulation(instruction)
        };
        match simulate(instruction, trap.regs, trap.memory, &features) {
            Simulated::Done => HitOutcome::Resume,
            Simulated::Step => self.step(trap, site),
            Simulated::Breakpoint { immediate } => HitOutcome::Breakpoint { immediate },
        }
    }

    /// Has the instruction at the PC stepped, which traps at `site` or at a hardware breakpoint.
    fn step(&self, trap: &Trap<'_>, site: Option<Gpa>) -> HitOutcome {
        if let Some(reported) = self.reported.get(usize::from(trap.vcpu.0)) {
            reported.set_stepped(trap.regs.pc, site);
        }
        HitOutcome::Step
    }

    fn report(&self, vcpu: VcpuId, regs: &CoreRegs, site: Option<Gpa>) {
        if let Some(reported) = self.reported.get(usize::from(vcpu.0)) {
            reported.set(regs.pc, site);
        }
    }

    /// Runs what is bound here, all of it, and says whether that stops the VM. `instruction` is
    /// the guest's own.
    #[inline]
    fn run_all<'a>(
        &self,
        bound: impl Iterator<Item = &'a Bound>,
        instruction: impl Fn() -> u32,
        trap: &Trap<'_>,
    ) -> Option<StopReason> {
        let mut stops: Option<&Attachment> = None;
        for Bound {
            attachment,
            verdict,
            role,
        } in bound
        {
            let occasion = match *role {
                Role::Here => Occasion::default(),
                role => match self.occasion(attachment, role, instruction(), trap) {
                    Some(occasion) => occasion,
                    None => continue,
                },
            };
            if !self.run_one(attachment, *verdict, &occasion, trap) {
                continue;
            }
            // Of several, a breakpoint of GDB's is what GDB knows about.
            if stops.is_none_or(|stops| stops.probe.is_some()) {
                stops = Some(attachment);
            }
        }
        let probe = stops?.probe;
        Some(StopReason::Site { probe })
    }

    #[inline(always)]
    fn write_event(
        &self,
        attachment: &Attachment,
        duration_ns: u64,
        vcpu: VcpuId,
        regs: &CoreRegs,
        stamp: Stamp,
    ) {
        if let Trace::Event(_, template) = &attachment.trace {
            let record = template.hit(stamp, self.vm(), vcpu, regs, duration_ns);
            self.events().write_record(stamp.cpu, &record);
        }
    }

    /// Apart from [`Space::quick_hit`], as [`Space::run_program`].
    #[inline(never)]
    fn record_at<M: LiveMemory>(
        &self,
        recorder: &Arc<Recorder>,
        vcpu: VcpuId,
        regs: &CoreRegs,
        stamp: Stamp,
        memory: impl Fn(&CoreRegs) -> M,
    ) {
        let hit = Occurrence {
            vcpu,
            regs,
            memory: memory(regs),
            stamp,
        };
        self.record(recorder, &hit);
    }

    /// Counts a hit, writes its event, runs the program, and says whether that stops the VM.
    #[inline]
    fn run_one(
        &self,
        attachment: &Attachment,
        verdict: Verdict,
        occasion: &Occasion,
        trap: &Trap<'_>,
    ) -> bool {
        match attachment.admit(trap.vcpu) {
            Admission::Refused => return false,
            Admission::Hit => {}
            Admission::LastHit => self.note_done(),
        }
        let duration_ns = occasion.duration_ns;
        if let Trace::Frame(recorder) = &attachment.trace {
            let memory = |_: &CoreRegs| trap.memory;
            self.record_at(recorder, trap.vcpu, trap.regs, trap.stamp, memory);
            return false;
        }
        self.write_event(attachment, duration_ns, trap.vcpu, trap.regs, trap.stamp);
        let program_says = match &attachment.program {
            Some(program) => self.run_program(program, attachment, occasion, trap),
            None => ProgramSays::Go,
        };
        match verdict {
            Verdict::Go => false,
            Verdict::Stop => true,
            Verdict::Program => program_says == ProgramSays::Stop,
        }
    }

    /// Apart from [`Space::run_one`], which has little to save for a hit without a program.
    #[inline(never)]
    fn run_program(
        &self,
        program: &ProgramRef,
        attachment: &Attachment,
        occasion: &Occasion,
        trap: &Trap<'_>,
    ) -> ProgramSays {
        let host = HitHost {
            space: self,
            attachment,
            duration_ns: occasion.duration_ns,
            vcpu: trap.vcpu,
            regs: trap.regs,
            memory: |_: &CoreRegs| trap.memory,
            stamp: trap.stamp,
        };
        match &occasion.arguments {
            None => self.run_in(program, trap.regs.as_words(), &host),
            Some(arguments) => self.run_on_arguments(program, arguments, &host),
        }
    }

    /// Runs a program that wants the arguments that a function was given when it returns, and its
    /// result. What else of the registers helpers look at stays where it is.
    #[inline(never)]
    fn run_on_arguments<M, F>(
        &self,
        program: &ProgramRef,
        arguments: &Arguments,
        host: &HitHost<'_, F>,
    ) -> ProgramSays
    where
        M: LiveMemory,
        F: Fn(&CoreRegs) -> M,
    {
        let mut context = *host.regs.as_words();
        let signature = program.program().signature();
        let count = signature.map_or(0, Signature::arguments);
        context[..count].copy_from_slice(&arguments[..count]);
        context[count] = host.regs.x[0];
        self.run_in(program, &context, host)
    }

    #[inline(always)]
    fn run_in<M, F>(
        &self,
        program: &ProgramRef,
        context: &Context,
        host: &HitHost<'_, F>,
    ) -> ProgramSays
    where
        M: LiveMemory,
        F: Fn(&CoreRegs) -> M,
    {
        match program.program().run(context, host) {
            Ok(0) => ProgramSays::Go,
            Ok(_) => ProgramSays::Stop,
            Err(error) => host.failed(&error),
        }
    }
}

/// The guest's own instruction at the PC, where it can be read: `memory` has the permissions of EL1.
fn guests_word(trap: &Trap<'_>) -> Option<u32> {
    let mut word = [0; 4];
    let in_kernel = !trap.regs.at_el0();
    let readable = in_kernel && trap.memory.read(Gva(trap.regs.pc), &mut word).is_ok();
    readable.then(|| u32::from_le_bytes(word))
}

/// What a program that decides about a stop has decided: by its result, or by an error.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum ProgramSays {
    Go,
    Stop,
}

fn is_hw_breakpoint(registry: &Registry, pc: Gva) -> bool {
    registry.table.cover(pc).is_some() || registry.hw_breakpoint(pc).is_some()
}

/// What a program may ask for while it runs. `F` makes the guest's memory, which few programs want.
struct HitHost<'a, F> {
    space: &'a Space,
    attachment: &'a Attachment,
    /// At a return: how long the call took; 0 elsewhere.
    duration_ns: u64,
    vcpu: VcpuId,
    regs: &'a CoreRegs,
    memory: F,
    stamp: Stamp,
}

impl<F> HitHost<'_, F> {
    /// Its run ended with an error.
    #[cold]
    #[inline(never)]
    fn failed(&self, error: &RunError) -> ProgramSays {
        self.attachment.missed.fetch_add(1, Ordering::Relaxed);
        if error.fault == RunFault::Nested {
            return ProgramSays::Go;
        }
        let mut text = ShortText::new();
        let program = self.attachment.program.as_ref();
        // Writing to a `ShortText` does not fail.
        let _ = write!(text, "{}: {error}", program.map_or("", ProgramRef::name));
        self.push(EventKind::ProgramError, text.as_bytes());
        ProgramSays::Stop
    }

    fn push(&self, kind: EventKind, text: &[u8]) {
        self.space
            .events()
            .write_text(&self.event().says(kind), text);
    }

    /// The event of the hit.
    fn event(&self) -> TraceEvent {
        let [x0, x1, x2, x3, ..] = self.regs.x;
        let vm = self.space.vm();
        let kind = self.attachment.event().unwrap_or(EventKind::probe_in(vm));
        TraceEvent {
            time_ns: self.stamp.time_ns,
            kind,
            cpu: self.stamp.cpu as u8,
            vm,
            vcpu: self.vcpu,
            id: self.attachment.probe.unwrap_or(0),
            args: [x0, x1, x2, x3],
            duration_ns: self.duration_ns,
            pc: Gva(self.regs.pc),
            origin: kind,
        }
    }
}

impl<M, F> Host for HitHost<'_, F>
where
    M: LiveMemory,
    F: Fn(&CoreRegs) -> M,
{
    fn ktime_ns(&self) -> u64 {
        self.space.machine().now_ns()
    }

    fn cpu(&self) -> usize {
        self.stamp.cpu
    }

    fn current(&self) -> Option<u64> {
        let task = (self.memory)(self.regs).task();
        (task != 0).then_some(task)
    }

    fn task_fields(&self) -> Option<TaskFields> {
        self.space.task_fields()
    }

    fn function(&self) -> Option<u64> {
        self.attachment.function()
    }

    fn duration_ns(&self) -> Option<u64> {
        (self.duration_ns != 0).then_some(self.duration_ns)
    }

    fn signature(&self) -> Option<Signature> {
        self.attachment.program.as_ref()?.program().signature()
    }

    fn vm(&self) -> u32 {
        self.space.vm().0.into()
    }

    fn vcpu(&self) -> u32 {
        self.vcpu.0.into()
    }

    fn exit_syndrome(&self) -> u64 {
        (self.memory)(self.regs).exit_syndrome()
    }

    fn cookie(&self) -> u64 {
        self.attachment.options.cookie
    }

    fn register(&self, number: u16) -> Option<u64> {
        let register = SysReg::ALL.get(usize::from(number))?;
        (self.memory)(self.regs).system(*register)
    }

    fn read_guest(&self, address: u64, buffer: &mut [u8]) -> Result<(), ReadFault> {
        (self.memory)(self.regs)
            .inspect(Gva(address), buffer)
            .map_err(|_| ReadFault)
    }

    fn state_variable(&self, number: u16) -> Option<u64> {
        let value = self.space.variable_at(number, self.vcpu, self.stamp);
        value.map(|value| value as u64)
    }

    fn set_state_variable(&self, number: u16, value: u64) -> Option<()> {
        let variables = self.space.variables();
        variables.set(number.into(), value as i64).then_some(())
    }

    fn print(&self, text: &[u8]) {
        self.push(EventKind::Print, text);
    }

    fn record(&self, map: MapId, length: usize, words: &dyn Fn(usize) -> u64) -> Result<(), Lost> {
        let events = self.space.events();
        events.write_words(&self.event().gives(map), length, words)
    }
}

/// Text formatted without allocation; what does not fit is cut off.
pub(crate) struct ShortText {
    bytes: [u8; Self::CAPACITY],
    length: usize,
}

impl ShortText {
    pub(crate) const CAPACITY: usize = 160;

    pub(crate) fn new() -> Self {
        Self {
            bytes: [0; Self::CAPACITY],
            length: 0,
        }
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl fmt::Write for ShortText {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = &mut self.bytes[self.length..];
        let length = text.len().min(room.len());
        room[..length].copy_from_slice(&text.as_bytes()[..length]);
        self.length += length;
        Ok(())
    }
}
