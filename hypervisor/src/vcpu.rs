//! A vCPU: it lives on one physical CPU for ever.
//!
//! Between the vectors and `ERET`, [`Vcpu::before_entry`] decides whether the vCPU may go on. It may not while its VM is
//! held, while it is off, or while a debugger lets only others run; then it **parks**: its registers are copied to where
//! the debugger reads and writes them, and the CPU waits in WFI, serving the interrupts that belong to others. Unparking
//! copies back what the debugger changed.

use crate::hwdebug::HwDebug;
use crate::lock::{Mutex, MutexGuard};
use crate::masking::{self, Window};
use crate::step::{self, Purpose, Stepper};
use crate::vectors::{self, Frame};
use crate::vm::{self, Vm};
use crate::{
    cpu, debugger, exits, fp, gic, guest_sys, interrupts, psci, rendezvous, service, stage2,
    sysreg, time,
};
use core::ops::Range;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use devices::vgic::{Delivery, VcpuMask};
use probes::a64::{BranchTargetCheck, DataAccess, SimulationFeatures};
use probes::addr::Gva;
use probes::engine::{HitOutcome, QuickHit, Trap};
use probes::machine::{NoVcpu, Power, RunMode, Stop, StopReason, VcpuId, VmId};
use probes::regs::{CoreRegs, FpRegs, SysReg, SysRegs, pstate};
use probes::space::Space;
use probes::view::View;

/// Where a vCPU begins.
#[derive(Clone, Copy, Debug)]
pub struct Start {
    /// First instruction (a GPA: the MMU is off).
    pub entry: u64,
    /// x0: the device tree for vCPU 0, the context of `CPU_ON` for the others.
    pub context: u64,
}

/// The registers of a parked vCPU.
#[derive(Debug, Default)]
struct Saved {
    core: CoreRegs,
    fp: FpRegs,
    sys: SysRegs,
    fp_changed: bool,
    sys_changed: bool,
}

/// What only the vCPU's own CPU looks at.
#[derive(Debug, Default)]
pub struct Local {
    /// A step that has begun.
    pub stepper: Stepper,
    /// Debug registers while the debugger uses them.
    pub debug: HwDebug,
}

/// Whose turn begins on a vCPU's CPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Turn {
    /// The guest is entered.
    Guest,
    /// The guest is left.
    Hypervisor,
}

/// `power`: off.
const OFF: u8 = 0;
/// `power`: `CPU_ON` has been called, the vCPU has not started.
const ON_PENDING: u8 = 1;
/// `power`: on.
const ON: u8 = 2;

/// A vCPU.
pub struct Vcpu {
    /// Its number in its VM.
    pub id: VcpuId,
    vm: VmId,
    home: usize,
    power: AtomicU8,
    /// Its registers are in `saved` and it does not enter the guest.
    parked: AtomicBool,
    /// Its CPU has stopped answering.
    dead: AtomicBool,
    withhold: AtomicBool,
    start: Mutex<Option<Start>>,
    /// What the debugger has asked for since the vCPU last went on. `None`: nothing new, a step that has begun goes on.
    mode: Mutex<Option<RunMode>>,
    /// The last that it asked for is `Stay`: for a look without the lock.
    stays: AtomicBool,
    /// When it entered its guest, in nanoseconds, and when it left; 0 where nobody wanted to know.
    entered: AtomicU64,
    left: AtomicU64,
    saved: Mutex<Saved>,
    local: Mutex<Local>,
    /// Whether a step may be in progress or asked for: for a look without the lock of `local`.
    may_step: AtomicBool,
}

/// A vCPU on the CPU where it lives, with what its hits need and nothing changes any more.
pub struct Resident {
    /// The vCPU.
    pub vcpu: &'static Vcpu,
    vm: &'static Vm,
    space: &'static Space,
}

impl Resident {
    /// `None` before the debug server is up.
    pub fn new(vcpu: &'static Vcpu) -> Option<Self> {
        let space = service::space(vcpu.vm)?;
        Some(Self {
            vcpu,
            vm: vcpu.vm(),
            space,
        })
    }

