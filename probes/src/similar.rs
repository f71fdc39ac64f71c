//! "Did you mean …?": the names that are most like what somebody typed.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

/// Names that differ in more characters are not suggested for that.
const MAX_DISTANCE: usize = 3;
/// Longer names are not compared.
const MAX_LENGTH: usize = 128;
/// Fewer characters than this say too little to look for them inside names.
const MIN_FRAGMENT: usize = 3;

/// How well a name fits; the least is the best.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Fit {
    /// So many characters are inserted, deleted or replaced.
    Distance(usize),
    /// It begins with what was typed.
    Prefix,
    /// It contains what was typed.
    Fragment,
}

/// Collects the best suggestions for a name out of all that are offered.
pub struct Suggestions<'a> {
    wanted: &'a str,
    limit: usize,
    /// The best so far, best first.
    best: Vec<(Fit, usize, String)>,
}

impl<'a> Suggestions<'a> {
    /// No suggestions yet for `wanted`, and never more than `limit`.
    pub fn new(wanted: &'a str, limit: usize) -> Self {
        Self {
            wanted,
            limit,
            best: Vec::new(),
        }
    }

    /// Considers a name. One that was offered before is not suggested twice.
    pub fn offer(&mut self, name: &str) {
        let Some(fit) = fit(self.wanted, name) else {
            return;
        };
        let is_before = |other: &(Fit, usize, String)| {
            (other.0, other.1, other.2.as_str()) < (fit, name.len(), name)
        };
        let place = self.best.partition_point(is_before);
        let is_known = self.best.get(place).is_some_and(|known| known.2 == name);
        if place >= self.limit || is_known {
            return;
        }
        self.best.truncate(self.limit - 1);
        self.best.insert(place, (fit, name.len(), name.to_string()));
    }

    /// The suggestions, best first.
    pub fn into_names(self) -> Vec<String> {
        self.best.into_iter().map(|(_, _, name)| name).collect()
    }
}

fn fit(wanted: &str, name: &str) -> Option<Fit> {
    // Half of a short name wrong is another name.
    let allowed = MAX_DISTANCE.min(wanted.len() / 2);
    if let Some(distance) = distance(wanted.as_bytes(), name.as_bytes(), allowed) {
        return Some(Fit::Distance(distance));
    }
    if wanted.len() < MIN_FRAGMENT {
        return None;
    }
    if name.starts_with(wanted) {
        return Some(Fit::Prefix);
    }
    name.contains(wanted).then_some(Fit::Fragment)
}

/// The edit distance of `a` and `b` (Levenshtein) if it is at most `limit`. Only the cells that can
/// matter are computed: those at most `limit` from the diagonal.
fn distance(a: &[u8], b: &[u8], limit: usize) -> Option<usize> {
    if a.len().abs_diff(b.len()) > limit || a.len().max(b.len()) > MAX_LENGTH {
        return None;
    }
    let too_far = limit + 1;
    let mut row = [too_far; MAX_LENGTH + 1];
    for (column, cell) in row.iter_mut().enumerate().take(limit + 1) {
        *cell = column;
    }
    for (index, &byte) in a.iter().enumerate() {
        let first = index.saturating_sub(limit);
        let last = (index + limit + 1).min(b.len());
        // The cell up and to the left of the next one, and the one to its left.
        let mut diagonal = row[first];
        let mut left = if first == 0 { index + 1 } else { too_far };
        row[first] = left;
        let mut best = left;
        for column in first..last {
            let up = if column + 1 > index + limit {
                too_far
            } else {
                row[column + 1]
            };
            let replaced = diagonal + usize::from(byte != b[column]);
            diagonal = up;
            left = replaced.min(up + 1).min(left + 1).min(too_far);
            row[column + 1] = left;
            best = best.min(left);
        }
        if best > limit {
            return None;
        }
    }
    Some(row[b.len()]).filter(|&distance| distance <= limit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use proptest::prelude::*;

    fn suggest(wanted: &str, limit: usize, names: &[&str]) -> Vec<String> {
        let mut suggestions = Suggestions::new(wanted, limit);
        names.iter().for_each(|name| suggestions.offer(name));
        suggestions.into_names()
    }

    /// The textbook's whole matrix.
    fn reference(a: &[u8], b: &[u8]) -> usize {
        let mut row: Vec<usize> = (0..=b.len()).collect();
        for (i, x) in a.iter().enumerate() {
            let mut next = vec![i + 1];
            for (j, y) in b.iter().enumerate() {
                let replaced = row[j] + usize::from(x != y);
                next.push(replaced.min(row[j + 1] + 1).min(next[j] + 1));
            }
            row = next;
        }
        row[b.len()]
    }

    proptest! {
        #[test]
        fn distance_is_levenshteins(a in "[abc]{0,9}", b in "[abc]{0,9}", limit in 0..5_usize) {
            let expected = reference(a.as_bytes(), b.as_bytes());
            let expected = Some(expected).filter(|&distance| distance <= limit);
            prop_assert_eq!(distance(a.as_bytes(), b.as_bytes(), limit), expected);
        }

        #[test]
        fn any_names_can_be_offered(
            wanted in ".{0,140}",
            names in prop::collection::vec(".{0,140}", 0..20),
            limit in 0..5_usize,
        ) {
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            prop_assert!(suggest(&wanted, limit, &names).len() <= limit);
        }
    }

    #[test]
    fn near_names_come_before_longer_ones() {
        let names = [
            "vfs_read",
            "do_sys_openat2",
            "do_sys_open",
            "x_do_sys_openat_y",
            "do_sys_openat_long",
        ];
        assert_eq!(
            suggest("do_sys_openat", 8, &names),
            [
                "do_sys_openat2",
                "do_sys_open",
                "do_sys_openat_long",
                "x_do_sys_openat_y"
            ]
        );
        assert_eq!(suggest("do_sys_openat", 1, &names), ["do_sys_openat2"]);
        assert_eq!(suggest("vfs_raed", 8, &names), ["vfs_read"]);
        assert!(suggest("completely_else", 8, &names).is_empty());
        assert!(suggest("", 8, &names).is_empty());
    }

    #[test]
    fn a_name_is_suggested_once() {
        assert_eq!(
            suggest("vfs_rea", 3, &["vfs_read", "vfs_ready", "vfs_read"]),
            ["vfs_read", "vfs_ready"]
        );
    }
}
