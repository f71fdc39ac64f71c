//! Breakpoints and watchpoints: `Z`, `z`, and what is to be done where they are hit.

use super::memory::range;
use super::{MALFORMED, Request, UNKNOWN, split_at};
use crate::packet::{hex_decode, hex_number};
use alloc::format;
use alloc::vec::Vec;
use probes::space::Lifetime;

/// What a client wants done where a breakpoint is hit, in the bytecode of agent expressions (GDB manual E.2, `Z0`;
/// appendix F).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Wishes {
    /// The first that is true stops.
    pub(crate) conditions: Vec<Vec<u8>>,
    /// All are run, and then the guest goes on.
    pub(crate) commands: Vec<Vec<u8>>,
    /// Whether the commands are run where the client has gone.
    pub(crate) lifetime: Lifetime,
}

/// `Z` and `z`. gdbstub knows nothing of what may be behind a `;`.
pub(super) fn breakpoint(body: &[u8]) -> Option<Request> {
    let (verb, rest) = body.split_first()?;
    let (kind, rest) = split_at(rest, b',')?;
    let kind = hex_number(kind)?;
    if kind > 4 {
        return Some(UNKNOWN);
    }
    let (place, wishes) = match split_at(rest, b';') {
        Some((place, wishes)) => (place, Some(wishes)),
        None => (rest, None),
    };
    let (address, size) = range(place)?;
    let verb = char::from(*verb);
    let packet = format!("{verb}{kind:x},{address:x},{size:x}").into_bytes();
    Some(match wishes {
        None => Request::Stub(packet),
        Some(_) if verb == 'z' => MALFORMED,
        Some(list) => match wishes_in(list) {
            Ok(wishes) => Request::Breakpoint { packet, wishes },
            Err(what) => Request::Explained(what),
        },
    })
}

/// `X<length>,<digits>…` and `cmds:<persist>,X<length>,<digits>…`, with a `;` between them.
fn wishes_in(list: &[u8]) -> Result<Wishes, &'static str> {
    let mut wishes = Wishes {
        conditions: Vec::new(),
        commands: Vec::new(),
        lifetime: Lifetime::Client,
    };
    for part in list.split(|byte| *byte == b';') {
        let Some(rest) = part.strip_prefix(b"cmds:") else {
            expressions(part, &mut wishes.conditions)?;
            continue;
        };
        let (persist, commands) = split_at(rest, b',').ok_or("cmds: has no commands")?;
        wishes.lifetime = match hex_number(persist) {
            Some(0) => Lifetime::Client,
            Some(_) => Lifetime::Space,
            None => return Err("cmds: does not say whether the commands persist"),
        };
        expressions(commands, &mut wishes.commands)?;
    }
    Ok(wishes)
}

/// `X<length>,<digits>`, at least one.
fn expressions(list: &[u8], into: &mut Vec<Vec<u8>>) -> Result<(), &'static str> {
    let mut rest = list;
    loop {
        let after = rest.strip_prefix(b"X");
        let (length, after) = after
            .and_then(|after| split_at(after, b','))
            .ok_or("an agent expression does not begin with X<length>,")?;
        let length = hex_number(length).ok_or("the length of an agent expression is no number")?;
        let digits = usize::try_from(length)
            .ok()
            .and_then(|it| it.checked_mul(2));
        let (digits, behind) = digits
            .and_then(|digits| after.split_at_checked(digits))
            .ok_or("an agent expression is shorter than it says")?;
        into.push(hex_decode(digits).ok_or("an agent expression is not in hexadecimal digits")?);
        if behind.is_empty() {
            return Ok(());
        }
        rest = behind;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::request::parse;
    use crate::packet::request::tests::stub;
    use alloc::vec;

    fn wishes(body: &[u8]) -> Wishes {
        match parse(body) {
            Request::Breakpoint { packet, wishes } => {
                assert_eq!(packet, b"Z0,1000,4");
                wishes
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn plain_breakpoints_are_gdbstubs() {
        assert_eq!(parse(b"Z0,1000,4"), stub("Z0,1000,4"));
        assert_eq!(parse(b"z2,1000,8"), stub("z2,1000,8"));
        assert_eq!(parse(b"Z9,1000,4"), UNKNOWN);
        assert_eq!(parse(b"z0,1000,4;X3,220027"), MALFORMED);
    }

    #[test]
    fn conditions_and_commands_are_taken_apart() {
        let code = |byte| vec![0x22, byte, 0x27];
        let one = wishes(b"Z0,1000,4;X3,220027");
        assert_eq!(one.conditions, [code(0)]);
        let all = wishes(b"Z0,1000,4;X3,220027X3,220127;cmds:1,X3,220227X3,220327");
        assert_eq!(all.conditions, [code(0), code(1)]);
        assert_eq!(all.commands, [code(2), code(3)]);
        assert_eq!(all.lifetime, Lifetime::Space);
        let commands = wishes(b"Z0,1000,4;cmds:0,X3,220227");
        assert_eq!(commands.lifetime, Lifetime::Client);
        assert!(commands.conditions.is_empty());
    }

    #[test]
    fn what_is_malformed_is_named() {
        let cases: &[(&[u8], &str)] = &[
            (b"", "an agent expression does not begin with X<length>,"),
            (
                b"Y3,220027",
                "an agent expression does not begin with X<length>,",
            ),
            (
                b"X,220027",
                "the length of an agent expression is no number",
            ),
            (b"X4,220027", "an agent expression is shorter than it says"),
            (
                b"Xffffffffffffffff,220027",
                "an agent expression is shorter than it says",
            ),
            (
                b"X3,22002g",
                "an agent expression is not in hexadecimal digits",
            ),
            (
                b"X2,220027",
                "an agent expression does not begin with X<length>,",
            ),
            (b"cmds:1", "cmds: has no commands"),
            (
                b"cmds:,X1,27",
                "cmds: does not say whether the commands persist",
            ),
            (
                b"X1,27;",
                "an agent expression does not begin with X<length>,",
            ),
        ];
        for (list, what) in cases {
            let body = [b"Z0,1000,4;", *list].concat();
            assert_eq!(parse(&body), Request::Explained(what));
        }
    }
}
