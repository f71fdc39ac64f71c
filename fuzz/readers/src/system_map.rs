//! The reader of a kernel's symbols from a file, on any bytes, on a `System.map` with damage and on an ELF file with some.

use crate::input::Input;
use probes::addr::Gva;
use probes::symbols::Symbols;
use probes::system_map::{SystemMap, elf};

const MAP: &[u8] = b"\
0000000000000000 A _kernel_flags_le_hi32
                 U elsewhere
ffff800080000000 T _text
ffff800080010000 T _stext
ffff800080010800 T vectors
ffff800080020000 t twice
ffff800080030000 t twice\t[module]
ffff800080040000 D linux_banner
ffff800080050000 B _end
";

const SYMBOLS: [(u64, &str); 4] = [
    (0xffff_8000_8000_0000, "_text"),
    (0xffff_8000_8001_0800, "vectors"),
    (0xffff_8000_8004_0000, "linux_banner"),
    (0xffff_8000_8005_0000, "_end"),
];

/// Reads a map and looks up everything in it.
pub fn check(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    if input.byte().is_multiple_of(4) {
        return read(input.rest(), 0);
    }
    let slide = input.u64();
    let mut file = if input.byte().is_multiple_of(2) {
        MAP.to_vec()
    } else {
        elf::build::file(&SYMBOLS)
    };
    while input.has_more() {
        let at = usize::from(input.u16()) % file.len();
        file[at] = input.byte();
    }
    read(&file, slide);
}

fn read(text: &[u8], slide: u64) {
    let map = match SystemMap::parse(text) {
        Ok(map) => map.at(slide),
        Err(refusal) => {
            assert!(!refusal.to_string().is_empty());
            return;
        }
    };
    assert!(map.by_name("vectors").is_some());
    let mut count = 0_usize;
    map.each(&mut |address, name| {
        // Names are printed to terminals.
        assert!(!name.contains(char::is_control), "{name:?}");
        if count.is_multiple_of(64) {
            let same = map.named(name, usize::MAX);
            assert!(same.iter().any(|other| other.address == address));
            if let Some(located) = map.by_address(address) {
                assert_eq!(located.offset, 0);
            }
        }
        count += 1;
        true
    });
    assert_eq!(count, map.count());
    map.similar("vectros", 3);
    map.by_address(Gva(0));
    map.by_address(Gva(u64::MAX));
}
