//! The reader of C types, on any types and strings.

use crate::input::Input;
use ebpf::btf::show::Value;
use ebpf::btf::{Btf, HEADER, MAGIC};

/// How many types are shown, and how many values of each.
const SHOWN: usize = 64;

/// Reads types and asks everything of each.
pub fn check(bytes: &[u8]) {
    read(&framed(bytes));
}

/// What a fuzzer's bytes stand for: mostly types and strings behind a header that fits.
pub(crate) fn framed(bytes: &[u8]) -> Vec<u8> {
    let mut input = Input::new(bytes);
    if input.byte().is_multiple_of(8) {
        return input.rest().to_vec();
    }
    let share = usize::from(input.byte());
    let body = input.rest();
    // Types are longer than their names.
    let (types, strings) = body.split_at(body.len() * share / 256);
    let types = &types[..types.len() / 4 * 4];
    let [length, strings_length] = [types.len(), strings.len() + 2].map(|length| length as u32);
    let mut btf = Vec::from(MAGIC);
    btf.extend([1, 0]);
    let header = [HEADER as u32, 0, length, length, strings_length];
    btf.extend(header.into_iter().flat_map(u32::to_le_bytes));
    btf.extend(types);
    btf.push(0);
    btf.extend(strings);
    btf.push(0);
    btf
}

fn read(bytes: &[u8]) {
    let Ok(btf) = Btf::parse(bytes) else {
        return;
    };
    assert_eq!(btf.types().count() + 1, btf.count() as usize);
    for (id, ty) in btf.types() {
        assert!(!btf.string(ty.name).contains(&0));
        if let Some((resolved, behind)) = btf.resolve(id) {
            assert!(resolved < btf.count() && !behind.kind.is_alias());
        }
        btf.size(id);
        ty.array();
        ty.int();
        let records = [
            ty.members().count(),
            ty.enumerators().count(),
            ty.parameters().count(),
            ty.variables().count(),
        ];
        assert!(records.iter().sum::<usize>() <= ty.len());
    }
    for (id, _) in btf.types().take(SHOWN) {
        // Any bytes do for a value.
        let value = Value::new(&btf, id, bytes).limited(SHOWN);
        let (text, json) = (value.text().to_string(), value.json().to_string());
        // A name has 256 bytes at most; every byte of a text can take 10.
        let most = SHOWN * (10 * 256 + 10 * bytes.len() + 64);
        assert!(text.len() <= most && json.len() <= most);
        assert!(!text.contains('\n') && json.bytes().all(|byte| byte >= b' '));
    }
}
