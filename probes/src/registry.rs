//! What the user wants, and the table of sites that follows from it.
//!
//! There is one registry for GDB's breakpoints, probes, and actions on breakpoints. Each is an
//! [`Entry`] with its attachment; the entry's hit count lives as long as the entry.
//! [`Registry::rebuild`] derives from the entries what runs at each site, frees the sites where
//! nothing runs, and covers what waits for its page with spare hardware breakpoints. The VM is held
//! in all of this.

mod derive;
mod returns;

use crate::a64::hvc;
use crate::addr::Gva;
use crate::engine::HVC_BASE;
use crate::event::EventKind;
use crate::gdb_trace::recorder::Recorder;
use crate::locate::{Locator, Spot};
use crate::machine::{ArmError, FetchTrap, HwPoint, Machine, VcpuId, VmId};
use crate::modules::Gone;
use crate::options::{AfterRun, Lifetime, Moment, Orders, ProbeMode, ProbeOptions};
use crate::own_code::{self, Probeable};
use crate::programs::ProgramRef;
use crate::refusal::Refusal;
use crate::site::{Attachment, HitTrace, Site, Table};
use crate::space::{MAX_SITES, Placement, ProbeKind};
use crate::symbols::Symbols;
use crate::target::Target;
use alloc::string::ToString;
use alloc::sync::Arc;
use alloc::vec::Vec;
use returns::ReturnPlaces;

/// How many breakpoints, probes and actions a VM can have, those that wait for their page and
/// those that GDB has removed included: a bound on what a client can make us remember.
pub(crate) const MAX_ENTRIES: usize = 2 * MAX_SITES;

/// How many similar names a refusal suggests.
const SUGGESTIONS: usize = 3;
/// How many symbols of one name a refusal tells apart.
const MAX_HOMONYMS: usize = 8;

/// Where an entry is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Standing {
    /// Nowhere: GDB removed it, it is switched off, or its code turned out not to bear a probe.
    Idle,
    /// Waits for its page or its symbol.
    Pending,
    /// Waits for its page, and a hardware breakpoint at this address stands in.
    Covered(Gva),
    /// At a site.
    Placed(Place),
    /// At a hardware breakpoint of its own.
    Hardware(Gva),
    /// GDB has removed it; it keeps its site until the next reconciliation.
    Leaving(Place),
}

/// A site, and the address by which it was found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Place {
    pub(crate) slot: u16,
    pub(crate) address: Gva,
}

/// Whether the user wants an entry to take hits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Switch {
    On,
    Off,
}

/// A breakpoint, a probe or an action.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) attachment: Arc<Attachment>,
    pub(crate) kind: ProbeKind,
    pub(crate) target: Target,
    pub(crate) switch: Switch,
    /// How long it stays, where it is a breakpoint.
    pub(crate) lifetime: Lifetime,
    /// The target's address, once known.
    pub(crate) address: Option<Gva>,
    /// The generation of symbols in which the target was last looked up.
    searched: u64,
    pub(crate) standing: Standing,
    /// The other sites of a return probe that is [`Standing::Placed`].
    returns: ReturnPlaces,
}

impl Entry {
    fn waits(&self) -> bool {
        self.kind != ProbeKind::Action
            && matches!(self.standing, Standing::Pending | Standing::Covered(_))
    }

    /// What it is and how it traps.
    fn means(&self) -> (ProbeKind, ProbeMode) {
        (self.kind, self.attachment.options.mode)
    }

    /// Where it is armed.
    fn armed_at(&self) -> Option<Gva> {
        match self.standing {
            Standing::Hardware(address) => Some(address),
            _ => self.place().map(|place| place.address),
        }
    }

    /// Takes it from its site for good, until the user switches it on.
    fn switch_off(&mut self) {
        self.switch = Switch::Off;
        self.standing = Standing::Idle;
    }

    fn place(&self) -> Option<Place> {
        match self.standing {
            Standing::Placed(place) | Standing::Leaving(place) => Some(place),
            Standing::Idle | Standing::Pending | Standing::Covered(_) | Standing::Hardware(_) => {
                None
            }
        }
    }
}

