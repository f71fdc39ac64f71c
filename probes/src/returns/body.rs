//! The body of a function: how far it reaches, and where it is left.
//!
//! Symbols say where a function begins; it ends at the next symbol, unless control runs on into
//! that: then the symbol is a label inside the function. What follows a call, a jump or a return does
//! not run on, unless a branch leads there: it is the padding and the data between two functions, or
//! cannot be told from it. Where there are no symbols the end is the
//! first instruction that control does not run past and that no earlier branch goes beyond.
//!
//! What is taken for code and is none (a literal pool, the beginning of the next function) does no
//! harm: an instruction that looks like a return is probed, and the hit finds no call of this
//! function that could return there.

use crate::a64::{Control, control};
use crate::addr::Gva;
use crate::symbols::Symbols;
use alloc::collections::BTreeSet;
use alloc::vec::Vec;
use core::ops::Range;

/// Bytes of an instruction.
const WORD: u64 = 4;

/// Bytes of a function's body at most. The longest of Debian's kernel have some 30 KiB.
pub(crate) const MAX_BODY: u64 = 128 << 10;

/// Bytes that an unconditional jump within a function goes at most, where no symbol tells it from a
/// tail call.
const LONGEST_JUMP: u64 = 4 << 10;

/// How many functions of one name are looked at.
const MAX_HOMONYMS: usize = 64;

/// What the compiler appends to a function's name for the part that it put aside as rarely
/// executed.
const COLD: &str = ".cold";

/// The part of a function that a probe on its returns must know.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Body {
    /// From the entry to the end; the cold part is elsewhere.
    pub(crate) extent: Range<u64>,
    /// Its return instructions, those of the cold part included.
    pub(crate) returns: Vec<Gva>,
    /// Whether some branch may leave it for another function.
    pub(crate) has_tail_calls: bool,
}

/// A stretch of code, and the branches that lead out of it.
#[derive(Default)]
struct Part {
    extent: Range<u64>,
    returns: Vec<Gva>,
    exits: Vec<Gva>,
    has_indirect_branches: bool,
}

/// Decodes the function at `entry`. `fetch` reads the guest's own instruction. `None`: some of it
/// cannot be read for now.
pub(crate) fn decode(
    entry: Gva,
    symbols: Option<&dyn Symbols>,
    fetch: &mut dyn FnMut(Gva) -> Option<u32>,
) -> Option<Body> {
    let hot = Part::decode(entry, symbols, fetch)?;
    let mut body = Body {
        extent: hot.extent.clone(),
        returns: hot.returns,
        has_tail_calls: hot.has_indirect_branches,
    };
    let mut cold_parts: Vec<Range<u64>> = Vec::new();
    for exit in hot.exits {
        if cold_parts.iter().any(|part| part.contains(&exit.0)) {
            continue;
        }
        let Some(start) = symbols.and_then(|symbols| cold_part_of(entry, exit, symbols)) else {
            body.has_tail_calls = true;
            continue;
        };
        let cold = Part::decode(start, symbols, fetch)?;
        let leaves = |exit: &Gva| !body.extent.contains(&exit.0) || *exit == entry;
        body.has_tail_calls |= cold.has_indirect_branches || cold.exits.iter().any(leaves);
        body.returns.extend(cold.returns);
        cold_parts.push(cold.extent);
    }
    // Code that follows a cold part without a symbol may belong to both.
    body.returns.sort_unstable();
    body.returns.dedup();
    Some(body)
}

/// The beginning of the cold part that `address` is in, if that belongs to the function at `entry`.
fn cold_part_of(entry: Gva, address: Gva, symbols: &dyn Symbols) -> Option<Gva> {
    let located = symbols.by_address(address)?;
    let (name, _) = located.name.rsplit_once(COLD)?;
    let mut functions = symbols.named(name, MAX_HOMONYMS).into_iter();
    let is_its_own = functions.any(|function| function.address == entry);
    is_its_own.then_some(Gva(address.0 - located.offset))
}

impl Part {
    fn decode(
        start: Gva,
        symbols: Option<&dyn Symbols>,
        fetch: &mut dyn FnMut(Gva) -> Option<u32>,
    ) -> Option<Self> {
        let limit = start.0.saturating_add(MAX_BODY) & !(WORD - 1);
        let mut boundary = next_symbol(symbols, start, limit);
        let mut part = Self::default();
        let mut branches: Vec<u64> = Vec::new();
        let mut furthest = start.0;
        let mut targets: BTreeSet<u64> = BTreeSet::new();
        let mut pc = start.0;
        let mut runs_on = true;
        while pc < limit {
            let is_reached = runs_on || targets.contains(&pc);
            let control = control(fetch(Gva(pc))?);
            match control {
                Control::Return { .. } => part.returns.push(Gva(pc)),
                Control::Indirect => part.has_indirect_branches = true,
                Control::Jump { offset } | Control::Fork { offset } => {
                    let target = pc.wrapping_add_signed(offset);
                    branches.push(target);
                    targets.insert(target);
                    let reach = match control {
                        Control::Fork { .. } => limit,
                        _ => limit.min(pc.saturating_add(LONGEST_JUMP)),
                    };
                    if boundary.is_none() && (pc..reach).contains(&target) {
                        furthest = furthest.max(target);
                    }
                }
                Control::Next | Control::Call | Control::End => {}
            }
            pc += WORD;
            let leads_on = match control {
                Control::Next | Control::Fork { .. } => true,
                // Where no symbol ends the function, a call is taken for one that returns.
                Control::Call => boundary.is_none(),
                _ => false,
            };
            runs_on = is_reached && leads_on;
            match boundary {
                // A call of a function that never returns ends a function too.
                Some(end) if pc >= end && !runs_on => break,
                Some(end) if pc >= end => boundary = next_symbol(symbols, Gva(end), limit),
                Some(_) => {}
                None if runs_on || furthest >= pc => {}
                None => break,
            }
        }
        part.extent = start.0..pc;
        let leaves = |target: &u64| *target == start.0 || !part.extent.contains(target);
        part.exits = branches.into_iter().filter(leaves).map(Gva).collect();
        Some(part)
    }
}

/// The first symbol after `address`, where it is before `limit`.
fn next_symbol(symbols: Option<&dyn Symbols>, address: Gva, limit: u64) -> Option<u64> {
    let next = symbols?.next_after(address)?;
    (next.0 < limit).then_some(next.0)
}

#[cfg(test)]
mod tests;
