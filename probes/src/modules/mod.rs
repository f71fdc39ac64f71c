//! The modules of the Linux kernel in a guest, and their symbols, from the kernel's own memory.
//!
//! kallsyms holds what is linked into the kernel. What is loaded later stands in the list `modules`
//! (`kernel/module/main.c`), and each `struct module` keeps the symbols that its code needs to be
//! traced (`struct mod_kallsyms`, `CONFIG_KALLSYMS`). Modules come and go while the kernel runs, so
//! the list is looked at again and again, as cheaply as can be: the first and the last node tell of
//! every module that comes, and only where probes are in modules is the whole list gone through,
//! because a module that goes may be anywhere in it.
//!
//! The guest is not trusted and runs on: every read is bounded, every loop has a limit, and a list
//! that does not hold together is looked at another time.

mod layered;
mod list;
mod module;

#[cfg(test)]
mod tests;

pub(crate) use layered::WithModules;

use crate::addr::Gva;
use crate::kernel_memory::KernelMemory;
use crate::machine::Machine;
use crate::symbols::Symbols;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Range;
use list::{Head, Node};
use module::Module;

/// How long a search for the list that has found nothing stands, in nanoseconds.
const SEARCH_PAUSE: u64 = 1_000_000_000;
/// How often a live module is looked at again that has no symbols. A kernel says that a module is live
/// a moment before its symbols are in their place (`do_init_module`, `kernel/module/main.c`); it may
/// have none at all.
const MAX_UNREAD: u32 = 400;
/// What the names and addresses of all modules may take of the hypervisor's memory, in bytes.
const MAX_BYTES: usize = 4 << 20;

/// How closely the list is looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Scrutiny {
    /// For modules that have come.
    Arrivals,
    /// For modules that have come or gone.
    Everything,
}

/// A module that has gone.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Gone {
    pub(crate) name: String,
    /// Where its code was.
    pub(crate) range: Range<Gva>,
}

/// What has changed since the last look.
#[derive(Debug, Default)]
pub(crate) struct Change {
    /// The modules that there are.
    pub(crate) modules: Arc<[Arc<Module>]>,
    pub(crate) gone: Vec<Gone>,
}

/// What is known of the modules of a guest.
#[derive(Default)]
pub(crate) struct Modules {
    list: Option<Head>,
    /// Until when the list is not looked for again, in nanoseconds.
    pause: u64,
    /// The first and the last node when the list was last gone through, if all its modules were
    /// ready then.
    seen: Option<[Gva; 2]>,
    /// The first and the last node where the symbols of a live module could not be read, and how often
    /// in a row.
    unread: Option<([Gva; 2], u32)>,
    loaded: Arc<[Arc<Module>]>,
}

impl Modules {
    /// Whether an address lies in the code of a module.
    pub(crate) fn cover(&self, address: Gva) -> bool {
        self.loaded
            .iter()
            .any(|module| module.range.contains(&address))
    }

    /// Hands out all functions of all modules, in the order in which those are in the list.
    pub(crate) fn each_function(&self, mut visit: impl FnMut(&str, Gva, &str)) {
        for module in &*self.loaded {
            for (address, name) in module.functions() {
                visit(&module.name, address, name);
            }
        }
    }

    /// Looks whether modules have come or gone. `kernel` is the kernel's own table. `None`: nothing
    /// has changed, as far as can be told now.
    pub(crate) fn look(
        &mut self,
        machine: &dyn Machine,
        kernel: &dyn Symbols,
        scrutiny: Scrutiny,
    ) -> Option<Change> {
        if self.list.is_none() {
            let now = machine.now_ns();
            if now < self.pause {
                return None;
            }
            self.pause = now.saturating_add(SEARCH_PAUSE);
            self.list = list::find(machine, kernel);
        }
        let list = self.list.as_ref()?;
        let memory = KernelMemory::new(machine, list.regs);
        let ends = list.ends(&memory)?;
        if scrutiny == Scrutiny::Arrivals && self.seen == Some(ends) {
            return None;
        }
        let nodes = list.nodes(&memory)?;
        let change = self.update(&memory, &nodes);
        let is_read = |node: &Node| self.loaded.iter().any(|module| node.is(module));
        let times = match self.unread {
            Some((before, times)) if before == ends => times.saturating_add(1),
            _ => 1,
        };
        self.unread = (!nodes.iter().all(is_read)).then_some((ends, times));
        let is_settled = self.unread.is_none_or(|(_, times)| times > MAX_UNREAD);
        let ready = nodes.iter().all(|node| node.is_live());
        self.seen = (ready && is_settled).then_some(ends);
        change
    }

    /// Makes what is known agree with the list.
    fn update(&mut self, memory: &KernelMemory<'_>, nodes: &[Node]) -> Option<Change> {
        let is_there = |module: &Module| {
            let mut nodes = nodes.iter();
            nodes.any(|node| node.is(module) && !node.is_unformed())
        };
        let (mut kept, gone): (Vec<_>, Vec<_>) = self
            .loaded
            .iter()
            .cloned()
            .partition(|module| is_there(module));
        let before = kept.len();
        let mut room = MAX_BYTES.saturating_sub(kept.iter().map(|module| module.bytes()).sum());
        for node in nodes.iter().filter(|node| node.is_live()) {
            if kept.iter().any(|module| node.is(module)) {
                continue;
            }
            if let Some(module) = Module::read(memory, node, room) {
                room = room.saturating_sub(module.bytes());
                kept.push(Arc::new(module));
            }
        }
        if kept.len() == before && gone.is_empty() {
            return None;
        }
        kept.sort_by_key(|module| module.range.start);
        self.loaded = kept.into();
        let gone = gone.iter().map(|module| Gone {
            name: module.name.clone(),
            range: module.range.clone(),
        });
        Some(Change {
            modules: self.loaded.clone(),
            gone: gone.collect(),
        })
    }
}
