//! What the guest shows by its own means: its own probes, its tracepoints, `/proc`.

use crate::rows::{Counts, count, row};
use anyhow::{Context, Result, ensure};
use e2e::{LONG, Linux};
use serde_json::{Map, Value};
use std::collections::HashMap;

const TRACING: &str = "/sys/kernel/tracing";
/// How the trace shows that [`Guest::read`] ends.
const READ: &str = "tracing_mark_write";
/// Lines of the shell's terminal are not longer.
const MAX_LINE: usize = 4000;

/// Probes of the guest's own, until they are taken away.
pub(crate) struct Guest<'g, 'm> {
    linux: &'g mut Linux<'m>,
}

/// What the guest has shown.
#[derive(Default)]
pub(crate) struct Shown {
    /// What the tool's `facts` printed.
    pub(crate) facts: String,
    /// Events in the guest's trace.
    pub(crate) events: Vec<Value>,
    /// How often the guest's own probes at the places of the tool's programs were hit.
    pub(crate) hits: Counts,
}

impl Shown {
    /// The events of a probe as rows of these fields.
    pub(crate) fn rows(&self, event: &str, fields: &str) -> Counts {
        count(self.of(event).map(|event| row(event, fields)))
    }

    /// Calls of a function, of whose entry and return two probes tell: the fields of both.
    pub(crate) fn calls(&self, entry: &str, end: &str) -> Vec<Value> {
        let mut calls = Vec::new();
        let mut open = HashMap::new();
        for event in &self.events {
            let pid = event["pid"].clone();
            if event["event"] == entry {
                open.insert(pid, event);
            } else if event["event"] == end
                && let Some(start) = open.remove(&pid)
            {
                let mut call = event.clone();
                for (name, value) in start.as_object().into_iter().flatten() {
                    call[name] = value.clone();
                }
                call["end"] = event["time"].clone();
                calls.push(call);
            }
        }
        calls
    }

    /// How often the guest's own probe at the place of a program was hit.
    pub(crate) fn hits(&self, program: &str) -> i64 {
        self.hits.get(program).copied().unwrap_or_default()
    }

    /// The events of a probe.
    pub(crate) fn of<'s>(&'s self, event: &'s str) -> impl Iterator<Item = &'s Value> {
        self.events
            .iter()
            .filter(move |seen| seen["event"] == event)
    }
}

impl<'g, 'm> Guest<'g, 'm> {
    pub(crate) fn new(linux: &'g mut Linux<'m>) -> Self {
        Self { linux }
    }

    /// Runs a command that prints nothing.
    fn silent(&mut self, command: &str) -> Result<()> {
        ensure!(command.len() < MAX_LINE, "a long line: {command}");
        let said = self.linux.run_within(command, LONG)?;
        ensure!(said.is_empty(), "`{command}` said {said}");
        Ok(())
    }

    /// Defines probes, `p:kprobes/NAME FUNCTION`, and switches them and the tracepoints on. Functions at which the
    /// kernel
    /// allows no probe have none.
    pub(crate) fn trace(&mut self, probes: &[String], tracepoints: &[&str]) -> Result<()> {
        for some in probes.chunks(30) {
            let quoted: Vec<_> = some.iter().map(|probe| format!("'{probe}'")).collect();
            let list = quoted.join(" ");
            self.linux.run(&format!(
                "for p in {list}; do echo \"$p\" >> {TRACING}/kprobe_events; done 2> /dev/null"
            ))?;
        }
        for tracepoint in tracepoints {
            self.silent(&format!("echo 1 > {TRACING}/events/{tracepoint}/enable"))?;
        }
        self.silent(&format!(
            "[ ! -e {TRACING}/events/kprobes ] || echo 1 > {TRACING}/events/kprobes/enable; \
             echo > {TRACING}/trace; echo 1 > {TRACING}/tracing_on"
        ))
    }

    /// Takes all that away.
    pub(crate) fn untrace(&mut self) -> Result<()> {
        self.silent(&format!(
            "echo 0 > {TRACING}/events/enable; echo > {TRACING}/kprobe_events"
        ))
    }

    /// How often each probe was hit, with those hits that the guest missed, and what `facts` prints.
    pub(crate) fn read(&mut self, facts: &str) -> Result<(Counts, String)> {
        let said = self.linux.run(&format!(
            "cat {TRACING}/kprobe_profile; echo facts; {facts}; echo > {TRACING}/trace_marker"
        ))?;
        let (profile, facts) = said.split_once("facts\n").unwrap_or((&said, ""));
        let rows = profile
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>());
        let counts = rows.filter_map(|row| {
            let [name, numbers @ ..] = &row[..] else {
                return None;
            };
            let numbers = numbers.iter().map(|word| word.parse::<i64>().ok());
            Some(((*name).to_owned(), numbers.sum::<Option<i64>>()?))
        });
        Ok((counts.collect(), facts.to_owned()))
    }

    /// Runs a workload.
    pub(crate) fn work(&mut self, workload: &str) -> Result<()> {
        self.silent(workload)
    }

    /// The events between two readings that are not only counted.
    pub(crate) fn events(&mut self) -> Result<Vec<Value>> {
        let command =
            format!("echo 0 > {TRACING}/tracing_on; grep -v -e '^#' -e ': hits' {TRACING}/trace");
        let text = self.linux.run_within(&command, LONG)?;
        let events: Vec<_> = text.lines().map(event).collect::<Result<_>>()?;
        let mut between = events.split(|event| event["event"] == READ);
        let events = between.nth(1).context("no reading in the trace")?;
        Ok(events.to_vec())
    }
}

/// A line of the trace: `COMM-PID [CPU] FLAGS TIME: EVENT: (PLACE) NAME=VALUE…`. Some tracepoints name no values:
/// what they
/// say is the field `text`.
fn event(line: &str) -> Result<Value> {
    let parse = || {
        let (task, rest) = line.split_once(" [")?;
        let (comm, pid) = task.trim().rsplit_once('-')?;
        let (_, rest) = rest.split_once("] ")?;
        let (flags_and_time, rest) = rest.split_once(": ")?;
        let (event, rest) = rest.split_once(": ")?;
        let time: f64 = flags_and_time.split_whitespace().last()?.parse().ok()?;
        let mut fields = Map::new();
        fields.insert("comm".into(), comm.into());
        fields.insert("pid".into(), pid.parse::<i64>().ok()?.into());
        fields.insert("time".into(), time.into());
        fields.insert("event".into(), event.into());
        fields.insert("text".into(), rest.into());
        fields.extend(arguments(rest));
        Some(Value::from(fields))
    };
    parse().with_context(|| format!("no event of a trace: {line}"))
}

/// `NAME=VALUE`, where strings are quoted.
fn arguments(mut rest: &str) -> Map<String, Value> {
    let mut fields = Map::new();
    while let Some((before, after)) = rest.split_once('=') {
        let name = before.rsplit(' ').next().unwrap_or(before);
        let (value, next) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
            None => after.split_once(' ').unwrap_or((after, "")),
        };
        let number = value.parse::<i64>().map(Value::from);
        fields.insert(name.into(), number.unwrap_or_else(|_| value.into()));
        rest = next;
    }
    fields
}
