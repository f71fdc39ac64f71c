//! GDB tracepoints (GDB manual, E.6 "Tracepoint Packets").

use super::memory::MAX_READ;
use super::{Request, UNKNOWN, split_at};
use crate::packet::{hex_decode, hex_number};
use alloc::string::String;
use alloc::vec::Vec;
use core::ops::RangeInclusive;
use probes::addr::Gva;
use probes::gdb_trace::{
    Action, Definition, Leaving, Moment, More, Origin, PointId, PointKind, Saying, Search, Shape,
    Switch, VariableDefinition,
};

/// The last register that memory can be collected relative to: x0 to x30, SP and PC come first in GDB's numbers and in
/// [`probes::regs::CoreRegs::as_words`].
const LAST_BASE: u64 = 32;

/// What a client asks of a trace experiment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Tracing {
    /// `QTinit`.
    Init,
    /// `QTDP`: a definition.
    Define(Definition, More),
    /// `QTDP:-`: its actions, and their text.
    Actions {
        /// Of which.
        id: PointId,
        /// `S` in front of them.
        moment: Moment,
        /// As it came.
        text: Vec<u8>,
        /// What it means.
        actions: Vec<Action>,
        /// Whether there are more.
        more: More,
    },
    /// `QTDPsrc`: a piece of source, as it came.
    Source(PointId, Vec<u8>),
    /// `QTDV`.
    Variable(VariableDefinition),
    /// `QTro`.
    ReadOnly(Vec<RangeInclusive<Gva>>),
    /// `QTStart`.
    Start,
    /// `QTStop`.
    Stop,
    /// `QTEnable` and `QTDisable`.
    Switch(PointId, Switch),
    /// `QTBuffer:circular`.
    Shape(Shape),
    /// `QTBuffer:size`.
    Size(Option<u64>),
    /// `QTDisconnected`.
    Disconnected(Leaving),
    /// `QTNotes`.
    Notes(Vec<Note>),
    /// `qTStatus`.
    Status,
    /// `qTP`.
    Point(PointId),
    /// `qTV`.
    Value(u32),
    /// `QTFrame`; `None`: the present.
    Frame(Option<Search>),
    /// `qTBuffer`: offset and length.
    Buffer(u64, u64),
    /// `qTfP`, `qTfV`, `qTfSTM`.
    First(Listed),
    /// `qTsP`, `qTsV`, `qTsSTM`.
    Next(Listed),
    /// `qTSTMat`.
    MarkerAt(Gva),
    /// `qXfer:traceframe-info:read`.
    FrameInfo((u64, u64)),
    /// `qXfer:statictrace:read`.
    StaticData((u64, u64)),
    /// Cannot be honoured, for this reason.
    Refused(&'static str),
}

impl Tracing {
    /// Whether it can be answered while the vCPUs run: it looks at no frame.
    pub(crate) const fn needs_no_stop(&self) -> bool {
        matches!(
            self,
            Self::Status
                | Self::Point(_)
                | Self::Value(_)
                | Self::Stop
                | Self::Switch(..)
                | Self::Notes(_)
                | Self::Disconnected(_)
                | Self::Refused(_)
        )
    }
}

/// What can be listed piece by piece.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Listed {
    /// Tracepoints.
    Points,
    /// Trace state variables.
    Variables,
    /// Static tracepoint markers.
    Markers,
}

/// One of the texts of `QTNotes`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Note {
    /// Who.
    User(String),
    /// What about.
    Notes(String),
    /// Why it was stopped.
    Stop(String),
}

const MALFORMED: &str = "a malformed tracepoint packet";
const FAST: &str = "fast tracepoints are not there: a `trace` at the same place collects the same, without the target's \
    code being patched";
const SAVE: &str =
    "the target has no files of its own: `tsave FILE` without -r brings the data to the host";
const BASE: &str = "memory can be collected relative to x0 to x30, sp and pc";

