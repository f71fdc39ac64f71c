use super::*;
use proptest::prelude::*;

/// Puts types and strings behind a header.
pub(crate) fn btf(types: &[u32], strings: &[u8]) -> Vec<u8> {
    let types: Vec<u8> = types.iter().flat_map(|word| word.to_le_bytes()).collect();
    let mut bytes = Vec::from(MAGIC);
    bytes.extend([1, 0]);
    let lengths = [types.len(), types.len(), strings.len()].map(|length| length as u32);
    let [types_length, strings_start, strings_length] = lengths;
    for word in [
        HEADER as u32,
        0,
        types_length,
        strings_start,
        strings_length,
    ] {
        bytes.extend(word.to_le_bytes());
    }
    bytes.extend(types);
    bytes.extend(strings);
    bytes
}

pub(crate) const fn info(kind: Kind, count: u32) -> u32 {
    (kind as u32) << 24 | count
}

/// 1: int, 2: const int, 3: int[3], 4: struct { int a; int b : 5; }, 5: const -> itself.
fn sample() -> Vec<u8> {
    let types: [&[u32]; 6] = [
        &[1, info(Kind::Int, 0), 4, 1 << 24 | 32],
        &[0, info(Kind::Const, 0), 1],
        &[0, info(Kind::Array, 0), 0, 2, 1, 3],
        &[5, 1 << 31 | info(Kind::Struct, 2), 8],
        &[7, 1, 0, 9, 1, 5 << 24 | 32],
        &[0, info(Kind::Const, 0), 5],
    ];
    btf(&types.concat(), b"\0int\0s\0a\0b\0")
}

#[test]
fn types_are_found_by_number() {
    let bytes = sample();
    let btf = Btf::parse(&bytes).expect("the sample is well-made");
    assert_eq!(btf.count(), 6);
    let int = btf.ty(1).expect("there is a type 1");
    assert_eq!((int.kind, btf.string(int.name)), (Kind::Int, &b"int"[..]));
    assert_eq!(int.int().map(|int| int.encoding), Some(Int::SIGNED));
    assert_eq!(btf.resolve(2).map(|(id, _)| id), Some(1));
    assert_eq!(btf.size(3), Some(12));
    let members: Vec<_> = btf.ty(4).expect("a type 4").members().collect();
    let offsets = members
        .iter()
        .map(|member| (member.bit_offset, member.bit_size));
    assert_eq!(offsets.collect::<Vec<_>>(), [(0, 0), (32, 5)]);
    assert_eq!(btf.size(0), None);
    assert!(btf.ty(6).is_none());
}

#[test]
fn chains_end() {
    let bytes = sample();
    let btf = Btf::parse(&bytes).expect("the sample is well-made");
    assert!(btf.resolve(5).is_none());
    assert_eq!(btf.size(5), None);
}

#[test]
fn what_is_not_right_is_refused() {
    let error = |bytes: &[u8]| Btf::parse(bytes).err();
    assert_eq!(error(b""), Some(BtfError::Magic));
    assert_eq!(error(&sample()[..23]), Some(BtfError::Bounds));
    assert_eq!(error(&btf(&[], b"")), Some(BtfError::Strings));
    assert_eq!(error(&btf(&[], b"\0x")), Some(BtfError::Strings));
    let no_kind = btf(&[0, 20 << 24, 0], b"\0");
    assert_eq!(error(&no_kind), Some(BtfError::Kind { id: 1 }));
    let cut = btf(&[0, info(Kind::Struct, 1), 0, 0, 0], b"\0");
    assert_eq!(error(&cut), Some(BtfError::Truncated { id: 1 }));
}

proptest! {
    #[test]
    fn any_types_are_read_or_refused(
        types in prop::collection::vec(any::<u32>(), 0..40),
        damage in prop::option::of((any::<prop::sample::Index>(), any::<u8>())),
    ) {
        let mut bytes = if damage.is_some() { sample() } else { btf(&types, b"\0name\0") };
        if let Some((at, byte)) = damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let Ok(btf) = Btf::parse(&bytes) else { return Ok(()) };
        for (id, ty) in btf.types() {
            let parts = ty.members().count() + ty.enumerators().count() + ty.parameters().count();
            prop_assert!(parts + ty.variables().count() <= ty.len());
            let _ = (btf.resolve(id), btf.size(id), btf.string(ty.name), ty.int(), ty.array());
        }
    }
}
