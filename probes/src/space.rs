//! One VM as the debugger sees it: its breakpoints, probes, hardware points and symbols.

use crate::a64::SimulationFeatures;
use crate::addr::{Gpa, Gva};
use crate::engine::HitOutcome;
use crate::event::Rings;
use crate::machine::{HwPoint, LiveMemory, Machine, VcpuId, VmId};
use crate::programs::ProgramRef;
use crate::refusal::Refusal;
use crate::regs::CoreRegs;
use crate::symbols::Symbols;
use crate::target::Target;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use spin::RwLock;

/// How many sites a VM can have.
pub const MAX_SITES: usize = 1024;

/// Number of a probe or action in its space, from 1. Never used again.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord, Hash)]
pub struct ProbeId(pub u32);

impl fmt::Display for ProbeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// What a hit does after the program has run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AfterRun {
    /// Goes on. On a GDB breakpoint: the breakpoint lets pass.
    Go,
    /// Stops the VM. On a GDB breakpoint: the breakpoint stops, as it does without a program.
    Stop,
}

/// How a breakpoint or probe has been accepted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Placement {
    /// It is armed there.
    Armed {
        /// The site's address: the next instruction where the user's address is a landing pad of a guarded page.
        address: Gva,
    },
    /// Its page is not mapped yet: it arms itself when it is.
    Pending,
}

/// What kind of thing an entry of a [`Listing`] is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ProbeKind {
    /// A breakpoint of GDB's.
    Breakpoint,
    /// A probe on a guest function.
    Kprobe,
    /// A program on a breakpoint of GDB's.
    Action,
}

/// Whether hits of an entry count now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ProbeState {
    /// Armed.
    On,
    /// Its code is not there yet; it arms itself.
    Pending,
    /// A breakpoint that GDB has removed, or an action whose breakpoint GDB has not set.
    Disarmed,
}

/// One line of `trace list`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listing {
    /// Its number; a GDB breakpoint has none.
    pub id: Option<ProbeId>,
    /// What it is.
    pub kind: ProbeKind,
    /// The place as a user reads it: `do_sys_openat2+0x4`, or an address.
    pub site: String,
    /// The place's address, once known.
    pub address: Option<Gva>,
    /// The program's name.
    pub program: String,
    /// What happens after the program.
    pub after: AfterRun,
    /// Whether it is armed.
    pub state: ProbeState,
    /// How often its program has run.
    pub hits: u64,
    /// Of these, how often the program ended with an error.
    pub missed: u64,
}

/// One VM as the debugger sees it.
pub struct Space {
    machine: &'static dyn Machine,
    events: Arc<Rings>,
    symbols: RwLock<Option<Arc<dyn Symbols>>>,
}

impl Space {
    /// Which VM.
    pub fn vm(&self) -> VmId {
        self.machine.vm()
    }

