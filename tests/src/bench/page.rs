//! The baseline as a list of rows.

use super::Sample;
use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// What a row's numbers count.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unit {
    /// A64 instructions of the emulated CPU, EL1 and EL2 together.
    Instructions,
    /// Nanoseconds of the machine that measured: compare by `ratio` only.
    Ns,
    /// How often a second of the machine that measured: more is better.
    #[serde(rename = "per second")]
    PerSecond,
}

/// One cost. `id` and `unit` together name it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// What was measured, such as `kprobe.simulated.count`.
    pub id: String,
    /// What the numbers count.
    pub unit: Unit,
    /// Half of the batches cost no more.
    pub p50: f64,
    /// 95 of 100 batches cost no more.
    pub p95: f64,
    /// 99 of 100 batches cost no more.
    pub p99: f64,
    /// Median of what it is compared with, measured in the same run, in the same unit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<f64>,
    /// `p50` by `reference`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ratio: Option<f64>,
}

/// All rows of a run.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Page {
    rows: Vec<Row>,
}

impl Page {
    /// Adds a row. `reference`: the median that it is compared with.
    pub fn add(&mut self, id: &str, unit: Unit, sample: &Sample, reference: Option<f64>) {
        let p50 = rounded(sample.median());
        self.rows.push(Row {
            id: id.to_owned(),
            unit,
            p50,
            p95: rounded(sample.percentile(95.0)),
            p99: rounded(sample.percentile(99.0)),
            reference: reference.map(rounded),
            ratio: reference.map(|reference| rounded(p50 / reference)),
        });
    }

    /// Takes the rows of `newer` for those of the same name, and adds what is new.
    pub fn update(&mut self, newer: Page) {
        for row in newer.rows {
            let same = |old: &&mut Row| old.id == row.id && old.unit == row.unit;
            match self.rows.iter_mut().find(same) {
                Some(old) => *old = row,
                None => self.rows.push(row),
            }
        }
    }

    /// The `p50` of a row.
    pub fn median(&self, id: &str, unit: Unit) -> Option<f64> {
        let mut rows = self.rows.iter();
        let row = rows.find(|row| row.id == id && row.unit == unit)?;
        Some(row.p50)
    }

    /// The rows, in the order of their measurement.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// As the file `docs/perf-baseline.json` has it.
    pub fn to_json(&self) -> serde_json::Result<String> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }

    /// Of the file's text.
    pub fn from_json(text: &str) -> serde_json::Result<Self> {
        serde_json::from_str(text)
    }

    /// As the file `docs/perf-baseline.md` has it.
    pub fn to_document(&self) -> String {
        include_str!("explanation.md").to_owned() + &self.to_markdown()
    }

    /// As a table of Markdown.
    pub fn to_markdown(&self) -> String {
        let mut text = String::from("| id | unit | p50 | p95 | p99 | reference | ratio |\n");
        text += "|---|---|---:|---:|---:|---:|---:|\n";
        for row in &self.rows {
            let unit = match row.unit {
                Unit::Instructions => "instructions",
                Unit::Ns => "ns",
                Unit::PerSecond => "per second",
            };
            let or_nothing = |value: Option<f64>| value.map(|value| value.to_string());
            // Writing to a `String` does not fail.
            let _ = writeln!(
                text,
                "| `{}` | {unit} | {} | {} | {} | {} | {} |",
                row.id,
                row.p50,
                row.p95,
                row.p99,
                or_nothing(row.reference).unwrap_or_default(),
                or_nothing(row.ratio).unwrap_or_default(),
            );
        }
        text
    }
}

/// Three digits behind the point for what is small, one for the rest.
fn rounded(number: f64) -> f64 {
    let factor = if number.abs() < 20.0 { 1000.0 } else { 10.0 };
    (number * factor).round() / factor
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newer_rows_replace_older() {
        let of = |number| Sample::new(vec![number]).unwrap();
        let (mut page, mut newer) = (Page::default(), Page::default());
        page.add("a", Unit::Ns, &of(1.0), None);
        page.add("b", Unit::Ns, &of(2.0), None);
        newer.add("b", Unit::Ns, &of(3.0), None);
        newer.add("b", Unit::Instructions, &of(4.0), None);
        page.update(newer);
        let numbers: Vec<f64> = page.rows().iter().map(|row| row.p50).collect();
        assert_eq!(numbers, [1.0, 3.0, 4.0]);
    }

    /// The page in the tree is what this program writes, and every row of it makes sense.
    #[test]
    fn the_page_in_the_tree_is_well_formed() {
        let docs = xtask::workspace::root().join("docs");
        let json = std::fs::read_to_string(docs.join("perf-baseline.json")).unwrap();
        let page = Page::from_json(&json).unwrap();
        let document = std::fs::read_to_string(docs.join("perf-baseline.md")).unwrap();
        assert_eq!(
            document,
            page.to_document(),
            "run `cargo xtask bench --write`"
        );
        let mut names: Vec<_> = page
            .rows()
            .iter()
            .map(|row| (&row.id, row.unit as u8))
            .collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), page.rows().len(), "a row is there twice");
        for row in page.rows() {
            assert!(row.p50 <= row.p95 && row.p95 <= row.p99, "{row:?}");
            let expected = row.reference.map(|reference| row.p50 / reference);
            match (expected, row.ratio) {
                (None, None) => {}
                (Some(expected), Some(ratio)) => {
                    assert!(
                        (ratio - expected).abs() <= 0.01 * ratio.abs().max(1.0),
                        "{row:?}"
                    );
                }
                _ => panic!("a reference goes with a ratio: {row:?}"),
            }
            let word = |part: &str| {
                !part.is_empty() && part.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-')
            };
            assert!(row.id.split('.').all(word), "{row:?}");
        }
        for id in [
            "trap.floor",
            "kprobe.simulated.none",
            "kprobe.simulated.count",
        ] {
            for unit in [Unit::Instructions, Unit::Ns] {
                let found = page
                    .rows()
                    .iter()
                    .any(|row| row.id == id && row.unit == unit);
                assert!(found, "no {id} in {unit:?}");
            }
        }
    }

    #[test]
    fn a_page_survives_its_file() {
        let mut page = Page::default();
        let sample = Sample::new(vec![1.0, 2.0, 3.0]).unwrap();
        page.add("a.b", Unit::Ns, &sample, Some(4.0));
        page.add("a.c", Unit::Instructions, &sample, None);
        let json = page.to_json().unwrap();
        assert_eq!(Page::from_json(&json).unwrap(), page);
        assert!(json.contains(r#""unit": "ns""#) && json.contains(r#""ratio": 0.5"#));
        assert!(
            page.to_markdown()
                .contains("| `a.b` | ns | 2 | 3 | 3 | 4 | 0.5 |")
        );
        assert!(Page::from_json(r#"[{"id":"x","unit":"hours","p50":1,"p95":1,"p99":1}]"#).is_err());
    }
}
