mod oracle;
mod tables;

use super::*;
use alloc::string::ToString;
use alloc::vec::Vec;
use proptest::prelude::*;
use tables::*;

const TABLES: u64 = 0x4000_0000;

fn format(granule: u64, input_bits: u32) -> Format {
    Format {
        granule,
        input_bits,
        wide: false,
    }
}

/// Every combination of granule, address width and output format that the architecture has.
fn all_formats() -> Vec<Format> {
    let mut formats = Vec::new();
    for wide in [false, true] {
        for (granule, minimum) in [(0x1000, 16), (0x4000, 16), (0x10000, 17)] {
            let maximum = if wide || granule == 0x10000 { 52 } else { 48 };
            formats.extend((minimum..=maximum).map(|input_bits| Format {
                granule,
                input_bits,
                wide,
            }));
        }
    }
    formats
}

#[test]
fn every_format_maps_at_every_leaf_level() {
    for format in all_formats() {
        for half in [Half::Lower, Half::Upper] {
            for level in format.leaf_levels() {
                let ram = Ram::default();
                let high = if format.wide { 0xb_u64 << 48 } else { 0 };
                let mut tables = Tables::new(&ram, format, half, TABLES | high);
                let size = format.leaf_size(level);
                let last = (1u64 << format.input_bits) - 1;
                let va = tables.canonical(last & !(size - 1));
                let pa = high | (0x0000_fedc_ba98_0000 & !(size - 1));
                tables.map(va, pa, level, ACCESSED | 2 << 2).unwrap();

                let got = translate(&tables.regs(), &ram, Gva(tables.canonical(last))).unwrap();
                assert_eq!(
                    got.gpa,
                    Gpa(pa | last & (size - 1)),
                    "{format:?} {half:?} {level}"
                );
                assert_eq!((got.size, got.level), (size, level));
                assert_eq!(got.memory_attributes, 0x08);
            }
        }
    }
}

#[test]
fn blocks_are_refused_where_the_architecture_has_none() {
    for format in all_formats() {
        for level in format.start_level()..3 {
            if format.leaf_levels().contains(&level) {
                continue;
            }
            let ram = Ram::default();
            let mut tables = Tables::new(&ram, format, Half::Lower, TABLES);
            let entry = tables.entry(0, level).unwrap();
            ram.write_u64(entry, VALID | ACCESSED);
            let mut regs = tables.regs();
            if !format.wide {
                // 64K blocks of level 1 depend on the CPU, not on what the guest chose.
                regs.mmfr0 = regs.mmfr0 & !0xf | 5;
            }
            let fault = translate(&regs, &ram, Gva(0)).unwrap_err();
            assert_eq!(
                (fault.level, fault.kind),
                (level, FaultKind::Unmapped),
                "{format:?}"
            );
        }
    }
}

#[test]
fn level_3_needs_a_page_descriptor() {
    let ram = Ram::default();
    let mut tables = Tables::new(&ram, format(0x1000, 48), Half::Lower, TABLES);
    let entry = tables.entry(0x1000, 3).unwrap();
    for kind in [0b00, 0b01, 0b10] {
        ram.write_u64(entry, 0x8000_0000 | kind);
        let fault = translate(&tables.regs(), &ram, Gva(0x1000)).unwrap_err();
        assert_eq!((fault.level, fault.kind), (3, FaultKind::Unmapped));
    }
}

