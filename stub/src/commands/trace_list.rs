//! `trace list`.

use super::number::grouped;
use super::table::{Align, Table};
use super::{Command, Invocation, Problem, kind_name};
use alloc::format;
use alloc::string::{String, ToString};
use probes::space::{AfterRun, Listing, ProbeState};

pub(super) const COMMAND: Command = Command {
    path: &["trace", "list"],
    arguments: "",
    summary: "show probes, actions and breakpoints with their hits",
    run,
};

fn run(invocation: &mut Invocation<'_>) -> Result<(), Problem> {
    let [] = invocation.exactly()?;
    let mut table = Table::new(&[
        ("ID", Align::Right),
        ("KIND", Align::Left),
        ("SITE", Align::Left),
        ("PROGRAM", Align::Left),
        ("THEN", Align::Left),
        ("STATE", Align::Left),
        ("HITS", Align::Right),
        ("MISSED", Align::Right),
    ]);
    for space in invocation.shown_spaces() {
        for entry in space.list() {
            table.row(cells(&space.vm().to_string(), entry));
        }
    }
    table.write(invocation.out)?;
    let lost = invocation.periscope().events().total_lost();
    if lost > 0 {
        writeln!(
            invocation.out,
            "{} events were lost: nobody read them in time",
            grouped(lost)
        )?;
    }
    Ok(())
}

fn cells(vm: &str, entry: Listing) -> [String; 8] {
    let then = match entry.after {
        AfterRun::Go => "go",
        AfterRun::Stop => "stop",
    };
    let state = match entry.state {
        ProbeState::On => "on",
        ProbeState::Pending => "pending",
        ProbeState::Disarmed => "off",
    };
    [
        entry
            .id
            .map_or_else(|| String::from("-"), |id| id.to_string()),
        kind_name(entry.kind).to_string(),
        format!("{vm}:{}", entry.site),
        entry.program,
        then.to_string(),
        state.to_string(),
        grouped(entry.hits),
        grouped(entry.missed),
    ]
}
