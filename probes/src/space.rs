//! One VM, or the hypervisor itself, as the debugger sees it: its breakpoints, probes, hardware points and symbols.

use crate::addr::{Gpa, Gva};
use crate::build_id;
use crate::engine::Reported;
use crate::event::{ARGS, EventKind, MAX_CPUS, Rings, TraceEvent};
use crate::fixed::filled;
use crate::gdb_trace::recorder::{Recorder, Walk};
use crate::gdb_trace::{Experiment, Variables};
use crate::kernel::{self, NoKernel};
use crate::kernel_file::{self, Contents, KernelFile, NoFile};
use crate::kernel_memory;
use crate::kernel_types::{self, NoTypes};
use crate::machine::{HwPoint, Machine, VcpuId, VmId, VmState};
use crate::modules::{Change, Modules, Scrutiny, WithModules};
use crate::options::Moment;
pub use crate::options::{AfterRun, Lifetime, Orders, ProbeMode, ProbeOptions};
use crate::own_code::{Hypervisor, Probeable};
use crate::programs::ProgramRef;
use crate::refusal::Refusal;
use crate::registry::{Entry, Registry, Standing, Surroundings, Wish, address_of};
use crate::symbols::{Located, Symbols};
use crate::system_map::SystemMap;
use crate::target::Target;
use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::num::NonZeroU64;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use ebpf::Object;
use ebpf::helper::Helper;
use ebpf::signature::{At, Signature};
use ebpf::task::TaskFields;
use spin::{Mutex, MutexGuard, RwLock};

/// How many sites a VM can have.
pub const MAX_SITES: usize = 1024;

/// Number of a probe or action in its space, from 1. Never used again.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord, Hash)]
pub struct ProbeId(pub u32);

impl fmt::Display for ProbeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// How a breakpoint or probe has been accepted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Placement {
    /// It is armed there.
    Armed {
        /// The site's address: the next instruction where the user's address is a landing pad of a
        /// guarded page.
        address: Gva,
    },
    /// Its page is not mapped yet: it arms itself when it is.
    Pending,
}

/// What kind of thing an entry of a [`Listing`] is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ProbeKind {
    /// A breakpoint of GDB's.
    Breakpoint,
    /// A probe on a guest function.
    Kprobe,
    /// A probe on the returns of a guest function.
    Kretprobe,
    /// A probe on a function of the hypervisor's own.
    Hprobe,
    /// A probe on the returns of a function of the hypervisor's own.
    Hretprobe,
    /// A program on a breakpoint of GDB's.
    Action,
    /// A GDB tracepoint.
    GdbTracepoint,
}

impl ProbeKind {
    /// Whether it is on the returns of a function.
    pub const fn is_on_returns(self) -> bool {
        matches!(self, Self::Kretprobe | Self::Hretprobe)
    }
}

/// Whether hits of an entry count now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ProbeState {
    /// Armed.
    On,
    /// Its code is not there yet; it arms itself.
    Pending,
    /// Switched off, a breakpoint that GDB has removed, or an action whose breakpoint GDB has not
    /// set.
    Disarmed,
    /// It has had all the hits of its limit.
    Done,
}

/// One line of `trace list`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listing {
    /// Its number; a GDB breakpoint has none.
    pub id: Option<ProbeId>,
    /// What it is.
    pub kind: ProbeKind,
    /// The place as a user reads it: `do_sys_openat2+0x4`, or an address.
    pub site: String,
    /// The place's address, once known.
    pub address: Option<Gva>,
    /// How it traps.
    pub mode: ProbeMode,
    /// The program, and whether it is interpreted where others are compiled; `None`: it only counts.
    pub program: Option<String>,
    /// What happens after the program.
    pub after: AfterRun,
    /// Whether it is armed.
    pub state: ProbeState,
    /// The only vCPU whose hits it takes.
    pub vcpu: Option<VcpuId>,
    /// After how many hits it is done.
    pub limit: Option<NonZeroU64>,
    /// How often it was hit, and its program has run.
    pub hits: u64,
    /// How often the program ended with an error; in the hypervisor's own code, also hits from inside a probe, where it
    /// did not run. On the returns of a function, also calls whose return went
    /// by unseen.
    pub missed: u64,
}

