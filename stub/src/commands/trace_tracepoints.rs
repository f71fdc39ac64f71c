//! `trace tracepoints`.

use super::number::grouped;
use super::table::{Align, Table};
use super::{Command, Invocation, Problem, refused};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use probes::tracepoint::{Field, Tracepoint};

pub(super) const COMMAND: Command = Command {
    path: &["trace", "tracepoints"],
    arguments: "[TRACEPOINT]",
    summary: "show the hypervisor's own events with their fields, and which are on",
    run,
};

fn run(invocation: &mut Invocation<'_>) -> Result<(), Problem> {
    let tracer = invocation.periscope().tracer();
    let points = match invocation.arguments {
        [] => tracer.tracepoints().to_vec(),
        [name] => tracer.find(name).map_err(refused)?,
        _ => return Err(Problem::Usage("this takes one name.".into())),
    };
    if let [point] = points[..] {
        return describe(invocation, point);
    }
    let mut table = Table::new(&[
        ("TRACEPOINT", Align::Left),
        ("STATE", Align::Left),
        ("PROGRAM", Align::Left),
        ("HITS", Align::Right),
        ("MISSED", Align::Right),
        ("FIELDS", Align::Left),
    ]);
    for point in points {
        table.row(cells(point));
    }
    table.write(invocation.out)?;
    Ok(())
}

fn cells(point: &Tracepoint) -> [String; 6] {
    let names: Vec<&str> = point.fields().iter().map(|field| field.name).collect();
    [
        point.to_string(),
        state(point).to_string(),
        program(point),
        grouped(point.hits()),
        grouped(point.missed()),
        names.join(" "),
    ]
}

fn state(point: &Tracepoint) -> &'static str {
    if point.is_on() { "on" } else { "off" }
}

fn program(point: &Tracepoint) -> String {
    point.program().unwrap_or_else(|| String::from("-"))
}

/// One tracepoint with all that is known of it.
fn describe(invocation: &mut Invocation<'_>, point: &Tracepoint) -> Result<(), Problem> {
    let program = match point.program() {
        Some(program) => format!(", runs {program}"),
        None => String::new(),
    };
    let summary = point.summary();
    let state = state(point);
    let (hits, missed) = (grouped(point.hits()), grouped(point.missed()));
    writeln!(
        invocation.out,
        "{point}: {summary}\n{state}{program}, {hits} hits, {missed} missed"
    )?;
    let mut table = Table::new(&[
        ("FIELD", Align::Left),
        ("TYPE", Align::Left),
        ("WHAT", Align::Left),
    ]);
    for Field {
        name,
        kind,
        summary,
    } in point.fields()
    {
        table.row([name.to_string(), kind.name(), summary.trim().to_string()]);
    }
    if !point.fields().is_empty() {
        table.write(invocation.out)?;
    }
    Ok(())
}
