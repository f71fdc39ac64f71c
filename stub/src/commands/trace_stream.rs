//! `trace stream`.

use super::event_args::{EventArgs, Follow};
use super::output::Format;
use super::{Caller, Command, Invocation, Problem, trace_dump};
use crate::events::{Filter, Verbosity, stream_line};
use crate::server::Server;
use alloc::vec::Vec;
use core::fmt::{self, Write};

/// How many lines are shown unless asked otherwise.
const DEFAULT: usize = 20;

pub(super) const COMMAND: Command = Command {
    path: &["trace", "stream"],
    arguments: "[-n N] [--follow] [--filter hprobe|kprobe|tracepoint|record|vmN|NAME]...",
    summary: "show the last events (20, or N); --follow: and those that come",
    run,
};

fn run(invocation: &mut Invocation<'_>) -> Result<(), Problem> {
    let arguments = EventArgs::parse(invocation)?;
    let server = invocation.server;
    server.collect_events();
    let events = server.events();
    let shown = events.since(0, &arguments.filters);
    let count = arguments.count.unwrap_or(DEFAULT);
    let shown = &shown[shown.len().saturating_sub(count)..];
    if invocation.out.format() == Format::Json {
        trace_dump::table(shown).write(invocation.out)?;
    } else {
        for (entry, stat) in shown {
            writeln!(invocation.out, "{}", stream_line(entry, *stat))?;
        }
    }
    let next = events.next_event();
    drop(events);
    invocation.tell_lost()?;
    match (arguments.follow, invocation.caller) {
        (Follow::No, _) => {}
        (Follow::Yes, Caller::Shell) => {
            invocation.follower = Some(Follower {
                next,
                filters: arguments.filters,
            });
        }
        (Follow::Yes, Caller::Monitor { .. }) => {
            server.events().set_verbosity(Verbosity::Hits);
            writeln!(
                invocation.out,
                "hits are shown while the guest runs; `trace verbose off` ends that"
            )?;
        }
        (Follow::Yes, Caller::Tools { .. }) => {
            return Err(Problem::Usage(
                "no guest runs on behalf of this connection: read the file `stream`.".into(),
            ));
        }
    }
    Ok(())
}

/// A shell that shows events as they come.
pub struct Follower {
    next: u64,
    filters: Vec<Filter>,
}

impl Follower {
    /// Writes what has come since the last time. The first to say that it is too much is `out`, by an error; what is left
    /// then comes the next time, or is counted as lost.
    pub fn show(&mut self, server: &Server, out: &mut dyn Write) -> fmt::Result {
        server.collect_events();
        let events = server.events();
        let skipped = events.first_event().saturating_sub(self.next);
        if skipped > 0 {
            writeln!(out, "({skipped} events lost)")?;
        }
        for (entry, stat) in events.since(self.next, &self.filters) {
            writeln!(out, "{}", stream_line(entry, stat))?;
        }
        self.next = events.next_event();
        Ok(())
    }
}