    /// Has a trap of the vCPU served, which executes on the calling CPU. A probe on what that needs of the hypervisor does
    /// not run.
    #[inline]
    pub fn serve(
        &self,
        regs: &mut CoreRegs,
        serve: impl FnOnce(&Space, &mut Trap<'_>) -> HitOutcome,
    ) -> HitOutcome {
        let memory = self.vm.live(regs);
        let _probing = cpu::this().enter_probe();
        let mut trap = Trap {
            vcpu: self.vcpu.id,
            regs,
            memory: &memory,
            stamp: time::stamp(),
        };
        serve(self.space, &mut trap)
    }

    /// The same for a hit of [`Space::quick_hit`], whose `HVC` is before the PC.
    #[inline(always)]
    pub fn quick_hit(&self, immediate: u16, regs: &mut CoreRegs) -> QuickHit {
        let vm = self.vm;
        let memory = |regs: &CoreRegs| vm.live(regs);
        self.space
            .quick_hit(immediate, self.vcpu.id, regs, memory, time::stamp)
    }

    /// The vCPU, which executes on the calling CPU, has executed an instruction: lets GDB tracepoints that step it look at it,
    /// and returns whether they still do.
    #[inline]
    pub fn walk(&self, regs: &CoreRegs) -> bool {
        if !self.space.walks(self.vcpu.id) {
            return false;
        }
        let memory = self.vm.live(regs);
        let _probing = cpu::this().enter_probe();
        self.space
            .walked(self.vcpu.id, regs, &memory, time::stamp())
    }

    /// Whether nobody wants anything of the vCPU: after a hit that simulation finishes it may go on at once.
    #[inline(always)]
    pub fn is_undisturbed(&self) -> bool {
        let vcpu = self.vcpu;
        let may_go = !vcpu.must_stay_in(self.vm) && !vcpu.may_step();
        may_go && !service::is_due()
    }
}

impl Vcpu {
    /// A vCPU of `vm`, off, whose home is physical CPU `home`.
    pub fn new(vm: VmId, id: VcpuId, home: usize) -> Self {
        Self {
            id,
            vm,
            home,
            power: AtomicU8::new(OFF),
            parked: AtomicBool::new(true),
            dead: AtomicBool::new(false),
            withhold: AtomicBool::new(false),
            start: Mutex::new(None),
            mode: Mutex::new(None),
            stays: AtomicBool::new(false),
            entered: AtomicU64::new(0),
            left: AtomicU64::new(0),
            saved: Mutex::new(Saved::default()),
            local: Mutex::new(Local::default()),
            may_step: AtomicBool::new(false),
        }
    }

    /// Which VM it belongs to.
    pub fn vm_id(&self) -> VmId {
        self.vm
    }

    /// Its VM.
    pub fn vm(&self) -> &'static Vm {
        vm::all()[usize::from(self.vm.0) - 1]
    }

    /// The physical CPU it lives on.
    pub fn home(&self) -> usize {
        self.home
    }

