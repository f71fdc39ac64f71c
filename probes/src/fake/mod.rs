//! A machine for unit tests: VMs whose vCPUs execute a subset of A64 on the host, one instruction
//! at a time and in a deterministic order.
//!
//! It stands in for the hypervisor under the server and the probe layer, and keeps the same rules:
//! a vCPU traps at an armed word, [`crate::space::Space::hit`] says what follows, and a held VM
//! does not move. It has what tests need of an architecture: stage 1 with real tables ([`stage1`]),
//! exceptions to the guest's vectors, PSCI, exclusives, hardware breakpoints and watchpoints.
//!
//! ```
//! # #[cfg(feature = "fake")] {
//! use probes::fake::{FakeMachine, asm, fleet};
//! let (periscope, machines) = fleet(2, 1).unwrap();
//! machines[0].load(FakeMachine::RAM_BASE, &[asm::nop(), asm::b(-4)]);
//! machines[0].run(100);
//! # }
//! ```

pub mod asm;
mod cpu;
mod execute;
mod machine;
mod memory;
pub mod stage1;
mod symbols;

pub use symbols::FakeSymbols;

use crate::addr::{Gpa, Gva, PAGE_SIZE};
use crate::machine::{
    FetchTrap, HwPoint, Lifecycle, Machine, Power, RunControl, RunMode, StepInterrupts, Stop,
    StopReason, VcpuId, VmId, VmState,
};
use crate::periscope::Periscope;
use crate::regs::{CoreRegs, FpRegs, SysReg, SysRegs, pstate};
use crate::space::Space;
use crate::tracepoint::{Tracepoint, Tracer};
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use ebpf::LoadError;
use spin::{Mutex, Once};

/// How many hardware breakpoints a vCPU has.
pub const HW_BREAKPOINTS: u8 = 6;
/// How many watchpoints a vCPU has.
pub const HW_WATCHPOINTS: u8 = 4;
/// Nanoseconds that an instruction takes.
const INSTRUCTION_NS: u64 = 10;
/// RAM of a VM of a [`fleet`].
const FLEET_RAM: usize = 256 * 1024;

/// One vCPU.
struct Vcpu {
    power: Power,
    regs: CoreRegs,
    fp: FpRegs,
    sys: SysRegs,
    mode: RunMode,
    /// Whether it has been held since its last instruction: it then passes the site where it
    /// stopped.
    enters: bool,
    /// The word that its exclusive monitor watches.
    monitor: Option<Gpa>,
}

/// What all vCPUs share.
struct State {
    life: VmState,
    holds: usize,
    vcpus: Vec<Vcpu>,
    stops: VecDeque<Stop>,
    armed: BTreeMap<Gpa, FetchTrap>,
    points: Vec<HwPoint>,
    /// What a reset loads again.
    images: Vec<(Gpa, Vec<u32>)>,
}

/// What a vCPU finds in the place of a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum PageView {
    /// The page.
    Original,
    /// A copy with probe instructions, to fetch from.
    Shadow,
    /// The page, not to fetch from.
    NoExecute,
}

/// One fake VM.
pub struct FakeMachine {
    vm: VmId,
    ram: Mutex<Vec<u8>>,
    state: Mutex<State>,
    periscope: Once<&'static Periscope>,
    /// Instructions executed by all vCPUs.
    executed: AtomicU64,
    /// Nanoseconds in which none did anything, and those of them in which the VM was held.
    idle: AtomicU64,
    held_idle: AtomicU64,
    /// The vCPU whose turn it is.
    turn: AtomicUsize,
    /// There are no interrupts here that it could matter to.
    step_interrupts: Mutex<StepInterrupts>,
    /// What the guest has written to its console.
    console: Mutex<Vec<u8>>,
}

/// `vms` connected VMs of `vcpus` vCPUs each, and the debugger over them.
pub fn fleet(
    vms: u8,
    vcpus: usize,
) -> Result<(&'static Periscope, Vec<&'static FakeMachine>), LoadError> {
    traced_fleet(vms, vcpus, &[])
}

