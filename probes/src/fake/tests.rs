use super::*;
use crate::fake::stage1::{Page, Stage1};
use crate::machine::{HwDebug, NoVcpu, PhysFault, PhysMemory, Registers, RunControl, WatchKind};

const VCPU0: VcpuId = VcpuId(0);
const VCPU1: VcpuId = VcpuId(1);

fn machine(vcpus: usize) -> &'static FakeMachine {
    fleet(1, vcpus).unwrap().1[0]
}

fn gpa(offset: u64) -> Gpa {
    Gpa(FakeMachine::RAM_BASE.0 + offset)
}

fn held<T>(machine: &FakeMachine, access: impl FnOnce() -> T) -> T {
    machine.hold();
    let result = access();
    machine.release();
    result
}

fn x(machine: &FakeMachine, vcpu: VcpuId, register: usize) -> u64 {
    held(machine, || machine.core(vcpu).unwrap().x[register])
}

#[test]
fn a_held_vm_stands_still() {
    let machine = machine(1);
    machine.load(gpa(0), &[asm::add(0, 0, 1), asm::b(-4)]);
    machine.hold();
    machine.hold();
    assert_eq!(machine.run(10), 0);
    machine.release();
    assert_eq!(machine.run(10), 0);
    machine.release();
    assert_eq!(machine.run(10), 10);
    assert_eq!(x(machine, VCPU0, 0), 5);
}

#[test]
fn a_step_outlives_a_hold_and_ends_with_continue() {
    let machine = machine(1);
    machine.load(gpa(0), &[asm::add(0, 0, 1), asm::b(-4)]);
    let endless = RunMode::StepRange {
        start: Gva(0),
        end: Gva(u64::MAX),
    };
    let short = RunMode::StepRange {
        start: Gva(gpa(0).0),
        end: Gva(gpa(4).0),
    };
    held(machine, || machine.set_run_mode(VCPU0, endless));
    machine.run(2);
    held(machine, || machine.set_run_mode(VCPU0, short));
    held(machine, || ());
    assert_eq!(machine.run(10), 1);
    let step = Stop {
        vcpu: VCPU0,
        reason: StopReason::Step,
    };
    assert_eq!(machine.take_stop(), Some(step));
    machine.set_run_mode(VCPU0, short);
    machine.set_run_mode(VCPU0, RunMode::Continue);
    machine.release();
    assert_eq!((machine.run(10), machine.take_stop()), (10, None));
}

#[test]
fn psci_starts_and_ends_vcpus_and_the_vm() {
    let machine = machine(2);
    // CPU_ON(1, RAM_BASE + 0x100, 42); SYSTEM_OFF of the second ends it all.
    let main = [
        asm::movz(0, 3),
        asm::movk(0, 0xc400, 1),
        asm::movz(1, 1),
        asm::movz(2, 0x100),
        asm::movk(2, 0x4000, 1),
        asm::movz(3, 42),
        asm::hvc(0),
        asm::b(0),
    ];
    machine.load(gpa(0), &main);
    machine.load(gpa(0x100), &[asm::movz(1, 7), asm::nop(), asm::b(0)]);
    assert_eq!(held(machine, || machine.core(VCPU1)), Err(NoVcpu));
    machine.run(20);
    assert_eq!(x(machine, VCPU0, 0), 0);
    assert_eq!((x(machine, VCPU1, 0), x(machine, VCPU1, 1)), (42, 7));
    machine.power_off();
    assert_eq!((machine.state(), machine.run(5)), (VmState::Off, 0));
    machine.start();
    assert_eq!(machine.power(VCPU1), Power::Off);
    machine.run(20);
    assert_eq!(x(machine, VCPU1, 1), 7);
}

#[test]
fn exceptions_go_to_the_guests_vectors_and_return() {
    let machine = machine(1);
    const SVC: u32 = 0xd400_0001;
    machine.load(gpa(0), &[SVC, asm::movz(1, 5), asm::b(0)]);
    // VBAR_EL1 = RAM_BASE + 0x800; from EL1h, synchronous.
    machine.load(gpa(0xa00), &[asm::add(0, 0, 1), asm::eret()]);
    held(machine, || {
        machine
            .set_sys(VCPU0, SysReg::VbarEl1, gpa(0x800).0)
            .unwrap()
    });
    machine.run(10);
    assert_eq!((x(machine, VCPU0, 0), x(machine, VCPU0, 1)), (1, 5));
}

