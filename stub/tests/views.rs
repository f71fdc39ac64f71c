//! What GDB's own views show of the extensions: `info`, `maint`, `show`. Each file in `views/` is a session as a user has it on
//! the screen; its commands are given to a real GDB, which must print the rest, word for word but for `[...]`.

mod support;

use support::serving::{Serving, run_gdb};
use support::{AGAIN, DATA};

/// In the place of text that is another each time, within a line.
const ANYTHING: &str = "[...]";
const PROMPT: &str = "(gdb) ";
/// In front of lines that a command asks for, such as `actions`.
const MORE: &str = ">";

#[test]
fn of_conditions_and_commands() {
    check("conditions", include_str!("views/conditions.txt"));
}

#[test]
fn of_agent_expressions() {
    check("expressions", include_str!("views/expressions.txt"));
}

#[test]
fn of_tracepoints() {
    check("tracepoints", include_str!("views/tracepoints.txt"));
}

#[test]
fn of_markers() {
    check("markers", include_str!("views/markers.txt"));
}

#[test]
fn of_tables_of_the_target() {
    check("tables", include_str!("views/tables.txt"));
}

#[test]
fn of_the_protocol() {
    check("protocol", include_str!("views/protocol.txt"));
}

/// Runs the commands of a session. The guest, whose function `work` counts its calls in x0 and in a word of memory, begins
/// anew.
#[track_caller]
fn check(name: &str, session: &str) {
    let serving = Serving::start(1);
    let mut script = format!(
        "target remote 127.0.0.1:{}\nset $pc = {AGAIN:#x}\nset $x0 = 0\nset {{long}}{DATA:#x} = 0\n",
        serving.port
    );
    let mut lines = session.lines().peekable();
    while let Some(line) = lines.next() {
        let Some(command) = line.strip_prefix(PROMPT) else {
            continue;
        };
        let mut shown = vec![line];
        let mut given = vec![command];
        while let Some(more) = lines.peek().and_then(|line| line.strip_prefix(MORE)) {
            given.push(more);
            shown.extend(lines.next());
        }
        for line in shown {
            let escaped = line.replace('\\', "\\\\").replace('"', "\\\"");
            script += &format!("echo {escaped}\\n\n");
        }
        script += &given.join("\n");
        script.push('\n');
    }
    let file = std::env::temp_dir().join(format!("periscope-view-{name}-{}", std::process::id()));
    std::fs::write(&file, script).unwrap();
    let output = run_gdb(&[&format!("source {}", file.display())]);
    std::fs::remove_file(&file).unwrap();
    let begin = output.find(PROMPT).unwrap_or(0);
    let found = &output[begin..];
    let mut expected = session.lines();
    for (number, line) in found.lines().enumerate() {
        let wanted = expected.next().unwrap_or_default();
        // GDB ends some lines with blanks.
        let line = line.trim_end();
        let number = number + 1;
        assert!(
            is_like(line, wanted),
            "{name}, line {number}: {line:?}, not {wanted:?}, in:\n{found}"
        );
    }
    assert_eq!(expected.next(), None, "{name}: it ends early:\n{found}");
}

/// Whether a line is what was wanted, where `[...]` may be anything.
fn is_like(line: &str, wanted: &str) -> bool {
    let mut parts = wanted.split(ANYTHING);
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = line.strip_prefix(first) else {
        return false;
    };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    true
}
