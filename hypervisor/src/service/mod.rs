//! The debug server at work: channels, sessions, consoles, the shell, and what guests ask of the whole VM.
//!
//! All of it runs on one CPU, the *service CPU* (CPU 0), between that CPU's interrupts and its next guest entry; so its
//! state has one user and its lock is never waited for. Other CPUs and interrupts only set [`DUE`] and send an SGI. If a
//! vCPU lives on the service CPU it parks first: the server may hold its VM and read its registers like any other's.

pub mod endpoint;
mod guest_console;
mod shell;

use crate::hyp::HYP;
use crate::lock::MaskedMutex;
use crate::platform::{Platform, Transport};
use crate::vm::{self, Vm};
use crate::{console_log, cpu, debugger, gic, hprobes, ksyms, masking, native, time};
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};
use devices::channel::AnyChannel;
use devices::mmio::MmioRegion;
use devices::uart::Pl011;
use devices::virtio::{Console, Port, ProbeError};
use endpoint::Wired;
use guest_console::GuestConsole;
use log::{info, warn};
use probes::machine::{Machine, VmId};
use probes::own_code::Hypervisor;
use probes::periscope::Periscope;
use probes::programs::MapMemory;
use probes::space::Space;
use probes::symbols::Symbols;
use shell::Shell;
use spin::{Mutex, Once};
use stub::{ByteChannel, Endpoint, MachineSession, Server, Session};

/// The CPU that all of this runs on.
const SERVICE_CPU: usize = 0;
/// How often to look for output of programs, pending sites and the like, while there is a reason to, in nanoseconds.
const TICK: u64 = 5_000_000;
/// How long a guest's output waits for more, in nanoseconds.
const CONSOLE_DELAY: u64 = 1_000_000;
/// How much of it is fetched at once, in bytes.
const CONSOLE_BATCH: usize = 1024;
/// How often the console device is asked for its ports at start.
const PORT_POLLS: usize = 1000;

/// A port of the console device.
pub type ChannelPort = Port<MmioRegion>;

/// What is to be done to a whole VM because of what its guest does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Request {
    /// `SYSTEM_OFF`.
    PowerOff = 1,
    /// `SYSTEM_RESET`.
    Reset = 2,
    /// Another kernel is put in the place of the one that runs. The request has a hold on the VM.
    KernelLeft = 4,
    /// A kernel has begun. The request has a hold on the VM.
    KernelBegins = 8,
}

static DUE: AtomicBool = AtomicBool::new(false);
/// The interrupts of the channels' devices: virtio console, PL011. 0: none.
static CHANNEL_INTIDS: [AtomicU32; 2] = [const { AtomicU32::new(0) }; 2];
static PERISCOPE: Once<Periscope> = Once::new();
static SERVER: Once<Server> = Once::new();
static SERVICE: Mutex<Option<Service>> = Mutex::new(None);
/// By VM: a bit for each [`Request`].
static REQUESTS: [AtomicU8; cpu::MAX_CPUS] = [const { AtomicU8::new(0) }; cpu::MAX_CPUS];

/// The console device. The debugger serves it too, while the service stands.
static CONSOLE: MaskedMutex<Option<Console<MmioRegion>>> = MaskedMutex::new(None);

struct Service {
    endpoints: Vec<Wired<Session, AnyChannel>>,
    consoles: Vec<GuestConsole>,
    shell: Option<Shell>,
}

struct LogRing;

impl stub::Log for LogRing {
    fn write_to(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        let mut result = Ok(());
        console_log::kept(&mut |line| {
            if result.is_ok() {
                result = writeln!(out, "{line}");
            }
        });
        result
    }
}

/// The debugger's view of a VM; `None` before [`init`].
pub fn space(vm: VmId) -> Option<&'static Space> {
    PERISCOPE
        .get()?
        .spaces()
        .get(usize::from(vm.0).checked_sub(1)?)
}

