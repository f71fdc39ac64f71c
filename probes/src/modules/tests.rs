//! Modules in the memory of a guest on the fake machine.

use super::*;
use crate::addr::{Gpa, PAGE_SIZE};
use crate::fake::stage1::{Page, Stage1};
use crate::fake::{FakeMachine, FakeSymbols, asm, fleet};
use crate::machine::{PhysMemory, RunControl, VcpuId};
use crate::periscope::Periscope;
use crate::space::{AfterRun, Placement, ProbeId, ProbeState, Space};
use crate::symbols::Located;
use crate::target::Target;
use alloc::string::ToString;
use alloc::vec;
use proptest::prelude::*;

/// Where the kernel has its list; module `n` is `n + 1` pages behind it.
const KERNEL: Gva = Gva(0xffff_ff80_0800_0000);
/// The first of the pages behind [`KERNEL`].
const MEMORY: Gpa = Gpa(0x4002_0000);
const PAGES: u64 = 12;
/// Where the code of modules is, twice.
const CODE: [Gva; 2] = [Gva(0xffff_ff80_0000_0000), Gva(0xffff_ff80_0001_0000)];
const FUNCTION: u64 = 0x40;
/// More turns than the guest needs.
const LONG: usize = 1000;
const CALLS: u64 = 20;

/// From a `struct module`.
const KALLSYMS: u64 = 0x2f8;
const CORE_KALLSYMS: u64 = 0x310;
const SYMTAB: u64 = 0x800;
const STRTAB: u64 = 0xb00;
const TYPETAB: u64 = 0xf00;

/// A guest with a kernel that has a list of modules and nothing else, and calls a function.
struct Kernel {
    machine: &'static FakeMachine,
    periscope: &'static Periscope,
    /// Numbers of the modules in the list.
    list: Vec<u64>,
}

impl Kernel {
    fn new() -> Self {
        let (periscope, machines) = fleet(1, 1).unwrap();
        let machine = machines[0];
        let main = [
            asm::movz(19, CALLS as u16),
            asm::bl(FUNCTION as i32 - 4),
            asm::subs(19, 19, 1),
            asm::cbnz(19, -8),
            asm::b(0),
        ];
        machine.load(FakeMachine::RAM_BASE, &main);
        let function = [asm::add(0, 0, 1), asm::nop(), asm::ret()];
        machine.load(Gpa(FakeMachine::RAM_BASE.0 + FUNCTION), &function);
        let mut tables = Stage1::new(machine, Gpa(FakeMachine::RAM_BASE.0 + 16 * PAGE_SIZE));
        tables.map(
            Gva(FakeMachine::RAM_BASE.0),
            FakeMachine::RAM_BASE,
            Page::Kernel,
        );
        for code in CODE {
            tables.map(code, FakeMachine::RAM_BASE, Page::Kernel);
        }
        for page in 0..PAGES {
            let offset = page * PAGE_SIZE;
            tables.map(Gva(KERNEL.0 + offset), Gpa(MEMORY.0 + offset), Page::Kernel);
        }
        machine.hold();
        tables.install(VcpuId(0));
        machine.release();
        let mut kernel = Self {
            machine,
            periscope,
            list: Vec::new(),
        };
        kernel.relink();
        kernel
    }

