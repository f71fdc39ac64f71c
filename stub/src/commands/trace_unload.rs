//! `trace unload`.

use super::{Command, Invocation, Problem, refused};

pub(super) const COMMAND: Command = Command {
    path: &["trace", "unload"],
    arguments: "NAME",
    summary: "forget a program that no probe uses",
    run,
};

fn run(invocation: &mut Invocation<'_>) -> Result<(), Problem> {
    let [name] = invocation.exactly()?;
    invocation
        .periscope()
        .unload_program(name)
        .map_err(refused)?;
    writeln!(invocation.out, "{name} is gone")?;
    Ok(())
}
