//! Events as lines: aligned text, or one JSON object each.

use super::door::{Attached, Place};
use super::records::Records;
use anyhow::{Result, ensure};
use ebpf::btf::Btf;
use ebpf::json::Quoted;
use probes::event::{Decoder, EventKind, EventSource, TraceEvent};
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::io::{self, Write};

/// How lines look.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Format {
    Text,
    Json,
}

/// What is shown, and how.
pub(super) struct Prints<'p> {
    /// The name of the object.
    pub(super) object: &'p str,
    pub(super) attached: &'p [Attached],
    pub(super) records: &'p Records,
    /// [`Records::btf`].
    pub(super) types: &'p [Btf<'p>],
    pub(super) format: Format,
}

/// How much has been shown, and how much was lost on its way, by map or CPU.
#[derive(Default)]
pub(super) struct Counts {
    pub(super) records: BTreeMap<String, u64>,
    pub(super) lost: BTreeMap<String, u64>,
    pub(super) texts: u64,
    pub(super) errors: u64,
}

/// Shows events that belong to an object.
pub(super) struct Printer<'p, W: Write> {
    prints: Prints<'p>,
    out: io::BufWriter<W>,
    decoder: Decoder,
    counts: Counts,
    names: Names,
    /// The widest place so far.
    width: usize,
}

/// What sources and maps are called.
#[derive(Default)]
struct Names {
    maps: HashMap<u64, String>,
    sources: HashMap<EventSource, String>,
}

impl<'p, W: Write> Printer<'p, W> {
    pub(super) fn new(prints: Prints<'p>, out: W) -> Self {
        Self {
            prints,
            out: io::BufWriter::new(out),
            decoder: Decoder::default(),
            counts: Counts::default(),
            names: Names::default(),
            width: 0,
        }
    }

