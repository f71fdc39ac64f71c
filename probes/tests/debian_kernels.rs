//! The symbol finder against the kernels that the project runs. `cargo xtask test` downloads them
//! and includes this test: `PERISCOPE_KERNEL_IMAGE` is Debian stable's kernel,
//! `PERISCOPE_OLDSTABLE_IMAGE` with `--full` also oldstable's.

use probes::addr::Gva;
use probes::kallsyms::{self, Placement, SymbolTable};
use probes::symbols::Symbols;
use std::collections::HashMap;
use std::fs;

const STABLE: &str = "PERISCOPE_KERNEL_IMAGE";
const OLDSTABLE: &str = "PERISCOPE_OLDSTABLE_IMAGE";

#[test]
#[ignore = "needs kernels in PERISCOPE_KERNEL_IMAGE: cargo xtask test runs it"]
fn symbols_of_debian_kernels() {
    let stable = std::env::var(STABLE).unwrap_or_else(|_| panic!("{STABLE} names no kernel"));
    check(&stable);
    if let Ok(oldstable) = std::env::var(OLDSTABLE) {
        check(&oldstable);
    }
}

fn check(path: &str) {
    let image = fs::read(path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let kernel = kallsyms::find(&image[..], Placement::File)
        .unwrap_or_else(|error| panic!("{path}: {error}"));
    let symbols = &kernel.symbols;
    println!("{path}: {} symbols, {}", symbols.count(), kernel.banner);
    assert!(symbols.count() > 40_000);
    assert!(kernel.banner.starts_with("Linux version 6."));
    let start = symbols.image_start().unwrap();
    let bytes_at = |name: &str, length: usize| {
        let address = symbols
            .by_name(name)
            .unwrap_or_else(|| panic!("{path} has no {name}"));
        let offset = (address.0 - start.0) as usize;
        &image[offset..offset + length]
    };

    // What the symbols point to is what they say.
    assert_eq!(
        symbols.by_name("vectors").unwrap().0 % 0x800,
        0,
        "VBAR_EL1 is 2 KiB aligned"
    );
    if symbols.by_name("linux_banner").is_some() {
        assert_eq!(
            bytes_at("linux_banner", kernel.banner.len()),
            kernel.banner.as_bytes()
        );
    }
    for function in [
        "do_sys_openat2",
        "vfs_read",
        "__arm64_sys_openat",
        "start_kernel",
    ] {
        let first = u32::from_le_bytes(bytes_at(function, 4).try_into().unwrap());
        assert!(
            opens_function(first),
            "{function} begins with {first:#010x}"
        );
    }
    look_everything_up(symbols);
    let similar = symbols.similar("do_sys_openat", 3);
    assert_eq!(&similar[..2], ["do_sys_openat2", "do_sys_open"]);
}

/// NOP (patched by ftrace), PACIASP, BTI C, `stp x29, x30, [sp, …]!`, `sub sp, sp, …`, `mov x9,
/// x30`.
fn opens_function(word: u32) -> bool {
    let exact = [0xd503_201f, 0xd503_233f, 0xd503_245f, 0xaa1e_03e9];
    let stores_pair = word & 0xffc0_7fff == 0xa980_7bfd;
    let moves_stack = word & 0xff80_03ff == 0xd100_03ff;
    exact.contains(&word) || stores_pair || moves_stack
}

fn look_everything_up(symbols: &SymbolTable) {
    let mut first_of_name: HashMap<String, Gva> = HashMap::new();
    let mut first_at_address: HashMap<Gva, String> = HashMap::new();
    symbols.each(&mut |address, name| {
        first_of_name.entry(name.to_string()).or_insert(address);
        first_at_address
            .entry(address)
            .or_insert_with(|| name.to_string());
        true
    });
    for (name, address) in &first_of_name {
        assert_eq!(symbols.by_name(name), Some(*address), "{name}");
    }
    for (address, name) in &first_at_address {
        if let Some(located) = symbols.by_address(*address) {
            assert_eq!((located.name.as_str(), located.offset), (name.as_str(), 0));
        }
    }
}
