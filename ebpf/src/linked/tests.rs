use super::*;
use crate::asm::{exit, mov_imm};
use crate::signature::At;
use crate::testing::{linked, map};
use alloc::vec;
use proptest::prelude::*;

fn sample() -> Linked {
    let rodata = MapDef {
        name: ".rodata".into(),
        value_size: 3,
        mutability: Mutability::Frozen,
        initial: vec![1, 2, 3],
        ..map(MapKind::Array, 1)
    };
    let events = MapDef {
        key_size: 0,
        value_size: 0,
        ..map(MapKind::RingBuf, 4096)
    };
    let maps = [map(MapKind::Hash, 100), rodata, events];
    let mut linked = linked(&[mov_imm(0, 1), exit()], &maps);
    // An integer of four bytes and the strings "", "int", "a.c", "return 1;".
    let integer = [1, 1 << 24, 4, 32_u32].map(u32::to_le_bytes);
    let header = [24, 0, 16, 16, 19_u32].map(u32::to_le_bytes);
    linked.types.btf = [
        b"\x9f\xeb\x01\0",
        header.as_flattened(),
        integer.as_flattened(),
        b"\0int\0a.c\0return 1;\0",
    ]
    .concat();
    let [key, value] = [1, 1];
    linked.types.maps = vec![MapTypes { key, value }, MapTypes { key, value: 0 }];
    linked.programs[0].signature = Signature::new(At::Return, 2, 0b101);
    linked.programs[0].lines = vec![Line {
        insn: 0,
        file: 5,
        text: 9,
        position: 3 << 10 | 7,
    }];
    linked
}

fn encoded() -> Vec<u8> {
    sample()
        .encode()
        .expect("the sample should be within the limits")
}

/// Replaces the body and makes the header agree with it.
fn with_body(body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::from(MAGIC);
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend((body.len() as u32).to_le_bytes());
    bytes.extend(crc32(body).to_le_bytes());
    bytes.extend(body);
    bytes
}

#[test]
fn what_is_written_is_read_back() {
    assert_eq!(Linked::parse(&encoded()), Ok(sample()));
}

/// The example in `docs/linking.md`, byte for byte.
#[test]
fn the_documented_program_is_one() {
    let page = include_str!("../../../docs/linking.md");
    let (_, example) = page
        .split_once("50 53 43 50")
        .expect("the page should have an example");
    let (example, _) = example
        .split_once("```")
        .expect("the example should end somewhere");
    let mut bytes = b"PSCP".to_vec();
    for line in example.lines() {
        // What they mean stands behind three spaces.
        let (digits, _) = line.split_once("   ").unwrap_or((line, ""));
        let byte = |word| u8::from_str_radix(word, 16).expect("two digits");
        bytes.extend(digits.split_whitespace().map(byte));
    }
    let mut expected = linked(&[mov_imm(0, 0), exit()], &[]);
    expected.name = "zero".into();
    expected.license.clear();
    expected.programs[0].name = "zero".into();
    expected.programs[0].section = "kprobe/f".into();
    assert_eq!(Linked::parse(&bytes), Ok(expected.clone()));
    assert_eq!(expected.encode(), Ok(bytes));
}

#[test]
fn contexts_are_what_functions_can_have() {
    let signatures = (0..=9).flat_map(|arguments| {
        let at = |at| Signature::new(at, arguments, 1 << arguments >> 1);
        [at(At::Entry), at(At::Return)]
    });
    let signatures: Vec<_> = signatures.flatten().collect();
    assert_eq!(signatures.len(), 18, "9 arguments are too many");
    for signature in signatures {
        let mut linked = sample();
        linked.programs[0].signature = Some(signature);
        let bytes = linked.encode().expect("it is a context");
        assert_eq!(Linked::parse(&bytes), Ok(linked));
    }
    let program = sample().programs.remove(0);
    let section = with_words(&program, [2, 2, 0b101]);
    assert_eq!(section, Ok(program.signature));
    for words in [
        [0, 1, 0],
        [0, 0, 1],
        [1, 9, 0],
        [1, 2, 0b100],
        [2, 2, 0b1000],
        [3, 0, 0],
    ] {
        assert_eq!(
            with_words(&program, words),
            Err(ParseError::Context),
            "{words:?}"
        );
    }
}

/// Reads the sample with other words for its program's context.
fn with_words(program: &ProgramDef, words: [u32; 3]) -> Result<Option<Signature>, ParseError> {
    let mut body = encoded()[20..].to_vec();
    let mut known = program.section.as_bytes().to_vec();
    known.extend(
        Signature::to_words(program.signature)
            .map(u32::to_le_bytes)
            .as_flattened(),
    );
    let at = body.windows(known.len()).position(|window| window == known);
    let at = at.expect("the section is there") + program.section.len();
    body[at..at + 12].copy_from_slice(words.map(u32::to_le_bytes).as_flattened());
    Ok(Linked::parse(&with_body(&body))?.programs[0].signature)
}

