//! From entries to sites: what runs where, and which hardware breakpoints stand in.

use super::{Entry, Registry, Standing, Surroundings, Switch, trap_of};
use crate::addr::{Gpa, Gva};
use crate::machine::{FetchTrap, HwPoint, Machine};
use crate::options::{AfterRun, ProbeMode};
use crate::returns::Role;
use crate::site::{Bound, Cover, MAX_COVERS, Verdict};
use crate::space::ProbeKind;
use crate::symbols::Symbols;
use crate::target::Target;
use alloc::collections::BTreeSet;
use alloc::vec::Vec;

/// An action whose breakpoint is set.
struct BoundAction {
    /// Index of the breakpoint's entry.
    breakpoint: usize,
    after: AfterRun,
}

impl Registry {
    /// Derives from the entries what runs where.
    pub(super) fn rebuild(&mut self, around: &Surroundings<'_>) {
        self.table.unbind_all();
        self.cover_waiting(around.machine);
        let actions = self.bind_actions(around);
        for index in 0..self.entries.len() {
            let lets_pass = actions
                .iter()
                .any(|action| action.breakpoint == index && action.after == AfterRun::Go);
            self.bind(index, lets_pass);
        }
        let mut relaxed = self.free_unused(around.machine);
        relaxed.extend(self.relax_traps(around.machine));
        for page in relaxed {
            self.table.reload(around.machine, page);
        }
    }

    /// Frees the sites where nothing runs. Returns those of them that made their page not
    /// executable.
    fn free_unused(&mut self, machine: &dyn Machine) -> Vec<Gpa> {
        let mut relaxed = Vec::new();
        for (slot, gpa) in self.table.unused() {
            let site = self.table.get(slot);
            if site.is_some_and(|site| site.trap == FetchTrap::NoExecute) {
                relaxed.push(gpa);
            }
            machine.disarm(gpa);
            self.table.free(slot);
        }
        relaxed
    }

    /// Gives the sites whose last `xn` probe has gone a probe instruction again. Returns them.
    fn relax_traps(&mut self, machine: &dyn Machine) -> Vec<Gpa> {
        let wants_xn = |entry: &&Entry| entry.attachment.options.mode == ProbeMode::Xn;
        let wanted = self.entries.iter().filter(wants_xn);
        let wanted: Vec<u16> = wanted
            .flat_map(Entry::places)
            .map(|place| place.slot)
            .collect();
        let mut relaxed = Vec::new();
        for slot in self.table.taken() {
            let Some(site) = self.table.get_mut(slot) else {
                continue;
            };
            if site.trap != FetchTrap::NoExecute || wanted.contains(&slot) {
                continue;
            }
            // A page that cannot be armed again traps as it did.
            let trap = trap_of(machine.vm(), slot, ProbeMode::Hvc);
            if machine.arm(site.gpa, trap).is_ok() {
                site.trap = trap;
                relaxed.push(site.gpa);
            }
        }
        relaxed
    }

    /// Sets hardware breakpoints for the probes that want one, and covers as many waiting entries
    /// as there are spare ones, GDB's breakpoints first. Return probes need too many.
    fn cover_waiting(&mut self, machine: &dyn Machine) {
        let wanted = self.wanted_points();
        let own = self
            .entries
            .iter()
            .filter_map(|entry| match entry.standing {
                Standing::Hardware(address) => Some(address),
                _ => None,
            });
        let own: BTreeSet<Gva> = own.collect();
        let mut addresses = Vec::new();
        for kind in [
            ProbeKind::Breakpoint,
            ProbeKind::Kprobe,
            ProbeKind::GdbTracepoint,
            ProbeKind::Hprobe,
        ] {
            for entry in self
                .entries
                .iter()
                .filter(|entry| entry.kind == kind && entry.waits())
            {
                let Some(address) = entry.address else {
                    continue;
                };
                let has_point = wanted.contains(&HwPoint::Break(address));
                if !has_point && !addresses.contains(&address) && addresses.len() < MAX_COVERS {
                    addresses.push(address);
                }
            }
        }
        self.set_points_and_covers(machine, &wanted, &mut addresses);
        let can_be_covered = |entry: &&mut Entry| entry.waits() && !entry.kind.is_on_returns();
        for entry in self.entries.iter_mut().filter(can_be_covered) {
            entry.standing = match entry.address {
                Some(address) if addresses.contains(&address) || own.contains(&address) => {
                    Standing::Covered(address)
                }
                _ => Standing::Pending,
            };
        }
        let cover = |address| Cover {
            address,
            bound: Vec::new(),
        };
        let all = own.into_iter().chain(addresses);
        self.table.covers.extend(all.map(cover));
    }

    /// Sets the points `wanted` and hardware breakpoints at the first of `addresses`; drops those
    /// that the CPU has no register for.
    fn set_points_and_covers(
        &mut self,
        machine: &dyn Machine,
        wanted: &[HwPoint],
        addresses: &mut Vec<Gva>,
    ) {
        loop {
            let mut points = wanted.to_vec();
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
            let entry = &self.entries[index];
            if entry.kind != ProbeKind::Action || entry.switch == Switch::Off {
                continue;
            }
            self.find_address(around, index);
            let breakpoint = self.breakpoint_of(&self.entries[index], around.symbols);
            let standing = match breakpoint.map(|breakpoint| self.entries[breakpoint].standing) {
                Some(Standing::Placed(place) | Standing::Leaving(place)) => Standing::Placed(place),
                Some(Standing::Covered(address)) => Standing::Covered(address),
                Some(Standing::Pending | Standing::Idle | Standing::Hardware(_)) | None => {
                    Standing::Idle
                }
            };
            let action = &mut self.entries[index];
            action.standing = standing;
            if let Some(breakpoint) = breakpoint {
                bound.push(BoundAction {
                    breakpoint,
                    after: action.attachment.options.after,
                });
            }
        }
        bound
    }

    /// The breakpoint that an action runs at: one at its very address, else, for a function, the
    /// first in it.
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

    /// Makes an entry's program run where the entry stands. A breakpoint with an action that lets
    /// pass does not stop.
    fn bind(&mut self, index: usize, lets_pass: bool) {
        let entry = &self.entries[index];
        let verdict = match (entry.kind, entry.attachment.options.after) {
            (ProbeKind::Breakpoint, _) if lets_pass => Verdict::Go,
            (ProbeKind::Breakpoint, _) => Verdict::Program,
            // Whether a breakpoint with an action stops, the breakpoint says.
            (ProbeKind::Action, _) => Verdict::Go,
            (_, AfterRun::Stop) => Verdict::Stop,
            (_, AfterRun::Go) => Verdict::Go,
        };
        let bound = |role| Bound {
            attachment: entry.attachment.clone(),
            verdict,
            role,
        };
        match entry.standing {
            Standing::Placed(place) | Standing::Leaving(place) => {
                for (slot, role) in entry.roles(place) {
                    if let Some(site) = self.table.get_mut(slot) {
                        site.bound.push(bound(role));
                    }
                }
            }
            Standing::Covered(address) | Standing::Hardware(address) => {
                if let Some(cover) = self.table.cover_mut(address) {
                    cover.bound.push(bound(Role::Here));
                }
            }
            Standing::Idle | Standing::Pending => {}
        }
    }
}
