//! What `periscope link`, `dump` and `verify` say, and what they refuse.

mod common;

use common::{argument, compile, compile_text, directory, fail, periscope, section, succeed};
use ebpf::btf::Btf;
use ebpf::btf::show::Value;
use ebpf::linked::Linked;
use std::fs;
use std::io::{ErrorKind, Write};
use std::net::TcpListener;
use std::path::Path;
use std::thread;

/// The error of linking a source text.
fn refusal(text: &str, test: &str) -> String {
    fail(&["link", argument(&compile_text(text, test, &[]))])
}

#[test]
fn link_dump_and_verify() {
    let object = compile("tests/bpf/everything.bpf.c", "link-dump-verify", &[]);
    let output = directory("link-dump-verify").join("other.lp");
    let said = succeed(&["link", argument(&object), "-o", argument(&output)]);
    assert!(said.contains("2 programs, 5 maps"), "{said}");
    let dump = succeed(&["dump", argument(&output)]);
    for expected in [
        "object everything (GPL)",
        "calls: hash, key 8, value 8, 16 entries",
        "per_cpu: percpu_array, key 4, value 8, 2 entries",
        ".rodata: array, key 4,",
        "read-only",
        "on_read (kprobe/vfs_read):",
        "; count(PT_REGS_PARM1(ctx)); @ ",
        "call map_lookup_elem",
        "; calls",
        "lock *(u64 *)(r0 + 0) add= r1",
    ] {
        assert!(dump.contains(expected), "no {expected:?} in\n{dump}");
    }
    let said = succeed(&["verify", argument(&output)]);
    assert!(said.starts_with("verified: 2 programs,"), "{said}");
    let log = succeed(&["verify", "-v", argument(&output)]);
    for expected in [
        "kprobe/vfs_read:\n0: r",
        "R1=ctx R10=fp",
        "map_value_or_null",
        "of the context, ",
    ] {
        assert!(log.contains(expected), "no {expected:?} in\n{log}");
    }
}

