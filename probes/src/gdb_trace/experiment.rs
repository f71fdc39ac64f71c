//! A trace experiment: what a client has defined, the run, and what it has collected. The server's side of it: nothing here
//! is on the way of a hit.

use super::buffer::{FrameBuffer, MAX_BUFFER, Shape};
use super::definition::{
    Action, Definition, Moment, Origin, PointId, PointKind, Saying, Switch, VariableDefinition,
};
use super::frame::{Frame, Head};
use super::recorder::{Collection, Item, Mark, Recorder};
use super::run::{MAX_FRAME, Needs, Run, StopReason};
use super::variables::MAX_VARIABLES;
use crate::addr::Gva;
use crate::programs::{Owner, ProgramRef};
use crate::refusal::Refusal;
use crate::regs::SysReg;
use crate::space::{ProbeId, Space};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::ops::RangeInclusive;
use core::sync::atomic::{AtomicU64, Ordering};
use ebpf::agent::{Expression, Purpose};

/// How many GDB tracepoints an experiment can have.
const MAX_POINTS: usize = 512;
/// Bytes of text that all of them may take.
const MAX_TEXT: usize = 512 << 10;
/// How many regions can be read-only.
const MAX_REGIONS: usize = 4096;
/// Bytes of a note at most.
const MAX_NOTE: usize = 1024;
/// The size of the trace buffer where the client does not say another, in bytes.
const DEFAULT_BUFFER: usize = 4 << 20;

/// The trace state variable `$trace_timestamp`: microseconds since the hypervisor started.
pub const TIMESTAMP: u32 = 1;
/// The trace state variable `$trace_vcpu`: the vCPU that hits.
pub const VCPU: u32 = 2;
/// The names of the variables that are always there.
const OURS: [(u32, &str); 2] = [(TIMESTAMP, "trace_timestamp"), (VCPU, "trace_vcpu")];

/// Why a request about an experiment is refused. `Display` tells the user.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum BadTrace {
    /// More tracepoints than can be remembered.
    TooMany,
    /// More text than can be remembered.
    TooLong,
    /// It is there already.
    Exists(PointId),
    /// There is none.
    NoSuchPoint(PointId),
    /// Its definition was over.
    Complete(PointId),
    /// Its definition is not over yet.
    Incomplete(PointId),
    /// There is nothing to collect with.
    Nothing,
    /// A run goes on.
    Running,
    /// Its place cannot be armed.
    Place(PointId, Refusal),
    /// One of its expressions.
    Expression(PointId, String),
    /// It has expressions, and the run that goes on was made for none.
    FirstExpression(PointId),
    /// It collects too much at a time.
    Frame(PointId),
    /// There is no memory for the buffer.
    NoMemory(usize),
    /// The buffer would be larger than it can be.
    BufferSize(u64),
    /// More trace state variables than there can be.
    Variables,
    /// Too many read-only regions.
    Regions,
    /// The hypervisor's own code is not stepped.
    Steps(PointId),
    /// No marker is at its address.
    NoMarker(PointId),
    /// It is at a marker and wants more than that has.
    MarkerOnly(PointId),
}

