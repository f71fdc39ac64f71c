//! `map lookup`, `map update`, `map delete`: single entries.

use super::super::output::Format;
use super::super::{Command, Invocation, Problem, refused};
use super::Chosen;
use super::rows::Rows;
use super::typed::{Typed, cell};
use alloc::format;
use alloc::string::ToString;
use alloc::vec;
use alloc::vec::Vec;
use ebpf::map::{Entry, Map, MapError, MapKind, PushFlag, UpdateFlag};

pub(in super::super) const LOOKUP: Command = Command {
    path: &["map", "lookup"],
    arguments: "PROGRAM MAP [KEY]",
    summary: "show one entry of a map; of a queue or a stack, the next one",
    run: lookup,
};

pub(in super::super) const UPDATE: Command = Command {
    path: &["map", "update"],
    arguments: "PROGRAM MAP [KEY] VALUE [--cpu N] [--flag any|noexist|exist]",
    summary: "set an entry of a map (of a per-CPU map for all CPUs, or for one); add to a queue or a stack",
    run: update,
};

pub(in super::super) const DELETE: Command = Command {
    path: &["map", "delete"],
    arguments: "PROGRAM MAP [KEY]",
    summary: "remove an entry of a map; take the next one out of a queue or a stack, and show it",
    run: delete,
};

fn lookup(invocation: &mut Invocation<'_>) -> Result<(), Problem> {
    let (chosen, words) = choose(invocation, invocation.arguments)?;
    let (map, types) = (chosen.map(), Typed::of(&chosen));
    let key = parse_key(map, &types, words)?;
    show(&chosen, &types, &key, invocation)
}

fn delete(invocation: &mut Invocation<'_>) -> Result<(), Problem> {
    let (chosen, words) = choose(invocation, invocation.arguments)?;
    let (map, types) = (chosen.map(), Typed::of(&chosen));
    let key = parse_key(map, &types, words)?;
    if !is_order(map) {
        return map.delete(&key).map_err(|error| explain(map, error));
    }
    let mut value = value_of(map);
    map.pop(&mut value).map_err(|error| explain(map, error))?;
    let shown = cell(types.value(&value), &value, Format::Text);
    writeln!(invocation.out, "{}", shown.text())?;
    Ok(())
}

fn update(invocation: &mut Invocation<'_>) -> Result<(), Problem> {
    let options = Options::parse(invocation.arguments)?;
    let (chosen, words) = choose(invocation, &options.words)?;
    let (map, types) = (chosen.map(), Typed::of(&chosen));
    let Some((text, key)) = words.split_last() else {
        return Err(Problem::Usage("this needs a value.".to_string()));
    };
    let key = parse_key(map, &types, key)?;
    if map.definition().kind == MapKind::ProgArray {
        return chosen.set_program(&key, text, options.flag);
    }
    let size = map.definition().value_size as usize;
    let bytes = types.parse_value(text, size)?;
    if options.cpu.is_some() && !map.definition().kind.is_per_cpu() {
        let text = format!(
            "{} has one value for all CPUs: leave --cpu out.",
            map.name()
        );
        return Err(Problem::Usage(text));
    }
    let result = if is_order(map) {
        push(map, &bytes, options.flag)
    } else {
        set(map, &key, &bytes, &options)
    };
    result.map_err(|error| explain(map, error))
}

fn push(map: &Map, value: &[u8], flag: UpdateFlag) -> Result<(), MapError> {
    let flag = match flag {
        UpdateFlag::Any => PushFlag::Any,
        UpdateFlag::Exist => PushFlag::Replace,
        UpdateFlag::NoExist => return Err(MapError::Unsupported),
    };
    map.push(value, flag)
}

fn set(map: &Map, key: &[u8], value: &[u8], options: &Options<'_>) -> Result<(), MapError> {
    if let Some(cpu) = options.cpu {
        return map.update(key, cpu, value, options.flag);
    }
    map.update(key, 0, value, options.flag)?;
    // The flag was for the entry, which is there now.
    (1..map.copies()).try_for_each(|cpu| map.update(key, cpu, value, UpdateFlag::Any))
}

impl Chosen {
    /// Puts the program that a user names, one of the same object, into a map of programs.
    fn set_program(&self, key: &[u8], name: &str, flag: UpdateFlag) -> Result<(), Problem> {
        let programs = self.object.programs();
        let Some(number) = programs.iter().position(|program| program.name() == name) else {
            let known: Vec<_> = programs.iter().map(|program| program.name()).collect();
            return Err(Problem::Refused(format!(
                "there is no program {name} in the map's object, which has {}.",
                known.join(", ")
            )));
        };
        let result = self.object.set_program(self.index, key, number, flag);
        result.map_err(|error| explain(self.map(), error))
    }
}

