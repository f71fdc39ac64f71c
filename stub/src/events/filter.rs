//! `--filter`: which events to show.

use super::{Entry, Stat};
use alloc::string::{String, ToString};
use probes::event::{EventKind, EventSource};
use probes::machine::VmId;

/// One condition on events.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Filter {
    /// Of this kind, or a text of a source of this kind.
    Kind(EventKind),
    /// Of this kind or the return of it.
    Pair(EventKind, EventKind),
    /// Of one space.
    Space(VmId),
    /// Of one space or the hypervisor itself.
    Concerns(VmId),
    /// Of a source, or out of a map, that is called so.
    Name(String),
}

impl Filter {
    /// `kprobe` and `hprobe` (their returns included), any other kind, `hyp`, `vm1`, or a name.
    pub(crate) fn parse(text: &str) -> Self {
        if let Some(kind) = EventKind::ALL.into_iter().find(|kind| kind.name() == text) {
            return match kind {
                EventKind::Kprobe => Self::Pair(kind, EventKind::Kretprobe),
                EventKind::Hprobe => Self::Pair(kind, EventKind::Hretprobe),
                kind => Self::Kind(kind),
            };
        }
        let number = text
            .strip_prefix("vm")
            .and_then(|digits| digits.parse().ok());
        match (text, number) {
            ("hyp", _) => Self::Space(VmId(0)),
            (_, Some(number)) => Self::Space(VmId(number)),
            _ => Self::Name(text.to_string()),
        }
    }

    pub(super) fn matches(&self, entry: &Entry, stat: Option<&Stat>) -> bool {
        let event = &entry.event;
        let is = |kind: EventKind| event.kind == kind || event.origin == kind;
        match self {
            Self::Kind(kind) => is(*kind),
            Self::Pair(kind, back) => is(*kind) || is(*back),
            Self::Space(vm) => event.vm == *vm,
            Self::Concerns(vm) => event.vm == *vm || event.vm == VmId(0),
            Self::Name(wanted) => {
                let is_source = |stat: &Stat| is_called(&event.source(), stat.name(), wanted);
                *entry.map == **wanted || stat.is_some_and(is_source)
            }
        }
    }
}

/// Whether `wanted` means the source whose name is `name`: that itself, without its space, or with its kind in the
/// place of its space; for a tracepoint also its group.
pub(crate) fn is_called(source: &EventSource, name: &str, wanted: &str) -> bool {
    let (space, short) = name.split_once(':').unwrap_or(("", name));
    let with_kind = |wanted: &str| {
        wanted.split_once(':').is_some_and(|(kind, rest)| {
            kind == source.kind.name() && (rest == short || rest == name)
        })
    };
    let is_group = source.kind == EventKind::Tracepoint && wanted == space;
    wanted == name || wanted == short || is_group || with_kind(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words() {
        let pair = Filter::Pair(EventKind::Kprobe, EventKind::Kretprobe);
        assert_eq!(Filter::parse("kprobe"), pair);
        assert_eq!(
            Filter::parse("kretprobe"),
            Filter::Kind(EventKind::Kretprobe)
        );
        assert_eq!(
            Filter::parse("tracepoint"),
            Filter::Kind(EventKind::Tracepoint)
        );
        assert_eq!(Filter::parse("vm2"), Filter::Space(VmId(2)));
        assert_eq!(Filter::parse("hyp"), Filter::Space(VmId(0)));
        assert_eq!(Filter::parse("vmalloc"), Filter::Name("vmalloc".into()));
        assert_eq!(Filter::parse("vm300"), Filter::Name("vm300".into()));
    }

    #[test]
    fn names() {
        let source = |kind| EventSource {
            kind,
            vm: VmId(1),
            id: 1,
        };
        let probe = source(EventKind::Kretprobe);
        for wanted in ["vm1:f", "f", "kretprobe:f", "kretprobe:vm1:f"] {
            assert!(is_called(&probe, "vm1:f", wanted), "{wanted}");
        }
        for wanted in ["vm1", "vm2:f", "kprobe:f", "g", "", "f+0x4"] {
            assert!(!is_called(&probe, "vm1:f", wanted), "{wanted}");
        }
        let tracepoint = source(EventKind::Tracepoint);
        for wanted in [
            "vmm",
            "vmm:page_fault",
            "page_fault",
            "tracepoint:page_fault",
        ] {
            assert!(is_called(&tracepoint, "vmm:page_fault", wanted), "{wanted}");
        }
    }
}