/// One VM as the debugger sees it.
///
/// What changes a space, and the debugger's own writes to the VM's memory, come from one server at
/// a time: arming changes the execute view with the registry locked, and a write makes sites
/// [`adopt`](Space::adopt) with the view locked. The hit path may run on all CPUs meanwhile.
pub struct Space {
    vm: VmId,
    machine: &'static dyn Machine,
    events: Arc<Rings>,
    /// What GDB's breakpoints run.
    stop: ProgramRef,
    symbols: RwLock<Option<Arc<dyn Symbols>>>,
    /// Which functions can be probed, in the hypervisor's own space.
    probeable: Option<Probeable>,
    kernel: Mutex<KernelSearch>,
    /// The symbols that a user has loaded, where their kernel was linked to.
    loaded: Mutex<Option<Arc<SystemMap>>>,
    modules: Mutex<Modules>,
    /// Where the kernel keeps the fields of its tasks, once a program has asked for it.
    tasks: RwLock<Option<TaskFields>>,
    /// The file of the kernel, and of which table of symbols it was made.
    file: Mutex<Option<(u64, Arc<KernelFile>)>>,
    /// Whether a program has asked for it that came before the kernel.
    wants_tasks: AtomicBool,
    /// Whether anything is armed in a module.
    in_modules: AtomicBool,
    /// Counts the tables of symbols that there have been.
    generation: AtomicU64,
    /// Written only while the VM is held.
    pub(crate) registry: RwLock<Registry>,
    /// Whether anything waits for its page or its symbol.
    waits: AtomicBool,
    /// Whether a probe has had its last hit and is still armed.
    done: AtomicBool,
    /// Whether there are probes or actions.
    probed: AtomicBool,
    /// Until when, in nanoseconds, nothing is armed, because the guest puts another kernel in the place of its own.
    between_kernels: AtomicU64,
    pub(crate) reported: [Reported; MAX_CPUS],
    /// Written by one server at a time. Never taken on the hit path.
    pub(crate) experiment: Mutex<Experiment>,
    variables: Variables,
    pub(crate) walks: Box<[Walk; MAX_CPUS]>,
    /// Whether a GDB tracepoint is at a static tracepoint marker.
    marked: AtomicBool,
    /// Whether a trace run has stopped on the hit path, and its tracepoints are still armed.
    run_ended: AtomicBool,
}

/// How long a search for a kernel that has found nothing stands, in nanoseconds.
const SEARCH_PAUSE: u64 = 1_000_000_000;

/// How long a new kernel has to say that it has begun ([`Space::kernel_begins`]), in nanoseconds. Then what waits is tried
/// again in any case.
pub(crate) const KERNEL_PAUSE: u64 = 2_000_000_000;

/// What is known of the guest's kernel.
#[derive(Default)]
struct KernelSearch {
    banner: Option<String>,
    /// Its own symbols, without its modules'.
    symbols: Option<Arc<dyn Symbols>>,
    /// Why the last search found nothing, and until when that is taken for the answer.
    failed: Option<(NoKernel, u64)>,
}

