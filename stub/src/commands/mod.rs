//! The command language of `monitor` and of the hypervisor's shell. One module per command.
//!
//! Every word may be shortened as far as it stays unambiguous: `mon tr li`. An error says what is wrong and what to do.

mod bar;
mod complete;
mod ebpf_dump;
mod event_args;
mod files;
mod from_hypervisor;
mod gsym;
mod help;
mod ksym;
mod log;
mod map;
mod number;
pub(crate) mod osdata;
mod output;
mod parse;
mod phys;
mod probe_words;
mod step_irqs;
mod table;
mod trace_attach;
mod trace_detach;
mod trace_dump;
mod trace_hprobe;
mod trace_kprobe;
mod trace_list;
mod trace_load;
mod trace_loadsyms;
mod trace_progs;
mod trace_reset;
mod trace_stat;
mod trace_stream;
mod trace_switch;
mod trace_tracepoints;
mod trace_unkprobe;
mod trace_unload;
mod trace_verbose;
mod vm;

pub use trace_stream::Follower;

use crate::server::Server;
use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt::{self, Write};
use output::{Format, Output};
use probes::machine::VcpuId;
use probes::periscope::Periscope;
use probes::programs::Owner;
use probes::space::{ProbeKind, Space};
use probes::target::Target;

/// Who gives a command.
#[derive(Clone, Copy)]
pub enum Caller {
    /// A GDB session's `monitor`.
    Monitor {
        /// The VM of its endpoint: what a place without `vm1:` means.
        space: &'static Space,
        /// The vCPU that the client looks at.
        focus: VcpuId,
        /// The session: what it loads is its.
        owner: Owner,
    },
    /// The hypervisor's shell.
    Shell,
    /// `monitor` of a session that debugs nothing. Like the shell it has no VM of its own.
    Tools {
        /// The session.
        owner: Owner,
    },
}

impl Caller {
    /// The session that loads programs, where it is one that can.
    fn owner(&self) -> Option<Owner> {
        match *self {
            Self::Monitor { owner, .. } | Self::Tools { owner } => Some(owner),
            Self::Shell => None,
        }
    }
}

/// Asks for output that tools read, after any command.
const JSON: &str = "--json";

/// Runs one line and writes its output or what is wrong with it to `out`. Blank lines do nothing. Returns what a shell
/// goes on to show, until its user ends that.
pub fn run(server: &Server, caller: &Caller, line: &str, out: &mut dyn Write) -> Option<Follower> {
    let mut words: Vec<&str> = line.split_whitespace().collect();
    let said = words.len();
    words.retain(|word| *word != JSON);
    let format = if words.len() < said {
        Format::Json
    } else {
        Format::Text
    };
    if words.is_empty() {
        return None;
    }
    run_words(server, caller, &words, format, out)
}

/// The same for a line of the server's own, in a format of its choice.
fn run_as(server: &Server, caller: &Caller, line: &str, format: Format, out: &mut dyn Write) {
    let words: Vec<&str> = line.split_whitespace().collect();
    // Listings end by themselves.
    let _ = run_words(server, caller, &words, format, out);
}

fn run_words(
    server: &Server,
    caller: &Caller,
    words: &[&str],
    format: Format,
    out: &mut dyn Write,
) -> Option<Follower> {
    let result = parse::resolve(COMMANDS, words).and_then(|(command, arguments)| {
        from_hypervisor::check(caller, command, arguments)?;
        let mut output = Output::new(&mut *out, format);
        let mut invocation = Invocation {
            server,
            caller,
            arguments,
            out: &mut output,
            follower: None,
        };
        let result = (command.run)(&mut invocation);
        let follower = invocation.follower.take();
        // Output that cannot be written has no reader to tell.
        let _ = invocation.out.finish();
        result
            .map(|()| follower)
            .map_err(|problem| problem.with_usage(command))
    });
    result.unwrap_or_else(|problem| {
        let _ = Output::new(out, format).problem(&problem.to_string());
        None
    })
}

/// One command.
pub(crate) struct Command {
    /// Its words.
    path: &'static [&'static str],
    /// Its arguments, as help shows them.
    arguments: &'static str,
    /// What it does, in a line.
    summary: &'static str,
    run: fn(&mut Invocation<'_>) -> Result<(), Problem>,
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path.join(" "))?;
        if !self.arguments.is_empty() {
            write!(f, " {}", self.arguments)?;
        }
        Ok(())
    }
}

const COMMANDS: &[Command] = &[
    help::COMMAND,
    vm::LIST,
    vm::VCPUS,
    vm::INFO,
    vm::MEMORY,
    vm::START,
    vm::STOP,
    vm::RESET,
    trace_kprobe::COMMAND,
    trace_attach::COMMAND,
    trace_detach::COMMAND,
    trace_hprobe::ATTACH,
    trace_hprobe::ATTACH_RETURN,
    trace_hprobe::DETACH,
    trace_unkprobe::COMMAND,
    trace_switch::ENABLE,
    trace_switch::DISABLE,
    trace_tracepoints::COMMAND,
    trace_list::COMMAND,
    trace_stream::COMMAND,
    trace_dump::COMMAND,
    trace_stat::COMMAND,
    trace_verbose::COMMAND,
    trace_reset::COMMAND,
    trace_load::COMMAND,
    trace_progs::COMMAND,
    trace_unload::COMMAND,
    trace_loadsyms::COMMAND,
    map::LIST,
    map::DUMP,
    map::LOOKUP,
    map::UPDATE,
    map::DELETE,
    ebpf_dump::COMMAND,
    gsym::COMMAND,
    ksym::LOOKUP,
    ksym::SEARCH,
    ksym::INFO,
    phys::COMMAND,
    step_irqs::COMMAND,
    log::COMMAND,
    files::COMMAND,
    complete::COMMAND,
];

