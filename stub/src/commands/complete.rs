//! `complete`: what can follow the words of a line. Shells with a Tab key ask this.
//!
//! What an argument can be, the command's own usage line says: a word like `PLACE` or `PROGRAM` in it stands for what
//! there is of that kind, `--mode hvc|xn|hw` for its three values.

use super::{COMMANDS, Caller, Command, Invocation, Problem};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use probes::ksyms::last_words;
use probes::space::Space;

/// Symbols that are offered at most; who sees more types another letter.
const MAX_SYMBOLS: usize = 50;
/// Stands for the empty word at the end of a line.
const NOTHING_YET: &str = "?";
/// Before a function of the hypervisor, where somebody wants to be clear.
const HYPERVISOR: &str = "hyp:";

pub(super) const COMMAND: Command = Command {
    path: &["complete"],
    arguments: "WORD...",
    summary: "show what the last word can become (?: what can come next)",
    run,
};

fn run(invocation: &mut Invocation<'_>) -> Result<(), Problem> {
    let Some((last, before)) = invocation.arguments.split_last() else {
        return Err(Problem::Usage("this needs the words of a line.".into()));
    };
    let partial = if *last == NOTHING_YET { "" } else { *last };
    for candidate in candidates(invocation, before, partial) {
        writeln!(invocation.out, "{candidate}")?;
    }
    Ok(())
}

/// What `partial` can become behind the words `before`.
fn candidates(invocation: &Invocation<'_>, before: &[&str], partial: &str) -> Vec<String> {
    let mut commands: Vec<&Command> = COMMANDS.iter().collect();
    for (depth, word) in before.iter().enumerate() {
        let at_depth = |command: &&Command| command.path.get(depth).copied();
        let exact = commands.iter().any(|c| at_depth(c) == Some(*word));
        commands.retain(|command| match at_depth(command) {
            Some(name) if exact => name == *word,
            Some(name) => name.starts_with(word),
            None => false,
        });
        if let [command] = commands[..]
            && command.path.len() == depth + 1
        {
            return arguments(invocation, command, &before[depth + 1..], partial);
        }
    }
    let names = commands
        .iter()
        .filter_map(|command| command.path.get(before.len()));
    starting_with(partial, names.map(|name| name.to_string()))
}

fn arguments(
    invocation: &Invocation<'_>,
    command: &Command,
    before: &[&str],
    partial: &str,
) -> Vec<String> {
    let usage = Usage::of(command);
    if let Some(values) = before.last().and_then(|flag| usage.values(flag)) {
        return starting_with(partial, values.split('|').map(ToString::to_string));
    }
    if partial.starts_with('-') {
        return starting_with(partial, usage.flags().map(ToString::to_string));
    }
    let taken = |index: &usize| {
        let is_flag = before[*index].starts_with("--");
        let is_value = *index > 0 && usage.values(before[*index - 1]).is_some();
        !is_flag && !is_value
    };
    let position = (0..before.len()).filter(taken).count();
    let first = (0..before.len()).find(taken).map(|index| before[index]);
    match usage.operands().nth(position) {
        Some(word) => operand(invocation, word, first, partial),
        None => Vec::new(),
    }
}

/// What stands for a word of a usage line. `first` is the command's first argument.
fn operand(
    invocation: &Invocation<'_>,
    word: &str,
    first: Option<&str>,
    partial: &str,
) -> Vec<String> {
    if word.contains(HYPERVISOR) {
        return own_functions(invocation, partial);
    }
    let alternatives = word.split('|');
    let mut found: Vec<String> = alternatives
        .flat_map(|word| alternative(invocation, word, first, partial))
        .collect();
    found.sort();
    found
}

