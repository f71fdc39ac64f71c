//! What `periscope link`, `dump` and `verify` say, and what they refuse.

mod common;

use common::{argument, compile, compile_text, directory, fail, periscope, succeed};
use std::fs;

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
        "call map_lookup_elem",
        "; calls",
        "lock *(u64 *)(r0 + 0) add= r1",
    ] {
        assert!(dump.contains(expected), "no {expected:?} in\n{dump}");
    }
    let said = succeed(&["verify", argument(&output)]);
    assert!(said.starts_with("verified: 2 programs,"), "{said}");
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
            "ringbuf",
            "struct { __uint(type, 27); __uint(max_entries, 4096); } events SEC(\".maps\");
             SEC(\"kprobe/f\") int p(void *c) { return !bpf_map_lookup_elem(&events, c); }",
            "map events: maps of type BPF_MAP_TYPE_RINGBUF are not supported",
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
            "program p is in section xdp: only kprobe",
        ),
        (
            "helper",
            "static long (*const get_pid)(void) = (void *)14;
             SEC(\"kprobe/f\") int p(void *c) { return get_pid(); }",
            "kprobe/f, instruction 0\n  call helper 14\n  helper 14 is not one of ours",
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
            "the address of function",
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

#[test]
fn sections_for_each_function_are_refused() {
    let object = compile_text(
        "static __noinline int a(int *x) { return *x; }
         static __noinline int b(int *x) { return x[1]; }
         SEC(\"kprobe/f\") int p(void *c) { return a(c) + b(c); }",
        "function-sections",
        &["-ffunction-sections"],
    );
    let error = fail(&["link", argument(&object)]);
    assert!(
        error.contains("compile without -ffunction-sections"),
        "{error}"
    );
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

/// Bytes of an object changed at random places: an error or a program, never a crash or a hang.
#[test]
fn damaged_objects_get_an_error() {
    let object = compile("tests/bpf/everything.bpf.c", "damaged", &[]);
    let bytes = fs::read(&object).expect("the object was just compiled");
    let damaged = directory("damaged").join("damaged.bpf.o");
    // A linear congruential generator (Knuth's MMIX constants): the same places every time.
    let mut state = 1_u64;
    let mut next = |bound: usize| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % bound
    };
    for _ in 0..300 {
        let mut bytes = bytes.clone();
        for _ in 0..=next(4) {
            let at = next(bytes.len());
            bytes[at] = next(256) as u8;
        }
        if next(8) == 0 {
            bytes.truncate(next(bytes.len()));
        }
        fs::write(&damaged, bytes).expect("the directory should be writable");
        let output = periscope(&["link", argument(&damaged)]);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(
            matches!(output.status.code(), Some(0 | 1)),
            "{:?} {error}",
            output.status
        );
    }
}

#[test]
fn help_is_everywhere() {
    for command in ["link", "dump", "verify"] {
        let help = succeed(&[command, "--help"]);
        assert!(help.contains("Usage: periscope"), "{help}");
    }
}
