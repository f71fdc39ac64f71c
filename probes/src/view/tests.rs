//! The views against the model machine.

use super::model::{LocalInvalidate, Model};
use super::*;
use crate::stage2::IPA_BITS;
use alloc::collections::BTreeSet;
use alloc::vec::Vec;
use proptest::prelude::*;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const CPUS: usize = 2;
const HVC: u32 = 0xd400_0002;
const PROBE: FetchTrap = FetchTrap::Instruction(HVC);

/// RAM by 2 MiB blocks, by a 1 GiB block, by pages; a device page.
const BLOCKS: (Gpa, Hpa, u64) = (Gpa(GIB), Hpa(0x1_0020_0000), 4 * MIB);
const HUGE: (Gpa, Hpa, u64) = (Gpa(2 * GIB), Hpa(8 * GIB), GIB);
const PAGES: (Gpa, Hpa, u64) = (Gpa(3 * GIB + 0x1000), Hpa(0x2_0000_5000), 3 * PAGE_SIZE);
const DEVICE: (Gpa, Hpa, u64) = (Gpa(0x900_0000), Hpa(0x900_0000), PAGE_SIZE);
const POOL: Hpa = Hpa(0x10_0000_0000);

/// Pages that the tests use, two or more under each kind of leaf.
const PROBED_PAGES: [Gpa; 9] = [
    Gpa(BLOCKS.0.0),
    Gpa(BLOCKS.0.0 + 0x5000),
    Gpa(BLOCKS.0.0 + 4 * MIB - PAGE_SIZE),
    Gpa(HUGE.0.0),
    Gpa(HUGE.0.0 + 0x7000),
    Gpa(HUGE.0.0 + 10 * MIB),
    Gpa(HUGE.0.0 + GIB - PAGE_SIZE),
    Gpa(PAGES.0.0),
    Gpa(PAGES.0.0 + PAGE_SIZE),
];
const OFFSETS: [u64; 3] = [0, 8, PAGE_SIZE - 4];

fn views(model: &Model, limits: Limits) -> Views<&Model> {
    let mut views = Views::new(model, limits).unwrap();
    for (gpa, hpa, size) in [BLOCKS, HUGE, PAGES] {
        views.map_ram(gpa, hpa, size).unwrap();
    }
    views.map_device(DEVICE.0, DEVICE.1, DEVICE.2).unwrap();
    let roots = views.roots();
    model.start_cpus(CPUS, &[roots.run, roots.step], roots.run);
    views
}

const PLENTY: Limits = Limits {
    pages: 64,
    sites: 256,
};

/// A VM on the model, with the part of the hypervisor that handles faults, and what the guest must
/// see.
struct Vm<'a> {
    model: &'a Model,
    views: Views<&'a Model>,
    limits: Limits,
    view: [View; CPUS],
    memory: BTreeMap<Gpa, u32>,
    probes: BTreeMap<Gpa, FetchTrap>,
    /// Pages that had no frame left for a shadow when their last `NoExecute` went.
    stuck: BTreeSet<Gpa>,
    /// Words that were written and whose page was not refreshed since.
    written: BTreeSet<Gpa>,
}

impl<'a> Vm<'a> {
    fn new(model: &'a Model, limits: Limits) -> Self {
        Self {
            model,
            views: views(model, limits),
            limits,
            view: [View::Run; CPUS],
            memory: BTreeMap::new(),
            probes: BTreeMap::new(),
            stuck: BTreeSet::new(),
            written: BTreeSet::new(),
        }
    }

    fn original(&self, gpa: Gpa) -> u32 {
        self.memory.get(&gpa).copied().unwrap_or(0)
    }

    /// How the probes of a page are to trap.
    fn traps(&self, page: Gpa) -> impl Iterator<Item = FetchTrap> {
        let last = Gpa(page.page().0 + PAGE_SIZE - 4);
        self.probes.range(page.page()..=last).map(|(_, trap)| *trap)
    }

    /// Whether the page must be one that cannot be executed.
    fn is_no_execute(&self, page: Gpa) -> bool {
        let wants = |trap| trap == FetchTrap::NoExecute;
        self.stuck.contains(&page.page()) || self.traps(page).any(wants)
    }

    fn is_shadowed(&self, page: Gpa) -> bool {
        self.traps(page).next().is_some() && !self.is_no_execute(page)
    }

