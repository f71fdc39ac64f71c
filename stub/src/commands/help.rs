//! `help`.

use super::{COMMANDS, Command, Invocation, Problem, parse, table};
use alloc::string::ToString;
use table::{Align, Table};

pub(super) const COMMAND: Command = Command {
    path: &["help"],
    arguments: "[COMMAND]",
    summary: "show the commands, or what one does",
    run,
};

fn run(invocation: &mut Invocation<'_>) -> Result<(), Problem> {
    if invocation.arguments.is_empty() {
        return list(invocation);
    }
    let (command, _) = parse::resolve(COMMANDS, invocation.arguments)?;
    writeln!(invocation.out, "{command}\n  {}", command.summary)?;
    Ok(())
}

fn list(invocation: &mut Invocation<'_>) -> Result<(), Problem> {
    let mut table = Table::new(&[("COMMAND", Align::Left), ("WHAT IT DOES", Align::Left)]);
    for command in COMMANDS {
        table.row([command.to_string(), command.summary.to_string()]);
    }
    table.write(invocation.out)?;
    writeln!(
        invocation.out,
        "\nWords can be shortened. A place is an address or a symbol: vm1:vfs_read, \
         0xffff800080012340.\nGDB's `remote put prog.lp NAME.lp` loads a program as NAME, `remote get FILE` fetches \
         one of `files`."
    )?;
    Ok(())
}
