//! Builds images with symbol tables as `scripts/kallsyms.c` and the linker do.

use alloc::collections::BTreeMap;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;

/// In which order a kernel has the tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Layout {
    /// Linux 6.1 as released.
    Until6_1,
    /// Linux 6.2 and 6.3, and stable releases of 6.1: with `kallsyms_seqs_of_names`.
    Until6_3,
    /// Linux 6.4 and later.
    Since6_4,
}

/// What is in the relative base.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Base {
    /// The address itself: a running kernel, or an image with RELR relocations.
    InPlace,
    /// Zero, and the address in a RELA entry.
    Rela,
}

/// Where the kernel is linked to.
pub const LINKED_AT: u64 = 0xffff_8000_8000_0000;
/// Offset of `_stext`.
pub const TEXT: u64 = 0x1_0000;
/// Offset of `_etext`.
pub const END_OF_TEXT: u64 = 0x2_0000;
/// Where the tables are, at least.
pub const TABLES: u64 = 0x2_1000;
/// Offset of `_sinittext`.
pub const INIT_TEXT: u64 = 0x20_0000;
/// What the kernel says of itself.
pub const BANNER: &str = "Linux version 6.12.0-test (somebody@somewhere) #1 SMP 2026";

/// What comes before the code.
const HEADER: [u8; 0x1000] = [0; 0x1000];
/// All of the code.
const NOP: [u8; 4] = 0xd503_201f_u32.to_le_bytes();

/// A kernel to be built.
#[derive(Clone, Debug)]
pub struct Image {
    /// Types and names by their offset in the image.
    pub symbols: BTreeMap<u64, Vec<String>>,
    /// In which order the tables are.
    pub layout: Layout,
    /// What is in the relative base.
    pub base: Base,
}

impl Image {
    /// With the symbols that every kernel has.
    pub fn new(layout: Layout) -> Self {
        let mut image = Self {
            symbols: BTreeMap::new(),
            layout,
            base: Base::InPlace,
        };
        image.add(TEXT, "T_stext");
        image.add(END_OF_TEXT, "D_etext");
        image.add(INIT_TEXT, "T_sinittext");
        image.add(INIT_TEXT + 0x1000, "T_einittext");
        image
    }

    /// Adds a symbol; its type is the first letter of its name.
    pub fn add(&mut self, offset: u64, typed_name: &str) {
        self.symbols
            .entry(offset)
            .or_default()
            .push(typed_name.to_string());
    }

    /// Its bytes, linked to run at `address`.
    pub fn bytes(&self, address: u64) -> Vec<u8> {
        let mut out = HEADER.to_vec();
        out.extend(NOP.repeat((TABLES as usize - HEADER.len()) / NOP.len()));
        let first = *self.symbols.keys().next().unwrap();
        let tokens = tokens();
        let names: Vec<&String> = self.symbols.values().flatten().collect();
        let mut compressed = Vec::new();
        let mut markers = Vec::new();
        for (index, name) in names.iter().enumerate() {
            if index % 256 == 0 {
                markers.push(compressed.len() as u32);
            }
            compressed.extend(compress(name, &tokens));
        }
        if self.layout != Layout::Since6_4 {
            self.write_addresses(&mut out, first, address);
        }
        align(&mut out);
        out.extend((names.len() as u32).to_le_bytes());
        align(&mut out);
        out.extend(compressed);
        align(&mut out);
        out.extend(markers.iter().flat_map(|marker| marker.to_le_bytes()));
        align(&mut out);
        if self.layout == Layout::Until6_3 {
            out.extend((0..names.len()).flat_map(|index| [0, (index >> 8) as u8, index as u8]));
            align(&mut out);
        }
        write_tokens(&mut out, &tokens);
        if self.layout == Layout::Since6_4 {
            self.write_addresses(&mut out, first, address);
        }
        out.extend(b"Linux version %s (%s)\n\0");
        out.extend(BANNER.bytes());
        out.extend(b"\n\0");
        align(&mut out);
        out
    }

    fn write_addresses(&self, out: &mut Vec<u8>, first: u64, address: u64) {
        align(out);
        for (offset, names) in &self.symbols {
            for _ in names {
                out.extend(((offset - first) as u32).to_le_bytes());
            }
        }
        align(out);
        let at = out.len() as u64;
        match self.base {
            Base::InPlace => out.extend((address + first).to_le_bytes()),
            Base::Rela => {
                out.extend([0; 8]);
                // The entry is in .rela.dyn, which is elsewhere; here the header has room for it.
                let entry = [address + at, 0x403, address + first].map(u64::to_le_bytes);
                out[0x100..0x118].copy_from_slice(entry.as_flattened());
            }
        }
    }
}

fn align(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(8), 0);
}

/// Every printable character stands for itself; codes above stand for fragments of names.
fn tokens() -> Vec<String> {
    let fragments = [
        "T__arm64_sys_",
        "_read",
        "vfs_",
        "tdo_",
        "sys_",
        "lock",
        "T_s",
        "text",
    ];
    let token = |code: usize| match code {
        0x21..=0x7e => char::from(code as u8).to_string(),
        0x80.. => fragments.get(code - 0x80).unwrap_or(&"").to_string(),
        _ => String::new(),
    };
    (0..256).map(token).collect()
}

fn compress(name: &str, tokens: &[String]) -> Vec<u8> {
    let mut codes = Vec::new();
    let mut rest = name;
    while !rest.is_empty() {
        let fits = |&code: &usize| !tokens[code].is_empty() && rest.starts_with(&tokens[code]);
        let code = (0..256)
            .filter(fits)
            .max_by_key(|&code| tokens[code].len())
            .unwrap();
        rest = &rest[tokens[code].len()..];
        codes.push(code as u8);
    }
    let length = codes.len();
    let prefix = if length < 0x80 {
        vec![length as u8]
    } else {
        vec![(length & 0x7f | 0x80) as u8, (length >> 7) as u8]
    };
    [prefix, codes].concat()
}

fn write_tokens(out: &mut Vec<u8>, tokens: &[String]) {
    let start = out.len();
    let mut index = Vec::new();
    for token in tokens {
        index.extend(((out.len() - start) as u16).to_le_bytes());
        out.extend(token.bytes());
        out.push(0);
    }
    align(out);
    out.extend(index);
}
