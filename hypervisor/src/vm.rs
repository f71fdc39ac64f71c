//! A guest: its memory, its devices, its vCPUs, and the holds that stop it.

use crate::live::{self, Live};
use crate::lock::Mutex;
use crate::platform::{Module, ModuleKind, Platform, Range};
use crate::service::Request;
use crate::stage2::Port;
use crate::trace::{About, trace};
use crate::vcpu::{Start, Vcpu};
use crate::{debugger, interrupts, mmu, service, time};
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use devices::guest_fdt::{self, GuestTree};
use devices::scrollback::Scrollback;
use devices::vgic::{VcpuMask, Vgic};
use devices::vuart::Vuart;
use log::{error, info, warn};
use probes::addr::{Gpa, Hpa, PAGE_SIZE};
use probes::machine::{HwPoint, PhysFault, RunMode, StepInterrupts, Stop, VcpuId, VmId, VmState};
use probes::regs::CoreRegs;
use probes::view::{Limits, Roots, Views};
use spin::Once;

/// Where the guest's RAM begins.
const RAM_BASE: Gpa = Gpa(0x4000_0000);
/// The virtual GIC's distributor, as on QEMU `virt`.
pub const GICD: Range = Range::sized(0x0800_0000, devices::vgic::GICD_SIZE);
/// The virtual GIC's redistributors.
pub const GICR_BASE: u64 = 0x080a_0000;
/// The emulated PL011.
pub const UART: Range = Range::sized(0x0900_0000, 0x1000);
/// The PL011's interrupt: SPI 1.
pub const UART_INTID: u32 = 33;

/// How many stops may wait to be taken: one for each vCPU.
const MAX_STOPS: usize = devices::vgic::MAX_VCPUS;

/// How long a held vCPU may take to come to EL2 before its CPU is given up for dead, in nanoseconds.
const HOLD_TIMEOUT: u64 = 2_000_000_000;

static VMS: Once<Vec<&'static Vm>> = Once::new();

/// What a VM is made of; stays the same over resets.
#[derive(Clone, Debug)]
struct Config {
    kernel: Module,
    ramdisk: Option<Range>,
    /// Host-physical RAM.
    ram: Range,
    /// Held before its first instruction, until a debugger lets it go.
    halt: bool,
}

/// Who stops the VM, and what that does to its time.
#[derive(Debug)]
struct Holds {
    count: usize,
    /// [`time::running_ticks`] when the VM stopped.
    since: u64,
    /// [`time::running_ticks`] minus guest time.
    offset: u64,
}

/// What comes after a life; the numbers are those of `tracepoints::ENDS`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    PowerOff = 0,
    Reset = 1,
}

/// One guest.
pub struct Vm {
    /// Which.
    pub id: VmId,
    name: String,
    config: Config,
    vcpus: Vec<Vcpu>,
    views: Mutex<Views<Port>>,
    roots: Roots,
    port: Port,
    /// Its interrupts.
    pub vgic: Mutex<Vgic>,
    /// Its console.
    pub vuart: Mutex<Vuart>,
    /// There is more input for it than it has room for.
    pub input_waits: AtomicBool,
    /// What the guest, and those before it in this VM, have written to it.
    pub console: Mutex<Scrollback>,
    /// The UART's interrupt line, as the virtual GIC knows it.
    uart_level: AtomicBool,
    holds: Mutex<Holds>,
    /// `holds.count`, for the vCPUs' own check.
    held: AtomicUsize,
    /// How long it has been held, in [`time::running_ticks`].
    held_ticks: AtomicU64,
    state: Mutex<VmState>,
    stops: Mutex<VecDeque<Stop>>,
    points: Mutex<Vec<HwPoint>>,
    /// Whether the debugger's steps go into interrupt handlers.
    steps_take_interrupts: AtomicBool,
}

/// All VMs, `vm1` first. Empty before [`create_all`].
pub fn all() -> &'static [&'static Vm] {
    VMS.get().map_or(&[], Vec::as_slice)
}

