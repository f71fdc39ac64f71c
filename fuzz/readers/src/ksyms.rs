//! The reader of the hypervisor's own symbols, on tables with damage.

use crate::input::Input;
use probes::addr::Gva;
use probes::ksyms::{Function, Inlined, KsymTable, encode};
use probes::symbols::Symbols;

/// Reads a table and looks up everything in it.
pub fn check(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    if input.byte().is_multiple_of(4) {
        return read(input.rest(), 0);
    }
    let mut table = small_table();
    let address = input.u64();
    while input.has_more() {
        let at = usize::from(input.u16()) % table.len();
        table[at] = input.byte();
    }
    read(&table, address);
}

fn small_table() -> Vec<u8> {
    let function = |address, size, name: &str| Function {
        address,
        size,
        name: name.to_owned(),
    };
    let functions = vec![
        function(0x1000, 0x80, "handle_guest_exit"),
        function(0x1100, 0x40, "hypervisor::vcpu::Vcpu::run"),
        function(0x1200, 0, "<hypervisor::vm::Vm as RunControl>::hold"),
    ];
    let inlined = [Inlined {
        name: "hypervisor::cpu::this".to_owned(),
        places: 7,
    }];
    encode(functions, &inlined).expect("a small table")
}

fn read(bytes: &[u8], address: u64) {
    let Some(table) = KsymTable::parse(bytes) else {
        return;
    };
    assert!(table.functions().count() <= table.count());
    for function in table.functions().take(64) {
        Symbols::named(&table, function.name, 3);
        table.inlined_places(function.name);
        for address in [function.address, function.address.wrapping_add(3)] {
            if let Some(holding) = table.holding(address) {
                assert!(holding.address <= address);
            }
        }
    }
    table.by_address(Gva(address));
    table.similar("Vcpu::rnu", 3);
}