impl fmt::Display for BadTrace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooMany => write!(
                f,
                "there can be {MAX_POINTS} tracepoints, each place of one counted. Delete some"
            ),
            Self::TooLong => write!(
                f,
                "the actions and sources of all tracepoints are more than {MAX_TEXT} bytes. Delete some"
            ),
            Self::Exists(point) => write!(f, "there is a {point} already"),
            Self::NoSuchPoint(point) => write!(f, "there is no {point}"),
            Self::Complete(point) => write!(
                f,
                "the definition of {point} was over: nothing can be added to it"
            ),
            Self::Incomplete(point) => {
                write!(
                    f,
                    "the definition of {point} is not over: its last packet has promised another"
                )
            }
            Self::Nothing => f.write_str("no tracepoint is defined"),
            Self::Running => f.write_str("a trace run goes on: `tstop` ends it"),
            Self::Place(point, refusal) => write!(f, "{point}: {refusal}"),
            Self::Expression(point, reason) => write!(f, "{point}: {reason}"),
            Self::FirstExpression(point) => write!(
                f,
                "{point} collects by an expression, which no tracepoint of the run did that goes on: \
                 `tstop` and `tstart` make room for it"
            ),
            Self::Frame(point) => write!(
                f,
                "{point} collects more than fits in one frame, {MAX_FRAME} bytes. Collect less"
            ),
            Self::NoMemory(size) => write!(
                f,
                "the hypervisor has no memory for a trace buffer of {size} bytes: \
                 `set trace-buffer-size` makes it smaller"
            ),
            Self::BufferSize(size) => write!(
                f,
                "a trace buffer of {size} bytes is too large: {MAX_BUFFER} at most"
            ),
            Self::Variables => write!(f, "there can be {MAX_VARIABLES} trace state variables"),
            Self::Regions => write!(f, "there can be {MAX_REGIONS} read-only regions"),
            Self::Steps(point) => write!(
                f,
                "{point}: the hypervisor's own code is not single-stepped, so `while-stepping` is for VMs"
            ),
            Self::NoMarker(point) => write!(
                f,
                "{point}: no static tracepoint marker is there. `info static-tracepoint-markers` shows them"
            ),
            Self::MarkerOnly(point) => write!(
                f,
                "{point}: a static tracepoint marker is no place in the code. It has no condition and no steps, and \
                 nothing to collect but `$_sdata`"
            ),
        }
    }
}

impl core::error::Error for BadTrace {}

/// What becomes of a run when its client goes (RSP packet `QTDisconnected`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Leaving {
    /// It ends, and everything is forgotten.
    #[default]
    Ends,
    /// It goes on.
    GoesOn,
}

/// What people have written about a run (RSP packet `QTNotes`).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Notes {
    /// Who has started it.
    pub user: String,
    /// About what it is.
    pub notes: String,
    /// Why it was stopped.
    pub stop: String,
}

/// The state of a run (RSP packet `qTStatus`).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RunStatus {
    /// Whether hits are collected now.
    pub running: Running,
    /// Frames in the buffer, and frames ever made.
    pub frames: (u64, u64),
    /// Frames that were given up: each would have pushed out one that another CPU was still writing.
    pub lost: u64,
    /// Bytes of the buffer, and bytes that are free.
    pub size: (usize, usize),
    /// What happens when the buffer is full.
    pub shape: Shape,
    /// What becomes of it when its client goes.
    pub leaving: Leaving,
    /// When it was started, in nanoseconds of [`crate::machine::Clock::now_ns`]; 0: never.
    pub started_ns: u64,
    /// When it stopped; 0: it has not.
    pub stopped_ns: u64,
    /// What people say.
    pub notes: Notes,
}

/// Whether hits are collected.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Running {
    /// They are.
    Yes,
    /// There was no run yet.
    Never,
    /// No more.
    Stopped(StopReason),
}

/// What a tracepoint has done (RSP packet `qTP`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PointStatus {
    /// How often it was hit.
    pub hits: u64,
    /// Bytes of its frames.
    pub usage: u64,
}

/// Which frame is wanted (RSP packet `QTFrame`). All but the first look behind the frame that is selected.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Search {
    /// The frame of that number.
    Number(u64),
    /// One whose PC is this.
    Pc(Gva),
    /// One of that tracepoint.
    Tracepoint(u32),
    /// One whose PC is there.
    Inside(RangeInclusive<Gva>),
    /// One whose PC is not there.
    Outside(RangeInclusive<Gva>),
}

impl Search {
    fn matches(&self, head: &Head) -> bool {
        match self {
            Self::Number(_) => true,
            Self::Pc(pc) => head.pc == *pc,
            Self::Tracepoint(number) => head.number == *number,
            Self::Inside(range) => range.contains(&head.pc),
            Self::Outside(range) => !range.contains(&head.pc),
        }
    }
}

/// A frame, and its number.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Selected {
    /// Counted from the oldest in the buffer.
    pub number: u64,
    /// The frame.
    pub frame: Frame,
}

/// A tracepoint of the run.
struct Point {
    recorder: Arc<Recorder>,
    /// What it is in the registry; `None` when it is disarmed.
    probe: Option<ProbeId>,
}

