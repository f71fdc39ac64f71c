//! Structures in records, by how C lays them out.
//!
//! A tool's records are structures of its own header, of which the object says nothing: `u64 ts, u32 pid, char[16]
//! task`.

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value};

/// A type of C.
#[derive(Clone, Copy)]
struct Type {
    size: usize,
    is_signed: bool,
    /// Elements of an array.
    count: Option<usize>,
    is_text: bool,
}

impl Type {
    fn parse(word: &str) -> Result<Self> {
        let (name, count) = match word.split_once('[') {
            Some((name, rest)) => {
                let count = rest.trim_end_matches(']').parse();
                (name, Some(count.with_context(|| word.to_owned())?))
            }
            None => (word, None),
        };
        let (size, is_signed) = match name {
            "u8" | "char" => (1, false),
            "u16" => (2, false),
            "u32" => (4, false),
            "u64" => (8, false),
            "i32" => (4, true),
            "i64" => (8, true),
            _ => bail!("{word} is no type"),
        };
        Ok(Self {
            size,
            is_signed,
            count,
            is_text: name == "char",
        })
    }

    fn bytes(self) -> usize {
        self.size * self.count.unwrap_or(1)
    }

    fn decode(self, bytes: &[u8]) -> Value {
        if self.is_text {
            let text = bytes.split(|&byte| byte == 0).next();
            return String::from_utf8_lossy(text.unwrap_or_default()).into();
        }
        let number = |bytes: &[u8]| {
            let negative = self.is_signed && bytes.last().is_some_and(|byte| byte & 0x80 != 0);
            let mut word = [if negative { 0xff } else { 0 }; 8];
            word[..self.size].copy_from_slice(bytes);
            if self.is_signed {
                Value::from(i64::from_le_bytes(word))
            } else {
                Value::from(u64::from_le_bytes(word))
            }
        };
        match self.count {
            None => number(bytes),
            Some(_) => bytes.chunks_exact(self.size).map(number).collect(),
        }
    }
}

/// The structure that bytes are.
pub(crate) fn decode(layout: &str, bytes: &[u8]) -> Result<Value> {
    let mut members = Map::new();
    let mut at = 0_usize;
    for member in layout.split(", ") {
        let (ty, name) = member
            .split_once(' ')
            .with_context(|| format!("{member} has no name"))?;
        let ty = Type::parse(ty)?;
        at = at.next_multiple_of(ty.size);
        let part = bytes.get(at..at + ty.bytes());
        let part = part.with_context(|| format!("{} bytes end before {member}", bytes.len()))?;
        members.insert(name.to_owned(), ty.decode(part));
        at += ty.bytes();
    }
    Ok(members.into())
}
