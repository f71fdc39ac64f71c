//! `trace stat`.

use super::bar::{BAR, bar};
use super::event_args::count;
use super::number::grouped;
use super::table::{Align, Table};
use super::{Command, Invocation, Problem};
use crate::events::{Octave, Stat, duration, is_called};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt::Write;
use probes::event::{EventKind, EventSource};

/// Percentiles that are shown.
const PERCENTILES: [u64; 4] = [50, 90, 95, 99];

pub(super) const COMMAND: Command = Command {
    path: &["trace", "stat"],
    arguments: "[--hist EVENT] [--top N]",
    summary: "count events and show how long they took; --hist: by powers of two",
    run,
};

/// What the command line asks for.
#[derive(Default)]
struct Wanted<'a> {
    hist: Option<&'a str>,
    top: Option<usize>,
}

impl<'a> Wanted<'a> {
    fn parse(words: &[&'a str]) -> Result<Self, Problem> {
        let mut wanted = Self::default();
        let mut words = words.iter().copied();
        while let Some(word) = words.next() {
            let value = words.next();
            match (word, value) {
                ("--hist", Some(event)) => wanted.hist = Some(event),
                ("--top", Some(number)) => wanted.top = Some(count(number)?),
                ("--hist" | "--top", None) => {
                    return Err(Problem::Usage(format!("{word} needs a value.")));
                }
                _ => return Err(Problem::Usage(format!("there is no {word} here."))),
            }
        }
        Ok(wanted)
    }
}

fn run(invocation: &mut Invocation<'_>) -> Result<(), Problem> {
    let wanted = Wanted::parse(invocation.arguments)?;
    invocation.server.collect_events();
    let events = invocation.server.events();
    let mut all = events.statistics();
    if let Some(event) = wanted.hist {
        all.retain(|(source, stat)| is_called(source, stat.name(), event));
        if all.is_empty() {
            return Err(Problem::Refused(format!(
                "no event {event} has been seen. `trace stat` shows which have."
            )));
        }
        for (source, stat) in all {
            histogram(invocation.out, source, stat)?;
        }
    } else {
        all.truncate(wanted.top.unwrap_or(usize::MAX));
        table(&all).write(invocation.out)?;
    }
    drop(events);
    invocation.tell_lost()
}

fn table(all: &[(&EventSource, &Stat)]) -> Table {
    let mut table = Table::new(&[
        ("EVENT", Align::Left),
        ("KIND", Align::Left),
        ("VM", Align::Left),
        ("COUNT", Align::Right),
        ("P50", Align::Right),
        ("P90", Align::Right),
        ("P95", Align::Right),
        ("P99", Align::Right),
        ("MAX", Align::Right),
    ]);
    for (source, stat) in all {
        let times = PERCENTILES.iter().map(|percent| stat.percentile(*percent));
        let times = times.chain([stat.max()]);
        let first = [
            stat.name().to_string(),
            source.kind.name().to_string(),
            source.vm.to_string(),
            grouped(stat.count()),
        ];
        table.row(first.into_iter().chain(times.map(time)));
    }
    table
}

fn time(ns: Option<u64>) -> String {
    ns.map_or_else(|| String::from("-"), duration)
}

/// As a heading with the percentiles, and a line for each power of two.
fn histogram(out: &mut dyn Write, source: &EventSource, stat: &Stat) -> Result<(), Problem> {
    let kind = source.kind.name();
    let count = grouped(stat.count());
    // A probe's name says which VM, a tracepoint's does not.
    let whose = match source.kind {
        EventKind::Tracepoint => format!(" of {}", source.vm),
        _ => String::new(),
    };
    write!(out, "{kind} {}{whose}  n={count}", stat.name())?;
    let octaves = stat.octaves();
    if octaves.is_empty() {
        writeln!(out, "  (nothing is measured)")?;
        return Ok(());
    }
    for percent in PERCENTILES {
        write!(out, "  p{percent} {}", time(stat.percentile(percent)))?;
    }
    writeln!(out)?;
    let total: u64 = octaves.iter().map(|octave| octave.count).sum();
    for (from, count) in filled(&octaves) {
        let to = from.saturating_mul(2);
        let share = count as u128 * 100 / u128::from(total.max(1));
        let line = format!(
            "{:>8} … {:<8} {:<width$} {:>3} % {}",
            duration(from),
            duration(to),
            bar(count, total),
            share,
            grouped(count),
            width = BAR as usize,
        );
        writeln!(out, "{line}")?;
    }
    Ok(())
}

/// The powers of two from the first to the last, those without durations between them too.
fn filled(octaves: &[Octave]) -> Vec<(u64, u64)> {
    let (Some(first), Some(last)) = (octaves.first(), octaves.last()) else {
        return Vec::new();
    };
    let exponents = first.from.ilog2()..=last.from.ilog2();
    let count_at = |from| octaves.iter().find(|octave| octave.from == from);
    exponents
        .map(|exponent| 1_u64 << exponent)
        .map(|from| (from, count_at(from).map_or(0, |octave| octave.count)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_lines_too() {
        let octaves = [(2, 1), (16, 3)].map(|(from, count)| Octave { from, count });
        assert_eq!(filled(&octaves), [(2, 1), (4, 0), (8, 0), (16, 3)]);
        assert_eq!(filled(&[]), []);
    }
}