    /// Shows what comes in bytes of the stream.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Result<()> {
        let mut decoder = std::mem::take(&mut self.decoder);
        let mut result = Ok(());
        decoder.take(bytes, &mut |event, text| {
            if result.is_ok() {
                result = self.event(event, text);
            }
        });
        self.decoder = decoder;
        ensure!(
            self.decoder.damaged() == 0,
            "the stream of events is damaged"
        );
        Ok(result?)
    }

    pub(super) fn flush(&mut self) -> Result<()> {
        Ok(self.out.flush()?)
    }

    pub(super) fn out(&mut self) -> &mut impl Write {
        &mut self.out
    }

    pub(super) fn counts(&self) -> &Counts {
        &self.counts
    }

    fn event(&mut self, event: &TraceEvent, text: &[u8]) -> io::Result<()> {
        let map = event.args[0];
        match event.kind {
            EventKind::Name => {
                let name = String::from_utf8_lossy(text).into_owned();
                if map == 0 {
                    self.names.sources.insert(event.source(), name);
                } else {
                    self.names.maps.insert(map, name);
                }
                Ok(())
            }
            EventKind::Lost => self.lost(event, text),
            EventKind::Record => match self.own_map(map) {
                Some(map) => self.record(event, &map, text),
                None => Ok(()),
            },
            EventKind::Print | EventKind::ProgramError => match self.program(event) {
                Some(program) => self.text(event, &program, text),
                None => Ok(()),
            },
            _ => Ok(()),
        }
    }

    /// The name of a map of the object.
    fn own_map(&self, map: u64) -> Option<String> {
        let (object, name) = self.names.maps.get(&map)?.split_once(':')?;
        (object == self.prints.object).then(|| name.to_owned())
    }

    /// The program of the object that runs where an event comes from.
    fn program(&self, event: &TraceEvent) -> Option<String> {
        let source = event.source();
        let is_there = |one: &&Attached| match &one.place {
            Place::Probe { vm, id } => {
                source.kind != EventKind::Tracepoint && (source.vm.0, source.id) == (*vm, *id)
            }
            Place::Tracepoint(name) => {
                source.kind == EventKind::Tracepoint
                    && self.names.sources.get(&source) == Some(name)
            }
        };
        let program = self.prints.attached.iter().find(is_there);
        program.map(|one| one.program.clone())
    }

    fn record(&mut self, event: &TraceEvent, map: &str, bytes: &[u8]) -> io::Result<()> {
        *self.counts.records.entry(map.to_owned()).or_default() += 1;
        let program = self.program(event).unwrap_or_default();
        let value = self.prints.records.value(self.prints.types, map, bytes);
        match self.prints.format {
            Format::Json => {
                let mut line = json_head(event, &program);
                // Writing to a string does not fail.
                let _ = match value {
                    Some(value) => {
                        write!(line, ",\"map\":{},\"record\":{}", Quoted(map), value.json())
                    }
                    None => write!(
                        line,
                        ",\"map\":{},\"bytes\":\"{}\"",
                        Quoted(map),
                        hex(bytes)
                    ),
                };
                writeln!(self.out, "{line}}}")
            }
            Format::Text => {
                let text = match value {
                    Some(value) => match value.fields() {
                        Some(fields) => {
                            let fields = fields.iter();
                            let shown = fields
                                .map(|field| format!("{}={}", field.name(), field.value.text()));
                            shown.collect::<Vec<_>>().join(" ")
                        }
                        None => value.text().to_string(),
                    },
                    None => format!("{} bytes {}", bytes.len(), hex(bytes)),
                };
                self.line(event, &format!("{program}/{map}"), &text)
            }
        }
    }

    fn text(&mut self, event: &TraceEvent, program: &str, text: &[u8]) -> io::Result<()> {
        let text = String::from_utf8_lossy(text);
        let text = text.trim_end_matches('\n');
        let is_error = event.kind == EventKind::ProgramError;
        match is_error {
            true => self.counts.errors += 1,
            false => self.counts.texts += 1,
        }
        match self.prints.format {
            Format::Json => {
                let line = json_head(event, program);
                let key = if is_error { "error" } else { "text" };
                writeln!(self.out, "{line},\"{key}\":{}}}", Quoted(text))
            }
            Format::Text => {
                // A line stays a line.
                let text = text.replace('\n', "\\n");
                let failed = if is_error { "failed: " } else { "" };
                self.line(event, program, &format!("{failed}{text}"))
            }
        }
    }

    fn line(&mut self, event: &TraceEvent, place: &str, text: &str) -> io::Result<()> {
        self.width = self.width.max(place.len());
        let (seconds, micros) = (
            event.time_ns / 1_000_000_000,
            event.time_ns / 1000 % 1_000_000,
        );
        writeln!(
            self.out,
            "{seconds:>6}.{micros:06}  {:<9}  {place:<width$}  {text}",
            who(event),
            width = self.width
        )
    }

    fn lost(&mut self, event: &TraceEvent, text: &[u8]) -> io::Result<()> {
        let Some(count) = text.first_chunk().map(|bytes| u64::from_le_bytes(*bytes)) else {
            return Ok(());
        };
        let map = event.args[0];
        let (key, name) = if map != 0 {
            match self.own_map(map) {
                Some(name) => ("map", name),
                None => return Ok(()),
            }
        } else if event.origin == EventKind::Lost {
            ("cpu", event.cpu.to_string())
        } else {
            match self.program(event) {
                Some(program) => ("program", program),
                None => return Ok(()),
            }
        };
        *self.counts.lost.entry(format!("{key} {name}")).or_default() += count;
        match self.prints.format {
            Format::Json if key == "cpu" => {
                writeln!(self.out, "{{\"lost\":{count},\"cpu\":{name}}}")
            }
            Format::Json => writeln!(self.out, "{{\"lost\":{count},\"{key}\":{}}}", Quoted(&name)),
            Format::Text => writeln!(self.out, "({key} {name}: {count} lost)"),
        }
    }
}

/// A line's beginning, without the end of its object.
fn json_head(event: &TraceEvent, program: &str) -> String {
    format!(
        "{{\"time_ns\":{},\"cpu\":{},\"vm\":\"{}\",\"vcpu\":{},\"program\":{}",
        event.time_ns,
        event.cpu,
        event.vm,
        event.vcpu.0,
        Quoted(program)
    )
}

