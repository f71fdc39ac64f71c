//! What the user wants, and the table of sites that follows from it.
//!
//! There is one registry for GDB's breakpoints, probes, and actions on breakpoints. Each is an [`Entry`] with its
//! attachment; the entry's hit count lives as long as the entry. [`Registry::rebuild`] derives from the entries what runs at each
//! site, frees the sites where nothing runs, and covers what waits for its page with spare hardware breakpoints. The VM is held
//! in all of this.

use crate::a64::hvc;
use crate::addr::Gva;
use crate::engine::HVC_BASE;
use crate::locate::{Spot, locate, locate_anywhere};
use crate::machine::{ArmError, HwPoint, Machine, VcpuId};
use crate::programs::ProgramRef;
use crate::refusal::Refusal;
use crate::site::{Attachment, Bound, Cover, MAX_COVERS, Table, Verdict};
use crate::space::{AfterRun, MAX_SITES, Placement, ProbeKind};
use crate::symbols::Symbols;
use crate::target::Target;
use alloc::string::ToString;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// How many breakpoints, probes and actions a VM can have, those that wait for their page and
/// those that GDB has removed included: a bound on what a client can make us remember.
pub(crate) const MAX_ENTRIES: usize = 2 * MAX_SITES;

/// How many similar names a refusal suggests.
const SUGGESTIONS: usize = 3;

/// Where an entry is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Standing {
    /// Nowhere: GDB removed it, or its code turned out not to bear a probe.
    Idle,
    /// Waits for its page or its symbol.
    Pending,
    /// Waits for its page, and a hardware breakpoint at this address stands in.
    Covered(Gva),
    /// At a site.
    Placed(Place),
    /// GDB has removed it; it keeps its site until the next reconciliation.
    Leaving(Place),
}

/// A site, and the address by which it was found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Place {
    pub(crate) slot: u16,
    pub(crate) address: Gva,
}

/// A breakpoint, a probe or an action.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) attachment: Arc<Attachment>,
    pub(crate) kind: ProbeKind,
    pub(crate) target: Target,
    pub(crate) after: AfterRun,
    /// The target's address, once known.
    pub(crate) address: Option<Gva>,
    pub(crate) standing: Standing,
}

impl Entry {
    fn waits(&self) -> bool {
        self.kind != ProbeKind::Action
            && matches!(self.standing, Standing::Pending | Standing::Covered(_))
    }

    fn place(&self) -> Option<Place> {
        match self.standing {
            Standing::Placed(place) | Standing::Leaving(place) => Some(place),
            Standing::Idle | Standing::Pending | Standing::Covered(_) => None,
        }
    }
}

/// The world around a registry.
pub(crate) struct Surroundings<'a> {
    pub(crate) machine: &'a dyn Machine,
    pub(crate) symbols: Option<&'a dyn Symbols>,
}

/// All that is set and attached in a VM.
pub(crate) struct Registry {
    pub(crate) entries: Vec<Entry>,
    pub(crate) table: Table,
    /// Hardware points of GDB's.
    pub(crate) points: Vec<HwPoint>,
    /// What the machine has: GDB's points, then the covers.
    set_points: Vec<HwPoint>,
    last_probe: u32,
}

impl Registry {
    pub(crate) fn new() -> Self {
        Self {
            entries: Vec::new(),
            table: Table::new(),
            points: Vec::new(),
            set_points: Vec::new(),
            last_probe: 0,
        }
    }

    // ---- GDB's breakpoints ----

