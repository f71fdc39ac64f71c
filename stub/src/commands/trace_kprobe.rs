//! `trace kprobe`.

use super::{Command, Flag, Invocation, Problem, refused};
use alloc::format;
use alloc::string::String;
use probes::machine::VmId;
use probes::space::{AfterRun, Placement};

pub(super) const COMMAND: Command = Command {
    path: &["trace", "kprobe"],
    arguments: "[VM:]PLACE PROGRAM [--stop]",
    summary: "run a program at guest code, then go on (--stop: stop)",
    run,
};

fn run(invocation: &mut Invocation<'_>) -> Result<(), Problem> {
    let (rest, stop) = invocation.take_flag("--stop")?;
    let [place, name] = rest[..] else {
        return Err(Problem::Usage("this needs a place and a program.".into()));
    };
    let (space, target) = invocation.place(place)?;
    let program = invocation
        .periscope()
        .programs()
        .program(name)
        .map_err(refused)?;
    let after = match stop {
        Flag::Given => AfterRun::Stop,
        Flag::Absent => AfterRun::Go,
    };
    let (id, placement) = space
        .attach_probe(&target, program, after)
        .map_err(refused)?;
    let vm = space.vm();
    let stops = if stop == Flag::Given { ", stops" } else { "" };
    let state = describe(vm, placement);
    writeln!(
        invocation.out,
        "probe {id}: kprobe {vm}:{target}{state}, program {name}{stops}"
    )?;
    Ok(())
}

fn describe(vm: VmId, placement: Placement) -> String {
    match placement {
        Placement::Armed { address } => format!(" at {address}"),
        Placement::Pending => format!(" (not mapped in {vm} yet: arms itself when it is)"),
    }
}
