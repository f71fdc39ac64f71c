//! `trace attach`: an object's programs where their sections say, or a program at a breakpoint of GDB's.

use super::trace_kprobe::describe;
use super::{Command, Flag, Invocation, Problem, probe_words, refused};
use alloc::format;
use alloc::vec::Vec;
use probes::options::{AfterRun, Moment, ProbeOptions};
use probes::periscope::attach::{Attached, Hook};
use probes::space::Space;

pub(super) const COMMAND: Command = Command {
    path: &["trace", "attach"],
    arguments: "PROGRAM|[VM:]PLACE VM|PROGRAM [--go] [--cookie N]",
    summary: "run an object's programs where their sections say (kprobe/vfs_read); or one at a breakpoint of GDB's, which then stops (--go: goes on); --cookie: what bpf_get_attach_cookie() says",
    run,
};

/// What follows the words.
#[derive(Default)]
struct Options {
    go: Flag,
    cookie: u64,
}

fn run(invocation: &mut Invocation<'_>) -> Result<(), Problem> {
    let mut options = Options::default();
    let mut rest = Vec::new();
    let mut words = invocation.arguments.iter().copied();
    while let Some(word) = words.next() {
        match word {
            "--go" => options.go = Flag::Given,
            "--cookie" => options.cookie = probe_words::cookie(&mut words)?,
            _ if word.starts_with("--") => {
                return Err(Problem::Usage(format!("there is no {word} here.")));
            }
            _ => rest.push(word),
        }
    }
    let [first, second] = rest[..] else {
        return Err(Problem::Usage(
            "this needs a program and a VM, or a place and a program.".into(),
        ));
    };
    let programs = invocation.periscope().programs();
    let is_program = |name| programs.object(name).is_ok() || programs.program(name).is_ok();
    match invocation.periscope().space(second) {
        Ok(space) => attach_object(invocation, first, space, &options),
        Err(error) if is_program(first) && !is_program(second) => Err(refused(error)),
        Err(_) => attach_action(invocation, first, second, &options),
    }
}

fn attach_object(
    invocation: &mut Invocation<'_>,
    name: &str,
    space: &'static Space,
    options: &Options,
) -> Result<(), Problem> {
    if options.go == Flag::Given {
        return Err(Problem::Usage(format!(
            "--go is for breakpoints: where {name} is attached by itself, it always goes on."
        )));
    }
    let attached = invocation
        .periscope()
        .attach_object(name, space, options.cookie);
    for Attached { program, hook } in attached.map_err(refused)? {
        match hook {
            Hook::Probe {
                space,
                id,
                target,
                moment,
                placement,
            } => {
                let vm = space.vm();
                let wants_arguments = program.program().signature().is_some();
                let kind = match (vm.is_hypervisor(), moment) {
                    (false, Moment::Before) if wants_arguments => "fentry",
                    (false, Moment::Return { .. }) if wants_arguments => "fexit",
                    (false, Moment::Before) => "kprobe",
                    (false, Moment::Return { .. }) => "kretprobe",
                    (true, Moment::Before) => "hprobe",
                    (true, Moment::Return { .. }) => "hretprobe",
                };
                let program = program.name();
                let state = describe(vm, placement);
                writeln!(
                    invocation.out,
                    "probe {id}: {kind} {vm}:{target}{state}, program {program}"
                )?;
            }
            Hook::Tracepoint(point) => {
                let program = program.name();
                writeln!(invocation.out, "{point} is on, runs {program}")?;
            }
        }
    }
    Ok(())
}

fn attach_action<'a>(
    invocation: &mut Invocation<'a>,
    place: &'a str,
    name: &str,
    options: &Options,
) -> Result<(), Problem> {
    let (space, target) = invocation.place(place)?;
    let program = invocation
        .periscope()
        .programs()
        .program(name)
        .map_err(refused)?;
    let (after, then) = match options.go {
        Flag::Given => (AfterRun::Go, "it lets pass"),
        Flag::Absent => (AfterRun::Stop, "it still stops (--go to let it pass)"),
    };
    let options = ProbeOptions {
        after,
        cookie: options.cookie,
        ..ProbeOptions::default()
    };
    let id = space
        .attach_action(&target, program, options)
        .map_err(refused)?;
    let vm = space.vm();
    writeln!(
        invocation.out,
        "action {id}: breakpoint {vm}:{target} now runs {name}; {then}"
    )?;
    Ok(())
}
