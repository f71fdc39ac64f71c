//! The finder against images that are built here, against bytes that lie, and against real kernels.

use super::build::{BANNER, Base, END_OF_TEXT, INIT_TEXT, Image, LINKED_AT, Layout, TABLES, TEXT};
use super::*;
use crate::addr::Gpa;
use crate::fake::FakeMachine;
use crate::fake::stage1::{Page, Stage1};
use crate::machine::{PhysMemory, Registers, RunControl, VcpuId, VmId};
use crate::regs::{CoreRegs, SysReg, pstate};
use crate::symbols::Symbols;
use alloc::format;
use alloc::string::ToString;
use alloc::vec::Vec;
use proptest::prelude::*;

const LAYOUTS: [Layout; 3] = [Layout::Until6_1, Layout::Until6_3, Layout::Since6_4];
const SLIDE: u64 = 0x2_3460_0000;

fn find_file(bytes: &[u8]) -> Result<Kernel, FindError> {
    find(bytes, Placement::File)
}

fn running(address: u64) -> Placement {
    Placement::Running {
        start: Gva(address),
    }
}

fn image(layout: Layout) -> Image {
    let mut image = Image::new(layout);
    image.add(TEXT, "tfirst_alias");
    image.add(TEXT + 0x100, "Tvfs_read");
    image.add(TEXT + 0x180, "Tvfs_ready");
    image.add(TEXT + 0x200, "t__arm64_sys_read");
    for n in 0..600 {
        image.add(TEXT + 0x1000 + n * 8, &format!("tlock_{n}"));
    }
    image.add(TEXT + 0x3000, "tvfs_read");
    image
}

fn all(symbols: &SymbolTable) -> Vec<(Gva, char, String)> {
    let mut all = Vec::new();
    symbols.each_symbol(&mut |symbol| {
        all.push((symbol.address, symbol.kind, symbol.name.to_string()));
        true
    });
    all
}

#[test]
fn all_symbols_are_found_in_every_layout() {
    for layout in LAYOUTS {
        for base in [Base::InPlace, Base::Rela] {
            let image = Image {
                base,
                ..image(layout)
            };
            let kernel = find_file(&image.bytes(LINKED_AT)).unwrap();
            let expected: Vec<(Gva, char, String)> = image
                .symbols
                .iter()
                .flat_map(|(offset, names)| names.iter().map(move |name| (offset, name)))
                .map(|(offset, name)| {
                    let kind = name.chars().next().unwrap();
                    (Gva(LINKED_AT + offset), kind, name[1..].to_string())
                })
                .collect();
            assert_eq!(all(&kernel.symbols), expected, "{layout:?}, {base:?}");
            assert_eq!(kernel.symbols.count(), expected.len());
            assert_eq!(kernel.symbols.image_start(), Some(Gva(LINKED_AT)));
            assert_eq!(kernel.banner, BANNER);
        }
    }
}

#[test]
fn a_running_kernel_has_its_own_addresses() {
    for layout in LAYOUTS {
        let bytes = image(layout).bytes(LINKED_AT + SLIDE);
        let symbols = find(&bytes[..], running(LINKED_AT + SLIDE))
            .unwrap()
            .symbols;
        let address = Gva(LINKED_AT + SLIDE + TEXT + 0x200);
        assert_eq!(symbols.by_name("__arm64_sys_read"), Some(address));
        assert_eq!(symbols.image_start(), Some(Gva(LINKED_AT + SLIDE)));
        // The search may begin behind the header, which Linux gives away after boot.
        let later = find(&bytes[0x1_0000..], running(LINKED_AT + SLIDE + 0x1_0000)).unwrap();
        assert_eq!(all(&later.symbols), all(&symbols));
    }
}

#[test]
fn a_kernel_that_has_not_relocated_itself_is_refused() {
    for base in [Base::InPlace, Base::Rela] {
        let bytes = Image {
            base,
            ..image(Layout::Since6_4)
        }
        .bytes(LINKED_AT);
        let found = find(&bytes[..], running(LINKED_AT + SLIDE));
        assert_eq!(found.err(), Some(FindError::NotRelocated));
    }
}