/// Makes a VM of every kernel among the boot modules. `take_memory` gives host-physical RAM.
pub fn create_all(
    platform: &Platform,
    cpus: usize,
    mut take_memory: impl FnMut(u64) -> Option<Range>,
) {
    let mut free_cpus = cpus_for_vcpus(cpus).into_iter();
    let mut vms: Vec<&'static Vm> = Vec::new();
    for (index, kernel) in platform.modules.iter().enumerate() {
        if kernel.kind != ModuleKind::Kernel {
            continue;
        }
        let ramdisk = platform
            .modules
            .get(index + 1)
            .filter(|next| next.kind == ModuleKind::Ramdisk);
        let id = VmId(vms.len() as u8 + 1);
        let wanted: usize = platform
            .option(&format!("{id}.vcpus"))
            .and_then(|text| text.parse().ok())
            .unwrap_or(1);
        let wanted = wanted.clamp(1, devices::vgic::MAX_VCPUS);
        let homes: Vec<usize> = free_cpus.by_ref().take(wanted).collect();
        if homes.len() < wanted {
            error!(
                "{id} needs {wanted} CPUs, {} are left: not created",
                homes.len()
            );
            continue;
        }
        let size = platform
            .option(&format!("{id}.memory"))
            .and_then(parse_size)
            .unwrap_or(256 << 20)
            .next_multiple_of(2 << 20);
        let Some(ram) = take_memory(size) else {
            error!(
                "{id} needs {} MiB, which are not free: not created",
                size >> 20
            );
            continue;
        };
        let config = Config {
            kernel: kernel.clone(),
            ramdisk: ramdisk.map(|module| module.range),
            ram,
            halt: platform.flag(&format!("{id}.halt")),
        };
        trace!(
            About::Vm(id),
            ConfigLoad {
                vcpus: homes.len() as u64,
                memory: size,
                halt: config.halt.into(),
            }
        );
        match Vm::new(id, config, &homes) {
            Ok(vm) => {
                let vm: &'static Vm = Box::leak(Box::new(vm));
                trace!(
                    About::Vm(id),
                    VmCreate {
                        vcpus: vm.vcpus.len() as u64,
                        memory: size,
                        address: ram.start,
                    }
                );
                vms.push(vm);
            }
            Err(error) => error!("{id}: {error:?}: not created"),
        }
    }
    VMS.call_once(|| vms);
}

/// vCPUs take the CPUs from 1 on; CPU 0, where the debug server runs, comes last.
fn cpus_for_vcpus(cpus: usize) -> Vec<usize> {
    (1..cpus).chain(core::iter::once(0)).collect()
}

