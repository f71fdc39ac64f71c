//! Real C, compiled by clang, linked, verified, run by the interpreter.

mod common;

use common::{argument, compile, compile_text, succeed};
use ebpf::linked::Linked;
use ebpf::map::MapId;
use ebpf::{Context, Host, Lost, Object, ReadFault};
use std::cell::RefCell;
use std::fs;

/// A guest with one string in its memory.
struct FakeHost {
    cpu: usize,
    printed: RefCell<Vec<String>>,
    records: RefCell<Vec<(MapId, Vec<u64>)>>,
}

const GUEST_STRING: u64 = 0xffff_8000_1234_0000;

impl FakeHost {
    fn on_cpu(cpu: usize) -> Self {
        Self {
            cpu,
            printed: RefCell::default(),
            records: RefCell::default(),
        }
    }
}

impl Host for FakeHost {
    fn ktime_ns(&self) -> u64 {
        0
    }

    fn cpu(&self) -> usize {
        self.cpu
    }

    fn read_guest(&self, address: u64, buffer: &mut [u8]) -> Result<(), ReadFault> {
        let start = address.checked_sub(GUEST_STRING).ok_or(ReadFault)? as usize;
        let bytes = b"busybox\0"
            .get(start..)
            .and_then(|rest| rest.get(..buffer.len()));
        buffer.copy_from_slice(bytes.ok_or(ReadFault)?);
        Ok(())
    }

    fn print(&self, text: &[u8]) {
        self.printed
            .borrow_mut()
            .push(String::from_utf8_lossy(text).into_owned());
    }

    fn record(&self, map: MapId, length: usize, words: &dyn Fn(usize) -> u64) -> Result<(), Lost> {
        let words = (0..length.div_ceil(8)).map(words).collect();
        self.records.borrow_mut().push((map, words));
        Ok(())
    }
}

/// A context with those first arguments.
fn context(arguments: &[u64]) -> Context {
    let mut context = [0; 34];
    context[..arguments.len()].copy_from_slice(arguments);
    context
}

/// Compiles, links and loads a source of this crate.
fn load(source: &str, test: &str, flags: &[&str]) -> Object {
    load_object(&compile(source, test, flags), 2)
}

fn load_object(object: &std::path::Path, cpus: usize) -> Object {
    succeed(&["link", argument(object)]);
    let linked = object.with_extension("").with_extension("lp");
    let bytes = fs::read(linked).expect("the linked program should be beside the object");
    let linked = Linked::parse(&bytes).expect("what was written should be readable");
    Object::load(&linked, cpus).expect("what was linked should be accepted")
}

fn run(object: &Object, program: &str, arguments: &[u64], host: &FakeHost) -> u64 {
    let program = object
        .program(program)
        .expect("the object should have that program");
    program
        .run(&context(arguments), host)
        .expect("the program should run")
}

fn value(object: &Object, map: &str, key: &[u8], cpu: usize) -> Vec<u8> {
    let map = object.map(map).expect("the object should have that map");
    let mut value = vec![0; map.definition().value_size as usize];
    map.lookup(key, cpu, &mut value)
        .expect("the map should have that key");
    value
}

fn number(object: &Object, map: &str, key: &[u8], cpu: usize) -> u64 {
    u64::from_le_bytes(
        value(object, map, key, cpu)
            .try_into()
            .expect("values of 8 bytes"),
    )
}

/// The context of a program at a tracepoint is its fields, by the names of the header.
#[test]
fn tracepoint_programs_name_their_fields() {
    let object = load("examples/exits.bpf.c", "exits", &[]);
    let host = FakeHost::on_cpu(0);
    for (vector, class) in [(0, 0x16), (0, 0x16), (1, 0), (0, 0x24)] {
        assert_eq!(
            run(&object, "count_exit", &[vector, class, 0x40, 0], &host),
            0
        );
    }
    let count = |class: u32| number(&object, "classes", &class.to_le_bytes(), 0);
    assert_eq!((count(0x16), count(0x24), count(0)), (2, 1, 0));
    for outcome in [2, 3] {
        run(
            &object,
            "tell_refused",
            &[0x1000, 0x2000, 1, outcome],
            &host,
        );
    }
    let printed = host.printed.borrow();
    assert_eq!(*printed, ["refused: 1000, guest-physical 2000"]);
}

/// Maps of programs are filled by the source; tail calls, loops and walks through maps do what the C
/// says.
#[test]
fn programs_go_on_with_others_and_loop() {
    let object = load("examples/stages.bpf.c", "stages", &[]);
    let host = FakeHost::on_cpu(0);
    let read = |size| run(&object, "reads", &[0, 0, size], &host);
    for size in [1, 511, 512, 1000, 4096, 1 << 20] {
        assert_eq!(read(size), 0);
    }
    let count = |slot: u32| number(&object, "sizes", &slot.to_le_bytes(), 0);
    assert_eq!([9, 12, 20, 19, 0].map(count), [2, 1, 1, 0, 0]);
    let counts = value(&object, ".bss", &[0; 4], 0);
    let (words, _) = counts.as_chunks();
    let mut words: Vec<_> = words.iter().map(|word| u64::from_le_bytes(*word)).collect();
    words.sort_unstable();
    assert_eq!(words, [0, 2, 4], "missed, few, total");
}

