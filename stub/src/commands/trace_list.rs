//! `trace list`.

use super::number::grouped;
use super::probe_words::mode_name;
use super::table::{Align, Table};
use super::{Command, Invocation, Problem, kind_name};
use alloc::format;
use alloc::string::{String, ToString};
use core::fmt::Write;
use probes::options::AfterRun;
use probes::space::{Listing, ProbeState};

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
        ("MODE", Align::Left),
        ("PROGRAM", Align::Left),
        ("THEN", Align::Left),
        ("STATE", Align::Left),
        ("HITS", Align::Right),
        ("MISSED", Align::Right),
    ]);
    for space in invocation.shown_with_hypervisor() {
        for entry in space.list() {
            table.row(cells(&space.vm().to_string(), entry));
        }
    }
    table.write(invocation.out)?;
    invocation.tell_lost()
}

fn cells(vm: &str, entry: Listing) -> [String; 9] {
    let then = then(&entry);
    let state = match entry.state {
        ProbeState::On => "on",
        ProbeState::Pending => "pending",
        ProbeState::Disarmed => "off",
        ProbeState::Done => "done",
    };
    [
        entry
            .id
            .map_or_else(|| String::from("-"), |id| id.to_string()),
        kind_name(entry.kind).to_string(),
        format!("{vm}:{}", entry.site),
        mode_name(entry.mode).to_string(),
        entry.program.unwrap_or_else(|| String::from("-")),
        then,
        state.to_string(),
        grouped(entry.hits),
        grouped(entry.missed),
    ]
}

/// What follows a hit, and which hits count: `go`, `stop vcpu1 x5`.
fn then(entry: &Listing) -> String {
    let mut text = String::from(match entry.after {
        AfterRun::Go => "go",
        AfterRun::Stop => "stop",
    });
    // Writing to a `String` does not fail.
    if let Some(vcpu) = entry.vcpu {
        let _ = write!(text, " vcpu{}", vcpu.0);
    }
    if let Some(limit) = entry.limit {
        let _ = write!(text, " x{limit}");
    }
    text
}
