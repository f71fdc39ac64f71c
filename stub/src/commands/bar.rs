//! Bars of histograms.

use alloc::string::String;

/// Width of the longest bar, in characters.
pub(super) const BAR: u64 = 40;

/// A bar in eighths of a character.
pub(super) fn bar(count: u64, total: u64) -> String {
    const PARTS: [char; 7] = ['▏', '▎', '▍', '▌', '▋', '▊', '▉'];
    let eighths = u128::from(count) * u128::from(8 * BAR) / u128::from(total.max(1));
    let eighths = eighths as usize;
    let mut bar: String = core::iter::repeat_n('█', eighths / 8).collect();
    bar.extend(
        eighths
            .checked_rem(8)
            .and_then(|rest| PARTS.get(rest.checked_sub(1)?)),
    );
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars() {
        assert_eq!(bar(0, 10), "");
        assert_eq!(bar(10, 10), "█".repeat(40));
        assert_eq!(bar(1, 320), "▏");
        assert_eq!(bar(9, 320), "█▏");
        assert_eq!(bar(1, 0), "█".repeat(40));
    }
}