/// The trace experiment of a space.
pub struct Experiment {
    /// Whose it is.
    owner: Option<Owner>,
    definitions: Vec<Definition>,
    /// The definition that goes on with the next packet.
    open: Option<PointId>,
    /// The tracepoint of the run that a client defines anew: GDB 13 does that to those that it has found, once it has
    /// symbols for them. They stay as they are.
    repeated: Option<PointId>,
    variables: Vec<VariableDefinition>,
    readonly: Vec<RangeInclusive<Gva>>,
    shape: Shape,
    size: Option<usize>,
    leaving: Leaving,
    notes: Notes,
    run: Option<Arc<Run>>,
    points: Vec<Point>,
    /// How the last run ended, of which nothing else is left.
    ended: Option<StopReason>,
}

impl Experiment {
    pub(crate) const fn new() -> Self {
        Self {
            owner: None,
            definitions: Vec::new(),
            open: None,
            repeated: None,
            variables: Vec::new(),
            readonly: Vec::new(),
            shape: Shape::Linear,
            size: None,
            leaving: Leaving::Ends,
            notes: Notes {
                user: String::new(),
                notes: String::new(),
                stop: String::new(),
            },
            run: None,
            points: Vec::new(),
            ended: None,
        }
    }

    // ---- Settings ----

    /// What happens when the buffer of the next run is full (`QTBuffer:circular`).
    pub fn set_shape(&mut self, shape: Shape) {
        self.shape = shape;
    }

    /// How many bytes the buffer of the next run has (`QTBuffer:size`); `None`: as many as there are usually.
    pub fn set_size(&mut self, size: Option<u64>) -> Result<(), BadTrace> {
        let fits = |size: &usize| *size <= MAX_BUFFER;
        self.size = match size {
            None => None,
            Some(size) => {
                let bytes = usize::try_from(size).ok().filter(fits);
                Some(bytes.ok_or(BadTrace::BufferSize(size))?)
            }
        };
        Ok(())
    }

    /// What becomes of the run when its client goes (`QTDisconnected`).
    pub fn set_leaving(&mut self, leaving: Leaving) {
        self.leaving = leaving;
    }

    /// Changes the notes (`QTNotes`); what is longer than a note can be is cut.
    pub fn note(&mut self, change: impl FnOnce(&mut Notes)) {
        change(&mut self.notes);
        for note in [
            &mut self.notes.user,
            &mut self.notes.notes,
            &mut self.notes.stop,
        ] {
            let mut end = note.len().min(MAX_NOTE);
            while !note.is_char_boundary(end) {
                end -= 1;
            }
            note.truncate(end);
        }
    }

    /// The memory that a frame shows as it is now where it was not collected (`QTro`).
    pub fn set_readonly(&mut self, regions: Vec<RangeInclusive<Gva>>) -> Result<(), BadTrace> {
        if regions.len() > MAX_REGIONS {
            return Err(BadTrace::Regions);
        }
        self.readonly = regions;
        Ok(())
    }

    /// Whether all of some memory is read-only.
    pub fn is_readonly(&self, first: Gva, last: Gva) -> bool {
        let holds =
            |region: &RangeInclusive<Gva>| region.contains(&first) && region.contains(&last);
        self.readonly.iter().any(holds)
    }

    // ---- What is defined ----

    /// All tracepoints.
    pub fn definitions(&self) -> &[Definition] {
        &self.definitions
    }

    /// All trace state variables, those that are always there first.
    pub fn variables(&self) -> Vec<VariableDefinition> {
        let ours = OURS.iter().map(|(number, name)| VariableDefinition {
            number: *number,
            initial: 0,
            origin: Origin::Target,
            name: (*name).to_string(),
        });
        ours.chain(self.variables.iter().cloned()).collect()
    }

    /// The definition that can still be added to.
    fn open_definition(&mut self, id: PointId) -> Result<&mut Definition, BadTrace> {
        let is_open = self.open == Some(id);
        let definition = self.definition(id)?;
        if is_open {
            Ok(definition)
        } else {
            Err(BadTrace::Complete(id))
        }
    }

    fn definition(&mut self, id: PointId) -> Result<&mut Definition, BadTrace> {
        let mut definitions = self.definitions.iter_mut();
        let found = definitions.find(|definition| definition.id == id);
        found.ok_or(BadTrace::NoSuchPoint(id))
    }

    fn check_text(&self, more: usize) -> Result<(), BadTrace> {
        let text: usize = self.definitions.iter().map(Definition::length).sum();
        if text + more > MAX_TEXT {
            return Err(BadTrace::TooLong);
        }
        Ok(())
    }

