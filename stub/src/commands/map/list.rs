//! `map list`.

use super::super::number::grouped;
use super::super::table::{Align, Table};
use super::super::{Command, Invocation, Problem, refused};
use alloc::string::{String, ToString};
use alloc::vec;
use ebpf::map::Map;

pub(in super::super) const COMMAND: Command = Command {
    path: &["map", "list"],
    arguments: "[PROGRAM]",
    summary: "show the maps of all programs, or of one, and the memory that they take",
    run,
};

fn run(invocation: &mut Invocation<'_>) -> Result<(), Problem> {
    let store = invocation.periscope().programs();
    let names = match invocation.arguments {
        [] => store.names(),
        [name] => vec![name.to_string()],
        more => {
            let text = alloc::format!("this needs 1 argument at most, not {}.", more.len());
            return Err(Problem::Usage(text));
        }
    };
    let mut table = Table::new(&[
        ("PROGRAM", Align::Left),
        ("MAP", Align::Left),
        ("ID", Align::Right),
        ("KIND", Align::Left),
        ("KEY", Align::Right),
        ("VALUE", Align::Right),
        ("ENTRIES", Align::Right),
        ("MAX", Align::Right),
        ("MEMORY", Align::Right),
        ("LOST", Align::Right),
    ]);
    for name in names {
        let object = store.object(&name).map_err(refused)?;
        for map in object.maps() {
            table.row(row(&name, map, store.cpus()));
        }
    }
    table.write(invocation.out)?;
    let limits = store.map_limits();
    let [taken, all] = [store.map_memory(), limits.all].map(grouped);
    write!(invocation.out, "{taken} of {all} bytes are taken")?;
    if let Some(owner) = invocation.caller.owner() {
        let [taken, all] = [store.map_memory_of(owner), limits.session].map(grouped);
        write!(invocation.out, ", {taken} of {all} by this session")?;
    }
    writeln!(invocation.out)?;
    Ok(())
}

/// Of a map that records pass through, the entries are the records that have.
fn row(program: &str, map: &Map, cpus: usize) -> [String; 10] {
    let definition = map.definition();
    let output = map.output();
    let entries = output.map_or(map.len() as u64, |output| output.records);
    let lost = output.map(|output| grouped(output.lost));
    [
        program.to_string(),
        map.name().to_string(),
        map.id().0.to_string(),
        definition.kind.to_string(),
        definition.key_size.to_string(),
        definition.value_size.to_string(),
        grouped(entries),
        grouped(definition.max_entries.into()),
        grouped(definition.memory(cpus)),
        lost.unwrap_or_else(|| "-".to_string()),
    ]
}