/// What a user wants to attach.
pub(crate) struct Wish<'a> {
    pub(crate) target: &'a Target,
    /// The target's address, where it is known.
    pub(crate) address: Option<Gva>,
    pub(crate) program: Option<ProgramRef>,
    pub(crate) options: ProbeOptions,
    /// Makes it a GDB tracepoint.
    pub(crate) recorder: Option<Arc<Recorder>>,
}

/// The world around a registry.
pub(crate) struct Surroundings<'a> {
    pub(crate) machine: &'a dyn Machine,
    pub(crate) symbols: Option<&'a dyn Symbols>,
    /// Counts the tables of symbols that there have been: a symbol is looked up once in each.
    pub(crate) generation: u64,
    /// Which functions can be probed, in the hypervisor's own space.
    pub(crate) probeable: Option<&'a Probeable>,
}

impl Surroundings<'_> {
    /// `address`, if a function begins there.
    fn function_at(&self, address: Gva) -> Option<Gva> {
        let located = self.symbols?.by_address(address)?;
        (located.offset == 0).then_some(address)
    }

    /// Refuses code that serves probes itself.
    fn check_probeable(&self, address: Gva) -> Result<(), Refusal> {
        let Some(rule) = self.probeable else {
            return Ok(());
        };
        let function = self.symbols.and_then(|symbols| symbols.by_address(address));
        if function.as_ref().is_some_and(|at| rule.allows(&at.name)) {
            return Ok(());
        }
        Err(Refusal::ServesProbes {
            vm: self.machine.vm(),
            place: function.map_or_else(|| address.to_string(), |at| at.name),
        })
    }
}

/// A hardware point of GDB's.
#[derive(Clone, Debug)]
pub(crate) struct Point {
    pub(crate) at: HwPoint,
    /// What says whether a hit stops, where it does not always.
    pub(crate) attachment: Option<Arc<Attachment>>,
    lifetime: Lifetime,
}

/// All that is set and attached in a VM.
pub(crate) struct Registry {
    pub(crate) entries: Vec<Entry>,
    pub(crate) table: Table,
    /// Hardware points of GDB's.
    pub(crate) points: Vec<Point>,
    /// What the machine has: GDB's points, then the covers.
    set_points: Vec<HwPoint>,
    last_probe: u32,
    locator: Locator,
}

impl Registry {
    pub(crate) fn new() -> Self {
        Self {
            entries: Vec::new(),
            table: Table::new(),
            points: Vec::new(),
            set_points: Vec::new(),
            last_probe: 0,
            locator: Locator::default(),
        }
    }

    // ---- GDB's breakpoints ----

    pub(crate) fn insert_breakpoint(
        &mut self,
        around: &Surroundings<'_>,
        address: Gva,
        vcpu: VcpuId,
        orders: &Orders,
    ) -> Result<Placement, Refusal> {
        around.check_probeable(address)?;
        let spot = self.locator.locate(around.machine, address, vcpu)?;
        let index = match self.breakpoint(address) {
            Some(index) => {
                let entry = &mut self.entries[index];
                entry.lifetime = orders.lifetime;
                if !entry.attachment.runs(&orders.program) {
                    entry.attachment = entry.attachment.with_orders(orders);
                }
                index
            }
            None => {
                self.make_room()?;
                self.entries.push(Entry {
                    attachment: Attachment::of_breakpoint(orders),
                    kind: ProbeKind::Breakpoint,
                    target: Target::Address(address),
                    switch: Switch::On,
                    lifetime: orders.lifetime,
                    address: Some(address),
                    searched: around.generation,
                    standing: Standing::Idle,
                    returns: ReturnPlaces::default(),
                });
                self.entries.len() - 1
            }
        };
        let standing = match (spot, self.entries[index].standing) {
            (Some(spot), _) => {
                let place = self.place(around.machine, spot, ProbeMode::Hvc);
                place.map(Standing::Placed)
            }
            // Unmapped in the address space that runs now, but its site is still good.
            (None, Standing::Placed(place) | Standing::Leaving(place)) => {
                Ok(Standing::Placed(place))
            }
            (None, _) => Ok(Standing::Pending),
        };
        match standing {
            Ok(standing) => self.entries[index].standing = standing,
            Err(refusal) => {
                self.entries[index].standing = Standing::Idle;
                self.rebuild(around);
                return Err(refusal);
            }
        }
        self.rebuild(around);
        Ok(placement(&self.entries[index]))
    }

