//! `trace detach`.

use super::{Command, Invocation, Problem, refused};
use alloc::format;

pub(super) const COMMAND: Command = Command {
    path: &["trace", "detach"],
    arguments: "PROGRAM",
    summary: "detach all programs of an object, or one, wherever they run",
    run,
};

fn run(invocation: &mut Invocation<'_>) -> Result<(), Problem> {
    let [name] = invocation.exactly()?;
    let gone = invocation.periscope().detach_object(name);
    let gone = gone.map_err(refused)?;
    if gone.is_empty() {
        return Err(Problem::Refused(format!("{name} runs nowhere.")));
    }
    for place in gone {
        writeln!(invocation.out, "detached {name}: {place}")?;
    }
    Ok(())
}