    /// After a probe of a page has changed: where no probe wants it not executable any more, it is
    /// executable, unless there was no frame for a shadow.
    fn settle(&mut self, page: Gpa) {
        let page = page.page();
        let wants = self.traps(page).any(|trap| trap == FetchTrap::NoExecute);
        let is = self.views.roots().is_no_execute(&self.model, page);
        self.stuck.remove(&page);
        if is && !wants && self.traps(page).next().is_some() {
            assert_eq!(self.model.spare(), 0, "{page} is left not executable");
            self.stuck.insert(page);
        }
    }

    fn switch(&mut self, cpu: usize, view: View) {
        let roots = self.views.roots();
        let root = Hpa(roots.vttbr(view, 0));
        self.model.switch(cpu, root, LocalInvalidate::Done);
        self.view[cpu] = view;
    }

    /// Does `access` as a guest's instruction does: if it faults in the run view, in the step view.
    fn data<T>(&mut self, cpu: usize, gpa: Gpa, access: impl Fn(&Model) -> Option<T>) -> T {
        if let Some(result) = access(self.model) {
            let probed = self.views.is_shadowed(gpa);
            assert!(
                !probed || self.view[cpu] == View::Step,
                "{gpa} is accessed beside its probe"
            );
            return result;
        }
        let roots = self.views.roots();
        assert_eq!(self.view[cpu], View::Run);
        assert_eq!(roots.fault(&self.model, gpa, Access::Data), Fault::Probed);
        self.switch(cpu, View::Step);
        let result = access(self.model).expect("the step view refuses a data access");
        self.switch(cpu, View::Run);
        result
    }

    fn load(&mut self, cpu: usize, gpa: Gpa) {
        let seen = self.data(cpu, gpa, |model| model.load(cpu, gpa));
        assert_eq!(seen, self.original(gpa), "load of {gpa}");
    }

    fn store(&mut self, cpu: usize, gpa: Gpa, word: u32) {
        self.data(cpu, gpa, |model| model.store(cpu, gpa, word));
        if self.memory.insert(gpa, word) != Some(word) && self.is_shadowed(gpa) {
            self.written.insert(gpa);
        }
    }

    fn refresh(&mut self, page: Gpa) {
        let mut adopted = BTreeMap::new();
        self.views.refresh(page, &mut |gpa, word| {
            adopted.insert(gpa, word);
        });
        let on_page: Vec<Gpa> = self
            .written
            .iter()
            .copied()
            .filter(|gpa| gpa.page() == page)
            .collect();
        for gpa in on_page {
            self.written.remove(&gpa);
        }
        for (gpa, word) in adopted {
            assert!(
                self.probes.contains_key(&gpa),
                "{gpa} is adopted without being armed"
            );
            assert_eq!(word, self.original(gpa));
        }
    }

    /// Every vCPU comes to EL2, which it does after it has handled its trap.
    fn hold(&mut self) {
        let pages: BTreeSet<Gpa> = self.written.iter().map(|gpa| gpa.page()).collect();
        for page in pages {
            self.refresh(page);
        }
    }

    fn fetch(&self, cpu: usize, gpa: Gpa) {
        let seen = self.model.fetch(cpu, gpa);
        let view = self.view[cpu];
        if view == View::Run && self.is_no_execute(gpa) {
            assert_eq!(seen, None, "fetch of {gpa} from a page not to be executed");
            let fault = self.views.roots().fault(&self.model, gpa, Access::Fetch);
            assert_eq!(fault, Fault::NoExecute);
            return;
        }
        let expected = match self.probes.get(&gpa) {
            Some(FetchTrap::Instruction(probe)) if view == View::Run => *probe,
            None if view == View::Run && self.written.contains(&gpa) => return,
            _ => self.original(gpa),
        };
        assert_eq!(seen, Some(expected), "fetch of {gpa} in {view:?}");
    }

    fn arm(&mut self, gpa: Gpa, trap: FetchTrap) {
        self.hold();
        match self.views.arm(gpa, trap) {
            Ok(()) => {
                self.probes.insert(gpa, trap);
                self.settle(gpa);
            }
            Err(error) => {
                assert_eq!(error, ArmError::OutOfMemory);
                let Limits { pages, sites } = self.limits;
                let probed = self.views.shadows() + self.views.no_execute();
                let limited = probed >= pages || self.views.sites() >= sites;
                assert!(
                    limited || self.model.spare() < 3,
                    "arming fails for no reason"
                );
            }
        }
        self.check();
    }

