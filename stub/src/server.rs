//! What all endpoints and the shell share.

use crate::events::{Events, Line};
use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;
use probes::event::Source;
use probes::machine::VmId;
use probes::periscope::Periscope;
use probes::programs::StoreError;
use probes::symbols::Located;
use spin::Mutex;

/// How many refused uploads `trace progs` remembers.
const MAX_REFUSED: usize = 8;

/// The log of the hypervisor.
pub trait Log: Sync {
    /// Writes the log, oldest line first.
    fn write_to(&self, out: &mut dyn fmt::Write) -> fmt::Result;
}

/// An upload that was no good program.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct RefusedUpload {
    /// The name it would have had.
    pub(crate) name: String,
    /// What was wrong, and what to do.
    pub(crate) reason: String,
}

/// The debug server: one for all endpoints.
pub struct Server {
    periscope: &'static Periscope,
    log: Option<&'static dyn Log>,
    events: Mutex<Events>,
    refused: Mutex<VecDeque<RefusedUpload>>,
}

impl Server {
    /// A server over the debugger's root.
    pub fn new(periscope: &'static Periscope) -> Self {
        let vms = periscope.all_spaces().map(|space| space.vm());
        Self {
            periscope,
            log: None,
            events: Mutex::new(Events::new(vms)),
            refused: Mutex::new(VecDeque::new()),
        }
    }

    /// The same with a log for the `log` command to show.
    pub fn with_log(self, log: &'static dyn Log) -> Self {
        Self {
            log: Some(log),
            ..self
        }
    }

    /// The debugger's root.
    pub fn periscope(&self) -> &'static Periscope {
        self.periscope
    }

    pub(crate) fn log(&self) -> Option<&'static dyn Log> {
        self.log
    }

    /// Moves what programs printed from the per-CPU rings to where each endpoint finds its own. Sessions call this when
    /// they are polled.
    pub fn collect_events(&self) {
        let place = |source: &Source| self.place(source);
        self.events.lock().collect(self.periscope.events(), &place);
    }

    /// The symbol of a hit, or its address.
    fn place(&self, source: &Source) -> String {
        let space = self.periscope.space_of(source.vm);
        let symbols = space.and_then(|space| space.symbols());
        match symbols.and_then(|symbols| symbols.by_address(source.pc)) {
            None => source.pc.to_string(),
            Some(Located { name, offset: 0 }) => name,
            Some(Located { name, offset }) => format!("{name}+{offset:#x}"),
        }
    }

    /// Number of the next line of a VM.
    pub(crate) fn next_line(&self, vm: VmId) -> u64 {
        self.events.lock().next_line(vm)
    }

    /// The first line of a VM from number `from` on that is still kept, and its number.
    pub(crate) fn line(&self, vm: VmId, from: u64) -> Option<(u64, Line)> {
        self.events.lock().line(vm, from)
    }

    /// The last `count` lines of a VM, oldest first.
    pub(crate) fn last_lines(&self, vm: VmId, count: usize) -> Vec<Line> {
        self.events.lock().last(vm, count)
    }

    /// Loads an uploaded program; remembers why where it is refused.
    pub(crate) fn load_program(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        let result = self.periscope.load_program(name, bytes);
        let mut refused = self.refused.lock();
        refused.retain(|upload| upload.name != name);
        if let Err(error) = &result {
            if refused.len() == MAX_REFUSED {
                refused.pop_front();
            }
            refused.push_back(RefusedUpload {
                name: name.to_string(),
                reason: error.to_string(),
            });
        }
        result
    }

    /// The uploads that were refused lately, latest last.
    pub(crate) fn refused_uploads(&self) -> Vec<RefusedUpload> {
        self.refused.lock().iter().cloned().collect()
    }
}