#[test]
fn linux_48_bit_kernel_page_by_hand() {
    // pgd at 0x41000000, pud 0x42000000, pmd 0x43000000, pte 0x44000000;
    // VA 0xffff800081234567: indices 256, 2, 9, 52.
    let ram = Ram::default();
    for table in [0x4100_0000, 0x4200_0000, 0x4300_0000, 0x4400_0000] {
        ram.add(table, 0x1000);
    }
    ram.write_u64(0x4100_0000 + 256 * 8, 0x1000_0000_4200_0003);
    ram.write_u64(0x4200_0000 + 2 * 8, 0x1000_0000_4300_0003);
    ram.write_u64(0x4300_0000 + 9 * 8, 0x1000_0000_4400_0003);
    ram.write_u64(0x4400_0000 + 52 * 8, 0x0044_0000_4abc_d783);
    let regs = TranslationRegs {
        sctlr: 0x34f4_d91d,
        // T0SZ = T1SZ = 16, TG1 4K, IPS 44 bits, A1, AS, TBI0.
        tcr: 0x0000_0034_b550_3510,
        ttbr0: 0,
        ttbr1: 0x0123_0000_4100_0001,
        mair: 0x0000_00f4_40ff,
        mmfr0: 4,
        mmfr2: 0,
    };
    let got = translate(&regs, &ram, Gva(0xffff_8000_8123_4567)).unwrap();
    assert_eq!(got.gpa, Gpa(0x4abc_d567));
    assert_eq!(got.size, 4096);
    assert_eq!(got.memory_attributes, 0xff);
    assert!(got.guarded && got.accessed && !got.is_device());
    let kernel_text = Access {
        read: true,
        write: false,
        execute: true,
    };
    assert_eq!(
        got.permissions,
        Permissions {
            el1: kernel_text,
            el0: Access::default()
        }
    );
}

#[test]
fn tags_and_range() {
    let ram = Ram::default();
    let mut tables = Tables::new(&ram, format(0x1000, 39), Half::Lower, TABLES);
    tables.map(0x1000, 0x8000_0000, 3, ACCESSED).unwrap();
    let mut regs = tables.regs();
    let kind = |regs: &TranslationRegs, gva| translate(regs, &ram, Gva(gva)).map_err(|f| f.kind);
    assert!(kind(&regs, 0x1000).is_ok());
    assert_eq!(kind(&regs, 1 << 39 | 0x1000), Err(FaultKind::NonCanonical));
    assert_eq!(
        kind(&regs, 0xab00_0000_0000_1000),
        Err(FaultKind::NonCanonical)
    );
    regs.tcr |= 1 << 37;
    assert!(kind(&regs, 0xab00_0000_0000_1000).is_ok());
    assert_eq!(
        kind(&regs, 0x0040_0000_0000_1000),
        Err(FaultKind::NonCanonical)
    );
    // Bit 55 picks the other half, whose walks are disabled; its own TBI1 is clear.
    assert_eq!(
        kind(&regs, 0x0080_0000_0000_1000),
        Err(FaultKind::NonCanonical)
    );
    assert_eq!(
        kind(&regs, 0xffff_ffff_ffff_f000),
        Err(FaultKind::WalkDisabled)
    );

    let mut tables = Tables::new(&ram, format(0x1000, 48), Half::Upper, TABLES + 0x10_0000);
    let va = 0xffff_0000_0000_1000;
    tables.map(va, 0x8000_0000, 3, ACCESSED).unwrap();
    let mut regs = tables.regs();
    assert!(kind(&regs, va).is_ok());
    assert_eq!(
        kind(&regs, 0x12ff_0000_0000_1000),
        Err(FaultKind::NonCanonical)
    );
    regs.tcr |= 1 << 38;
    assert!(kind(&regs, 0x12ff_0000_0000_1000).is_ok());
}

#[test]
fn what_the_cpu_lacks_is_a_configuration_fault() {
    let ram = Ram::default();
    let fails = |change: &dyn Fn(&mut TranslationRegs), format: Format| {
        let tables = Tables::new(&ram, format, Half::Lower, TABLES);
        let mut regs = tables.regs();
        change(&mut regs);
        let fault = translate(&regs, &ram, Gva(0)).unwrap_err();
        assert_eq!((fault.level, fault.kind), (0, FaultKind::Configuration));
    };
    // Reserved and absent granules.
    fails(&|regs| regs.tcr |= 0b11 << 14, format(0x1000, 48));
    fails(&|regs| regs.mmfr0 |= 0xf << 28, format(0x1000, 48));
    fails(&|regs| regs.mmfr0 &= !(0xf << 20), format(0x4000, 47));
    fails(&|regs| regs.mmfr0 |= 0xf << 24, format(0x10000, 48));
    // Small tables without FEAT_TTST, 52 bits without FEAT_LVA or FEAT_LPA2.
    fails(&|regs| regs.mmfr2 = 0, format(0x1000, 24));
    fails(&|regs| regs.mmfr2 = 0, format(0x10000, 52));
    let wide = Format {
        granule: 0x1000,
        input_bits: 52,
        wide: true,
    };
    fails(&|regs| regs.mmfr0 &= !(0xf << 28), wide);
    // Smaller than anything, larger than anything.
    fails(&|regs| regs.tcr |= 63, format(0x1000, 48));
    fails(&|regs| regs.tcr &= !63, format(0x1000, 48));
}