/// The words of `map update`.
struct Options<'a> {
    /// What is no option.
    words: Vec<&'a str>,
    cpu: Option<usize>,
    flag: UpdateFlag,
}

impl<'a> Options<'a> {
    fn parse(arguments: &[&'a str]) -> Result<Self, Problem> {
        let mut options = Self {
            words: Vec::new(),
            cpu: None,
            flag: UpdateFlag::Any,
        };
        let mut words = arguments.iter();
        while let Some(word) = words.next() {
            let mut value = || {
                let missing = || Problem::Usage(format!("{word} needs a value."));
                words.next().copied().ok_or_else(missing)
            };
            match *word {
                "--cpu" => {
                    let text = value()?;
                    let no_cpu = |_| Problem::Usage(format!("{text:?} is no number of a CPU."));
                    options.cpu = Some(text.parse().map_err(no_cpu)?);
                }
                "--flag" => options.flag = parse_flag(value()?)?,
                other if other.starts_with("--") => {
                    return Err(Problem::Usage(format!("there is no {other} here.")));
                }
                other => options.words.push(other),
            }
        }
        Ok(options)
    }
}

fn parse_flag(text: &str) -> Result<UpdateFlag, Problem> {
    match text {
        "any" => Ok(UpdateFlag::Any),
        "noexist" => Ok(UpdateFlag::NoExist),
        "exist" => Ok(UpdateFlag::Exist),
        _ => Err(Problem::Usage(format!(
            "{text:?} is none of any, noexist, exist."
        ))),
    }
}

/// The map that the first two words name, and the words behind them.
fn choose<'a, 'w>(
    invocation: &Invocation<'_>,
    words: &'w [&'a str],
) -> Result<(Chosen, &'w [&'a str]), Problem> {
    let [object, name, rest @ ..] = words else {
        return Err(Problem::Usage(
            "this needs a program and its map.".to_string(),
        ));
    };
    Ok((Chosen::find(invocation, object, name)?, rest))
}

/// The key in `words`, where the map has keys.
fn parse_key(map: &Map, types: &Typed<'_>, words: &[&str]) -> Result<Vec<u8>, Problem> {
    match (map.definition().key_size as usize, words) {
        (0, []) => Ok(Vec::new()),
        (0, _) => Err(Problem::Usage(format!("{} has no keys.", map.name()))),
        (size, [text]) => types.parse_key(text, size),
        (size, _) => Err(Problem::Usage(format!(
            "this needs a key of {size} bytes, as a number, as 01:ff:00, or as it is shown where that is a name or a text."
        ))),
    }
}

/// Whether it is a queue or a stack.
fn is_order(map: &Map) -> bool {
    map.definition().key_size == 0 && map.output().is_none()
}

fn value_of(map: &Map) -> Vec<u8> {
    vec![0; map.definition().value_size as usize]
}

fn show(
    chosen: &Chosen,
    types: &Typed<'_>,
    key: &[u8],
    invocation: &mut Invocation<'_>,
) -> Result<(), Problem> {
    let map = chosen.map();
    let mut rows = Rows::new(chosen, types, invocation);
    let mut value = value_of(map);
    let is_per_cpu = map.definition().kind.is_per_cpu();
    for cpu in 0..map.copies() {
        let found = map.lookup(key, cpu, &mut value);
        found.map_err(|error| explain(map, error))?;
        rows.add(&Entry {
            key,
            cpu: is_per_cpu.then_some(cpu),
            value: &value,
        });
    }
    rows.write(invocation.out)?;
    Ok(())
}

/// What went wrong, and what to do.
fn explain(map: &Map, error: MapError) -> Problem {
    let definition = map.definition();
    let (name, kind) = (map.name(), definition.kind);
    let problem = match error {
        MapError::Unsupported => format!("{name} is of kind {kind}, which cannot do that."),
        MapError::NotFound if definition.key_size == 0 => format!("{name} is empty."),
        MapError::NotFound => format!("{name} has no such entry: `map dump` shows all."),
        MapError::OutOfRange => format!(
            "{name} has the keys 0 to {}.",
            definition.max_entries.saturating_sub(1)
        ),
        MapError::Full => format!(
            "{name} has no room for more than {} entries: delete one first.",
            definition.max_entries
        ),
        MapError::NoSuchCpu => format!("the CPUs are 0 to {}.", map.copies().saturating_sub(1)),
        error => return refused(format!("{name}: {error}.")),
    };
    Problem::Refused(problem)
}
