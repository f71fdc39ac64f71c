//! Where the entries of return probes stand: at the function's entry, at each of its returns, and,
//! if it leaves by tail calls, behind the calls of it that have been seen.

use super::{Entry, Place, Registry, Standing, Surroundings};
use crate::a64::is_no_instruction;
use crate::addr::Gva;
use crate::locate::Spot;
use crate::options::ProbeMode;
use crate::refusal::Refusal;
use crate::returns::{Function, Pairing, Role, decode};
use crate::space::{MAX_SITES, ProbeKind};
use alloc::vec::Vec;

/// Places behind calls take no more sites where there are so many: the others are for what users
/// ask for.
const MAX_SITES_BESIDE: usize = MAX_SITES / 2;

/// The sites of an entry besides its place.
#[derive(Debug, Default)]
pub(super) struct ReturnPlaces {
    /// At return instructions.
    returns: Vec<Place>,
    /// Behind calls, each with where the call returns to.
    sites: Vec<(Place, Gva)>,
}

/// Where an entry can stand.
pub(super) struct Footing {
    standing: Standing,
    /// The function that begins there.
    function: Option<Gva>,
    /// For a return probe.
    returns: Option<(Function, Vec<Place>)>,
}

impl Entry {
    /// Takes its stand, or waits; no call is under way.
    pub(super) fn stand(&mut self, footing: Option<Footing>) {
        let Some(footing) = footing else {
            self.standing = Standing::Pending;
            return;
        };
        self.standing = footing.standing;
        self.attachment.set_function(footing.function);
        let Some((function, returns)) = footing.returns else {
            return;
        };
        let sites = Vec::new();
        self.returns = ReturnPlaces { returns, sites };
        if let Some(pairing) = &self.attachment.pairing {
            pairing.reset(function);
        }
    }

    /// Its code is gone, and the calls that were under way there.
    pub(super) fn forget_returns(&mut self) {
        self.returns = ReturnPlaces::default();
        if let Some(pairing) = &self.attachment.pairing {
            pairing.reset(Function::default());
        }
    }

    /// The slots of its sites, and what a hit there means, where the entry's own is at `place`.
    pub(super) fn roles(&self, place: Place) -> Vec<(u16, Role)> {
        if !self.kind.is_on_returns() {
            return [(place.slot, Role::Here)].to_vec();
        }
        let ReturnPlaces { returns, sites } = &self.returns;
        let returns = returns.iter().map(|place| (place.slot, Role::Return));
        let sites = sites
            .iter()
            .map(|(place, address)| (place.slot, Role::ReturnSite { address: *address }));
        let entry = [(place.slot, Role::Entry)];
        entry.into_iter().chain(returns).chain(sites).collect()
    }

    /// All places where it stands.
    pub(super) fn places(&self) -> impl Iterator<Item = Place> {
        let entry = self.place();
        let ReturnPlaces { returns, sites } = &self.returns;
        let others = returns.iter().chain(sites.iter().map(|(place, _)| place));
        // Where the entry is nowhere, these are from earlier.
        let others = others.copied().filter(move |_| entry.is_some());
        entry.into_iter().chain(others)
    }

    /// Its pairing, while it is armed.
    fn armed_pairing(&self) -> Option<&Pairing> {
        let pairing = self.attachment.pairing.as_ref();
        pairing.filter(|_| matches!(self.standing, Standing::Placed(_)))
    }

    /// Whether calls have come from places that are to be armed.
    pub(super) fn wants_sites(&self) -> bool {
        self.armed_pairing().is_some_and(Pairing::wants_sites)
    }
}

impl Registry {
    /// Arms what a probe of this kind and mode at `address` needs: all of it, or nothing. `None`: the address is
    /// not known, or some of the code is not mapped for now.
    pub(super) fn footing(
        &mut self,
        around: &Surroundings<'_>,
        means: (ProbeKind, ProbeMode),
        address: Option<Gva>,
    ) -> Result<Option<Footing>, Refusal> {
        let Some(address) = address else {
            return Ok(None);
        };
        let footing = self.arm(around, means, address);
        if footing.is_err() {
            // Frees the sites that came before the one that is refused.
            self.rebuild(around);
        }
        footing
    }