    /// Takes a piece of a tracepoint's source (`QTDPsrc`).
    pub fn add_source(&mut self, id: PointId, text: Vec<u8>) -> Result<(), BadTrace> {
        self.check_text(text.len())?;
        let definition = self.definition(id)?;
        let saying = Saying::Source(text);
        if !definition.sayings.contains(&saying) {
            definition.sayings.push(saying);
        }
        Ok(())
    }

    // ---- The run ----

    /// Whether hits are collected now.
    pub fn is_running(&self) -> bool {
        self.run.as_ref().is_some_and(|run| run.is_running())
    }

    /// How the run stands (`qTStatus`).
    pub fn status(&self) -> RunStatus {
        let (leaving, notes) = (self.leaving, self.notes.clone());
        let Some(run) = &self.run else {
            let ended = self.ended.clone();
            return RunStatus {
                running: ended.map_or(Running::Never, Running::Stopped),
                frames: (0, 0),
                lost: 0,
                size: (self.buffer_size(), self.buffer_size()),
                shape: self.shape,
                leaving,
                started_ns: 0,
                stopped_ns: 0,
                notes,
            };
        };
        let reason = run.reason(&notes.stop);
        let buffer = &run.buffer;
        RunStatus {
            running: reason.map_or(Running::Yes, Running::Stopped),
            frames: (buffer.frames(), buffer.created()),
            lost: buffer.lost(),
            size: (buffer.size(), buffer.free()),
            shape: buffer.shape(),
            leaving,
            started_ns: run.started_ns(),
            stopped_ns: run.stopped_ns(),
            notes,
        }
    }

    fn buffer_size(&self) -> usize {
        self.size.unwrap_or(DEFAULT_BUFFER)
    }

    /// What a tracepoint has done in the run (`qTP`).
    pub fn point_status(&self, id: PointId) -> Result<PointStatus, BadTrace> {
        if let Some(point) = self.points.iter().find(|point| point.recorder.id == id) {
            let passes = point.recorder.passes;
            let hits = point.recorder.hits.load(Ordering::Relaxed);
            return Ok(PointStatus {
                // Hits that came in the same moment as the last one are not collected.
                hits: if passes == 0 { hits } else { hits.min(passes) },
                usage: point.recorder.usage.load(Ordering::Relaxed),
            });
        }
        let mut definitions = self.definitions.iter();
        let is_defined = definitions.any(|definition| definition.id == id);
        if is_defined {
            Ok(PointStatus::default())
        } else {
            Err(BadTrace::NoSuchPoint(id))
        }
    }

    // ---- Frames: the VM is held ----

    fn buffer(&self) -> Option<&FrameBuffer> {
        self.run.as_ref().map(|run| &run.buffer)
    }

    /// The first frame that is wanted; `after` is the number of the one that is selected.
    pub fn find(&self, search: &Search, after: Option<u64>) -> Option<Selected> {
        let buffer = self.buffer()?;
        let skipped = match search {
            Search::Number(number) => *number,
            _ => after.map_or(0, |number| number.saturating_add(1)),
        };
        let mut frames = (0..).zip(buffer.positions());
        let is_wanted = |(number, position): &(u64, u64)| {
            let head = || Head::decode(|index| buffer.word(*position, index));
            *number >= skipped && search.matches(&head())
        };
        let (number, position) = frames.find(is_wanted)?;
        let frame = Frame::decode(&buffer.read(position))?;
        Some(Selected { number, frame })
    }

    /// The frame at a position, or the oldest, and the position of the next.
    pub fn frame_at(&self, position: Option<u64>) -> Option<(Frame, u64)> {
        let buffer = self.buffer()?;
        let mut positions = match position {
            None => buffer.positions(),
            Some(position) => buffer.positions_from(position),
        };
        let words = buffer.read(positions.next()?);
        Some((Frame::decode(&words)?, positions.position()))
    }
}

impl Space {
    /// Begins anew (`QTinit`): what was defined and collected is forgotten. From now on the experiment is `owner`'s.
    pub fn init_experiment(&self, owner: Owner) {
        let mut experiment = self.experiment.lock();
        self.forget(&mut experiment);
        experiment.owner = Some(owner);
        experiment.ended = None;
    }

