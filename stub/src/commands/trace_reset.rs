//! `trace reset`.

use super::{Command, Invocation, Problem};

pub(super) const COMMAND: Command = Command {
    path: &["trace", "reset"],
    arguments: "",
    summary: "forget all events, statistics and losses; the hits of `trace list` stay",
    run,
};

fn run(invocation: &mut Invocation<'_>) -> Result<(), Problem> {
    let [] = invocation.exactly()?;
    invocation.server.reset_events();
    writeln!(invocation.out, "events and statistics begin anew")?;
    Ok(())
}