#[test]
fn addresses_beyond_the_physical_size_fault_at_their_level() {
    let ram = Ram::default();
    let mut tables = Tables::new(&ram, format(0x1000, 48), Half::Lower, TABLES);
    tables.map(0x1000, 1 << 40, 3, ACCESSED).unwrap();
    let kind = |regs: &TranslationRegs| {
        let fault = translate(regs, &ram, Gva(0x1000)).unwrap_err();
        (fault.level, fault.kind)
    };
    let mut regs = tables.regs();
    assert_eq!(
        translate(&regs, &ram, Gva(0x1000)).unwrap().gpa,
        Gpa(1 << 40)
    );
    // By the guest's choice (IPS 40 bits), by the CPU (PARange 40 bits).
    regs.tcr = regs.tcr & !(7 << 32) | 2 << 32;
    assert_eq!(kind(&regs), (3, FaultKind::AddressSize));
    regs = tables.regs();
    regs.mmfr0 = regs.mmfr0 & !0xf | 2;
    assert_eq!(kind(&regs), (3, FaultKind::AddressSize));
    // A table, and the first table.
    let entry = tables.entry(0x1000, 1).unwrap();
    ram.write_u64(entry, 1 << 41 | 0b11);
    assert_eq!(kind(&regs), (1, FaultKind::AddressSize));
    regs.ttbr0 = 1 << 41;
    assert_eq!(kind(&regs), (0, FaultKind::AddressSize));
}

#[test]
fn tables_outside_ram_fault_at_their_level() {
    let ram = Ram::default();
    let mut tables = Tables::new(&ram, format(0x1000, 48), Half::Lower, TABLES);
    let entry = tables.entry(0, 1).unwrap();
    ram.write_u64(entry, 0x9000_0000 | 0b11);
    let fault = translate(&tables.regs(), &ram, Gva(5 << 21)).unwrap_err();
    let missing = PhysFault::Unmapped(Gpa(0x9000_0000 + 5 * 8));
    assert_eq!((fault.level, fault.kind), (2, FaultKind::Table(missing)));
    assert_eq!(
        fault.to_string(),
        "0xa00000 is not mapped: the guest's level 2 table at 0x90000028 is not in RAM"
    );
}

#[test]
fn a_table_that_points_to_itself_ends() {
    let ram = Ram::default();
    let mut tables = Tables::new(&ram, format(0x1000, 48), Half::Lower, TABLES);
    let entry = tables.entry(0, 0).unwrap();
    ram.write_u64(entry, TABLES | 0b11);
    let got = translate(&tables.regs(), &ram, Gva(0x123)).unwrap();
    assert_eq!((got.gpa, got.level), (Gpa(TABLES | 0x123), 3));
}

/// Permissions as `rwx` of EL1, then of EL0.
fn permissions(
    leaf: u64,
    table: u64,
    change: impl FnOnce(&mut TranslationRegs),
) -> [&'static str; 2] {
    let ram = Ram::default();
    let mut tables = Tables::new(&ram, format(0x1000, 48), Half::Lower, TABLES);
    tables.map(0x1000, 0x8000_0000, 3, leaf).unwrap();
    let entry = tables.entry(0x1000, 1).unwrap();
    ram.write_u64(entry, ram.read_u64(entry) | table);
    let mut regs = tables.regs();
    change(&mut regs);
    let got = translate(&regs, &ram, Gva(0x1000)).unwrap().permissions;
    [got.el1, got.el0].map(|access| match (access.read, access.write, access.execute) {
        (true, true, true) => "rwx",
        (true, true, false) => "rw-",
        (true, false, true) => "r-x",
        (true, false, false) => "r--",
        (false, false, true) => "--x",
        (false, false, false) => "---",
        other => panic!("impossible permissions {other:?}"),
    })
}

