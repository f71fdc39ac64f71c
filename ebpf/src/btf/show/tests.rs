use super::super::tests::{btf, info};
use super::*;
use alloc::format;
use alloc::string::ToString;
use proptest::prelude::*;

const STRINGS: &[u8] = b"\0int\0char\0u64\0bool\0state\0OPEN\0LOST\0pid\0comm\0flag\0at\0both\0low\0wide\0list\0tail\0\
    event\0";

/// Where a string is.
fn string(name: &str) -> u32 {
    let wanted = format!("\0{name}\0");
    let at = STRINGS
        .windows(wanted.len())
        .position(|window| window == wanted.as_bytes());
    at.expect("it is among the strings") as u32 + 1
}

const BITS: u32 = 1 << 31;

/// The types of the tests, by number:
///
/// ```c
/// 1 int   2 char   3 u64   4 bool
/// 5 enum state { OPEN, LOST = -2 }
/// 6 char[4]   7 int *
/// 8 union { int low; u64 wide; }
/// 9 struct event { int pid; char comm[4]; int flag : 3; bool both : 1; enum state state; /* at 16: */ int *at;
///                  union { int low; u64 wide; }; }                 // 32 bytes
/// 10 int[2]
/// 11 struct { int pid; char tail[]; }
/// 12 section: pid at 0, list int[2] at 4
/// 13 int pid   14 int list[2]   15 char[]
/// 16 u64[0x40000000]
/// ```
fn types() -> alloc::vec::Vec<u8> {
    let name = string;
    let of = |kind, count| info(kind, count);
    let records: [&[u32]; 16] = [
        &[name("int"), of(Kind::Int, 0), 4, 1 << 24 | 32],
        &[name("char"), of(Kind::Int, 0), 1, 1 << 24 | 8],
        &[name("u64"), of(Kind::Int, 0), 8, 64],
        &[name("bool"), of(Kind::Int, 0), 1, 4 << 24 | 8],
        &[
            name("state"),
            of(Kind::Enum, 2),
            4,
            name("OPEN"),
            0,
            name("LOST"),
            -2_i32 as u32,
        ],
        &[0, of(Kind::Array, 0), 0, 2, 1, 4],
        &[0, of(Kind::Ptr, 0), 1],
        &[
            0,
            of(Kind::Union, 2),
            8,
            name("low"),
            1,
            0,
            name("wide"),
            3,
            0,
        ],
        &[
            name("event"),
            BITS | of(Kind::Struct, 7),
            32,
            name("pid"),
            1,
            0,
            name("comm"),
            6,
            32,
            name("flag"),
            1,
            3 << 24 | 64,
            name("both"),
            4,
            1 << 24 | 67,
            name("state"),
            5,
            96,
            name("at"),
            7,
            128,
            0,
            8,
            192,
        ],
        &[0, of(Kind::Array, 0), 0, 1, 1, 2],
        &[
            0,
            of(Kind::Struct, 2),
            4,
            name("pid"),
            1,
            0,
            name("tail"),
            15,
            32,
        ],
        &[0, of(Kind::DataSec, 2), 12, 13, 0, 4, 14, 4, 8],
        &[name("pid"), of(Kind::Var, 0), 1, 1],
        &[name("list"), of(Kind::Var, 0), 10, 1],
        &[0, of(Kind::Array, 0), 0, 2, 1, 0],
        &[0, of(Kind::Array, 0), 0, 3, 1, 0x4000_0000],
    ];
    btf(&records.concat(), STRINGS)
}

fn show(ty: u32, bytes: &[u8]) -> (String, String) {
    let types = types();
    let btf = Btf::parse(&types).expect("the types are well-made");
    let value = Value::new(&btf, ty, bytes);
    (value.text().to_string(), value.json().to_string())
}

#[track_caller]
fn check(ty: u32, bytes: &[u8], text: &str, json: &str) {
    assert_eq!(show(ty, bytes), (text.to_string(), json.to_string()));
}

const EVENT: [u8; 32] = [
    7, 0, 0, 0, b's', b'h', 0, b'x', 0b1101, 0, 0, 0, 0xfe, 0xff, 0xff, 0xff, 0, 0x80, 0, 0, 0, 0,
    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 0, 0, 0,
];