    pub(crate) fn remove_breakpoint(&mut self, address: Gva) {
        let Some(index) = self.breakpoint(address) else {
            return;
        };
        let entry = &mut self.entries[index];
        entry.standing = match entry.standing {
            Standing::Placed(place) | Standing::Leaving(place) => Standing::Leaving(place),
            Standing::Idle | Standing::Pending | Standing::Covered(_) | Standing::Hardware(_) => {
                Standing::Idle
            }
        };
    }

    /// Ends what [`Registry::remove_breakpoint`] began.
    pub(crate) fn reconcile(&mut self, around: &Surroundings<'_>) {
        for entry in &mut self.entries {
            if matches!(entry.standing, Standing::Leaving(_)) {
                entry.standing = Standing::Idle;
            }
        }
        self.rebuild(around);
    }

    /// The client has gone. What outlives it and what it has not removed stays.
    pub(crate) fn forget_breakpoints(&mut self, around: &Surroundings<'_>) {
        let is_removed =
            |entry: &Entry| matches!(entry.standing, Standing::Idle | Standing::Leaving(_));
        let stays = |entry: &Entry| entry.lifetime == Lifetime::Space && !is_removed(entry);
        self.entries
            .retain(|entry| entry.kind != ProbeKind::Breakpoint || stays(entry));
        self.points
            .retain(|point| point.lifetime == Lifetime::Space);
        self.rebuild(around);
    }

    /// Whether what GDB has set at `pc` is there for its commands only.
    pub(crate) fn goes_on_at(&self, pc: Gva) -> bool {
        let is_there =
            |entry: &&Entry| entry.kind == ProbeKind::Breakpoint && entry.armed_at() == Some(pc);
        let breakpoint = self.entries.iter().find(is_there);
        let point = self.hw_breakpoint(pc);
        let attachments = breakpoint.map(|entry| &entry.attachment).into_iter();
        let mut all = attachments.chain(point.and_then(|point| point.attachment.as_ref()));
        all.any(|attachment| attachment.options.after == AfterRun::Go)
    }

    fn breakpoint(&self, address: Gva) -> Option<usize> {
        self.entries
            .iter()
            .position(|entry| entry.kind == ProbeKind::Breakpoint && entry.address == Some(address))
    }

    pub(crate) fn insert_hw(
        &mut self,
        around: &Surroundings<'_>,
        point: HwPoint,
        orders: Option<&Orders>,
    ) -> Result<(), Refusal> {
        let known = self.points.iter_mut().find(|known| known.at == point);
        let lifetime = orders.map_or(Lifetime::Client, |orders| orders.lifetime);
        if let Some(known) = known {
            known.attachment = orders.map(|orders| match &known.attachment {
                Some(old) if old.runs(&orders.program) => old.clone(),
                Some(old) => old.with_orders(orders),
                None => Attachment::of_breakpoint(orders),
            });
            known.lifetime = lifetime;
            return Ok(());
        }
        self.points.push(Point {
            at: point,
            attachment: orders.map(Attachment::of_breakpoint),
            lifetime,
        });
        // Covers make room for what the user asks for.
        if let Err(refusal) = self.set_wanted_points(around.machine, None) {
            self.points.pop();
            return Err(refusal);
        }
        self.rebuild(around);
        Ok(())
    }