#[test]
fn exclusives_of_two_vcpus_lose_no_increment() {
    let machine = machine(2);
    // 50 increments of the word at x10.
    let code = [
        asm::movz(9, 50),
        asm::movz(10, 0x2000),
        asm::movk(10, 0x4000, 1),
        asm::ldxr(1, 10),
        asm::add(1, 1, 1),
        asm::stxr(2, 1, 10),
        asm::cbnz(2, -12),
        asm::subs(9, 9, 1),
        asm::cbnz(9, -20),
        asm::b(0),
    ];
    machine.load(gpa(0), &code);
    machine.power_on(VCPU1, Gva(gpa(0).0), 0);
    machine.run(3000);
    let mut bytes = [0; 8];
    machine.read_phys(gpa(0x2000), &mut bytes).unwrap();
    assert_eq!(u64::from_le_bytes(bytes), 100);
}

#[test]
fn run_modes() {
    let machine = machine(2);
    machine.load(
        gpa(0),
        &[asm::add(0, 0, 1), asm::nop(), asm::nop(), asm::b(-12)],
    );
    machine.power_on(VCPU1, Gva(gpa(0).0), 0);
    let step = Stop {
        vcpu: VCPU0,
        reason: StopReason::Step,
    };
    held(machine, || {
        machine.set_run_mode(VCPU0, RunMode::Step);
        machine.set_run_mode(VCPU1, RunMode::Stay);
    });
    machine.run(10);
    assert_eq!(machine.take_stop(), Some(step));
    machine.release();
    let [start, end] = [gpa(0), gpa(12)].map(|gpa| Gva(gpa.0));
    held(machine, || {
        machine.set_run_mode(VCPU0, RunMode::StepRange { start, end });
        machine.set_run_mode(VCPU1, RunMode::Stay);
    });
    machine.run(10);
    assert_eq!(machine.take_stop(), Some(step));
    assert_eq!(Gva(machine.core(VCPU0).unwrap().pc), end);
    assert_eq!(x(machine, VCPU1, 0), 0);
    // Without a mode set anew, all go on.
    machine.release();
    assert_eq!(machine.run(4), 8);
}

#[test]
fn watchpoints_stop_before_the_access() {
    let machine = machine(1);
    let data = Gva(gpa(0x1000).0);
    let code = [
        asm::movz(1, 0x1000),
        asm::movk(1, 0x4000, 1),
        asm::ldr(2, 1, 8),
        asm::str(1, 1, 8),
    ];
    machine.load(gpa(0), &code);
    let watch = |kind| HwPoint::Watch {
        address: Gva(data.0 + 8),
        length: 8,
        kind,
    };
    held(machine, || {
        machine.set_points(&[watch(WatchKind::Write)]).unwrap()
    });
    machine.run(10);
    let address = Gva(data.0 + 8);
    let reason = StopReason::Watchpoint {
        address,
        kind: WatchKind::Write,
    };
    assert_eq!(
        machine.take_stop(),
        Some(Stop {
            vcpu: VCPU0,
            reason
        })
    );
    let mut bytes = [0; 8];
    machine.read_phys(gpa(0x1008), &mut bytes).unwrap();
    assert_eq!(
        (bytes, machine.core(VCPU0).unwrap().pc),
        ([0; 8], gpa(12).0)
    );
}

#[test]
fn stage_1_says_who_may_do_what() {
    let machine = machine(1);
    // A store to a page that is not mapped; the vector is where it was.
    machine.load(
        gpa(0),
        &[asm::movz(1, 0x5000), asm::str(0, 1, 0), asm::b(0)],
    );
    machine.load(gpa(0x200), &[asm::movz(3, 9), asm::b(0)]);
    let mut tables = Stage1::new(machine, gpa(0x1_0000));
    tables.map(Gva(gpa(0).0), gpa(0), Page::Kernel);
    held(machine, || {
        tables.install(VCPU0);
        machine.set_sys(VCPU0, SysReg::VbarEl1, gpa(0).0).unwrap();
    });
    machine.run(10);
    assert_eq!(x(machine, VCPU0, 3), 9);
    let sys = held(machine, || machine.sys(VCPU0).unwrap());
    let class = sys.get(SysReg::EsrEl1) >> 26;
    assert_eq!(
        (class, sys.get(SysReg::FarEl1), sys.get(SysReg::ElrEl1)),
        (0x25, 0x5000, gpa(4).0)
    );
}

#[test]
fn memory_that_is_not_ram() {
    let machine = machine(1);
    let mut byte = [0];
    let device = Gpa(FakeMachine::DEVICE.0 + 4);
    assert_eq!(
        machine.read_phys(device, &mut byte),
        Err(PhysFault::Device(device))
    );
    for nothing in [
        Gpa(0),
        Gpa(FakeMachine::RAM_BASE.0 - 1),
        gpa(FLEET_RAM as u64),
        Gpa(u64::MAX),
    ] {
        assert_eq!(
            machine.read_phys(nothing, &mut byte),
            Err(PhysFault::Unmapped(nothing))
        );
    }
    let last = gpa(FLEET_RAM as u64 - 1);
    assert_eq!(
        machine.write_phys(last, &[1, 2]),
        Err(PhysFault::Unmapped(last))
    );
}
