//! `map dump`.

use super::super::{Command, Flag, Invocation, Problem};
use super::Chosen;
use super::rows::Rows;
use super::slots::Slots;
use super::typed::Typed;

/// Values that are shown at most.
const MAX_VALUES: usize = 1024;

pub(in super::super) const COMMAND: Command = Command {
    path: &["map", "dump"],
    arguments: "PROGRAM MAP [--hist]",
    summary: "show the entries of a program's map; --hist: as a log2 histogram",
    run,
};

fn run(invocation: &mut Invocation<'_>) -> Result<(), Problem> {
    let (words, hist) = invocation.take_flag("--hist")?;
    let [object, name] = words[..] else {
        let text = alloc::format!("this needs 2 arguments, not {}.", words.len());
        return Err(Problem::Usage(text));
    };
    let chosen = Chosen::find(invocation, object, name)?;
    let map = chosen.map();
    let types = Typed::of(&chosen);
    match (map.output(), hist) {
        (Some(output), _) => {
            let (records, lost) = (output.records, output.lost);
            writeln!(
                invocation.out,
                "{name} keeps nothing: records pass through it, {records} until now, {lost} lost. \
                 `trace stream --filter {name}` shows the last ones."
            )?;
            Ok(())
        }
        (None, Flag::Given) => Slots::of(map, &types)?.write(invocation),
        (None, Flag::Absent) => dump(&chosen, &types, invocation),
    }
}

fn dump(
    chosen: &Chosen,
    types: &Typed<'_>,
    invocation: &mut Invocation<'_>,
) -> Result<(), Problem> {
    let mut rows = Rows::new(chosen, types, invocation);
    let mut room = MAX_VALUES;
    let mut is_all = true;
    chosen.map().for_each(&mut |entry| {
        is_all = room > 0;
        if is_all {
            room -= 1;
            rows.add(&entry);
        }
        is_all
    });
    rows.write(invocation.out)?;
    if !is_all {
        writeln!(
            invocation.out,
            "(only the first {MAX_VALUES} values are shown: `map lookup` shows any)"
        )?;
    }
    Ok(())
}
