//! Events as lines of text.

use super::{Entry, Stat};
use alloc::format;
use alloc::string::{String, ToString};
use core::fmt::Write;
use probes::event::{EventKind, TraceEvent};
use probes::machine::VmId;
use probes::tracepoint::Field;

/// Return values from here on are shown as errors too: Linux' `MAX_ERRNO`.
const MAX_ERRNO: i64 = 4095;

/// Bytes of a record that a line shows at most. `trace dump` shows all.
const MAX_SHOWN: usize = 64;

/// As a session shows it while the guest runs: `[vm1/vcpu0] vfs_read x0=…`, with a newline. What a client's own breakpoint
/// prints (`dprintf`) is shown as it is, newlines and all.
pub(super) fn live_text(entry: &Entry, stat: &Stat) -> String {
    if entry.event.kind == EventKind::Print && is_of_breakpoint(&entry.event) {
        return String::from_utf8_lossy(&entry.text).into_owned();
    }
    live_line(entry, stat) + "\n"
}

fn live_line(entry: &Entry, stat: &Stat) -> String {
    let Entry { event, text, map } = entry;
    let bytes = text;
    let text = String::from_utf8_lossy(text);
    let text = text.trim_end_matches('\n');
    let place = short_name(event, stat.name());
    let who = who(event);
    match (event.kind, event.id) {
        (EventKind::Note, _) => format!("{}: {text}", event.vm),
        (EventKind::Print, _) => format!("[{who}] {place} {text}"),
        (EventKind::Record, _) => format!("[{who}] {place} {map}{}", record(bytes)),
        (EventKind::ProgramError, _) if is_of_breakpoint(event) => {
            format!("[{who}] breakpoint at {place}: {text}")
        }
        (EventKind::ProgramError, _) if event.origin == EventKind::Tracepoint => {
            format!("[{who}] {place} program failed: {text}")
        }
        (EventKind::ProgramError, id) => {
            format!("[{who}] {place} program of probe {id} failed: {text}")
        }
        (kind, _) => format!(
            "[{who}] {} {place}{}",
            kind.name(),
            details(event, stat.fields())
        ),
    }
}

/// As `trace stream` shows it: seconds, CPU, vCPU, kind, name, arguments.
pub(crate) fn stream_line(entry: &Entry, stat: Option<&Stat>) -> String {
    let Entry { event, text, map } = entry;
    let name = stat.map_or_else(|| event.pc.to_string(), |stat| stat.name().to_string());
    let mut line = format!(
        "{} cpu{} {:<9} {:<10} {}",
        seconds(event.time_ns),
        event.cpu,
        who(event),
        event.kind.name(),
        short_name(event, &name),
    );
    if event.kind == EventKind::Record {
        line.push(' ');
        line.push_str(map);
        line.push_str(&record(text));
    } else if event.kind.is_text() {
        let text = String::from_utf8_lossy(text);
        // A line stays a line.
        let text = text.trim_end_matches('\n').replace('\n', "\\n");
        line.push(' ');
        line.push_str(&text);
    } else {
        let fields = stat.map_or(&[][..], Stat::fields);
        line.push_str(&details(event, fields));
    }
    line
}

/// As `trace dump` shows it: everything, as `key=value`.
pub(crate) fn dump_line(entry: &Entry, stat: Option<&Stat>) -> String {
    let Entry { event, text, map } = entry;
    let name = stat.map_or("?", Stat::name);
    let mut line = format!(
        "time={} cpu={} vm={} vcpu={} kind={} id={} name={name} pc={}",
        event.time_ns,
        event.cpu,
        event.vm.0,
        event.vcpu.0,
        event.kind.name(),
        event.id,
        event.pc,
    );
    // Writing to a string does not fail.
    let _ = if event.kind == EventKind::Record {
        write!(line, " map={map} bytes={}", hex(text))
    } else if event.kind.is_text() {
        write!(line, " text={:?}", String::from_utf8_lossy(text))
    } else {
        let [a, b, c, d] = event.args;
        let duration = event.duration_ns;
        write!(
            line,
            " args={a:#x},{b:#x},{c:#x},{d:#x} duration={duration}"
        )
    };
    line
}

