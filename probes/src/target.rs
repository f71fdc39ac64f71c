//! What a user points at: an address or a symbol of a space.

use crate::addr::Gva;
use alloc::string::{String, ToString};
use core::fmt;

/// A place in the code of a space, as a user names it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Target {
    /// An address.
    Address(Gva),
    /// A symbol, and how many bytes into it.
    Symbol {
        /// The symbol's name.
        name: String,
        /// Bytes from the symbol.
        offset: u64,
    },
}

/// Text that names no place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BadTarget(String);

impl fmt::Display for BadTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} is neither an address (0xffff800080012340) nor a \
             symbol (vfs_read, vfs_read+0x10)",
            self.0
        )
    }
}

impl core::error::Error for BadTarget {}

impl Target {
    /// Whether symbols are needed to find it.
    pub fn is_symbol(&self) -> bool {
        matches!(self, Self::Symbol { .. })
    }

    /// The name of the space before the `:` of `vm1:vfs_read`, and the place behind it. The `::` of a path separates
    /// nothing.
    pub fn split_space(text: &str) -> (Option<&str>, &str) {
        match text.split_once(':') {
            Some((space, rest)) if !rest.starts_with(':') => (Some(space), rest),
            _ => (None, text),
        }
    }

    /// The module and the function of `virtio_net:virtnet_open`. The `::` of a path separates nothing.
    pub fn split_module(name: &str) -> Option<(&str, &str)> {
        match Self::split_space(name) {
            (Some(module), function) if !function.contains(':') => Some((module, function)),
            _ => None,
        }
    }

    /// Reads `0x…`, a decimal number, `symbol`, `symbol+0x10` or `symbol+16`, without a space's
    /// name.
    pub fn parse(text: &str) -> Result<Self, BadTarget> {
        let bad = || BadTarget(text.to_string());
        if text.starts_with(|c: char| c.is_ascii_digit()) {
            return number(text)
                .map(|address| Self::Address(Gva(address)))
                .ok_or_else(bad);
        }
        let (name, offset) = match text.split_once('+') {
            Some((name, offset)) => (name, number(offset).ok_or_else(bad)?),
            None => (text, 0),
        };
        // The second row: Rust's paths.
        let valid = |c: char| {
            c.is_ascii_alphanumeric()
                || matches!(c, '_' | '.' | '$')
                || matches!(
                    c,
                    ':' | '<' | '>' | '{' | '}' | '#' | ',' | '&' | '*' | '[' | ']'
                )
        };
        if name.is_empty() || !name.chars().all(valid) {
            return Err(bad());
        }
        Ok(Self::Symbol {
            name: name.to_string(),
            offset,
        })
    }
}

fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) if !digits.starts_with('+') => u64::from_str_radix(digits, 16).ok(),
        Some(_) => None,
        None if text.starts_with('+') => None,
        None => text.parse().ok(),
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => write!(f, "{address}"),
            Self::Symbol { name, offset: 0 } => f.write_str(name),
            Self::Symbol { name, offset } => write!(f, "{name}+{offset:#x}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn symbol(name: &str, offset: u64) -> Target {
        Target::Symbol {
            name: name.to_string(),
            offset,
        }
    }

    #[test]
    fn addresses_and_symbols() {
        let parse = |text| Target::parse(text).unwrap();
        assert_eq!(
            parse("0xffff800080012340"),
            Target::Address(Gva(0xffff_8000_8001_2340))
        );
        assert_eq!(parse("4096"), Target::Address(Gva(4096)));
        assert_eq!(parse("vfs_read"), symbol("vfs_read", 0));
        assert_eq!(parse("vfs_read+0x10"), symbol("vfs_read", 16));
        assert_eq!(parse("f.isra.0+8"), symbol("f.isra.0", 8));
    }

    #[test]
    fn spaces() {
        assert_eq!(Target::split_space("vm1:f+4"), (Some("vm1"), "f+4"));
        assert_eq!(Target::split_space("hyp:a::b"), (Some("hyp"), "a::b"));
        assert_eq!(Target::split_space("a::b"), (None, "a::b"));
        assert_eq!(Target::split_space("f"), (None, "f"));
        assert_eq!(Target::split_space(":f"), (Some(""), "f"));
    }

    #[test]
    fn what_is_neither() {
        let bad = [
            "", "+4", "f+", "f+x", "f+0x", "f+-1", "f++1", "f+0x+1", "0x", "0x1g", "1f", "a b",
        ];
        for text in bad {
            assert!(Target::parse(text).is_err(), "{text}");
        }
        assert!(Target::parse("0x10000000000000000").is_err());
    }

    proptest! {
        #[test]
        fn any_text_parses_or_is_refused(text in ".*") {
            if let Ok(target) = Target::parse(&text) {
                prop_assert_eq!(Target::parse(&target.to_string()), Ok(target));
            }
        }
    }
}
