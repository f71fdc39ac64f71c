//! `log`.

use super::{Command, Invocation, Problem};
use alloc::borrow::ToOwned;

pub(super) const COMMAND: Command = Command {
    path: &["log"],
    arguments: "",
    summary: "show the hypervisor's log",
    run,
};

fn run(invocation: &mut Invocation<'_>) -> Result<(), Problem> {
    let [] = invocation.exactly()?;
    match invocation.server.log() {
        Some(log) => Ok(log.write_to(invocation.out)?),
        None => Err(Problem::Refused("this hypervisor keeps no log.".to_owned())),
    }
}
