//! The files that can be read, and what is in them. Each is made when it is opened.

use super::host_io::{File, split};
use super::{DebugTarget, Role};
use crate::events::Wanted;
use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use probes::programs::{ProgramStore, StoreError};
use probes::space::Space;

/// What a file is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum About {
    /// The VM of the endpoint. Where that has none, the name of one comes before: `vm1/btf`.
    Vm,
    /// The whole machine.
    Machine,
}

/// A file that can be read.
pub(crate) struct Readable {
    /// What it is called.
    pub(crate) name: &'static str,
    pub(crate) about: About,
    /// What is in it, in a line.
    pub(crate) holds: &'static str,
    open: fn(&mut DebugTarget, &Space) -> Result<File, String>,
}

/// All but the programs, which are files too.
pub(crate) const READABLE: &[Readable] = &[
    Readable {
        name: "log",
        about: About::Machine,
        holds: "the hypervisor's log",
        open: |target, _| {
            let log = target
                .server
                .log()
                .ok_or_else(|| "this hypervisor keeps no log".to_owned())?;
            let mut text = String::new();
            log.write_to(&mut text)
                .map_err(|_| "the log cannot be written".to_owned())?;
            Ok(File::Download(text.into_bytes()))
        },
    },
    Readable {
        name: "console",
        about: About::Vm,
        holds: "the last that the guest has written to its console",
        open: |_, space| {
            let written = space.machine().console();
            written.map(File::Download).ok_or_else(|| {
                format!(
                    "{} has no console. What the hypervisor says is in `log`",
                    space.vm()
                )
            })
        },
    },
    Readable {
        name: "events",
        about: About::Machine,
        holds: "the events that are kept, as records",
        open: |target, _| {
            target.collect_events();
            Ok(File::Download(target.server.events().raw()))
        },
    },
    Readable {
        name: "sources",
        about: About::Machine,
        holds: "what the sources of events are called",
        open: |target, _| {
            target.collect_events();
            let sources = target.server.events().sources();
            Ok(File::Download(sources.into_bytes()))
        },
    },
    Readable {
        name: "stream",
        about: About::Machine,
        holds: "all events from now on, without an end",
        open: |target, _| target.open_stream(Wanted::All),
    },
    Readable {
        name: "outputs",
        about: About::Machine,
        holds: "what programs put out from now on, without an end",
        open: |target, _| target.open_stream(Wanted::Outputs),
    },
    Readable {
        name: "vmlinux",
        about: About::Vm,
        holds: "symbols and types of the kernel that runs, as an ELF file",
        open: |_, space| {
            let file = space.kernel_file();
            file.map(File::Kernel).map_err(|reason| reason.to_string())
        },
    },
    Readable {
        name: "vmlinux.id",
        about: About::Vm,
        holds: "what tells that file from others, for hosts that have kept one",
        open: |_, space| {
            let identity = space.kernel_file_identity();
            let identity = identity.map_err(|reason| reason.to_string())?;
            Ok(File::Download(identity.to_string().into_bytes()))
        },
    },
    Readable {
        name: "btf",
        about: About::Vm,
        holds: "its types, as they are in its memory",
        open: |_, space| {
            let types = space.kernel_types();
            types
                .map(File::Download)
                .map_err(|reason| reason.to_string())
        },
    },
    Readable {
        name: "linux_banner",
        about: About::Vm,
        holds: "its version",
        open: |_, space| {
            // It is found with the symbols.
            space.find_symbols().map_err(|reason| reason.to_string())?;
            let banner = space.kernel_banner();
            let banner = banner.ok_or_else(|| "this kernel does not say".to_owned())?;
            Ok(File::Download(banner.into_bytes()))
        },
    },
];

/// What follows the name of a program's file.
const PROGRAM: &str = ".lp";

/// The files of the loaded programs.
pub(crate) fn programs(store: &ProgramStore) -> impl Iterator<Item = String> {
    store.names().into_iter().map(|name| name + PROGRAM)
}

/// Whether a debugger asks for such a file without its user: they look for files with directories, and GDB tries whether there
/// are files at all (`remote_target::filesystem_is_local` in its `remote.c`).
fn is_of_its_own_accord(directory: Option<&str>, name: &str) -> bool {
    directory.is_some() || name == "just probing"
}

impl DebugTarget {
    /// Opens what a client can read under that name; says why there is nothing.
    pub(super) fn open_to_read(&mut self, path: &str) -> Option<File> {
        let (directory, name) = split(path);
        let opened = match READABLE.iter().find(|file| file.name == name) {
            Some(file) => match self.space_of(file, directory) {
                Ok(space) => (file.open)(self, space).map_err(|why| format!("{name}: {why}")),
                Err(why) => Err(why),
            },
            None => match self.program_file(name) {
                None if self.role == Role::Debugger && is_of_its_own_accord(directory, name) => {
                    return None;
                }
                None => Err(self.no_such_file(name)),
                Some(read) => read.map_err(|why| why.to_string()),
            },
        };
        opened.map_err(|why| self.explain(why)).ok()
    }

    /// The space that a file is about: the endpoint's, or for a tool that of the directory.
    fn space_of(&self, file: &Readable, directory: Option<&str>) -> Result<&'static Space, String> {
        if self.role == Role::Debugger || file.about == About::Machine {
            return Ok(self.space);
        }
        let vm = directory.map(|path| path.rsplit('/').next().unwrap_or_default());
        let vm = vm.filter(|vm| !vm.is_empty());
        let vm = vm.ok_or_else(|| format!("say which VM, as vm1/{}", file.name))?;
        let space = self.server.periscope().space(vm);
        space.map_err(|error| error.to_string())
    }

    /// A program as it was loaded; `None` where there is none of that name.
    fn program_file(&self, name: &str) -> Option<Result<File, StoreError>> {
        let stem = name.strip_suffix(PROGRAM).unwrap_or(name);
        match self.server.periscope().programs().bytes(stem) {
            Ok(bytes) => Some(Ok(File::Download(bytes.to_vec()))),
            Err(StoreError::NoSuchObject { .. }) => None,
            Err(error) => Some(Err(error)),
        }
    }

    fn no_such_file(&self, name: &str) -> String {
        let made = READABLE.iter().map(|file| file.name.to_string());
        let all = made.chain(programs(self.server.periscope().programs()));
        let all = all.collect::<Vec<_>>().join(", ");
        format!("there is no file {name}. There are {all}.")
    }

    fn open_stream(&mut self, wanted: Wanted) -> Result<File, String> {
        let stream = self.server.open_stream(wanted).map(File::Stream);
        stream.ok_or_else(|| "as many as there can be are open: close one first".to_owned())
    }
}
