//! The commands about maps.

mod support;

use ebpf::btf::{HEADER, Kind, MAGIC};
use ebpf::linked::{MapTypes, Types};
use ebpf::map::{MapDef, MapKind, Mutability};
use probes::programs::Owner;
use stub::commands::{Caller, run};
use support::Bench;

fn shell(bench: &Bench, line: &str) -> String {
    let mut out = String::new();
    let _ = run(bench.server, &Caller::Shell, line, &mut out);
    out
}

fn map(name: &str, kind: MapKind, key_size: u32, value_size: u32, max_entries: u32) -> MapDef {
    MapDef {
        name: name.into(),
        kind,
        key_size,
        value_size,
        max_entries,
        mutability: Mutability::Mutable,
        initial: Vec::new(),
    }
}

/// A bench with an object `m` that has a map of every kind worth showing.
fn bench() -> Bench {
    let bench = Bench::new(1);
    let mut linked = ebpf::builtin::linked("stop").expect("it is built in");
    linked.maps = vec![
        map("names", MapKind::Hash, 4, 3, 2),
        map("numbers", MapKind::Array, 4, 8, 3),
        map("each", MapKind::PerCpuHash, 8, 8, 4),
        map("order", MapKind::Queue, 0, 2, 2),
        map("events", MapKind::PerfEventArray, 4, 4, 0),
        map("hist", MapKind::Hash, 1, 12, 4),
    ];
    let bytes = linked.encode().expect("it can be written");
    let loaded = bench.periscope.load_program("m", &bytes, Owner(0));
    loaded.expect("there is memory for it");
    bench
}

#[test]
fn entries_are_set_shown_and_removed() {
    let bench = bench();
    assert_eq!(shell(&bench, "map update m names 7 01:ff:00"), "");
    assert_eq!(
        shell(&bench, "map lookup m names 7"),
        "KEY     VALUE\n  7  01 ff 00\n"
    );
    assert_eq!(
        shell(&bench, "map dump m names"),
        "KEY     VALUE\n  7  01 ff 00\n"
    );
    assert_eq!(shell(&bench, "map delete m names 0x7"), "");
    assert_eq!(
        shell(&bench, "map lookup m names 7"),
        "names has no such entry: `map dump` shows all.\n"
    );
    assert_eq!(shell(&bench, "map update m numbers 2 -1"), "");
    assert_eq!(
        shell(&bench, "map lookup m numbers 2 --json"),
        "{\"key\":2,\"value\":18446744073709551615}\n"
    );
}

#[test]
fn per_cpu_values_are_shown_with_their_sum() {
    let bench = bench();
    let cpus = bench.periscope.programs().cpus() as u64;
    assert!(cpus > 1, "one CPU shows little");
    shell(&bench, "map update m each 5 3");
    shell(&bench, "map update m each 5 10 --cpu 1");
    let shown = shell(&bench, "map lookup m each 5");
    let rows: Vec<Vec<&str>> = shown
        .lines()
        .map(|row| row.split_whitespace().collect())
        .collect();
    let sum = (3 * (cpus - 1) + 10).to_string();
    assert_eq!(rows[0], ["KEY", "CPU", "VALUE"]);
    assert_eq!(
        (&rows[1][..], &rows[2][..]),
        (&["5", "0", "3"][..], &["5", "1", "10"][..])
    );
    assert_eq!(
        rows.last().map(|row| &row[..]),
        Some(&["5", "sum", sum.as_str()][..])
    );
    assert_eq!(shell(&bench, "map dump m each"), shown);
    let refused = shell(&bench, "map update m each 5 1 --cpu 99");
    assert_eq!(refused, format!("the CPUs are 0 to {}.\n", cpus - 1));
    let json = shell(&bench, "map dump m each --json");
    assert_eq!(
        json.lines().count() as u64,
        cpus,
        "a sum is no value: {json}"
    );
}

#[test]
fn a_queue_is_filled_and_emptied() {
    let bench = bench();
    assert_eq!(shell(&bench, "map lookup m order"), "order is empty.\n");
    assert_eq!(shell(&bench, "map update m order 1"), "");
    assert_eq!(shell(&bench, "map update m order 2"), "");
    let full = "order has no room for more than 2 entries: delete one first.\n";
    assert_eq!(shell(&bench, "map update m order 3"), full);
    assert_eq!(shell(&bench, "map update m order 3 --flag exist"), "");
    assert_eq!(shell(&bench, "map dump m order"), "VALUE\n    2\n    3\n");
    assert_eq!(shell(&bench, "map delete m order"), "2\n");
    assert_eq!(shell(&bench, "map lookup m order"), "VALUE\n    3\n");
}