/// Why a command failed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Problem {
    /// The arguments are not what the command takes: its usage is shown too.
    Usage(String),
    /// Anything else.
    Refused(String),
}

impl Problem {
    fn with_usage(self, command: &Command) -> Self {
        match self {
            Self::Usage(text) => Self::Refused(format!("{text}\nusage: {command}")),
            Self::Refused(text) => Self::Refused(text),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(text) | Self::Refused(text) => f.write_str(text),
        }
    }
}

impl From<fmt::Error> for Problem {
    fn from(_: fmt::Error) -> Self {
        Self::Refused("the output could not be written".to_owned())
    }
}

/// A refusal in the words of an error.
fn refused(error: impl fmt::Display) -> Problem {
    Problem::Refused(error.to_string())
}

/// A command with its arguments.
pub(crate) struct Invocation<'a> {
    server: &'a Server,
    caller: &'a Caller,
    arguments: &'a [&'a str],
    out: &'a mut Output<'a>,
    /// What the shell goes on to show.
    follower: Option<Follower>,
}

impl<'a> Invocation<'a> {
    fn periscope(&self) -> &'static Periscope {
        self.server.periscope()
    }

    /// Exactly `N` arguments.
    fn exactly<const N: usize>(&self) -> Result<[&'a str; N], Problem> {
        let arguments: Result<[&str; N], _> = self.arguments.try_into();
        arguments.map_err(|_| {
            let given = self.arguments.len();
            let plural = if N == 1 { "" } else { "s" };
            Problem::Usage(format!("this needs {N} argument{plural}, not {given}."))
        })
    }

    /// The arguments without `flag`, and whether it was there.
    fn take_flag(&self, flag: &str) -> Result<(Vec<&'a str>, Flag), Problem> {
        let is_flag = |word: &&&str| word.starts_with("--");
        if let Some(other) = self
            .arguments
            .iter()
            .filter(is_flag)
            .find(|word| **word != flag)
        {
            return Err(Problem::Usage(format!("there is no {other} here.")));
        }
        let rest: Vec<&str> = self
            .arguments
            .iter()
            .filter(|word| **word != flag)
            .copied()
            .collect();
        let given = rest.len() < self.arguments.len();
        Ok((rest, if given { Flag::Given } else { Flag::Absent }))
    }

    /// Says which CPUs have lost events, if any has.
    fn tell_lost(&mut self) -> Result<(), Problem> {
        for (cpu, lost) in self.server.lost_events() {
            let lost = number::grouped(lost);
            writeln!(
                self.out,
                "cpu{cpu} has lost {lost} events: nobody read them in time"
            )?;
        }
        Ok(())
    }

    /// The VMs that a listing shows: that of the endpoint, or all where it has none.
    fn shown_spaces(&self) -> Vec<&'static Space> {
        match self.caller {
            Caller::Monitor { space, .. } => [*space].to_vec(),
            Caller::Shell | Caller::Tools { .. } => self.periscope().spaces().iter().collect(),
        }
    }

    /// The same and the hypervisor itself, whose probes everybody may set.
    fn shown_with_hypervisor(&self) -> Vec<&'static Space> {
        let mut shown = self.shown_spaces();
        let own = self.periscope().hypervisor();
        shown.extend(own.filter(|own| shown.iter().all(|space| space.vm() != own.vm())));
        shown
    }

    /// The VM that a word without `vm1:` means.
    fn here(&self) -> Result<&'static Space, Problem> {
        let spaces = self.periscope().spaces();
        match (self.caller, spaces) {
            (Caller::Monitor { space, .. }, _) => Ok(space),
            (Caller::Shell | Caller::Tools { .. }, [only]) => Ok(only),
            (Caller::Shell | Caller::Tools { .. }, _) => {
                let names: Vec<String> =
                    spaces.iter().map(|space| space.vm().to_string()).collect();
                let names = names.join(", ");
                Err(Problem::Refused(format!(
                    "say which VM, as in vm1:vfs_read. There are {names}."
                )))
            }
        }
    }

    /// The VM before the `:` of `text`, or [`Self::here`], and what follows.
    fn split_space(&self, text: &'a str) -> Result<(&'static Space, &'a str), Problem> {
        match Target::split_space(text) {
            (Some(name), rest) => Ok((self.periscope().space(name).map_err(refused)?, rest)),
            (None, rest) => Ok((self.here()?, rest)),
        }
    }

    /// A place in code: `vm1:vfs_read`, `0xffff800080012340`.
    fn place(&self, text: &'a str) -> Result<(&'static Space, Target), Problem> {
        let (space, rest) = self.split_space(text)?;
        Ok((space, Target::parse(rest).map_err(refused)?))
    }
}

/// Whether a flag is on the line.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Flag {
    Given,
    #[default]
    Absent,
}

/// What users call a kind of probe.
pub(crate) const fn kind_name(kind: ProbeKind) -> &'static str {
    match kind {
        ProbeKind::Breakpoint => "break",
        ProbeKind::Kprobe => "kprobe",
        ProbeKind::Kretprobe => "kretprobe",
        ProbeKind::Hprobe => "hprobe",
        ProbeKind::Hretprobe => "hretprobe",
        ProbeKind::Action => "action",
        ProbeKind::GdbTracepoint => "trace",
    }
}