    /// Sets the points that the user has asked for, `new` among them, and no covers.
    fn set_wanted_points(
        &mut self,
        machine: &dyn Machine,
        new: Option<Gva>,
    ) -> Result<(), Refusal> {
        let mut points = self.wanted_points();
        let new = new.map(HwPoint::Break);
        points.extend(new.filter(|point| !points.contains(point)));
        machine.set_points(&points).map_err(Refusal::Hardware)?;
        self.set_points = points;
        Ok(())
    }

    /// GDB's points, and those of probes that have a hardware breakpoint of their own.
    fn wanted_points(&self) -> Vec<HwPoint> {
        let mut points: Vec<_> = self.points.iter().map(|point| point.at).collect();
        for entry in &self.entries {
            if let Standing::Hardware(address) = entry.standing
                && !points.contains(&HwPoint::Break(address))
            {
                points.push(HwPoint::Break(address));
            }
        }
        points
    }

    /// GDB's hardware breakpoint at `pc`.
    pub(crate) fn hw_breakpoint(&self, pc: Gva) -> Option<&Point> {
        let mut points = self.points.iter();
        points.find(|point| point.at == HwPoint::Break(pc))
    }

    pub(crate) fn remove_hw(&mut self, around: &Surroundings<'_>, point: HwPoint) {
        self.points.retain(|other| other.at != point);
        self.rebuild(around);
    }

    // ---- Probes and actions ----

    pub(crate) fn attach_probe(
        &mut self,
        around: &Surroundings<'_>,
        wish: Wish<'_>,
    ) -> Result<(u32, Placement), Refusal> {
        check_vcpu(around.machine, wish.options.vcpu)?;
        if let Some(address) = wish.address {
            around.check_probeable(address)?;
        }
        let is_hypervisor = around.machine.vm().is_hypervisor();
        let mode = wish.options.mode;
        if is_hypervisor && mode != ProbeMode::Hvc {
            return Err(Refusal::ModeOfVms);
        }
        let kind = match (is_hypervisor, wish.options.moment) {
            _ if wish.recorder.is_some() => ProbeKind::GdbTracepoint,
            (false, Moment::Before) => ProbeKind::Kprobe,
            (false, Moment::Return { .. }) => ProbeKind::Kretprobe,
            (true, Moment::Before) => ProbeKind::Hprobe,
            (true, Moment::Return { .. }) => ProbeKind::Hretprobe,
        };
        self.make_room()?;
        let footing = self.footing(around, (kind, mode), wish.address)?;
        let id = self.add(around, kind, wish);
        if let Some(entry) = self.entries.last_mut() {
            entry.stand(footing);
        }
        self.rebuild(around);
        let placement = self.entries.last().map_or(Placement::Pending, placement);
        Ok((id, placement))
    }

    pub(crate) fn attach_action(
        &mut self,
        around: &Surroundings<'_>,
        wish: Wish<'_>,
    ) -> Result<u32, Refusal> {
        self.make_room()?;
        let id = self.add(around, ProbeKind::Action, wish);
        self.rebuild(around);
        Ok(id)
    }

    pub(crate) fn detach(&mut self, around: &Surroundings<'_>, id: u32) -> Result<(), Refusal> {
        let index = self.probe(around, id)?;
        self.entries.remove(index);
        self.rebuild(around);
        Ok(())
    }

    /// Lets a probe or an action take hits again, as many as at first where it has a limit.
    pub(crate) fn enable(
        &mut self,
        around: &Surroundings<'_>,
        id: u32,
    ) -> Result<Placement, Refusal> {
        let index = self.probe(around, id)?;
        if self.entries[index].standing == Standing::Idle {
            let address = self.find_address(around, index);
            let (kind, mode) = self.entries[index].means();
            if kind != ProbeKind::Action {
                let footing = self.footing(around, (kind, mode), address)?;
                self.entries[index].stand(footing);
            }
        }
        let entry = &mut self.entries[index];
        entry.switch = Switch::On;
        entry.attachment.refill();
        self.rebuild(around);
        Ok(placement(&self.entries[index]))
    }