/// `512M`, `1G`, or bytes.
fn parse_size(text: &str) -> Option<u64> {
    let (digits, shift) = match text.as_bytes().last()? {
        b'K' | b'k' => (&text[..text.len() - 1], 10),
        b'M' | b'm' => (&text[..text.len() - 1], 20),
        b'G' | b'g' => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

impl Vm {
    fn new(id: VmId, config: Config, homes: &[usize]) -> Result<Self, probes::stage2::MapError> {
        let port = Port::new(id.0);
        let mut views = Views::new(
            port,
            Limits {
                pages: 1024,
                sites: 4096,
            },
        )?;
        views.map_ram(RAM_BASE, Hpa(config.ram.start), config.ram.size())?;
        trace!(
            About::Vm(id),
            MemoryMap {
                gpa: RAM_BASE.0,
                size: config.ram.size(),
                what: 0,
            }
        );
        let vcpus = homes
            .iter()
            .enumerate()
            .map(|(index, &cpu)| Vcpu::new(id, VcpuId(index as u8), cpu))
            .collect::<Vec<_>>();
        Ok(Self {
            id,
            name: format!("{id}"),
            roots: views.roots(),
            views: Mutex::new(views),
            port,
            vgic: Mutex::new(Vgic::new(vcpus.len())),
            vcpus,
            vuart: Mutex::new(Vuart::new()),
            input_waits: AtomicBool::new(false),
            console: Mutex::default(),
            uart_level: AtomicBool::new(false),
            holds: Mutex::new(Holds {
                count: 0,
                since: 0,
                offset: 0,
            }),
            held: AtomicUsize::new(0),
            held_ticks: AtomicU64::new(0),
            state: Mutex::new(VmState::Off),
            stops: Mutex::new(VecDeque::with_capacity(MAX_STOPS)),
            points: Mutex::new(Vec::new()),
            steps_take_interrupts: AtomicBool::new(false),
            config,
        })
    }

    /// `vm1`, `vm2`, ….
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its vCPUs.
    pub fn vcpus(&self) -> &[Vcpu] {
        &self.vcpus
    }

    /// What interrupts do to the debugger's steps. Looked at for each of them.
    pub fn step_interrupts(&self) -> StepInterrupts {
        if self.steps_take_interrupts.load(Ordering::Relaxed) {
            StepInterrupts::Taken
        } else {
            StepInterrupts::Wait
        }
    }

    /// Changes that, from the next step on.
    pub fn set_step_interrupts(&self, interrupts: StepInterrupts) {
        let taken = interrupts == StepInterrupts::Taken;
        self.steps_take_interrupts.store(taken, Ordering::Relaxed);
    }

    /// One vCPU.
    pub fn vcpu(&self, id: VcpuId) -> Option<&Vcpu> {
        self.vcpus.get(usize::from(id.0))
    }

    /// Its stage-2 trees, for places where no lock may be taken.
    pub fn roots(&self) -> &Roots {
        &self.roots
    }

    /// Its memory as the vCPU on the calling CPU sees it.
    pub fn live(&self, regs: &CoreRegs) -> Live<'_> {
        Live {
            pstate: regs.pstate,
            roots: &self.roots,
            port: &self.port,
        }
    }

    /// Reads its tables.
    pub fn port(&self) -> &Port {
        &self.port
    }

    /// Its views, to edit.
    pub fn views(&self) -> &Mutex<Views<Port>> {
        &self.views
    }

    /// The debugger's hardware breakpoints and watchpoints.
    pub fn points(&self) -> &Mutex<Vec<HwPoint>> {
        &self.points
    }

    /// Where it stands in its life.
    pub fn state(&self) -> VmState {
        *self.state.lock()
    }

    // ---- Holds ----

    /// Whether a vCPU must not enter the guest.
    pub fn is_held(&self) -> bool {
        self.held.load(Ordering::SeqCst) != 0
    }

    /// How long it has been held or has stood with the whole machine, in nanoseconds, without what goes on.
    pub fn held_ns(&self) -> u64 {
        let held = self.held_ticks.load(Ordering::Relaxed);
        time::to_ns(held.wrapping_add(time::stopped_ticks()))
    }

    /// Sets the clock that the vCPU on the calling CPU sees.
    pub fn load_time(&self) {
        let offset = self.holds.lock().offset;
        time::set_guest_time(offset);
    }

    fn add_hold(&self) {
        let mut holds = self.holds.lock();
        holds.count += 1;
        if holds.count == 1 {
            holds.since = time::running_ticks();
        }
        self.held.store(holds.count, Ordering::SeqCst);
    }

    /// Stops all vCPUs; returns when they are at EL2. See [`probes::machine::RunControl::hold`].
    pub fn hold(&self) {
        self.add_hold();
        self.wait_until_parked();
    }

    fn wait_until_parked(&self) {
        for vcpu in &self.vcpus {
            if !vcpu.is_still() {
                vcpu.kick();
            }
        }
        let deadline = time::running_ns() + HOLD_TIMEOUT;
        for vcpu in &self.vcpus {
            let mut wait = debugger::Wait::default();
            while !vcpu.is_still() {
                if time::running_ns() > deadline {
                    error!(
                        "{}/vcpu{} does not stop: its CPU is given up",
                        self.name, vcpu.id.0
                    );
                    vcpu.give_up();
                    break;
                }
                wait.turn();
            }
        }
    }

    /// Takes one hold back; the last one lets the VM go on, its clock where it stood.
    pub fn release(&self) {
        {
            let mut holds = self.holds.lock();
            let Some(count) = holds.count.checked_sub(1) else {
                error!("{} released without a hold", self.name);
                return;
            };
            holds.count = count;
            if count == 0 {
                let held = time::running_ticks().wrapping_sub(holds.since);
                holds.offset = holds.offset.wrapping_add(held);
                self.held_ticks.fetch_add(held, Ordering::Relaxed);
            }
            self.held.store(count, Ordering::SeqCst);
            if count != 0 {
                return;
            }
        }
        for vcpu in &self.vcpus {
            vcpu.kick();
        }
    }

    /// Called by a vCPU on its own CPU: stops the VM with a hold that belongs to whoever takes the stop.
    pub fn request_stop(&self, stop: Stop) {
        {
            let mut stops = self.stops.lock();
            // A vCPU parks behind its stop, so there is never more than one of each.
            if stops.len() == MAX_STOPS {
                return;
            }
            stops.push_back(stop);
            self.add_hold();
        }
        for vcpu in self.vcpus.iter().filter(|vcpu| vcpu.id != stop.vcpu) {
            vcpu.kick();
        }
        service::notify();
    }

    /// The oldest stop that nobody has taken; all vCPUs are at EL2 when this returns one.
    pub fn take_stop(&self) -> Option<Stop> {
        let stop = self.stops.lock().pop_front()?;
        self.wait_until_parked();
        for vcpu in &self.vcpus {
            vcpu.set_mode(RunMode::Continue);
        }
        Some(stop)
    }

    /// Makes these vCPUs look at their virtual interrupts; `own` is the calling CPU's and has done so.
    pub fn kick(&self, who: VcpuMask, own: Option<&Vcpu>) {
        for index in who.iter() {
            let target = self
                .vcpus
                .get(index)
                .filter(|vcpu| own.is_none_or(|own| own.id != vcpu.id));
            if let Some(vcpu) = target {
                vcpu.kick();
            }
        }
    }

    /// Drives the interrupt line of the emulated UART after its state has changed. `own` as in [`Vm::kick`].
    pub fn update_uart_line(&self, own: Option<&'static Vcpu>) {
        // Held until the virtual GIC knows: two CPUs must not tell it in the wrong order.
        let uart = self.vuart.lock();
        let level = uart.irq_level();
        if self.uart_level.swap(level, Ordering::AcqRel) == level {
            return;
        }
        match own {
            Some(vcpu) => interrupts::update(vcpu, |vgic, _| vgic.set_spi_level(UART_INTID, level)),
            None => {
                let kick = self.vgic.lock().set_spi_level(UART_INTID, level);
                self.kick(kick, None);
            }
        }
    }

    /// Takes what the guest has written out of its UART. The UART's interrupt may change.
    pub fn fetch_output(&self) {
        let mut buffer = [0; 256];
        // In this order for all, so that two CPUs do not mix what they fetch.
        let mut console = self.console.lock();
        loop {
            let count = self.vuart.lock().take_tx(&mut buffer);
            if count == 0 {
                return;
            }
            console.push(&buffer[..count]);
        }
    }

    // ---- Memory ----

    fn ram(&self, gpa: Gpa, length: usize) -> Result<Hpa, PhysFault> {
        let size = self.config.ram.size();
        let offset = gpa
            .0
            .checked_sub(RAM_BASE.0)
            .filter(|&offset| offset < size);
        let Some(offset) = offset else {
            let device =
                GICD.contains(gpa.0) || UART.contains(gpa.0) || self.gicr().contains(gpa.0);
            return Err(if device {
                PhysFault::Device(gpa)
            } else {
                PhysFault::Unmapped(gpa)
            });
        };
        if length as u64 > size - offset {
            return Err(PhysFault::Unmapped(Gpa(RAM_BASE.0 + size)));
        }
        Ok(Hpa(self.config.ram.start + offset))
    }

    /// The redistributors.
    pub fn gicr(&self) -> Range {
        Range::sized(
            GICR_BASE,
            devices::vgic::GICR_STRIDE * self.vcpus.len() as u64,
        )
    }

    /// Reads RAM.
    pub fn read_phys(&self, gpa: Gpa, buffer: &mut [u8]) -> Result<(), PhysFault> {
        let hpa = self.ram(gpa, buffer.len())?;
        live::copy_from(hpa, buffer);
        Ok(())
    }

    /// Writes RAM on behalf of the debugger: instruction fetches see it, and so do shadows.
    pub fn write_phys(&self, gpa: Gpa, bytes: &[u8]) -> Result<(), PhysFault> {
        let hpa = self.ram(gpa, bytes.len())?;
        live::copy_to(hpa, bytes);
        mmu::clean_and_invalidate(hpa.0, bytes.len() as u64);
        mmu::sync_icache(hpa.0, bytes.len() as u64);
        let mut page = gpa.page();
        while page.0 < gpa.0 + bytes.len() as u64 {
            self.refresh(page);
            page = Gpa(page.0 + PAGE_SIZE);
        }
        Ok(())
    }

    /// The guest may have written to the page: its shadow follows, and the sites on it adopt what is new.
    pub fn refresh(&self, page: Gpa) {
        self.views.lock().refresh(page, &mut self.adopt());
    }

    /// The same for all pages with probes.
    pub fn refresh_all(&self) {
        self.views.lock().refresh_all(&mut self.adopt());
    }

    fn adopt(&self) -> impl FnMut(Gpa, u32) {
        let space = service::space(self.id);
        move |gpa, instruction| {
            if let Some(space) = space {
                space.adopt(gpa, instruction);
            }
        }
    }

    // ---- Life ----

    /// Starts the guest (once nobody holds the VM). One that waits for a debugger goes on.
    pub fn start(&self) {
        match self.state() {
            VmState::Running => {}
            VmState::Ready => self.leave_ready(VmState::Running),
            VmState::Off => {
                self.hold();
                self.begin_life(VmState::Running);
                self.release();
            }
        }
    }

    /// Everything as after power-on, the guest loaded, and vCPU 0 at its first instruction. Held, all vCPUs off.
    fn begin_life(&self, state: VmState) {
        self.vgic.lock().reset();
        self.fetch_output();
        *self.vuart.lock() = Vuart::new();
        self.uart_level.store(false, Ordering::Release);
        {
            // Guest time begins anew: when the holds end, their length is added to this.
            let mut holds = self.holds.lock();
            holds.offset = holds.since;
        }
        match self.load() {
            Ok(start) => {
                *self.state.lock() = state;
                self.vcpus[0].request_start(start);
            }
            Err(reason) => error!("{} cannot start: {reason}", self.name),
        }
    }

    /// All vCPUs off; probes wait for the next kernel. Held.
    fn end_life(&self, end: End) {
        for vcpu in &self.vcpus {
            vcpu.power_off();
        }
        self.leave_ready(VmState::Off);
        if let Some(space) = service::space(self.id) {
            space.guest_reset();
        }
        trace!(About::Vm(self.id), VmDestroy { end: end as u64 });
    }

    /// Ends the hold of a VM that has been waiting for a debugger.
    fn leave_ready(&self, next: VmState) {
        let was_ready = core::mem::replace(&mut *self.state.lock(), next) == VmState::Ready;
        if was_ready {
            self.release();
        }
    }

    /// First start at boot: where the command line says `halt`, the VM is ready, with a hold of its own that ends when
    /// somebody starts it.
    pub fn boot(&self) {
        if self.config.halt {
            self.hold();
            self.begin_life(VmState::Ready);
            info!("{} waits for a debugger", self.name);
        } else {
            self.start();
        }
    }

    /// Takes the power away. Holds stay.
    pub fn power_off(&self) {
        self.hold();
        self.end_life(End::PowerOff);
        self.release();
        info!("{} is off", self.name);
    }

    /// Ends the guest and loads it anew.
    pub fn reset(&self) {
        self.hold();
        self.end_life(End::Reset);
        self.begin_life(VmState::Running);
        self.release();
        info!("{} is reset", self.name);
    }

    /// The vCPU on the calling CPU puts another kernel in the place of the guest's, or may be at the beginning of one: it
    /// goes on when the probes have followed.
    pub fn ask_to_follow_kernel(&self, request: Request) {
        // Before the request, which ends it.
        self.add_hold();
        if !service::request(self, request) {
            self.release();
        }
    }

    /// Does what [`Vm::ask_to_follow_kernel`] has asked for.
    pub fn follow_kernel(&self, request: Request) {
        self.wait_until_parked();
        if let Some(space) = service::space(self.id) {
            if request == Request::KernelLeft {
                space.kernel_left();
                info!("{}: its kernel gives way to another", self.name);
            } else if space.kernel_begins() {
                info!("{}: a kernel begins", self.name);
            }
        }
        self.release();
    }

    /// Fills the guest's memory as the arm64 boot protocol wants it: kernel, device tree, RAM disk.
    fn load(&self) -> Result<Start, &'static str> {
        const TWO_MIB: u64 = 2 << 20;
        let ram = self.config.ram;
        let kernel = self.config.kernel.range;
        // SAFETY: the module lies in RAM that `FreeMemory` never hands out, and nobody writes it.
        let image = unsafe {
            core::slice::from_raw_parts(kernel.start as *const u8, kernel.size() as usize)
        };
        let header = ImageHeader::read(image).ok_or("the kernel is not an arm64 Image")?;
        let kernel_gpa = RAM_BASE.0 + header.text_offset;
        let memory_end = RAM_BASE.0 + ram.size();
        let kernel_end = kernel_gpa
            .checked_add(header.image_size.max(kernel.size()))
            .filter(|&end| end < memory_end)
            .ok_or("the kernel does not fit into the VM's memory")?;

        // From the top: RAM disk, device tree below it.
        let ramdisk_size = self.config.ramdisk.map_or(0, |range| range.size());
        let ramdisk_gpa = memory_end
            .checked_sub(ramdisk_size.next_multiple_of(PAGE_SIZE))
            .ok_or("the RAM disk does not fit into the VM's memory")?;
        let tree_gpa = ramdisk_gpa.saturating_sub(TWO_MIB) & !(TWO_MIB - 1);
        if tree_gpa < kernel_end {
            return Err("kernel and RAM disk do not fit into the VM's memory");
        }

        self.place(kernel_gpa, image);
        let initrd = self.config.ramdisk.map(|range| {
            // SAFETY: as for the kernel.
            let bytes = unsafe {
                core::slice::from_raw_parts(range.start as *const u8, range.size() as usize)
            };
            self.place(ramdisk_gpa, bytes);
            ramdisk_gpa..ramdisk_gpa + range.size()
        });
        let seed = time::ticks().wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ ram.start;
        let tree = guest_fdt::build(&GuestTree {
            memory_base: RAM_BASE.0,
            memory_size: ram.size(),
            vcpus: self.vcpus.len(),
            gicd_base: GICD.start,
            gicr_base: GICR_BASE,
            uart_base: UART.start,
            uart_spi: UART_INTID - 32,
            bootargs: &self.config.kernel.bootargs,
            initrd,
            kaslr_seed: Some(seed),
            rng_seed: Some(&seed.rotate_left(17).to_le_bytes()),
        })
        .map_err(|_| "the device tree cannot be made")?;
        self.place(tree_gpa, &tree);
        trace!(
            About::Vm(self.id),
            ImageLoad {
                kernel: kernel_gpa,
                size: kernel.size(),
                ramdisk: ramdisk_size,
                device_tree: tree_gpa,
            }
        );
        Ok(Start {
            entry: kernel_gpa,
            context: tree_gpa,
        })
    }

    fn place(&self, gpa: u64, bytes: &[u8]) {
        match self.ram(Gpa(gpa), bytes.len()) {
            Ok(hpa) => {
                // SAFETY: inside this VM's RAM; no vCPU runs.
                unsafe {
                    core::ptr::copy_nonoverlapping(bytes.as_ptr(), hpa.0 as *mut u8, bytes.len());
                }
                // A guest starts with its caches off and fetches from memory.
                mmu::clean_and_invalidate(hpa.0, bytes.len() as u64);
                mmu::sync_all_icaches();
            }
            Err(fault) => warn!("{}: loading outside memory: {fault:?}", self.name),
        }
    }
}

/// The fields of an arm64 Image that a loader needs (Linux `Documentation/arch/arm64/booting.rst`).
struct ImageHeader {
    text_offset: u64,
    image_size: u64,
}

impl ImageHeader {
    fn read(image: &[u8]) -> Option<Self> {
        let word = |offset: usize| {
            Some(u64::from_le_bytes(
                image.get(offset..offset + 8)?.try_into().ok()?,
            ))
        };
        if image.get(56..60)? != b"ARM\x64" {
            return None;
        }
        let (text_offset, image_size) = (word(8)?, word(16)?);
        // Kernels before 3.17 have image_size 0 and mean 0x80000.
        if image_size == 0 {
            return Some(Self {
                text_offset: 0x8_0000,
                image_size: image.len() as u64,
            });
        }
        Some(Self {
            text_offset,
            image_size,
        })
    }
}
