//! The lines that `nm -n vmlinux` prints: an address in hexadecimal digits, a type letter and a name in each, and behind some
//! names a module's in brackets.

use super::{BadMap, valid_name};

/// Calls `take` for every symbol. Absolute and undefined ones (types `A`, `U`, `w`) are left out: they are no places in
/// the kernel.
pub(super) fn each_symbol<'a>(
    text: &'a [u8],
    mut take: impl FnMut(u64, &'a str) -> Result<(), BadMap>,
) -> Result<(), BadMap> {
    for (index, line) in text.split(|&byte| byte == b'\n').enumerate() {
        let line = line.trim_ascii();
        if line.is_empty() {
            continue;
        }
        if let Some((address, name)) = parse_line(line).ok_or(BadMap::Line(index + 1))? {
            take(address, name)?;
        }
    }
    Ok(())
}

/// The address and name of a line; `Some(None)` for a symbol that is no place.
fn parse_line(line: &[u8]) -> Option<Option<(u64, &str)>> {
    let line = core::str::from_utf8(line).ok()?;
    let mut words = line.split_ascii_whitespace();
    let first = words.next()?;
    // `nm` leaves the address of an undefined symbol out.
    if first.len() == 1 {
        return words.next().map(|_| None);
    }
    let address = u64::from_str_radix(first, 16).ok()?;
    let kind = words.next().filter(|kind| kind.len() == 1)?;
    let name = words.next().filter(|name| valid_name(name))?;
    let is_place = !matches!(kind, "A" | "a" | "U" | "w" | "W");
    Some(is_place.then_some((address, name)))
}
