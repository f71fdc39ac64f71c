//! What came of it, at the end.

use super::door::{Attached, Door, Place};
use super::printer::Counts;
use anyhow::Result;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;

/// Hits of the programs, records of the maps, losses.
pub(super) struct Summary {
    programs: Vec<Program>,
    shown: BTreeMap<String, u64>,
    lost: BTreeMap<String, u64>,
    texts: u64,
    errors: u64,
}

struct Program {
    name: String,
    place: String,
    hits: String,
    missed: String,
}

impl Summary {
    /// Asks for the hits of the programs, which are attached still.
    pub(super) fn take(door: &mut Door, attached: &[Attached]) -> Result<Self> {
        let probes = door.ask("trace list")?;
        let points = door.ask("trace tracepoints")?;
        let text = |value: &Value| match value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let row = |one: &Attached| {
            let row = match &one.place {
                Place::Probe { vm, id } => {
                    let space = match vm {
                        0 => "hyp:".to_owned(),
                        vm => format!("vm{vm}:"),
                    };
                    probes.iter().find(|row| {
                        let site = row["site"].as_str().unwrap_or_default();
                        row["id"] == *id && site.starts_with(&space)
                    })
                }
                Place::Tracepoint(name) => points.iter().find(|row| row["tracepoint"] == **name),
            };
            let row = row.unwrap_or(&Value::Null);
            let place = match &one.place {
                Place::Probe { .. } => text(&row["site"]),
                Place::Tracepoint(name) => name.clone(),
            };
            Program {
                name: one.program.clone(),
                place,
                hits: text(&row["hits"]),
                missed: text(&row["missed"]),
            }
        };
        Ok(Self {
            programs: attached.iter().map(row).collect(),
            shown: BTreeMap::new(),
            lost: BTreeMap::new(),
            texts: 0,
            errors: 0,
        })
    }

    /// Adds what has been shown.
    pub(super) fn add(&mut self, counts: &Counts) {
        self.shown.clone_from(&counts.records);
        self.lost.clone_from(&counts.lost);
        (self.texts, self.errors) = (counts.texts, counts.errors);
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Program {
            name,
            place,
            hits,
            missed,
        } in &self.programs
        {
            writeln!(f, "{name} at {place}: {hits} hits, {missed} missed")?;
        }
        for (map, records) in &self.shown {
            writeln!(f, "{map}: {records} records")?;
        }
        if self.texts > 0 {
            writeln!(f, "{} lines", self.texts)?;
        }
        if self.errors > 0 {
            writeln!(f, "{} runs failed", self.errors)?;
        }
        for (whose, lost) in &self.lost {
            writeln!(f, "{whose}: {lost} lost")?;
        }
        if self.lost.is_empty() {
            writeln!(f, "nothing was lost")?;
        }
        Ok(())
    }
}
