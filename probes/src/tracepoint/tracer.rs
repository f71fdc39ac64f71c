//! All tracepoints, and what happens when one fires.

use super::{Event, Tracepoint};
use crate::addr::Gva;
use crate::engine::ShortText;
use crate::event::{EventKind, MAX_CPUS, Rings, TraceEvent};
use crate::machine::{Clock, LiveMemory, VcpuId, VmId};
use crate::programs::ProgramRef;
use crate::similar::Suggestions;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, Ordering};
use ebpf::map::MapId;
use ebpf::{Context, Host, Lost, Object, ReadFault, RunFault};

/// How many similar names a refusal suggests.
const SUGGESTIONS: usize = 3;

/// Where a tracepoint fires.
#[derive(Clone, Copy)]
pub struct Origin<'a> {
    /// Time and the physical CPU.
    pub clock: &'a dyn Clock,
    /// The VM that it concerns; `VmId(0)` for the hypervisor itself.
    pub vm: VmId,
    /// The vCPU that it concerns, if it is one's; else 0.
    pub vcpu: VcpuId,
    /// The memory of the vCPU that has just trapped on this CPU, where that is so.
    pub memory: Option<&'a dyn LiveMemory>,
    /// How long what ends here took, in nanoseconds; 0 where nothing ends.
    pub duration_ns: u64,
}

impl<'a> Origin<'a> {
    /// The hypervisor itself.
    pub fn hypervisor(clock: &'a dyn Clock) -> Self {
        Self::vm(clock, VmId(0))
    }

    /// A VM as a whole.
    pub fn vm(clock: &'a dyn Clock, vm: VmId) -> Self {
        Self {
            clock,
            vm,
            vcpu: VcpuId(0),
            memory: None,
            duration_ns: 0,
        }
    }
}

/// No tracepoint is called so. `Display` tells the user.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NoSuchTracepoint {
    /// What was asked for.
    pub name: String,
    /// Names that may have been meant.
    pub similar: Vec<String>,
}

impl fmt::Display for NoSuchTracepoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no tracepoint {}. ", self.name)?;
        match &self.similar[..] {
            [] => f.write_str("`trace tracepoints` shows them."),
            similar => write!(f, "Did you mean {}?", similar.join(", ")),
        }
    }
}

impl core::error::Error for NoSuchTracepoint {}

/// A program is made for something else. `Display` tells the user.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WrongProgram {
    /// The program.
    pub program: String,
    /// Its section, such as `kprobe/vfs_read`.
    pub section: String,
    /// The tracepoint.
    pub point: String,
}

impl fmt::Display for WrongProgram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} is made for {}, not for {}: there it would read other fields.",
            self.program, self.section, self.point
        )
    }
}

impl core::error::Error for WrongProgram {}

/// Programs without a section, and those of `tp` alone, run anywhere.
fn check_section(point: &Tracepoint, program: &ProgramRef) -> Result<(), WrongProgram> {
    let section = program.program().section();
    let (kind, target) = section.split_once('/').unwrap_or((section, ""));
    let named = target.split_once('/');
    let fits = match kind {
        "" => true,
        "tp" | "tracepoint" => named.is_none_or(|named| named == (point.group(), point.name())),
        _ => false,
    };
    if fits {
        return Ok(());
    }
    Err(WrongProgram {
        program: program.name().to_string(),
        section: section.to_string(),
        point: point.to_string(),
    })
}

/// The rings, and all tracepoints that write into them.
pub struct Tracer {
    cpus: usize,
    rings: Arc<Rings>,
    points: Vec<&'static Tracepoint>,
    /// Whether a CPU is in a tracepoint's program: what fires there is missed.
    busy: [AtomicBool; MAX_CPUS],
}