/// What a map of programs may not hold.
#[test]
fn a_map_of_programs_holds_programs() {
    let map = |values: &str| {
        format!(
            "int f(void *ctx);\nint g(void *ctx) {{ return 0; }}\n
             struct {{ __uint(type, BPF_MAP_TYPE_PROG_ARRAY); __uint(max_entries, 2);
             __array(values, int(void *)); }} m SEC(\".maps\") = {{ .values = {{ {values} }} }};
             SEC(\"kprobe/f\") int f(void *ctx) {{ bpf_tail_call(ctx, &m, 0); return 0; }}
             SEC(\"hprobe/h\") int h(void *ctx) {{ return 0; }}"
        )
    };
    for (test, values, said) in [
        (
            "held-function",
            "[0] = (void *)&g",
            "g is no program, but is in a map of programs",
        ),
        (
            "held-past",
            "[2] = (void *)&f",
            "map m has 2 entries, and f in entry 2",
        ),
        (
            "held-other",
            "[0] = (void *)&h",
            "different kinds of places",
        ),
    ] {
        let text = map(values).replace("int f(void *ctx);", "int f(void *ctx); int h(void *ctx);");
        let object = compile_text(&text, test, &[]);
        let output = common::fail(&["link", argument(&object)]);
        assert!(output.contains(said), "{output}");
    }
}

/// Maps, global data and functions do what the C says, in every instruction set version that clang
/// knows.
#[test]
fn everything_works() {
    for cpu in ["v1", "v2", "v3"] {
        let flag = format!("-mcpu={cpu}");
        let object = load(
            "tests/bpf/everything.bpf.c",
            &format!("everything-{cpu}"),
            &[&flag],
        );
        assert_eq!(object.name(), "everything");
        // hidden is 7 and scale() increments it: once itself, three times in sum_of_pairs().
        assert_eq!(run(&object, "on_read", &[5, 10], &FakeHost::on_cpu(0)), 11);
        assert_eq!(run(&object, "on_read", &[5, 20], &FakeHost::on_cpu(1)), 15);
        assert_eq!(run(&object, "on_read", &[6, 0], &FakeHost::on_cpu(1)), 19);
        assert_eq!(number(&object, "calls", &5_u64.to_le_bytes(), 0), 2);
        assert_eq!(number(&object, "calls", &6_u64.to_le_bytes(), 0), 1);
        assert_eq!(number(&object, "per_cpu", &1_u32.to_le_bytes(), 0), 1);
        assert_eq!(number(&object, "per_cpu", &1_u32.to_le_bytes(), 1), 2);
        assert_eq!(number(&object, "per_cpu", &0_u32.to_le_bytes(), 1), 0);
        let pairs = 3 * (1 + 2 + 3 + 4 + 5 + 6);
        let total = 3 * (1000 + pairs) + 3 * (10 + 20);
        assert_eq!(number(&object, ".bss", &[0; 4], 0), total);
    }
}

#[test]
fn guest_strings_are_printed() {
    let object = load("tests/bpf/everything.bpf.c", "strings", &[]);
    let host = FakeHost::on_cpu(1);
    run(&object, "on_return", &[GUEST_STRING], &host);
    run(&object, "on_return", &[GUEST_STRING + 1], &host);
    assert_eq!(
        *host.printed.borrow(),
        ["0 'busybox' on cpu 1", "-14 '' on cpu 1"]
    );
}

#[test]
fn programs_know_their_sections() {
    let object = load("tests/bpf/everything.bpf.c", "sections", &[]);
    let sections: Vec<_> = object
        .programs()
        .iter()
        .map(|program| program.section())
        .collect();
    assert_eq!(sections, ["kprobe/vfs_read", "kretprobe/vfs_read"]);
}

#[test]
fn the_calls_example_counts() {
    let object = load("examples/calls.bpf.c", "calls", &[]);
    let host = FakeHost::on_cpu(0);
    for key in [1, 2, 1, 1] {
        assert_eq!(run(&object, "calls", &[key], &host), 0);
    }
    assert_eq!(number(&object, "counts", &1_u64.to_le_bytes(), 0), 3);
    assert_eq!(number(&object, "counts", &2_u64.to_le_bytes(), 0), 1);
    for key in 0..2000 {
        run(&object, "calls", &[key], &host);
    }
    assert_eq!(number(&object, ".bss", &[0; 4], 0), 2000 - 1024);
}

#[test]
fn the_records_example_puts_records_out() {
    let object = load("examples/records.bpf.c", "records", &[]);
    let host = FakeHost::on_cpu(1);
    for argument in [3, 300, 3, 4, 5] {
        assert_eq!(run(&object, "records", &[argument], &host), 0);
    }
    let map = |name: &str| object.map(name).expect("the example has it");
    let tagged = |tag: [u8; 4]| u64::from(u32::from_le_bytes(tag)) << 32 | 1;
    let expected = [3, 300, 3, 4, 5].into_iter().flat_map(|argument| {
        [("calls", *b"ring"), ("events", *b"perf")]
            .map(|(name, tag)| (map(name).id(), vec![argument, tagged(tag)]))
    });
    assert_eq!(host.records.take(), expected.collect::<Vec<_>>());
    assert_eq!(number(&object, "arguments", &3_u64.to_le_bytes(), 1), 2);
    assert_eq!(number(&object, "arguments", &3_u64.to_le_bytes(), 0), 0);
    // 2 and 3; 256 to 511.
    assert_eq!(number(&object, "sizes", &1_u32.to_le_bytes(), 0), 2);
    assert_eq!(number(&object, "sizes", &8_u32.to_le_bytes(), 0), 1);
    let mut last = [0; 8];
    map("last").pop(&mut last).expect("it holds four");
    assert_eq!(u64::from_le_bytes(last), 300);
}

/// Where no guest's kernel runs, there is no backtrace.
#[test]
fn the_stacks_example_counts_errors_too() {
    let object = load("examples/stacks.bpf.c", "stacks", &[]);
    let host = FakeHost::on_cpu(0);
    for _ in 0..2 {
        assert_eq!(run(&object, "stacks", &[], &host), 0);
    }
    let fault = (-14_i64).to_le_bytes();
    assert_eq!(number(&object, "counts", &[fault, fault].concat(), 0), 2);
}

#[test]
fn the_args_example_prints() {
    let object = load("examples/args.bpf.c", "args", &[]);
    let host = FakeHost::on_cpu(0);
    run(
        &object,
        "args",
        &[0xffff_ff9c, 0xaaaa_e1c4_1f60, 0xffff_8000_8123_be48, 0],
        &host,
    );
    let expected = "x0=0xffffff9c x1=0xaaaae1c41f60 x2=0xffff80008123be48 x3=0x0";
    assert_eq!(*host.printed.borrow(), [expected]);
}

#[test]
fn legacy_maps_need_no_types() {
    let object = compile_text(
        "struct bpf_map_def { __u32 type, key_size, value_size, max_entries, map_flags; };
         struct bpf_map_def SEC(\"maps\") first = { BPF_MAP_TYPE_ARRAY, 4, 8, 1, 0 };
         struct bpf_map_def SEC(\"maps\") second = { BPF_MAP_TYPE_ARRAY, 4, 8, 2, 0 };
         SEC(\"kprobe/f\") int program(struct pt_regs *ctx)
         {
             __u32 key = 1;
             __u64 *value = bpf_map_lookup_elem(&second, &key);
             if (value) *value = ctx->regs[0];
             return !bpf_map_lookup_elem(&first, &key);
         }",
        "legacy",
        &["-g0"],
    );
    let object = load_object(&object, 1);
    assert_eq!(run(&object, "program", &[77], &FakeHost::on_cpu(0)), 1);
    assert_eq!(number(&object, "second", &1_u32.to_le_bytes(), 0), 77);
}

/// A field that lies elsewhere in the kernel's structure than in the program's.
#[test]
fn co_re_relocations_go_by_the_kernels_types() {
    let kernel = compile_text(
        "struct task { __u64 flags[5]; __u32 pid; } task; 
         SEC(\"kprobe/f\") int program(struct pt_regs *ctx) { return task.pid; }",
        "co-re-kernel",
        &[],
    );
    let btf = common::directory("co-re").join("kernel.btf");
    fs::write(&btf, common::section(&kernel, ".BTF")).expect("the directory should be writable");
    let object = compile_text(
        "struct task { __u32 pid; } __attribute__((preserve_access_index));
         SEC(\"kprobe/f\") int program(struct pt_regs *ctx)
         {
             struct task *task = (void *)ctx->regs[0];
             return (long)&task->pid - (long)task;
         }",
        "co-re",
        &[],
    );
    let error = common::fail(&["link", argument(&object)]);
    assert!(error.contains("kprobe/f has CO-RE relocations"), "{error}");
    succeed(&["link", argument(&object), "--btf", argument(&btf)]);
    let bytes = fs::read(object.with_extension("").with_extension("lp")).expect("it is linked");
    let linked = Linked::parse(&bytes).expect("what was written should be readable");
    let object = Object::load(&linked, 1).expect("what was linked should be accepted");
    assert_eq!(run(&object, "program", &[0x1000], &FakeHost::on_cpu(0)), 40);
}
