//! `files`.

use super::table::{Align, Table};
use super::{Caller, Command, Invocation, Problem};
use crate::target::readable::{About, READABLE, programs};
use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::ToString;

pub(super) const COMMAND: Command = Command {
    path: &["files"],
    arguments: "",
    summary: "show what `remote get` can fetch",
    run,
};

fn run(invocation: &mut Invocation<'_>) -> Result<(), Problem> {
    let [] = invocation.exactly()?;
    let mut table = Table::new(&[("FILE", Align::Left), ("WHAT IS IN IT", Align::Left)]);
    for file in READABLE {
        let name = match (invocation.caller, file.about) {
            (Caller::Monitor { .. }, _) | (_, About::Machine) => file.name.to_owned(),
            (Caller::Shell | Caller::Tools { .. }, About::Vm) => format!("VM/{}", file.name),
        };
        table.row([name, file.holds.to_string()]);
    }
    for name in programs(invocation.periscope().programs()) {
        table.row([name, "a program, as it was loaded".to_owned()]);
    }
    Ok(table.write(invocation.out)?)
}
