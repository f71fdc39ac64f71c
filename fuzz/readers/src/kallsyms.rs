//! The finder of a kernel's symbols, on bytes that are no kernel and on kernels with damage.

use crate::input::Input;
use probes::addr::Gva;
use probes::kallsyms::build::{Base, Image, LINKED_AT, Layout, TABLES, TEXT};
use probes::kallsyms::{self, Kernel, MAX_NAME, MAX_SYMBOLS, Placement};
use probes::symbols::Symbols;
use std::sync::LazyLock;

/// Calls the finder and looks up what it has found.
pub fn check(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let placement = placement(&mut input);
    let is_whole = input.byte().is_multiple_of(4);
    let found = if is_whole {
        kallsyms::find(input.rest(), placement)
    } else {
        kallsyms::find(damaged(input).as_slice(), placement)
    };
    if let Ok(kernel) = found {
        look_up(&kernel);
    }
}

fn placement(input: &mut Input<'_>) -> Placement {
    match input.byte() % 4 {
        0 => Placement::File,
        1 => Placement::Relocated,
        2 => Placement::Running {
            start: Gva(LINKED_AT),
        },
        _ => Placement::Running {
            start: Gva(input.u64()),
        },
    }
}

/// Kernels without damage: building one takes longer than reading it.
static KERNELS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let layouts = [Layout::Until6_1, Layout::Until6_3, Layout::Since6_4];
    let bases = [Base::InPlace, Base::Rela];
    // With one marker, and with several.
    let symbols = [3, 300];
    let kinds = layouts
        .iter()
        .flat_map(|layout| bases.iter().map(move |base| (*layout, *base)));
    kinds
        .flat_map(|(layout, base)| symbols.map(|count| whole(layout, base, count)))
        .collect()
});

fn whole(layout: Layout, base: Base, symbols: u64) -> Vec<u8> {
    let mut image = Image::new(layout);
    image.base = base;
    for index in 0..symbols {
        image.add(TEXT + 0x100 + 8 * (index / 2), &format!("tlock_{index}"));
    }
    image.bytes(LINKED_AT)
}

/// A kernel in which some bytes are different, and perhaps the end is missing.
fn damaged(mut input: Input<'_>) -> Vec<u8> {
    let kind = usize::from(input.byte()) % KERNELS.len();
    let mut bytes = KERNELS[kind].clone();
    // The tables are at the end; what comes before holds nothing but a relocation.
    let tables = TABLES as usize;
    let span = bytes.len() - tables;
    if input.byte().is_multiple_of(8) {
        bytes.truncate(tables + usize::from(input.u16()) % span);
    }
    while input.has_more() {
        let at = tables + usize::from(input.u16()) % span;
        let value = input.byte();
        if let Some(byte) = bytes.get_mut(at) {
            *byte = value;
        }
    }
    bytes
}

fn look_up(kernel: &Kernel) {
    let symbols = &kernel.symbols;
    assert!(symbols.count() <= MAX_SYMBOLS as usize);
    assert!(!kernel.banner.contains(char::is_control));
    let mut count = 0_usize;
    let mut first = None;
    let mut before = 0;
    symbols.each_symbol(&mut |symbol| {
        assert!(symbol.name.len() < MAX_NAME);
        let first = *first.get_or_insert(symbol.address);
        let offset = symbol.address.0.wrapping_sub(first.0);
        assert!(offset >= before, "addresses ascend");
        before = offset;
        // Looking up each of 256K symbols would try the fuzzer's patience, not the table.
        if count.is_multiple_of(64) {
            let same = symbols.named(symbol.name, usize::MAX);
            assert!(same.iter().any(|other| other.address == symbol.address));
            if let Some(located) = symbols.by_address(symbol.address) {
                assert_eq!(located.offset, 0);
            }
        }
        count += 1;
        true
    });
    assert_eq!(count, symbols.count());
    symbols.similar("vfs_raed", 3);
    symbols.by_address(Gva(0));
    symbols.by_address(Gva(u64::MAX));
    symbols.image_start();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_damage_the_symbols_are_found() {
        for kernel in KERNELS.iter() {
            let found = kallsyms::find(kernel.as_slice(), Placement::File);
            look_up(&found.expect("a kernel without damage"));
        }
    }
}
