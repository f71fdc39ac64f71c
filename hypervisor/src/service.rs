//! The debug server at work: channels, sessions, consoles, the shell, and what guests ask of the whole VM.
//!
//! All of it runs on one CPU, the *service CPU* (CPU 0), between that CPU's interrupts and its next guest entry; so its
//! state has one user and its lock is never waited for. Other CPUs and interrupts only set [`DUE`] and send an SGI. If a
//! vCPU lives on the service CPU it parks first: the server may hold its VM and read its registers like any other's.

use crate::platform::{Platform, Transport};
use crate::vm::{self, Vm};
use crate::{console_log, cpu, gic, time};
use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};
use devices::channel::{Channel, ChannelEvent};
use devices::mmio::MmioRegion;
use devices::virtio::{Console, Port, ProbeError};
use log::{info, warn};
use probes::machine::{Machine, VmId};
use probes::periscope::Periscope;
use probes::space::Space;
use spin::{Mutex, Once};
use stub::commands::{self, Caller};
use stub::{ByteChannel, Server, Session};

/// The CPU that all of this runs on.
const SERVICE_CPU: usize = 0;
/// How often to look for output of programs, pending sites and the like, while there is a reason to, in nanoseconds.
const TICK: u64 = 5_000_000;
/// How much of a guest's console is kept while nobody is connected, in bytes.
const CONSOLE_BACKLOG: usize = 256 * 1024;
/// Longest line of the shell, in bytes.
const MAX_LINE: usize = 1024;
const PROMPT: &str = "periscope> ";
/// How often the console device is asked for its ports at start.
const PORT_POLLS: usize = 1000;

type ChannelPort = Port<MmioRegion>;

/// What a guest wants done to its whole VM.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Request {
    /// `SYSTEM_OFF`.
    PowerOff,
    /// `SYSTEM_RESET`.
    Reset,
}

static DUE: AtomicBool = AtomicBool::new(false);
static CONSOLE_INTID: AtomicU32 = AtomicU32::new(0);
static PERISCOPE: Once<Periscope> = Once::new();
static SERVER: Once<Server> = Once::new();
static SERVICE: Mutex<Option<Service>> = Mutex::new(None);
/// By VM: 0 nothing, 1 power off, 2 reset.
static REQUESTS: [AtomicU8; cpu::MAX_CPUS] = [const { AtomicU8::new(0) }; cpu::MAX_CPUS];

/// An endpoint of GDB's.
struct Endpoint {
    session: Session,
    port: ChannelPort,
}

/// The console of a guest.
struct GuestConsole {
    vm: &'static Vm,
    port: ChannelPort,
    backlog: VecDeque<u8>,
    /// Read from the port, not yet taken by the guest's UART.
    input: VecDeque<u8>,
}

/// The hypervisor's shell.
struct Shell {
    port: ChannelPort,
    line: Vec<u8>,
    output: VecDeque<u8>,
}