    /// A client of `owner`'s has gone.
    pub fn leave_experiment(&self, owner: Owner) {
        let mut experiment = self.experiment.lock();
        if experiment.owner != Some(owner) {
            return;
        }
        if let Some(open) = experiment.open.take() {
            experiment
                .definitions
                .retain(|definition| definition.id != open);
        }
        if experiment.leaving == Leaving::GoesOn {
            return;
        }
        let now = self.machine().now_ns();
        let ends_it = experiment
            .run
            .as_ref()
            .is_some_and(|run| run.disconnected(now));
        self.forget(&mut experiment);
        experiment.owner = None;
        experiment.notes = Notes::default();
        experiment.shape = Shape::Linear;
        experiment.size = None;
        experiment.ended = ends_it.then_some(StopReason::Disconnected);
    }

    fn forget(&self, experiment: &mut Experiment) {
        if let Some(run) = &experiment.run {
            run.command(self.machine().now_ns());
        }
        self.disarm(experiment);
        experiment.points.clear();
        experiment.run = None;
        experiment.definitions.clear();
        experiment.open = None;
        experiment.repeated = None;
        experiment.variables.clear();
        experiment.readonly.clear();
        self.variables().clear();
    }

    /// Defines a tracepoint; `more` says whether packets with its actions follow.
    pub fn define_tracepoint(
        &self,
        definition: Definition,
        more: More,
        compiler: &dyn Compile,
    ) -> Result<(), BadTrace> {
        let id = definition.id;
        let mut experiment = self.experiment.lock();
        if let Some(open) = experiment.open {
            return Err(BadTrace::Incomplete(open));
        }
        let is_known = experiment.definition(id).is_ok();
        if is_known && experiment.is_running() {
            experiment.repeated = (more == More::Follows).then_some(id);
            return Ok(());
        }
        if is_known {
            return Err(BadTrace::Exists(id));
        }
        if experiment.definitions.len() == MAX_POINTS {
            return Err(BadTrace::TooMany);
        }
        experiment.check_text(definition.length())?;
        experiment.definitions.push(definition);
        experiment.open = Some(id);
        self.complete(&mut experiment, id, more, compiler)
    }

    /// Adds actions to a tracepoint whose definition is not over; `text` is what the client has said.
    pub fn add_actions(
        &self,
        id: PointId,
        moment: Moment,
        (text, actions): (Vec<u8>, Vec<Action>),
        more: More,
        compiler: &dyn Compile,
    ) -> Result<(), BadTrace> {
        let mut experiment = self.experiment.lock();
        if experiment.repeated == Some(id) {
            experiment.repeated = (more == More::Follows).then_some(id);
            return Ok(());
        }
        experiment.check_text(text.len())?;
        let definition = experiment.open_definition(id)?;
        // Only the first packet of the actions at a step says so.
        let moment = match definition.sayings.last() {
            Some(Saying::Actions(Moment::Step, _)) => Moment::Step,
            _ => moment,
        };
        let actions = actions.into_iter().map(|action| (moment, action));
        definition.actions.extend(actions);
        definition.sayings.push(Saying::Actions(moment, text));
        self.complete(&mut experiment, id, more, compiler)
    }

    /// A definition is over, if no more follows: in a run it is armed at once.
    fn complete(
        &self,
        experiment: &mut Experiment,
        id: PointId,
        more: More,
        compiler: &dyn Compile,
    ) -> Result<(), BadTrace> {
        if more == More::Follows {
            return Ok(());
        }
        experiment.open = None;
        let Some(run) = experiment.run.clone().filter(|run| run.is_running()) else {
            return Ok(());
        };
        let armed = self.arm(experiment, &run, experiment.definitions.len() - 1, compiler);
        if armed.is_err() {
            experiment
                .definitions
                .retain(|definition| definition.id != id);
        }
        armed
    }

    /// Defines a trace state variable, or sets one (`QTDV`).
    pub fn define_variable(&self, definition: VariableDefinition) -> Result<(), BadTrace> {
        let ours = OURS.iter().any(|(number, _)| *number == definition.number);
        if ours {
            // The client repeats what it was told.
            return Ok(());
        }
        let mut experiment = self.experiment.lock();
        if !self
            .variables()
            .define(definition.number, definition.initial)
        {
            return Err(BadTrace::Variables);
        }
        let same = |known: &&mut VariableDefinition| known.number == definition.number;
        match experiment.variables.iter_mut().find(same) {
            Some(known) => *known = definition,
            None => experiment.variables.push(definition),
        }
        Ok(())
    }