/// Sets the debug server up over all VMs and connects it to its channels. Boot CPU, once, with interrupts of the
/// console still off.
pub fn init(platform: &Platform, map_memory: MapMemory) {
    let machines: Vec<&'static dyn Machine> = vm::all()
        .iter()
        .map(|&vm| vm as &'static dyn Machine)
        .collect();
    let symbols = ksyms::table().map(|table| Arc::new(*table) as Arc<dyn Symbols>);
    let hypervisor = Hypervisor {
        machine: &HYP,
        symbols,
        probeable: hprobes::PROBEABLE,
        compiler: native::compiler(platform),
        map_memory,
    };
    let periscope = Periscope::new(&machines, Some(hypervisor), crate::trace::tracer())
        .expect("built-in programs load");
    let periscope = PERISCOPE.call_once(|| periscope);
    if let Some(space) = periscope.hypervisor() {
        hprobes::init(space);
    }
    let server = SERVER.call_once(|| Server::new(periscope).with_log(&LogRing));

    let mut found = platform
        .virtio
        .iter()
        .find_map(|transport| Some((transport.intid, probe(transport)?)));
    let mut uart = platform.debugs_over_uart().then(|| take_uart(platform));
    let mut console = found.as_mut().map(|(_, console)| console);
    match &mut console {
        Some(console) => wait_for_ports(console),
        None => warn!("no virtio console: no shell, no guest consoles"),
    }
    let mut take = |name: &str| {
        let port = console.as_mut()?.take_port(name)?;
        Some(port.looking(serve_console))
    };

    let debugged = if crate::PERISCOPE { vm::all().len() } else { 0 };
    let mut endpoints = (0..debugged)
        .filter_map(|index| {
            let name = format!("org.periscope.vm{}", index + 1);
            // The first VM's endpoint takes the UART, where the command line gives it away.
            let channel = match uart.take() {
                Some(uart) => uart,
                None => Box::new(take(&name)?) as AnyChannel,
            };
            Some(Wired::new(Session::new(server, index)?, channel))
        })
        .collect::<Vec<_>>();
    if let Some(port) = take("org.periscope.tools").filter(|_| crate::PERISCOPE) {
        endpoints.push(Wired::new(Session::of_tools(server), Box::new(port)));
    }
    let consoles = vm::all()
        .iter()
        .filter_map(|&vm| {
            let port = take(&format!("org.periscope.console{}", vm.id.0))?;
            Some(GuestConsole::new(vm, port))
        })
        .collect::<Vec<_>>();
    let shell = take("org.periscope.shell").map(|port| Shell::new(server, port));
    let hyp = Session::of_hypervisor(server).zip(take("org.periscope.hyp"));
    if let Some((session, port)) = hyp.filter(|_| crate::PERISCOPE) {
        debugger::init(Wired::new(session, port));
    }
    if let Some(port) = take("org.periscope.machine").filter(|_| crate::PERISCOPE) {
        debugger::init_machine(Wired::new(MachineSession::new(server), port));
    }
    info!("{} endpoints, {} consoles", endpoints.len(), consoles.len());

    let (intid, console) = found.unzip();
    *CONSOLE.lock() = console;
    *SERVICE.lock() = Some(Service {
        endpoints,
        consoles,
        shell,
    });
    let uart_intid = platform.debugs_over_uart().then_some(platform.uart_intid);
    let affinity = cpu::this().affinity.load(Ordering::Relaxed);
    for (place, intid) in CHANNEL_INTIDS.iter().zip([intid, uart_intid]) {
        if let Some(intid) = intid {
            place.store(intid, Ordering::Relaxed);
            gic::enable_channel_spi(intid, u64::from(affinity));
        }
    }
}

/// Takes the PL011 from the log: the way in of a board without virtio.
fn take_uart(platform: &Platform) -> AnyChannel {
    info!("the log ends here: this UART is the endpoint of vm1 now");
    console_log::leave_uart();
    // SAFETY: the device tree says that a PL011 is there; it is mapped as device memory, and the log does not write to
    // it any more unless a CPU dies.
    let registers =
        unsafe { MmioRegion::new(platform.uart.start as usize, platform.uart.size() as usize) };
    let mut uart = Pl011::new(registers);
    uart.enable_rx_interrupt();
    Box::new(uart)
}

fn probe(transport: &Transport) -> Option<Console<MmioRegion>> {
    const REGISTERS: usize = 0x200;
    // SAFETY: the device tree says that a virtio-mmio transport is there; it is mapped as device memory and nobody else
    // drives it.
    let mmio = unsafe { MmioRegion::new(transport.base as usize, REGISTERS) };
    match Console::probe(mmio) {
        Ok(console) => Some(console),
        Err(ProbeError::Empty | ProbeError::OtherDevice(_)) => None,
        Err(error) => {
            warn!("the virtio device at {:#x}: {error}", transport.base);
            None
        }
    }
}

/// The device announces its ports soon after it has been started; the shell's is always among them.
fn wait_for_ports(console: &mut Console<MmioRegion>) {
    for _ in 0..PORT_POLLS {
        console.handle_interrupt();
        let complete = console
            .port_names()
            .any(|name| name == "org.periscope.shell")
            && vm::all().iter().all(|vm| {
                let wanted = format!("org.periscope.console{}", vm.id.0);
                console.port_names().any(|name| name == wanted)
            });
        if complete {
            return;
        }
        let until = time::now_ns() + 1_000_000;
        while time::now_ns() < until {
            core::hint::spin_loop();
        }
    }
}

/// Something has happened that the service CPU must look at. Any CPU.
pub fn notify() {
    if DUE.swap(true, Ordering::SeqCst) {
        return;
    }
    if cpu::this().index != SERVICE_CPU
        && let Some(service_cpu) = cpu::get(SERVICE_CPU)
    {
        gic::send(service_cpu, gic::SGI_SERVICE);
    }
}

/// Something is to be done to a VM. Any CPU. Returns whether that is new: it has not been asked for, or has been done.
pub fn request(vm: &Vm, request: Request) -> bool {
    let bit = request as u8;
    let place = REQUESTS.get(usize::from(vm.id.0));
    let is_new = place.is_some_and(|place| place.fetch_or(bit, Ordering::AcqRel) & bit == 0);
    notify();
    is_new
}

/// The guest's UART has been accessed. What it sends is fetched in a moment, in one go: a guest writes byte by byte, and
/// an interrupt to the service CPU for each would cost more than the byte. More of what it is to receive comes as soon
/// as it has taken what there was.
pub fn console_changed(vm: &Vm) {
    // Not in the `match`, which would keep the lock while it sets the timer.
    let (waiting, is_drained) = {
        let uart = vm.vuart.lock();
        (uart.tx_len(), uart.is_drained())
    };
    if is_drained && vm.input_waits.load(Ordering::Relaxed) {
        notify();
    }
    match waiting {
        0 => {}
        CONSOLE_BATCH.. => notify(),
        _ => time::ensure_timer(CONSOLE_DELAY),
    }
}

/// A device interrupt came in on this CPU.
pub fn device_interrupt(intid: u32) {
    let is_channel = |place: &AtomicU32| place.load(Ordering::Relaxed) == intid;
    if CHANNEL_INTIDS.iter().any(is_channel) {
        DUE.store(true, Ordering::SeqCst);
    }
}

/// Acknowledges the interrupts of the channels' devices while nothing else may be served. The service looks at them later.
pub fn take_channel_interrupts() {
    masking::with_priority_mask(gic::PriorityMask::ChannelsOnly, || {
        while let Some(intid) = gic::acknowledge() {
            gic::drop_priority(intid);
            gic::deactivate(intid);
            device_interrupt(intid);
        }
    });
}

/// Serves the console device's control queue: afterwards the ports know who came and went.
pub fn serve_console() {
    if let Some(console) = CONSOLE.lock().as_mut() {
        console.handle_interrupt();
    }
}

/// The timer of this CPU has gone off: somebody wants the service to look.
pub fn tick() {
    notify();
}

/// Whether this CPU has service work to do.
#[inline]
pub fn is_due() -> bool {
    cpu::this().index == SERVICE_CPU && DUE.load(Ordering::Relaxed)
}

/// Does the service work, if this CPU has any. A vCPU that lives here is parked.
pub fn run_if_due() {
    while is_due() {
        DUE.store(false, Ordering::SeqCst);
        // In this order, so that what a guest has said before its end goes out.
        if let Some(service) = SERVICE.lock().as_mut() {
            service.run();
        }
        debugger::work(serve_requests);
    }
}

fn serve_requests() {
    for vm in vm::all() {
        let requests = REQUESTS[usize::from(vm.id.0)].swap(0, Ordering::AcqRel);
        // What ends a life comes last: it is the end of kernels too.
        for request in [
            Request::KernelLeft,
            Request::KernelBegins,
            Request::PowerOff,
            Request::Reset,
        ] {
            if requests & request as u8 == 0 {
                continue;
            }
            match request {
                Request::KernelLeft | Request::KernelBegins => vm.follow_kernel(request),
                Request::PowerOff => vm.power_off(),
                Request::Reset => vm.reset(),
            }
        }
    }
}

impl Service {
    fn run(&mut self) {
        serve_console();
        debugger::work(|| SERVER.get().map(Server::collect_events));
        let mut wants_tick = debugger::serve();
        for endpoint in &mut self.endpoints {
            wants_tick |= debugger::work(|| {
                endpoint.run();
                let space = endpoint.session.space();
                if space.wants_attention() {
                    space.attend();
                }
                endpoint.session.wants_poll() || space.wants_attention()
            });
        }
        for console in &mut self.consoles {
            wants_tick |= debugger::work(|| console.run()) == Backlog::Waiting;
        }
        if let Some(shell) = &mut self.shell {
            wants_tick |= debugger::work(|| shell.run()) == Backlog::Waiting;
        }
        // The rings are full soon where nobody empties them.
        wants_tick |= SERVER.get().is_some_and(Server::wants_poll);
        if wants_tick {
            time::start_timer(TICK);
        }
    }
}

/// Whether something waits for a client to read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Backlog {
    Empty,
    Waiting,
}

/// Starts every VM. Boot CPU, after [`init`].
pub fn start_vms() {
    for vm in vm::all() {
        vm.boot();
    }
    notify();
}
/// Writes as much of `queue` as `port` takes.
fn drain(queue: &mut VecDeque<u8>, port: &mut ChannelPort) {
    while !queue.is_empty() {
        let (front, _) = queue.as_slices();
        let taken = port.write(front);
        if taken == 0 {
            return;
        }
        queue.drain(..taken);
    }
}
