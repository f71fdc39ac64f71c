use super::*;
use alloc::format;
use alloc::string::ToString;
use alloc::vec;
use core::cell::Cell;
use probes::addr::Gva;
use probes::event::EventKind;
use probes::machine::VcpuId;
use probes::tracepoint::{Field, FieldKind};

/// A hit of probe 7 of a VM on CPU 0.
fn hit(vm: u8) -> TraceEvent {
    TraceEvent {
        time_ns: 1_000,
        kind: EventKind::Kprobe,
        cpu: 0,
        vm: VmId(vm),
        vcpu: VcpuId(1),
        id: 7,
        args: [1, 0x20, 0, 0],
        duration_ns: 0,
        pc: Gva(0x40),
        origin: EventKind::Kprobe,
    }
}

/// Knows probe 7 only, tracepoint 1, and map 3.
#[derive(Default)]
struct Seven {
    /// Bytes of records that were read.
    read: Cell<usize>,
}

impl Naming for Seven {
    fn name(&self, source: &EventSource) -> Option<String> {
        match (source.kind, source.id) {
            (EventKind::Tracepoint, 1) => Some("vmm:page_fault".to_string()),
            (_, 7) => Some(format!("{}:f", source.vm)),
            _ => None,
        }
    }

    fn fields(&self, source: &EventSource) -> &'static [Field] {
        const FIELDS: [Field; 2] = [
            Field {
                name: "gva",
                kind: FieldKind::Hex,
                summary: "",
            },
            Field {
                name: "access",
                kind: FieldKind::Names(&["read", "write"]),
                summary: "",
            },
        ];
        match source.kind {
            EventKind::Tracepoint => &FIELDS,
            _ => &[],
        }
    }

    fn read_record(&self, map: MapId, length: usize) -> Option<String> {
        self.read.set(self.read.get() + length);
        (map == MapId(3)).then(|| "events".to_string())
    }

    fn map_path(&self, map: MapId) -> Option<String> {
        (map == MapId(3)).then(|| "m:events".to_string())
    }
}

struct Pipe {
    rings: Rings,
    events: Events,
    naming: Seven,
}

impl Pipe {
    fn new() -> Self {
        Self {
            rings: Rings::new(2),
            events: Events::new([VmId(1), VmId(2)].into_iter()),
            naming: Seven::default(),
        }
    }

    fn collect(&mut self) {
        self.events.collect(&self.rings, &self.naming, &|_, _| {});
    }

    fn print(&mut self, vm: u8, text: &str) {
        let head = hit(vm).says(EventKind::Print);
        self.rings.write_text(&head, text.as_bytes());
        self.collect();
    }

    fn stream(&self) -> Vec<String> {
        let events = self.events.since(0, &[]);
        let line = |(entry, stat): &(&Entry, Option<&Stat>)| stream_line(entry, *stat);
        events.iter().map(line).collect()
    }
}

#[test]
fn each_vm_has_its_own_lines() {
    let mut pipe = Pipe::new();
    pipe.print(1, "one\n");
    let error = hit(2).says(EventKind::ProgramError);
    pipe.rings.write_text(&error, b"two");
    pipe.rings
        .write_text(&hit(3).says(EventKind::Note), b"nobody's");
    pipe.collect();
    let line = |vm| pipe.events.line(VmId(vm), 0).map(|(_, line)| line);
    assert_eq!(line(1).unwrap(), "[vm1/vcpu1] f one\n");
    assert_eq!(
        line(2).unwrap(),
        "[vm2/vcpu1] f program of probe 7 failed: two\n"
    );
    assert_eq!(pipe.events.line(VmId(1), 1), None);
    let next = (
        pipe.events.next_line(VmId(1)),
        pipe.events.next_line(VmId(3)),
    );
    assert_eq!(next, (1, 0));
}