    /// Starts a run (`QTStart`): from now on hits are collected.
    pub fn start_experiment(&self, compiler: &dyn Compile) -> Result<(), BadTrace> {
        let mut experiment = self.experiment.lock();
        if experiment.is_running() {
            return Err(BadTrace::Running);
        }
        if let Some(open) = experiment.open {
            return Err(BadTrace::Incomplete(open));
        }
        if experiment.definitions.is_empty() {
            return Err(BadTrace::Nothing);
        }
        experiment.points.clear();
        experiment.run = None;
        experiment.ended = None;
        let has_expression = |definition: &Definition| {
            let mut actions = definition.actions.iter();
            actions.any(|(_, action)| matches!(action, Action::Expression(_)))
        };
        let has_scratch = experiment.definitions.iter().any(has_expression);
        let size = experiment.buffer_size();
        let run = Run::new(&Needs {
            size,
            shape: experiment.shape,
            scratch: if has_scratch { self.events().cpus() } else { 0 },
            system_registers: self.system_registers(),
            now_ns: self.machine().now_ns(),
        });
        let run = Arc::new(run.ok_or(BadTrace::NoMemory(size))?);
        for definition in &experiment.variables {
            self.variables().set(definition.number, definition.initial);
        }
        for index in 0..experiment.definitions.len() {
            if let Err(refused) = self.arm(&mut experiment, &run, index, compiler) {
                self.disarm(&mut experiment);
                experiment.points.clear();
                return Err(refused);
            }
        }
        experiment.run = Some(run);
        Ok(())
    }

    /// Stops the run (`QTStop`). What it has collected stays.
    pub fn stop_experiment(&self) {
        let mut experiment = self.experiment.lock();
        if let Some(run) = &experiment.run {
            run.command(self.machine().now_ns());
        }
        self.disarm(&mut experiment);
    }

    /// Switches a tracepoint on or off (`QTEnable`, `QTDisable`), in a run too.
    pub fn switch_tracepoint(&self, id: PointId, switch: Switch) -> Result<(), BadTrace> {
        let mut experiment = self.experiment.lock();
        experiment.definition(id)?.switch = switch;
        let mut points = experiment.points.iter();
        let point = points.find(|point| point.recorder.id == id);
        let Some(probe) = point.and_then(|point| point.probe) else {
            return Ok(());
        };
        let switched = match switch {
            Switch::Enabled => self.enable(probe).map(|_| ()),
            Switch::Disabled => self.disable(probe),
        };
        switched.map_err(|refusal| BadTrace::Place(id, refusal))
    }

    /// The run has stopped on the way of a hit: nothing stays armed.
    pub(crate) fn retire_run(&self) {
        let mut experiment = self.experiment.lock();
        if !experiment.is_running() {
            self.disarm(&mut experiment);
        }
    }

    /// What a static tracepoint marker has said, for the GDB tracepoints there.
    pub fn mark(&self, marker: Gva, mark: &Mark<'_>) {
        if !self.is_marked() {
            return;
        }
        let experiment = self.experiment.lock();
        let is_there = |definition: &&Definition| {
            let is_on = definition.switch == Switch::Enabled;
            is_on && definition.kind == PointKind::Marker && definition.id.address == marker
        };
        for definition in experiment.definitions.iter().filter(is_there) {
            let mut points = experiment.points.iter();
            if let Some(point) = points.find(|point| point.recorder.id == definition.id) {
                self.record_mark(&point.recorder, mark);
            }
        }
    }

    fn disarm(&self, experiment: &mut Experiment) {
        self.set_marked(false);
        let armed = experiment.points.iter_mut();
        let armed: Vec<ProbeId> = armed.filter_map(|point| point.probe.take()).collect();
        self.detach_recorders(&armed);
    }