#[test]
fn direct_and_hierarchical_permissions() {
    let same = |_: &mut TranslationRegs| {};
    // Direct (Arm ARM table D8-48).
    assert_eq!(permissions(0, 0, same), ["rwx", "--x"]);
    assert_eq!(permissions(USER, 0, same), ["rw-", "rwx"]);
    assert_eq!(permissions(READ_ONLY, 0, same), ["r-x", "--x"]);
    assert_eq!(permissions(USER | READ_ONLY, 0, same), ["r-x", "r-x"]);
    assert_eq!(permissions(READ_ONLY | PXN | UXN, 0, same), ["r--", "---"]);
    assert_eq!(permissions(CONTIGUOUS, 0, same), ["rwx", "--x"]);
    // Hierarchical, and disabled.
    assert_eq!(permissions(USER, AP_TABLE_NO_EL0, same), ["rwx", "--x"]);
    assert_eq!(permissions(USER, AP_TABLE_READ_ONLY, same), ["r-x", "r-x"]);
    assert_eq!(permissions(0, PXN_TABLE, same), ["rw-", "--x"]);
    assert_eq!(permissions(0, UXN_TABLE, same), ["rwx", "---"]);
    let all = AP_TABLE_NO_EL0 | AP_TABLE_READ_ONLY | PXN_TABLE | UXN_TABLE;
    assert_eq!(
        permissions(USER, all, |regs| regs.tcr |= 1 << 41),
        ["rw-", "rwx"]
    );
    // SCTLR_EL1.WXN, TCR_EL1.E0PD0, hardware dirty state.
    assert_eq!(
        permissions(USER, 0, |regs| regs.sctlr |= 1 << 19),
        ["rw-", "rw-"]
    );
    assert_eq!(
        permissions(0, 0, |regs| regs.sctlr |= 1 << 19),
        ["rw-", "--x"]
    );
    assert_eq!(
        permissions(USER, 0, |regs| regs.tcr |= 1 << 55),
        ["rw-", "---"]
    );
    let clean = READ_ONLY | DIRTY_MODIFIER;
    assert_eq!(permissions(clean, 0, same), ["r-x", "--x"]);
    assert_eq!(
        permissions(clean, 0, |regs| regs.tcr |= 1 << 40),
        ["rwx", "--x"]
    );
}

#[test]
fn flags_and_attributes_of_a_page() {
    let ram = Ram::default();
    let mut tables = Tables::new(&ram, format(0x4000, 47), Half::Lower, TABLES);
    tables
        .map(0x4000, 0x8000_0000, 3, ACCESSED | GUARDED)
        .unwrap();
    tables.map(0x8000, 0x8000_0000, 3, 7 << 2).unwrap();
    let regs = tables.regs();
    let first = translate(&regs, &ram, Gva(0x4000)).unwrap();
    assert!(first.accessed && first.guarded && !first.is_device());
    assert_eq!(first.memory_attributes, 0xbb);
    let second = translate(&regs, &ram, Gva(0x8000)).unwrap();
    assert!(!second.accessed && !second.guarded && second.is_device());
}

#[test]
fn big_endian_tables() {
    let ram = Ram::default();
    let mut tables = Tables::new(&ram, format(0x1000, 48), Half::Lower, TABLES);
    tables.map(0x1000, 0x8000_0000, 3, ACCESSED).unwrap();
    ram.swap_endianness();
    let mut regs = tables.regs();
    regs.sctlr |= 1 << 25;
    let got = translate(&regs, &ram, Gva(0x1234)).unwrap();
    assert_eq!(got.gpa, Gpa(0x8000_0234));
}