    /// Its state for its own CPU.
    pub fn local(&self) -> MutexGuard<'_, Local> {
        self.local.lock()
    }

    // ---- Power ----

    /// Whether it is on.
    pub fn power(&self) -> Power {
        if self.power.load(Ordering::Acquire) == ON {
            Power::On
        } else {
            Power::Off
        }
    }

    /// Whether `CPU_ON` has been called and it has not started yet.
    pub fn is_on_pending(&self) -> bool {
        self.power.load(Ordering::Acquire) == ON_PENDING
    }

    /// Starts it, if it is off. Returns whether it was.
    pub fn request_start(&self, start: Start) -> bool {
        let mut place = self.start.lock();
        let was_off = self
            .power
            .compare_exchange(OFF, ON_PENDING, Ordering::AcqRel, Ordering::Acquire)
            .is_ok();
        if was_off {
            *place = Some(start);
            drop(place);
            self.kick();
        }
        was_off
    }

    /// Switches it off. By its own CPU, or with the VM held.
    pub fn power_off(&self) {
        let mut place = self.start.lock();
        *place = None;
        self.power.store(OFF, Ordering::Release);
    }

    // ---- Parking, seen from other CPUs ----

    /// Whether its registers can be read and written.
    pub fn is_parked(&self) -> bool {
        self.parked.load(Ordering::SeqCst) || self.dead.load(Ordering::Relaxed)
    }

    /// Its CPU does not answer: nobody waits for it again.
    pub fn give_up(&self) {
        self.dead.store(true, Ordering::Relaxed);
    }

    /// Makes its CPU look at it.
    pub fn kick(&self) {
        if let Some(home) = cpu::get(self.home)
            && home.index != cpu::this().index
        {
            interrupts::kick(home);
        }
    }

    /// How it goes on when its VM is released, whatever it was asked for before.
    pub fn set_mode(&self, mode: RunMode) {
        self.stays.store(mode == RunMode::Stay, Ordering::Relaxed);
        *self.mode.lock() = Some(mode);
    }

    fn saved(&self) -> Result<MutexGuard<'_, Saved>, NoVcpu> {
        let readable = self.power() == Power::On && self.is_parked();
        if readable {
            Ok(self.saved.lock())
        } else {
            Err(NoVcpu)
        }
    }

    /// Whether its CPU rests for the debugger in the middle of an exit, with all others (rendezvous.rs): it will park, or go
    /// on, when that CPU does.
    fn rests(&self) -> bool {
        debugger::is_attending() && rendezvous::rests(self.home) && self.power() == Power::On
    }

    /// Whether it executes nothing now.
    pub fn is_still(&self) -> bool {
        self.is_parked() || self.rests()
    }

    /// Core registers of the parked vCPU; as of its exit where its CPU rests.
    pub fn core(&self) -> Result<CoreRegs, NoVcpu> {
        if !self.is_parked() && self.rests() {
            // SAFETY: its CPU rests in an exception of EL2, so it has left the guest, whose frame stays until the ERET.
            return Ok(unsafe { vectors::guest_frame(self.home) });
        }
        Ok(self.saved()?.core)
    }

    /// Sets them. Mode and state of PSTATE stay within what a guest can be in.
    pub fn set_core(&self, regs: &CoreRegs) -> Result<(), NoVcpu> {
        let mut saved = self.saved()?;
        let mode = regs.pstate & (pstate::MODE_MASK | pstate::AARCH32);
        let legal = matches!(mode, pstate::EL0T | pstate::EL1T | pstate::EL1H);
        let kept = if legal {
            0
        } else {
            pstate::MODE_MASK | pstate::AARCH32
        };
        let new_pstate = regs.pstate & !kept | saved.core.pstate & kept;
        saved.core = CoreRegs {
            pstate: new_pstate,
            ..*regs
        };
        Ok(())
    }

    fn resting_context(&self) -> Option<rendezvous::Context> {
        if self.is_parked() || !self.rests() {
            return None;
        }
        rendezvous::with_context(self.home, |context| *context)
    }

    /// SIMD registers of the parked vCPU.
    pub fn fp(&self) -> Result<FpRegs, NoVcpu> {
        if let Some(context) = self.resting_context() {
            return Ok(context.fp);
        }
        Ok(self.saved()?.fp)
    }

    /// Sets them.
    pub fn set_fp(&self, regs: &FpRegs) -> Result<(), NoVcpu> {
        let mut saved = self.saved()?;
        saved.fp = *regs;
        saved.fp_changed = true;
        Ok(())
    }

    /// System registers of the parked vCPU.
    pub fn sys(&self) -> Result<SysRegs, NoVcpu> {
        if let Some(context) = self.resting_context() {
            return Ok(context.sys);
        }
        Ok(self.saved()?.sys)
    }

    /// Sets one of them.
    pub fn set_sys(&self, reg: SysReg, value: u64) -> Result<(), NoVcpu> {
        let mut saved = self.saved()?;
        saved.sys.set(reg, value);
        saved.sys_changed = true;
        if guest_sys::current_sp(&saved.core) == reg {
            saved.core.sp = value;
        }
        Ok(())
    }

    // ---- On its own CPU ----

    /// Which virtual interrupts it gets now.
    pub fn delivery(&self) -> Delivery {
        if self.withhold.load(Ordering::Relaxed) {
            Delivery::Withheld
        } else {
            Delivery::Normal
        }
    }

    /// Changes which virtual interrupts it gets.
    pub fn set_delivery(&'static self, delivery: Delivery) {
        let withhold = delivery == Delivery::Withheld;
        if self.withhold.swap(withhold, Ordering::Relaxed) != withhold {
            interrupts::update(self, |_, _| VcpuMask::NONE);
        }
    }

    /// Lives on the calling CPU for ever.
    pub fn run(&'static self) -> ! {
        init_controls(self.id);
        self.switch_view(View::Run);
        let mut frame = Frame::default();
        self.before_entry(&mut frame);
        exits::trace_entry(self, &frame);
        // SAFETY: `before_entry` returns only with the vCPU on, and then the frame is that of a start: EL1h.
        unsafe { vectors::enter(&raw const frame) }
    }

    /// Remembers that a turn begins now, and returns when the one before it began; 0 where nobody has remembered that.
    pub fn set_turn(&self, turn: Turn) -> u64 {
        let (before, now) = match turn {
            Turn::Guest => (&self.left, &self.entered),
            Turn::Hypervisor => (&self.entered, &self.left),
        };
        now.store(time::now_ns(), Ordering::Relaxed);
        before.swap(0, Ordering::Relaxed)
    }

    /// Moves this CPU to a view of the VM.
    pub fn switch_view(&self, view: View) {
        stage2::switch_view(self.vm().roots().vttbr(view, self.vm.0));
    }

    /// Whether it must not execute.
    pub fn must_park(&self) -> bool {
        self.power.load(Ordering::Acquire) != ON || self.must_stay_in(self.vm())
    }

    /// Whether the debugger keeps it, or all of its VM.
    #[inline]
    fn must_stay_in(&self, vm: &Vm) -> bool {
        vm.is_held() || self.stays.load(Ordering::Relaxed)
    }

    /// Whether a step may be in progress or asked for.
    #[inline]
    pub fn may_step(&self) -> bool {
        self.may_step.load(Ordering::Relaxed)
    }

    /// A step begins or is asked for.
    pub fn will_step(&self) {
        self.may_step.store(true, Ordering::Relaxed);
    }

    /// Everything between an exit and the next entry. Returns when the vCPU may execute from `frame`.
    pub fn before_entry(&'static self, frame: &mut Frame) {
        if !self.must_park() && !service::is_due() {
            if !self.may_step() {
                return;
            }
            let stepper = &self.local().stepper;
            self.may_step.store(!stepper.is_idle(), Ordering::Relaxed);
            if !stepper.wants_next() {
                return;
            }
        }
        let _window = Window::open();
        loop {
            if self.must_park() || service::is_due() {
                // A step in progress is one instruction that ends soon: the vCPU parks behind it, never inside it.
                if self.local().stepper.is_active() && self.power() == Power::On {
                    return;
                }
                self.park(frame);
                self.leave_stop(frame);
            } else if !step::advance(self, frame) {
                return;
            }
        }
    }

    /// Waits at EL2 until the vCPU may go on.
    fn park(&'static self, frame: &mut Frame) {
        if self.power() == Power::On {
            let mut saved = self.saved.lock();
            saved.core = frame.regs;
            saved.fp = fp::save();
            saved.sys = guest_sys::save(&frame.regs, self.local().debug.guest_mdscr());
            saved.fp_changed = false;
            saved.sys_changed = false;
        }
        loop {
            self.parked.store(true, Ordering::SeqCst);
            interrupts::serve(Some(self));
            service::run_if_due();
            self.start_if_requested(frame);
            if self.must_park() {
                masking::wait(gic::PriorityMask::Open);
                continue;
            }
            self.parked.store(false, Ordering::SeqCst);
            // A hold that came in between has either seen `parked` clear and waits for it, or we see here that it is
            // there, or what it has changed before it went.
            if !self.must_park() {
                break;
            }
        }
        let saved = self.saved.lock();
        frame.regs = saved.core;
        if saved.fp_changed {
            fp::restore(&saved.fp);
        }
        if saved.sys_changed {
            guest_sys::restore(&saved.sys);
        }
        drop(saved);
        self.set_time();
    }

    /// If it has been switched on, brings it to its first instruction. Parked.
    fn start_if_requested(&'static self, frame: &mut Frame) {
        // Held to the end: a power-off comes wholly before or wholly after.
        let mut place = self.start.lock();
        let Some(start) = place.take() else {
            return;
        };
        guest_sys::reset();
        fp::restore(&FpRegs::default());
        interrupts::reset_cpu_interface();
        self.local().debug.reset();
        self.local().stepper = Stepper::default();
        self.withhold.store(false, Ordering::Relaxed);
        frame.regs = CoreRegs {
            pc: start.entry,
            pstate: pstate::EL1H | pstate::D | pstate::A | pstate::I | pstate::F,
            ..CoreRegs::default()
        };
        frame.regs.x[0] = start.context;
        self.switch_view(View::Run);
        *self.saved.lock() = Saved {
            core: frame.regs,
            sys: guest_sys::save(&frame.regs, 0),
            ..Saved::default()
        };
        // Only now: whoever sees it on may read its registers.
        self.power.store(ON, Ordering::Release);
    }

    /// Guest time and the debugger's hardware points, which may have changed while the vCPU was parked.
    fn set_time(&'static self) {
        self.vm().load_time();
        self.local().debug.load(self.vm());
        interrupts::update(self, |_, _| VcpuMask::NONE);
    }

    fn request_steps(&self, range: Range<Gva>) {
        self.local().stepper.request(range);
        self.will_step();
    }

    /// Executes what a site displaces at the PC where the vCPU stopped, and begins the step that the debugger asked for.
    fn leave_stop(&'static self, frame: &mut Frame) {
        let asked = self.mode.lock().take();
        let pc = Gva(frame.regs.pc);
        match asked {
            Some(RunMode::Step) => self.request_steps(Gva(0)..Gva(0)),
            Some(RunMode::StepRange { start, end }) => self.request_steps(start..end),
            Some(RunMode::Continue | RunMode::Stay) => self.local().stepper.forget_request(),
            // A hold that was not the debugger's is over.
            None => {}
        }
        let Some(space) = service::space(self.vm) else {
            return;
        };
        let memory = self.vm().live(&frame.regs);
        let mut trap = Trap {
            vcpu: self.id,
            regs: &mut frame.regs,
            memory: &memory,
            stamp: time::stamp(),
        };
        match space.pass(&mut trap) {
            // The debugger lets it go on where its own breakpoint is. In any other case that is a hit to come.
            HitOutcome::NotOurs if asked.is_some() && space.has_hw_breakpoint(pc) => {
                step::begin(self, frame, Purpose::Other);
            }
            outcome => step::finish_hit(self, frame, outcome),
        }
    }

    /// Stops the VM; the vCPU parks before its next entry.
    pub fn stop(&self, reason: StopReason) {
        let _window = Window::open();
        self.vm().request_stop(Stop {
            vcpu: self.id,
            reason,
        });
    }
}