    /// Arms the tracepoint of a definition.
    fn arm(
        &self,
        experiment: &mut Experiment,
        run: &Arc<Run>,
        index: usize,
        compiler: &dyn Compile,
    ) -> Result<(), BadTrace> {
        let Some(definition) = experiment.definitions.get(index) else {
            return Ok(());
        };
        let id = definition.id;
        if definition.steps != 0 && self.vm().is_hypervisor() {
            return Err(BadTrace::Steps(id));
        }
        let compile = |purpose, code: &[&[u8]]| compile(compiler, id, purpose, code);
        let condition = definition.condition.as_deref();
        let condition = condition.map(|code| compile(Purpose::Condition, &[code]));
        let condition = condition.transpose()?;
        let recorder = Arc::new(Recorder {
            run: run.clone(),
            id,
            condition,
            at_hit: collection(run, definition, Moment::Hit, compiler)?,
            at_step: collection(run, definition, Moment::Step, compiler)?,
            steps: definition.steps,
            passes: definition.passes,
            hits: AtomicU64::new(0),
            usage: AtomicU64::new(0),
        });
        let switch = definition.switch;
        if definition.kind == PointKind::Marker {
            check_marker(definition)?;
            experiment.points.push(Point {
                recorder,
                probe: None,
            });
            self.set_marked(true);
            return Ok(());
        }
        let probe = self.attach_recorder(&recorder);
        let probe = probe.map_err(|refusal| BadTrace::Place(id, refusal))?;
        experiment.points.push(Point {
            recorder,
            probe: Some(probe),
        });
        if switch == Switch::Disabled {
            let disabled = self.disable(probe);
            disabled.map_err(|refusal| BadTrace::Place(id, refusal))?;
        }
        Ok(())
    }

    /// How many system registers a vCPU shows to debuggers.
    fn system_registers(&self) -> usize {
        if self.vm().is_hypervisor() {
            SysReg::ALL.len()
        } else {
            SysReg::GUEST.len()
        }
    }
}

/// Refuses what a marker does not have.
fn check_marker(definition: &Definition) -> Result<(), BadTrace> {
    let mut actions = definition.actions.iter();
    let only_data = actions.all(|(_, action)| *action == Action::Static);
    let is_plain = definition.condition.is_none() && definition.steps == 0;
    if only_data && is_plain {
        Ok(())
    } else {
        Err(BadTrace::MarkerOnly(definition.id))
    }
}

/// What a tracepoint collects at a moment. Its expressions become one program.
fn collection(
    run: &Run,
    definition: &Definition,
    moment: Moment,
    compiler: &dyn Compile,
) -> Result<Collection, BadTrace> {
    let id = definition.id;
    let mut items = Vec::new();
    let mut registers = false;
    let mut expressions: Vec<&[u8]> = Vec::new();
    for action in definition.at(moment) {
        match action {
            Action::Registers => registers = true,
            Action::Memory {
                base,
                offset,
                length,
            } => items.push(Item::Memory {
                base: *base,
                offset: *offset,
                length: *length as usize,
            }),
            Action::Expression(code) => expressions.push(code),
            // There is no data where no marker is.
            Action::Static => {}
        }
    }
    if registers {
        items.push(Item::Registers);
    }
    if !expressions.is_empty() {
        if !run.has_scratch() {
            return Err(BadTrace::FirstExpression(id));
        }
        let program = compile(compiler, id, Purpose::Collection, &expressions)?;
        items.push(Item::Program(program));
    }
    let collection = Collection::new(items.into(), run.system_registers);
    let longest = MAX_FRAME.min(run.buffer.size());
    if collection.fixed().is_some_and(|words| 8 * words > longest) {
        return Err(BadTrace::Frame(id));
    }
    Ok(collection)
}

fn compile(
    compiler: &dyn Compile,
    id: PointId,
    purpose: Purpose,
    code: &[&[u8]],
) -> Result<ProgramRef, BadTrace> {
    let expressions = code.iter().map(|code| Expression { code, purpose });
    let expressions: Vec<_> = expressions.collect();
    let name = format!("tracepoint-{}", id.number);
    let compiled = compiler.compile(&name, &expressions);
    compiled.map_err(|reason| BadTrace::Expression(id, reason))
}

/// Makes programs of a client's expressions.
pub trait Compile {
    /// One program of several expressions ([`ebpf::agent::compile`]), or why there is none.
    fn compile(&self, name: &str, expressions: &[Expression<'_>]) -> Result<ProgramRef, String>;
}

/// Whether more of a definition follows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum More {
    /// The next packet goes on.
    Follows,
    /// That was all.
    Nothing,
}
