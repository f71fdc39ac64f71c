//! `trace attach`: an object's programs where their sections say, or a program at a breakpoint of GDB's.

use super::trace_kprobe::describe;
use super::{Command, Flag, Invocation, Problem, refused};
use alloc::format;
use probes::options::{AfterRun, Moment};
use probes::periscope::attach::{Attached, Hook};
use probes::space::Space;

pub(super) const COMMAND: Command = Command {
    path: &["trace", "attach"],
    arguments: "PROGRAM|[VM:]PLACE VM|PROGRAM [--go]",
    summary: "run an object's programs where their sections say (kprobe/vfs_read); or one at a breakpoint of GDB's, which then stops (--go: goes on)",
    run,
};

fn run(invocation: &mut Invocation<'_>) -> Result<(), Problem> {
    let (rest, go) = invocation.take_flag("--go")?;
    let [first, second] = rest[..] else {
        return Err(Problem::Usage(
            "this needs a program and a VM, or a place and a program.".into(),
        ));
    };
    let programs = invocation.periscope().programs();
    let is_program = |name| programs.object(name).is_ok() || programs.program(name).is_ok();
    match invocation.periscope().space(second) {
        Ok(space) => attach_object(invocation, first, space, go),
        Err(error) if is_program(first) && !is_program(second) => Err(refused(error)),
        Err(_) => attach_action(invocation, first, second, go),
    }
}

fn attach_object(
    invocation: &mut Invocation<'_>,
    name: &str,
    space: &'static Space,
    go: Flag,
) -> Result<(), Problem> {
    if go == Flag::Given {
        return Err(Problem::Usage(format!(
            "--go is for breakpoints: where {name} is attached by itself, it always goes on."
        )));
    }
    let attached = invocation.periscope().attach_object(name, space);
    for Attached { program, hook } in attached.map_err(refused)? {
        let program = program.name();
        match hook {
            Hook::Probe {
                space,
                id,
                target,
                moment,
                placement,
            } => {
                let vm = space.vm();
                let kind = match (vm.is_hypervisor(), moment) {
                    (false, Moment::Before) => "kprobe",
                    (false, Moment::Return { .. }) => "kretprobe",
                    (true, Moment::Before) => "hprobe",
                    (true, Moment::Return { .. }) => "hretprobe",
                };
                let state = describe(vm, placement);
                writeln!(
                    invocation.out,
                    "probe {id}: {kind} {vm}:{target}{state}, program {program}"
                )?;
            }
            Hook::Tracepoint(point) => {
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
    go: Flag,
) -> Result<(), Problem> {
    let (space, target) = invocation.place(place)?;
    let program = invocation
        .periscope()
        .programs()
        .program(name)
        .map_err(refused)?;
    let (after, then) = match go {
        Flag::Given => (AfterRun::Go, "it lets pass"),
        Flag::Absent => (AfterRun::Stop, "it still stops (--go to let it pass)"),
    };
    let id = space
        .attach_action(&target, program, after)
        .map_err(refused)?;
    let vm = space.vm();
    writeln!(
        invocation.out,
        "action {id}: breakpoint {vm}:{target} now runs {name}; {then}"
    )?;
    Ok(())
}
