//! Test files: cases in order, printed as cargo's own runner prints them.

use anyhow::{Result, anyhow};
use clap::Parser;
use libtest_mimic::{Arguments, Trial};
use std::env;
use std::fs::OpenOptions;
use std::io::Write;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

/// How much is tested.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scope {
    /// What fits into every change.
    Quick,
    /// `cargo xtask test --full`: all CPU models, oldstable's kernel, the soak.
    Full,
}

/// What `cargo xtask test` was asked for.
pub fn scope() -> Scope {
    if env::var_os("PERISCOPE_FULL").is_some() {
        Scope::Full
    } else {
        Scope::Quick
    }
}

/// One test of a suite over a shared machine.
pub struct Case<M> {
    /// Its name, as `cargo test NAME` takes it.
    pub name: &'static str,
    /// The test.
    pub run: fn(&M) -> Result<()>,
}

/// A list of cases that are called as their functions are.
#[macro_export]
macro_rules! case_list {
    ($($name:ident,)+) => {
        &[$($crate::Case { name: stringify!($name), run: $name },)+]
    };
}

/// What the first case finds: the machine, or why there is none.
type Shared<M> = Arc<Mutex<Option<Result<M, String>>>>;

/// Runs cases, one after another, on one machine that boots before the first.
pub fn suite<M>(boot: fn() -> Result<M>, list: &'static [Case<M>]) -> ExitCode
where
    M: Send + 'static,
{
    let list = list.iter().map(|case| (case.name.to_owned(), case.run));
    suite_of(boot, list.collect())
}

/// The same for cases that are made by a program.
pub fn suite_of<M, F>(boot: fn() -> Result<M>, list: Vec<(String, F)>) -> ExitCode
where
    M: Send + 'static,
    F: FnOnce(&M) -> Result<()> + Send + 'static,
{
    let shared: Shared<M> = Arc::default();
    let trials = list.into_iter().map(|(name, case)| {
        let shared = Arc::clone(&shared);
        (name, move || run_on(&shared, boot, case))
    });
    let exit = cases(trials.collect());
    // The machine ends here, not when its thread happens to.
    shared.lock().unwrap_or_else(PoisonError::into_inner).take();
    exit
}

fn run_on<M>(
    shared: &Shared<M>,
    boot: fn() -> Result<M>,
    case: impl FnOnce(&M) -> Result<()>,
) -> Result<()> {
    // A case that panicked has failed; the others still say what they find.
    let mut shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
    let booted = shared.get_or_insert_with(|| boot().map_err(|error| format!("{error:#}")));
    let machine = booted
        .as_ref()
        .map_err(|error| anyhow!("the machine does not boot: {error}"))?;
    case(machine)
}

/// A test of its own, by its name, where the tests of a list differ in kind.
pub type Named = (String, Box<dyn FnOnce() -> Result<()> + Send>);

/// Gives a test its name.
pub fn named(name: &str, run: impl FnOnce() -> Result<()> + Send + 'static) -> Named {
    (name.to_owned(), Box::new(run))
}

/// Runs named cases, one after another.
pub fn cases<F>(list: Vec<(String, F)>) -> ExitCode
where
    F: FnOnce() -> Result<()> + Send + 'static,
{
    let (mut arguments, filters) = RunnerArguments::parse().split();
    arguments.test_threads = Some(1);
    let trials = list.into_iter().map(|(name, run)| {
        let reported = name.clone();
        let test = Trial::test(name, move || {
            run().map_err(|error| {
                let said = format!("{error:#}");
                report_failure(&reported, &said);
                said.into()
            })
        });
        // These need QEMU, debuggers and images: `cargo xtask test` has them, plain `cargo test` may not.
        test.with_ignored_flag(true)
    });
    let trials = trials.filter(|trial| is_wanted(trial, &filters, &arguments));
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}

/// Appends what a case says to the file that `cargo xtask test` shows at its end: cargo prints it in the middle of
/// thousands of lines, of which a CI may keep the last ones only.
fn report_failure(name: &str, said: &str) {
    let Some(path) = env::var_os("PERISCOPE_FAILURES") else {
        return;
    };
    let file = OpenOptions::new().create(true).append(true).open(path);
    // Cargo prints it all the same.
    let _ = file.and_then(|mut file| writeln!(file, "---- {name} ----\n{said}\n"));
}

/// Arguments of a test program. libtest takes several filters, libtest-mimic one: here are the others.
#[derive(Parser)]
struct RunnerArguments {
    #[command(flatten)]
    arguments: Arguments,
    /// More filters: tests that any of them matches are run.
    #[arg(value_name = "FILTER")]
    more_filters: Vec<String>,
}

impl RunnerArguments {
    /// The arguments without a filter, and all filters.
    fn split(mut self) -> (Arguments, Vec<String>) {
        let first = self.arguments.filter.take();
        let filters = first.into_iter().chain(self.more_filters);
        (self.arguments, filters.collect())
    }
}

/// Whether one of the filters matches, or there is none.
fn is_wanted(trial: &Trial, filters: &[String], arguments: &Arguments) -> bool {
    let matches = |filter: &String| {
        let with_filter = Arguments {
            filter: Some(filter.clone()),
            ..arguments.clone()
        };
        !with_filter.is_filtered_out(trial)
    };
    filters.is_empty() || filters.iter().any(matches)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted<'a>(words: &[&str], names: &[&'a str]) -> Vec<&'a str> {
        let command = std::iter::once(&"program").chain(words);
        let (arguments, filters) = RunnerArguments::try_parse_from(command).unwrap().split();
        let is_wanted = |name: &&&str| {
            let trial = Trial::test(**name, || Ok(()));
            is_wanted(&trial, &filters, &arguments)
        };
        names.iter().filter(is_wanted).copied().collect()
    }

    #[test]
    fn each_filter_adds_its_tests() {
        let names = ["boots", "stops", "a_probe_counts"];
        assert_eq!(wanted(&["--include-ignored"], &names), names);
        assert_eq!(wanted(&["oo"], &names), ["boots"]);
        assert_eq!(
            wanted(&["oo", "probe", "--nocapture"], &names),
            ["boots", "a_probe_counts"]
        );
        assert_eq!(wanted(&["--exact", "boots", "stop"], &names), ["boots"]);
        assert_eq!(wanted(&["nothing", "matches"], &names), [""; 0]);
    }
}