    pub(crate) fn insert_breakpoint(
        &mut self,
        around: &Surroundings<'_>,
        address: Gva,
        vcpu: VcpuId,
        stop: &ProgramRef,
    ) -> Result<Placement, Refusal> {
        let spot = locate(around.machine, address, vcpu)?;
        let index = match self.breakpoint(address) {
            Some(index) => index,
            None => {
                self.make_room()?;
                self.entries.push(Entry {
                    attachment: Attachment::new(None, stop.clone()),
                    kind: ProbeKind::Breakpoint,
                    target: Target::Address(address),
                    after: AfterRun::Stop,
                    address: Some(address),
                    standing: Standing::Idle,
                });
                self.entries.len() - 1
            }
        };
        let standing = match (spot, self.entries[index].standing) {
            (Some(spot), _) => self.place(around.machine, spot).map(Standing::Placed),
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
            Standing::Idle | Standing::Pending | Standing::Covered(_) => Standing::Idle,
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

    pub(crate) fn forget_breakpoints(&mut self, around: &Surroundings<'_>) {
        self.entries
            .retain(|entry| entry.kind != ProbeKind::Breakpoint);
        self.points.clear();
        self.rebuild(around);
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
    ) -> Result<(), Refusal> {
        if self.points.contains(&point) {
            return Ok(());
        }
        self.points.push(point);
        // Covers make room for what the user asks for.
        if let Err(error) = around.machine.set_points(&self.points) {
            self.points.pop();
            return Err(Refusal::Hardware(error));
        }
        self.set_points.clone_from(&self.points);
        self.rebuild(around);
        Ok(())
    }

    pub(crate) fn remove_hw(&mut self, around: &Surroundings<'_>, point: HwPoint) {
        self.points.retain(|other| *other != point);
        self.rebuild(around);
    }

    // ---- Probes and actions ----

    pub(crate) fn attach_probe(
        &mut self,
        around: &Surroundings<'_>,
        target: &Target,
        program: ProgramRef,
        after: AfterRun,
    ) -> Result<(u32, Placement), Refusal> {
        let address = address_of(around, target)?;
        let spot = match address {
            Some(address) => locate_anywhere(around.machine, address)?,
            None => None,
        };
        self.make_room()?;
        let standing = match spot {
            Some(spot) => Standing::Placed(self.place(around.machine, spot)?),
            None => Standing::Pending,
        };
        let id = self.add(ProbeKind::Kprobe, target, program, after, address, standing);
        self.rebuild(around);
        let placement = self.entries.last().map_or(Placement::Pending, placement);
        Ok((id, placement))
    }

    pub(crate) fn attach_action(
        &mut self,
        around: &Surroundings<'_>,
        target: &Target,
        program: ProgramRef,
        after: AfterRun,
    ) -> Result<u32, Refusal> {
        let address = address_of(around, target)?;
        self.make_room()?;
        let id = self.add(
            ProbeKind::Action,
            target,
            program,
            after,
            address,
            Standing::Idle,
        );
        self.rebuild(around);
        Ok(id)
    }

    pub(crate) fn detach(&mut self, around: &Surroundings<'_>, id: u32) -> Result<(), Refusal> {
        let index = self
            .entries
            .iter()
            .position(|entry| entry.attachment.probe == Some(id));
        let Some(index) = index else {
            return Err(Refusal::NoSuchProbe {
                vm: around.machine.vm(),
                id,
            });
        };
        self.entries.remove(index);
        self.rebuild(around);
        Ok(())
    }

    fn add(
        &mut self,
        kind: ProbeKind,
        target: &Target,
        program: ProgramRef,
        after: AfterRun,
        address: Option<Gva>,
        standing: Standing,
    ) -> u32 {
        self.last_probe = self.last_probe.wrapping_add(1).max(1);
        self.entries.push(Entry {
            attachment: Attachment::new(Some(self.last_probe), program),
            kind,
            target: target.clone(),
            after,
            address,
            standing,
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
        self.entries.iter().any(Entry::waits)
    }

    /// Places what waits and can be placed now. Calls `tell` for each entry that it places, and with the reason for each that it
    /// gives up.
    pub(crate) fn retry_pending(
        &mut self,
        around: &Surroundings<'_>,
        tell: &mut dyn FnMut(&Entry, Option<&Refusal>),
    ) {
        let mut changed = false;
        for index in 0..self.entries.len() {
            if !self.entries[index].waits() {
                continue;
            }
            let refusal = match self.retry(around, index) {
                Ok(None) => continue,
                Ok(Some(place)) => {
                    self.entries[index].standing = Standing::Placed(place);
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

    fn retry(&mut self, around: &Surroundings<'_>, index: usize) -> Result<Option<Place>, Refusal> {
        let Some(address) = self.find_address(around, index) else {
            return Ok(None);
        };
        match locate_anywhere(around.machine, address)? {
            Some(spot) => self.place(around.machine, spot).map(Some),
            None => Ok(None),
        }
    }

    /// The address of an entry, looked up where it is not known yet. A symbol that is not there may be a module's, and
    /// come later.
    fn find_address(&mut self, around: &Surroundings<'_>, index: usize) -> Option<Gva> {
        let entry = &mut self.entries[index];
        if entry.address.is_none() {
            entry.address = address_of(around, &entry.target).ok().flatten();
        }
        entry.address
    }

    /// The guest's code is gone: everything waits for it again, symbols are looked up anew.
    pub(crate) fn guest_reset(&mut self, around: &Surroundings<'_>) {
        for entry in &mut self.entries {
            entry.standing = match entry.standing {
                Standing::Placed(_) if entry.kind != ProbeKind::Action => Standing::Pending,
                Standing::Pending | Standing::Covered(_) => Standing::Pending,
                Standing::Placed(_) | Standing::Leaving(_) | Standing::Idle => Standing::Idle,
            };
            if matches!(entry.target, Target::Symbol { .. }) {
                entry.address = None;
            }
        }
        self.rebuild(around);
    }

    /// The site that was found by `address`.
    pub(crate) fn slot_at_address(&self, address: Gva) -> Option<u16> {
        let places = self.entries.iter().filter_map(Entry::place);
        places
            .filter(|place| place.address == address)
            .map(|place| place.slot)
            .next()
    }

    // ---- From entries to sites ----

    /// The site at a spot; arms one if there is none.
    fn place(&mut self, machine: &dyn Machine, spot: Spot) -> Result<Place, Refusal> {
        let address = spot.address;
        if let Some(slot) = self.table.slot_at(spot.gpa) {
            return Ok(Place { slot, address });
        }
        let Some(slot) = self.table.allocate(spot.gpa, spot.word) else {
            return Err(Refusal::TooManySites(MAX_SITES));
        };
        if let Err(error) = machine.arm(spot.gpa, hvc(HVC_BASE + slot)) {
            self.table.free(slot);
            let vm = machine.vm();
            return Err(match error {
                ArmError::NotRam(gpa) => Refusal::NotRam { vm, address, gpa },
                ArmError::OutOfMemory => Refusal::OutOfMemory(vm),
            });
        }
        Ok(Place { slot, address })
    }

    /// Derives from the entries what runs where.
    fn rebuild(&mut self, around: &Surroundings<'_>) {
        self.table.unbind_all();
        self.cover_waiting(around.machine);
        let actions = self.bind_actions(around);
        for index in 0..self.entries.len() {
            let lets_pass = actions
                .iter()
                .any(|action| action.breakpoint == index && action.after == AfterRun::Go);
            self.bind(index, lets_pass);
        }
        for (slot, gpa) in self.table.unused() {
            around.machine.disarm(gpa);
            self.table.free(slot);
        }
    }

    /// Covers as many waiting entries as there are spare hardware breakpoints, GDB's breakpoints first.
    fn cover_waiting(&mut self, machine: &dyn Machine) {
        let mut addresses = Vec::new();
        for kind in [ProbeKind::Breakpoint, ProbeKind::Kprobe] {
            for entry in self
                .entries
                .iter()
                .filter(|entry| entry.kind == kind && entry.waits())
            {
                let Some(address) = entry.address else {
                    continue;
                };
                let has_point = self.points.contains(&HwPoint::Break(address));
                if !has_point && !addresses.contains(&address) && addresses.len() < MAX_COVERS {
                    addresses.push(address);
                }
            }
        }
        self.set_points_and_covers(machine, &mut addresses);
        for entry in self.entries.iter_mut().filter(|entry| entry.waits()) {
            entry.standing = match entry.address {
                Some(address) if addresses.contains(&address) => Standing::Covered(address),
                _ => Standing::Pending,
            };
        }
        let cover = |address| Cover {
            address,
            bound: Vec::new(),
        };
        self.table.covers.extend(addresses.into_iter().map(cover));
    }

    /// Sets GDB's points and hardware breakpoints at the first of `addresses`; drops those that the CPU has no
    /// register for.
    fn set_points_and_covers(&mut self, machine: &dyn Machine, addresses: &mut Vec<Gva>) {
        loop {
            let mut points = self.points.clone();
            points.extend(addresses.iter().copied().map(HwPoint::Break));
            if points == self.set_points || machine.set_points(&points).is_ok() {
                self.set_points = points;
                return;
            }
            if addresses.pop().is_none() {
                return;
            }
        }
    }

    /// Finds the breakpoint of every action, and takes over where that stands.
    fn bind_actions(&mut self, around: &Surroundings<'_>) -> Vec<BoundAction> {
        let mut bound = Vec::new();
        for index in 0..self.entries.len() {
            if self.entries[index].kind != ProbeKind::Action {
                continue;
            }
            self.find_address(around, index);
            let breakpoint = self.breakpoint_of(&self.entries[index], around.symbols);
            let standing = match breakpoint.map(|breakpoint| self.entries[breakpoint].standing) {
                Some(Standing::Placed(place) | Standing::Leaving(place)) => Standing::Placed(place),
                Some(Standing::Covered(address)) => Standing::Covered(address),
                Some(Standing::Pending | Standing::Idle) | None => Standing::Idle,
            };
            let action = &mut self.entries[index];
            action.standing = standing;
            if let Some(breakpoint) = breakpoint {
                bound.push(BoundAction {
                    breakpoint,
                    after: action.after,
                });
            }
        }
        bound
    }

    /// The breakpoint that an action runs at: one at its very address, else, for a function, the first in it.
    fn breakpoint_of(&self, action: &Entry, symbols: Option<&dyn Symbols>) -> Option<usize> {
        let set = || {
            let set = |(_, entry): &(usize, &Entry)| {
                entry.kind == ProbeKind::Breakpoint && entry.standing != Standing::Idle
            };
            self.entries.iter().enumerate().filter(set)
        };
        let address = action.address?;
        let is_there = |entry: &Entry| {
            let site = entry.place().map(|place| place.address);
            entry.address == Some(address) || site == Some(address)
        };
        if let Some((index, _)) = set().find(|(_, entry)| is_there(entry)) {
            return Some(index);
        }
        let Target::Symbol { name, offset: 0 } = &action.target else {
            return None;
        };
        let symbols = symbols?;
        let in_function = |entry: &Entry| {
            let located = symbols.by_address(entry.address?)?;
            (located.name == *name).then_some(())
        };
        set()
            .filter(|(_, entry)| in_function(entry).is_some())
            .min_by_key(|(_, entry)| entry.address)
            .map(|(index, _)| index)
    }

    /// Makes an entry's program run where the entry stands. A breakpoint with an action that lets pass does not stop.
    fn bind(&mut self, index: usize, lets_pass: bool) {
        let entry = &self.entries[index];
        let verdict = match (entry.kind, entry.after) {
            (ProbeKind::Breakpoint, _) if lets_pass => Verdict::Go,
            (ProbeKind::Breakpoint, _) => Verdict::Program,
            (ProbeKind::Kprobe, AfterRun::Stop) => Verdict::Stop,
            // Whether a breakpoint with an action stops, the breakpoint says.
            (ProbeKind::Kprobe, AfterRun::Go) | (ProbeKind::Action, _) => Verdict::Go,
        };
        let bound = Bound {
            attachment: entry.attachment.clone(),
            verdict,
        };
        let list = match entry.standing {
            Standing::Placed(place) | Standing::Leaving(place) => {
                self.table.get_mut(place.slot).map(|site| &mut site.bound)
            }
            Standing::Covered(address) => {
                self.table.cover_mut(address).map(|cover| &mut cover.bound)
            }
            Standing::Idle | Standing::Pending => None,
        };
        if let Some(list) = list {
            list.push(bound);
        }
    }
}

/// An action whose breakpoint is set.
struct BoundAction {
    /// Index of the breakpoint's entry.
    breakpoint: usize,
    after: AfterRun,
}

fn placement(entry: &Entry) -> Placement {
    match entry.place() {
        Some(place) => Placement::Armed {
            address: place.address,
        },
        None => Placement::Pending,
    }
}

/// The address of a target; `None` for a symbol while there are no symbols.
pub(crate) fn address_of(
    around: &Surroundings<'_>,
    target: &Target,
) -> Result<Option<Gva>, Refusal> {
    let (name, offset) = match target {
        Target::Address(address) => return Ok(Some(*address)),
        Target::Symbol { name, offset } => (name, *offset),
    };
    let Some(symbols) = around.symbols else {
        return Ok(None);
    };
    let no_symbol = || Refusal::NoSymbol {
        vm: around.machine.vm(),
        name: name.to_string(),
        similar: symbols.similar(name, SUGGESTIONS),
    };
    let start = symbols.by_name(name).ok_or_else(no_symbol)?;
    Ok(Some(Gva(start.0.wrapping_add(offset))))
}