/// A hold on a VM that ends with its scope.
struct Hold(&'static dyn Machine);

impl Hold {
    fn of(machine: &'static dyn Machine) -> Self {
        machine.hold();
        Self(machine)
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.0.release();
    }
}

impl Space {
    /// A space without breakpoints or symbols. `stop` is what GDB's breakpoints run.
    pub(crate) fn new(machine: &'static dyn Machine, events: Arc<Rings>, stop: ProgramRef) -> Self {
        Self {
            vm: machine.vm(),
            machine,
            events,
            stop,
            symbols: RwLock::new(None),
            probeable: None,
            kernel: Mutex::new(KernelSearch::default()),
            loaded: Mutex::new(None),
            modules: Mutex::new(Modules::default()),
            tasks: RwLock::new(None),
            file: Mutex::new(None),
            wants_tasks: AtomicBool::new(false),
            in_modules: AtomicBool::new(false),
            generation: AtomicU64::new(0),
            registry: RwLock::new(Registry::new()),
            waits: AtomicBool::new(false),
            done: AtomicBool::new(false),
            probed: AtomicBool::new(false),
            between_kernels: AtomicU64::new(0),
            reported: [const { Reported::new() }; MAX_CPUS],
            experiment: Mutex::new(Experiment::new()),
            variables: Variables::new(),
            walks: filled(Walk::new),
            marked: AtomicBool::new(false),
            run_ended: AtomicBool::new(false),
        }
    }

    /// The hypervisor's own space.
    pub(crate) fn of_hypervisor(own: Hypervisor, events: Arc<Rings>, stop: ProgramRef) -> Self {
        let space = Self {
            probeable: Some(own.probeable),
            ..Self::new(own.machine, events, stop)
        };
        if let Some(symbols) = own.symbols {
            space.set_symbols(symbols);
        }
        space
    }

    /// Which VM.
    #[inline]
    pub fn vm(&self) -> VmId {
        self.vm
    }

    /// The VM itself.
    pub fn machine(&self) -> &'static dyn Machine {
        self.machine
    }

    #[inline]
    pub(crate) fn events(&self) -> &Rings {
        &self.events
    }

    /// Whether the function of this name can carry probes, as far as its name tells.
    pub fn allows_probes_in(&self, function: &str) -> bool {
        let rule = self.probeable.as_ref();
        rule.is_none_or(|rule| rule.allows(function))
    }

    /// The symbols, once they are known.
    pub fn symbols(&self) -> Option<Arc<dyn Symbols>> {
        self.symbols.read().clone()
    }

    /// Gives the space its symbols. Probes that wait for a symbol arm at the next
    /// [`Space::attend`].
    pub fn set_symbols(&self, symbols: Arc<dyn Symbols>) {
        self.kernel.lock().symbols = Some(symbols.clone());
        *self.modules.lock() = Modules::default();
        self.publish(symbols);
    }

    /// From now on these are the symbols.
    fn publish(&self, symbols: Arc<dyn Symbols>) {
        *self.symbols.write() = Some(symbols);
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// The symbols, looked for in the running kernel where they are not known yet. A search that finds nothing is not
    /// repeated at once: it may read tens of MiB.
    pub fn find_symbols(&self) -> Result<Arc<dyn Symbols>, NoKernel> {
        if self.symbols().is_some() {
            self.follow_modules();
        }
        if let Some(symbols) = self.symbols() {
            return Ok(symbols);
        }
        let mut search = self.kernel.lock();
        let now = self.machine.now_ns();
        if let Some((reason, until)) = search.failed
            && now < until
        {
            return Err(reason);
        }
        if let Some(map) = self.loaded.lock().clone() {
            let symbols: Arc<dyn Symbols> = Arc::new(map.at(map.slide(self.machine)?));
            drop(search);
            self.set_symbols(symbols.clone());
            self.follow_modules();
            return Ok(self.symbols().unwrap_or(symbols));
        }
        match kernel::find(self.machine) {
            Ok(found) => {
                let symbols: Arc<dyn Symbols> = Arc::new(found.symbols);
                *search = KernelSearch {
                    banner: Some(found.banner),
                    ..KernelSearch::default()
                };
                drop(search);
                self.set_symbols(symbols.clone());
                self.follow_modules();
                Ok(self.symbols().unwrap_or(symbols))
            }
            Err(reason) => {
                if let NoKernel::NoSymbols(_) = reason {
                    search.failed = Some((reason, now + SEARCH_PAUSE));
                }
                Err(reason)
            }
        }
    }

    /// Takes the symbols of a `System.map` instead of the kernel's own, now and after every reset. Returns how far the
    /// kernel that runs is from where the map has it (KASLR), or why that is not known yet; then they are taken when
    /// somebody first asks for a symbol.
    pub fn load_symbols(&self, map: SystemMap) -> Result<u64, NoKernel> {
        let map = Arc::new(map);
        *self.symbols.write() = None;
        *self.loaded.lock() = Some(map.clone());
        let slide = map.slide(self.machine)?;
        self.set_symbols(Arc::new(map.at(slide)));
        Ok(slide)
    }

    /// Looks whether the guest's kernel has loaded or unloaded modules since the last time.
    fn follow_modules(&self) {
        if self.vm().is_hypervisor() {
            return;
        }
        let Some(kernel) = self.kernel.lock().symbols.clone() else {
            return;
        };
        let scrutiny = if self.in_modules.load(Ordering::Relaxed) {
            Scrutiny::Everything
        } else {
            Scrutiny::Arrivals
        };
        let change = self.modules.lock().look(self.machine, &*kernel, scrutiny);
        let Some(Change { modules, gone }) = change else {
            return;
        };
        self.publish(Arc::new(WithModules { kernel, modules }));
        if !gone.is_empty() {
            self.edit(|registry, around| {
                registry.modules_gone(around, &gone, &mut |entry, gone| {
                    let module = &gone.name;
                    self.say(
                        entry,
                        format_args!("is disarmed: module {module} is unloaded"),
                    );
                });
            });
        }
    }

    /// What the kernel whose symbols are known says of itself at boot: `Linux version 6.12…`.
    pub fn kernel_banner(&self) -> Option<String> {
        self.kernel.lock().banner.clone()
    }

    /// Changes the registry with the VM held. The hold comes before the lock: a vCPU on the hit
    /// path reads the registry before it can be held.
    fn edit<T>(&self, change: impl FnOnce(&mut Registry, &Surroundings<'_>) -> T) -> T {
        // In this order: symbols that are newer than their number are looked through once more.
        let generation = self.generation.load(Ordering::Acquire);
        let symbols = self.symbols();
        let around = Surroundings {
            machine: self.machine,
            symbols: symbols.as_deref(),
            generation,
            probeable: self.probeable.as_ref(),
        };
        let _hold = Hold::of(self.machine);
        let mut registry = self.registry.write();
        let result = change(&mut registry, &around);
        self.waits.store(registry.waits(), Ordering::Relaxed);
        let modules = self.modules.lock();
        let mut armed = registry.armed_addresses();
        let in_modules = armed.any(|address| modules.cover(address));
        self.in_modules.store(in_modules, Ordering::Relaxed);
        drop(armed);
        self.probed.store(registry.has_probes(), Ordering::Relaxed);
        result
    }

    // ---- GDB's breakpoints ----

    /// Sets a breakpoint of GDB's (`Z0`) at `address` as `vcpu` sees it. Where it was set before,
    /// its hit count and actions are back. An address that is not mapped is accepted and waits.
    pub fn insert_breakpoint(&self, address: Gva, vcpu: VcpuId) -> Result<Placement, Refusal> {
        let orders = Orders {
            program: self.stop.clone(),
            after: AfterRun::Stop,
            lifetime: Lifetime::Client,
        };
        self.insert_breakpoint_with(address, vcpu, &orders)
    }

    /// The same with a program that says whether a hit stops.
    pub fn insert_breakpoint_with(
        &self,
        address: Gva,
        vcpu: VcpuId,
        orders: &Orders,
    ) -> Result<Placement, Refusal> {
        self.edit(|registry, around| registry.insert_breakpoint(around, address, vcpu, orders))
    }

    /// Whether the breakpoint of GDB's at `pc` is there for its commands only, so that it stops only where one fails.
    pub fn goes_on_at(&self, pc: Gva) -> bool {
        self.registry.read().goes_on_at(pc)
    }

    /// Takes a breakpoint of GDB's away (`z0`). It stays armed until [`Space::reconcile`], because
    /// GDB removes all its breakpoints at every stop and sets them again before it resumes. No
    /// effect where there is none.
    pub fn remove_breakpoint(&self, address: Gva) {
        self.edit(|registry, _| registry.remove_breakpoint(address));
    }

    /// Forgets all breakpoints, hardware points and hit counts of GDB's: its session has ended.
    /// Actions stay, and wait for the next session's breakpoint.
    pub fn forget_breakpoints(&self) {
        self.edit(|registry, around| registry.forget_breakpoints(around));
    }

    /// Disarms the breakpoints that GDB has removed since the last call and not set again. A
    /// session calls this just before it resumes.
    pub fn reconcile(&self) {
        self.edit(|registry, around| registry.reconcile(around));
    }

    /// Sets a hardware breakpoint or a watchpoint (`Z1` to `Z4`).
    pub fn insert_hw(&self, point: HwPoint) -> Result<(), Refusal> {
        self.edit(|registry, around| registry.insert_hw(around, point, None))
    }

    /// The same with a program that says whether a hit stops.
    pub fn insert_hw_with(&self, point: HwPoint, orders: &Orders) -> Result<(), Refusal> {
        self.edit(|registry, around| registry.insert_hw(around, point, Some(orders)))
    }

    /// Takes a hardware point away. No effect where there is none.
    pub fn remove_hw(&self, point: HwPoint) {
        self.edit(|registry, around| registry.remove_hw(around, point));
    }

    // ---- Probes ----

    /// Attaches a probe to the code at `target`, which runs `program`; without one it only counts.
    /// The VM may run.
    pub fn attach_probe(
        &self,
        target: &Target,
        program: impl Into<Option<ProgramRef>>,
        options: impl Into<ProbeOptions>,
    ) -> Result<(ProbeId, Placement), Refusal> {
        let wish = self.wish(target, program.into(), options.into())?;
        self.edit(|registry, around| {
            let (id, placement) = registry.attach_probe(around, wish)?;
            Ok((ProbeId(id), placement))
        })
    }

    /// Runs `program` at GDB's breakpoint at `target` (a symbol also means a breakpoint further
    /// into the function: GDB skips prologues). GDB sets its breakpoints only when it resumes: an
    /// action without breakpoint waits. The VM may run.
    pub fn attach_action(
        &self,
        target: &Target,
        program: ProgramRef,
        options: impl Into<ProbeOptions>,
    ) -> Result<ProbeId, Refusal> {
        let wish = self.wish(target, Some(program), options.into())?;
        self.edit(|registry, around| registry.attach_action(around, wish).map(ProbeId))
    }

    /// Attaches a GDB tracepoint. The VM may run.
    pub(crate) fn attach_recorder(&self, recorder: &Arc<Recorder>) -> Result<ProbeId, Refusal> {
        let target = Target::Address(recorder.id.address);
        let wish = Wish {
            recorder: Some(recorder.clone()),
            ..self.wish(&target, None, ProbeOptions::default())?
        };
        self.edit(|registry, around| {
            let (id, _) = registry.attach_probe(around, wish)?;
            Ok(ProbeId(id))
        })
    }

    /// Detaches GDB tracepoints, of which a user may have detached some already, and ends their steps.
    pub(crate) fn detach_recorders(&self, ids: &[ProbeId]) {
        let _hold = Hold::of(self.machine);
        self.walks.iter().for_each(Walk::clear);
        for id in ids {
            let _ = self.detach(*id);
        }
    }

    /// Whether a GDB tracepoint is at a static tracepoint marker.
    pub fn is_marked(&self) -> bool {
        self.marked.load(Ordering::Relaxed)
    }

    pub(crate) fn set_marked(&self, marked: bool) {
        self.marked.store(marked, Ordering::Relaxed);
    }

    /// The trace experiment.
    pub fn experiment(&self) -> MutexGuard<'_, Experiment> {
        self.experiment.lock()
    }

    /// The trace state variables.
    pub fn variables(&self) -> &Variables {
        &self.variables
    }

    /// Finds a target's address, before the VM is held: symbols are many.
    fn wish<'a>(
        &self,
        target: &'a Target,
        program: Option<ProgramRef>,
        options: ProbeOptions,
    ) -> Result<Wish<'a>, Refusal> {
        if target.is_symbol() {
            // Without symbols the wish waits for them; the hypervisor's own do not come later.
            if let Err(NoKernel::Hypervisor) = self.find_symbols() {
                return Err(Refusal::NoOwnSymbols);
            }
        }
        let address = address_of(self.vm(), self.symbols().as_deref(), target)?;
        if let Some(program) = &program {
            check_moment(program, options.moment)?;
        }
        if program.as_ref().is_some_and(asks_for_tasks) {
            self.find_tasks()?;
        }
        Ok(Wish {
            target,
            address,
            program,
            options,
            recorder: None,
        })
    }

    /// Finds where the kernel keeps the fields of its tasks, or leaves that for when there is a kernel.
    fn find_tasks(&self) -> Result<(), Refusal> {
        if self.vm().is_hypervisor() || self.tasks.read().is_some() {
            return Ok(());
        }
        let Ok(symbols) = self.find_symbols() else {
            self.wants_tasks.store(true, Ordering::Relaxed);
            return Ok(());
        };
        match kernel_types::task_fields(self.machine, &*symbols) {
            Ok(fields) => {
                *self.tasks.write() = Some(fields);
                Ok(())
            }
            Err(reason) => Err(Refusal::NoTasks {
                vm: self.vm(),
                reason,
            }),
        }
    }

    /// The types that the guest's kernel carries, in the BTF format: what programs are linked with. Several MiB, read
    /// from memory that a kernel does not change; they are the guest's, and not to be trusted.
    pub fn kernel_types(&self) -> Result<Vec<u8>, NoTypes> {
        let symbols = self.find_symbols().map_err(NoTypes::NoKernel)?;
        kernel_types::read(self.machine, &*symbols)
    }

    /// Whether there is a kernel that [`Space::kernel_file`] can be made of.
    pub fn has_kernel_file(&self) -> bool {
        let symbols = self.find_symbols();
        !self.vm().is_hypervisor()
            && symbols.is_ok_and(|symbols| kernel_file::is_of_kernel(&*symbols))
    }

    /// What tells [`Space::kernel_file`] from others, without making it.
    pub fn kernel_file_identity(&self) -> Result<kernel_file::Identity, NoFile> {
        let symbols = self.find_symbols().map_err(NoFile::NoKernel)?;
        let build_id = build_id::read(self.machine, &*symbols).ok_or(NoFile::NoBuildId)?;
        let mut identity = kernel_file::Identity::of(&*symbols, build_id)?;
        self.modules.lock().each_function(|module, address, name| {
            identity = identity.with_function(module, address.0, name);
        });
        Ok(identity)
    }

    /// A file for debuggers of the kernel that runs, with its modules as they are now. There is one at a time, and another
    /// when modules have come or gone.
    pub fn kernel_file(&self) -> Result<Arc<KernelFile>, NoFile> {
        let symbols = self.find_symbols().map_err(NoFile::NoKernel)?;
        let generation = self.generation.load(Ordering::Acquire);
        let mut kept = self.file.lock();
        if let Some((of, file)) = &*kept
            && *of == generation
        {
            return Ok(file.clone());
        }
        // Not both at a time.
        *kept = None;
        let file = KernelFile::open(Contents {
            symbols: &*symbols,
            // Without types the file has the symbols all the same.
            types: kernel_types::read(self.machine, &*symbols).ok(),
            build_id: build_id::read(self.machine, &*symbols).map(Vec::from),
            code: kernel_memory::reader(self.machine, &*symbols),
        })?;
        let file = Arc::new(file);
        *kept = Some((generation, file.clone()));
        Ok(file)
    }

    /// Where the kernel keeps the fields of its tasks.
    pub(crate) fn task_fields(&self) -> Option<TaskFields> {
        *self.tasks.read()
    }

    /// Detaches a probe or an action. The VM may run.
    pub fn detach(&self, id: ProbeId) -> Result<(), Refusal> {
        self.edit(|registry, around| registry.detach(around, id.0))
    }

    /// Switches a probe or an action on that was off or has had all the hits of its limit: it takes
    /// as many again. The VM may run.
    pub fn enable(&self, id: ProbeId) -> Result<Placement, Refusal> {
        self.edit(|registry, around| registry.enable(around, id.0))
    }

    /// Switches a probe or an action off, and keeps it with its counts. The VM may run.
    pub fn disable(&self, id: ProbeId) -> Result<(), Refusal> {
        self.edit(|registry, around| registry.disable(around, id.0))
    }

    /// Everything that is set or attached, in the order of its coming. Breakpoints that GDB has
    /// deleted are not.
    pub fn list(&self) -> Vec<Listing> {
        let symbols = self.symbols();
        let registry = self.registry.read();
        let listed = |entry: &&Entry| {
            entry.kind != ProbeKind::Breakpoint || entry.standing != Standing::Idle
        };
        let list = registry.entries.iter().filter(listed);
        list.map(|entry| listing(entry, symbols.as_deref()))
            .collect()
    }

    /// As [`Listing::site`], of one probe or action: `None` once it is detached.
    pub fn probe_site(&self, id: ProbeId) -> Option<String> {
        let symbols = self.symbols();
        let registry = self.registry.read();
        let mut entries = registry.entries.iter();
        let entry = entries.find(|entry| entry.attachment.probe == Some(id.0))?;
        Some(site_name(entry, symbols.as_deref()))
    }

    /// Whether anything is attached whose hits write events.
    pub fn is_probed(&self) -> bool {
        self.probed.load(Ordering::Relaxed)
    }

    /// Who runs programs of `object`, such as `vm1 probe 3`.
    pub(crate) fn users_of(&self, object: &Arc<Object>) -> Vec<String> {
        let registry = self.registry.read();
        let uses = |entry: &&Entry| {
            let program = entry.attachment.program.as_ref();
            program.is_some_and(|program| Arc::ptr_eq(program.object(), object))
        };
        let users = registry.entries.iter().filter(uses);
        users
            .filter_map(|entry| entry.attachment.probe)
            .map(|probe| format!("{} probe {probe}", self.vm()))
            .collect()
    }

    /// The probes and actions that run `program`.
    pub(crate) fn probes_running(&self, program: &ProgramRef) -> Vec<ProbeId> {
        let registry = self.registry.read();
        let runs = |entry: &&Entry| {
            let own = entry.attachment.program.as_ref();
            own.is_some_and(|own| own.is(program))
        };
        let running = registry.entries.iter().filter(runs);
        running
            .filter_map(|entry| entry.attachment.probe.map(ProbeId))
            .collect()
    }

    // ---- What the hypervisor calls ----

    /// Whether there may be something for [`Space::attend`]: anything waits for its page or its symbol, has
    /// had its last hit, or is armed in a module, which may go.
    pub fn wants_attention(&self) -> bool {
        let any = [&self.waits, &self.done, &self.in_modules, &self.run_ended];
        any.iter().any(|flag| flag.load(Ordering::Relaxed))
    }

    /// The hit path has something for [`Space::attend`].
    pub(crate) fn wait(&self) {
        self.waits.store(true, Ordering::Relaxed);
        self.machine.notify_server();
    }

    /// Disarms what has had its last hit and what is in a module that has gone, and arms what has been
    /// waiting and can be armed now. The hypervisor calls this from a periodic tick, after stops, and where
    /// [`Machine::notify_server`] asks for it; cheap where there is nothing to do.
    pub fn attend(&self) {
        if self.done.swap(false, Ordering::Relaxed) {
            self.edit(|registry, around| {
                registry.retire_done(around, &mut |entry| self.tell_done(entry));
            });
        }
        if self.run_ended.swap(false, Ordering::Relaxed) {
            self.retire_run();
        }
        let must_wait = self.machine.now_ns() < self.between_kernels.load(Ordering::Relaxed);
        if must_wait || !self.wants_attention() || self.machine.state() != VmState::Running {
            return;
        }
        let wants_symbols = self.registry.read().wants_symbols();
        if wants_symbols || self.in_modules.load(Ordering::Relaxed) {
            // Where the kernel is not up yet, there is a next time.
            let _ = self.find_symbols();
        }
        if self.wants_tasks.load(Ordering::Relaxed) && self.symbols.read().is_some() {
            self.wants_tasks.store(false, Ordering::Relaxed);
            // A program whose questions have no answer is told so when it asks.
            let _ = self.find_tasks();
        }
        // What waits for its module may wait long: the VM is not held for it at every tick.
        let generation = self.generation.load(Ordering::Acquire);
        if !self.registry.read().has_new_chance(generation) {
            return;
        }
        self.edit(|registry, around| {
            registry.retry_pending(around, &mut |entry, refusal| self.tell(entry, refusal));
        });
    }

    /// On the hit path: a probe has had its last hit.
    pub(crate) fn note_done(&self) {
        self.done.store(true, Ordering::Relaxed);
        self.machine.notify_server();
    }

    /// On the hit path: a trace run has stopped.
    pub(crate) fn note_run_ended(&self) {
        self.run_ended.store(true, Ordering::Relaxed);
        self.machine.notify_server();
    }

    /// Says that an entry has been armed at last, or why it never will.
    fn tell(&self, entry: &Entry, refusal: Option<&Refusal>) {
        match refusal {
            None => self.say(entry, format_args!("is armed now")),
            Some(refusal) => self.say(entry, format_args!("is given up: {refusal}")),
        }
    }

    fn tell_done(&self, entry: &Entry) {
        let hits = entry.attachment.hits.load(Ordering::Relaxed);
        self.say(entry, format_args!("is done after {hits} hits"));
    }

    /// Says what has become of an entry.
    fn say(&self, entry: &Entry, news: fmt::Arguments<'_>) {
        let what = match entry.kind {
            ProbeKind::Breakpoint => "breakpoint",
            ProbeKind::Kprobe => "kprobe",
            ProbeKind::Kretprobe => "kretprobe",
            ProbeKind::Hprobe => "hprobe",
            ProbeKind::Hretprobe => "hretprobe",
            ProbeKind::Action => "action",
            ProbeKind::GdbTracepoint => "tracepoint",
        };
        let vm = self.vm();
        let text = format!("{what} {vm}:{} {news}", entry.target);
        let event = TraceEvent {
            time_ns: self.machine.now_ns(),
            kind: EventKind::Note,
            cpu: self.machine.cpu() as u8,
            vm,
            vcpu: VcpuId(0),
            id: entry.attachment.probe.unwrap_or(0),
            args: [0; ARGS],
            duration_ns: 0,
            pc: entry.address.unwrap_or_default(),
            origin: entry.attachment.event().unwrap_or(EventKind::probe_in(vm)),
        };
        self.events.write_text(&event, text.as_bytes());
    }

    /// The guest starts anew: every site waits for its code again and symbols are forgotten.
    pub fn guest_reset(&self) {
        *self.symbols.write() = None;
        *self.kernel.lock() = KernelSearch::default();
        *self.modules.lock() = Modules::default();
        *self.file.lock() = None;
        let knew_tasks = self.tasks.write().take().is_some();
        self.wants_tasks.fetch_or(knew_tasks, Ordering::Relaxed);
        self.edit(|registry, around| registry.guest_reset(around));
        self.reported.iter().for_each(Reported::clear);
    }

    /// Whether [`Space::kernel_begins`] may have something to do.
    pub fn awaits_kernel(&self) -> bool {
        self.between_kernels.load(Ordering::Relaxed) != 0 || self.symbols.read().is_some()
    }

    /// The guest puts another kernel in the place of its own (kexec): everything is disarmed and waits for the new one
    /// to begin.
    pub fn kernel_left(&self) {
        self.guest_reset();
        let until = self.machine.now_ns().saturating_add(KERNEL_PAUSE);
        self.between_kernels.store(until, Ordering::Relaxed);
    }

    /// A kernel has begun to run in the guest, mapped where it will stay, or the guest asks for something that kernels
    /// ask for then. If it has left its kernel, or runs another than the one whose symbols are known, everything is as
    /// after a reset, and what can be armed in the new kernel is armed when this returns. The VM is held. Returns whether
    /// it is another one.
    pub fn kernel_begins(&self) -> bool {
        let has_left = self.between_kernels.swap(0, Ordering::Relaxed) != 0;
        let runs_another = || {
            let banner = self.kernel_banner();
            let runs = |symbols: Arc<dyn Symbols>| {
                kernel::still_runs(self.machine, &*symbols, banner.as_deref())
            };
            self.symbols().is_some_and(|symbols| !runs(symbols))
        };
        if !has_left && !runs_another() {
            return false;
        }
        self.guest_reset();
        self.attend();
        true
    }

    /// The guest has written `instruction` to the word at `gpa`: if that is a site, this is what it
    /// displaces now. The VM may run.
    pub fn adopt(&self, gpa: Gpa, instruction: u32) {
        let registry = self.registry.read();
        if let Some(site) = registry.table.at(gpa) {
            site.displaced.store(instruction, Ordering::Release);
        }
    }

    /// Whether GDB has a hardware breakpoint at `pc`.
    pub fn has_hw_breakpoint(&self, pc: Gva) -> bool {
        let registry = self.registry.read();
        registry.hw_breakpoint(pc).is_some()
    }
}

