//! What all endpoints and the shell share.

use crate::events::{Events, Naming, Stream, Wanted, Whose, name_of};
use crate::markers;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicU32, Ordering};
use ebpf::map::MapId;
use probes::event::{EventSource, TraceEvent};
use probes::machine::VmId;
use probes::periscope::Periscope;
use probes::programs::{Owner, StoreError};
use probes::space::Space;
use probes::tracepoint::{Field, Tracepoint};
use spin::{Mutex, MutexGuard};

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

/// The space is debugged by the client of another endpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Taken(VmId);

impl fmt::Display for Taken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(vm) = self;
        write!(
            f,
            "{vm} is debugged through another endpoint, its own or the whole machine's: detach there first"
        )
    }
}

/// What the debugger's root calls sources.
struct Names(&'static Periscope);

impl Naming for Names {
    fn name(&self, source: &EventSource) -> Option<String> {
        self.0.name_of(source)
    }

    fn fields(&self, source: &EventSource) -> &'static [Field] {
        self.0.fields_of(source)
    }

    fn read_record(&self, map: MapId, length: usize) -> Option<String> {
        self.0.programs().with_map(map, |map| {
            map.has_been_read(length);
            map.name().to_string()
        })
    }

    fn map_path(&self, map: MapId) -> Option<String> {
        self.0.programs().map_path(map)
    }
}

/// The debug server: one for all endpoints.
pub struct Server {
    periscope: &'static Periscope,
    log: Option<&'static dyn Log>,
    events: Mutex<Events>,
    refused: Mutex<VecDeque<RefusedUpload>>,
    /// Which session debugs a space.
    debugged: Mutex<BTreeMap<VmId, Owner>>,
    /// How many sessions there are.
    sessions: AtomicU32,
    /// Tracepoints that are on because a GDB tracepoint is at their marker, and of which space.
    marking: Mutex<Vec<(VmId, &'static Tracepoint)>>,
    /// The `System.map` that was uploaded last, and its name.
    map: Mutex<Option<(String, Vec<u8>)>>,
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
            debugged: Mutex::new(BTreeMap::new()),
            sessions: AtomicU32::new(0),
            marking: Mutex::new(Vec::new()),
            map: Mutex::new(None),
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

    /// What a new session loads is this one's.
    pub(crate) fn new_owner(&self) -> Owner {
        Owner(self.sessions.fetch_add(1, Ordering::Relaxed))
    }

    /// Makes `owner` the session that debugs a space: two would take each other's stops and breakpoints.
    pub(crate) fn claim(&self, vm: VmId, owner: Owner) -> Result<(), Taken> {
        match *self.debugged.lock().entry(vm).or_insert(owner) {
            holder if holder == owner => Ok(()),
            _ => Err(Taken(vm)),
        }
    }

    /// Whether some session debugs a space: its stops are that one's.
    pub(crate) fn is_debugged(&self, vm: VmId) -> bool {
        self.debugged.lock().contains_key(&vm)
    }

    /// Takes [`Self::claim`] back.
    pub(crate) fn disclaim(&self, vm: VmId, owner: Owner) {
        let mut debugged = self.debugged.lock();
        if debugged.get(&vm) == Some(&owner) {
            debugged.remove(&vm);
        }
    }

    pub(crate) fn log(&self) -> Option<&'static dyn Log> {
        self.log
    }

    /// Takes events out of the rings of all CPUs. Sessions call this when they are polled; a hypervisor calls it every
    /// few milliseconds while [`Self::wants_poll`].
    pub fn collect_events(&self) {
        let naming = Names(self.periscope);
        let mark = |event: &TraceEvent, text: &[u8]| markers::mark(self.periscope, event, text);
        let mut events = self.events.lock();
        events.collect(self.periscope.events(), &naming, &mark);
    }

    /// A trace run of a space begins: the tracepoints fire that its GDB tracepoints are at.
    pub(crate) fn begin_marking(&self, space: &Space) {
        let definitions = space.experiment().definitions().to_vec();
        let switched = markers::switch_on(self.periscope, &definitions);
        let vm = space.vm();
        let switched = switched.into_iter().map(|point| (vm, point));
        self.marking.lock().extend(switched);
    }

    /// It is over: those that were off before are off again.
    pub(crate) fn end_marking(&self, space: &Space) {
        self.marking.lock().retain(|(vm, point)| {
            let is_its = *vm == space.vm();
            if is_its {
                self.periscope.tracer().disable(point);
            }
            !is_its
        });
    }

    /// Whether events may come that somebody has to take out of the rings before they are full.
    pub fn wants_poll(&self) -> bool {
        self.periscope.is_probed() || !self.periscope.events().is_empty()
    }

    /// What has come out of the rings.
    pub(crate) fn events(&self) -> MutexGuard<'_, Events> {
        self.events.lock()
    }

    /// The CPUs that have lost events since the last reset, and how many.
    pub(crate) fn lost_events(&self) -> Vec<(usize, u64)> {
        self.events.lock().lost(self.periscope.events())
    }

    /// Begins a stream of events, as long as its reader keeps it; `None` where there are too many.
    pub(crate) fn open_stream(&self, wanted: Wanted) -> Option<Arc<Mutex<Stream>>> {
        // What has happened before is not in it.
        self.collect_events();
        let totals = self.total_losses();
        self.events.lock().open_stream(wanted, totals)
    }

    /// The next bytes of a stream from `offset` on, or `None` where that is not where it goes on.
    pub(crate) fn read_stream(
        &self,
        stream: &Mutex<Stream>,
        offset: u64,
        buffer: &mut [u8],
    ) -> Option<usize> {
        self.collect_events();
        let totals = self.total_losses();
        let mut stream = stream.lock();
        stream.look_at_losses(totals);
        let name = |whose| name_of(whose, &Names(self.periscope));
        stream.read(offset, buffer, &name)
    }

    /// How much each map and each CPU has ever lost. What a map has lost, its CPU has too.
    fn total_losses(&self) -> Vec<(Whose, u64)> {
        let rings = self.periscope.events();
        let cpus = (0..rings.cpus()).map(|cpu| (Whose::Cpu(cpu as u8), rings.lost(cpu)));
        let maps = self.periscope.programs().lost_records().into_iter();
        cpus.chain(maps.map(|(map, lost)| (Whose::Map(map), lost)))
            .collect()
    }

    /// Forgets events, statistics and losses.
    pub(crate) fn reset_events(&self) {
        self.collect_events();
        self.events.lock().reset(self.periscope.events());
    }

    /// Number of the next live line of a VM.
    pub(crate) fn next_line(&self, vm: VmId) -> u64 {
        self.events.lock().next_line(vm)
    }

    /// The first live line of a VM from number `from` on that is still kept, and its number.
    pub(crate) fn line(&self, vm: VmId, from: u64) -> Option<(u64, String)> {
        self.events.lock().line(vm, from)
    }

    /// Keeps an uploaded `System.map`, in place of an earlier one.
    pub(crate) fn keep_map(&self, name: String, text: Vec<u8>) {
        *self.map.lock() = Some((name, text));
    }

    /// Hands over the `System.map` that was uploaded as `name`.
    pub(crate) fn take_map(&self, name: &str) -> Option<Vec<u8>> {
        let kept = self.map.lock().take_if(|(kept, _)| kept == name)?;
        Some(kept.1)
    }

    /// Loads a program that a session has got; remembers why where it is refused.
    pub(crate) fn load_program(
        &self,
        name: &str,
        bytes: &[u8],
        owner: Owner,
    ) -> Result<(), StoreError> {
        let result = self.periscope.load_program(name, bytes, owner);
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