#[test]
fn slid_symbols_move_together() {
    let symbols = find_file(&image(Layout::Since6_4).bytes(LINKED_AT))
        .unwrap()
        .symbols;
    let slid = symbols.clone().slid(SLIDE);
    for ((before, ..), (after, ..)) in all(&symbols).into_iter().zip(all(&slid)) {
        assert_eq!(after.0 - before.0, SLIDE);
    }
}

#[test]
fn names_and_addresses_are_looked_up() {
    let symbols = find_file(&image(Layout::Since6_4).bytes(LINKED_AT))
        .unwrap()
        .symbols;
    let at = |offset| Gva(LINKED_AT + offset);
    assert_eq!(
        symbols.by_name("vfs_read"),
        Some(at(TEXT + 0x100)),
        "the lowest of two"
    );
    assert_eq!(
        symbols.by_name("lock_599"),
        Some(at(TEXT + 0x1000 + 599 * 8))
    );
    assert_eq!(symbols.by_name("vfs_rea"), None);
    assert_eq!(symbols.by_name(""), None);
    let located = |offset| {
        symbols
            .by_address(at(offset))
            .map(|it| (it.name, it.offset))
    };
    let expect = |name: &str, offset| Some((name.to_string(), offset));
    assert_eq!(located(TEXT), expect("_stext", 0), "the first of two");
    assert_eq!(located(TEXT + 0x17c), expect("vfs_read", 0x7c));
    assert_eq!(located(TEXT + 0x180), expect("vfs_ready", 0));
    assert_eq!(located(TEXT - 1), None);
    assert_eq!(
        located(END_OF_TEXT),
        None,
        "data, of which this kernel has no symbols"
    );
    assert_eq!(located(INIT_TEXT + 8), expect("_sinittext", 8));
    assert_eq!(located(INIT_TEXT + 0x1000), None);
    assert_eq!(symbols.by_address(Gva(0)), None);
    assert_eq!(symbols.by_address(Gva(u64::MAX)), None);
    assert_eq!(symbols.similar("vfs_raed", 2), ["vfs_read", "vfs_ready"]);
    for offset in [0x100, 0x17f] {
        let next = symbols.next_after(at(TEXT + offset));
        assert_eq!(next, Some(at(TEXT + 0x180)));
    }
    assert_eq!(symbols.next_after(Gva(u64::MAX)), None);
    assert_eq!(symbols.next_after(Gva(0)), None, "before the kernel");
}

#[test]
fn with_data_symbols_everything_up_to_the_end_is_covered() {
    let mut image = image(Layout::Since6_4);
    image.add(0, "T_text");
    image.add(INIT_TEXT + 0x8000, "B_end");
    let symbols = find_file(&image.bytes(LINKED_AT)).unwrap().symbols;
    assert_eq!(symbols.image_start(), Some(Gva(LINKED_AT)));
    let located = symbols
        .by_address(Gva(LINKED_AT + END_OF_TEXT + 0x20))
        .unwrap();
    assert_eq!((located.name.as_str(), located.offset), ("_etext", 0x20));
    assert_eq!(
        symbols.by_address(Gva(LINKED_AT + INIT_TEXT + 0x8000)),
        None
    );
}

#[test]
fn a_long_name_has_a_two_byte_length() {
    let mut image = Image::new(Layout::Since6_4);
    let longest = "x".repeat(MAX_NAME - 1);
    image.add(TEXT + 8, &format!("t{longest}"));
    let symbols = find_file(&image.bytes(LINKED_AT)).unwrap().symbols;
    assert_eq!(symbols.by_name(&longest), Some(Gva(LINKED_AT + TEXT + 8)));
    image.add(TEXT + 16, &format!("t{longest}x"));
    assert_eq!(
        find_file(&image.bytes(LINKED_AT)).err(),
        Some(FindError::NoNames)
    );
}

