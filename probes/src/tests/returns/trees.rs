//! Random trees of calls, by tasks that migrate between vCPUs and are interrupted, against a model
//! that follows every instruction.

use crate::fake::asm;
use crate::machine::{Clock, PhysMemory, VcpuId};
use crate::regs::{CoreRegs, SysReg};
use crate::space::ProbeId;
use crate::tests::{Rig, at, gpa, table};
use alloc::collections::{BTreeMap, VecDeque};
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use proptest::prelude::*;

/// What a call of `f` does next, as a word of its task's script. Scripts end with [`Op::Return`]s.
#[derive(Clone, Copy, Debug)]
enum Op {
    /// Returns by the first RET.
    Return,
    /// Returns by the second.
    ReturnLate,
    /// Calls `f`.
    Recurse,
    /// Calls `g`, which returns.
    Call,
    /// Jumps to `g`.
    TailCall,
    /// Jumps to `h`, which jumps to `f`.
    TailRecurse,
    /// Drops all frames of the task.
    Escape,
}

const OPS: [Op; 7] = [
    Op::Return,
    Op::ReturnLate,
    Op::Recurse,
    Op::Call,
    Op::TailCall,
    Op::TailRecurse,
    Op::Escape,
];

const SP: u32 = 31;
const SUB_SP_32: u32 = 0xd100_83ff;
const BR_X21: u32 = 0xd61f_02a0;

/// What a task does: calls of `f`, for ever.
const MAIN: u64 = 0x1000;
/// What an interrupt does: one call of `f`.
const INTERRUPT: u64 = 0x1010;
/// Where the interrupted task goes on instead.
const INTERRUPT_END: u64 = INTERRUPT + 8;
const F: u64 = 0x1040;
const G: u64 = 0x1200;
const H: u64 = 0x1240;
const SCRIPTS: u64 = 0x2000;
const SCRIPT_BYTES: u64 = 0x1000;
const STACKS: u64 = 0x1_0000;
const STACK_BYTES: u64 = 0x4000;

const VCPUS: usize = 2;
const TASKS: usize = 3;
/// The script and the stack of the interrupts of vCPU 0; those of vCPU 1 come after it.
const FIRST_INTERRUPT: usize = TASKS;

fn load(rig: &Rig) {
    let epilogue = [
        asm::ldr(30, SP, 0),
        asm::add(SP, SP, 32),
        asm::add(0, 19, 0),
    ];
    let mut code = vec![SUB_SP_32, asm::str(30, SP, 0)];
    let next_op = code.len();
    code.extend([asm::ldr(1, 19, 0), asm::add(19, 19, 8)]);
    for op in OPS {
        let here = |code: &Vec<u32>| 4 * code.len() as i32;
        let call = |code: &Vec<u32>, target: u64| asm::bl(target as i32 - F as i32 - here(code));
        let jump = |code: &Vec<u32>, target: u64| asm::b(target as i32 - F as i32 - here(code));
        let mut arm = Vec::new();
        core::mem::swap(&mut arm, &mut code);
        // Patched below to skip this operation's code.
        let skip = arm.len();
        arm.push(asm::nop());
        match op {
            Op::Return | Op::ReturnLate => {
                arm.extend(epilogue);
                arm.push(asm::ret());
            }
            Op::Recurse | Op::Call => {
                let target = if matches!(op, Op::Recurse) { F } else { G };
                arm.push(call(&arm, target));
                let back = 4 * next_op as i32 - here(&arm);
                arm.push(asm::b(back));
            }
            Op::TailCall | Op::TailRecurse => {
                arm.extend(epilogue);
                let target = if matches!(op, Op::TailCall) { G } else { H };
                arm.push(jump(&arm, target));
            }
            Op::Escape => arm.extend([asm::add(SP, 20, 0), BR_X21]),
        }
        arm[skip] = asm::cbnz(1, here(&arm) - 4 * skip as i32);
        arm.push(asm::subs(1, 1, 1));
        code = arm;
    }
    assert!(F + 4 * (code.len() as u64) < G);
    rig.machine.load(gpa(F), &code);
    let main = [asm::bl((F - MAIN) as i32), asm::b(-4)];
    rig.machine.load(gpa(MAIN), &main);
    let interrupt = [asm::bl((F - INTERRUPT) as i32), asm::nop(), asm::nop()];
    rig.machine.load(gpa(INTERRUPT), &interrupt);
    rig.machine.load(gpa(G), &[asm::add(0, 19, 0), asm::ret()]);
    rig.machine
        .load(gpa(H), &[asm::nop(), asm::b(F as i32 - H as i32 - 4)]);
}

/// The top of a stack, by its number.
fn stack(number: usize) -> u64 {
    at(STACKS + STACK_BYTES * (number as u64 + 1) - 16).0
}