/// The packets that begin with `QT`.
pub(super) fn set(body: &[u8]) -> Request {
    let (name, rest) = split_at(body, b':').unwrap_or((body, b""));
    let parsed = match name {
        b"QTinit" => Some(Tracing::Init),
        b"QTDP" => Some(define(rest)),
        b"QTDPsrc" => source(rest),
        b"QTDV" => variable(rest),
        b"QTro" => regions(rest),
        b"QTStart" => Some(Tracing::Start),
        b"QTStop" => Some(Tracing::Stop),
        b"QTEnable" => point(rest).map(|id| Tracing::Switch(id, Switch::Enabled)),
        b"QTDisable" => point(rest).map(|id| Tracing::Switch(id, Switch::Disabled)),
        b"QTBuffer" => buffer(rest),
        b"QTDisconnected" => flag(rest).map(|goes_on| {
            Tracing::Disconnected(match goes_on {
                Flag::Set => Leaving::GoesOn,
                Flag::Clear => Leaving::Ends,
            })
        }),
        b"QTNotes" => notes(rest),
        b"QTFrame" => frame(rest),
        b"QTSave" => Some(Tracing::Refused(SAVE)),
        _ => return UNKNOWN,
    };
    Request::Tracing(parsed.unwrap_or(Tracing::Refused(MALFORMED)))
}

/// The packets that begin with `qT`, whose name is `name`; `None` where it is none of ours.
pub(super) fn query(name: &[u8], rest: &[u8]) -> Option<Request> {
    let parsed = match name {
        b"qTStatus" => Some(Tracing::Status),
        b"qTP" => point(rest).map(Tracing::Point),
        b"qTV" => number(rest).map(Tracing::Value),
        b"qTBuffer" => window(rest).map(|(offset, length)| Tracing::Buffer(offset, length)),
        b"qTfP" => Some(Tracing::First(Listed::Points)),
        b"qTsP" => Some(Tracing::Next(Listed::Points)),
        b"qTfV" => Some(Tracing::First(Listed::Variables)),
        b"qTsV" => Some(Tracing::Next(Listed::Variables)),
        b"qTfSTM" => Some(Tracing::First(Listed::Markers)),
        b"qTsSTM" => Some(Tracing::Next(Listed::Markers)),
        b"qTSTMat" => hex_number(rest).map(|address| Tracing::MarkerAt(Gva(address))),
        _ => return None,
    };
    Some(Request::Tracing(
        parsed.unwrap_or(Tracing::Refused(MALFORMED)),
    ))
}

/// `offset,length`.
pub(super) fn window(bytes: &[u8]) -> Option<(u64, u64)> {
    let (offset, length) = split_at(bytes, b',')?;
    Some((hex_number(offset)?, hex_number(length)?.min(MAX_READ)))
}

fn number(digits: &[u8]) -> Option<u32> {
    u32::try_from(hex_number(digits)?).ok()
}

/// `number:address`.
fn point(bytes: &[u8]) -> Option<PointId> {
    let (number_digits, address) = split_at(bytes, b':')?;
    Some(PointId {
        number: number(number_digits)?,
        address: Gva(hex_number(address)?),
    })
}

/// `number:address:`, and what follows.
fn point_and_rest(bytes: &[u8]) -> Option<(PointId, &[u8])> {
    let (number_digits, rest) = split_at(bytes, b':')?;
    let (address, rest) = split_at(rest, b':')?;
    let id = PointId {
        number: number(number_digits)?,
        address: Gva(hex_number(address)?),
    };
    Some((id, rest))
}

/// Takes the `-` off that promises another packet.
fn promise(bytes: &[u8]) -> (&[u8], More) {
    match bytes.strip_suffix(b"-") {
        Some(rest) => (rest, More::Follows),
        None => (bytes, More::Nothing),
    }
}

/// `QTDP`.
fn define(bytes: &[u8]) -> Tracing {
    match bytes.strip_prefix(b"-") {
        Some(rest) => actions(rest).unwrap_or_else(Tracing::Refused),
        None => definition(bytes).unwrap_or_else(Tracing::Refused),
    }
}

