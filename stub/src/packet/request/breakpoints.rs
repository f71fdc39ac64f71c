//! Breakpoints and watchpoints: `Z`, `z`.

use super::memory::range;
use super::{Request, UNKNOWN, split_at};
use crate::packet::hex_number;
use alloc::format;

/// `Z` and `z`. Conditions and commands behind a `;` are refused: gdbstub would drop them and say OK.
pub(super) fn breakpoint(body: &[u8]) -> Option<Request> {
    let (verb, rest) = body.split_first()?;
    let (kind, rest) = split_at(rest, b',')?;
    let kind = hex_number(kind)?;
    if kind > 4 {
        return Some(UNKNOWN);
    }
    let (address, size) = range(rest)?;
    let verb = char::from(*verb);
    Some(Request::Stub(
        format!("{verb}{kind:x},{address:x},{size:x}").into_bytes(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::request::tests::stub;
    use crate::packet::request::{MALFORMED, parse};

    #[test]
    fn a_breakpoint_with_a_condition_or_commands_is_refused() {
        assert_eq!(parse(b"Z0,1000,4"), stub("Z0,1000,4"));
        assert_eq!(parse(b"z2,1000,8"), stub("z2,1000,8"));
        assert_eq!(parse(b"Z0,1000,4;X3,220027"), MALFORMED);
        assert_eq!(parse(b"Z0,1000,4;cmds:1,X3,220027"), MALFORMED);
        assert_eq!(parse(b"Z0,1000,4;"), MALFORMED);
        assert_eq!(parse(b"Z9,1000,4"), UNKNOWN);
    }
}