#[test]
fn hits_are_live_where_the_user_wants_them() {
    let mut pipe = Pipe::new();
    pipe.rings.write(&hit(1));
    pipe.collect();
    assert_eq!(pipe.events.next_line(VmId(1)), 0);
    pipe.events.set_verbosity(Verbosity::Hits);
    let other = TraceEvent { id: 8, ..hit(1) };
    pipe.rings.write(&other);
    let back = TraceEvent {
        kind: EventKind::Kretprobe,
        origin: EventKind::Kretprobe,
        args: [(-2_i64) as u64, 0, 0, 0],
        duration_ns: 1_500,
        ..hit(1)
    };
    pipe.rings.write(&back);
    pipe.collect();
    let line = |number| pipe.events.line(VmId(1), number).unwrap().1;
    assert_eq!(
        line(0),
        "[vm1/vcpu1] kprobe 0x40 x0=0x1 x1=0x20 x2=0x0 x3=0x0\n"
    );
    assert_eq!(
        line(1),
        "[vm1/vcpu1] kretprobe f returned 0xfffffffffffffffe (-2) after 1.50 µs\n"
    );
}

#[test]
fn the_history_is_in_order_of_time() {
    let mut pipe = Pipe::new();
    for (time_ns, cpu) in [(2_000_000, 0), (4_000_000, 1), (3_000_000, 0)] {
        let event = TraceEvent {
            time_ns,
            cpu,
            ..hit(1)
        };
        pipe.rings.write(&event);
        pipe.collect();
    }
    let lines = pipe.stream();
    assert_eq!(
        lines[0],
        "     0.002000 cpu0 vm1/vcpu1 kprobe     f x0=0x1 x1=0x20 x2=0x0 x3=0x0"
    );
    assert!(lines[1].starts_with("     0.003000 cpu0 "), "{lines:?}");
    assert!(lines[2].starts_with("     0.004000 cpu1 "), "{lines:?}");
}

#[test]
fn old_events_and_lines_go() {
    let mut pipe = Pipe::new();
    for number in 0..live::KEPT + 5 {
        pipe.print(1, &number.to_string());
    }
    let (number, line) = pipe.events.line(VmId(1), 0).unwrap();
    assert_eq!((number, line.as_str()), (5, "[vm1/vcpu1] f 5\n"));
    for _ in 0..history::KEPT {
        pipe.rings.write(&hit(2));
        pipe.collect();
    }
    assert_eq!(pipe.events.since(0, &[]).len(), history::KEPT);
    assert!(
        pipe.stream()
            .iter()
            .all(|line| line.contains("vm2/vcpu1 kprobe"))
    );
    assert_eq!(
        pipe.events.next_event(),
        (live::KEPT + 5 + history::KEPT) as u64
    );
}

#[test]
fn statistics_count_hits_and_measure_durations() {
    let mut pipe = Pipe::new();
    for duration_ns in 1..=100 {
        pipe.rings.write(&TraceEvent {
            duration_ns,
            ..hit(1)
        });
        pipe.rings.write(&hit(2));
        pipe.rings.write(&hit(2));
    }
    pipe.print(1, "not a hit");
    let statistics = pipe.events.statistics();
    let named: Vec<_> = statistics
        .iter()
        .map(|(_, stat)| (stat.name(), stat.count()))
        .collect();
    assert_eq!(named, [("vm2:f", 200), ("vm1:f", 100)]);
    assert_eq!(statistics[0].1.percentile(50), None);
    assert_eq!(statistics[1].1.percentile(50), Some(51));
    assert_eq!(statistics[1].1.max(), Some(100));

    pipe.events.reset(&pipe.rings);
    assert!(pipe.events.statistics().is_empty());
    assert!(pipe.stream().is_empty());
}

#[test]
fn the_file_has_every_record() {
    let mut pipe = Pipe::new();
    pipe.rings.write(&hit(1));
    pipe.print(1, &"x".repeat(50));
    let raw = pipe.events.raw();
    assert_eq!(raw.len(), 3 * 64);
    let words = raw
        .chunks(8)
        .map(|bytes| u64::from_le_bytes(bytes.try_into().unwrap()));
    let words: Vec<u64> = words.collect();
    let record: Record = words[..8].try_into().unwrap();
    assert_eq!(TraceEvent::decode(&record), Some(hit(1)));
    let head: Record = words[8..16].try_into().unwrap();
    assert_eq!(
        TraceEvent::decode(&head),
        Some(hit(1).says(EventKind::Print))
    );
}

