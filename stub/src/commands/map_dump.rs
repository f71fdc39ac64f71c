//! `map dump`.

use super::table::{Align, Table};
use super::{Command, Invocation, Problem, refused};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use ebpf::map::{Entry, Map, MapKind};

/// Entries that are shown at most.
const MAX_ENTRIES: usize = 1024;

pub(super) const COMMAND: Command = Command {
    path: &["map", "dump"],
    arguments: "PROGRAM MAP",
    summary: "show the entries of a program's map",
    run,
};

fn run(invocation: &mut Invocation<'_>) -> Result<(), Problem> {
    let [object, name] = invocation.exactly()?;
    let object = invocation
        .periscope()
        .programs()
        .object(object)
        .map_err(refused)?;
    let Some(map) = object.map(name) else {
        let names: Vec<&str> = object.maps().iter().map(Map::name).collect();
        let there = if names.is_empty() {
            "none".to_string()
        } else {
            names.join(", ")
        };
        let text = format!("{} has no map {name}. It has {there}.", object.name());
        return Err(Problem::Refused(text));
    };
    dump(map, invocation)
}

fn dump(map: &Map, invocation: &mut Invocation<'_>) -> Result<(), Problem> {
    let per_cpu = map.definition().kind == MapKind::PerCpuArray;
    let mut table = if per_cpu {
        Table::new(&[
            ("KEY", Align::Right),
            ("CPU", Align::Right),
            ("VALUE", Align::Right),
        ])
    } else {
        Table::new(&[("KEY", Align::Right), ("VALUE", Align::Right)])
    };
    let mut shown = 0;
    map.for_each(&mut |entry: Entry<'_>| {
        if shown == MAX_ENTRIES {
            return false;
        }
        shown += 1;
        let cpu = entry.cpu.map(|cpu| cpu.to_string());
        let key = [scalar_or_bytes(entry.key)];
        table.row(
            key.into_iter()
                .chain(cpu)
                .chain([scalar_or_bytes(entry.value)]),
        );
        true
    });
    table.write(invocation.out)?;
    if shown == MAX_ENTRIES {
        writeln!(
            invocation.out,
            "(only the first {MAX_ENTRIES} entries are shown)"
        )?;
    }
    Ok(())
}

/// What has the size of an integer as that integer, anything else byte by byte.
fn scalar_or_bytes(bytes: &[u8]) -> String {
    match bytes.len() {
        1 | 2 | 4 | 8 => {
            let mut buffer = [0; 8];
            buffer[..bytes.len()].copy_from_slice(bytes);
            u64::from_le_bytes(buffer).to_string()
        }
        _ => bytes
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<Vec<_>>()
            .join(" "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_and_bytes() {
        assert_eq!(scalar_or_bytes(&[1, 1, 0, 0]), "257");
        assert_eq!(
            scalar_or_bytes(&u64::MAX.to_le_bytes()),
            "18446744073709551615"
        );
        assert_eq!(scalar_or_bytes(&[1, 0xff, 0]), "01 ff 00");
        assert_eq!(scalar_or_bytes(&[]), "");
    }
}
