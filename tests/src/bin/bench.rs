//! What `cargo xtask bench` runs once everything is built: measures, prints, writes.

use anyhow::{Context, Result};
use clap::Parser;
use e2e::bench::{self, Page};
use std::fs;
use xtask::report::Report;
use xtask::workspace;

/// Measure what Periscope costs.
#[derive(Parser)]
struct Args {
    /// Only rows whose identifiers begin with one of these.
    names: Vec<String>,
    /// Print the rows as JSON.
    #[arg(long)]
    json: bool,
    /// Update docs/perf-baseline.md and docs/perf-baseline.json.
    #[arg(long)]
    write: bool,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let report = Report::new();
    let page = bench::measure(&args.names, &mut |what| report.done("measuring", what))?;
    if args.json {
        print!("{}", page.to_json()?);
    } else {
        print!("{}", page.to_markdown());
    }
    if args.write {
        write(page)?;
    }
    Ok(())
}

/// Updates the files in `docs`.
fn write(page: Page) -> Result<()> {
    let docs = workspace::root().join("docs");
    let json = docs.join("perf-baseline.json");
    let mut whole = match fs::read_to_string(&json) {
        Ok(text) => Page::from_json(&text).with_context(|| json.display().to_string())?,
        Err(_) => Page::default(),
    };
    whole.update(page);
    for (name, text) in [
        ("perf-baseline.json", whole.to_json()?),
        ("perf-baseline.md", whole.to_document()),
    ] {
        fs::write(docs.join(name), text).with_context(|| format!("cannot write docs/{name}"))?;
    }
    Ok(())
}
