//! `trace stream`.

use super::{Command, Invocation, Problem};
use alloc::format;

/// How many lines are shown unless asked otherwise.
const DEFAULT: usize = 20;

pub(super) const COMMAND: Command = Command {
    path: &["trace", "stream"],
    arguments: "[-n N]",
    summary: "show the last lines that programs printed (20, or N)",
    run,
};

fn run(invocation: &mut Invocation<'_>) -> Result<(), Problem> {
    let count = match invocation.arguments {
        [] => DEFAULT,
        ["-n", count] => count
            .parse()
            .map_err(|_| Problem::Usage(format!("{count:?} is no number of lines.")))?,
        _ => return Err(Problem::Usage("this takes only -n N.".into())),
    };
    invocation.server.collect_events();
    for space in invocation.shown_spaces() {
        for line in invocation.server.last_lines(space.vm(), count) {
            writeln!(invocation.out, "{line}")?;
        }
    }
    Ok(())
}