/// The same with tracepoints.
pub fn traced_fleet(
    vms: u8,
    vcpus: usize,
    tracepoints: &[&[&'static Tracepoint]],
) -> Result<(&'static Periscope, Vec<&'static FakeMachine>), LoadError> {
    let tracer = Arc::new(Tracer::new(crate::event::MAX_CPUS, tracepoints));
    let machines: Vec<_> = (1..=vms)
        .map(|vm| FakeMachine::leak(VmId(vm), vcpus, FLEET_RAM))
        .collect();
    let as_machines: Vec<_> = machines
        .iter()
        .map(|machine| *machine as &'static dyn Machine)
        .collect();
    let periscope: &'static Periscope =
        Box::leak(Box::new(Periscope::new(&as_machines, None, tracer)?));
    for machine in &machines {
        machine.connect(periscope);
    }
    Ok((periscope, machines))
}

impl FakeMachine {
    /// Where RAM begins.
    pub const RAM_BASE: Gpa = Gpa(0x4000_0000);
    /// A page of device memory.
    pub const DEVICE: Gpa = Gpa(0x0900_0000);

    /// A VM with `vcpus` vCPUs and `ram` bytes of RAM at [`FakeMachine::RAM_BASE`]. It runs: vCPU 0
    /// is on, at the first byte of RAM, at EL1h with the MMU off; the others are off. It lives as
    /// long as the process, as machines do.
    pub fn leak(vm: VmId, vcpus: usize, ram: usize) -> &'static Self {
        let machine = Self {
            vm,
            ram: Mutex::new(vec![0; ram]),
            state: Mutex::new(State {
                life: VmState::Running,
                holds: 0,
                vcpus: boot_vcpus(vcpus),
                stops: VecDeque::new(),
                armed: BTreeMap::new(),
                points: Vec::new(),
                images: Vec::new(),
            }),
            periscope: Once::new(),
            executed: AtomicU64::new(0),
            idle: AtomicU64::new(0),
            held_idle: AtomicU64::new(0),
            turn: AtomicUsize::new(0),
            step_interrupts: Mutex::default(),
            console: Mutex::default(),
        };
        Box::leak(Box::new(machine))
    }

    /// Tells the VM its debugger: without one, an armed word is the guest's own `HVC`.
    pub fn connect(&self, periscope: &'static Periscope) {
        self.periscope.call_once(|| periscope);
    }

    /// The guest writes to its console.
    pub fn print(&self, text: &str) {
        self.console.lock().extend_from_slice(text.as_bytes());
    }

    /// Puts instructions into RAM, where a reset puts them again. What lies outside RAM is left
    /// out.
    pub fn load(&self, gpa: Gpa, words: &[u32]) {
        self.store_words(gpa, words);
        self.state.lock().images.push((gpa, words.to_vec()));
    }

    /// Switches a vCPU on at `entry`, as PSCI `CPU_ON` does; `context` is its x0.
    pub fn power_on(&self, vcpu: VcpuId, entry: Gva, context: u64) {
        if let Some(vcpu) = self.state.lock().vcpus.get_mut(usize::from(vcpu.0)) {
            *vcpu = Vcpu {
                power: Power::On,
                ..Vcpu::off(vcpu.sys.get(SysReg::MpidrEl1))
            };
            vcpu.regs.pc = entry.0;
            vcpu.regs.x[0] = context;
            vcpu.regs.pstate = BOOT_PSTATE;
        }
    }

    /// Switches a vCPU off as the guest's `CPU_OFF` does.
    pub fn switch_off(&self, vcpu: VcpuId) {
        if let Some(vcpu) = self.state.lock().vcpus.get_mut(usize::from(vcpu.0)) {
            *vcpu = Vcpu::off(vcpu.sys.get(SysReg::MpidrEl1));
        }
    }

    /// Lets the vCPUs that may run execute up to `steps` instructions each, in turn, until the VM
    /// is held or no vCPU can move. Returns how many instructions were executed.
    pub fn run(&self, steps: usize) -> usize {
        let vcpus = self.state.lock().vcpus.len();
        let mut executed = 0;
        for _ in 0..steps {
            let before = executed;
            for vcpu in 0..vcpus {
                if self.may_run(vcpu) {
                    self.turn.store(vcpu, Ordering::Relaxed);
                    self.step(vcpu);
                    executed += 1;
                }
            }
            if executed == before {
                break;
            }
        }
        executed
    }

    /// The debugger interrupts: stops the VM on behalf of vCPU 0, as Ctrl-C does.
    pub fn interrupt(&self) {
        self.stop(0, StopReason::Request);
    }

    /// The words that are armed now.
    pub fn armed(&self) -> Vec<(Gpa, FetchTrap)> {
        self.state
            .lock()
            .armed
            .iter()
            .map(|(gpa, trap)| (*gpa, *trap))
            .collect()
    }

    /// Lets time pass in which no vCPU does anything.
    pub fn pass_time(&self, nanoseconds: u64) {
        self.idle.fetch_add(nanoseconds, Ordering::Relaxed);
        if self.held() {
            self.held_idle.fetch_add(nanoseconds, Ordering::Relaxed);
        }
    }

    /// The hardware points that are set now.
    pub fn points(&self) -> Vec<HwPoint> {
        self.state.lock().points.clone()
    }

    /// What the execute view has in the place of the page of `gpa`.
    fn page_view(&self, gpa: Gpa) -> PageView {
        let last = Gpa(gpa.page().0 | (PAGE_SIZE - 1));
        let state = self.state.lock();
        let mut traps = state.armed.range(gpa.page()..=last).map(|(_, trap)| *trap);
        match traps.clone().next() {
            None => PageView::Original,
            Some(_) if traps.any(|trap| trap == FetchTrap::NoExecute) => PageView::NoExecute,
            Some(_) => PageView::Shadow,
        }
    }

    fn space(&self) -> Option<&'static Space> {
        self.periscope
            .get()
            .and_then(|periscope| periscope.space_of(self.vm))
    }

    fn may_run(&self, vcpu: usize) -> bool {
        let state = self.state.lock();
        let free = state.holds == 0 && state.life == VmState::Running;
        free && state
            .vcpus
            .get(vcpu)
            .is_some_and(|vcpu| vcpu.power == Power::On && vcpu.mode != RunMode::Stay)
    }

    /// Stops the VM: queues the stop, and holds in the debugger's name.
    fn stop(&self, vcpu: usize, reason: StopReason) {
        let mut state = self.state.lock();
        state.hold();
        for vcpu in &mut state.vcpus {
            vcpu.mode = RunMode::Continue;
        }
        state.stops.push_back(Stop {
            vcpu: VcpuId(vcpu as u8),
            reason,
        });
    }

    /// Loads the images and puts the vCPUs to where they were at first.
    fn boot(&self) {
        self.ram.lock().fill(0);
        let images = {
            let mut state = self.state.lock();
            state.vcpus = boot_vcpus(state.vcpus.len());
            state.life = VmState::Running;
            state.images.clone()
        };
        for (gpa, words) in images {
            self.store_words(gpa, &words);
        }
        if let Some(space) = self.space() {
            space.guest_reset();
        }
    }

    /// A PSCI call (Arm DEN 0022), by the function number in x0.
    fn psci(&self, regs: &mut CoreRegs) {
        const SUCCESS: u64 = 0;
        const NOT_SUPPORTED: u64 = u64::MAX;
        const INVALID_PARAMETERS: u64 = -2_i64 as u64;
        regs.x[0] = match regs.x[0] {
            0x8400_0002 => {
                self.with_turn(|vcpu| vcpu.power = Power::Off);
                SUCCESS
            }
            0xc400_0003 => match u8::try_from(regs.x[1]) {
                Ok(target) if usize::from(target) < self.state.lock().vcpus.len() => {
                    self.power_on(VcpuId(target), Gva(regs.x[2]), regs.x[3]);
                    SUCCESS
                }
                _ => INVALID_PARAMETERS,
            },
            0x8400_0008 => {
                self.power_off();
                SUCCESS
            }
            0x8400_0009 => {
                self.reset();
                *regs = self.with_turn(|vcpu| vcpu.regs);
                return;
            }
            _ => NOT_SUPPORTED,
        };
    }

    /// The vCPU whose turn it is.
    fn with_turn<T>(&self, access: impl FnOnce(&mut Vcpu) -> T) -> T {
        access(&mut self.state.lock().vcpus[self.turn.load(Ordering::Relaxed)])
    }

    fn count_instruction(&self) {
        self.executed.fetch_add(1, Ordering::Relaxed);
    }
}

/// EL1h, all exceptions masked.
const BOOT_PSTATE: u64 = pstate::EL1H | pstate::D | pstate::A | pstate::I | pstate::F;

fn boot_vcpus(count: usize) -> Vec<Vcpu> {
    let mut vcpus: Vec<_> = (0..count as u64).map(Vcpu::off).collect();
    if let Some(first) = vcpus.first_mut() {
        first.power = Power::On;
        first.regs.pc = FakeMachine::RAM_BASE.0;
        first.regs.pstate = BOOT_PSTATE;
    }
    vcpus
}

impl Vcpu {
    fn off(mpidr: u64) -> Self {
        let mut sys = SysRegs::default();
        sys.set(SysReg::MpidrEl1, mpidr);
        // A 40-bit physical address size, 4 KiB granule.
        sys.set(SysReg::IdAa64Mmfr0El1, 0b0010);
        Self {
            power: Power::Off,
            regs: CoreRegs::default(),
            fp: FpRegs::default(),
            sys,
            mode: RunMode::Continue,
            enters: true,
            monitor: None,
        }
    }
}

impl State {
    fn hold(&mut self) {
        self.holds += 1;
        for vcpu in &mut self.vcpus {
            vcpu.enters = true;
        }
    }
}

#[cfg(test)]
mod tests;