    /// The VM itself.
    pub fn machine(&self) -> &'static dyn Machine {
        self.machine
    }

    /// The symbols, once they are known.
    pub fn symbols(&self) -> Option<Arc<dyn Symbols>> {
        self.symbols.read().clone()
    }

    /// Gives the space its symbols. Probes that wait for a symbol arm at the next [`Space::retry_pending`].
    pub fn set_symbols(&self, symbols: Arc<dyn Symbols>) {
        *self.symbols.write() = Some(symbols);
    }

    // ---- GDB's breakpoints ----

    /// Sets a breakpoint of GDB's (`Z0`) at `address` as `vcpu` sees it. Where it was set before, its hit count
    /// and actions are back. An address that is not mapped is accepted and waits.
    pub fn insert_breakpoint(&self, address: Gva, vcpu: VcpuId) -> Result<Placement, Refusal> {
        let _ = (address, vcpu);
        todo!()
    }

    /// Takes a breakpoint of GDB's away (`z0`). It stays armed until [`Space::reconcile`], because GDB removes all
    /// its breakpoints at every stop and sets them again before it resumes. No effect where there is none.
    pub fn remove_breakpoint(&self, address: Gva) {
        let _ = address;
        todo!()
    }

    /// Forgets all breakpoints, hardware points and hit counts of GDB's: its session has ended. Actions stay, and
    /// wait for the next session's breakpoint.
    pub fn forget_breakpoints(&self) {
        todo!()
    }

    /// Disarms the breakpoints that GDB has removed since the last call and not set again. A session calls this just
    /// before it resumes.
    pub fn reconcile(&self) {
        todo!()
    }

    /// Sets a hardware breakpoint or a watchpoint (`Z1` to `Z4`).
    pub fn insert_hw(&self, point: HwPoint) -> Result<(), Refusal> {
        let _ = point;
        todo!()
    }

    /// Takes a hardware point away. No effect where there is none.
    pub fn remove_hw(&self, point: HwPoint) {
        let _ = point;
        todo!()
    }

    // ---- Probes ----

    /// Attaches `program` to the code at `target`. The VM may run.
    pub fn attach_probe(
        &self,
        target: &Target,
        program: ProgramRef,
        after: AfterRun,
    ) -> Result<(ProbeId, Placement), Refusal> {
        let _ = (target, program, after);
        todo!()
    }

    /// Runs `program` at GDB's breakpoint at `target` (a symbol also means a breakpoint further into the
    /// function: GDB skips prologues). GDB sets its breakpoints only when it resumes: an action without
    /// breakpoint waits.
    pub fn attach_action(
        &self,
        target: &Target,
        program: ProgramRef,
        after: AfterRun,
    ) -> Result<ProbeId, Refusal> {
        let _ = (target, program, after);
        todo!()
    }

    /// Detaches a probe or an action. The VM may run.
    pub fn detach(&self, id: ProbeId) -> Result<(), Refusal> {
        let _ = id;
        todo!()
    }

    /// Everything that is set or attached.
    pub fn list(&self) -> Vec<Listing> {
        todo!()
    }

    // ---- What the hypervisor calls ----

    /// Whether anything waits for its page or its symbol.
    pub fn has_pending(&self) -> bool {
        todo!()
    }

    /// Arms what has been waiting and can be armed now. The hypervisor calls this from a periodic tick and after
    /// stops; cheap where nothing waits.
    pub fn retry_pending(&self) {
        todo!()
    }

    /// The guest starts anew: every site waits for its code again and symbols are forgotten. The VM is held.
    pub fn guest_reset(&self) {
        todo!()
    }

    /// The guest has written `instruction` to the word at `gpa`: if that is a site, this is what it displaces now.
    /// Any context; no lock but the table's read.
    pub fn adopt(&self, gpa: Gpa, instruction: u32) {
        let _ = (gpa, instruction);
        todo!()
    }

    /// A vCPU trapped with `HVC #immediate`. `regs.pc` is the address of the `HVC`, not the one after it. Runs the
    /// site's programs; then stops, or executes the displaced instruction in `regs`. Of `features`, the branch target
    /// check is set here.
    pub fn hit(
        &self,
        immediate: u16,
        vcpu: VcpuId,
        regs: &mut CoreRegs,
        memory: &dyn LiveMemory,
        features: &SimulationFeatures,
    ) -> HitOutcome {
        let _ = (immediate, vcpu, regs, memory, features, &self.events);
        todo!()
    }

    /// A vCPU ran into a hardware breakpoint at `regs.pc`. For one that covers a site which waits for its page, runs
    /// its programs; `Step` then means: step the vCPU over the instruction with that breakpoint off.
    pub fn hw_hit(
        &self,
        vcpu: VcpuId,
        regs: &mut CoreRegs,
        memory: &dyn LiveMemory,
        features: &SimulationFeatures,
    ) -> HitOutcome {
        let _ = (vcpu, regs, memory, features);
        todo!()
    }

    /// A vCPU is about to enter the guest after its VM was held (to run, or for one step). Where it stopped at a site
    /// and has not moved, executes the displaced instruction without running programs: `Resume` (done), `Step`,
    /// `Breakpoint`; otherwise `NotOurs`.
    pub fn pass(
        &self,
        vcpu: VcpuId,
        regs: &mut CoreRegs,
        memory: &dyn LiveMemory,
        features: &SimulationFeatures,
    ) -> HitOutcome {
        let _ = (vcpu, regs, memory, features);
        todo!()
    }
}