    fn arm(
        &mut self,
        around: &Surroundings<'_>,
        (kind, mode): (ProbeKind, ProbeMode),
        address: Gva,
    ) -> Result<Option<Footing>, Refusal> {
        let machine = around.machine;
        let spot = self.locator.locate_anywhere(machine, address, mode)?;
        if let Some(Spot { address, word, .. }) = spot
            && kind != ProbeKind::Breakpoint
            && is_no_instruction(word)
        {
            return Err(Refusal::NotAnInstruction { address, word });
        }
        if mode == ProbeMode::Hw {
            if kind.is_on_returns() {
                return Err(Refusal::ModeOfReturns);
            }
            self.set_wanted_points(machine, Some(address))?;
            return Ok(Some(Footing {
                standing: Standing::Hardware(address),
                function: around.function_at(address),
                returns: None,
            }));
        }
        let Some(spot) = spot else {
            return Ok(None);
        };
        if !kind.is_on_returns() {
            let place = self.place(machine, spot, mode)?;
            return Ok(Some(Footing {
                standing: Standing::Placed(place),
                function: around.function_at(address),
                returns: None,
            }));
        }
        let Some((function, spots)) = self.function_at(around, address, mode)? else {
            return Ok(None);
        };
        let place = self.place(machine, spot, mode)?;
        let places: Result<Vec<Place>, Refusal> = spots
            .into_iter()
            .map(|spot| self.place(machine, spot, mode))
            .collect();
        Ok(Some(Footing {
            standing: Standing::Placed(place),
            function: Some(address),
            returns: Some((function, places?)),
        }))
    }

    /// Arms the places behind calls that return probes have asked for. Says whether there are any.
    pub(super) fn arm_return_sites(&mut self, around: &Surroundings<'_>) -> bool {
        let mut changed = false;
        for index in 0..self.entries.len() {
            let attachment = self.entries[index].attachment.clone();
            let Some(pairing) = attachment.pairing.as_ref() else {
                continue;
            };
            if !self.entries[index].wants_sites() {
                continue;
            }
            let mode = attachment.options.mode;
            for address in pairing.wanted() {
                let probeable = around.check_probeable(address);
                let spot = probeable
                    .and_then(|()| self.locator.locate_anywhere(around.machine, address, mode));
                let place = match spot {
                    Ok(Some(_)) if self.table.count() >= MAX_SITES_BESIDE => {
                        Err(Refusal::TooManySites(MAX_SITES_BESIDE))
                    }
                    Ok(Some(spot)) => self.place(around.machine, spot, mode),
                    // The next call from there asks again.
                    Ok(None) => {
                        pairing.dismiss(address);
                        continue;
                    }
                    Err(refusal) => Err(refusal),
                };
                match place {
                    Ok(place) => {
                        self.entries[index].returns.sites.push((place, address));
                        pairing.armed(address);
                        changed = true;
                    }
                    Err(_) => pairing.refused(address),
                }
            }
        }
        changed
    }

    /// The function whose first instruction is at `address`, and its return instructions. `None`: some
    /// of it is not mapped for now.
    fn function_at(
        &mut self,
        around: &Surroundings<'_>,
        address: Gva,
        mode: ProbeMode,
    ) -> Result<Option<(Function, Vec<Spot>)>, Refusal> {
        let located = around
            .symbols
            .and_then(|symbols| symbols.by_address(address));
        if let Some(located) = located.filter(|located| located.offset != 0) {
            return Err(Refusal::NoEntry {
                address,
                name: located.name,
                offset: located.offset,
            });
        }
        let Some(mut reader) = self.locator.reader(around.machine, address) else {
            return Ok(None);
        };
        let signature = reader.signature();
        let Some(body) = decode(address, around.symbols, &mut |gva| reader.word(gva)) else {
            return Ok(None);
        };
        if body.returns.is_empty() && !body.has_tail_calls {
            return Err(Refusal::NeverReturns(address));
        }
        let mut spots = Vec::new();
        for address in body.returns {
            match self
                .locator
                .locate_anywhere(around.machine, address, mode)?
            {
                Some(spot) => spots.push(spot),
                None => return Ok(None),
            }
        }
        let function = Function {
            extent: body.extent,
            has_tail_calls: body.has_tail_calls,
            signature,
        };
        Ok(Some((function, spots)))
    }
}