fn alternative(
    invocation: &Invocation<'_>,
    word: &str,
    first: Option<&str>,
    partial: &str,
) -> Vec<String> {
    let programs = invocation.periscope().programs();
    if word.contains("PLACE") || word.contains("SYMBOL") {
        return places(invocation, partial);
    }
    match word {
        word if word.starts_with("TRACEPOINT") => {
            let points = invocation.periscope().tracer().tracepoints().iter();
            starting_with(partial, points.map(|point| point.to_string()))
        }
        "PROGRAM" | "NAME" => starting_with(partial, programs.names().into_iter()),
        "VM" => {
            let spaces = invocation.periscope().spaces().iter();
            starting_with(partial, spaces.map(|space| space.vm().to_string()))
        }
        "MAP" => {
            let object = first.and_then(|name| programs.object(name).ok());
            let maps = object.iter().flat_map(|object| object.maps());
            starting_with(partial, maps.map(|map| map.name().to_string()))
        }
        "COMMAND" => {
            let names = COMMANDS.iter().map(|command| command.path[0].to_string());
            starting_with(partial, names)
        }
        _ => Vec::new(),
    }
}

/// Places that begin with `partial`: a VM's name with its colon, or symbols of a VM.
fn places(invocation: &Invocation<'_>, partial: &str) -> Vec<String> {
    let spaces = invocation.periscope().spaces();
    match (partial.split_once(':'), invocation.caller) {
        (Some((name, symbol)), _) => match invocation.periscope().space(name) {
            Ok(space) => symbols(space, &format!("{name}:"), symbol),
            Err(_) => Vec::new(),
        },
        (None, Caller::Monitor { space, .. }) if !partial.is_empty() => symbols(space, "", partial),
        (None, _) => starting_with(
            partial,
            spaces.iter().map(|space| format!("{}:", space.vm())),
        ),
    }
}

/// Functions of the hypervisor that can be probed, by as many of their last words as `partial` has.
fn own_functions(invocation: &Invocation<'_>, partial: &str) -> Vec<String> {
    let own = invocation.periscope().hypervisor();
    let Some((space, symbols)) = own.and_then(|space| Some((space, space.symbols()?))) else {
        return Vec::new();
    };
    let (prefix, path) = match partial.strip_prefix(HYPERVISOR) {
        Some(path) => (HYPERVISOR, path),
        None => ("", partial),
    };
    let words = path.matches("::").count() + 1;
    let mut found = Vec::new();
    symbols.each(&mut |_, name| {
        let short = last_words(name, words);
        if short.starts_with(path) && space.allows_probes_in(name) {
            found.push(format!("{prefix}{short}"));
        }
        true
    });
    found.sort();
    found.dedup();
    found.truncate(MAX_SYMBOLS);
    found
}

fn symbols(space: &Space, prefix: &str, partial: &str) -> Vec<String> {
    let mut found = Vec::new();
    if let Ok(symbols) = space.find_symbols() {
        symbols.each(&mut |_, name| {
            if name.starts_with(partial) {
                found.push(format!("{prefix}{name}"));
            }
            found.len() < MAX_SYMBOLS
        });
    }
    found.sort();
    found.dedup();
    found
}

fn starting_with(partial: &str, words: impl Iterator<Item = String>) -> Vec<String> {
    let mut words: Vec<String> = words.filter(|word| word.starts_with(partial)).collect();
    words.sort();
    words.dedup();
    words
}

/// The words of a usage line, such as `[VM:]PLACE [PROGRAM] [--mode hvc|xn|hw] [--stop]`.
struct Usage(Vec<&'static str>);

impl Usage {
    fn of(command: &Command) -> Self {
        let bare = |word: &'static str| match word {
            // The brackets of `[VM:]PLACE` are inside.
            word if word.starts_with("[VM:]") => word,
            word => word.trim_matches(['[', ']', '.']),
        };
        Self(command.arguments.split(' ').map(bare).collect())
    }

    fn flags(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.0.iter().copied().filter(|word| word.starts_with('-'))
    }

    /// The values of a flag that has some.
    fn values(&self, flag: &str) -> Option<&'static str> {
        let at = self.0.iter().position(|word| *word == flag)?;
        let next = self.0.get(at + 1).copied()?;
        let is_value = flag.starts_with('-') && !next.starts_with('-');
        is_value.then_some(next)
    }

    /// What is neither a flag nor the value of one.
    fn operands(&self) -> impl Iterator<Item = &'static str> + '_ {
        let words = self.0.iter().enumerate();
        words.filter_map(|(index, word)| {
            let follows_flag = index > 0 && self.0[index - 1].starts_with('-');
            (!word.starts_with('-') && !follows_flag).then_some(*word)
        })
    }
}