/// `number:address:E|D:steps:passes[:F length][:S][:X length,bytes][-]`.
fn definition(bytes: &[u8]) -> Result<Tracing, &'static str> {
    let (bytes, more) = promise(bytes);
    let (id, rest) = point_and_rest(bytes).ok_or(MALFORMED)?;
    let mut fields = rest.split(|byte| *byte == b':');
    let mut next = || fields.next().ok_or(MALFORMED);
    let switch = match next()? {
        b"E" => Switch::Enabled,
        b"D" => Switch::Disabled,
        _ => return Err(MALFORMED),
    };
    let steps = hex_number(next()?).ok_or(MALFORMED)?;
    let passes = hex_number(next()?).ok_or(MALFORMED)?;
    let mut definition = Definition {
        id,
        switch,
        kind: PointKind::Code,
        steps,
        passes,
        condition: None,
        actions: Vec::new(),
        sayings: Vec::new(),
    };
    for field in fields {
        match field {
            [b'F', ..] => return Err(FAST),
            b"S" => definition.kind = PointKind::Marker,
            [b'X', expression @ ..] => {
                let (code, rest) = expression_and_rest(expression).ok_or(MALFORMED)?;
                if !rest.is_empty() {
                    return Err(MALFORMED);
                }
                definition.condition = Some(code);
            }
            _ => return Err(MALFORMED),
        }
    }
    Ok(Tracing::Define(definition, more))
}

/// `number:address:[S]action…[-]`.
fn actions(bytes: &[u8]) -> Result<Tracing, &'static str> {
    let (bytes, more) = promise(bytes);
    let (id, rest) = point_and_rest(bytes).ok_or(MALFORMED)?;
    let (text, moment) = match rest.strip_prefix(b"S") {
        Some(rest) => (rest, Moment::Step),
        None => (rest, Moment::Hit),
    };
    let mut actions = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (action, more) = action_and_rest(rest)?;
        actions.push(action);
        rest = more;
    }
    Ok(Tracing::Actions {
        id,
        moment,
        text: text.to_vec(),
        actions,
        more,
    })
}

/// `R mask`, `M base,offset,length`, `X length,bytes`, and `L`, which is not in the manual: GDB sends it for
/// `collect $_sdata`.
fn action_and_rest(bytes: &[u8]) -> Result<(Action, &[u8]), &'static str> {
    match bytes {
        [b'R', rest @ ..] => {
            let (mask, rest) = digits_and_rest(rest);
            if mask.is_empty() {
                return Err(MALFORMED);
            }
            Ok((Action::Registers, rest))
        }
        [b'M', rest @ ..] => memory_and_rest(rest),
        [b'X', rest @ ..] => {
            let (code, rest) = expression_and_rest(rest).ok_or(MALFORMED)?;
            Ok((Action::Expression(code), rest))
        }
        [b'L', rest @ ..] => Ok((Action::Static, rest)),
        _ => Err(MALFORMED),
    }
}

fn memory_and_rest(bytes: &[u8]) -> Result<(Action, &[u8]), &'static str> {
    let (base, rest) = split_at(bytes, b',').ok_or(MALFORMED)?;
    let (offset, rest) = split_at(rest, b',').ok_or(MALFORMED)?;
    let (length, rest) = digits_and_rest(rest);
    let base = match base {
        b"-1" | b"FFFFFFFF" | b"ffffffff" => None,
        digits => {
            let number = hex_number(digits).ok_or(MALFORMED)?;
            let known = u8::try_from(number).ok();
            Some(known.filter(|_| number <= LAST_BASE).ok_or(BASE)?)
        }
    };
    let action = Action::Memory {
        base,
        offset: hex_number(offset).ok_or(MALFORMED)?,
        length: number(length).ok_or(MALFORMED)?,
    };
    Ok((action, rest))
}

/// The hexadecimal digits at the beginning, and what follows.
fn digits_and_rest(bytes: &[u8]) -> (&[u8], &[u8]) {
    let end = bytes.iter().position(|byte| !byte.is_ascii_hexdigit());
    bytes.split_at(end.unwrap_or(bytes.len()))
}