    /// Disarms a probe or an action and keeps it.
    pub(crate) fn disable(&mut self, around: &Surroundings<'_>, id: u32) -> Result<(), Refusal> {
        let index = self.probe(around, id)?;
        self.entries[index].switch_off();
        self.rebuild(around);
        Ok(())
    }

    /// Switches off what has had its last hit. Calls `tell` for each.
    pub(crate) fn retire_done(&mut self, around: &Surroundings<'_>, tell: &mut dyn FnMut(&Entry)) {
        let is_new = |entry: &&mut Entry| entry.switch == Switch::On && entry.attachment.is_done();
        let mut changed = false;
        for entry in self.entries.iter_mut().filter(is_new) {
            entry.switch_off();
            tell(entry);
            changed = true;
        }
        if changed {
            self.rebuild(around);
        }
    }

    /// Where the probe or action of that number is.
    fn probe(&self, around: &Surroundings<'_>, id: u32) -> Result<usize, Refusal> {
        let mut entries = self.entries.iter();
        let index = entries.position(|entry| entry.attachment.probe == Some(id));
        index.ok_or_else(|| Refusal::NoSuchProbe {
            vm: around.machine.vm(),
            id,
        })
    }

    fn add(&mut self, around: &Surroundings<'_>, kind: ProbeKind, wish: Wish<'_>) -> u32 {
        self.last_probe = self.last_probe.wrapping_add(1).max(1);
        let vm = around.machine.vm();
        let trace = match wish.recorder {
            Some(recorder) => HitTrace::Frame(recorder),
            None if kind.is_on_returns() => HitTrace::Event(EventKind::return_in(vm)),
            None => HitTrace::Event(EventKind::probe_in(vm)),
        };
        self.entries.push(Entry {
            attachment: Attachment::new(Some(self.last_probe), trace, wish.program, wish.options),
            kind,
            target: wish.target.clone(),
            switch: Switch::On,
            lifetime: Lifetime::Client,
            address: wish.address,
            searched: around.generation,
            standing: Standing::Idle,
            returns: ReturnPlaces::default(),
        });
        self.last_probe
    }

    /// Makes sure that one more entry fits: breakpoints that GDB has removed go first.
    fn make_room(&mut self) -> Result<(), Refusal> {
        if self.entries.len() < MAX_ENTRIES {
            return Ok(());
        }
        self.entries.retain(|entry| {
            entry.kind != ProbeKind::Breakpoint || entry.standing != Standing::Idle
        });
        if self.entries.len() < MAX_ENTRIES {
            return Ok(());
        }
        Err(Refusal::TooManySites(MAX_ENTRIES))
    }

    // ---- The guest's life ----

    /// Whether anything waits.
    pub(crate) fn waits(&self) -> bool {
        let waits = |entry: &Entry| entry.waits() || entry.wants_sites();
        self.entries.iter().any(waits)
    }

    /// Whether anything is attached whose hits write events.
    pub(crate) fn has_probes(&self) -> bool {
        let is_probe = |entry: &Entry| entry.attachment.event().is_some();
        self.entries.iter().any(is_probe)
    }

    /// Whether anything waits that could find its place now: by its address, or in symbols that it
    /// has not been looked up in.
    pub(crate) fn has_new_chance(&self, generation: u64) -> bool {
        let has = |entry: &Entry| entry.address.is_some() || entry.searched != generation;
        let mut entries = self.entries.iter();
        entries.any(|entry| entry.waits() && has(entry) || entry.wants_sites())
    }

    /// The addresses of all that is armed.
    pub(crate) fn armed_addresses(&self) -> impl Iterator<Item = Gva> {
        self.entries.iter().filter_map(Entry::armed_at)
    }