struct Service {
    console: Console<MmioRegion>,
    endpoints: Vec<Endpoint>,
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
pub fn init(platform: &Platform, cpus: usize) {
    let machines: Vec<&'static dyn Machine> = vm::all()
        .iter()
        .map(|&vm| vm as &'static dyn Machine)
        .collect();
    let periscope = Periscope::new(&machines, cpus).expect("built-in programs load");
    let periscope = PERISCOPE.call_once(|| periscope);
    let server = SERVER.call_once(|| Server::new(periscope).with_log(&LogRing));

    let found = platform
        .virtio
        .iter()
        .find_map(|transport| Some((transport, probe(transport)?)));
    let Some((transport, mut console)) = found else {
        warn!("no virtio console: nobody can connect");
        return;
    };
    wait_for_ports(&mut console);
    let endpoints = (0..vm::all().len())
        .filter_map(|index| {
            let session = Session::new(server, index)?;
            let port = console.take_port(&format!("org.periscope.vm{}", index + 1))?;
            Some(Endpoint { session, port })
        })
        .collect::<Vec<_>>();
    let consoles = vm::all()
        .iter()
        .filter_map(|&vm| {
            let port = console.take_port(&format!("org.periscope.console{}", vm.id.0))?;
            Some(GuestConsole {
                vm,
                port,
                backlog: VecDeque::new(),
                input: VecDeque::new(),
            })
        })
        .collect::<Vec<_>>();
    let shell = console.take_port("org.periscope.shell").map(|port| Shell {
        port,
        line: Vec::new(),
        output: VecDeque::new(),
    });
    info!("{} endpoints, {} consoles", endpoints.len(), consoles.len());
    *SERVICE.lock() = Some(Service {
        console,
        endpoints,
        consoles,
        shell,
    });
    CONSOLE_INTID.store(transport.intid, Ordering::Relaxed);
    let affinity = cpu::this().affinity.load(Ordering::Relaxed);
    gic::enable_spi(transport.intid, u64::from(affinity));
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

/// A guest wants something done to its VM. Any CPU.
pub fn request(vm: &Vm, request: Request) {
    let code = match request {
        Request::PowerOff => 1,
        Request::Reset => 2,
    };
    if let Some(place) = REQUESTS.get(usize::from(vm.id.0)) {
        place.store(code, Ordering::Release);
    }
    notify();
}

/// The guest's UART has been accessed.
pub fn console_changed(vm: &Vm) {
    let news = vm.vuart.lock().tx_len() != 0;
    if news {
        notify();
    }
}

/// A device interrupt came in on this CPU.
pub fn device_interrupt(intid: u32) {
    if intid == CONSOLE_INTID.load(Ordering::Relaxed) {
        DUE.store(true, Ordering::SeqCst);
    }
}

/// The timer of this CPU has gone off.
pub fn tick() {
    if cpu::this().index == SERVICE_CPU {
        DUE.store(true, Ordering::SeqCst);
    }
}

/// Whether this CPU has service work to do.
pub fn is_due() -> bool {
    cpu::this().index == SERVICE_CPU && DUE.load(Ordering::Relaxed)
}

/// Does the service work, if this CPU has any. A vCPU that lives here is parked.
pub fn run_if_due() {
    while is_due() {
        DUE.store(false, Ordering::SeqCst);
        serve_requests();
        if let Some(service) = SERVICE.lock().as_mut() {
            service.run();
        }
    }
}

fn serve_requests() {
    for vm in vm::all() {
        match REQUESTS[usize::from(vm.id.0)].swap(0, Ordering::AcqRel) {
            1 => vm.power_off(),
            2 => vm.reset(),
            _ => {}
        }
    }
}

impl Service {
    fn run(&mut self) {
        self.console.handle_interrupt();
        let mut wants_tick = false;
        for endpoint in &mut self.endpoints {
            endpoint.run();
            let space = endpoint.session.space();
            if space.has_pending() {
                space.retry_pending();
            }
            wants_tick |= endpoint.session.wants_poll() || space.has_pending();
        }
        for console in &mut self.consoles {
            wants_tick |= console.run() == Backlog::Waiting;
        }
        if let Some(shell) = &mut self.shell {
            wants_tick |= shell.run() == Backlog::Waiting;
        }
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

impl Endpoint {
    fn run(&mut self) {
        // A client's `Opened` comes before its bytes, and its `Closed` after the last of them.
        loop {
            let event = self.port.take_event();
            match event {
                Some(ChannelEvent::Opened) => self.session.opened(),
                Some(ChannelEvent::Closed) => self.session.closed(),
                None => {}
            }
            let mut buffer = [0; 1024];
            let count = self.port.read(&mut buffer);
            self.session.receive(&buffer[..count]);
            self.session.flush(&mut self.port);
            if event.is_none() && count == 0 {
                break;
            }
        }
        self.session.poll();
        self.session.flush(&mut self.port);
    }
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

impl GuestConsole {
    fn run(&mut self) -> Backlog {
        while self.port.take_event().is_some() {}
        let mut buffer = [0; 256];
        loop {
            let count = self.vm.vuart.lock().take_tx(&mut buffer);
            if count == 0 {
                break;
            }
            self.backlog.extend(&buffer[..count]);
            let excess = self.backlog.len().saturating_sub(CONSOLE_BACKLOG);
            self.backlog.drain(..excess);
        }
        if self.port.is_connected() {
            drain(&mut self.backlog, &mut self.port);
        }
        self.feed_guest();
        self.vm.update_uart_line(None);
        let waiting =
            self.port.is_connected() && !self.backlog.is_empty() || !self.input.is_empty();
        if waiting {
            Backlog::Waiting
        } else {
            Backlog::Empty
        }
    }

    fn feed_guest(&mut self) {
        let mut buffer = [0; 256];
        loop {
            if self.input.is_empty() {
                let count = self.port.read(&mut buffer);
                self.input.extend(&buffer[..count]);
            }
            let (front, _) = self.input.as_slices();
            if front.is_empty() {
                return;
            }
            let taken = self.vm.vuart.lock().push_rx(front);
            self.input.drain(..taken);
            if taken == 0 {
                return;
            }
        }
    }
}

impl Shell {
    fn run(&mut self) -> Backlog {
        loop {
            let event = self.port.take_event();
            if event.is_some() {
                self.line.clear();
                self.output.clear();
            }
            if event == Some(ChannelEvent::Opened) {
                self.output.extend(PROMPT.as_bytes());
            }
            let mut buffer = [0; 256];
            let count = self.port.read(&mut buffer);
            for &byte in &buffer[..count] {
                self.byte(byte);
            }
            if event.is_none() && count == 0 {
                break;
            }
        }
        drain(&mut self.output, &mut self.port);
        if self.output.is_empty() {
            Backlog::Empty
        } else {
            Backlog::Waiting
        }
    }

    fn byte(&mut self, byte: u8) {
        match byte {
            b'\r' => {}
            b'\n' => {
                let line = core::mem::take(&mut self.line);
                let mut text = String::new();
                if let Some(server) = SERVER.get() {
                    commands::run(
                        server,
                        &Caller::Shell,
                        &String::from_utf8_lossy(&line),
                        &mut text,
                    );
                }
                if !text.is_empty() && !text.ends_with('\n') {
                    text.push('\n');
                }
                self.output.extend(text.as_bytes());
                self.output.extend(PROMPT.as_bytes());
            }
            0x08 | 0x7f => {
                self.line.pop();
            }
            _ if self.line.len() < MAX_LINE => self.line.push(byte),
            _ => {}
        }
    }
}

/// Starts every VM. Boot CPU, after [`init`].
pub fn start_vms() {
    for vm in vm::all() {
        vm.boot();
    }
    notify();
}
