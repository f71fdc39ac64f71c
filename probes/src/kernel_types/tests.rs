use super::*;
use alloc::vec;

const TEXT: Gva = Gva(0xffff_8000_8001_0000);
const HEADER: [u8; 12] = [0x9f, 0xeb, 1, 0, 24, 0, 0, 0, 0, 0, 0, 0];

fn find_in(image: &[u8]) -> Option<u64> {
    let read_some = |at: Gva, length: usize| {
        let rest = &image[(at.0 - TEXT.0) as usize..];
        rest[..rest.len().min(length)].to_vec()
    };
    find_bytes(TEXT, &HEADER, &read_some).map(|found| found.0 - TEXT.0)
}

#[test]
fn types_without_a_name_are_found_wherever_they_begin() {
    let near_the_end_of_a_chunk = (CHUNK - 16..CHUNK + 16).step_by(ALIGN);
    for at in near_the_end_of_a_chunk.chain([0, 4, 3 * CHUNK + 8]) {
        let mut image = vec![0xeb; 4 * CHUNK];
        image[at..at + HEADER.len()].copy_from_slice(&HEADER);
        assert_eq!(find_in(&image), Some(at as u64), "{at:#x}");
    }
}

#[test]
fn where_there_are_none_the_search_ends_with_the_memory() {
    let mut image = vec![0; 3 * CHUNK + 100];
    assert_eq!(find_in(&image), None);
    // Not aligned, and so no types.
    image[CHUNK + 2..CHUNK + 2 + HEADER.len()].copy_from_slice(&HEADER);
    assert_eq!(find_in(&image), None);
    assert_eq!(find_in(&[]), None);
}