    /// Modules are gone, or about to go: disarms what is in their code. A symbol waits for its
    /// module to come back; an address means nothing any more. Calls `tell` for each, with its
    /// module.
    pub(crate) fn modules_gone(
        &mut self,
        around: &Surroundings<'_>,
        gone: &[Gone],
        tell: &mut dyn FnMut(&Entry, &Gone),
    ) {
        for entry in &mut self.entries {
            let Some(address) = entry.armed_at() else {
                continue;
            };
            let Some(module) = gone.iter().find(|gone| gone.range.contains(&address)) else {
                continue;
            };
            if entry.target.is_symbol() && entry.kind != ProbeKind::Action {
                entry.standing = Standing::Pending;
                entry.address = None;
            } else {
                entry.standing = Standing::Idle;
            }
            entry.forget_returns();
            tell(entry, module);
        }
        self.rebuild(around);
    }

    /// Whether an entry waits for its symbol's address.
    pub(crate) fn wants_symbols(&self) -> bool {
        let wants = |entry: &Entry| entry.waits() && entry.address.is_none();
        self.entries.iter().any(wants)
    }

    /// Places what waits and can be placed now. Calls `tell` for each entry that it places, and
    /// with the reason for each that it gives up.
    pub(crate) fn retry_pending(
        &mut self,
        around: &Surroundings<'_>,
        tell: &mut dyn FnMut(&Entry, Option<&Refusal>),
    ) {
        let mut changed = self.arm_return_sites(around);
        for index in 0..self.entries.len() {
            if !self.entries[index].waits() {
                continue;
            }
            let address = self.find_address(around, index);
            let means = self.entries[index].means();
            let refusal = match self.footing(around, means, address) {
                Ok(None) => continue,
                // What is no code may be yet to be loaded.
                Err(Refusal::NotExecutable(_) | Refusal::NotAnInstruction { .. }) => continue,
                Ok(footing) => {
                    self.entries[index].stand(footing);
                    None
                }
                Err(refusal) => {
                    self.entries[index].standing = Standing::Idle;
                    Some(refusal)
                }
            };
            changed = true;
            tell(&self.entries[index], refusal.as_ref());
        }
        if changed {
            self.rebuild(around);
        }
    }

    /// The address of an entry, looked up where it is not known yet and there are new symbols. A
    /// symbol that is not there may be a module's, and come later.
    fn find_address(&mut self, around: &Surroundings<'_>, index: usize) -> Option<Gva> {
        let entry = &mut self.entries[index];
        if entry.address.is_none() && entry.searched != around.generation {
            entry.searched = around.generation;
            entry.address = around
                .symbols
                .and_then(|symbols| look_up(symbols, &entry.target));
        }
        entry.address
    }

    /// The guest's code is gone: everything waits for it again, symbols are looked up anew.
    pub(crate) fn guest_reset(&mut self, around: &Surroundings<'_>) {
        self.locator.guest_reset();
        for entry in &mut self.entries {
            entry.standing = match entry.standing {
                Standing::Placed(_) if entry.kind != ProbeKind::Action => Standing::Pending,
                // An address needs no page for a hardware breakpoint.
                Standing::Hardware(address) if !entry.target.is_symbol() => {
                    Standing::Hardware(address)
                }
                Standing::Pending | Standing::Covered(_) | Standing::Hardware(_) => {
                    Standing::Pending
                }
                Standing::Placed(_) | Standing::Leaving(_) | Standing::Idle => Standing::Idle,
            };
            if matches!(entry.target, Target::Symbol { .. }) {
                entry.address = None;
            }
            entry.forget_returns();
        }
        self.rebuild(around);
    }

    /// The site that was found by `address`.
    pub(crate) fn site_at_address(&self, address: Gva) -> Option<&Site> {
        let mut places = self.entries.iter().flat_map(Entry::places);
        let place = places.find(|place| place.address == address)?;
        self.table.get(place.slot)
    }

    // ---- From entries to sites ----