#[test]
fn mmu_off_is_identity() {
    let ram = Ram::default();
    let mut regs = TranslationRegs {
        mmfr0: 2,
        ..TranslationRegs::default()
    };
    let got = translate(&regs, &ram, Gva(0x4008_1234)).unwrap();
    assert_eq!(got.gpa, Gpa(0x4008_1234));
    assert!(got.is_device());
    let fault = translate(&regs, &ram, Gva(1 << 40)).unwrap_err();
    assert_eq!(fault.kind, FaultKind::AddressSize);
    let tagged = Gva(0x7f00_0000_4008_0000);
    assert!(translate(&regs, &ram, tagged).is_err());
    regs.tcr = 1 << 37;
    assert_eq!(
        translate(&regs, &ram, tagged).unwrap().gpa,
        Gpa(0x4008_0000)
    );
}

/// Two pages side by side in virtual memory and far apart in physical memory, then nothing.
fn two_pages(ram: &Ram) -> TranslationRegs {
    ram.add(0x8000_0000, 0x1000);
    ram.add(0x9000_0000, 0x1000);
    let mut tables = Tables::new(ram, format(0x1000, 48), Half::Upper, TABLES);
    let va = 0xffff_8000_0000_0000;
    tables.map(va, 0x9000_0000, 3, ACCESSED).unwrap();
    tables.map(va + 0x1000, 0x8000_0000, 3, READ_ONLY).unwrap();
    tables.map(va + 0x2000, 0x7000_0000, 3, ACCESSED).unwrap();
    tables.regs()
}

#[test]
fn virtual_accesses_cross_pages() {
    let ram = Ram::default();
    let regs = two_pages(&ram);
    let start = Gva(0xffff_8000_0000_0ffc);
    let bytes: Vec<u8> = (1..=8).collect();
    write_virt(&regs, &ram, start, &bytes).unwrap();
    assert_eq!(ram.read_u64(0x9000_0ff8), 0x0403_0201_0000_0000);
    assert_eq!(ram.read_u64(0x8000_0000), 0x0807_0605);
    let mut back = [0; 8];
    read_virt(&regs, &ram, start, &mut back).unwrap();
    assert_eq!(back[..], bytes[..]);
    assert_eq!(read_virt(&regs, &ram, Gva(0), &mut []), Ok(()));
}

#[test]
fn virtual_accesses_report_how_far_they_came() {
    let ram = Ram::default();
    let regs = two_pages(&ram);
    let start = Gva(0xffff_8000_0000_1ff0);
    let mut buffer = [0xaa; 32];
    ram.write_u64(0x8000_0ff0, 0x11);
    let error = read_virt(&regs, &ram, start, &mut buffer).unwrap_err();
    let hole = Gva(0xffff_8000_0000_2000);
    assert_eq!((error.done, error.address), (16, hole));
    assert_eq!(
        error.cause,
        AccessCause::Physical(PhysFault::Unmapped(Gpa(0x7000_0000)))
    );
    assert_eq!((buffer[0], buffer[16]), (0x11, 0xaa));

    let unmapped = Gva(0xffff_8000_0000_3000);
    let error = write_virt(&regs, &ram, unmapped, &[1]).unwrap_err();
    assert_eq!(error.done, 0);
    assert_eq!(
        error.to_string(),
        "0xffff800000003000 is not mapped (level 3)"
    );
}

#[test]
fn virtual_accesses_stop_at_the_end_of_the_address_space() {
    let ram = Ram::default();
    ram.add(0x8000_0000, 0x1000);
    let mut tables = Tables::new(&ram, format(0x1000, 48), Half::Upper, TABLES);
    tables
        .map(0xffff_ffff_ffff_f000, 0x8000_0000, 3, ACCESSED)
        .unwrap();
    let mut buffer = [0; 16];
    let start = Gva(u64::MAX - 7);
    let error = read_virt(&tables.regs(), &ram, start, &mut buffer).unwrap_err();
    assert_eq!((error.done, error.cause), (8, AccessCause::Wraps));
}