/// `vm1/vcpu0`, `hyp/cpu1`.
fn who(event: &TraceEvent) -> String {
    match event.vm.is_hypervisor() {
        true => format!("hyp/cpu{}", event.cpu),
        false => format!("{}/vcpu{}", event.vm, event.vcpu.0),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::super::records::{Sources, TypeNames};
    use super::*;
    use probes::addr::Gva;
    use probes::event::encode_text;
    use probes::machine::{VcpuId, VmId};

    /// The map of the object, and one of somebody else's.
    const MAP: u64 = 3;
    const OTHER: u64 = 4;

    fn event(kind: EventKind, map: u64) -> TraceEvent {
        TraceEvent {
            time_ns: 1_000_002_000,
            kind,
            cpu: 1,
            vm: VmId(1),
            vcpu: VcpuId(0),
            id: 7,
            args: [map, 0, 0, 0],
            duration_ns: 0,
            pc: Gva(0),
            origin: EventKind::Kprobe,
        }
    }

    /// What comes in a stream: names, records and lines of the object and of others, losses.
    fn stream() -> Vec<u8> {
        let lost = |map| TraceEvent {
            origin: EventKind::Lost,
            ..event(EventKind::Lost, map)
        };
        let others = |kind| TraceEvent {
            id: 8,
            ..event(kind, 0)
        };
        let events: [(TraceEvent, &[u8]); 9] = [
            (event(EventKind::Name, MAP), b"opens:events"),
            (event(EventKind::Name, OTHER), b"other:events"),
            (event(EventKind::Record, MAP), b"\x01\x02"),
            (event(EventKind::Record, OTHER), b"\x03"),
            (event(EventKind::Print, 0), b"a \"line\"\n"),
            (others(EventKind::Print), b"not ours"),
            (event(EventKind::ProgramError, 0), b"budget"),
            (lost(MAP), &5_u64.to_le_bytes()),
            (lost(0), &6_u64.to_le_bytes()),
        ];
        let mut bytes = Vec::new();
        for (event, text) in events {
            encode_text(&event, text, &mut |record| {
                bytes.extend(record.iter().flat_map(|word| word.to_le_bytes()));
            });
        }
        bytes
    }

    fn shown(format: Format) -> (String, Vec<(String, u64)>) {
        let linked = ebpf::builtin::linked("count").expect("it is built in");
        let names = TypeNames::parse(&[]).expect("nothing is said");
        let records = Records::new(&linked, Sources::default(), names).expect("there are none");
        let types = records.btf().expect("there are none");
        let attached = Attached {
            said: String::new(),
            program: "opened".into(),
            place: Place::Probe { vm: 1, id: 7 },
        };
        let prints = Prints {
            object: "opens",
            attached: &[attached],
            records: &records,
            types: &types,
            format,
        };
        let mut out = Vec::new();
        let mut printer = Printer::new(prints, &mut out);
        for part in stream().chunks(100) {
            printer.take(part).expect("it can be written");
        }
        printer.flush().expect("it can be written");
        let lost = printer.counts().lost.clone().into_iter().collect();
        drop(printer);
        (String::from_utf8(out).expect("it is text"), lost)
    }

    #[test]
    fn what_belongs_to_the_object_is_shown() {
        let (text, lost) = shown(Format::Text);
        let lines = [
            "     1.000002  vm1/vcpu0  opened/events  2 bytes 0102",
            "     1.000002  vm1/vcpu0  opened         a \"line\"",
            "     1.000002  vm1/vcpu0  opened         failed: budget",
            "(map events: 5 lost)",
            "(cpu 1: 6 lost)",
        ];
        assert_eq!(text.lines().collect::<Vec<_>>(), lines);
        assert_eq!(lost, [("cpu 1".into(), 6), ("map events".into(), 5)]);
    }

    #[test]
    fn the_same_for_tools() {
        let (text, _) = shown(Format::Json);
        let head =
            "\"time_ns\":1000002000,\"cpu\":1,\"vm\":\"vm1\",\"vcpu\":0,\"program\":\"opened\"";
        let lines = [
            format!("{{{head},\"map\":\"events\",\"bytes\":\"0102\"}}"),
            format!("{{{head},\"text\":\"a \\\"line\\\"\"}}"),
            format!("{{{head},\"error\":\"budget\"}}"),
            "{\"lost\":5,\"map\":\"events\"}".to_owned(),
            "{\"lost\":6,\"cpu\":1}".to_owned(),
        ];
        assert_eq!(text.lines().collect::<Vec<_>>(), lines);
    }
}
