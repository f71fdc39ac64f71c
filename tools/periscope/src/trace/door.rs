//! The hypervisor's endpoint for tools, as `periscope trace` uses it.

use crate::link::Kernel;
use crate::remote::Remote;
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::net::TcpStream;

/// A connection to the endpoint. What is loaded over it goes when it ends.
pub(super) struct Door {
    remote: Remote<TcpStream>,
}

/// A file that is read on and on.
pub(super) struct Stream {
    fd: u64,
    taken: u64,
}

/// Where a program runs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Place {
    /// A probe of a VM, or of the hypervisor (0).
    Probe {
        /// The VM.
        vm: u8,
        /// Its number there.
        id: u32,
    },
    /// A tracepoint of that name.
    Tracepoint(String),
}

/// A program that has been attached.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Attached {
    /// What the hypervisor says of it.
    pub(super) said: String,
    /// The program, without its object.
    pub(super) program: String,
    /// Where it runs.
    pub(super) place: Place,
}

impl Attached {
    /// Of `probe 1: kprobe vm1:vfs_read at 0x…, program opens:called`, or `vmm:page_fault is on, runs opens:called`.
    fn parse(said: &str) -> Option<Self> {
        let (place, program) = match said.strip_prefix("probe ") {
            Some(rest) => {
                let (id, rest) = rest.split_once(": ")?;
                let (_, rest) = rest.split_once(' ')?;
                let (space, _) = rest.split_once(':')?;
                let vm = match space.strip_prefix("vm") {
                    Some(number) => number.parse().ok()?,
                    None => 0,
                };
                let id = id.parse().ok()?;
                (Place::Probe { vm, id }, rest.rsplit_once(", program ")?.1)
            }
            None => {
                let (name, program) = said.split_once(" is on, runs ")?;
                (Place::Tracepoint(name.to_owned()), program)
            }
        };
        let program = program.split_whitespace().next()?;
        let own = program.split_once(':').map_or(program, |(_, own)| own);
        Some(Self {
            said: said.to_owned(),
            program: own.to_owned(),
            place,
        })
    }
}

impl Door {
    pub(super) fn connect(address: &str) -> Result<Self> {
        let remote = Remote::connect(address)
            .context("this needs the hypervisor's endpoint for tools: give it with --tools")?;
        Ok(Self { remote })
    }

    /// The types of the kernel that runs in the VM of that directory.
    pub(super) fn kernel(&mut self, directory: &str) -> Result<Kernel> {
        Kernel::of_files(&mut self.remote, directory)
    }

    pub(super) fn put(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        self.remote.put(name, bytes)
    }

    pub(super) fn open_stream(&mut self, name: &str) -> Result<Stream> {
        let fd = self.remote.open(name)?;
        Ok(Stream { fd, taken: 0 })
    }

    /// What has come; nothing where nothing has.
    pub(super) fn read(&mut self, stream: &mut Stream) -> Result<Vec<u8>> {
        let bytes = self.remote.read(stream.fd, stream.taken)?;
        let bytes = bytes.context("the stream of events has ended")?;
        stream.taken += bytes.len() as u64;
        Ok(bytes)
    }

    /// Attaches all programs of an object where their sections say.
    pub(super) fn attach(&mut self, object: &str, vm: u8) -> Result<Vec<Attached>> {
        let notes = self.ask(&format!("trace attach {object} vm{vm}"))?;
        let said = notes.iter().filter_map(|note| note["note"].as_str());
        let attached = said.map(|said| {
            Attached::parse(said).with_context(|| format!("`{said}` is no answer known here"))
        });
        attached.collect()
    }

    pub(super) fn detach(&mut self, object: &str) -> Result<()> {
        self.ask(&format!("trace detach {object}")).map(drop)
    }

    pub(super) fn unload(&mut self, object: &str) -> Result<()> {
        self.ask(&format!("trace unload {object}")).map(drop)
    }

    /// What a command answers, as text.
    pub(super) fn say(&mut self, command: &str) -> Result<String> {
        self.remote.monitor(command)
    }

    /// The JSON objects that a command answers with.
    pub(super) fn ask(&mut self, command: &str) -> Result<Vec<Value>> {
        let text = self.remote.monitor(&format!("{command} --json"))?;
        let mut rows = Vec::new();
        for line in text.lines() {
            let row: Value = serde_json::from_str(line)
                .with_context(|| format!("`{command}` is answered with {line}"))?;
            if let Some(error) = row["error"].as_str() {
                bail!("{error}");
            }
            rows.push(row);
        }
        Ok(rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(said: &str) -> Option<(String, Place)> {
        Attached::parse(said).map(|one| (one.program, one.place))
    }

    #[test]
    fn answers_are_understood() {
        let probe = |vm, id| Place::Probe { vm, id };
        assert_eq!(
            parse(
                "probe 12: kretprobe vm2:__arm64_sys_openat at 0xffffa5d2f1a3c0e8, program openat:returned"
            ),
            Some(("returned".into(), probe(2, 12)))
        );
        assert_eq!(
            parse("probe 1: hprobe hyp:hypervisor::exits::handle, program one (interpreted)"),
            Some(("one".into(), probe(0, 1)))
        );
        assert_eq!(
            parse("vmm:page_fault is on, runs exits:fault"),
            Some(("fault".into(), Place::Tracepoint("vmm:page_fault".into())))
        );
        for other in ["", "probe", "probe x: kprobe vm1:f, program p", "nothing"] {
            assert_eq!(parse(other), None, "{other}");
        }
    }
}
