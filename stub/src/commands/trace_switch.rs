//! `trace enable`, `trace disable`.

use super::trace_kprobe::describe;
use super::{Command, Invocation, Problem, refused};
use alloc::format;
use probes::space::{ProbeId, Space};

pub(super) const ENABLE: Command = Command {
    path: &["trace", "enable"],
    arguments: "[VM:]NUMBER...",
    summary: "switch probes on again, with all the hits of their --count to come",
    run: enable,
};

pub(super) const DISABLE: Command = Command {
    path: &["trace", "disable"],
    arguments: "[VM:]NUMBER...",
    summary: "switch probes off without detaching them",
    run: disable,
};

fn enable(invocation: &mut Invocation<'_>) -> Result<(), Problem> {
    each(invocation, |invocation, space, id| {
        let placement = space.enable(id).map_err(refused)?;
        let vm = space.vm();
        writeln!(
            invocation.out,
            "probe {id} of {vm} is on{}",
            describe(vm, placement)
        )?;
        Ok(())
    })
}

fn disable(invocation: &mut Invocation<'_>) -> Result<(), Problem> {
    each(invocation, |invocation, space, id| {
        space.disable(id).map_err(refused)?;
        writeln!(invocation.out, "probe {id} of {} is off", space.vm())?;
        Ok(())
    })
}

/// Calls `act` for every probe that is named.
fn each(
    invocation: &mut Invocation<'_>,
    act: impl Fn(&mut Invocation<'_>, &'static Space, ProbeId) -> Result<(), Problem>,
) -> Result<(), Problem> {
    if invocation.arguments.is_empty() {
        return Err(Problem::Usage("this needs the number of a probe.".into()));
    }
    for word in invocation.arguments {
        let (space, number) = invocation.split_space(word)?;
        let id = number.parse().map_err(|_| {
            Problem::Usage(format!(
                "{number:?} is no number of a probe: `trace list` shows them."
            ))
        })?;
        act(invocation, space, ProbeId(id))?;
    }
    Ok(())
}