    fn space(&self) -> &'static Space {
        &self.periscope.spaces()[0]
    }

    fn write(&self, at: Gva, bytes: &[u8]) {
        let gpa = Gpa(at.0 - KERNEL.0 + MEMORY.0);
        self.machine.write_phys(gpa, bytes).unwrap();
    }

    fn write_word(&self, at: u64, word: u64) {
        self.write(Gva(at), &word.to_le_bytes());
    }

    fn at(number: u64) -> u64 {
        KERNEL.0 + (number + 1) * PAGE_SIZE
    }

    /// Puts module `number` at the head of the list, as a kernel does.
    fn load(&mut self, number: u64, name: &str, functions: &[(Gva, &str)]) {
        let module = Self::at(number);
        self.write(Gva(module), &[0; PAGE_SIZE as usize]);
        self.write(Gva(module + 24), name.as_bytes());
        self.write_word(module + KALLSYMS, module + CORE_KALLSYMS);
        let mut strings = vec![0];
        let mut symbols = vec![0; 24];
        let mut types = vec![b'?'];
        // Something that is no code comes first.
        let data = [(Gva(module), "__this_module", b'd')];
        let code = functions.iter().map(|(at, name)| (*at, *name, b't'));
        for (address, name, kind) in data.into_iter().chain(code) {
            symbols.extend_from_slice(&(strings.len() as u64).to_le_bytes());
            symbols.extend_from_slice(&address.0.to_le_bytes());
            symbols.extend_from_slice(&12_u64.to_le_bytes());
            strings.extend_from_slice(name.as_bytes());
            strings.push(0);
            types.push(kind);
        }
        let tables = [
            module + SYMTAB,
            types.len() as u64,
            module + STRTAB,
            module + TYPETAB,
        ];
        for (index, word) in tables.into_iter().enumerate() {
            self.write_word(module + CORE_KALLSYMS + 8 * index as u64, word);
        }
        self.write(Gva(module + SYMTAB), &symbols);
        self.write(Gva(module + STRTAB), &strings);
        self.write(Gva(module + TYPETAB), &types);
        self.list.insert(0, number);
        self.relink();
    }

    fn unload(&mut self, number: u64) {
        self.list.retain(|other| *other != number);
        self.relink();
    }

    fn set_state(&self, number: u64, state: u64) {
        self.write_word(Self::at(number), state);
    }

    fn relink(&mut self) {
        let nodes = self.list.iter().map(|number| Self::at(*number) + 8);
        let ring: Vec<u64> = core::iter::once(KERNEL.0).chain(nodes).collect();
        for (index, node) in ring.iter().enumerate() {
            let next = ring[(index + 1) % ring.len()];
            let previous = ring[(index + ring.len() - 1) % ring.len()];
            self.write_word(*node, next);
            self.write_word(node + 8, previous);
        }
    }

    fn attach(&self, name: &str) -> (ProbeId, Placement) {
        let target = Target::parse(name).unwrap();
        self.space()
            .attach_probe(&target, None, AfterRun::Go)
            .unwrap()
    }

    fn state(&self, probe: ProbeId) -> (ProbeState, u64) {
        let list = self.space().list();
        let listing = list.iter().find(|listing| listing.id == Some(probe));
        let listing = listing.unwrap();
        (listing.state, listing.hits)
    }

    fn look(&self, modules: &mut Modules, own: &FakeSymbols) -> Option<Change> {
        modules.look(self.machine, own, Scrutiny::Everything)
    }
}

fn with_list() -> FakeSymbols {
    FakeSymbols::new([(KERNEL, "modules")])
}

fn names(change: &Change) -> Vec<&str> {
    change
        .modules
        .iter()
        .map(|module| module.name.as_str())
        .collect()
}

#[test]
fn modules_come_and_go() {
    let mut kernel = Kernel::new();
    let mut modules = Modules::default();
    assert!(kernel.look(&mut modules, &with_list()).is_none());
    kernel.load(
        0,
        "first",
        &[(CODE[0], "open"), (Gva(CODE[0].0 + 0x40), "close")],
    );
    kernel.load(1, "second", &[(CODE[1], "open")]);
    let change = kernel.look(&mut modules, &with_list()).unwrap();
    assert_eq!(names(&change), ["first", "second"]);
    assert_eq!(change.gone, []);
    assert!(modules.cover(Gva(CODE[0].0 + 0x48)) && !modules.cover(KERNEL));
    assert!(kernel.look(&mut modules, &with_list()).is_none());
    kernel.unload(0);
    let change = kernel.look(&mut modules, &with_list()).unwrap();
    assert_eq!(names(&change), ["second"]);
    let gone = Gone {
        name: "first".to_string(),
        range: CODE[0]..Gva(CODE[0].0 + 0x4c),
    };
    assert_eq!(change.gone, [gone]);
}

#[test]
fn a_module_counts_while_it_is_live() {
    let mut kernel = Kernel::new();
    let mut modules = Modules::default();
    let (live, coming, going, unformed) = (0, 1, 2, 3);
    kernel.load(0, "driver", &[(CODE[0], "open")]);
    kernel.set_state(0, coming);
    assert!(kernel.look(&mut modules, &with_list()).is_none());
    kernel.set_state(0, live);
    // The list itself has not changed.
    let change = modules.look(kernel.machine, &with_list(), Scrutiny::Arrivals);
    assert_eq!(names(&change.unwrap()), ["driver"]);
    // Its exit function still runs.
    kernel.set_state(0, going);
    assert!(kernel.look(&mut modules, &with_list()).is_none());
    kernel.set_state(0, unformed);
    assert_eq!(
        kernel.look(&mut modules, &with_list()).unwrap().gone.len(),
        1
    );
}

