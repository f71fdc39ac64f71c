use super::*;
use crate::asm::{exit, mov_imm};
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
    linked(&[mov_imm(0, 1), exit()], &[map(MapKind::Hash, 100), rodata])
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
    let mut newer = bytes.clone();
    newer[8] = 2;
    assert_eq!(Linked::parse(&newer), Err(ParseError::Version(2)));
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