    fn disarm(&mut self, gpa: Gpa) {
        self.hold();
        self.views.disarm(gpa);
        if self.probes.remove(&gpa).is_some() {
            self.settle(gpa);
        }
        self.check();
    }

    fn check(&self) {
        let pages: BTreeSet<Gpa> = self.probes.keys().map(|gpa| gpa.page()).collect();
        let no_execute = pages.iter().filter(|page| self.is_no_execute(**page));
        assert_eq!(self.views.no_execute(), no_execute.count());
        assert_eq!(self.views.shadows() + self.views.no_execute(), pages.len());
        assert_eq!(self.views.sites(), self.probes.len());
        for page in PROBED_PAGES {
            let roots = self.views.roots();
            assert_eq!(self.views.is_shadowed(page), self.is_shadowed(page));
            assert_eq!(roots.is_shadowed(&self.model, page), self.is_shadowed(page));
            assert_eq!(
                roots.is_no_execute(&self.model, page),
                self.is_no_execute(page)
            );
            for offset in OFFSETS {
                let gpa = Gpa(page.0 + offset);
                let armed = self.probes.get(&gpa).copied();
                let traps = match armed {
                    Some(_) if self.is_no_execute(page) => Some(FetchTrap::NoExecute),
                    _ => armed,
                };
                assert_eq!(self.views.armed(gpa), traps);
            }
        }
        assert_eq!(
            self.model.in_use(),
            self.views.tables() + self.views.shadows()
        );
    }
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Arm(Gpa, FetchTrap),
    Disarm(Gpa),
    Load(usize, Gpa),
    Store(usize, Gpa, u32),
    Refresh(Gpa),
    Fetch(usize, Gpa),
    Switch(usize, View),
}