/// Refuses a program that wants a function's arguments as they are at another moment.
fn check_moment(program: &ProgramRef, moment: Moment) -> Result<(), Refusal> {
    let wanted = match (program.program().signature().map(Signature::at), moment) {
        (Some(At::Entry), Moment::Return { .. }) => At::Entry,
        (Some(At::Return), Moment::Before) => At::Return,
        _ => return Ok(()),
    };
    Err(Refusal::WrongMoment {
        program: program.name().into(),
        wanted,
    })
}

/// Whether a program calls a helper that looks into the current task.
fn asks_for_tasks(program: &ProgramRef) -> bool {
    program.program().calls(Helper::reads_task)
}

fn listing(entry: &Entry, symbols: Option<&dyn Symbols>) -> Listing {
    let options = &entry.attachment.options;
    let state = match entry.standing {
        _ if entry.attachment.is_done() => ProbeState::Done,
        Standing::Placed(_) | Standing::Leaving(_) | Standing::Hardware(_) => ProbeState::On,
        Standing::Covered(_) | Standing::Pending => ProbeState::Pending,
        Standing::Idle => ProbeState::Disarmed,
    };
    let mode = match entry.standing {
        Standing::Covered(_) => ProbeMode::Hw,
        _ => options.mode,
    };
    let program = entry.attachment.program.as_ref();
    Listing {
        id: entry.attachment.probe.map(ProbeId),
        kind: entry.kind,
        site: site_name(entry, symbols),
        address: entry.address,
        mode,
        program: program.map(ToString::to_string),
        after: options.after,
        state,
        vcpu: options.vcpu,
        limit: options.limit,
        hits: entry.attachment.hits.load(Ordering::Relaxed),
        missed: entry.attachment.missed.load(Ordering::Relaxed),
    }
}

/// A place as its user named it; an address by its symbol, where it has one.
fn site_name(entry: &Entry, symbols: Option<&dyn Symbols>) -> String {
    let located = match (&entry.target, symbols) {
        (Target::Address(address), Some(symbols)) => symbols.by_address(*address),
        _ => None,
    };
    match located {
        Some(Located { name, offset }) => Target::Symbol { name, offset }.to_string(),
        None => entry.target.to_string(),
    }
}
