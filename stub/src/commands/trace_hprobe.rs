//! `trace hprobe`, `trace hretprobe` and `trace unhprobe`: probes on the hypervisor's own code.

use super::probe_words::ProbeWords;
use super::trace_unkprobe::detach_named;
use super::{Caller, Command, Invocation, Problem, refused};
use alloc::format;
use probes::options::{AfterRun, Moment};
use probes::space::{Placement, Space};
use probes::target::Target;

pub(super) const ATTACH: Command = Command {
    path: &["trace", "hprobe"],
    arguments: "[hyp:]PLACE [PROGRAM] [--vcpu CPU] [--stop] [--once|--count N]",
    summary: "count the hits of the hypervisor's own code, run a program there, go on (--stop: stop for GDB at hyp)",
    run: attach,
};

pub(super) const ATTACH_RETURN: Command = Command {
    path: &["trace", "hretprobe"],
    arguments: "[hyp:]FUNCTION [PROGRAM] [--vcpu CPU] [--stop] [--once|--count N]",
    summary: "count the returns of a function of the hypervisor's, and run a program there",
    run: attach_return,
};

pub(super) const DETACH: Command = Command {
    path: &["trace", "unhprobe"],
    arguments: "[hyp:]NUMBER|PLACE",
    summary: "detach a probe of the hypervisor's own code, or all at a place",
    run: detach,
};

fn attach(invocation: &mut Invocation<'_>) -> Result<(), Problem> {
    let words = ProbeWords::read(invocation)?;
    attach_as(invocation, &words)
}

fn attach_return(invocation: &mut Invocation<'_>) -> Result<(), Problem> {
    let mut words = ProbeWords::read(invocation)?;
    if words.options.moment == Moment::Before {
        words.options.moment = Moment::RETURN;
    }
    attach_as(invocation, &words)
}

fn attach_as<'a>(invocation: &mut Invocation<'a>, words: &ProbeWords<'a>) -> Result<(), Problem> {
    let (space, rest) = own_space(invocation, words.place)?;
    let target = Target::parse(rest).map_err(refused)?;
    let (id, placement) = space
        .attach_probe(&target, words.program.clone(), words.options)
        .map_err(refused)?;
    let kind = match words.options.moment {
        Moment::Before => "hprobe",
        Moment::Return { .. } => "hretprobe",
    };
    write!(invocation.out, "probe {id}: {kind} hyp:{target}")?;
    if let Placement::Armed { address } = placement {
        write!(invocation.out, " at {address}")?;
    }
    writeln!(invocation.out, "{}", words.describe())?;
    if words.options.after == AfterRun::Stop && !is_debugger(invocation.caller) {
        writeln!(
            invocation.out,
            "It stops where GDB is attached to hyp; where nobody looks, hits count and go on."
        )?;
    }
    Ok(())
}

fn detach(invocation: &mut Invocation<'_>) -> Result<(), Problem> {
    let [word] = invocation.exactly()?;
    let (space, rest) = own_space(invocation, word)?;
    detach_named(invocation, space, rest)
}

/// Whether a debugger of the hypervisor asks.
fn is_debugger(caller: &Caller) -> bool {
    matches!(caller, Caller::Monitor { space, .. } if space.vm().is_hypervisor())
}

/// The hypervisor's space, and `word` without its name.
fn own_space<'a>(
    invocation: &Invocation<'a>,
    word: &'a str,
) -> Result<(&'static Space, &'a str), Problem> {
    let (name, rest) = Target::split_space(word);
    let space = invocation.periscope().space(name.unwrap_or("hyp"));
    let space = space.map_err(refused)?;
    if !space.vm().is_hypervisor() {
        let vm = space.vm();
        return Err(Problem::Refused(format!(
            "hprobes are on the hypervisor's own code: use `trace kprobe` for {vm}."
        )));
    }
    Ok((space, rest))
}
