//! `trace verbose`.

use super::{Command, Invocation, Problem};
use crate::events::Verbosity;

pub(super) const COMMAND: Command = Command {
    path: &["trace", "verbose"],
    arguments: "[on|off]",
    summary: "show hits too while the guest runs, not only what programs print",
    run,
};

fn run(invocation: &mut Invocation<'_>) -> Result<(), Problem> {
    let mut events = invocation.server.events();
    match invocation.arguments {
        [] => {}
        ["on"] => events.set_verbosity(Verbosity::Hits),
        ["off"] => events.set_verbosity(Verbosity::Texts),
        _ => return Err(Problem::Usage("this takes on or off.".into())),
    }
    let state = match events.verbosity() {
        Verbosity::Hits => "on: hits and what programs print are shown while the guest runs",
        Verbosity::Texts => "off: what programs print is shown while the guest runs",
    };
    writeln!(invocation.out, "{state}")?;
    Ok(())
}