/// Types of the map tests, by number:
///
/// ```c
/// 1 unsigned   2 char   3 char[4]   4 struct key { char name[4]; unsigned id; }
/// 5 enum state { IDLE, BUSY }   6 struct count { unsigned reads; unsigned writes; }
/// 7 unsigned[3]   8 struct hist { unsigned slots[3]; char name[4]; }
/// ```
fn types() -> Vec<u8> {
    const STRINGS: &[u8] =
        b"\0unsigned\0char\0key\0name\0id\0state\0IDLE\0BUSY\0count\0reads\0writes\0hist\0slots\0";
    let name = |name: &str| {
        let wanted = format!("\0{name}\0");
        let mut places = STRINGS.windows(wanted.len());
        let at = places.position(|window| window == wanted.as_bytes());
        at.expect("it is among the strings") as u32 + 1
    };
    let info = |kind: Kind, count: u32| (kind as u32) << 24 | count;
    let records: [&[u32]; 8] = [
        &[name("unsigned"), info(Kind::Int, 0), 4, 32],
        &[name("char"), info(Kind::Int, 0), 1, 1 << 24 | 8],
        &[0, info(Kind::Array, 0), 0, 2, 1, 4],
        &[
            name("key"),
            info(Kind::Struct, 2),
            8,
            name("name"),
            3,
            0,
            name("id"),
            1,
            32,
        ],
        &[
            name("state"),
            info(Kind::Enum, 2),
            4,
            name("IDLE"),
            0,
            name("BUSY"),
            1,
        ],
        &[
            name("count"),
            info(Kind::Struct, 2),
            8,
            name("reads"),
            1,
            0,
            name("writes"),
            1,
            32,
        ],
        &[0, info(Kind::Array, 0), 0, 1, 1, 3],
        &[
            name("hist"),
            info(Kind::Struct, 2),
            16,
            name("slots"),
            7,
            0,
            name("name"),
            3,
            96,
        ],
    ];
    let records = records.concat();
    let mut bytes = Vec::from(MAGIC);
    bytes.extend([1, 0]);
    let length = 4 * records.len() as u32;
    let header = [HEADER as u32, 0, length, length, STRINGS.len() as u32];
    bytes.extend(header.into_iter().chain(records).flat_map(u32::to_le_bytes));
    bytes.extend(STRINGS);
    bytes
}

#[test]
fn types_name_what_maps_hold() {
    let bench = Bench::new(1);
    let mut linked = ebpf::builtin::linked("stop").expect("it is built in");
    linked.maps = vec![
        map("counts", MapKind::Hash, 8, 8, 4),
        map("states", MapKind::Hash, 4, 4, 4),
        map("each", MapKind::PerCpuHash, 4, 8, 4),
        map("hists", MapKind::Hash, 4, 16, 4),
        map("last", MapKind::Queue, 0, 4, 2),
    ];
    let of = |key, value| MapTypes { key, value };
    linked.types = Types {
        btf: types(),
        maps: vec![of(4, 6), of(3, 5), of(5, 6), of(1, 8), of(0, 5)],
    };
    let bytes = linked.encode().expect("it can be written");
    bench
        .periscope
        .load_program("t", &bytes, Owner(0))
        .expect("there is memory for it");
    let key = "73:68:00:00:07:00:00:00";
    assert_eq!(
        shell(
            &bench,
            &format!("map update t counts {key} 1:0:0:0:2:0:0:0")
        ),
        ""
    );
    assert_eq!(
        shell(&bench, "map dump t counts"),
        "             KEY               VALUE\n{name=\"sh\" id=7}  {reads=1 writes=2}\n"
    );
    assert_eq!(
        shell(&bench, "map dump t counts --json"),
        "{\"key\":{\"name\":\"sh\",\"id\":7},\"value\":{\"reads\":1,\"writes\":2}}\n"
    );
    // What is shown can be said.
    assert_eq!(shell(&bench, "map update t states cat BUSY"), "");
    assert_eq!(
        shell(&bench, "map lookup t states \"cat\""),
        "  KEY  VALUE\n\"cat\"   BUSY\n"
    );
    assert_eq!(shell(&bench, "map update t states cat 7"), "");
    assert_eq!(
        shell(&bench, "map lookup t states 63:61:74:00"),
        "  KEY  VALUE\n\"cat\"      7\n"
    );
    assert_eq!(shell(&bench, "map delete t states cat"), "");
    assert_eq!(shell(&bench, "map update t last BUSY"), "");
    assert_eq!(shell(&bench, "map delete t last"), "BUSY\n");
    // Members are added up.
    let cpus = bench.periscope.programs().cpus();
    assert_eq!(shell(&bench, "map update t each BUSY 1:0:0:0:2:0:0:0"), "");
    let shown = shell(&bench, "map lookup t each BUSY");
    let sum = shown.lines().last().map(str::split_whitespace);
    let sum: Vec<_> = sum.expect("there are rows").collect();
    let (reads, writes) = (format!("{{reads={cpus}"), format!("writes={}}}", 2 * cpus));
    assert_eq!(sum, ["BUSY", "sum", &reads, &writes]);
    // A text in a histogram is no slot.
    shell(
        &bench,
        "map update t hists 9 0:0:0:0:5:0:0:0:0:0:0:0:73:68:0:0",
    );
    let drawn = shell(&bench, "map dump t hists --hist");
    assert!(
        drawn.starts_with("key 9\n") && drawn.ends_with(" 100 % 5\n") && drawn.lines().count() == 3,
        "{drawn}"
    );
    let refused = shell(&bench, "map dump t counts --hist");
    assert!(refused.starts_with("counts is no histogram: "), "{refused}");
}