    /// The site at a spot; arms one if there is none.
    fn place(
        &mut self,
        machine: &dyn Machine,
        spot: Spot,
        mode: ProbeMode,
    ) -> Result<Place, Refusal> {
        let Spot { gpa, address, word } = spot;
        let refuse = |error| {
            let vm = machine.vm();
            match error {
                ArmError::NotRam(gpa) => Refusal::NotRam { vm, address, gpa },
                ArmError::OutOfMemory => Refusal::OutOfMemory(vm),
                ArmError::NoView => Refusal::ModeOfVms,
            }
        };
        if let Some(slot) = self.table.slot_at(gpa) {
            if mode == ProbeMode::Xn {
                machine.arm(gpa, FetchTrap::NoExecute).map_err(refuse)?;
                self.table.set_trap(slot, FetchTrap::NoExecute);
            }
            return Ok(Place { slot, address });
        }
        let Some(slot) = self.table.allocate(gpa, word) else {
            return Err(Refusal::TooManySites(MAX_SITES));
        };
        let trap = trap_of(machine.vm(), slot, mode);
        if let Err(error) = machine.arm(gpa, trap) {
            self.table.free(slot);
            return Err(refuse(error));
        }
        self.table.set_trap(slot, trap);
        Ok(Place { slot, address })
    }
}

/// How a site traps where `mode` has the last word.
fn trap_of(vm: VmId, slot: u16, mode: ProbeMode) -> FetchTrap {
    match mode {
        ProbeMode::Xn => FetchTrap::NoExecute,
        ProbeMode::Hvc | ProbeMode::Hw if vm.is_hypervisor() => {
            FetchTrap::Instruction(own_code::probe_instruction(slot))
        }
        ProbeMode::Hvc | ProbeMode::Hw => FetchTrap::Instruction(hvc(HVC_BASE + slot)),
    }
}

/// Refuses a vCPU that the VM does not have. One that is off is fine: it may come.
fn check_vcpu(machine: &dyn Machine, vcpu: Option<VcpuId>) -> Result<(), Refusal> {
    match vcpu {
        Some(VcpuId(number)) if usize::from(number) >= machine.vcpu_count() => {
            Err(Refusal::NoVcpu {
                vm: machine.vm(),
                vcpu: number,
            })
        }
        _ => Ok(()),
    }
}

fn placement(entry: &Entry) -> Placement {
    if let Standing::Hardware(address) = entry.standing {
        return Placement::Armed { address };
    }
    match entry.place() {
        Some(place) => Placement::Armed {
            address: place.address,
        },
        None => Placement::Pending,
    }
}

/// The address of a target; `None` for a symbol while there are no symbols, or while its module is
/// not loaded.
pub(crate) fn address_of(
    vm: VmId,
    symbols: Option<&dyn Symbols>,
    target: &Target,
) -> Result<Option<Gva>, Refusal> {
    match (target, symbols) {
        (Target::Address(address), _) => Ok(Some(*address)),
        (Target::Symbol { .. }, None) => Ok(None),
        (Target::Symbol { name, .. }, Some(symbols)) => {
            let mut places = symbols.named(name, MAX_HOMONYMS);
            places.dedup_by_key(|named| named.address);
            if places.len() > 1 {
                let name = name.clone();
                return Err(Refusal::Ambiguous { vm, name, places });
            }
            let found = look_up(symbols, target);
            let module = Target::split_module(name).map(|(module, _)| module);
            if found.is_none() && module.is_some_and(|module| !symbols.has_module(module)) {
                return Ok(None);
            }
            found.map(Some).ok_or_else(|| not_found(vm, symbols, name))
        }
    }
}

/// Why there is no symbol of that name.
fn not_found(vm: VmId, symbols: &dyn Symbols, name: &str) -> Refusal {
    let name = name.to_string();
    match symbols.inlined(&name) {
        0 => Refusal::NoSymbol {
            vm,
            similar: symbols.similar(&name, SUGGESTIONS),
            name,
        },
        places => Refusal::Inlined { vm, name, places },
    }
}

fn look_up(symbols: &dyn Symbols, target: &Target) -> Option<Gva> {
    match target {
        Target::Address(address) => Some(*address),
        Target::Symbol { name, offset } => {
            let start = symbols.by_name(name)?;
            Some(Gva(start.0.wrapping_add(*offset)))
        }
    }
}