#[test]
fn a_structure_has_everything() {
    check(
        9,
        &EVENT,
        "{pid=7 comm=\"sh\" flag=-3 both=true state=LOST at=0xffff000000008000 low=-1 wide=8589934591}",
        "{\"pid\":7,\"comm\":\"sh\",\"flag\":-3,\"both\":true,\"state\":\"LOST\",\"at\":\"0xffff000000008000\",\
         \"low\":-1,\"wide\":8589934591}",
    );
}

#[test]
fn small_values() {
    check(1, &[0xff; 4], "-1", "-1");
    check(
        3,
        &[0xff; 8],
        "18446744073709551615",
        "18446744073709551615",
    );
    check(4, &[0], "false", "false");
    check(4, &[2], "2", "2");
    check(5, &[0; 4], "OPEN", "\"OPEN\"");
    check(5, &[9, 0, 0, 0], "9", "9");
    check(5, &[0xff; 4], "-1", "-1");
    check(6, b"a\"\n\x01", "\"a\\\"\\n\\u{1}\"", "\"a\\\"\\n\\u0001\"");
    check(6, b"ab\xffd", "\"ab\u{fffd}d\"", "\"ab\u{fffd}d\"");
    check(10, &[1, 0, 0, 0, 2, 0, 0, 0], "[1 2]", "[1,2]");
    check(
        12,
        &[3, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0],
        "{pid=3 list=[1 2]}",
        "{\"pid\":3,\"list\":[1,2]}",
    );
    check(0, &[1], "?", "null");
    check(99, &[1], "?", "null");
}

#[test]
fn what_is_cut_off_ends_where_the_bytes_do() {
    check(1, &[1, 0, 0], "?", "null");
    check(10, &[1, 0, 0, 0, 2], "[1]", "[1]");
    check(
        11,
        b"\x01\0\0\0ls\0-l\0\0",
        "{pid=1 tail=\"ls\\0-l\"}",
        "{\"pid\":1,\"tail\":\"ls\\u0000-l\"}",
    );
    check(
        9,
        &EVENT[..6],
        "{pid=7 comm=\"sh\" flag=? both=? state=? at=? low=? wide=?}",
        "{\"pid\":7,\"comm\":\"sh\",\"flag\":null,\"both\":null,\"state\":null,\"at\":null,\"low\":null,\"wide\":null}",
    );
}

#[test]
fn there_is_an_end() {
    let types = types();
    let btf = Btf::parse(&types).expect("the types are well-made");
    let bytes = [1; 80];
    let value = Value::new(&btf, 16, &bytes).limited(3);
    assert_eq!(
        value.text().to_string(),
        "[72340172838076673 72340172838076673 …]"
    );
    let value = Value::new(&btf, 9, &EVENT).limited(3);
    assert_eq!(
        value.json().to_string(),
        "{\"pid\":7,\"comm\":\"sh\",\"…\":null}"
    );
    let fields = Value::new(&btf, 9, &EVENT).fields().expect("a structure");
    let names: alloc::vec::Vec<_> = fields.iter().map(Field::name).collect();
    assert_eq!(
        names,
        ["pid", "comm", "flag", "both", "state", "at", "low", "wide"]
    );
    assert_eq!(fields[2].value.number(), Some(-3));
    assert_eq!(fields[1].value.number(), None);
}

#[test]
fn what_nobody_names_costs_little() {
    // Each structure has a hundred members without a name, which are the next structure.
    let structure = |id: u32| {
        let member = [0, id + 1, 0];
        let head = [0, info(Kind::Struct, 100), 8];
        [&head[..], &member.repeat(100)].concat()
    };
    let mut words: alloc::vec::Vec<u32> = (1..16).flat_map(structure).collect();
    words.extend([0, info(Kind::Struct, 0), 8]);
    let types = btf(&words, STRINGS);
    let btf = Btf::parse(&types).expect("the types are well-made");
    let json = Value::new(&btf, 1, &[0; 8]).json().to_string();
    assert_eq!(json, "{\"…\":null}");
}

#[test]
fn what_is_shown_can_be_read() {
    let types = types();
    let btf = Btf::parse(&types).expect("the types are well-made");
    assert_eq!(
        read(&btf, 5, "LOST"),
        Some(alloc::vec![0xfe, 0xff, 0xff, 0xff])
    );
    assert_eq!(read(&btf, 4, "true"), Some(alloc::vec![1]));
    assert_eq!(read(&btf, 6, "\"sh\""), Some(b"sh\0\0".to_vec()));
    assert_eq!(read(&btf, 6, "bash"), Some(b"bash".to_vec()));
    for (ty, text) in [
        (5, "SHUT"),
        (4, "1"),
        (6, "longer"),
        (1, "7"),
        (9, "{}"),
        (99, ""),
    ] {
        assert_eq!(read(&btf, ty, text), None, "{ty} {text}");
    }
    let words = Value::new(&btf, 10, &[1, 0, 0, 0, 2, 0, 0, 0]).words();
    assert_eq!(words, Some(alloc::vec![1, 2]));
    assert_eq!(Value::new(&btf, 6, b"char").words(), None);
}

