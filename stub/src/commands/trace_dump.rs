//! `trace dump`.

use super::event_args::{EventArgs, Follow};
use super::output::Format;
use super::table::{Align, Table};
use super::{Command, Invocation, Problem};
use crate::events::{Entry, Stat, dump_line, hex};
use alloc::format;
use alloc::string::{String, ToString};
use probes::event::EventKind;

pub(super) const COMMAND: Command = Command {
    path: &["trace", "dump"],
    arguments: "[-n N] [--filter hprobe|kprobe|tracepoint|record|vmN|NAME]...",
    summary: "show all events that are kept (or the last N), whole, for programs to read",
    run,
};

fn run(invocation: &mut Invocation<'_>) -> Result<(), Problem> {
    let arguments = EventArgs::parse(invocation)?;
    if arguments.follow == Follow::Yes {
        return Err(Problem::Usage("`trace stream` follows.".into()));
    }
    invocation.server.collect_events();
    let events = invocation.server.events();
    let shown = events.since(0, &arguments.filters);
    let count = arguments.count.unwrap_or(usize::MAX);
    let shown = &shown[shown.len().saturating_sub(count)..];
    if invocation.out.format() == Format::Json {
        return Ok(table(shown).write(invocation.out)?);
    }
    for (entry, stat) in shown {
        writeln!(invocation.out, "{}", dump_line(entry, *stat))?;
    }
    Ok(())
}

/// Events for tools.
pub(super) fn table(events: &[(&Entry, Option<&Stat>)]) -> Table {
    let names = [
        "TIME", "CPU", "VM", "VCPU", "KIND", "ID", "NAME", "PC", "ARG0", "ARG1", "ARG2", "ARG3",
        "DURATION", "TEXT", "MAP", "BYTES",
    ];
    let mut table = Table::new(&names.map(|name| (name, Align::Left)));
    for (entry, stat) in events {
        table.row(cells(entry, *stat));
    }
    table
}

fn cells(entry: &Entry, stat: Option<&Stat>) -> [String; 16] {
    let Entry { event, text, map } = entry;
    let (text, bytes) = match event.kind {
        EventKind::Record => (String::new(), hex(text)),
        _ => (String::from_utf8_lossy(text).into_owned(), String::new()),
    };
    let [a, b, c, d] = event.args.map(|value| format!("{value:#x}"));
    [
        event.time_ns.to_string(),
        event.cpu.to_string(),
        event.vm.to_string(),
        event.vcpu.0.to_string(),
        event.kind.name().to_string(),
        event.id.to_string(),
        stat.map_or_else(String::new, |stat| stat.name().to_string()),
        event.pc.to_string(),
        a,
        b,
        c,
        d,
        event.duration_ns.to_string(),
        text,
        map.to_string(),
        bytes,
    ]
}