#[test]
fn every_kind_of_map_is_written_and_read_back() {
    for number in 0..64 {
        let Some(kind) = MapKind::from_number(number) else {
            let mut body = encoded()[20..].to_vec();
            // Names "test" and "GPL", two counts, the first map's name "hash".
            let at = 6 + 5 + 4 + 6;
            assert_eq!(body[at], MapKind::Hash as u8);
            body[at] = number as u8;
            let refused = Err(ParseError::MapKind(number));
            assert_eq!(Linked::parse(&with_body(&body)), refused);
            continue;
        };
        let mut linked = sample();
        let sizes = [(4, 8), (4, 4), (0, 8), (0, 0)];
        let of_sizes = |(key_size, value_size)| MapDef {
            key_size,
            value_size,
            ..map(kind, 8)
        };
        let possible = sizes.map(of_sizes).into_iter();
        linked.maps = possible.filter(|map| map.check().is_ok()).take(1).collect();
        assert_eq!(linked.maps.len(), 1, "{kind}");
        linked.types.maps.clear();
        let written = linked.encode().expect("the map should be possible");
        assert_eq!(Linked::parse(&written), Ok(linked));
    }
}

#[test]
fn the_checksum_is_the_usual_one() {
    assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
}

#[test]
fn damage_is_found() {
    let bytes = encoded();
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x10;
        assert!(Linked::parse(&damaged).is_err(), "byte {at}");
        assert!(Linked::parse(&bytes[..at]).is_err(), "cut at {at}");
    }
    assert_eq!(Linked::parse(b"\x7fELF"), Err(ParseError::Magic));
    let mut older = bytes.clone();
    older[8] = 1;
    assert_eq!(Linked::parse(&older), Err(ParseError::Version(1)));
    assert_eq!(
        Linked::parse(&[&bytes[..], &[0]].concat()),
        Err(ParseError::Length)
    );
    assert_eq!(
        Linked::parse(&with_body(&[&bytes[20..], &[0]].concat())),
        Err(ParseError::Length)
    );
}

#[test]
fn instructions_know_their_lines() {
    let mut program = sample().programs.remove(0);
    let line = program.line(1).expect("the only line is for all");
    assert_eq!((line.number(), line.column()), (3, 7));
    program.lines[0].insn = 1;
    assert_eq!(program.line(0), None);
}

#[test]
fn limits_hold_for_writer_and_reader() {
    let change = |edit: &dyn Fn(&mut Linked)| {
        let mut linked = sample();
        edit(&mut linked);
        linked.encode()
    };
    type Edit<'a> = &'a dyn Fn(&mut Linked);
    let cases: &[(Edit<'_>, ParseError)] = &[
        (&|linked| linked.name.clear(), ParseError::Name),
        (
            &|linked| linked.name = "a\u{1b}[2J".into(),
            ParseError::Name,
        ),
        (
            &|linked| linked.programs[0].name = "x".repeat(256),
            ParseError::Name,
        ),
        (&|linked| linked.programs.clear(), ParseError::Programs),
        (
            &|linked| linked.programs[0].insns.clear(),
            ParseError::Insns,
        ),
        (
            &|linked| linked.programs.push(linked.programs[0].clone()),
            ParseError::Duplicate,
        ),
        (
            &|linked| linked.maps[1].name = "hash".into(),
            ParseError::Duplicate,
        ),
        (
            &|linked| linked.maps = vec![map(MapKind::Array, 1); 65],
            ParseError::TooManyMaps,
        ),
        (
            &|linked| linked.programs[0].lines[0].insn = 2,
            ParseError::Lines,
        ),
        (
            &|linked| linked.programs[0].lines[0].text = 19,
            ParseError::Reference,
        ),
        (
            &|linked| linked.types.maps[0].key = 2,
            ParseError::Reference,
        ),
        (&|linked| linked.types.btf.clear(), ParseError::Reference),
        (
            &|linked| linked.types.btf[0] = 0,
            ParseError::Types(BtfError::Magic),
        ),
        (
            &|linked| linked.maps[0].max_entries = 0,
            ParseError::Map(MapDefError::MaxEntries(0)),
        ),
    ];
    for (edit, error) in cases {
        assert_eq!(change(edit), Err(*error));
    }
}

proptest! {
    #[test]
    fn any_bytes_are_parsed_or_refused(bytes: Vec<u8>) {
        let _ = Linked::parse(&bytes);
        let _ = Linked::parse(&with_body(&bytes));
    }

    /// Behind a checksum that agrees, every single byte may lie.
    #[test]
    fn a_lying_body_is_parsed_or_refused(at: prop::sample::Index, byte: u8) {
        let mut body = encoded()[20..].to_vec();
        let at = at.index(body.len());
        body[at] = byte;
        if let Ok(linked) = Linked::parse(&with_body(&body)) {
            prop_assert_eq!(linked.encode(), Ok(with_body(&body)));
        }
    }
}

#[test]
fn helpers_of_expressions_are_in_no_linked_program() {
    let mut linked = crate::builtin::linked("stop").unwrap();
    linked.programs[0]
        .insns
        .insert(0, crate::asm::call(Helper::AgentFail));
    let error = linked.encode().unwrap_err();
    assert_eq!(error, ParseError::HelperOfExpressions("agent_fail"));
}