impl Tracer {
    /// Empty rings for `cpus` physical CPUs, and the tracepoints of `lists`, numbered in order from 1.
    pub fn new(cpus: usize, lists: &[&[&'static Tracepoint]]) -> Self {
        let points: Vec<_> = lists.iter().flat_map(|list| list.iter().copied()).collect();
        for (number, point) in (1..).zip(&points) {
            point.number.store(number, Ordering::Relaxed);
        }
        Self {
            cpus,
            rings: Arc::new(Rings::new(cpus)),
            points,
            busy: [const { AtomicBool::new(false) }; MAX_CPUS],
        }
    }

    /// How many physical CPUs there are.
    pub fn cpus(&self) -> usize {
        self.cpus
    }

    /// The rings of all CPUs.
    pub fn rings(&self) -> &Arc<Rings> {
        &self.rings
    }

    /// All tracepoints, by number.
    pub fn tracepoints(&self) -> &[&'static Tracepoint] {
        &self.points
    }

    /// The tracepoint with that number.
    pub fn tracepoint(&self, number: u32) -> Option<&'static Tracepoint> {
        let index = usize::try_from(number).ok()?.checked_sub(1)?;
        self.points.get(index).copied()
    }

    /// The tracepoints that a user calls `name`: `vmm:page_fault`, `page_fault`, a group (`vmm`, `vmm:*`), or all (`*`).
    pub fn find(&self, name: &str) -> Result<Vec<&'static Tracepoint>, NoSuchTracepoint> {
        let group = name.strip_suffix(":*").unwrap_or(name);
        let is_meant = |point: &&&'static Tracepoint| {
            let whole = (point.group(), point.name());
            name == "*"
                || group == point.group()
                || name == point.name()
                || name.split_once(':') == Some(whole)
        };
        let found: Vec<_> = self.points.iter().filter(is_meant).copied().collect();
        if found.is_empty() {
            return Err(NoSuchTracepoint {
                name: name.to_string(),
                similar: self.similar(name),
            });
        }
        Ok(found)
    }

    fn similar(&self, name: &str) -> Vec<String> {
        let wanted = name.rsplit(':').next().unwrap_or(name);
        let mut suggestions = Suggestions::new(wanted, SUGGESTIONS);
        for point in &self.points {
            suggestions.offer(point.name());
        }
        let near = suggestions.into_names();
        let whole = |name: &String| {
            let named = |point: &&&Tracepoint| point.name() == name;
            self.points.iter().find(named).map(ToString::to_string)
        };
        near.iter().filter_map(whole).collect()
    }

    /// Switches a tracepoint on, to run `program` from now on, or none. A program whose section names another tracepoint, or
    /// a probe, expects another context and is refused.
    pub fn enable(
        &self,
        point: &Tracepoint,
        program: Option<ProgramRef>,
    ) -> Result<(), WrongProgram> {
        if let Some(program) = &program {
            check_section(point, program)?;
        }
        let before = core::mem::replace(&mut *point.program.write(), program);
        point.is_on.store(true, Ordering::Relaxed);
        // Not with the lock: what is freed here takes the allocator's.
        drop(before);
        Ok(())
    }

    /// Switches a tracepoint off and takes its program away.
    pub fn disable(&self, point: &Tracepoint) {
        point.is_on.store(false, Ordering::Relaxed);
        let before = point.program.write().take();
        drop(before);
    }

    /// Whether any is on.
    pub fn is_tracing(&self) -> bool {
        self.points.iter().any(|point| point.is_on())
    }

    /// The tracepoints that run programs of `object`.
    pub(crate) fn users_of(&self, object: &Arc<Object>) -> Vec<String> {
        let uses = |point: &&&'static Tracepoint| {
            let program = point.program.read();
            let object_of = |program: &ProgramRef| Arc::ptr_eq(program.object(), object);
            program.as_ref().is_some_and(object_of)
        };
        let users = self.points.iter().filter(uses);
        users
            .map(|point| alloc::format!("tracepoint {point}"))
            .collect()
    }

    /// The tracepoints that run `program`.
    pub(crate) fn points_running(&self, program: &ProgramRef) -> Vec<&'static Tracepoint> {
        let runs = |point: &&&'static Tracepoint| {
            let own = point.program.read();
            own.as_ref().is_some_and(|own| own.is(program))
        };
        self.points.iter().filter(runs).copied().collect()
    }

    /// A tracepoint that is on fires: writes its event and runs its program. The caller has masked interrupts.
    pub fn fire<E: Event>(&self, event: E, origin: &Origin<'_>) {
        self.fire_words(E::POINT, event.words(), origin);
    }

    fn fire_words(&self, point: &Tracepoint, args: [u64; 4], origin: &Origin<'_>) {
        let cpu = origin.clock.cpu();
        let Some(busy) = self.busy.get(cpu) else {
            return;
        };
        if busy.swap(true, Ordering::Relaxed) {
            point.missed.fetch_add(1, Ordering::Relaxed);
            return;
        }
        point.hits.fetch_add(1, Ordering::Relaxed);
        let event = TraceEvent {
            time_ns: origin.clock.now_ns(),
            kind: EventKind::Tracepoint,
            cpu: cpu as u8,
            vm: origin.vm,
            vcpu: origin.vcpu,
            id: point.number(),
            args,
            duration_ns: origin.duration_ns,
            pc: Gva(0),
            origin: EventKind::Tracepoint,
        };
        self.rings.write(&event);
        // The server that holds it for writing switches this very tracepoint.
        if let Some(program) = point.program.try_read()
            && let Some(program) = &*program
        {
            self.run(point, program, &event, origin);
        }
        busy.store(false, Ordering::Relaxed);
    }

    fn run(
        &self,
        point: &Tracepoint,
        program: &ProgramRef,
        event: &TraceEvent,
        origin: &Origin<'_>,
    ) {
        let mut context: Context = [0; size_of::<Context>() / 8];
        context[..event.args.len()].copy_from_slice(&event.args);
        let host = TraceHost {
            rings: &self.rings,
            point,
            event,
            origin,
        };
        // A hit of a probe is an exception. This is a function call, and the program may be new.
        origin.clock.synchronize();
        if let Err(error) = program.program().run(&context, &host) {
            point.missed.fetch_add(1, Ordering::Relaxed);
            if error.fault == RunFault::Nested {
                return;
            }
            let mut text = ShortText::new();
            // Writing to a `ShortText` does not fail.
            let _ = write!(text, "{}: {error}", program.name());
            let head = event.says(EventKind::ProgramError);
            self.rings.write_text(&head, text.as_bytes());
        }
    }
}

