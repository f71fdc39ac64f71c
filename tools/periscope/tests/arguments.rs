//! Programs that are given a function's arguments (`fentry`, `fexit`): what `periscope link` makes of the
//! kernel's types.

mod common;

use common::{argument, compile_text, directory, fail, section, succeed};
use ebpf::btf::{Btf, HEADER, Kind};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Functions of every shape, as pointers: clang compiles none for eBPF that has more than five arguments.
const KERNEL: &str = "
    struct pair { __u64 first, second; };
    struct three { __u64 words[3]; };
    struct task { struct task *parent; int pid; };
    typedef struct task *task_t;
    enum state { ON, OFF };
    long (*plain)(struct task *task, const char *name, __u64 size, int flags, enum state state);
    struct task *(*aliases)(const volatile task_t task, struct task **tasks, void *any);
    void (*nothing)(void);
    int (*pairs)(struct pair pair, struct task *task);
    int (*all)(int a, int b, int c, int d, int e, int f, int g, struct task *h);
    int (*many)(int a, int b, int c, int d, int e, int f, int g, int h, int i);
    int (*large)(struct three three);
    int (*any_number)(int a, ...);
    struct pair (*both)(int a);
    int variable;
";

/// The types of a kernel that has these functions.
fn kernel() -> &'static Path {
    static BTF: OnceLock<PathBuf> = OnceLock::new();
    BTF.get_or_init(make_kernel)
}

fn make_kernel() -> PathBuf {
    let object = compile_text(KERNEL, "arguments-kernel", &[]);
    let bytes = section(&object, ".BTF");
    let types = Btf::parse(&bytes).expect("clang writes BTF");
    let mut functions = Vec::new();
    for (_, variable) in types.types().filter(|(_, ty)| ty.kind == Kind::Var) {
        let pointer = types.ty(variable.size_or_type);
        if let Some(pointer) = pointer.filter(|ty| ty.kind == Kind::Ptr) {
            // A function has a name, its kind and linkage (global), and a prototype.
            let words = [
                variable.name,
                (Kind::Func as u32) << 24 | 1,
                pointer.size_or_type,
            ];
            functions.extend(words.map(u32::to_le_bytes).concat());
        }
    }
    let btf = directory("arguments").join("kernel.btf");
    fs::write(&btf, with_types(&bytes, &functions)).expect("the directory should be writable");
    btf
}

/// BTF with more types behind those that it has, and before its strings.
fn with_types(btf: &[u8], more: &[u8]) -> Vec<u8> {
    let mut btf = btf.to_vec();
    let mut word = |at: usize, change: usize| {
        let bytes = &mut btf[at..at + 4];
        let value = u32::from_le_bytes(bytes.try_into().expect("four bytes")) as usize + change;
        bytes.copy_from_slice(&(value as u32).to_le_bytes());
        value
    };
    let end = HEADER + word(8, 0) + word(12, 0);
    word(12, more.len());
    word(16, more.len());
    btf.splice(end..end, more.iter().copied());
    btf
}

/// An object with a program in that section.
fn program(place: &str, test: &str) -> PathBuf {
    let text = format!("SEC(\"{place}\") int program(__u64 *ctx) {{ return 0; }}");
    compile_text(&text, test, &[])
}

#[test]
fn the_kernels_types_say_what_programs_are_given() {
    let btf = kernel();
    for (place, given) in [
        (
            "fentry/plain",
            "given address, number, number, number, number",
        ),
        (
            "fexit/plain",
            "given address, number, number, number, number, number",
        ),
        ("fentry/aliases", "given address, number, number"),
        ("fexit.s/aliases", "given address, number, number, address"),
        ("fentry/nothing", "given nothing"),
        ("fexit/nothing", "given number"),
        ("fentry.s/pairs", "given number, number, address"),
        (
            "fentry/all",
            "given number, number, number, number, number, number, number, address",
        ),
    ] {
        let object = program(place, "arguments-given");
        succeed(&["link", argument(&object), "--btf", argument(btf)]);
        let linked = object.with_extension("").with_extension("lp");
        let dump = succeed(&["dump", argument(&linked)]);
        let expected = format!("program ({place}): 2 instructions, {given}\n");
        assert!(dump.contains(&expected), "{place}: {dump}");
    }
}

#[test]
fn what_programs_cannot_be_given_is_an_error() {
    let btf = kernel();
    for (place, why) in [
        (
            "fentry/absent",
            "the kernel's types have no function absent",
        ),
        (
            "fentry/variable",
            "the kernel's types have no function variable",
        ),
        (
            "fentry/many",
            "the arguments of many take 9 registers, and there are 8",
        ),
        ("fentry/large", "argument 0 of large: a value of 24 bytes"),
        (
            "fexit/any_number",
            "argument 1 of any_number: there may be any number",
        ),
        ("fentry/both", "the result of both is a structure"),
        ("fentry", "does not say which function"),
    ] {
        let object = program(place, "arguments-refused");
        let error = fail(&["link", argument(&object), "--btf", argument(btf)]);
        assert!(error.contains(why), "{place}: {error}");
        assert!(error.contains("program program: "), "{place}: {error}");
    }
    let error = fail(&[
        "link",
        argument(&program("fentry/plain", "arguments-refused")),
    ]);
    assert!(
        error.contains("section fentry/plain needs the types"),
        "{error}"
    );
}

/// Two ways to do the same are not both taken.
#[test]
fn kprobes_of_an_object_are_taken_instead() {
    let btf = kernel();
    let object = compile_text(
        "SEC(\"kprobe/plain\") int first(void *ctx) { return 0; }
         SEC(\"fentry/absent\") int second(void *ctx) { return 0; }
         SEC(\"fexit/plain\") int third(void *ctx) { return 0; }",
        "arguments-variants",
        &[],
    );
    let link = |more: &[&str]| {
        let words = ["link", argument(&object), "--btf", argument(btf)];
        succeed(&[&words, more].concat())
    };
    let said = link(&[]);
    assert!(said.contains("1 program,"), "{said}");
    let left_out = "left out second (fentry/absent): the object's kprobes do the same";
    assert!(said.contains(left_out), "{said}");
    let said = link(&["--program", "third"]);
    assert!(said.contains("1 program,"), "{said}");
    let said = link(&["--attach", "second=fentry/pairs"]);
    assert!(said.contains("2 programs,"), "{said}");
}

/// What a program reads through is what the kernel's types call an address; nothing is written there.
#[test]
fn arguments_are_read_through() {
    let btf = kernel();
    let link = |body: &str| {
        let text = format!(
            "struct task {{ struct task *parent; int pid; }} __attribute__((preserve_access_index));
             SEC(\"fentry/plain\") int program(__u64 *ctx) {{ {body} }}"
        );
        let object = compile_text(&text, "arguments-read", &[]);
        ["link", argument(&object), "--btf", argument(btf)].map(str::to_owned)
    };
    let task = "struct task *task = (void *)ctx[0];";
    let words = link(&format!("{task} return task->parent->parent->pid;"));
    succeed(&words.each_ref().map(String::as_str));
    let words = link("return *(char *)ctx[1];");
    let error = fail(&words.each_ref().map(String::as_str));
    assert!(
        error.contains("is a number, and is used as an address"),
        "{error}"
    );
    let words = link(&format!("{task} task->parent->pid = 1; return 0;"));
    let error = fail(&words.each_ref().map(String::as_str));
    assert!(
        error.contains("in the guest, whose memory can only be read"),
        "{error}"
    );
}