#[test]
fn losses_are_counted_by_cpu_until_they_are_forgotten() {
    let mut pipe = Pipe::new();
    for _ in 0..probes::event::RING_RECORDS + 3 {
        pipe.rings.write(&TraceEvent { cpu: 1, ..hit(1) });
    }
    assert_eq!(pipe.events.lost(&pipe.rings), [(1, 3)]);
    pipe.events.reset(&pipe.rings);
    assert_eq!(pipe.events.lost(&pipe.rings), []);
}

#[test]
fn records_are_shown_as_bytes_with_their_map() {
    let mut pipe = Pipe::new();
    let head = hit(1).gives(MapId(3));
    pipe.rings.write_text(&head, b"ab\0\n\xff");
    pipe.rings.write_text(&hit(1).gives(MapId(4)), &[7; 65]);
    pipe.collect();
    let lines = pipe.stream();
    assert_eq!(
        lines[0],
        "     0.000001 cpu0 vm1/vcpu1 record     f events 5 bytes 61 62 00 0a ff |ab...|"
    );
    assert!(lines[1].contains(" f map 4 65 bytes 07 07 "), "{lines:?}");
    assert!(
        lines[1]
            .ends_with(" 07 … |................................................................|")
    );
    let (_, line) = pipe.events.line(VmId(1), 0).expect("it is live");
    assert_eq!(
        line,
        "[vm1/vcpu1] f events 5 bytes 61 62 00 0a ff |ab...|\n"
    );
    let events = pipe.events.since(0, &[Filter::parse("events")]);
    let [(entry, stat)] = events[..] else {
        panic!("the filter is for one of them");
    };
    let dumped = dump_line(entry, stat);
    assert!(dumped.ends_with(" map=events bytes=6162000aff"), "{dumped}");
    assert_eq!(pipe.naming.read.get(), 70);
    // Head and one more record, as long as they are.
    assert_eq!(pipe.events.raw().len(), 64 + 2 * 64);
}

#[test]
fn long_records_push_old_events_out() {
    let mut pipe = Pipe::new();
    let long = [1; probes::event::MAX_BYTES];
    let kept = history::KEPT_BYTES / (long.len() + "events".len());
    for _ in 0..kept + 3 {
        pipe.rings.write_text(&hit(1).gives(MapId(3)), &long);
        pipe.collect();
    }
    assert_eq!(pipe.events.since(0, &[]).len(), kept);
    assert_eq!(pipe.events.first_event(), 3);
    pipe.print(1, "short");
    assert_eq!(pipe.events.next_event(), kept as u64 + 4);
}

#[test]
fn tracepoints_show_their_fields() {
    let mut pipe = Pipe::new();
    pipe.rings.write(&TraceEvent {
        kind: EventKind::Tracepoint,
        origin: EventKind::Tracepoint,
        vm: VmId(0),
        id: 1,
        args: [0x40, 1, 7, 7],
        duration_ns: 2_000,
        ..hit(1)
    });
    pipe.collect();
    assert_eq!(
        pipe.stream(),
        [
            "     0.000001 cpu0 hyp/cpu0  tracepoint vmm:page_fault gva=0x40 access=write after 2.00 µs"
        ]
    );
}

/// What a reader of a stream has got.
struct Reader {
    stream: Arc<Mutex<Stream>>,
    taken: u64,
}

impl Reader {
    fn open(pipe: &mut Pipe, wanted: Wanted) -> Self {
        let totals = vec![(Whose::Cpu(0), 5)];
        let stream = pipe.events.open_stream(wanted, totals);
        Self {
            stream: stream.expect("there is room for one"),
            taken: 0,
        }
    }

