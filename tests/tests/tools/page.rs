//! The page that tells of the tools: `docs/tools.md`.

use crate::table;
use crate::tool::{Hits, Tool, programs};
use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::path::Path;
use xtask::workspace;

/// The part that people write.
const EXPLANATION: &str = include_str!("explanation.md");

/// Tools with kprobe programs whose output is not compared, and why.
const OTHERS: [(&str, &str); 3] = [
    (
        "ksnoop",
        "its user space writes into a map which functions it watches, and how their arguments are shown",
    ),
    (
        "mdflush",
        "its function is in a module for RAID, of which the guest has none",
    ),
    (
        "numamove",
        "the guest has one NUMA node, so no page ever moves",
    ),
];

/// Compares the page in the tree with what the tests do.
pub(crate) fn check(objects: &Path) -> Result<()> {
    let mentioned: BTreeSet<_> = table::all().map(|tool| tool.name).collect();
    let mentioned = mentioned
        .into_iter()
        .chain(OTHERS.map(|(name, _)| name))
        .collect();
    let there = with_kprobes(objects)?;
    let there: BTreeSet<_> = there.iter().map(String::as_str).collect();
    ensure!(
        there == mentioned,
        "the package has {there:?}, and the page knows {mentioned:?}"
    );
    let page = page(objects)?;
    let path = workspace::root().join("docs/tools.md");
    let in_tree = fs::read_to_string(&path).unwrap_or_default();
    if in_tree == page {
        return Ok(());
    }
    let new = Path::new(env!("CARGO_TARGET_TMPDIR")).join("tools.md");
    fs::write(&new, page).with_context(|| new.display().to_string())?;
    bail!(
        "docs/tools.md is not what the tests do: it should be {}",
        new.display()
    )
}

/// The tools of the package that have kprobe programs.
fn with_kprobes(objects: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(objects)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if let Some(name) = name.strip_suffix(".bpf.o")
            && !programs(&path)?.is_empty()
        {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

fn page(objects: &Path) -> Result<String> {
    let mut page = EXPLANATION.to_owned();
    page += "| tool | its programs run at | linked with | compared |\n|---|---|---|---|\n";
    for tool in table::all() {
        let places = places(tool, objects)?;
        let background = match tool.hits {
            Hits::Compared => "",
            Hits::Background => {
                " (not how often programs run: the kernel itself calls these functions at any moment)"
            }
        };
        let Tool { name, compared, .. } = tool;
        let options = options(tool);
        writeln!(
            page,
            "| {name} | {places} | {options} | {compared}{background} |"
        )?;
    }
    page += "\nNot compared:\n\n";
    for (name, reason) in OTHERS {
        writeln!(page, "- {name}: {reason}.")?;
    }
    Ok(page)
}

/// Where its programs run, and which cannot.
fn places(tool: &Tool, objects: &Path) -> Result<String> {
    let programs = tool.programs(objects)?;
    let places: Vec<_> = programs
        .iter()
        .map(|program| format!("`{}`", program.place()))
        .collect();
    let absent: Vec<_> = tool.absent.iter().map(|name| format!("`{name}`")).collect();
    let places = places.join(", ");
    Ok(match &absent[..] {
        [] => places,
        absent => format!("{places}; left out: {}", absent.join(", ")),
    })
}

/// What a user gives to `periscope link` for the same.
fn options(tool: &Tool) -> String {
    let pairs = tool
        .options
        .chunks(2)
        .map(|pair| format!("`{}`", pair.join(" ")));
    let moved = (!tool.attach.is_empty()).then(|| "`--attach` for other places".to_owned());
    pairs.chain(moved).collect::<Vec<_>>().join(", ")
}