#[test]
fn a_live_module_gets_its_symbols_a_moment_later() {
    let mut kernel = Kernel::new();
    let mut modules = Modules::default();
    let mut look = || modules.look(kernel.machine, &with_list(), Scrutiny::Arrivals);
    kernel.load(0, "driver", &[(CODE[0], "open")]);
    let place = Kernel::at(0) + KALLSYMS;
    // Still those of its init code, which are elsewhere.
    kernel.write_word(place, CODE[1].0);
    assert!(look().is_none());
    kernel.write_word(place, Kernel::at(0) + CORE_KALLSYMS);
    let change = look();
    assert_eq!(names(&change.expect("it should be read now")), ["driver"]);
}

#[test]
fn a_module_without_symbols_is_not_looked_at_for_ever() {
    let mut kernel = Kernel::new();
    let mut modules = Modules::default();
    kernel.load(0, "bare", &[(CODE[0], "open")]);
    kernel.write_word(Kernel::at(0) + KALLSYMS, CODE[1].0);
    for _ in 0..=MAX_UNREAD {
        assert_eq!(modules.seen, None);
        assert!(
            modules
                .look(kernel.machine, &with_list(), Scrutiny::Arrivals)
                .is_none()
        );
    }
    assert!(modules.seen.is_some());
    // The next one counts anew.
    kernel.load(1, "driver", &[(CODE[1], "open")]);
    let place = Kernel::at(1) + KALLSYMS;
    kernel.write_word(place, CODE[1].0);
    let mut look = || modules.look(kernel.machine, &with_list(), Scrutiny::Arrivals);
    assert!(look().is_none());
    kernel.write_word(place, Kernel::at(1) + CORE_KALLSYMS);
    assert_eq!(names(&look().unwrap()), ["driver"]);
}

#[test]
fn a_kernel_without_its_data_in_kallsyms_mentions_the_list() {
    let mut kernel = Kernel::new();
    // adrp x20, KERNEL; add x20, x20, #0x20; ldr x19, [x20, #0x48]: another list at +0x20, and
    // the list at the anchor of the section less what the load adds.
    let code = Gva(KERNEL.0 + (PAGES - 1) * PAGE_SIZE);
    let pages = (KERNEL.0.wrapping_sub(code.0) >> 12) as u32;
    let adrp = 0x9000_0014 | (pages & 3) << 29 | (pages >> 2 & 0x7_ffff) << 5;
    let words = [adrp, 0x9100_8294, 0xf940_2693];
    for (index, word) in words.iter().enumerate() {
        kernel.write(Gva(code.0 + 4 * index as u64), &word.to_le_bytes());
    }
    let own = FakeSymbols::new([(code, "print_modules")]);
    let mut modules = Modules::default();
    kernel.load(0, "driver", &[(CODE[0], "open")]);
    assert!(kernel.look(&mut modules, &own).is_none());
    // The head moves to what the code loads from: +0x20 + 0x48.
    let head = KERNEL.0 + 0x68;
    let node = Kernel::at(0) + 8;
    kernel.write_word(head, node);
    kernel.write_word(head + 8, node);
    kernel.write_word(node, head);
    kernel.write_word(node + 8, head);
    modules.pause = 0;
    let change = kernel.look(&mut modules, &own).unwrap();
    assert_eq!(names(&change), ["driver"]);
}