    /// All that waits, a line for each: kind, who, text.
    fn read(&mut self) -> Vec<String> {
        let mut decoder = probes::event::Decoder::default();
        let mut lines = Vec::new();
        // No record ends where a part does.
        let mut buffer = [0; 100];
        loop {
            let mut stream = self.stream.lock();
            let name = |whose| name_of(whose, &Seven::default());
            let count = stream.read(self.taken, &mut buffer, &name);
            let count = count.expect("it goes on here");
            self.taken += count as u64;
            decoder.take(&buffer[..count], &mut |event, text| {
                let map = event.args[0];
                let text = match event.kind {
                    EventKind::Lost => text[0].to_string(),
                    _ => String::from_utf8_lossy(text).into_owned(),
                };
                let who = match (event.kind, map) {
                    (EventKind::Kprobe, _) | (_, 0) => format!("{}/{}", event.vm, event.id),
                    (_, map) => format!("map {map}"),
                };
                lines.push(format!("{} {who} {text}", event.kind.name()));
            });
            if count == 0 {
                assert_eq!(decoder.damaged(), 0);
                return lines;
            }
        }
    }
}

#[test]
fn a_stream_has_what_comes_and_its_names() {
    let mut pipe = Pipe::new();
    pipe.print(1, "before");
    let mut all = Reader::open(&mut pipe, Wanted::All);
    let mut outputs = Reader::open(&mut pipe, Wanted::Outputs);
    pipe.rings.write(&hit(1));
    pipe.print(1, "one");
    for text in [&b"two"[..], b"three"] {
        pipe.rings.write_text(&hit(1).gives(MapId(3)), text);
    }
    pipe.collect();
    let texts = [
        "name vm1/7 vm1:f",
        "print vm1/7 one",
        "name map 3 m:events",
        "record map 3 two",
        "record map 3 three",
    ];
    assert_eq!(outputs.read(), texts);
    let mut with_hit = texts.to_vec();
    with_hit.insert(1, "kprobe vm1/7 ");
    assert_eq!(all.read(), with_hit);
    pipe.print(1, "four");
    assert_eq!(outputs.read(), ["print vm1/7 four"]);
    let again = outputs.stream.lock().read(0, &mut [0; 8], &|_| None);
    assert!(again.is_none(), "it is gone");
}

#[test]
fn a_stream_tells_its_losses() {
    let mut pipe = Pipe::new();
    let mut reader = Reader::open(&mut pipe, Wanted::Outputs);
    let large = [7; 30_000];
    // More than a stream keeps waiting.
    const MANY: usize = 64;
    for _ in 0..MANY {
        pipe.rings.write_text(&hit(1).gives(MapId(3)), &large);
        pipe.collect();
    }
    let lines = reader.read();
    let kept = lines
        .iter()
        .filter(|line| line.starts_with("record"))
        .count();
    assert!(kept > 16, "{kept} are kept");
    let lost = format!("lost map 3 {}", MANY - kept);
    assert_eq!(lines.last(), Some(&lost));
    // What is lost on the way is told as well, from where the stream began.
    let totals = || vec![(Whose::Cpu(0), 8), (Whose::Map(MapId(4)), 2)];
    reader.stream.lock().look_at_losses(totals());
    reader.stream.lock().look_at_losses(totals());
    let mut told = reader.read();
    told.sort();
    assert_eq!(told, ["lost hyp/0 3", "lost map 4 2"]);
}

#[test]
fn streams_end_with_their_readers() {
    let mut pipe = Pipe::new();
    let readers: Vec<_> = (0..4)
        .map(|_| Reader::open(&mut pipe, Wanted::All))
        .collect();
    assert!(pipe.events.open_stream(Wanted::All, Vec::new()).is_none());
    drop(readers);
    assert!(pipe.events.open_stream(Wanted::All, Vec::new()).is_some());
}

/// `dprintf`: the user's own text, with newlines where the user has put them.
#[test]
fn what_a_breakpoint_prints_is_shown_as_it_is() {
    let mut pipe = Pipe::new();
    let mut event = hit(1).says(EventKind::Print);
    event.id = 0;
    for text in [&b"half a "[..], b"line\nand one\n"] {
        pipe.rings.write_text(&event, text);
    }
    let error = event.says(EventKind::ProgramError);
    pipe.rings.write_text(&error, b"commands: why");
    pipe.collect();
    let line = |number| pipe.events.line(VmId(1), number).unwrap().1;
    assert_eq!(line(0), "half a ");
    assert_eq!(line(1), "line\nand one\n");
    let place = event.pc;
    assert_eq!(
        line(2),
        alloc::format!("[vm1/vcpu1] breakpoint at {place}: commands: why\n")
    );
}
