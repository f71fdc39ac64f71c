//! What a person sees while things happen: a list of lines that turn from ▸ into ✓.

use indicatif::{ProgressBar, ProgressStyle};
use std::io::{self, IsTerminal};
use std::time::Duration;

/// Width of the first column, in characters.
const NAME_WIDTH: usize = 16;

/// A list of steps on the standard error. On a terminal the current step moves; elsewhere one line per finished step.
#[derive(Default)]
pub struct Report {}

impl Report {
    /// A report on this process's standard error.
    pub fn new() -> Self {
        Self {}
    }

    /// Says that something is in place.
    pub fn done(&self, name: &str, detail: &str) {
        eprintln!("  ✓ {name:NAME_WIDTH$} {detail}");
    }

    /// Begins a step that takes a while.
    pub fn step(&self, name: &str, detail: &str) -> Step {
        let bar = ProgressBar::new_spinner();
        let template = format!("  {{spinner}} {{prefix:{NAME_WIDTH}}} {{msg}}  {{elapsed}}");
        // The template is a constant of this file; a plain spinner is no reason to fail.
        if let Ok(style) = ProgressStyle::with_template(&template) {
            bar.set_style(style.tick_chars("▸▹▸"));
        }
        bar.set_prefix(name.to_owned());
        bar.set_message(detail.to_owned());
        if io::stderr().is_terminal() {
            bar.enable_steady_tick(Duration::from_millis(250));
        } else {
            eprintln!("  ▸ {name:NAME_WIDTH$} {detail}");
        }
        Step {
            bar,
            name: name.to_owned(),
        }
    }
}

/// A step under way. Dropped without [`Step::done`] it vanishes from the list: the error that follows says why.
pub struct Step {
    bar: ProgressBar,
    name: String,
}

impl Step {
    /// Says what happens now.
    pub fn detail(&self, detail: &str) {
        self.bar.set_message(detail.to_owned());
    }

    /// Ends the step well.
    pub fn done(self, detail: &str) {
        self.bar.finish_and_clear();
        eprintln!("  ✓ {:NAME_WIDTH$} {detail}", self.name);
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