fn any_format() -> impl Strategy<Value = Format> {
    prop::sample::select(all_formats())
}

fn any_half() -> impl Strategy<Value = Half> {
    prop_oneof![Just(Half::Lower), Just(Half::Upper)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// A random mapping walks back to itself, and only what was mapped is.
    #[test]
    fn walks_what_was_built(
        format in any_format(),
        half in any_half(),
        wanted in prop::collection::vec(any::<(u64, u64, prop::sample::Index, u64)>(), 1..24),
    ) {
        let ram = Ram::default();
        let high = if format.wide { 5 << 48 } else { 0 };
        let mut tables = Tables::new(&ram, format, half, TABLES | high);
        let output_mask = if format.wide { (1 << 52) - 1 } else { (1 << 48) - 1 };
        let levels = format.leaf_levels();
        let mut mapped = Vec::new();
        for (va, pa, level, probe) in wanted {
            let level = *level.get(&levels);
            let size = format.leaf_size(level);
            let va = tables.canonical(va & ((1 << format.input_bits) - 1) & !(size - 1));
            let pa = pa & output_mask & !(size - 1);
            if tables.map(va, pa, level, ACCESSED).is_some() {
                mapped.push((va, pa, size, level, probe % size));
            }
        }
        let regs = tables.regs();
        for &(va, pa, size, level, offset) in &mapped {
            let got = translate(&regs, &ram, Gva(va | offset)).unwrap();
            prop_assert_eq!(got.gpa, Gpa(pa | offset));
            prop_assert_eq!((got.size, got.level), (size, level));
        }
        for &(va, _, size, _, _) in &mapped {
            let neighbour = tables.canonical((va ^ size) & ((1 << format.input_bits) - 1));
            let is_mapped = mapped
                .iter()
                .any(|&(va, _, size, _, _)| neighbour & !(size - 1) == va);
            prop_assert_eq!(translate(&regs, &ram, Gva(neighbour)).is_ok(), is_mapped);
        }
    }

    /// Whatever registers and tables hold, a walk ends, and says something about the address it was
    /// asked for.
    #[test]
    fn hostile_tables_never_panic(
        regs in any::<(u64, u64, u64, u64, u64, u64)>(),
        mmu_on in prop::bool::weighted(0.95),
        near in any::<bool>(),
        addresses in prop::collection::vec(any::<u64>(), 1..16),
        words in prop::collection::vec(any::<u64>(), 1024),
    ) {
        let ram = Ram::default();
        ram.add(0, 0x4000);
        for (index, word) in words.iter().enumerate() {
            // Half of the descriptors point back into the little RAM there is.
            let word = if index % 2 == 0 { word & !0x000f_ffff_ffff_c000 | 3 } else { *word };
            ram.write_u64(index as u64 * 8, word);
        }
        let (sctlr, tcr, ttbr0, ttbr1, mmfr0, mmfr2) = regs;
        let ttbr_mask = if near { 0x3fff } else { u64::MAX };
        let regs = TranslationRegs {
            sctlr: sctlr & !1 | u64::from(mmu_on),
            tcr: if near { tcr & !(1 << 7 | 1 << 23) } else { tcr },
            ttbr0: ttbr0 & ttbr_mask,
            ttbr1: ttbr1 & ttbr_mask,
            mair: 0,
            mmfr0,
            mmfr2,
        };
        for address in addresses {
            for gva in [address, address >> 16, !(address >> 16), address & 0xfff] {
                match translate(&regs, &ram, Gva(gva)) {
                    Ok(got) => prop_assert!(got.gpa.0 >> 52 == 0 && got.size.is_power_of_two()),
                    Err(fault) => {
                        prop_assert_eq!(fault.address, Gva(gva));
                        prop_assert!((-1..=3).contains(&fault.level));
                        prop_assert!(!fault.to_string().is_empty());
                    }
                }
                let mut buffer = [0; 64];
                let _ = read_virt(&regs, &ram, Gva(gva), &mut buffer);
            }
        }
    }
}
