//! Random sequences of everything a user can do, against a model that knows only what the user
//! asked for and where the guest's PCs are.

use super::{Rig, at, gpa};
use crate::addr::Gva;
use crate::fake::asm;
use crate::machine::{RunControl, StopReason, VcpuId};
use crate::space::{AfterRun, ProbeId, ProbeMode, ProbeOptions};
use crate::target::Target;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use proptest::prelude::*;

const VCPUS: usize = 2;
/// Instructions of the guest's loop; the last branches to the first.
const LOOP: [u32; 6] = [
    asm::nop(),
    asm::add(0, 0, 1),
    asm::bti_c(),
    asm::ldr(2, 31, 0),
    asm::movz(1, 7),
    asm::b(-20),
];

#[derive(Clone, Debug)]
enum Operation {
    Insert(usize),
    Remove(usize),
    Attach(usize, AfterRun, ProbeMode),
    Act(usize, AfterRun),
    /// Detaches one of the probes and actions, counted modulo their number.
    Detach(usize),
    Run(usize),
}

fn operation() -> impl Strategy<Value = Operation> {
    let word = 0..LOOP.len();
    let after = prop_oneof![Just(AfterRun::Go), Just(AfterRun::Stop)];
    let mode = prop_oneof![
        Just(ProbeMode::Hvc),
        Just(ProbeMode::Xn),
        Just(ProbeMode::Hw)
    ];
    prop_oneof![
        word.clone().prop_map(Operation::Insert),
        word.clone().prop_map(Operation::Remove),
        (word.clone(), after.clone(), mode)
            .prop_map(|(word, after, mode)| Operation::Attach(word, after, mode)),
        (word, after).prop_map(|(word, after)| Operation::Act(word, after)),
        (0..8_usize).prop_map(Operation::Detach),
        (1..12_usize).prop_map(Operation::Run),
        (1..12_usize).prop_map(Operation::Run),
    ]
}

/// A probe or an action.
struct Probe {
    word: usize,
    after: AfterRun,
    is_action: bool,
    hits: u64,
}

#[derive(Default)]
struct Breakpoint {
    inserted: bool,
    hits: u64,
}

struct Model {
    breakpoints: [Breakpoint; LOOP.len()],
    probes: BTreeMap<ProbeId, Probe>,
    /// The word that each vCPU is at, and whether it has reported its site there.
    vcpus: [(usize, bool); VCPUS],
}

impl Model {
    fn new() -> Self {
        Self {
            breakpoints: core::array::from_fn(|_| Breakpoint::default()),
            probes: BTreeMap::new(),
            vcpus: [(0, false); VCPUS],
        }
    }

    /// A vCPU takes its turn. Returns whether it stops the VM.
    fn turn(&mut self, vcpu: usize) -> bool {
        let (word, reported) = self.vcpus[vcpu];
        if !reported && self.hit(word) {
            self.vcpus[vcpu].1 = true;
            return true;
        }
        self.vcpus[vcpu] = ((word + 1) % LOOP.len(), false);
        false
    }

    fn hit(&mut self, word: usize) -> bool {
        let inserted = self.breakpoints[word].inserted;
        let mut stops = inserted;
        let mut lets_pass = false;
        for probe in self.probes.values_mut().filter(|probe| probe.word == word) {
            if probe.is_action && !inserted {
                continue;
            }
            probe.hits += 1;
            match (probe.is_action, probe.after) {
                (true, AfterRun::Go) => lets_pass = true,
                (false, AfterRun::Stop) => stops = true,
                _ => {}
            }
        }
        if inserted {
            self.breakpoints[word].hits += 1;
        }
        let probe_stops = self
            .probes
            .values()
            .any(|probe| probe.word == word && !probe.is_action && probe.after == AfterRun::Stop);
        if lets_pass { probe_stops } else { stops }
    }

    /// Whether a stop at `word` may be `reason`.
    fn may_report(&self, word: usize, reason: StopReason) -> bool {
        match reason {
            StopReason::Site { probe: None } => self.breakpoints[word].inserted,
            StopReason::Site { probe: Some(id) } => {
                let probe = self.probes.get(&ProbeId(id));
                probe.is_some_and(|probe| probe.word == word && probe.after == AfterRun::Stop)
            }
            _ => false,
        }
    }
}

