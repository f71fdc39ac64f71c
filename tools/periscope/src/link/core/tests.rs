use super::*;

const PTR: u32 = 2;
const STRUCT: u32 = 4;
const TYPEDEF: u32 = 8;
const FUNC_PROTO: u32 = 13;

/// Paths among the strings of [`types`].
const WHOLE: u32 = 5;
const FIRST_MEMBER: u32 = 7;

/// BTF of types as words, and of the strings "t" (at 1), "x" (at 3), "0" and "0:0".
fn types(words: &[u32]) -> Vec<u8> {
    crate::testing::btf(words, b"\0t\0x\x000\x000:0\0")
}

/// A type's record.
fn record(name: u32, kind: u32, count: u32, other: u32) -> [u32; 3] {
    [name, kind << 24 | count, other]
}

/// `t`, a prototype with four parameters that are prototypes like it, and so on.
fn nested_prototypes() -> Vec<u8> {
    let mut words = record(1, TYPEDEF, 0, 2).to_vec();
    for level in 0..30 {
        let inner = 3 + level;
        words.extend(record(0, FUNC_PROTO, 4, 0));
        words.extend([0, inner].repeat(4));
    }
    words.extend(record(0, PTR, 0, 0));
    types(&words)
}

/// `struct t` with four anonymous structures that have four each, and so on: no member has a name.
fn nested_structures() -> Vec<u8> {
    let mut words = Vec::new();
    for level in 0..60 {
        let name = u32::from(level == 0);
        words.extend(record(name, STRUCT, 4, 4));
        words.extend([0, level + 2, 0].repeat(4));
    }
    words.extend(record(0, STRUCT, 0, 4));
    types(&words)
}

/// `struct t { void *x; }`.
fn flat_structure() -> Vec<u8> {
    let pointer = record(0, PTR, 0, 0);
    let structure = record(1, STRUCT, 1, 8);
    types(&[&structure[..], &[3, 2, 0], &pointer].concat())
}

/// What becomes of the immediate of an instruction that asks about type 1.
fn ask(local: &[u8], kernel: &[u8], question: Question, access: u32) -> Result<i32> {
    let [local, kernel] = [local, kernel].map(|bytes| Btf::parse(bytes).expect("it is BTF"));
    let relocation = CoreRelocation {
        insn: 0,
        ty: 1,
        access,
        // They are in Linux' order.
        kind: question as u32,
    };
    let mut insns = [ebpf::asm::mov_imm(0, 1)];
    Relocator::new(&local, &kernel)?.apply(relocation, &mut insns, 0)?;
    Ok(insns[0].imm)
}

#[test]
fn flavours_are_no_part_of_a_name() {
    for (name, expected) in [
        ("task_struct", "task_struct"),
        ("task_struct___old", "task_struct"),
        ("a___b___c", "a___b"),
        ("____a", "____a"),
        ("a____b", "a____b"),
        ("a___", "a___"),
        ("___a", "___a"),
        ("", ""),
    ] {
        assert_eq!(essential(name.as_bytes()), expected.as_bytes(), "{name}");
    }
}

/// A kernel's types are a guest's: comparing them ends, whatever they are.
#[test]
fn intricate_types_are_refused_in_time() {
    let [prototypes, structures] = [nested_prototypes(), nested_structures()];
    let flat = flat_structure();
    for (local, kernel, question, access) in [
        (&prototypes, &prototypes, Question::TypeExists, WHOLE),
        (&prototypes, &prototypes, Question::TypeMatches, WHOLE),
        (&flat, &structures, Question::FieldExists, FIRST_MEMBER),
    ] {
        let error = ask(local, kernel, question, access).expect_err("it is too much");
        let error = format!("{error:#}");
        assert!(error.contains("too intricate"), "{question:?}: {error}");
    }
    for (question, access) in [
        (Question::TypeExists, WHOLE),
        (Question::TypeMatches, WHOLE),
        (Question::FieldExists, FIRST_MEMBER),
    ] {
        let answers = [&flat, &types(&[])].map(|kernel| ask(&flat, kernel, question, access));
        let answers = answers.map(|answer| answer.expect("it is simple"));
        assert_eq!(answers, [1, 0], "{question:?}");
    }
}

/// One name of many bytes, that every type has a part of.
#[test]
fn endless_names_are_refused_in_time() {
    let name = "n".repeat(1 << 20);
    let mut bytes = types(&[]);
    let words: Vec<u32> = (1..0x8000)
        .flat_map(|at| record(at, STRUCT, 0, 4))
        .collect();
    let length = 4 * words.len() as u32;
    for (at, word) in [(12, length), (16, length), (20, name.len() as u32 + 2)] {
        bytes[at..at + 4].copy_from_slice(&word.to_le_bytes());
    }
    bytes.truncate(24);
    bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
    bytes.extend([b"\0", name.as_bytes(), b"\0"].concat());
    let error = ask(&flat_structure(), &bytes, Question::TypeExists, WHOLE);
    let error = error.expect_err("it is too much").to_string();
    assert!(error.contains("too intricate"), "{error}");
}
