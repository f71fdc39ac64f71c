//! `trace enable`, `trace disable`: probes by number, tracepoints by name.

use super::trace_kprobe::describe;
use super::{Command, Invocation, Problem, refused};
use alloc::format;
use alloc::vec::Vec;
use probes::programs::ProgramRef;
use probes::space::{ProbeId, Space};
use probes::tracepoint::Tracepoint;

pub(super) const ENABLE: Command = Command {
    path: &["trace", "enable"],
    arguments: "TRACEPOINT|[VM:]NUMBER... [--prog PROGRAM]",
    summary: "switch tracepoints on, to run a program or only to write events; or probes, with all of their --count to come",
    run: enable,
};

pub(super) const DISABLE: Command = Command {
    path: &["trace", "disable"],
    arguments: "TRACEPOINT|[VM:]NUMBER...",
    summary: "switch tracepoints off, or probes without detaching them",
    run: disable,
};

/// What can be switched.
enum Switch {
    Probe(&'static Space, ProbeId),
    Tracepoints(Vec<&'static Tracepoint>),
}

fn enable(invocation: &mut Invocation<'_>) -> Result<(), Problem> {
    let (words, program) = split_program(invocation)?;
    for switch in switches(invocation, &words)? {
        match switch {
            Switch::Probe(..) if program.is_some() => {
                return Err(Problem::Refused(
                    "a probe keeps the program that it was attached with: --prog is for tracepoints."
                        .into(),
                ));
            }
            Switch::Probe(space, id) => {
                let placement = space.enable(id).map_err(refused)?;
                let vm = space.vm();
                let state = describe(vm, placement);
                writeln!(invocation.out, "probe {id} of {vm} is on{state}")?;
            }
            Switch::Tracepoints(points) => {
                for point in points {
                    let tracer = invocation.periscope().tracer();
                    tracer.enable(point, program.clone()).map_err(refused)?;
                    match &program {
                        Some(program) => {
                            writeln!(invocation.out, "{point} is on, runs {}", program.name())?;
                        }
                        None => writeln!(invocation.out, "{point} is on")?,
                    }
                }
            }
        }
    }
    Ok(())
}

fn disable(invocation: &mut Invocation<'_>) -> Result<(), Problem> {
    for switch in switches(invocation, invocation.arguments)? {
        match switch {
            Switch::Probe(space, id) => {
                space.disable(id).map_err(refused)?;
                writeln!(invocation.out, "probe {id} of {} is off", space.vm())?;
            }
            Switch::Tracepoints(points) => {
                for point in points {
                    invocation.periscope().tracer().disable(point);
                    writeln!(invocation.out, "{point} is off")?;
                }
            }
        }
    }
    Ok(())
}

/// The arguments without `--prog PROGRAM`, and that program.
fn split_program<'a>(
    invocation: &Invocation<'a>,
) -> Result<(Vec<&'a str>, Option<ProgramRef>), Problem> {
    const PROG: &str = "--prog";
    let words = invocation.arguments;
    let Some(at) = words.iter().position(|word| *word == PROG) else {
        return Ok((words.to_vec(), None));
    };
    let Some(name) = words.get(at + 1) else {
        return Err(Problem::Usage(format!("{PROG} needs a program.")));
    };
    let programs = invocation.periscope().programs();
    let program = programs.program(name).map_err(refused)?;
    let rest = [&words[..at], &words[at + 2..]].concat();
    Ok((rest, Some(program)))
}

/// What is named. Nothing is switched where one of the names is wrong.
fn switches(invocation: &Invocation<'_>, words: &[&str]) -> Result<Vec<Switch>, Problem> {
    if words.is_empty() {
        return Err(Problem::Usage(
            "this needs a tracepoint or the number of a probe.".into(),
        ));
    }
    words.iter().map(|word| switch(invocation, word)).collect()
}

fn switch(invocation: &Invocation<'_>, word: &str) -> Result<Switch, Problem> {
    let (space, number) = word.split_once(':').unwrap_or(("", word));
    let is_space = invocation.periscope().space(space).is_ok();
    let is_number = number.bytes().all(|byte| byte.is_ascii_digit());
    if !is_space && !is_number {
        let points = invocation
            .periscope()
            .tracer()
            .find(word)
            .map_err(refused)?;
        return Ok(Switch::Tracepoints(points));
    }
    let space = match space {
        "" => invocation.here()?,
        name => invocation.periscope().space(name).map_err(refused)?,
    };
    let id = number.parse().map_err(|_| {
        Problem::Usage(format!(
            "{number:?} is no number of a probe: `trace list` shows them."
        ))
    })?;
    Ok(Switch::Probe(space, ProbeId(id)))
}
