//! The texts that `printf` prints by.

use super::MAX_ARGUMENTS;
use crate::helper::{BadFormat, MAX_PRINT, check_printf};
use crate::map::{MapDef, MapKind, Mutability};
use alloc::vec::Vec;

/// The formats of a program, in the one map that it has.
#[derive(Default)]
pub(super) struct Texts(Vec<u8>);

impl Texts {
    /// The number of the map.
    pub(super) const MAP: i32 = 0;

    /// Adds a format as it stands in the source of a program in C, and returns where it is in the map and its length with
    /// the NUL. It has to print as many values as there are.
    pub(super) fn add(
        &mut self,
        source: &[u8],
        values: usize,
    ) -> Result<(usize, usize), BadFormat> {
        let source = source.strip_suffix(b"\0").ok_or(BadFormat::NoEnd)?;
        let mut text = unescape(source)?;
        if text.len() >= MAX_PRINT {
            return Err(BadFormat::TooLong);
        }
        let wanted = check_printf(&text)?;
        if wanted != values {
            return Err(BadFormat::Values { wanted, values });
        }
        debug_assert!(values <= MAX_ARGUMENTS);
        text.push(0);
        let start = self.0.len();
        self.0.extend_from_slice(&text);
        Ok((start, text.len()))
    }

    /// The map, where there is any text.
    pub(super) fn into_map(self) -> Option<MapDef> {
        (!self.0.is_empty()).then(|| MapDef {
            name: ".rodata".into(),
            kind: MapKind::Array,
            key_size: 4,
            value_size: self.0.len() as u32,
            max_entries: 1,
            mutability: Mutability::Frozen,
            initial: self.0,
        })
    }
}

/// Replaces the escapes that GDB has (GDB manual, 23.4 "Commands for Controlled Output", `printf`).
fn unescape(source: &[u8]) -> Result<Vec<u8>, BadFormat> {
    let mut text = Vec::with_capacity(source.len() + 1);
    let mut rest = source;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte == 0 {
            return Err(BadFormat::NoEnd);
        }
        if byte != b'\\' {
            text.push(byte);
            continue;
        }
        let (&letter, after) = rest.split_first().ok_or(BadFormat::Escape(b'\\'))?;
        rest = after;
        text.push(match letter {
            b'\\' | b'"' | b'\'' => letter,
            b'a' => 0x07,
            b'b' => 0x08,
            b'e' => 0x1b,
            b'f' => 0x0c,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'v' => 0x0b,
            _ => return Err(BadFormat::Escape(letter)),
        });
    }
    Ok(text)
}
