//! The lines that sessions show while their guests run.

use alloc::collections::VecDeque;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use probes::machine::VmId;

/// Lines that are kept for each VM.
pub(super) const KEPT: usize = 1000;

/// The lines of one VM. Lines have numbers from 0 on that are never used again.
struct Lines {
    vm: VmId,
    /// Number of the first line that is kept.
    first: u64,
    lines: VecDeque<String>,
}

/// The lines of all VMs.
pub(super) struct Live(Vec<Lines>);

impl Live {
    pub(super) fn new(vms: impl Iterator<Item = VmId>) -> Self {
        let lines = |vm| Lines {
            vm,
            first: 0,
            lines: VecDeque::new(),
        };
        Self(vms.map(lines).collect())
    }

    /// Adds a line about `vm`. One about the hypervisor itself is everybody's.
    pub(super) fn push(&mut self, vm: VmId, line: &str) {
        let concerned = |lines: &&mut Lines| lines.vm == vm || vm == VmId(0);
        for lines in self.0.iter_mut().filter(concerned) {
            if lines.lines.len() == KEPT {
                lines.lines.pop_front();
                lines.first += 1;
            }
            lines.lines.push_back(line.to_string());
        }
    }

    /// Number of the next line of `vm`.
    pub(super) fn next(&self, vm: VmId) -> u64 {
        self.of(vm)
            .map_or(0, |lines| lines.first + lines.lines.len() as u64)
    }

    /// The first line of `vm` from number `from` on that is still kept.
    pub(super) fn line(&self, vm: VmId, from: u64) -> Option<(u64, String)> {
        let lines = self.of(vm)?;
        let number = from.max(lines.first);
        let index = usize::try_from(number - lines.first).ok()?;
        Some((number, lines.lines.get(index)?.clone()))
    }

    fn of(&self, vm: VmId) -> Option<&Lines> {
        self.0.iter().find(|lines| lines.vm == vm)
    }
}
