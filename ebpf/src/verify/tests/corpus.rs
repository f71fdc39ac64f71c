//! Verdicts on small programs, written for kprobe programs and our maps. More than half put one of the
//! kernel's selftests (`tools/testing/selftests/bpf`: `progs/verifier_*.c`, `verifier/*.c`) into
//! our terms: the same situation, and the verdict that the kernel gives a privileged program. The
//! programs are in `corpus/*.txt`:
//!
//! ```text
//! == what it shows
//! from: the selftest's file, and its description (or name) there; or `ours`
//! given: fentry, or fexit, and what the values of the context are (address, number): optional
//! accept
//! reject: words of the reason
//! the program
//! ```
//!
//! What is accepted is also run, and must not fault.

use super::assembler::assemble;
use super::*;
use crate::object::Object;
use crate::signature::{At, Signature};
use crate::testing::{self, FakeHost};
use alloc::string::ToString;
use std::println;

const FILES: [(&str, &str); 8] = [
    ("bounds", include_str!("corpus/bounds.txt")),
    ("branches", include_str!("corpus/branches.txt")),
    ("callbacks", include_str!("corpus/callbacks.txt")),
    ("calls", include_str!("corpus/calls.txt")),
    ("guest", include_str!("corpus/guest.txt")),
    ("memory", include_str!("corpus/memory.txt")),
    ("pointers", include_str!("corpus/pointers.txt")),
    ("references", include_str!("corpus/references.txt")),
];

#[derive(Debug)]
enum Expected<'a> {
    Accept,
    Reject(&'a str),
}

struct Case<'a> {
    name: &'a str,
    expected: Expected<'a>,
    signature: Option<Signature>,
    insns: Vec<Insn>,
}

/// What a program is given, such as `fentry address number`.
fn signature(text: &str) -> Option<Signature> {
    let mut words = text.split(' ');
    let at = match words.next()? {
        "fentry" => At::Entry,
        "fexit" => At::Return,
        _ => return None,
    };
    let mut addresses = 0;
    let mut values = 0;
    for word in words {
        addresses |= u16::from(word == "address") << values;
        values += 1;
    }
    let arguments = match at {
        At::Entry => values,
        At::Return => values - 1,
    };
    Signature::new(at, arguments, addresses)
}

fn parse(text: &str) -> Vec<Case<'_>> {
    let cases = text.split("\n== ").skip(1);
    cases
        .map(|case| {
            let (name, rest) = case.split_once('\n').expect("a case has a body");
            let (from, rest) = rest.split_once('\n').expect("a case has a source");
            assert!(from.starts_with("from: "), "{name}: {from}");
            let (given, rest) = match rest.strip_prefix("given: ") {
                Some(rest) => rest.split_once('\n').expect("a case has a verdict"),
                None => ("", rest),
            };
            let (verdict, program) = rest.split_once('\n').expect("a case has a program");
            let expected = match verdict.strip_prefix("reject: ") {
                Some(words) => Expected::Reject(words),
                None => {
                    assert_eq!(verdict, "accept", "{name}");
                    Expected::Accept
                }
            };
            let insns = assemble(program).unwrap_or_else(|error| panic!("{name}: {error}"));
            Case {
                name,
                expected,
                signature: signature(given),
                insns,
            }
        })
        .collect()
}

/// What is wrong with the verdict on a case.
fn complaint(case: &Case<'_>) -> Option<String> {
    let verdict = verdict(&case.insns, case.signature, Pruning::On, &mut Silent);
    match (&case.expected, verdict) {
        (Expected::Accept, Err(refused)) => Some(alloc::format!("refused: {refused:?}")),
        (Expected::Reject(words), Ok(_)) => Some(alloc::format!("accepted, not {words:?}")),
        (Expected::Reject(words), Err(refused)) => {
            let reason = refused.reason.to_string();
            (!reason.contains(words)).then(|| alloc::format!("{reason:?}, not {words:?}"))
        }
        (Expected::Accept, Ok(_)) => None,
    }
}

#[test]
fn verdicts_are_the_kernels() {
    let mut complaints = 0;
    let mut count = 0;
    for (file, text) in FILES {
        for case in parse(text) {
            count += 1;
            if let Some(complaint) = complaint(&case) {
                println!("{file}: {}: {complaint}", case.name);
                complaints += 1;
            }
        }
    }
    assert_eq!(complaints, 0, "of {count} cases");
    assert!(count > 100, "{count}");
}

#[test]
fn accepted_cases_run() {
    for (_, text) in FILES {
        for case in parse(text) {
            if matches!(case.expected, Expected::Reject(_)) {
                continue;
            }
            let mut linked = testing::linked(&case.insns, &maps());
            linked.programs[0].signature = case.signature;
            let object = Object::load(&linked, 1).expect("the case is accepted");
            let result = object.programs()[0].run(&testing::context(), &FakeHost::new());
            assert!(result.is_ok(), "{}: {result:?}", case.name);
        }
    }
}
