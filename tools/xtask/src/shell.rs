//! The hypervisor's shell on this terminal: line editing, history and completion here, the commands there.
//!
//! The target's shell takes lines and ends every answer with its prompt. What a line can go on with it says itself
//! (`complete`), so nothing of the command language is known here.

use crate::workspace;
use anyhow::{Context as _, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::FileHistory;
use rustyline::validate::Validator;
use rustyline::{CompletionType, Config, Context, Editor, Helper};
use std::cell::RefCell;
use std::io::{self, IsTerminal, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::thread;

/// What the target's shell says when it waits for a line.
const PROMPT: &str = "periscope> ";

/// Why a shell has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// Ctrl-C at the prompt.
    Interrupted,
    /// The end of the input, or of the connection.
    Closed,
}

/// Serves the shell at `port` of this machine on this terminal until one of them ends it. Where standard input is no
/// terminal, copies lines.
pub fn serve(port: u16) -> Result<End> {
    let stream = TcpStream::connect(("127.0.0.1", port))
        .with_context(|| format!("no shell of a hypervisor answers on port {port}"))?;
    if io::stdin().is_terminal() {
        edit_lines(stream)
    } else {
        copy_lines(stream)
    }
}

fn copy_lines(mut shell: TcpStream) -> Result<End> {
    let from_shell = shell.try_clone()?;
    let output = thread::spawn(move || copy(from_shell, io::stdout()));
    // Asks for a prompt.
    shell.write_all(b"\n")?;
    copy(io::stdin(), &shell);
    // What the last line asked for is still to come; a machine that runs goes on.
    let _ = output.join();
    Ok(End::Closed)
}

/// Copies until one side ends. Either end is the end of the session, not an error.
fn copy(mut from: impl Read, mut to: impl Write) {
    let mut buffer = [0; 4096];
    while let Ok(count) = from.read(&mut buffer) {
        if count == 0
            || to
                .write_all(&buffer[..count])
                .and_then(|()| to.flush())
                .is_err()
        {
            return;
        }
    }
}

fn edit_lines(stream: TcpStream) -> Result<End> {
    let connection = Rc::new(RefCell::new(Connection::open(stream)?));
    let config = Config::builder()
        .completion_type(CompletionType::List)
        .auto_add_history(true)
        .build();
    let mut editor: Editor<Words, FileHistory> = Editor::with_config(config)?;
    editor.set_helper(Some(Words {
        connection: connection.clone(),
    }));
    let history = workspace::target_dir().join("shell-history");
    // There is none yet at first.
    let _ = editor.load_history(&history);
    let end = loop {
        let line = match editor.readline(PROMPT) {
            Ok(line) => line,
            Err(ReadlineError::Interrupted) => break End::Interrupted,
            Err(ReadlineError::Eof) => break End::Closed,
            Err(error) => return Err(error).context("cannot read from this terminal"),
        };
        let mut connection = connection.borrow_mut();
        if !connection.show(&line, &mut io::stdout())? {
            println!("the hypervisor has closed its shell");
            break End::Closed;
        }
    };
    let _ = editor.save_history(&history);
    Ok(end)
}

/// The target's shell at its prompt.
struct Connection {
    stream: TcpStream,
}

impl Connection {
    /// Takes a connection to a prompt.
    fn open(stream: TcpStream) -> Result<Self> {
        let mut connection = Self { stream };
        connection.send("")?;
        connection.answer(&mut Vec::new())?;
        Ok(connection)
    }

    fn send(&mut self, line: &str) -> io::Result<()> {
        self.stream.write_all(format!("{line}\n").as_bytes())
    }

    /// What the shell answers to a line.
    fn ask(&mut self, line: &str) -> io::Result<String> {
        let mut answer = Vec::new();
        self.send(line)?;
        self.answer(&mut answer)?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }

    /// Shows what the shell answers to a line, as it comes; what is typed meanwhile goes to the shell, which ends what
    /// goes on (`trace stream --follow`) at the next line. Returns whether the shell is still there.
    fn show(&mut self, line: &str, out: &mut impl Write) -> io::Result<bool> {
        self.send(line)?;
        let mut end = Tail::default();
        loop {
            let mut typed = false;
            let mut answered = false;
            {
                let stdin = io::stdin();
                let mut ready = [
                    PollFd::new(self.stream.as_fd(), PollFlags::POLLIN),
                    PollFd::new(stdin.as_fd(), PollFlags::POLLIN),
                ];
                poll(&mut ready, PollTimeout::NONE)?;
                for (ready, flag) in ready.iter().zip([&mut answered, &mut typed]) {
                    *flag = ready.any().unwrap_or(true);
                }
            }
            if answered {
                let mut buffer = [0; 4096];
                let count = self.stream.read(&mut buffer)?;
                if count == 0 {
                    return Ok(false);
                }
                let ended = end.take(&buffer[..count], out)?;
                out.flush()?;
                if ended {
                    return Ok(true);
                }
            } else if typed {
                let mut line = String::new();
                io::stdin().read_line(&mut line)?;
                self.stream.write_all(line.as_bytes())?;
            }
        }
    }

    /// Reads up to the next prompt.
    fn answer(&mut self, out: &mut impl Write) -> io::Result<()> {
        let mut end = Tail::default();
        let mut buffer = [0; 4096];
        loop {
            let count = self.stream.read(&mut buffer)?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if end.take(&buffer[..count], out)? {
                return Ok(());
            }
        }
    }
}

/// Finds the prompt at the end of an answer and holds back what may be the beginning of one.
#[derive(Default)]
struct Tail {
    held: Vec<u8>,
}

impl Tail {
    /// Passes `bytes` on but for a prompt at their end. Returns whether there is one.
    fn take(&mut self, bytes: &[u8], out: &mut impl Write) -> io::Result<bool> {
        self.held.extend_from_slice(bytes);
        let prompt = PROMPT.as_bytes();
        if self.held.ends_with(prompt) {
            let text = self.held.len() - prompt.len();
            out.write_all(&self.held[..text])?;
            self.held.clear();
            return Ok(true);
        }
        let possible = (0..prompt.len())
            .rev()
            .find(|&length| self.held.ends_with(&prompt[..length]));
        let text = self.held.len() - possible.unwrap_or(0);
        out.write_all(&self.held[..text])?;
        self.held.drain(..text);
        Ok(false)
    }
}

/// Completes words by asking the target.
struct Words {
    connection: Rc<RefCell<Connection>>,
}

impl Helper for Words {}
impl Highlighter for Words {}
impl Validator for Words {}

impl Hinter for Words {
    type Hint = String;
}

impl Completer for Words {
    type Candidate = String;

    fn complete(
        &self,
        line: &str,
        position: usize,
        _context: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<String>)> {
        let before = &line[..position];
        let start = before.rfind(char::is_whitespace).map_or(0, |at| at + 1);
        let nothing_yet = if start == position { "?" } else { "" };
        let question = format!("complete {before}{nothing_yet}");
        let answer = self.connection.borrow_mut().ask(&question)?;
        let mut candidates: Vec<String> = answer.lines().map(str::to_owned).collect();
        // A word that is complete: go on to the next, unless it is the first half of a place.
        if let [only] = &mut candidates[..]
            && !only.ends_with(':')
        {
            only.push(' ');
        }
        Ok((start, candidates))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};
    use std::net::TcpListener;

    /// A shell that answers `line` with `echo line` and completes everything to two words.
    fn echo() -> TcpStream {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut peer, _) = listener.accept().unwrap();
        thread::spawn(move || {
            let lines = BufReader::new(peer.try_clone().unwrap()).lines();
            for line in lines.map_while(Result::ok) {
                let answer = match line.strip_prefix("complete ") {
                    Some("one wo") => "word\n".to_owned(),
                    Some(words) => format!("{words}\nvm1:\n"),
                    None if line.is_empty() => String::new(),
                    None => format!("echo {line}\nperiscope\n"),
                };
                for byte in format!("{answer}{PROMPT}").bytes() {
                    if peer.write_all(&[byte]).is_err() {
                        return;
                    }
                }
            }
        });
        stream
    }

    #[test]
    fn an_answer_ends_at_the_prompt() {
        let mut connection = Connection::open(echo()).unwrap();
        let answer = connection.ask("vm list").unwrap();
        assert_eq!(answer, "echo vm list\nperiscope\n");
        assert_eq!(connection.ask("").unwrap(), "");
    }

    #[test]
    fn the_target_completes() {
        let words = Words {
            connection: Rc::new(RefCell::new(Connection::open(echo()).unwrap())),
        };
        let history = FileHistory::new();
        let complete = |line: &str| {
            words
                .complete(line, line.len(), &Context::new(&history))
                .unwrap()
        };
        assert_eq!(complete("one wo"), (4, vec!["word ".to_owned()]));
        let (start, candidates) = complete("vm start ");
        assert_eq!(start, 9);
        assert_eq!(candidates, ["vm start ?", "vm1:"]);
    }
}