fn place(word: usize) -> Gva {
    at(4 * word as u64)
}

/// Runs `turns` turns of each vCPU on both, stopping and resuming as a session does.
fn run(rig: &Rig, model: &mut Model, turns: usize) -> Result<(), TestCaseError> {
    rig.space.reconcile();
    for _ in 0..turns {
        rig.machine.run(1);
        let stopped = (0..VCPUS).find(|vcpu| model.turn(*vcpu));
        let stop = rig.machine.take_stop();
        prop_assert_eq!(stop.map(|stop| usize::from(stop.vcpu.0)), stopped);
        if let (Some(stop), Some(vcpu)) = (stop, stopped) {
            let word = model.vcpus[vcpu].0;
            prop_assert!(
                model.may_report(word, stop.reason),
                "{:?} at {}",
                stop.reason,
                word
            );
            rig.machine.release();
        }
    }
    for (vcpu, (word, _)) in model.vcpus.iter().enumerate() {
        prop_assert_eq!(rig.pc(VcpuId(vcpu as u8)), place(*word));
    }
    Ok(())
}

fn check(rig: &Rig, model: &Model) -> Result<(), TestCaseError> {
    let list = rig.space.list();
    for (id, probe) in &model.probes {
        prop_assert_eq!(rig.listing(*id).hits, probe.hits);
    }
    for (word, breakpoint) in model.breakpoints.iter().enumerate() {
        let listed = list
            .iter()
            .find(|listing| listing.id.is_none() && listing.address == Some(place(word)));
        match listed {
            Some(listing) => prop_assert_eq!(listing.hits, breakpoint.hits),
            None => prop_assert!(!breakpoint.inserted),
        }
    }
    Ok(())
}

fn perform(rig: &Rig, model: &mut Model, operation: &Operation) -> Result<(), TestCaseError> {
    match *operation {
        Operation::Insert(word) => {
            rig.space.insert_breakpoint(place(word), VcpuId(0)).unwrap();
            model.breakpoints[word].inserted = true;
        }
        Operation::Remove(word) => {
            rig.space.remove_breakpoint(place(word));
            model.breakpoints[word].inserted = false;
        }
        Operation::Attach(word, after, mode) => {
            let target = Target::Address(place(word));
            let options = ProbeOptions {
                after,
                mode,
                ..ProbeOptions::default()
            };
            let (id, _) = rig
                .space
                .attach_probe(&target, rig.program("count"), options)
                .unwrap();
            model.probes.insert(
                id,
                Probe {
                    word,
                    after,
                    is_action: false,
                    hits: 0,
                },
            );
        }
        Operation::Act(word, after) => {
            let target = Target::Address(place(word));
            let id = rig
                .space
                .attach_action(&target, rig.program("count"), after)
                .unwrap();
            model.probes.insert(
                id,
                Probe {
                    word,
                    after,
                    is_action: true,
                    hits: 0,
                },
            );
        }
        Operation::Detach(number) => {
            let ids: Vec<_> = model.probes.keys().copied().collect();
            if let Some(id) = ids.get(number % ids.len().max(1)) {
                rig.space.detach(*id).unwrap();
                model.probes.remove(id);
            }
        }
        Operation::Run(turns) => run(rig, model, turns)?,
    }
    check(rig, model)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn hits_and_stops_are_what_the_user_asked_for(
        operations in prop::collection::vec(operation(), 1..60),
    ) {
        let rig = Rig::new(VCPUS);
        rig.machine.load(gpa(0), &LOOP);
        let mut model = Model::new();
        // The stack pointer is the base of the guest's load.
        for vcpu in 0..VCPUS as u8 {
            rig.held(|machine| {
                let mut regs = machine.core(VcpuId(vcpu)).unwrap();
                regs.sp = at(0x1000).0;
                machine.set_core(VcpuId(vcpu), &regs).unwrap();
            });
        }
        for operation in &operations {
            perform(&rig, &mut model, operation)?;
        }
        for id in model.probes.keys() {
            rig.space.detach(*id).unwrap();
        }
        rig.space.forget_breakpoints();
        prop_assert!(rig.machine.armed().is_empty(), "something stays armed");
        prop_assert!(rig.machine.points().is_empty(), "a hardware breakpoint stays");
    }
}