/// `length,bytes` of an agent expression, and what follows.
fn expression_and_rest(bytes: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let (length, rest) = split_at(bytes, b',')?;
    let digits = usize::try_from(hex_number(length)?).ok()?.checked_mul(2)?;
    let (code, rest) = rest.split_at_checked(digits)?;
    Some((hex_decode(code)?, rest))
}

/// `number:address:type:start:length:bytes`. All of it goes to the next client as it came.
fn source(bytes: &[u8]) -> Option<Tracing> {
    let (id, rest) = point_and_rest(bytes)?;
    let fields = rest.split(|byte| *byte == b':').count();
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b':';
    (fields == 4 && rest.iter().all(is_plain)).then(|| Tracing::Source(id, rest.to_vec()))
}

/// `number:value:builtin:name`.
fn variable(bytes: &[u8]) -> Option<Tracing> {
    let mut fields = bytes.split(|byte| *byte == b':');
    let number = number(fields.next()?)?;
    let initial = hex_number(fields.next()?)? as i64;
    let origin = match hex_number(fields.next()?)? {
        0 => Origin::Client,
        _ => Origin::Target,
    };
    let name = text(fields.next()?)?;
    Some(Tracing::Variable(VariableDefinition {
        number,
        initial,
        origin,
        name,
    }))
}

/// Text in hexadecimal.
fn text(digits: &[u8]) -> Option<String> {
    String::from_utf8(hex_decode(digits)?).ok()
}

/// `start,end:start,end…`; the end is the first address behind.
fn regions(bytes: &[u8]) -> Option<Tracing> {
    let region = |region: &[u8]| {
        let (start, end) = split_at(region, b',')?;
        let (start, end) = (hex_number(start)?, hex_number(end)?);
        Some(Gva(start)..=Gva(end.checked_sub(1)?))
    };
    let regions = bytes.split(|byte| *byte == b':').map(region);
    Some(Tracing::ReadOnly(regions.collect::<Option<_>>()?))
}

/// What a packet switches on or off.
enum Flag {
    Set,
    Clear,
}

fn flag(digits: &[u8]) -> Option<Flag> {
    match hex_number(digits)? {
        0 => Some(Flag::Clear),
        1 => Some(Flag::Set),
        _ => None,
    }
}

/// `circular:flag` or `size:bytes`, of which -1 means the target's choice.
fn buffer(bytes: &[u8]) -> Option<Tracing> {
    let (what, value) = split_at(bytes, b':')?;
    match (what, value) {
        (b"circular", value) => flag(value).map(|flag| {
            Tracing::Shape(match flag {
                Flag::Set => Shape::Circular,
                Flag::Clear => Shape::Linear,
            })
        }),
        (b"size", b"-1") => Some(Tracing::Size(None)),
        (b"size", size) => Some(Tracing::Size(Some(hex_number(size)?))),
        _ => None,
    }
}

/// `kind:text;kind:text;…`.
fn notes(bytes: &[u8]) -> Option<Tracing> {
    let note = |note: &[u8]| {
        let (kind, digits) = split_at(note, b':')?;
        let text = text(digits)?;
        match kind {
            b"user" => Some(Note::User(text)),
            b"notes" => Some(Note::Notes(text)),
            b"tstop" => Some(Note::Stop(text)),
            _ => None,
        }
    };
    let notes = bytes.split(|byte| *byte == b';');
    let notes = notes.filter(|note| !note.is_empty()).map(note);
    Some(Tracing::Notes(notes.collect::<Option<_>>()?))
}

