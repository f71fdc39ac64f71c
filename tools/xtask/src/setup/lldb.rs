//! LLDB: its packages carry their version in their names, and so do their programs.

use crate::process;
use std::env;
use std::fs;
use std::process::Command;

/// Before the version in the names of programs and packages.
const PREFIX: &str = "lldb-";

/// The newest LLDB of this machine: `lldb-22`, or an unversioned `lldb`.
pub fn newest_installed() -> Option<String> {
    let path = env::var_os("PATH")?;
    let names = env::split_paths(&path)
        .filter_map(|dir| fs::read_dir(dir).ok())
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| process::find_program(name).is_some());
    newest(names).or_else(|| process::find_program("lldb").map(|_| "lldb".to_owned()))
}

/// The package of the newest LLDB that apt offers; the distribution's default where it says nothing of versions.
pub(super) fn newest_offered() -> String {
    let words = ["search", "--names-only", "^lldb-[0-9]+$"];
    let found = process::output(Command::new("apt-cache").args(words)).unwrap_or_default();
    let names = found
        .lines()
        .filter_map(|line| line.split_ascii_whitespace().next());
    newest(names.map(str::to_owned)).unwrap_or_else(|| "lldb".to_owned())
}

fn newest(names: impl Iterator<Item = String>) -> Option<String> {
    let versioned = names.filter_map(|name| Some((version(&name)?, name)));
    versioned.max().map(|(_, name)| name)
}

/// 22 of `lldb-22`; `None` of `lldb-server-22`, `lldb-vscode` and the like.
fn version(name: &str) -> Option<u32> {
    name.strip_prefix(PREFIX)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_is_newest_by_number() {
        let names = [
            "lldb",
            "lldb-9",
            "lldb-server-30",
            "lldb-22",
            "lldb-argdumper-22",
            "lldb-14",
            "lldb-",
        ];
        let found = newest(names.into_iter().map(str::to_owned));
        assert_eq!(found.as_deref(), Some("lldb-22"));
        assert_eq!(newest(std::iter::once("lldb-vscode".to_owned())), None);
    }
}
