//! The types of fields.

use alloc::format;
use alloc::string::{String, ToString};

/// One field of a tracepoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Field {
    /// A C identifier.
    pub name: &'static str,
    /// What its 64 bits mean.
    pub kind: FieldKind,
    /// What it tells.
    pub summary: &'static str,
}

/// What the 64 bits of a field mean.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FieldKind {
    /// A number, unsigned.
    Unsigned,
    /// A number, two's complement.
    Signed,
    /// A number that is read in hexadecimal: an address, a register.
    Hex,
    /// One of these, by its index.
    Names(&'static [&'static str]),
    /// Up to eight bytes of text, the first in the lowest byte, zeros behind it.
    Text,
}

impl FieldKind {
    /// As users read the type.
    pub fn name(self) -> String {
        match self {
            Self::Unsigned => "u64".to_string(),
            Self::Signed => "s64".to_string(),
            Self::Hex => "hex".to_string(),
            Self::Names(names) => names.join("|"),
            Self::Text => "text".to_string(),
        }
    }

    /// As users read a value.
    pub fn show(self, value: u64) -> String {
        match self {
            Self::Unsigned => value.to_string(),
            Self::Signed => (value as i64).to_string(),
            Self::Hex => format!("{value:#x}"),
            Self::Names(names) => {
                let name = usize::try_from(value)
                    .ok()
                    .and_then(|index| names.get(index));
                name.map_or_else(|| value.to_string(), |name| (*name).to_string())
            }
            Self::Text => {
                let bytes = value.to_le_bytes();
                let text = String::from_utf8_lossy(&bytes);
                format!("{:?}", text.trim_end_matches('\0'))
            }
        }
    }

    /// Text as a field has it: the first eight bytes of `text`.
    pub fn text(text: &[u8]) -> u64 {
        let mut bytes = [0; 8];
        let length = text.len().min(bytes.len());
        bytes[..length].copy_from_slice(&text[..length]);
        u64::from_le_bytes(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_as_users_read_them() {
        let names = FieldKind::Names(&["read", "write"]);
        assert_eq!(FieldKind::Unsigned.show(u64::MAX), "18446744073709551615");
        assert_eq!(FieldKind::Signed.show(u64::MAX), "-1");
        assert_eq!(FieldKind::Hex.show(0x1f), "0x1f");
        assert_eq!((names.show(1), names.show(2)), ("write".into(), "2".into()));
        assert_eq!(names.name(), "read|write");
        assert_eq!(
            FieldKind::Text.show(FieldKind::text(b"vm list")),
            "\"vm list\""
        );
        assert_eq!(
            FieldKind::Text.show(FieldKind::text(b"trace list")),
            "\"trace li\""
        );
        assert_eq!(FieldKind::Text.show(0), "\"\"");
    }
}
