//! What several unit tests need.

/// Types, as words, and their strings in the BTF format.
pub(crate) fn btf(words: &[u32], strings: &[u8]) -> Vec<u8> {
    let length = 4 * words.len() as u32;
    let header = [24, 0, length, length, strings.len() as u32];
    let mut bytes = vec![0x9f, 0xeb, 1, 0];
    let words = header.iter().chain(words);
    bytes.extend(words.flat_map(|word| word.to_le_bytes()));
    bytes.extend(strings);
    bytes
}
