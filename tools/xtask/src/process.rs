//! Running other programs, with errors that name the command and never without a bound where one is known.

use crate::workspace;
use anyhow::{Context, Result, bail};
use std::env;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How often a bounded wait looks.
const POLL: Duration = Duration::from_millis(50);

/// The cargo that runs us, in the root of the workspace.
pub fn cargo() -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(workspace::root());
    cargo
}

/// The command as a person would type it.
pub fn display(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(|word| word.to_string_lossy().into_owned())
        .collect::<Vec<_>>()
        .join(" ")
}

/// Runs a command on this terminal. Not to succeed is an error.
pub fn run(command: &mut Command) -> Result<()> {
    die_with_parent(command);
    let status = command
        .status()
        .with_context(|| format!("cannot start `{}`", display(command)))?;
    if !status.success() {
        bail!("`{}` failed: {status}", display(command));
    }
    Ok(())
}

/// Runs a command and returns what it wrote to its standard output. Not to succeed is an error that carries the end
/// of its standard error.
pub fn output(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start `{}`", display(command)))?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        bail!(
            "`{}` failed: {}\n{}",
            display(command),
            output.status,
            last_lines(&errors, 12)
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a command quietly for at most `limit`, and returns what it wrote to its standard output and then to its
/// standard error. On a failure the error carries the end of the latter.
pub fn output_bounded(command: &mut Command, limit: Duration) -> Result<String> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start `{}`", display(command)))?;
    let output = read_aside(child.stdout.take());
    let errors = read_aside(child.stderr.take());
    let deadline = Instant::now() + limit;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if Instant::now() >= deadline {
            child.kill()?;
            child.wait()?;
            bail!(
                "`{}` did not end within {} s",
                display(command),
                limit.as_secs()
            );
        }
        thread::sleep(POLL);
    };
    let errors = errors.join().unwrap_or_default();
    if !status.success() {
        bail!(
            "`{}` failed: {status}\n{}",
            display(command),
            last_lines(&errors, 12)
        );
    }
    Ok(output.join().unwrap_or_default() + &errors)
}

/// Reads a stream to its end while the caller does something else.
fn read_aside(stream: Option<impl Read + Send + 'static>) -> JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut stream) = stream {
            // What cannot be read is missing, no more.
            let _ = stream.read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// Has Ctrl-C do nothing to this process from now on: it is meant for the debugger that runs on this terminal.
pub fn leave_interrupts_to_children() {
    extern "C" fn nothing(_signal: libc::c_int) {}
    // A handler, unlike SIG_IGN, is not inherited by the programs that we start.
    let handler: extern "C" fn(libc::c_int) = nothing;
    // SAFETY: the handler does nothing, which is async-signal-safe.
    unsafe { libc::signal(libc::SIGINT, handler as libc::sighandler_t) };
}

/// Has the kernel kill the command's process when the thread that starts it ends, however that ends: no emulator
/// outlives a test that was killed.
pub fn die_with_parent(command: &mut Command) {
    use std::os::unix::process::CommandExt;
    let parent = std::process::id();
    let arrange = move || {
        // SAFETY: prctl and getppid are async-signal-safe and touch no memory of ours.
        let (result, parent_now) = unsafe {
            (
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL),
                libc::getppid(),
            )
        };
        if result != 0 {
            return Err(std::io::Error::last_os_error());
        }
        // The parent may have died before the request: then nobody would send the signal.
        if u32::try_from(parent_now) != Ok(parent) {
            return Err(std::io::Error::other("the parent is gone"));
        }
        Ok(())
    };
    // SAFETY: between fork and exec the closure makes system calls only, and allocates nothing on its good path.
    unsafe { command.pre_exec(arrange) };
}

/// The full path of a program that `PATH` finds.
pub fn find_program(name: &str) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?)
        .map(|dir| dir.join(name))
        .find(|candidate| is_executable(candidate))
}

fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata()
        .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// The last `count` lines of a text.
pub fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_the_command_and_what_it_said() {
        let error = output(Command::new("sh").args(["-c", "echo oops >&2; exit 3"])).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("sh -c") && text.contains("oops") && text.contains('3'),
            "{text}"
        );
    }

    #[test]
    fn a_bounded_run_ends() {
        let started = Instant::now();
        let error = output_bounded(Command::new("sleep").arg("20"), Duration::from_millis(200))
            .unwrap_err();
        assert!(started.elapsed() < Duration::from_secs(10));
        assert!(error.to_string().contains("did not end"), "{error}");
    }

    #[test]
    fn last_lines_of_short_and_long_texts() {
        assert_eq!(last_lines("a\nb\nc", 2), "b\nc");
        assert_eq!(last_lines("a", 2), "a");
        assert_eq!(last_lines("", 2), "");
    }
}