fn script(number: usize) -> u64 {
    at(SCRIPTS + SCRIPT_BYTES * number as u64).0
}

/// A call of `f` as it is.
#[derive(Clone, Copy, Debug)]
struct Frame {
    sp: u64,
    returns_to: u64,
    since_ns: u64,
    /// The instruction behind its call was armed when it began.
    watched: bool,
    /// It has jumped to another function.
    jumped: bool,
}

/// The world: contexts and the calls that are under way in each.
struct World {
    rig: Rig,
    probe: ProbeId,
    /// The registers of the tasks that do not run.
    waiting: BTreeMap<usize, CoreRegs>,
    running: [usize; VCPUS],
    /// The registers of what an interrupt has interrupted.
    interrupted: [Option<CoreRegs>; VCPUS],
    /// By the number of the stack.
    frames: Vec<Vec<Frame>>,
    entries: u64,
    missed: u64,
    expected: VecDeque<String>,
    returned: u64,
}

impl World {
    fn new(scripts: &[Vec<Op>]) -> Self {
        let rig = Rig::new(VCPUS);
        load(&rig);
        for (number, ops) in scripts.iter().enumerate() {
            for (index, op) in ops.iter().enumerate() {
                let word = gpa(script(number) - at(0).0 + 8 * index as u64);
                let _ = rig.machine.write_phys(word, &(*op as u64).to_le_bytes());
            }
        }
        let symbols = [(at(MAIN), "main"), (at(F), "f"), (at(G), "g"), (at(H), "h")];
        rig.space.set_symbols(table(&symbols));
        let probe = rig.return_probe(F, "ret");
        let context = |task| {
            let mut regs = CoreRegs {
                sp: stack(task),
                pc: at(MAIN).0,
                pstate: crate::regs::pstate::EL1H,
                ..CoreRegs::default()
            };
            regs.x[19] = script(task);
            regs.x[20] = stack(task);
            regs.x[21] = at(MAIN).0;
            regs
        };
        let mut world = Self {
            rig,
            probe,
            waiting: (0..TASKS).map(|task| (task, context(task))).collect(),
            running: [0, 1],
            interrupted: [None; VCPUS],
            frames: vec![Vec::new(); TASKS + VCPUS],
            entries: 0,
            missed: 0,
            expected: VecDeque::new(),
            returned: 0,
        };
        for vcpu in 0..VCPUS {
            world.dispatch(vcpu, vcpu);
        }
        world
    }

    fn regs(&self, vcpu: usize) -> CoreRegs {
        self.rig
            .held(|machine| machine.core(VcpuId(vcpu as u8)).unwrap())
    }

    fn set_regs(&self, vcpu: usize, regs: &CoreRegs) {
        self.rig
            .held(|machine| machine.set_core(VcpuId(vcpu as u8), regs).unwrap());
    }

    /// Lets `task`, which waits, run on `vcpu`.
    fn dispatch(&mut self, vcpu: usize, task: usize) {
        let Some(regs) = self.waiting.remove(&task) else {
            return;
        };
        self.running[vcpu] = task;
        self.set_regs(vcpu, &regs);
        let current = 0xffff_0000_0000_1000 + 0x1000 * task as u64;
        self.rig.held(|machine| {
            let set = machine.set_sys(VcpuId(vcpu as u8), SysReg::SpEl0, current);
            assert!(set.is_ok());
        });
    }

    /// Takes the task on `vcpu` off it, at whatever instruction it is, for the one that waits.
    fn switch(&mut self, vcpu: usize) {
        let next = self.waiting.keys().next().copied();
        if let (None, Some(next)) = (self.interrupted[vcpu], next) {
            let regs = self.regs(vcpu);
            let task = self.running[vcpu];
            self.dispatch(vcpu, next);
            self.waiting.insert(task, regs);
        }
    }

    fn interrupt(&mut self, vcpu: usize) {
        if self.interrupted[vcpu].is_some() {
            return;
        }
        let mut regs = self.regs(vcpu);
        self.interrupted[vcpu] = Some(regs);
        regs.sp = stack(FIRST_INTERRUPT + vcpu);
        regs.pc = at(INTERRUPT).0;
        regs.x[19] = script(FIRST_INTERRUPT + vcpu);
        regs.x[20] = regs.sp;
        // Where an escape goes: the end of the interrupt.
        regs.x[21] = at(INTERRUPT_END).0;
        self.set_regs(vcpu, &regs);
    }

