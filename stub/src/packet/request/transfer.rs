//! Documents: `qXfer`.

use super::memory::MAX_READ;
use super::{MALFORMED, Request, Tracing, split_at};
use crate::packet::hex_number;
use alloc::format;
use alloc::string::ToString;

/// `qXfer:object:read:annex:offset,length`, of the objects that are announced.
pub(super) fn transfer(bytes: &[u8]) -> Option<Request> {
    let (object, rest) = split_at(bytes, b':')?;
    let rest = rest.strip_prefix(b"read:")?;
    let (annex, window) = split_at(rest, b':')?;
    let window = split_at(window, b',');
    let window = window.and_then(|(from, size)| Some((hex_number(from)?, hex_number(size)?)));
    let Some((from, size)) = window else {
        return Some(MALFORMED);
    };
    let size = size.min(MAX_READ);
    let stub = |name| Request::Stub(format!("{name}:{from:x},{size:x}").into_bytes());
    Some(match (object, annex) {
        (b"features", b"target.xml") => stub("qXfer:features:read:target.xml"),
        (b"memory-map", b"") => stub("qXfer:memory-map:read:"),
        (b"threads", b"") => Request::ThreadXml((from, size)),
        (b"osdata", kind) => match core::str::from_utf8(kind) {
            Ok(kind) => Request::OsData(kind.to_string(), (from, size)),
            Err(_) => MALFORMED,
        },
        (b"traceframe-info", b"") => Request::Tracing(Tracing::FrameInfo((from, size))),
        (b"statictrace", b"") => Request::Tracing(Tracing::StaticData((from, size))),
        // The annex names the process, of which there is one.
        (b"exec-file", _) => Request::ExecFile((from, size)),
        (b"features" | b"memory-map" | b"threads", _) => MALFORMED,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::request::tests::stub;
    use crate::packet::request::{UNKNOWN, parse};

    #[test]
    fn transfers() {
        assert_eq!(
            parse(b"qXfer:features:read:target.xml:0,fffb"),
            stub("qXfer:features:read:target.xml:0,7ff8")
        );
        assert_eq!(
            parse(b"qXfer:memory-map:read::0,10"),
            stub("qXfer:memory-map:read::0,10")
        );
        assert_eq!(parse(b"qXfer:features:read:other.xml:0,ffb"), MALFORMED);
        assert_eq!(parse(b"qXfer:features:read:target.xml:0"), MALFORMED);
        assert_eq!(parse(b"qXfer:auxv:read::0,ffb"), UNKNOWN);
    }
}
