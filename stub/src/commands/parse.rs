//! Finds the command that words mean.

use super::{Command, Problem};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use probes::similar::Suggestions;

/// The command that `words` begin with, and the words after it.
pub(super) fn resolve<'a>(
    commands: &'static [Command],
    words: &'a [&'a str],
) -> Result<(&'static Command, &'a [&'a str]), Problem> {
    let mut candidates: Vec<&'static Command> = commands.iter().collect();
    for (depth, word) in words.iter().enumerate() {
        let choices = choices(&candidates, depth);
        let chosen = choose(&choices, word, &spell(&candidates, depth))?;
        candidates.retain(|command| command.path.get(depth) == Some(&chosen));
        if let [command] = candidates[..]
            && command.path.len() == depth + 1
        {
            return Ok((command, &words[depth + 1..]));
        }
    }
    let depth = words.len();
    let group = spell(&candidates, depth);
    let choices = choices(&candidates, depth).join(", ");
    Err(Problem::Refused(format!("{group} what? One of {choices}.")))
}

/// The words that can come at `depth`, each once.
fn choices(candidates: &[&'static Command], depth: usize) -> Vec<&'static str> {
    let mut words = Vec::new();
    for word in candidates.iter().filter_map(|c| c.path.get(depth)) {
        if !words.contains(word) {
            words.push(*word);
        }
    }
    words
}

/// What has been said so far.
fn spell(candidates: &[&'static Command], depth: usize) -> String {
    candidates
        .first()
        .map_or_else(String::new, |command| command.path[..depth].join(" "))
}

fn choose(choices: &[&'static str], word: &str, group: &str) -> Result<&'static str, Problem> {
    if let Some(exact) = choices.iter().find(|choice| **choice == word) {
        return Ok(exact);
    }
    let matches: Vec<&str> = choices
        .iter()
        .filter(|c| c.starts_with(word))
        .copied()
        .collect();
    if let [only] = choices
        .iter()
        .filter(|c| c.starts_with(word))
        .collect::<Vec<_>>()[..]
    {
        return Ok(only);
    }
    let said = if group.is_empty() {
        String::from(word)
    } else {
        format!("{group} {word}")
    };
    if !matches.is_empty() {
        let matches = matches.join(", ");
        return Err(Problem::Refused(format!(
            "{said} can be {matches}: say more."
        )));
    }
    let mut near = Suggestions::new(word, 1);
    choices.iter().for_each(|choice| near.offer(choice));
    let hint = match near.into_names().first() {
        Some(near) => format!("Did you mean {near}?"),
        None if group.is_empty() => String::from("`help` shows what there is."),
        None => format!("There are {}.", choices.join(", ")),
    };
    Err(Problem::Refused(format!("no command {said}. {hint}")))
}

#[cfg(test)]
mod tests {
    use super::super::COMMANDS;
    use super::*;
    use alloc::string::ToString;

    fn outcome(line: &str) -> String {
        let words: Vec<&str> = line.split_whitespace().collect();
        match resolve(COMMANDS, &words) {
            Ok((command, rest)) => format!("{} | {}", command.path.join(" "), rest.join(" ")),
            Err(problem) => problem.to_string(),
        }
    }

    #[test]
    fn words_can_be_shortened() {
        assert_eq!(outcome("trace list"), "trace list | ");
        assert_eq!(outcome("tr li"), "trace list | ");
        assert_eq!(
            outcome("t k vm1:f count --stop"),
            "trace kprobe | vm1:f count --stop"
        );
        assert_eq!(outcome("phys 0x40000000"), "phys | 0x40000000");
    }

    #[test]
    fn errors_say_what_to_do() {
        assert_eq!(
            outcome("trase list"),
            "no command trase. Did you mean trace?"
        );
        assert_eq!(
            outcome("frobnicate"),
            "no command frobnicate. `help` shows what there is."
        );
        assert_eq!(outcome("vm st"), "vm st can be start, stop: say more.");
        assert_eq!(
            outcome("trace lst"),
            "no command trace lst. Did you mean list?"
        );
        assert_eq!(
            outcome("vm"),
            "vm what? One of list, vcpus, info, memory, start, stop, reset."
        );
        assert_eq!(
            outcome("vm dance"),
            "no command vm dance. There are list, vcpus, info, memory, start, stop, reset."
        );
    }

    #[test]
    fn commands_of_a_group_need_not_stand_together() {
        use super::super::{help, vm};
        const APART: &[Command] = &[vm::LIST, help::COMMAND, vm::INFO];
        let resolved = |word| {
            let found = resolve(APART, word).map(|(command, _)| command.path);
            found.map_err(|problem| problem.to_string())
        };
        assert_eq!(resolved(&["v", "i"]), Ok(&["vm", "info"][..]));
        assert_eq!(
            resolved(&["vm", "x"]).unwrap_err(),
            "no command vm x. There are list, info."
        );
    }
}
