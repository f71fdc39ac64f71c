//! What programs print, sorted by VM.
//!
//! Each CPU has one ring for the events of all VMs. Whoever polls first empties the rings into the history of each VM,
//! where every listener has its own place: a live session, `trace stream`, the shell.

use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use probes::event::{Continues, EventKind, MAX_CPUS, Record, Rings, Source};
use probes::machine::VmId;

/// Lines that are kept for each VM.
const KEPT: usize = 1000;
/// Bytes of one line at most; the rest is cut off.
const MAX_LINE: usize = 1024;

/// One event as a line of text.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Line {
    source: Source,
    kind: EventKind,
    /// Where the hit was: `vfs_read`, or an address.
    place: String,
    text: String,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { source, place, .. } = self;
        let Source {
            vm, vcpu, probe, ..
        } = source;
        let text = self.text.trim_end_matches('\n');
        match (self.kind, probe) {
            (EventKind::Note, _) => return write!(f, "{vm}: {text}"),
            (EventKind::Print, _) => write!(f, "[{vm}/vcpu{}] {place} ", vcpu.0)?,
            (EventKind::ProgramError, Some(id)) => {
                write!(
                    f,
                    "[{vm}/vcpu{}] {place} program of probe {id} failed: ",
                    vcpu.0
                )?;
            }
            (EventKind::ProgramError, None) => {
                write!(f, "[{vm}/vcpu{}] {place} program failed: ", vcpu.0)?;
            }
        }
        f.write_str(text)
    }
}

/// The lines of one VM. Lines have numbers from 0 on that are never used again.
struct History {
    vm: VmId,
    /// Number of the first line that is kept.
    first: u64,
    lines: VecDeque<Line>,
}

impl History {
    fn push(&mut self, line: Line) {
        if self.lines.len() == KEPT {
            self.lines.pop_front();
            self.first += 1;
        }
        self.lines.push_back(line);
    }

    fn next(&self) -> u64 {
        self.first + self.lines.len() as u64
    }
}

/// The beginning of an event whose other records are still to come.
#[derive(Clone)]
struct Partial {
    source: Source,
    kind: EventKind,
    text: Vec<u8>,
}

/// The histories of all VMs.
pub(crate) struct Events {
    histories: Vec<History>,
    partial: [Option<Partial>; MAX_CPUS],
}

impl Events {
    /// Empty histories.
    pub(crate) fn new(vms: impl Iterator<Item = VmId>) -> Self {
        let history = |vm| History {
            vm,
            first: 0,
            lines: VecDeque::new(),
        };
        Self {
            histories: vms.map(history).collect(),
            partial: [const { None }; MAX_CPUS],
        }
    }

    /// Empties the rings. `place` says what to call the place of a hit.
    pub(crate) fn collect(&mut self, rings: &Rings, place: &dyn Fn(&Source) -> String) {
        rings.drain(&mut |record| self.take(record, place));
    }

    /// Number of the next line of `vm`.
    pub(crate) fn next_line(&self, vm: VmId) -> u64 {
        self.history(vm).map_or(0, History::next)
    }

    /// The first line of `vm` from number `from` on that is still kept.
    pub(crate) fn line(&self, vm: VmId, from: u64) -> Option<(u64, Line)> {
        let history = self.history(vm)?;
        let number = from.max(history.first);
        let index = usize::try_from(number - history.first).ok()?;
        Some((number, history.lines.get(index)?.clone()))
    }

    /// The last `count` lines of `vm`, oldest first.
    pub(crate) fn last(&self, vm: VmId, count: usize) -> Vec<Line> {
        let Some(history) = self.history(vm) else {
            return Vec::new();
        };
        let skipped = history.lines.len().saturating_sub(count);
        history.lines.iter().skip(skipped).cloned().collect()
    }

    fn history(&self, vm: VmId) -> Option<&History> {
        self.histories.iter().find(|history| history.vm == vm)
    }

    fn take(&mut self, record: &Record, place: &dyn Fn(&Source) -> String) {
        let Some(slot) = self.partial.get_mut(usize::from(record.cpu)) else {
            return;
        };
        let mut partial = slot.take().unwrap_or_else(|| Partial {
            source: record.source,
            kind: record.kind,
            text: Vec::new(),
        });
        let room = MAX_LINE.saturating_sub(partial.text.len());
        let text = record.text();
        partial
            .text
            .extend_from_slice(&text[..text.len().min(room)]);
        match record.continues {
            Continues::More => *slot = Some(partial),
            Continues::Ends => self.finish(partial, place),
        }
    }

    fn finish(&mut self, partial: Partial, place: &dyn Fn(&Source) -> String) {
        let Partial { source, kind, text } = partial;
        let text = String::from_utf8_lossy(&text).into_owned();
        let history = self
            .histories
            .iter_mut()
            .find(|history| history.vm == source.vm);
        if let Some(history) = history {
            let place = place(&source);
            history.push(Line {
                source,
                kind,
                place,
                text,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;
    use probes::addr::Gva;
    use probes::machine::VcpuId;

    fn source(vm: u8) -> Source {
        Source {
            time_ns: 0,
            vm: VmId(vm),
            vcpu: VcpuId(1),
            probe: Some(7),
            pc: Gva(0x40),
        }
    }

    fn events() -> Events {
        Events::new([VmId(1), VmId(2)].into_iter())
    }

    #[test]
    fn each_vm_has_its_own_lines() {
        let (rings, mut events) = (Rings::new(), events());
        rings.push(0, source(1), EventKind::Print, b"one\n");
        rings.push(1, source(2), EventKind::ProgramError, b"two");
        rings.push(1, source(3), EventKind::Note, b"nobody's");
        events.collect(&rings, &|source| source.pc.to_string());
        assert_eq!(
            events.line(VmId(1), 0).unwrap().1.to_string(),
            "[vm1/vcpu1] 0x40 one"
        );
        assert_eq!(
            events.line(VmId(2), 0).unwrap().1.to_string(),
            "[vm2/vcpu1] 0x40 program of probe 7 failed: two"
        );
        assert_eq!(events.line(VmId(1), 1), None);
        assert_eq!(
            (events.next_line(VmId(1)), events.next_line(VmId(3))),
            (1, 0)
        );
    }

    #[test]
    fn long_text_is_put_together() {
        let (rings, mut events) = (Rings::new(), events());
        let text = [b'a'; 300];
        rings.push(0, source(1), EventKind::Print, &text);
        events.collect(&rings, &|source| source.pc.to_string());
        assert_eq!(events.line(VmId(1), 0).unwrap().1.text.as_bytes(), text);
    }

    #[test]
    fn old_lines_go() {
        let (rings, mut events) = (Rings::new(), events());
        for number in 0..KEPT + 5 {
            rings.push(
                0,
                source(1),
                EventKind::Print,
                number.to_string().as_bytes(),
            );
            events.collect(&rings, &|source| source.pc.to_string());
        }
        let (number, line) = events.line(VmId(1), 0).unwrap();
        assert_eq!((number, line.text.as_str()), (5, "5"));
        let last: Vec<_> = events
            .last(VmId(1), 2)
            .into_iter()
            .map(|line| line.text)
            .collect();
        assert_eq!(last, [(KEPT + 3).to_string(), (KEPT + 4).to_string()]);
    }
}