/// What a simulation must know of this CPU and of its guest's state.
pub fn simulation_features() -> SimulationFeatures {
    /// `SCTLR_EL1.EE`: data accesses of EL1 are big-endian.
    const EE: u64 = 1 << 25;
    /// `SCTLR_EL1.ATA`: allocation tags are accessible, so accesses may be tag-checked.
    const ATA: u64 = 1 << 43;
    /// `MDSCR_EL1.MDE`: somebody's breakpoints and watchpoints may be armed.
    const MDE: u64 = 1 << 15;
    let stepped =
        sysreg::read!("sctlr_el1") & (EE | ATA) != 0 || sysreg::read!("mdscr_el1") & MDE != 0;
    SimulationFeatures {
        bti: sysreg::read!("id_aa64pfr1_el1") & 0xf != 0,
        pauth: has_pauth(),
        data: if stepped {
            DataAccess::Stepped
        } else {
            DataAccess::Simulated
        },
        branch_target: BranchTargetCheck::Passed,
    }
}

/// Whether address authentication is implemented with any algorithm.
fn has_pauth() -> bool {
    let isar1 = sysreg::read!("id_aa64isar1_el1");
    // ID_AA64ISAR2_EL1 by its encoding: assemblers learned its name late.
    let isar2 = sysreg::read!("s3_0_c0_c6_2");
    isar1 & 0xff0 != 0 || isar2 & 0xf000 != 0
}