/// Whether a text is one JSON value (RFC 8259).
fn is_json(text: &str) -> bool {
    fn value(text: &str) -> Option<&str> {
        let inside = |open: char, close: char, member: fn(&str) -> Option<&str>| {
            let mut rest = text.strip_prefix(open)?;
            if let Some(rest) = rest.strip_prefix(close) {
                return Some(rest);
            }
            loop {
                rest = member(rest)?;
                match rest.strip_prefix(',') {
                    Some(more) => rest = more,
                    None => return rest.strip_prefix(close),
                }
            }
        };
        match text.chars().next()? {
            '{' => inside('{', '}', member),
            '[' => inside('[', ']', value),
            '"' => string(text),
            't' => text.strip_prefix("true"),
            'f' => text.strip_prefix("false"),
            'n' => text.strip_prefix("null"),
            _ => {
                let digits = text.strip_prefix('-').unwrap_or(text);
                let rest = digits.trim_start_matches(|c: char| c.is_ascii_digit());
                (rest.len() < digits.len()).then_some(rest)
            }
        }
    }
    fn member(text: &str) -> Option<&str> {
        value(string(text)?.strip_prefix(':')?)
    }
    fn string(text: &str) -> Option<&str> {
        let mut chars = text.strip_prefix('"')?.chars();
        loop {
            match chars.next()? {
                '"' => return Some(chars.as_str()),
                '\\' => drop(chars.next()?),
                c if (c as u32) < 0x20 => return None,
                _ => {}
            }
        }
    }
    value(text) == Some("")
}

proptest! {
    #[test]
    fn every_value_is_one_line_and_json(
        ty in 0..18_u32,
        bytes in prop::collection::vec(any::<u8>(), 0..64),
        limit in 1..40_usize,
    ) {
        let types = types();
        let btf = Btf::parse(&types).expect("the types are well-made");
        let value = Value::new(&btf, ty, &bytes).limited(limit);
        let (text, json) = (value.text().to_string(), value.json().to_string());
        prop_assert!(is_json(&json), "{json}");
        prop_assert!(!text.contains('\n') && !text.is_empty());
    }

    #[test]
    fn any_types_are_shown_within_bounds(
        types in prop::collection::vec(prop_oneof![any::<u32>(), 0..16_u32, (0..20_u32).prop_map(|kind| kind << 24 | 3)], 0..60),
        damage in prop::option::of((any::<prop::sample::Index>(), any::<u8>())),
        bytes in prop::collection::vec(any::<u8>(), 0..64),
    ) {
        let mut all = match damage {
            Some(_) => self::types(),
            None => btf(&types, STRINGS),
        };
        if let Some((at, byte)) = damage {
            let at = at.index(all.len());
            all[at] = byte;
        }
        let Ok(btf) = Btf::parse(&all) else { return Ok(()) };
        for id in 0..btf.count() + 1 {
            let value = Value::new(&btf, id, &bytes).limited(50);
            let json = value.json().to_string();
            prop_assert!(is_json(&json), "{json}");
            // 50 values, their names and the ends of what they are in.
            prop_assert!(value.text().to_string().len() < 50 * 200);
        }
    }

    #[test]
    fn integers_are_what_rust_makes_of_them(number in any::<i32>(), bits in 1..=31_u32, shift in 0..8_u32) {
        let types = types();
        let btf = Btf::parse(&types).expect("the types are well-made");
        let bytes = number.to_le_bytes();
        prop_assert_eq!(Value::new(&btf, 1, &bytes).number(), Some(number.into()));
        let wide = (i64::from(number) << shift).to_le_bytes();
        let field = Value { bits: Some((shift, bits)), ..Value::new(&btf, 1, &wide) };
        let expected = (i64::from(number) << (64 - bits)) >> (64 - bits);
        prop_assert_eq!(field.number(), Some(expected.into()));
    }
}