#[test]
fn what_is_no_kernel_is_refused() {
    assert_eq!(find_file(&[]).err(), Some(FindError::NoTokenTable));
    assert_eq!(
        find_file(&[0; 100_000]).err(),
        Some(FindError::NoTokenTable)
    );
    let mut image = Image::new(Layout::Since6_4);
    image.symbols.remove(&INIT_TEXT);
    let found = find_file(&image.bytes(LINKED_AT));
    assert_eq!(found.err(), Some(FindError::NoSymbol("_sinittext")));
}

/// Where the kernel runs that [`guest`] makes.
const RUNS_AT: u64 = 0xffff_ffc0_9a20_0000;
/// What KPTI's trampoline is mapped at.
const TRAMPOLINE: Gva = Gva(0xffff_fffd_fddf_0800);
const EL0: u64 = pstate::EL0T;
const EL1: u64 = pstate::EL1H;

/// Where its memory is.
const KERNEL: Gpa = Gpa(FakeMachine::RAM_BASE.0 + (2 << 20));

/// A VM with a kernel that is relocated to `relocated_to`, and one vCPU at `mode` whose vectors are
/// at `vectors`.
fn guest(relocated_to: u64, mode: u64, vectors: Gva) -> &'static FakeMachine {
    let machine = loaded(relocated_to);
    let mut tables = Stage1::new(machine, FakeMachine::RAM_BASE);
    let page = Gpa(KERNEL.0 + TEXT);
    tables.map(vectors.page(), page, Page::Kernel);
    machine.hold();
    tables.install(VcpuId(0));
    start(machine, mode, vectors);
    machine.release();
    machine
}

/// A VM with the kernel in its memory.
fn loaded(relocated_to: u64) -> &'static FakeMachine {
    let machine = FakeMachine::leak(VmId(1), 2, 8 << 20);
    machine
        .write_phys(KERNEL, &image(Layout::Since6_4).bytes(relocated_to))
        .unwrap();
    machine
}

/// Puts the first vCPU of a VM that is held there.
fn start(machine: &FakeMachine, mode: u64, vectors: Gva) {
    machine
        .set_sys(VcpuId(0), SysReg::VbarEl1, vectors.0)
        .unwrap();
    let regs = CoreRegs {
        pstate: mode,
        ..CoreRegs::default()
    };
    machine.set_core(VcpuId(0), &regs).unwrap();
}

/// No distribution has a kernel with pages of 64 KiB: three tables by hand, of levels 1 to 3, for
/// 48-bit addresses (Arm ARM D8.2.8).
#[test]
fn a_kernel_with_pages_of_64_kib_is_found() {
    const T1SZ_48_BITS: u64 = 16 << 16;
    const TG1_64K: u64 = 0b11 << 30;
    const IPS_40_BITS: u64 = 0b010 << 32;
    const TABLE_OR_PAGE: u64 = 0b11;
    const ACCESSED: u64 = 1 << 10;
    let vectors = Gva(RUNS_AT + TEXT + 0x800);
    let machine = loaded(RUNS_AT);
    let table = |level: u64| FakeMachine::RAM_BASE.0 + ((level - 1) << 16);
    let entries = [
        (table(1) + ((vectors.0 >> 42) & 0x3f) * 8, table(2)),
        (table(2) + ((vectors.0 >> 29) & 0x1fff) * 8, table(3)),
        (
            table(3) + ((vectors.0 >> 16) & 0x1fff) * 8,
            (KERNEL.0 + TEXT) | ACCESSED,
        ),
    ];
    for (entry, address) in entries {
        let descriptor = address | TABLE_OR_PAGE;
        machine
            .write_phys(Gpa(entry), &descriptor.to_le_bytes())
            .unwrap();
    }
    machine.hold();
    let values = [
        (SysReg::TcrEl1, T1SZ_48_BITS | TG1_64K | IPS_40_BITS),
        (SysReg::Ttbr1El1, table(1)),
        (SysReg::SctlrEl1, 1),
    ];
    for (reg, value) in values {
        machine.set_sys(VcpuId(0), reg, value).unwrap();
    }
    start(machine, EL1, vectors);
    machine.release();
    let symbols = find_in_guest(machine).unwrap().symbols;
    assert_eq!(symbols.image_start(), Some(Gva(RUNS_AT)));
}