    /// One instruction on each vCPU.
    fn step(&mut self) -> Result<(), TestCaseError> {
        let now = self.rig.machine.now_ns();
        for vcpu in 0..VCPUS {
            let regs = self.regs(vcpu);
            if regs.pc == at(INTERRUPT_END).0 {
                let before = self.interrupted[vcpu]
                    .take()
                    .expect("an interrupt has ended");
                self.set_regs(vcpu, &before);
            }
            self.follow(vcpu, now + 10 * vcpu as u64);
        }
        prop_assert_eq!(self.rig.machine.run(1), VCPUS);
        for said in self.rig.events() {
            prop_assert_eq!(Some(said), self.expected.pop_front());
        }
        prop_assert_eq!(self.expected.pop_front(), None);
        Ok(())
    }

    /// What the instruction at the PC means.
    fn follow(&mut self, vcpu: usize, now_ns: u64) {
        let regs = self.regs(vcpu);
        let number = match self.interrupted[vcpu] {
            Some(_) => FIRST_INTERRUPT + vcpu,
            None => self.running[vcpu],
        };
        let word = |pc: u64| {
            let mut bytes = [0; 4];
            let read = self.rig.machine.read_phys(gpa(pc - at(0).0), &mut bytes);
            assert!(read.is_ok());
            u32::from_le_bytes(bytes)
        };
        let in_f = (at(F).0..at(G).0).contains(&regs.pc);
        let instruction = word(regs.pc);
        let armed = |pc: u64| self.rig.machine.armed().iter().any(|(at, _)| at.0 == pc);
        let watched = armed(regs.x[30]);
        let said =
            |frame: Frame| format!("x0={:#x} after {} ns", regs.x[0], now_ns - frame.since_ns);

        let frames = &mut self.frames[number];
        // Behind its call, a watched call that jumped has returned.
        if let Some(frame) = frames.last().copied()
            && frame.jumped
            && regs.pc == frame.returns_to
            && regs.sp == frame.sp
        {
            frames.pop();
            if frame.watched {
                self.returned += 1;
                self.expected.push_back(said(frame));
            } else {
                self.missed += 1;
            }
        }
        if regs.pc == at(F).0 {
            self.entries += 1;
            if frames
                .last()
                .is_some_and(|last| last.jumped && last.sp == regs.sp)
            {
                frames.pop();
                self.missed += 1;
            }
            frames.push(Frame {
                sp: regs.sp,
                returns_to: regs.x[30],
                since_ns: now_ns,
                watched,
                jumped: false,
            });
        } else if in_f && instruction == asm::ret() {
            let frame = frames.pop().expect("a call returns");
            assert_eq!((frame.sp, frame.returns_to), (regs.sp, regs.x[30]));
            self.returned += 1;
            self.expected.push_back(said(frame));
        } else if in_f && instruction == BR_X21 {
            self.missed += frames.len() as u64;
            frames.clear();
        } else if in_f && instruction & 0xfc00_0000 == 0x1400_0000 {
            let offset = ((instruction << 6) as i32 >> 4) as i64;
            let target = regs.pc.wrapping_add_signed(offset);
            if !(at(F).0..at(G).0).contains(&target) {
                frames.last_mut().expect("a call jumps").jumped = true;
            }
        }
    }

    fn check(&self) -> Result<(), TestCaseError> {
        let (hits, missed) = self.rig.counts(self.probe);
        prop_assert_eq!(hits, self.returned);
        let under_way: usize = self.frames.iter().map(Vec::len).sum();
        prop_assert_eq!(self.entries, hits + self.missed + under_way as u64);
        // A call that left unseen counts as soon as the next on its stack shows it.
        prop_assert!(
            missed <= self.missed,
            "{} missed, not {}",
            missed,
            self.missed
        );
        Ok(())
    }
}

#[derive(Clone, Copy, Debug)]
enum Happening {
    Steps(u8),
    Switch(usize),
    Interrupt(usize),
    Tick,
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        6 => (1..30_u8).prop_map(Happening::Steps),
        3 => (0..VCPUS).prop_map(Happening::Switch),
        1 => (0..VCPUS).prop_map(Happening::Interrupt),
        1 => Just(Happening::Tick),
    ]
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        3 => Just(Op::Return),
        2 => Just(Op::ReturnLate),
        4 => Just(Op::Recurse),
        2 => Just(Op::Call),
        2 => Just(Op::TailCall),
        1 => Just(Op::TailRecurse),
        1 => Just(Op::Escape),
    ];
    prop::collection::vec(op, 0..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn every_return_belongs_to_its_call(
        scripts in prop::collection::vec(ops(), TASKS + VCPUS),
        happenings in prop::collection::vec(happening(), 1..60),
    ) {
        let mut world = World::new(&scripts);
        for happening in happenings {
            match happening {
                Happening::Steps(count) => {
                    for _ in 0..count {
                        world.step()?;
                    }
                }
                Happening::Switch(vcpu) => world.switch(vcpu),
                Happening::Interrupt(vcpu) => world.interrupt(vcpu),
                Happening::Tick => world.rig.space.attend(),
            }
            world.check()?;
        }
    }
}