/// The size of a record and its first bytes: ` 6 bytes 61 62 00 00 07 00 |ab....|`.
fn record(bytes: &[u8]) -> String {
    let (shown, rest) = bytes.split_at(bytes.len().min(MAX_SHOWN));
    let mut text = format!(" {} bytes", bytes.len());
    for byte in shown {
        // Writing to a string does not fail.
        let _ = write!(text, " {byte:02x}");
    }
    if !rest.is_empty() {
        text.push_str(" …");
    }
    let printable = |&byte: &u8| match byte {
        b' '..=b'~' => char::from(byte),
        _ => '.',
    };
    text.push_str(" |");
    text.extend(shown.iter().map(printable));
    text.push('|');
    text
}

/// All bytes, without anything between them.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Arguments and duration, with a space before each.
fn details(event: &TraceEvent, fields: &[Field]) -> String {
    let mut text = String::new();
    let value = event.args[0];
    match event.kind {
        EventKind::Kretprobe | EventKind::Hretprobe => {
            let signed = value as i64;
            text = format!(" returned {value:#x}");
            if (-MAX_ERRNO..0).contains(&signed) {
                text.push_str(&format!(" ({signed})"));
            }
        }
        EventKind::Tracepoint => {
            for (field, value) in fields.iter().zip(event.args) {
                text.push_str(&format!(" {}={}", field.name, field.kind.show(value)));
            }
        }
        _ => {
            for (number, value) in event.args.iter().enumerate() {
                text.push_str(&format!(" x{number}={value:#x}"));
            }
        }
    }
    if event.duration_ns != 0 {
        text.push_str(&format!(" after {}", duration(event.duration_ns)));
    }
    text
}

/// Whether it comes from a breakpoint of a client's. These have no names, and one source is all of them.
fn is_of_breakpoint(event: &TraceEvent) -> bool {
    event.id == 0 && event.origin != EventKind::Tracepoint
}

/// A probe's name without the space, which is said elsewhere.
fn short_name(event: &TraceEvent, name: &str) -> String {
    if is_of_breakpoint(event) {
        return event.pc.to_string();
    }
    let short = match (event.origin, name.split_once(':')) {
        (EventKind::Tracepoint, _) | (_, None) => name,
        (_, Some((_, short))) => short,
    };
    short.to_string()
}

/// `vm1/vcpu0`, `hyp/cpu1`.
fn who(event: &TraceEvent) -> String {
    if event.vm == VmId(0) {
        format!("hyp/cpu{}", event.cpu)
    } else {
        format!("{}/vcpu{}", event.vm, event.vcpu.0)
    }
}

/// Seconds with microseconds, aligned up to days.
fn seconds(ns: u64) -> String {
    format!("{:>6}.{:06}", ns / 1_000_000_000, ns / 1000 % 1_000_000)
}

/// A duration in three digits or four: `850 ns`, `1.20 µs`, `34.5 ms`.
pub(crate) fn duration(ns: u64) -> String {
    let (unit, name) = match ns {
        0..1_000 => return format!("{ns} ns"),
        1_000..1_000_000 => (1_000, "µs"),
        1_000_000..1_000_000_000 => (1_000_000, "ms"),
        _ => (1_000_000_000, "s"),
    };
    let whole = ns / unit;
    let thousandths = ns % unit / (unit / 1000);
    match whole {
        0..10 => format!("{whole}.{:02} {name}", thousandths / 10),
        10..100 => format!("{whole}.{} {name}", thousandths / 100),
        _ => format!("{whole} {name}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let shown = [0, 999, 1_204, 34_567, 999_999, 1_000_000, 61_000_000_000].map(duration);
        let expected = [
            "0 ns", "999 ns", "1.20 µs", "34.5 µs", "999 µs", "1.00 ms", "61.0 s",
        ];
        assert_eq!(shown, expected);
    }
}
