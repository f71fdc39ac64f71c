//! `trace unkprobe`.

use super::{Command, Invocation, Problem, kind_name, refused};
use alloc::format;
use alloc::string::ToString;
use alloc::vec::Vec;
use probes::space::{Listing, ProbeId, Space};
use probes::target::Target;

pub(super) const COMMAND: Command = Command {
    path: &["trace", "unkprobe"],
    arguments: "[VM:]NUMBER|PLACE",
    summary: "detach a probe or an action, or all at a place",
    run,
};

fn run(invocation: &mut Invocation<'_>) -> Result<(), Problem> {
    let [word] = invocation.exactly()?;
    let (space, rest) = invocation.split_space(word)?;
    detach_named(invocation, space, rest)
}

/// Detaches the probe or the action of that number, or all at that place.
pub(super) fn detach_named(
    invocation: &mut Invocation<'_>,
    space: &Space,
    rest: &str,
) -> Result<(), Problem> {
    if let Ok(id) = rest.parse::<u32>() {
        return detach(invocation, space, ProbeId(id));
    }
    let target = Target::parse(rest).map_err(refused)?;
    let ids = at(space, &target);
    if ids.is_empty() {
        let vm = space.vm();
        let text = format!("{vm} has no probe at {target}: `trace list` shows what it has.");
        return Err(Problem::Refused(text));
    }
    ids.into_iter()
        .try_for_each(|id| detach(invocation, space, id))
}

/// The probes and actions at a place.
fn at(space: &Space, target: &Target) -> Vec<ProbeId> {
    let is_there = |entry: &Listing| match target {
        Target::Address(address) => entry.address == Some(*address),
        Target::Symbol { .. } => entry.site == target.to_string(),
    };
    space
        .list()
        .into_iter()
        .filter(is_there)
        .filter_map(|entry| entry.id)
        .collect()
}

fn detach(invocation: &mut Invocation<'_>, space: &Space, id: ProbeId) -> Result<(), Problem> {
    let entry = space.list().into_iter().find(|entry| entry.id == Some(id));
    space.detach(id).map_err(refused)?;
    match entry {
        Some(Listing {
            kind, site, hits, ..
        }) => {
            let (kind, vm) = (kind_name(kind), space.vm());
            writeln!(
                invocation.out,
                "detached probe {id}: {kind} {vm}:{site}, {hits} hits"
            )?;
        }
        None => writeln!(invocation.out, "detached probe {id}")?,
    }
    Ok(())
}
