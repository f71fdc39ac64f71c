//! What a tool's programs put out: records, and what they leave in maps.

use crate::layout::decode;
use crate::rows::{Counts, count, row};
use anyhow::{Context, Result};
use e2e::Shell;
use serde_json::Value;

/// The output of the programs of an object, as the hypervisor's shell shows it.
pub(crate) struct Output<'s> {
    pub(crate) shell: &'s mut Shell,
    pub(crate) object: &'s str,
}

impl Output<'_> {
    /// The records of a map as rows of these fields.
    pub(crate) fn rows(&mut self, map: &str, layout: &str, fields: &str) -> Result<Counts> {
        let records = self.records(map, layout)?;
        Ok(count(records.iter().map(|record| row(record, fields))))
    }

    /// The records that programs put out through a map.
    pub(crate) fn records(&mut self, map: &str, layout: &str) -> Result<Vec<Value>> {
        let said = self.run(&format!("trace dump --filter {map} --json"))?;
        let records = said.iter().map(|event| {
            let bytes = event["bytes"].as_str().context("a record without bytes")?;
            decode(layout, &unhex(bytes)?)
        });
        records.collect()
    }

    /// The entries of a map, by their types.
    pub(crate) fn entries(&mut self, map: &str) -> Result<Vec<(Value, Value)>> {
        let said = self.run(&format!("map dump {} {map} --json", self.object))?;
        let entries = said.into_iter();
        let entries = entries.map(|mut entry| (entry["key"].take(), entry["value"].take()));
        Ok(entries.collect())
    }

    /// The variables of a section.
    pub(crate) fn variables(&mut self, section: &str) -> Result<Value> {
        let entries = self.entries(section)?;
        let (_, variables) = entries.into_iter().next().context("an empty section")?;
        Ok(variables)
    }

    fn run(&mut self, command: &str) -> Result<Vec<Value>> {
        let said = self.shell.run(command)?;
        let lines = said
            .lines()
            .map(str::trim)
            .filter(|line| line.starts_with('{'));
        let values = lines.map(serde_json::from_str).collect::<Result<_, _>>();
        values.with_context(|| format!("`{command}` said {said}"))
    }
}

fn unhex(text: &str) -> Result<Vec<u8>> {
    let digits = text.as_bytes().chunks(2).map(|pair| str::from_utf8(pair));
    let bytes = digits.map(|digits| Ok(u8::from_str_radix(digits?, 16)?));
    bytes
        .collect::<Result<_>>()
        .with_context(|| format!("no bytes: {text}"))
}
