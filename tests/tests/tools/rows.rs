//! What tools and the guest say, as rows of text that can be counted and compared.

use serde_json::Value;
use std::collections::BTreeMap;

/// How often each row was said, or the number that a name stands for.
pub(crate) type Counts = BTreeMap<String, i64>;

/// A value as text: numbers and strings as they are.
pub(crate) fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// A row of some of the fields: `comm=task pid` shows the field `task` by the name of `comm`, and `pid` by its own.
pub(crate) fn row(value: &Value, fields: &str) -> String {
    let fields = fields.split(' ').map(|field| {
        let (name, source) = field.split_once('=').unwrap_or((field, field));
        format!("{name}={}", text(&value[source]))
    });
    fields.collect::<Vec<_>>().join(" ")
}

/// Counts equal rows.
pub(crate) fn count(rows: impl IntoIterator<Item = String>) -> Counts {
    let mut counts = Counts::new();
    for row in rows {
        *counts.entry(row).or_default() += 1;
    }
    counts
}

/// A field that is a number; 0 where it is none.
pub(crate) fn number(value: &Value) -> i64 {
    value.as_i64().unwrap_or_default()
}

/// What came between two readings.
pub(crate) fn difference(before: &Counts, after: &Counts) -> Counts {
    let names = before.keys().chain(after.keys());
    let of = |counts: &Counts, name: &str| counts.get(name).copied().unwrap_or_default();
    let all = names.map(|name| (name.clone(), of(after, name) - of(before, name)));
    all.filter(|(_, difference)| *difference != 0).collect()
}