#[test]
fn what_cannot_be_honoured_is_refused_by_name() {
    let cases = [
        (
            "kconfig",
            "extern int CONFIG_HZ __attribute__((section(\".kconfig\")));
             SEC(\"kprobe/f\") int p(void *c) { return CONFIG_HZ; }",
            "CONFIG_HZ is a __kconfig extern",
        ),
        (
            "ksym",
            "extern const int jiffies __attribute__((section(\".ksyms\")));
             SEC(\"kprobe/f\") int p(void *c) { return (long)&jiffies; }",
            "jiffies is not defined",
        ),
        (
            "weak-ksym",
            "extern const int maybe __attribute__((section(\".ksyms\"), weak));
             SEC(\"kprobe/f\") int p(void *c) { return &maybe ? 1 : 0; }",
            "maybe is not defined",
        ),
        (
            "kfunc",
            "extern void bpf_rcu_read_lock(void) __attribute__((section(\".ksyms\")));
             SEC(\"kprobe/f\") int p(void *c) { bpf_rcu_read_lock(); return 0; }",
            "bpf_rcu_read_lock is not defined: kernel functions",
        ),
        (
            "storage",
            "struct { __uint(type, 24); __uint(max_entries, 1); } events SEC(\".maps\");
             SEC(\"kprobe/f\") int p(void *c) { return !bpf_map_lookup_elem(&events, c); }",
            "map events: maps of Linux' type 24 are not supported",
        ),
        (
            "entries",
            "struct { __uint(type, 1); __type(key, __u32); __type(value, __u32); } open SEC(\".maps\");
             SEC(\"kprobe/f\") int p(void *c) { return !bpf_map_lookup_elem(&open, c); }",
            "say how many entries it has, as --map open=1024",
        ),
        (
            "section",
            "SEC(\"kporbe/f\") int p(void *c) { return 0; }",
            "program p: what its section kporbe/f means is not known",
        ),
        (
            "pinned",
            "struct { __uint(type, 2); __uint(max_entries, 1); __type(key, __u32);
                      __type(value, __u32); __uint(pinning, 1); } shared SEC(\".maps\");
             SEC(\"kprobe/f\") int p(void *c) { return !bpf_map_lookup_elem(&shared, c); }",
            "map shared: pinning is not supported",
        ),
        (
            "flags",
            "struct { __uint(type, 1); __uint(max_entries, 1); __type(key, __u32);
                      __type(value, __u32); __uint(map_flags, 0x80); } locked SEC(\".maps\");
             SEC(\"kprobe/f\") int p(void *c) { return !bpf_map_lookup_elem(&locked, c); }",
            "map locked: the map flags 0x80",
        ),
        (
            "map-size",
            "struct { __uint(type, 1); __uint(max_entries, 1); __type(key, char[300]);
                      __type(value, __u32); } wide SEC(\".maps\");
             SEC(\"kprobe/f\") int p(void *c) { return !bpf_map_lookup_elem(&wide, c); }",
            "map wide: a key of 300 bytes",
        ),
        (
            "xdp",
            "SEC(\"xdp\") int p(void *c) { return 0; }",
            "program p is in section xdp, and no other is in one that runs here",
        ),
        (
            "helper",
            "static long (*const none)(void) = (void *)9999;
             SEC(\"kprobe/f\") int p(void *c) { return none(); }",
            "kprobe/f, instruction 0 (test.bpf.c:3: SEC(\"kprobe/f\") int p(void *c) { return \
             none(); })\n  call helper 9999\n  helper 9999 is not one of ours",
        ),
        (
            "pointer",
            "static int data; int *pointer = &data;
             SEC(\"kprobe/f\") int p(void *c) { return *pointer + data++; }",
            "pointer holds the address of",
        ),
        (
            "callback",
            "static long (*const for_each)(void *, void *, void *, __u64) = (void *)164;
             static __noinline long each(void *m) { return 0; }
             SEC(\"kprobe/f\") int p(void *c) { return for_each(c, each, c, 0); }",
            "kprobe/f, instruction",
        ),
        (
            "call-of-a-program",
            "SEC(\"kprobe/g\") __noinline int g(void *c) { return *(volatile int *)c; }
             SEC(\"kprobe/f\") int f(void *c) { return g(c) + 1; }",
            "function g is called but is a program (section kprobe/g)",
        ),
        (
            "recursion",
            "static __noinline long f(long n) { return n < 2 ? n : f(n - 1) * f(n - 2); }
             SEC(\"kprobe/f\") int p(long *c) { return f(c[0]); }",
            "the function calls itself",
        ),
        (
            "no-null-check",
            "struct { __uint(type, 1); __uint(max_entries, 1); __type(key, __u64);
                      __type(value, __u64); } counts SEC(\".maps\");
             SEC(\"kprobe/f\") int p(long *c)
             { __u64 key = c[0]; return *(int *)bpf_map_lookup_elem(&counts, &key); }",
            "r0 may be null: compare it with 0 first\n  known: R0=map_value_or_null[0]",
        ),
        (
            "guest-pointer",
            "SEC(\"kprobe/f\") int p(long **c) { return *c[0]; }",
            "is a number, and is used as an address: to read guest memory, call probe_read_kernel",
        ),
        (
            "unchecked-index",
            "long values[8]; SEC(\"kprobe/f\") int p(unsigned *c) { return values[c[0]]; }",
            "a number without limits is added to the pointer in r",
        ),
        ("no-program", "int x;", "there is no program in it"),
    ];
    for (test, text, expected) in cases {
        let error = refusal(text, &format!("refused-{test}"));
        assert!(
            error.contains(expected),
            "{test}: no {expected:?} in {error:?}"
        );
    }
}

/// A port where nobody listens, and one where nobody speaks GDB's protocol.
#[test]
fn targets_that_are_none_get_an_error() {
    let object = compile_text(
        "SEC(\"kprobe/f\") int p(void *c) { return 0; }",
        "targets",
        &[],
    );
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port should be free");
    let address = listener.local_addr().expect("it has an address");
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept()?;
        stream.write_all(b"220 mail ready\r\n$no#dd$no#dd")?;
        // Until the other side has seen enough. It may leave with a packet unread, which resets the connection.
        match std::io::copy(&mut stream, &mut std::io::sink()) {
            Err(error) if error.kind() != ErrorKind::ConnectionReset => Err(error),
            _ => Ok(()),
        }
    });
    let link = |target: &str| fail(&["link", argument(&object), "--target", target]);
    let error = link(&address.to_string());
    assert!(
        error.contains("is no endpoint of the hypervisor"),
        "{error}"
    );
    let end = server.join().expect("the server should end");
    end.expect("the command should have closed the connection");
    let error = link(&address.to_string());
    assert!(
        error.contains("give an endpoint of the hypervisor"),
        "{error}"
    );
}

#[test]
fn functions_may_have_sections_of_their_own() {
    let object = compile_text(
        "static __noinline int a(int *x) { return *x; }
         static __noinline int b(int *x) { return x[1]; }
         SEC(\"kprobe/f\") int p(void *c) { return a(c) + b(c); }",
        "function-sections",
        &["-ffunction-sections"],
    );
    assert!(succeed(&["link", argument(&object)]).contains("1 program,"));
}

#[test]
fn programs_for_elsewhere_are_left_out() {
    let object = compile_text(
        "SEC(\"kprobe/f\") int here(void *c) { return 0; }
         SEC(\"lsm/f\") int there(void *c) { return 0; }
         SEC(\"?kprobe/f\") int asked(void *c) { return 1; }",
        "left-out",
        &[],
    );
    let said = succeed(&["link", argument(&object)]);
    assert!(said.contains("left out there (lsm/f)"), "{said}");
    assert!(
        said.contains("left out asked (?kprobe/f): --program asked takes it"),
        "{said}"
    );
    assert!(said.contains("1 program,"), "{said}");
    let said = succeed(&["link", argument(&object), "--program", "asked"]);
    assert!(said.starts_with("linked "), "{said}");
    let error = fail(&["link", argument(&object), "--program", "where"]);
    assert!(error.contains("there is no program where in it"), "{error}");
}

/// Numbers that Linux gives to other helpers mean ours where a program says so.
#[test]
fn old_numbers_of_helpers_are_for_programs_that_say_so() {
    let link = |mark: &str| {
        let text = format!(
            "static __u32 (*const old_vm_id)(void) = (void *)100;
             static long (*const old_name)(char *buf, __u32 size) = (void *)10;
             {mark}
             SEC(\"tp/vmm/page_fault\") int p(void *c)
             {{ char name[32]; old_name(name, sizeof(name)); return old_vm_id() + name[0]; }}"
        );
        compile_text(&text, "old-numbers", &[])
    };
    let error = fail(&["link", argument(&link(""))]);
    assert!(error.contains("helper 10 is not one of ours"), "{error}");
    let object = link("PERISCOPE_SEED_HELPERS;");
    succeed(&["link", argument(&object)]);
    let linked = object.with_extension("").with_extension("lp");
    let dump = succeed(&["dump", argument(&linked)]);
    for call in ["call get_vm_id", "call get_tracepoint_name"] {
        assert!(dump.contains(call), "{dump}");
    }
}

#[test]
fn an_undeclared_license_is_none() {
    let object = compile_text(
        "SEC(\"kprobe/f\") int p(void *c) { return 0; }",
        "no-license",
        &[],
    );
    succeed(&["link", argument(&object)]);
    let linked = object.with_extension("").with_extension("lp");
    assert!(succeed(&["dump", argument(&linked)]).starts_with("object test (no license)\n"));
}

#[test]
fn files_that_are_something_else_are_refused() {
    let directory = directory("something-else");
    let text = directory.join("text.bpf.o");
    fs::write(&text, "no program\n").expect("the directory should be writable");
    assert!(fail(&["link", argument(&text)]).contains("this is no ELF object"));
    assert!(fail(&["dump", argument(&text)]).contains("this is not a linked program"));
    assert!(fail(&["verify", argument(&text)]).contains("this is not a linked program"));
    assert!(fail(&["link", env!("CARGO_BIN_EXE_periscope")]).contains("this is no eBPF object"));
    assert!(fail(&["link", "/nonexistent.bpf.o"]).contains("cannot read /nonexistent.bpf.o"));
}

/// Bytes changed at random places, or the end cut off: an error or a program, never a crash or a hang.
struct Damage {
    /// Of a linear congruential generator (Knuth's MMIX constants): the same places every time.
    state: u64,
}

impl Damage {
    fn next(&mut self, bound: usize) -> usize {
        self.state = self
            .state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.state >> 33) as usize % bound
    }

    fn of(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        for _ in 0..=self.next(4) {
            let at = self.next(bytes.len());
            bytes[at] = self.next(256) as u8;
        }
        if self.next(8) == 0 {
            bytes.truncate(self.next(bytes.len()));
        }
        bytes
    }
}

/// Links an object against some types, either of which may be damaged.
fn link_damaged(object: &Path, types: &Path) {
    let output = periscope(&["link", argument(object), "--btf", argument(types)]);
    let error = String::from_utf8_lossy(&output.stderr);
    let status = output.status;
    assert!(matches!(status.code(), Some(0 | 1)), "{status:?} {error}");
}

#[test]
fn damaged_objects_and_types_get_an_error() {
    let directory = directory("damaged");
    let kernel = compile_text(include_str!("bpf/core_kernel.c"), "damaged-kernel", &[]);
    let (types, damaged_types) = (directory.join("btf"), directory.join("damaged.btf"));
    let type_bytes = section(&kernel, ".BTF");
    let write = |path: &Path, bytes: &[u8]| {
        fs::write(path, bytes).expect("the directory for temporary files should be writable");
    };
    write(&types, &type_bytes);
    let mut damage = Damage { state: 1 };
    let damaged = directory.join("damaged.bpf.o");
    for source in ["tests/bpf/everything.bpf.c", "tests/bpf/core.bpf.c"] {
        let object = compile(source, "damaged", &[]);
        let bytes = fs::read(&object).expect("the object was just compiled");
        for _ in 0..150 {
            write(&damaged, &damage.of(&bytes));
            link_damaged(&damaged, &types);
            write(&damaged_types, &damage.of(&type_bytes));
            link_damaged(&object, &damaged_types);
        }
    }
}

#[test]
fn help_is_everywhere() {
    for command in ["link", "dump", "verify"] {
        let help = succeed(&[command, "--help"]);
        assert!(help.contains("Usage: periscope"), "{help}");
    }
}

const OPTIONS: &str = "
    enum level { LOW, HIGH = 7 };
    const volatile unsigned pid; const volatile short port; const volatile _Bool loud;
    const volatile enum level level; const volatile char comm[8] = \"shell\";
    const volatile unsigned short ports[3] = {1, 2, 3}; long seen; struct { int a; } pair = {1};
    SEC(\"kprobe/dummy\") int p(void *c)
    { seen = pid + port + loud + level + comm[4] + ports[2] + pair.a; return 0; }
    SEC(\"kretprobe/other\") int r(void *c) { return 0; }";

/// What user space of libbpf's tools does before it loads them.
#[test]
fn options_are_set_by_their_types() {
    let object = compile_text(OPTIONS, "options", &[]);
    let lp = directory("options").join("test.lp");
    let set = [
        "pid=4294967295",
        "port=-2",
        "loud=true",
        "level=HIGH",
        "comm=dd",
        "ports=80,443",
        "seen=0x10",
    ];
    let mut args = vec!["link", argument(&object), "-o", argument(&lp)];
    args.extend(set.iter().flat_map(|word| ["--set", word]));
    succeed(&args);
    let bytes = fs::read(&lp).expect("it should be written");
    let linked = Linked::parse(&bytes).expect("what was written should be readable");
    let types = Btf::parse(&linked.types.btf).expect("what was written should be readable");
    let shown = |name: &str| {
        let index = linked.maps.iter().position(|map| map.name == name);
        let index = index.expect("there should be that section");
        let ty = linked.types.maps[index].value;
        Value::new(&types, ty, &linked.maps[index].initial)
            .text()
            .to_string()
    };
    let rodata = shown(".rodata");
    for expected in [
        "pid=4294967295",
        "port=-2",
        "loud=true",
        "level=HIGH",
        "comm=\"dd\"",
        "ports=[80 443 3]",
    ] {
        assert!(rodata.contains(expected), "no {expected} in {rodata}");
    }
    assert_eq!(shown(".bss"), "{seen=16}");
}

#[test]
fn options_that_cannot_be_set_are_refused_by_name() {
    let object = compile_text(OPTIONS, "refused-options", &[]);
    for (set, expected) in [
        ("pid", "--set pid: give a variable and a value"),
        (
            "pids=1",
            "there is no such variable in it, but comm (char[8]), level (enum level),",
        ),
        (
            "pid=-1",
            "--set pid=-1: pid is unsigned int: from 0 to 4294967295 fit",
        ),
        ("port=32768", "port is short: from -32768 to 32767 fit"),
        ("port=many", "port is short: \"many\" is no number"),
        ("loud=2", "loud is _Bool: give true or false"),
        (
            "level=MIDDLE",
            "level is enum level: \"MIDDLE\" is no number",
        ),
        (
            "comm=8letters",
            "comm is char[8]: a text there has 7 bytes at most",
        ),
        (
            "ports=1,2,3,4",
            "ports is unsigned short[3]: there are 4 values, and room for 3",
        ),
        ("pair=1", "pair is struct: what can be set are numbers"),
    ] {
        let error = fail(&["link", argument(&object), "--set", set]);
        assert!(
            error.contains(expected),
            "{set}: no {expected:?} in {error:?}"
        );
    }
}

/// As user space of libbpf's tools replaces dummies by the functions of a file system.
#[test]
fn programs_go_where_they_are_told() {
    let object = compile_text(OPTIONS, "attach", &[]);
    let lp = directory("attach").join("test.lp");
    let said = |more: &[&str]| {
        let args = ["link", argument(&object), "-o", argument(&lp), "--attach"];
        periscope(&[&args, more].concat())
    };
    assert!(said(&["p=kprobe/shmem_file_open"]).status.success());
    let dump = succeed(&["dump", argument(&lp)]);
    assert!(dump.contains("p (kprobe/shmem_file_open):"), "{dump}");
    assert!(dump.contains("r (kretprobe/other):"), "{dump}");
    for (more, expected) in [
        (&["p"][..], "--attach p: give a program and a section"),
        (&["q=kprobe/f"], "there is no program q in it"),
        (
            &["p=kporbe/f"],
            "what its section kporbe/f means is not known",
        ),
        (&["p=xdp"], "program p is to be attached, but is not taken"),
        (
            &["p=kprobe/f", "--program", "r"],
            "program p is to be attached, but is not taken",
        ),
    ] {
        let output = said(more);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{more:?}");
        assert!(
            error.contains(expected),
            "{more:?}: no {expected:?} in {error:?}"
        );
    }
}