/// `QTFrame`: GDB writes -1 as a number of 32 bits.
fn frame(bytes: &[u8]) -> Option<Tracing> {
    let addresses = |bytes: &[u8]| {
        let (start, end) = split_at(bytes, b':')?;
        Some(Gva(hex_number(start)?)..=Gva(hex_number(end)?))
    };
    let search = match split_at(bytes, b':') {
        None => match bytes {
            b"-1" => return Some(Tracing::Frame(None)),
            digits => match hex_number(digits)? {
                0xffff_ffff => return Some(Tracing::Frame(None)),
                number => Search::Number(number),
            },
        },
        Some((b"pc", pc)) => Search::Pc(Gva(hex_number(pc)?)),
        Some((b"tdp", digits)) => Search::Tracepoint(number(digits)?),
        Some((b"range", range)) => Search::Inside(addresses(range)?),
        Some((b"outside", range)) => Search::Outside(addresses(range)?),
        Some(_) => return None,
    };
    Some(Tracing::Frame(Some(search)))
}

/// Keeps what GDB says of a tracepoint's source in a definition.
pub(crate) fn spell(saying: &Saying) -> (char, &[u8]) {
    match saying {
        Saying::Actions(Moment::Hit, text) => ('A', text),
        Saying::Actions(Moment::Step, text) => ('S', text),
        Saying::Source(text) => ('Z', text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::request::parse;
    use alloc::string::ToString;
    use proptest::prelude::*;

    fn tracing(body: &str) -> Tracing {
        match parse(body.as_bytes()) {
            Request::Tracing(tracing) => tracing,
            other => panic!("{body}: {other:?}"),
        }
    }

    const POINT: PointId = PointId {
        number: 1,
        address: Gva(0x4000_0014),
    };

    #[test]
    fn definitions() {
        let expected = Definition {
            id: POINT,
            switch: Switch::Enabled,
            kind: PointKind::Code,
            steps: 0,
            passes: 0x10,
            condition: None,
            actions: Vec::new(),
            sayings: Vec::new(),
        };
        assert_eq!(
            tracing("QTDP:1:0000000040000014:E:0:10-"),
            Tracing::Define(expected.clone(), More::Follows)
        );
        let stepping = Definition {
            switch: Switch::Disabled,
            kind: PointKind::Marker,
            steps: 5,
            passes: 0,
            condition: Some([0x22, 0, 0x27].to_vec()),
            ..expected
        };
        assert_eq!(
            tracing("QTDP:1:40000014:D:5:0:S:X3,220027"),
            Tracing::Define(stepping, More::Nothing)
        );
        assert_eq!(tracing("QTDP:1:40000014:E:0:0:F4"), Tracing::Refused(FAST));
        for malformed in [
            "QTDP",
            "QTDP:",
            "QTDP:1:40000014",
            "QTDP:1:40000014:X:0:0",
            "QTDP:1:40000014:E:0",
            "QTDP:1:40000014:E:0:0:",
            "QTDP:1:40000014:E:0:0:Q",
            "QTDP:1:40000014:E:0:0:X4,220027",
            "QTDP:1:40000014:E:0:0:X3,22002777",
            "QTDP:100000000:40000014:E:0:0",
            "QTDP:1:10000000000000000:E:0:0",
        ] {
            assert_eq!(
                tracing(malformed),
                Tracing::Refused(MALFORMED),
                "{malformed}"
            );
        }
    }

    #[test]
    fn actions_of_all_kinds() {
        let Tracing::Actions {
            id,
            moment,
            text,
            actions,
            more,
        } = tracing(
            "QTDP:-1:0000000040000014:SR3FFFFFFFFFM-1,ffff000012345678,8M1D,fffffffffffffff0,10X00000003,220027L-",
        )
        else {
            panic!("they are actions");
        };
        assert_eq!((id, moment, more), (POINT, Moment::Step, More::Follows));
        assert!(text.starts_with(b"R3F") && text.ends_with(b"27L"));
        assert_eq!(
            actions,
            [
                Action::Registers,
                Action::Memory {
                    base: None,
                    offset: 0xffff_0000_1234_5678,
                    length: 8
                },
                Action::Memory {
                    base: Some(29),
                    offset: -16_i64 as u64,
                    length: 16
                },
                Action::Expression([0x22, 0, 0x27].to_vec()),
                Action::Static,
            ]
        );
        assert_eq!(tracing("QTDP:-1:40000014:M22,0,8"), Tracing::Refused(BASE));
        for malformed in [
            "R",
            "M",
            "M1",
            "M1,2",
            "M1,2,",
            "M1,2,100000000",
            "X",
            "X3,22",
            "E",
            "R1Q",
        ] {
            let body = alloc::format!("QTDP:-1:40000014:{malformed}");
            assert_eq!(tracing(&body), Tracing::Refused(MALFORMED), "{body}");
        }
    }

    #[test]
    fn frames_in_every_form() {
        let wanted = |search| Tracing::Frame(Some(search));
        assert_eq!(tracing("QTFrame:ffffffff"), Tracing::Frame(None));
        assert_eq!(tracing("QTFrame:-1"), Tracing::Frame(None));
        assert_eq!(tracing("QTFrame:a"), wanted(Search::Number(10)));
        assert_eq!(tracing("QTFrame:pc:40"), wanted(Search::Pc(Gva(0x40))));
        assert_eq!(tracing("QTFrame:tdp:3"), wanted(Search::Tracepoint(3)));
        assert_eq!(
            tracing("QTFrame:range:10:20"),
            wanted(Search::Inside(Gva(0x10)..=Gva(0x20)))
        );
        assert_eq!(
            tracing("QTFrame:outside:10:20"),
            wanted(Search::Outside(Gva(0x10)..=Gva(0x20)))
        );
        for malformed in [
            "QTFrame",
            "QTFrame:",
            "QTFrame:pc",
            "QTFrame:range:1",
            "QTFrame:x:1",
        ] {
            assert_eq!(
                tracing(malformed),
                Tracing::Refused(MALFORMED),
                "{malformed}"
            );
        }
    }

    #[test]
    fn settings() {
        assert_eq!(
            tracing("QTBuffer:circular:1"),
            Tracing::Shape(Shape::Circular)
        );
        assert_eq!(tracing("QTBuffer:size:-1"), Tracing::Size(None));
        assert_eq!(tracing("QTBuffer:size:100"), Tracing::Size(Some(0x100)));
        assert_eq!(
            tracing("QTDisconnected:1"),
            Tracing::Disconnected(Leaving::GoesOn)
        );
        assert_eq!(tracing("QTDisconnected:2"), Tracing::Refused(MALFORMED));
        assert_eq!(
            tracing("QTro:1000,2000:3000,3001"),
            Tracing::ReadOnly([Gva(0x1000)..=Gva(0x1fff), Gva(0x3000)..=Gva(0x3000)].to_vec())
        );
        assert_eq!(tracing("QTro:1000,0"), Tracing::Refused(MALFORMED));
        assert_eq!(
            tracing("QTNotes:user:6d65;notes:;tstop:78;"),
            Tracing::Notes(
                [
                    Note::User("me".to_string()),
                    Note::Notes(String::new()),
                    Note::Stop("x".to_string())
                ]
                .to_vec()
            )
        );
        assert_eq!(
            tracing("QTDV:5:ffffffffffffffff:0:666f6f"),
            Tracing::Variable(VariableDefinition {
                number: 5,
                initial: -1,
                origin: Origin::Client,
                name: "foo".to_string()
            })
        );
        assert_eq!(tracing("QTSave:2f78"), Tracing::Refused(SAVE));
        assert_eq!(parse(b"QTFuture"), UNKNOWN);
        assert_eq!(
            parse(b"qTMinFTPILen"),
            UNKNOWN,
            "there are no fast tracepoints"
        );
    }

    proptest! {
        #[test]
        fn nothing_panics(
            name in prop::sample::select(alloc::vec!["QTDP:", "QTDP:-", "QTDPsrc:", "QTDV:", "QTro:", "QTFrame:", "QTNotes:", "QTBuffer:", "qTP:", "qTBuffer:"]),
            rest in "[0-9a-fA-FERMXSLD:,;-]{0,60}",
        ) {
            let body = alloc::format!("{name}{rest}");
            let _ = parse(body.as_bytes());
        }
    }
}
