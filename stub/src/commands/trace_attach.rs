//! `trace attach`.

use super::{Command, Flag, Invocation, Problem, refused};
use probes::options::AfterRun;

pub(super) const COMMAND: Command = Command {
    path: &["trace", "attach"],
    arguments: "[VM:]PLACE PROGRAM [--go]",
    summary: "run a program at a breakpoint of GDB's, then stop (--go: go on)",
    run,
};

fn run(invocation: &mut Invocation<'_>) -> Result<(), Problem> {
    let (rest, go) = invocation.take_flag("--go")?;
    let [place, name] = rest[..] else {
        return Err(Problem::Usage("this needs a place and a program.".into()));
    };
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