fn trap() -> impl Strategy<Value = FetchTrap> {
    prop_oneof![
        2 => (HVC..HVC + 64).prop_map(FetchTrap::Instruction),
        1 => Just(FetchTrap::NoExecute),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    let word = || {
        let page = prop::sample::select(&PROBED_PAGES[..]);
        (page, prop::sample::select(&OFFSETS[..])).prop_map(|(page, offset)| Gpa(page.0 + offset))
    };
    let cpu = 0..CPUS;
    let view = prop_oneof![Just(View::Run), Just(View::Step)];
    prop_oneof![
        3 => (word(), trap()).prop_map(|(gpa, trap)| Op::Arm(gpa, trap)),
        3 => word().prop_map(Op::Disarm),
        2 => (cpu.clone(), word()).prop_map(|(cpu, gpa)| Op::Load(cpu, gpa)),
        3 => (cpu.clone(), word(), 1..5_u32).prop_map(|(cpu, gpa, new)| Op::Store(cpu, gpa, new)),
        1 => word().prop_map(|gpa| Op::Refresh(gpa.page())),
        4 => (cpu.clone(), word()).prop_map(|(cpu, gpa)| Op::Fetch(cpu, gpa)),
        1 => (cpu, view).prop_map(|(cpu, view)| Op::Switch(cpu, view)),
    ]
}

fn run(ops: &[Op], frames: u64, limits: Limits) {
    let model = Model::new(POOL, frames);
    let mut vm = Vm::new(&model, limits);
    let roots = vm.views.roots();
    let (run, step) = (model.dump(roots.run), model.dump(roots.step));
    let tables = vm.views.tables();
    for &op in ops {
        match op {
            Op::Arm(gpa, trap) => vm.arm(gpa, trap),
            Op::Disarm(gpa) => vm.disarm(gpa),
            Op::Load(cpu, gpa) => vm.load(cpu, gpa),
            Op::Store(cpu, gpa, word) => vm.store(cpu, gpa, word),
            Op::Refresh(page) => vm.refresh(page),
            Op::Fetch(cpu, gpa) => vm.fetch(cpu, gpa),
            Op::Switch(cpu, view) => vm.switch(cpu, view),
        }
    }
    let armed: Vec<Gpa> = vm.probes.keys().copied().collect();
    for gpa in armed {
        vm.disarm(gpa);
    }
    for cpu in 0..CPUS {
        for page in PROBED_PAGES {
            for offset in OFFSETS {
                vm.fetch(cpu, Gpa(page.0 + offset));
                vm.load(cpu, Gpa(page.0 + offset));
            }
        }
    }
    assert_eq!(vm.views.tables(), tables);
    assert_eq!(model.in_use(), tables);
    assert!(
        model.dump(roots.run) == run,
        "the run view differs from what it was before"
    );
    assert!(model.dump(roots.step) == step, "the step view was edited");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn guest_sees_its_own_bytes_and_fetches_probes(ops in prop::collection::vec(op(), 1..60)) {
        run(&ops, 64, PLENTY);
    }

    #[test]
    fn running_out_of_frames_changes_nothing(
        ops in prop::collection::vec(op(), 1..60),
        spare in 0..6_u64,
    ) {
        // The two empty trees take a root, and tables for the three kinds of regions.
        let tables = 2 * (1 + 1 + 2 + 2);
        run(&ops, tables + spare, PLENTY);
    }

    #[test]
    fn limits_hold(
        ops in prop::collection::vec(op(), 1..60),
        pages in 0..4_usize,
        sites in 0..5_usize,
    ) {
        run(&ops, 64, Limits { pages, sites });
    }
}

/// A page stays not executable where there is no frame for its shadow, until something on it changes: that another
/// page has given a frame back is no such thing.
#[test]
fn a_frame_that_comes_free_changes_nothing_elsewhere() {
    let (blocks, huge, pages) = (BLOCKS.0, HUGE.0, Gpa(0xc000_2000));
    let instruction = FetchTrap::Instruction(HVC);
    let ops = [
        Op::Arm(huge, instruction),
        Op::Arm(blocks, instruction),
        Op::Arm(pages, FetchTrap::NoExecute),
        Op::Arm(pages, instruction),
        Op::Arm(huge, FetchTrap::NoExecute),
        Op::Disarm(Gpa(pages.0 + 8)),
    ];
    for spare in 0..6 {
        run(&ops, 12 + spare, PLENTY);
    }
}

#[test]
fn vttbr_has_vmid_root_and_no_cnp() {
    let model = Model::new(POOL, 64);
    let views = views(&model, PLENTY);
    let (run, step) = (views.vttbr(View::Run, 3), views.vttbr(View::Step, 3));
    assert_ne!(run, step);
    for vttbr in [run, step] {
        assert_eq!(vttbr >> 48, 3);
        assert_eq!(vttbr & (PAGE_SIZE - 1), 0);
    }
}

#[test]
fn translation_never_leads_to_a_shadow() {
    let model = Model::new(POOL, 64);
    let mut views = views(&model, PLENTY);
    let gpa = Gpa(HUGE.0.0 + 0x12_3454);
    views.arm(gpa, PROBE).unwrap();
    let mapping = views.translate(gpa).unwrap();
    assert_eq!(
        mapping,
        Mapping {
            hpa: Hpa(HUGE.1.0 + 0x12_3454),
            memory: Memory::Ram
        }
    );
    assert_eq!(
        views.translate(Gpa(DEVICE.0.0 + 4)).unwrap().memory,
        Memory::Device
    );
    assert_eq!(views.translate(Gpa(0)), None);
    assert_eq!(views.translate(Gpa(1 << IPA_BITS)), None);
    assert_eq!(views.translate(Gpa(u64::MAX)), None);
}

#[test]
fn only_words_of_ram_can_be_armed() {
    let model = Model::new(POOL, 64);
    let mut views = views(&model, PLENTY);
    let odd = Gpa(BLOCKS.0.0 + 2);
    for gpa in [
        DEVICE.0,
        Gpa(0),
        Gpa(u64::MAX - 3),
        Gpa(GIB + BLOCKS.2),
        odd,
    ] {
        assert_eq!(views.arm(gpa, PROBE), Err(ArmError::NotRam(gpa)));
        views.disarm(gpa);
        views.refresh(gpa, &mut |_, _| panic!("nothing is armed"));
    }
    assert_eq!((views.shadows(), views.sites()), (0, 0));
}

#[test]
fn faults_are_told_apart() {
    let model = Model::new(POOL, 64);
    let mut views = views(&model, PLENTY);
    let gpa = Gpa(BLOCKS.0.0 + 0x1000);
    views.arm(gpa, PROBE).unwrap();
    let fault = |gpa, access| views.roots().fault(&&model, gpa, access);
    assert_eq!(fault(gpa, Access::Data), Fault::Probed);
    assert_eq!(fault(gpa, Access::Fetch), Fault::Retry);
    assert_eq!(fault(Gpa(gpa.0 + PAGE_SIZE), Access::Data), Fault::Retry);
    assert_eq!(fault(DEVICE.0, Access::Fetch), Fault::Forbidden);
    assert_eq!(fault(DEVICE.0, Access::Data), Fault::Retry);
    assert_eq!(fault(Gpa(0), Access::Data), Fault::Unmapped);
}

#[test]
fn a_page_that_is_not_executable_is_otherwise_the_guests() {
    let model = Model::new(POOL, 64);
    let mut vm = Vm::new(&model, PLENTY);
    let (site, other) = (Gpa(BLOCKS.0.0), Gpa(BLOCKS.0.0 + 8));
    let tables = vm.views.tables();
    vm.arm(site, FetchTrap::NoExecute);
    // One table for the split of the block, and no copy.
    assert_eq!((vm.views.shadows(), vm.views.no_execute()), (0, 1));
    assert_eq!(model.in_use(), tables + 1);
    vm.store(0, site, 7);
    vm.store(1, other, 9);
    vm.load(1, site);
    for gpa in [site, other] {
        assert_eq!(model.fetch(0, gpa), None);
    }
    vm.switch(1, View::Step);
    vm.fetch(1, site);
    // A probe instruction on the same page has to wait for the other to go.
    vm.arm(other, PROBE);
    assert_eq!(vm.views.armed(other), Some(FetchTrap::NoExecute));
    vm.store(0, other, 11);
    vm.switch(1, View::Run);
    vm.disarm(site);
    assert_eq!(vm.views.armed(other), Some(PROBE));
    assert_eq!(
        (model.fetch(1, site), model.fetch(1, other)),
        (Some(7), Some(HVC))
    );
    vm.disarm(other);
    assert_eq!((model.fetch(1, other), model.in_use()), (Some(11), tables));
}

#[test]
fn a_changed_site_is_reported_once_and_stays_armed() {
    let model = Model::new(POOL, 64);
    let mut vm = Vm::new(&model, PLENTY);
    let (armed, other) = (Gpa(BLOCKS.0.0), Gpa(BLOCKS.0.0 + 8));
    vm.arm(armed, PROBE);
    vm.store(0, armed, 7);
    vm.store(0, other, 9);
    let mut changed = Vec::new();
    vm.views
        .refresh(armed, &mut |gpa, word| changed.push((gpa, word)));
    vm.views
        .refresh(armed, &mut |gpa, word| changed.push((gpa, word)));
    assert_eq!(changed, [(armed, 7)]);
    assert_eq!(model.fetch(1, armed), Some(HVC));
    assert_eq!(model.fetch(1, other), Some(9));
}

#[test]
fn a_probe_needs_one_shadow_and_no_more_tables_than_levels() {
    let model = Model::new(POOL, 64);
    let mut views = views(&model, PLENTY);
    let before = views.tables();
    views.arm(HUGE.0, PROBE).unwrap();
    assert_eq!(views.tables(), before + 2);
    views.arm(Gpa(HUGE.0.0 + 2 * MIB), PROBE).unwrap();
    assert_eq!(views.tables(), before + 3);
    views.disarm(HUGE.0);
    assert_eq!(views.tables(), before + 2);
    views.disarm(Gpa(HUGE.0.0 + 2 * MIB));
    assert_eq!(views.tables(), before);
}

#[test]
fn ranges_that_cannot_be_mapped_are_refused() {
    let model = Model::new(POOL, 64);
    let mut views = views(&model, PLENTY);
    let end = 1 << IPA_BITS;
    let mut map = |gpa, hpa, size| views.map_ram(Gpa(gpa), Hpa(hpa), size);
    assert_eq!(map(4, 0, PAGE_SIZE), Err(MapError::Misaligned));
    assert_eq!(map(0, 0, 17), Err(MapError::Misaligned));
    assert_eq!(map(end, 0, PAGE_SIZE), Err(MapError::OutOfRange));
    assert_eq!(
        map(end - PAGE_SIZE, 0, 2 * PAGE_SIZE),
        Err(MapError::OutOfRange)
    );
    assert_eq!(map(!0xfff, 0, PAGE_SIZE), Err(MapError::OutOfRange));
    assert_eq!(map(0, !0xfff, PAGE_SIZE), Err(MapError::OutOfRange));
    assert_eq!(
        map(DEVICE.0.0, 0, PAGE_SIZE),
        Err(MapError::Overlap(DEVICE.0))
    );
    assert_eq!(map(GIB, 0, GIB), Err(MapError::Overlap(Gpa(GIB))));
    let page = Gpa(HUGE.0.0 + PAGE_SIZE);
    assert_eq!(map(page.0, 0, PAGE_SIZE), Err(MapError::Overlap(page)));
    assert_eq!(map(end - GIB, 0, GIB), Ok(()));
}

/// The model is worth something only if it notices the mistakes it is there for.
mod the_model_notices {
    use super::*;
    use crate::stage2::{Descriptor, Entry};

    fn entry(views: &Views<&Model>, gpa: Gpa) -> Entry {
        walk(views.port(), views.roots().run, gpa)
    }

    fn moved(entry: Entry) -> u64 {
        Descriptor::leaf(entry.level, Hpa(0x7_0000_0000), Memory::Ram).0
    }

    #[test]
    #[should_panic(expected = "conflict")]
    fn make_without_break() {
        let model = Model::new(POOL, 64);
        let views = views(&model, PLENTY);
        let entry = entry(&views, BLOCKS.0);
        views.port().write_descriptor(entry.at, moved(entry));
    }

    #[test]
    #[should_panic(expected = "conflict")]
    fn make_without_invalidation() {
        let model = Model::new(POOL, 64);
        let views = views(&model, PLENTY);
        let entry = entry(&views, BLOCKS.0);
        views.port().write_descriptor(entry.at, 0);
        views.port().publish();
        views.port().write_descriptor(entry.at, moved(entry));
    }

    #[test]
    #[should_panic(expected = "conflict")]
    fn a_table_invalidated_by_one_address_only() {
        let model = Model::new(POOL, 64);
        let mut views = views(&model, PLENTY);
        let block = entry(&views, BLOCKS.0);
        views.arm(BLOCKS.0, PROBE).unwrap();
        views.port().write_descriptor(block.at, 0);
        views.port().publish();
        views.port().invalidate_ipa(BLOCKS.0);
        views.port().write_descriptor(block.at, block.value.0);
    }

    #[test]
    #[should_panic(expected = "TLBI before DSB")]
    fn invalidation_before_the_break_is_visible() {
        let model = Model::new(POOL, 64);
        let views = views(&model, PLENTY);
        views.port().write_descriptor(entry(&views, BLOCKS.0).at, 0);
        views.port().invalidate_ipa(BLOCKS.0);
    }

    #[test]
    #[should_panic(expected = "is freed while a CPU reaches it")]
    fn a_frame_freed_too_early() {
        let model = Model::new(POOL, 64);
        let mut views = views(&model, PLENTY);
        views.arm(BLOCKS.0, PROBE).unwrap();
        let shadow = entry(&views, BLOCKS.0);
        views.port().write_descriptor(shadow.at, 0);
        views.port().publish();
        views.port().free(shadow.value.address());
    }

    #[test]
    #[should_panic(expected = "can translate")]
    fn a_switch_without_local_invalidation() {
        let model = Model::new(POOL, 64);
        let mut views = views(&model, PLENTY);
        views.arm(BLOCKS.0, PROBE).unwrap();
        model.switch(0, views.roots().step, LocalInvalidate::Forgotten);
        model.fetch(0, BLOCKS.0);
    }

    #[test]
    #[should_panic(expected = "can see")]
    fn an_instruction_cache_left_alone() {
        let model = Model::new(POOL, 64);
        let mut views = views(&model, PLENTY);
        views.arm(BLOCKS.0, PROBE).unwrap();
        let shadow = entry(&views, BLOCKS.0).value.address();
        views.port().write_word(shadow, HVC + 32);
        model.fetch(0, BLOCKS.0);
    }
}