/// What a tracepoint's program may ask for.
struct TraceHost<'a> {
    rings: &'a Rings,
    point: &'a Tracepoint,
    event: &'a TraceEvent,
    origin: &'a Origin<'a>,
}

impl Host for TraceHost<'_> {
    fn ktime_ns(&self) -> u64 {
        self.origin.clock.now_ns()
    }

    fn cpu(&self) -> usize {
        usize::from(self.event.cpu)
    }

    fn duration_ns(&self) -> Option<u64> {
        let duration = self.event.duration_ns;
        (duration != 0).then_some(duration)
    }

    fn read_guest(&self, address: u64, buffer: &mut [u8]) -> Result<(), ReadFault> {
        let memory = self.origin.memory.ok_or(ReadFault)?;
        memory.inspect(Gva(address), buffer).map_err(|_| ReadFault)
    }

    fn vm(&self) -> u32 {
        self.event.vm.0.into()
    }

    fn vcpu(&self) -> u32 {
        self.event.vcpu.0.into()
    }

    fn exit_syndrome(&self) -> u64 {
        self.origin.memory.map_or(0, LiveMemory::exit_syndrome)
    }

    fn tracepoint(&self) -> Option<(&'static str, &'static str)> {
        Some((self.point.group(), self.point.name()))
    }

    fn print(&self, text: &[u8]) {
        let head = self.event.says(EventKind::Print);
        self.rings.write_text(&head, text);
    }

    fn record(&self, map: MapId, length: usize, words: &dyn Fn(usize) -> u64) -> Result<(), Lost> {
        let head = self.event.gives(map);
        self.rings.write_words(&head, length, words)
    }
}

#[cfg(test)]
mod tests;