#[test]
fn functions_of_modules_have_names_of_their_own() {
    let mut kernel = Kernel::new();
    kernel.load(
        0,
        "first",
        &[(CODE[0], "open"), (Gva(CODE[0].0 + 0x40), "close")],
    );
    kernel.load(1, "second", &[(CODE[1], "open")]);
    let space = kernel.space();
    space.set_symbols(Arc::new(with_list()));
    let symbols = space.find_symbols().unwrap();
    assert_eq!(symbols.by_name("first:close"), Some(Gva(CODE[0].0 + 0x40)));
    assert_eq!(symbols.by_name("close"), Some(Gva(CODE[0].0 + 0x40)));
    assert_eq!(symbols.by_name("second:close"), None);
    let both = symbols.named("open", 8);
    let both: Vec<_> = both.iter().map(|named| named.name.as_str()).collect();
    assert_eq!(both, ["first:open", "second:open"]);
    let inside = Located {
        name: "first:close".to_string(),
        offset: 4,
    };
    assert_eq!(symbols.by_address(Gva(CODE[0].0 + 0x44)), Some(inside));
    assert_eq!(symbols.count(), 4);
    assert_eq!(symbols.similar("first:clos", 2), ["first:close"]);
    assert!(symbols.has_module("first") && !symbols.has_module("third"));
}

#[test]
fn a_probe_waits_for_its_module_and_survives_it() {
    let mut kernel = Kernel::new();
    let space = kernel.space();
    space.set_symbols(Arc::new(with_list()));
    let (probe, placement) = kernel.attach("driver:work");
    assert_eq!(placement, Placement::Pending);
    space.attend();
    assert_eq!(kernel.state(probe).0, ProbeState::Pending);
    kernel.load(0, "driver", &[(Gva(CODE[0].0 + FUNCTION), "work")]);
    space.attend();
    assert_eq!(kernel.state(probe).0, ProbeState::On);
    assert!(space.wants_attention(), "somebody must see the module go");
    kernel.machine.run(1 + 6 * 5);
    assert_eq!(kernel.state(probe), (ProbeState::On, 5));
    kernel.unload(0);
    space.attend();
    assert_eq!(kernel.machine.armed(), []);
    assert_eq!(kernel.state(probe), (ProbeState::Pending, 5));
    // It comes back somewhere else.
    kernel.load(1, "driver", &[(Gva(CODE[1].0 + FUNCTION), "work")]);
    space.attend();
    assert_eq!(kernel.state(probe), (ProbeState::On, 5));
    kernel.machine.run(LONG);
    assert_eq!(kernel.state(probe), (ProbeState::On, CALLS));
}

#[test]
fn an_address_in_a_module_ends_with_it() {
    let mut kernel = Kernel::new();
    kernel.load(0, "driver", &[(Gva(CODE[0].0 + FUNCTION), "work")]);
    let space = kernel.space();
    space.set_symbols(Arc::new(with_list()));
    space.find_symbols().unwrap();
    let (probe, _) = kernel.attach(&Gva(CODE[0].0 + FUNCTION).to_string());
    assert_eq!(kernel.state(probe).0, ProbeState::On);
    kernel.unload(0);
    space.attend();
    assert_eq!(kernel.state(probe).0, ProbeState::Disarmed);
    assert_eq!(kernel.machine.armed(), []);
    assert!(!space.wants_attention());
}

#[test]
fn a_name_that_no_loaded_module_has_is_refused() {
    let mut kernel = Kernel::new();
    kernel.load(0, "driver", &[(Gva(CODE[0].0 + FUNCTION), "work")]);
    let space = kernel.space();
    space.set_symbols(Arc::new(with_list()));
    let target = Target::parse("driver:wrok").unwrap();
    let refused = space.attach_probe(&target, None, AfterRun::Go).unwrap_err();
    let text = "no symbol driver:wrok in vm1. Did you mean driver:work?";
    assert_eq!(refused.to_string(), text);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever is in the guest's memory, looking at it ends.
    #[test]
    fn a_list_of_any_kind_is_survived(
        writes in prop::collection::vec(
            (0..PAGES * PAGE_SIZE / 8, prop_oneof![
                any::<u64>(),
                (0..PAGES * PAGE_SIZE / 8).prop_map(|word| KERNEL.0 + 8 * word),
            ]),
            0..40,
        ),
        links in prop::collection::vec((0..4_u64, 0..4_u64), 0..4),
    ) {
        let mut kernel = Kernel::new();
        for number in 0..4 {
            kernel.load(number, "driver", &[(CODE[0], "open")]);
        }
        for (from, to) in links {
            kernel.write_word(Kernel::at(from) + 8, Kernel::at(to) + 8);
        }
        for (word, value) in writes {
            kernel.write_word(KERNEL.0 + 8 * word, value);
        }
        let mut modules = Modules::default();
        for _ in 0..2 {
            kernel.look(&mut modules, &with_list());
        }
    }
}