#[test]
fn histograms_are_drawn() {
    let bench = bench();
    shell(&bench, "map update m numbers 1 3");
    shell(&bench, "map update m numbers 2 1");
    let drawn = shell(&bench, "map dump m numbers --hist");
    let lines: Vec<&str> = drawn.lines().map(str::trim_start).collect();
    assert_eq!(lines.len(), 3);
    assert!(
        lines[0].starts_with("0 … 1 ") && lines[0].ends_with("   0 % 0"),
        "{drawn}"
    );
    assert!(
        lines[1].starts_with("2 … 3 ") && lines[1].ends_with("  75 % 3"),
        "{drawn}"
    );
    assert!(
        lines[2].starts_with("4 … 7 ") && lines[2].ends_with("  25 % 1"),
        "{drawn}"
    );
    shell(
        &bench,
        "map update m hist 9 00:00:00:00:05:00:00:00:00:00:00:00",
    );
    let drawn = shell(&bench, "map dump m hist --hist");
    assert!(
        drawn.starts_with("key 9\n") && drawn.ends_with(" 100 % 5\n"),
        "{drawn}"
    );
    shell(&bench, "map update m names 1 01:02:03");
    let refused = shell(&bench, "map dump m names --hist");
    assert!(refused.starts_with("names is no histogram: "), "{refused}");
}

#[test]
fn the_list_shows_kinds_and_memory() {
    let bench = bench();
    shell(&bench, "map update m names 1 01:02:03");
    let list = shell(&bench, "map list m");
    let row = |name: &str| {
        let mut rows = list
            .lines()
            .map(|row| row.split_whitespace().collect::<Vec<_>>());
        let row = rows.find(|row| row.get(1) == Some(&name));
        row.unwrap_or_else(|| panic!("no {name} in\n{list}"))
    };
    let names = row("names");
    assert_eq!(
        (names[3], names[4], names[5], names[6], names[7]),
        ("hash", "4", "3", "1", "2")
    );
    let events = row("events");
    assert_eq!(
        (events[3], events[6], events[8], events[9]),
        ("perf_event_array", "0", "0", "0")
    );
    assert!(list.ends_with(" of 33,554,432 bytes are taken\n"), "{list}");
    assert!(
        shell(&bench, "map list").contains("count"),
        "those of built-in programs too"
    );
}

#[test]
fn mistakes_are_explained() {
    let bench = bench();
    let cases = [
        (
            "map lookup m nmaes 1",
            "m has no map nmaes. It has names, numbers, ",
        ),
        ("map lookup m names", "this needs a key of 4 bytes"),
        ("map lookup m names x", "\"x\" is no key: write a number"),
        (
            "map lookup m names 4294967296",
            "4294967296 does not fit into a key",
        ),
        (
            "map update m names 1 1:2",
            "a value of this map has 3 bytes, and these are 2.",
        ),
        (
            "map update m names 1 5",
            "a value of this map has 3 bytes: write them as ",
        ),
        ("map update m names", "this needs a value."),
        ("map update m", "this needs a program and its map."),
        ("map update m numbers 3 1", "numbers has the keys 0 to 2."),
        (
            "map update m numbers 1 1 --flag new",
            "\"new\" is none of any, noexist, exist.",
        ),
        (
            "map update m numbers 1 1 --flag noexist",
            "numbers: an entry with that key exists",
        ),
        (
            "map update m numbers 1 1 --cpu 0",
            "numbers has one value for all CPUs",
        ),
        (
            "map update m order 1 --flag noexist",
            "order is of kind queue, which cannot do that.",
        ),
        ("map update m order 1 1", "order has no keys."),
        (
            "map delete m numbers 1",
            "numbers is of kind array, which cannot do that.",
        ),
        (
            "map lookup m events 1",
            "events is of kind perf_event_array, which cannot do that.",
        ),
        (
            "map dump m events",
            "events keeps nothing: records pass through it, 0 until now",
        ),
        ("map list nope", "no program nope."),
    ];
    for (line, expected) in cases {
        let said = shell(&bench, line);
        assert!(said.starts_with(expected), "{line}: {said}");
    }
    assert!(shell(&bench, "map lookup m nmaes 1").ends_with(" Did you mean names?\n"));
}

#[test]
fn arguments_are_completed() {
    let bench = bench();
    let complete = |line: &str| shell(&bench, &format!("complete {line}"));
    assert_eq!(complete("map lookup m n"), "names\nnumbers\n");
    assert_eq!(
        complete("map update m names 1 2 --flag ?"),
        "any\nexist\nnoexist\n"
    );
    assert_eq!(complete("map update m names 1 2 --f"), "--flag\n");
    assert_eq!(complete("map l"), "list\nlookup\n");
}
