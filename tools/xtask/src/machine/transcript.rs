//! What a stream has said so far, and bounded waits for what it should say.

use anyhow::{Result, bail};
use std::io::Read;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// How much of a transcript an error shows, in bytes.
const SHOWN: usize = 2000;

/// Everything that a stream has said, followed by a thread of its own.
#[derive(Clone, Default)]
pub struct Transcript {
    shared: Arc<(Mutex<State>, Condvar)>,
}

#[derive(Default)]
struct State {
    bytes: Vec<u8>,
    ended: bool,
}

impl Transcript {
    /// Follows a stream to its end.
    pub fn follow(stream: impl Read + Send + 'static) -> Self {
        let transcript = Self::default();
        let follower = transcript.clone();
        thread::spawn(move || follower.copy_from(stream));
        transcript
    }

    fn copy_from(&self, mut stream: impl Read) {
        let mut buffer = [0; 4096];
        loop {
            // A broken stream has ended; what waits for more says so.
            let count = stream.read(&mut buffer).unwrap_or(0);
            let mut state = self.lock();
            state.bytes.extend_from_slice(&buffer[..count]);
            state.ended = count == 0;
            self.shared.1.notify_all();
            if count == 0 {
                return;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is whole after every statement: a panic elsewhere does not spoil it.
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How much there is, in bytes.
    pub fn len(&self) -> usize {
        self.lock().bytes.len()
    }

    /// Whether nothing was said yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Everything from an offset on.
    pub fn text_from(&self, offset: usize) -> String {
        let state = self.lock();
        String::from_utf8_lossy(state.bytes.get(offset..).unwrap_or_default()).into_owned()
    }

    /// Whether the stream has ended.
    pub fn ended(&self) -> bool {
        self.lock().ended
    }

    /// Waits for the stream's end; whether it came within the limit.
    pub fn wait_for_end(&self, limit: Duration) -> bool {
        let (state, _) = self
            .shared
            .1
            .wait_timeout_while(self.lock(), limit, |state| !state.ended)
            .unwrap_or_else(PoisonError::into_inner);
        state.ended
    }

    /// Waits until `wanted` stands at or after `offset`, and returns the offset behind it. Fails at the limit or at the
    /// stream's end, with what was said instead.
    pub fn wait_for(&self, offset: usize, wanted: &str, limit: Duration) -> Result<usize> {
        let deadline = Instant::now() + limit;
        let mut state = self.lock();
        let mut searched = offset;
        loop {
            if let Some(at) = find(&state.bytes, searched, wanted.as_bytes()) {
                return Ok(at + wanted.len());
            }
            // A match may begin in what is there and end in what comes.
            searched = (state.bytes.len() + 1)
                .saturating_sub(wanted.len())
                .max(offset);
            let left = deadline.saturating_duration_since(Instant::now());
            if state.ended || left.is_zero() {
                let how = if state.ended {
                    "the stream ended".to_owned()
                } else {
                    within(limit)
                };
                bail!(
                    "{how} without `{wanted}`; it ends in:\n{}",
                    tail(&state.bytes[offset.min(state.bytes.len())..])
                );
            }
            let (next, _) = self
                .shared
                .1
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner);
            state = next;
        }
    }
}

fn within(limit: Duration) -> String {
    format!("{:.1} s passed", limit.as_secs_f64())
}

fn find(bytes: &[u8], from: usize, wanted: &[u8]) -> Option<usize> {
    if wanted.is_empty() {
        return Some(from);
    }
    let rest = bytes.get(from..)?;
    rest.windows(wanted.len())
        .position(|window| window == wanted)
        .map(|at| from + at)
}

fn tail(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(SHOWN)..]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    const LONG: Duration = Duration::from_secs(10);

    #[test]
    fn text_in_pieces_is_found() {
        let (mut writer, reader) = UnixStream::pair().unwrap();
        let transcript = Transcript::follow(reader);
        writer.write_all(b"boot: re").unwrap();
        let waiter = transcript.clone();
        let wait = thread::spawn(move || waiter.wait_for(0, "ready", LONG));
        writer.write_all(b"ady cpus=4\n").unwrap();
        let end = wait.join().unwrap().unwrap();
        assert_eq!(end, 11);
        assert!(transcript.wait_for(end, "cpus=4", LONG).is_ok());
    }

    #[test]
    fn failures_say_what_was_said_instead() {
        let (mut writer, reader) = UnixStream::pair().unwrap();
        let transcript = Transcript::follow(reader);
        writer.write_all(b"panic!").unwrap();
        transcript.wait_for(0, "panic", LONG).unwrap();
        let late = transcript
            .wait_for(0, "ready", Duration::from_millis(20))
            .unwrap_err();
        assert!(
            late.to_string().contains("without `ready`") && late.to_string().contains("panic!")
        );
        drop(writer);
        let ended = transcript.wait_for(0, "ready", LONG).unwrap_err();
        assert!(ended.to_string().contains("the stream ended"), "{ended}");
    }
}