#[test]
fn a_guests_kernel_is_found_from_its_vectors() {
    let vectors = Gva(RUNS_AT + TEXT + 0x800);
    for (mode, vectors) in [(EL1, vectors), (EL0, vectors), (EL0, TRAMPOLINE)] {
        let machine = guest(RUNS_AT, mode, vectors);
        let symbols = find_in_guest(machine).unwrap().symbols;
        assert_eq!(symbols.image_start(), Some(Gva(RUNS_AT)));
        assert!(!machine.held());
    }
}

#[test]
fn a_guest_that_has_not_booted_is_told_apart() {
    let fresh = FakeMachine::leak(VmId(1), 2, 8 << 20);
    fresh.hold();
    fresh.set_sys(VcpuId(0), SysReg::VbarEl1, u64::MAX).unwrap();
    fresh.release();
    assert_eq!(find_in_guest(fresh).err(), Some(FindError::NoKernelCode));
    let early = guest(RUNS_AT - SLIDE, EL1, Gva(RUNS_AT + TEXT + 0x800));
    assert_eq!(find_in_guest(early).err(), Some(FindError::NotRelocated));
    assert!(!early.held());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn bytes_that_lie_do_no_harm(
        layout in prop::sample::select(&LAYOUTS[..]),
        lies in prop::collection::vec((0..20_000_usize, any::<u64>(), 1..9_usize), 1..12),
        cut in 0..20_000_usize,
        is_running in any::<bool>(),
    ) {
        let mut bytes = image(layout).bytes(LINKED_AT);
        for (at, value, length) in lies {
            let at = TABLES as usize + at;
            if let Some(place) = bytes.get_mut(at..at + length) {
                place.copy_from_slice(&value.to_le_bytes()[..length]);
            }
        }
        bytes.truncate(bytes.len().saturating_sub(cut / 2));
        let placement = if is_running { running(LINKED_AT) } else { Placement::File };
        if let Ok(kernel) = find(&bytes[..], placement) {
            use_everything(&kernel.symbols)?;
        }
    }
}

fn use_everything(symbols: &SymbolTable) -> Result<(), TestCaseError> {
    let mut last = Gva(0);
    let names = all(symbols);
    for (address, _, name) in &names {
        prop_assert!(*address >= last);
        prop_assert!(symbols.by_name(name).is_some_and(|first| first <= *address));
        symbols.by_address(*address);
        last = *address;
    }
    symbols.similar("lock_", 5);
    Ok(())
}

/// Tables whose every word looks like the number of symbols, and names without end.
#[test]
fn a_search_without_end_ends() {
    let mut bytes = image(Layout::Since6_4).bytes(LINKED_AT);
    let mut hostile = Vec::new();
    for _ in 0..1 << 20 {
        hostile.extend((MAX_SYMBOLS as u64).to_le_bytes());
    }
    let tokens = tokens::find(&bytes[..]).unwrap();
    let mut behind = bytes.split_off(tokens.at as usize);
    hostile.append(&mut behind);
    assert_eq!(find_file(&hostile).err(), Some(FindError::NoNames));
    // Names of one code each, which are all right until the very end.
    let mut endless = 0x2_0000_u64.to_le_bytes().to_vec();
    endless.extend([2, b't', b'x'].repeat(1 << 20));
    endless.resize(endless.len().next_multiple_of(8), 0);
    endless.extend(&hostile[8 << 20..]);
    assert_eq!(find_file(&endless).err(), Some(FindError::NoNames));
}