/// The EL2 controls that hold as long as this CPU runs guests.
fn init_controls(id: VcpuId) {
    /// VM, SWIO, PTW, FMO, IMO, AMO, TSC, RW, APK, API.
    const HCR: u64 =
        1 | 1 << 1 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 19 | 1 << 31 | 1 << 40 | 1 << 41;
    /// `HCR_EL2.ATA`: allocation tags, where there is FEAT_MTE2.
    const HCR_ATA: u64 = 1 << 56;
    /// `CPTR_EL2` (E2H clear): RES1 bits that are not traps of SVE (TZ) and SME (TSM).
    const CPTR: u64 = 0x22ff;

    let pfr0 = sysreg::read!("id_aa64pfr0_el1");
    let pfr1 = sysreg::read!("id_aa64pfr1_el1");
    let mmfr0 = sysreg::read!("id_aa64mmfr0_el1");
    let mmfr1 = sysreg::read!("id_aa64mmfr1_el1");
    let has_sve = pfr0 >> 32 & 0xf != 0;
    let has_sme = pfr1 >> 24 & 0xf != 0;
    let has_mte = pfr1 >> 8 & 0xf >= 2;
    let has_fgt = mmfr0 >> 56 & 0xf != 0;
    let has_hcx = mmfr1 >> 40 & 0xf != 0;
    let physical_size = (mmfr0 & 0xf).min(5);

    // SAFETY: these registers control the guest's world only; EL2's own execution does not depend on them.
    unsafe {
        sysreg::write!("hcr_el2", HCR | if has_mte { HCR_ATA } else { 0 });
        sysreg::write!("vtcr_el2", probes::stage2::VTCR | physical_size << 16);
        sysreg::write!("cptr_el2", CPTR);
        sysreg::write!("hstr_el2", 0);
        sysreg::write!("vpidr_el2", sysreg::read!("midr_el1"));
        sysreg::write!("vmpidr_el2", psci::affinity(id) | 1 << 31);
        // Physical counter and timer trap: guest time is the virtual counter (exits.rs).
        sysreg::write!("cnthctl_el2", 0);
        sysreg::isb();
        if has_sve {
            sysreg::write!("s3_4_c1_c2_0", 0xf); // ZCR_EL2.LEN
        }
        if has_sme {
            sysreg::write!("s3_4_c1_c2_6", 0xf | 1 << 31); // SMCR_EL2.LEN, FA64
        }
        if has_fgt {
            // Fine-grained traps off. In HFGRTR and HFGWTR, nSMPRI_EL1 (54) and nTPIDR2_EL0 (55) trap when clear.
            let read_write = if has_sme { 0b11 << 54 } else { 0 };
            sysreg::write!("s3_4_c1_c1_4", read_write); // HFGRTR_EL2
            sysreg::write!("s3_4_c1_c1_5", read_write); // HFGWTR_EL2
            sysreg::write!("s3_4_c1_c1_6", 0); // HFGITR_EL2
            sysreg::write!("s3_4_c3_c1_4", 0); // HDFGRTR_EL2
            sysreg::write!("s3_4_c3_c1_5", 0); // HDFGWTR_EL2
        }
        if has_hcx {
            // MSCEn (11) and TCR2En (14) allow what they name, where it exists.
            sysreg::write!("s3_4_c1_c2_2", 1 << 11 | 1 << 14); // HCRX_EL2
        }
        sysreg::write!("oslar_el1", 0);
    }
    crate::hwdebug::init_controls();
    sysreg::isb();
}
