//! The arguments that commands about events share.

use super::{Caller, Invocation, Problem};
use crate::events::Filter;
use alloc::format;
use alloc::vec::Vec;

/// Which events, and how many.
pub(super) struct EventArgs {
    /// `-n N`.
    pub(super) count: Option<usize>,
    /// `--follow`.
    pub(super) follow: Follow,
    /// `--filter F`, all of which must match.
    pub(super) filters: Vec<Filter>,
}

/// Whether to go on with what comes later.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Follow {
    /// Only what has been.
    No,
    /// `--follow`.
    Yes,
}

impl EventArgs {
    /// Reads them. A GDB session sees the events of its VM and of the hypervisor, unless it asks for another space.
    pub(super) fn parse(invocation: &Invocation<'_>) -> Result<Self, Problem> {
        let mut parsed = Self {
            count: None,
            follow: Follow::No,
            filters: Vec::new(),
        };
        let mut words = invocation.arguments.iter();
        while let Some(word) = words.next() {
            let mut value = || {
                let missing = || Problem::Usage(format!("{word} needs a value."));
                words.next().copied().ok_or_else(missing)
            };
            match *word {
                "-n" => parsed.count = Some(count(value()?)?),
                "--follow" | "-f" => parsed.follow = Follow::Yes,
                "--filter" => parsed.filters.push(Filter::parse(value()?)),
                other => return Err(Problem::Usage(format!("there is no {other} here."))),
            }
        }
        let says_space = |filter: &Filter| matches!(filter, Filter::Space(_));
        if let Caller::Monitor { space, .. } = invocation.caller
            && !parsed.filters.iter().any(says_space)
        {
            parsed.filters.push(Filter::Concerns(space.vm()));
        }
        Ok(parsed)
    }
}

/// A number of lines.
pub(super) fn count(text: &str) -> Result<usize, Problem> {
    text.parse()
        .map_err(|_| Problem::Usage(format!("{text:?} is no number of lines.")))
}
