//! The counts and the memory of ring buffers.

use super::*;

const ROOM: u32 = 256;

fn ring(bytes: u32, cpus: usize) -> Map {
    let definition = MapDef {
        key_size: 0,
        value_size: 0,
        ..map(MapKind::RingBuf, bytes)
    };
    allocate(definition, cpus)
}

fn records(map: &Map) -> &Records {
    map.records().expect("it is a ring buffer")
}

/// What a record takes of a ring buffer.
fn size(length: usize) -> u64 {
    (length as u64 + 8).next_multiple_of(8)
}

#[test]
fn a_ring_is_full_when_its_bytes_are_not_read() {
    let map = ring(ROOM, 1);
    for _ in 0..ROOM / 16 {
        assert!(records(&map).claim(8).is_ok());
    }
    assert!(records(&map).claim(0).is_err());
    let output = map.output().expect("records pass through it");
    assert_eq!((output.lost, output.unread), (1, ROOM.into()));
    map.has_been_read(8);
    assert!(records(&map).claim(8).is_ok());
    assert_eq!(
        [0, 1, 2, 3, 4].map(|what| records(&map).query(what)),
        [256, 256, 16, 272, 0]
    );
}

#[test]
fn the_memory_of_a_reservation_is_its_cpus() {
    let map = ring(ROOM, 2);
    let memory = map.values().size();
    assert_eq!((memory, map.values().at(0, 1)), (256, Some(256)));
    assert_eq!(records(&map).reserve(0, 20, memory), Ok(0));
    assert_eq!(records(&map).reserve(0, 0, memory), Ok(24));
    assert_eq!(records(&map).reserve(1, 1, memory), Ok(0));
    assert_eq!(records(&map).release(0, 8), None, "nothing begins there");
    assert_eq!(records(&map).release(0, 0), Some(20));
    assert_eq!(records(&map).release(0, 0), None, "it is given back");
    assert_eq!(records(&map).release(2, 0), None, "there is no such CPU");
    records(&map).release_all(0);
    assert_eq!(records(&map).release(0, 24), None);
    assert_eq!(records(&map).unread(), size(20) + size(1));
}

#[test]
fn there_is_no_memory_for_too_many_or_too_long_records() {
    let map = ring(1 << 20, 1);
    let memory = map.values().size();
    assert_eq!(memory, MAX_RECORD);
    for number in 0..8 {
        assert_eq!(records(&map).reserve(0, 8, memory), Ok(8 * number));
    }
    assert!(records(&map).reserve(0, 8, memory).is_err());
    records(&map).release_all(0);
    assert!(records(&map).reserve(0, MAX_RECORD + 1, memory).is_err());
    assert_eq!(records(&map).unread(), 0, "what is refused takes nothing");
    assert!(records(&map).reserve(0, MAX_RECORD, memory).is_ok());
    assert!(records(&map).reserve(0, 1, memory).is_err());
    assert_eq!(map.output().map(|output| output.lost), Some(3));
}

#[test]
fn several_cpus_never_claim_more_than_there_is() {
    let map = ring(ROOM, 3);
    thread::scope(|scope| {
        for cpu in 0..3 {
            let map = &map;
            scope.spawn(move || {
                for round in 0..5_000 {
                    let length = (cpu + round) % 50;
                    if records(map).claim(length).is_ok() {
                        assert!(records(map).unread() <= ROOM.into());
                        map.has_been_read(length);
                    }
                }
            });
        }
    });
    assert_eq!(records(&map).unread(), 0);
}

#[derive(Clone, Debug)]
enum Step {
    Reserve(usize),
    Release(usize),
    Read,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..100_usize).prop_map(Step::Reserve),
        (0..8_usize).prop_map(Step::Release),
        Just(Step::Read),
    ]
}

proptest! {
    /// Reservations of a CPU never overlap, and the ring refuses exactly when Linux' would, or when
    /// the memory is too broken up.
    #[test]
    fn reservations_do_not_overlap(steps in prop::collection::vec(step(), 0..200)) {
        let map = ring(ROOM, 1);
        let memory = map.values().size();
        let mut open: Vec<(usize, usize)> = Vec::new();
        let mut submitted: Vec<usize> = Vec::new();
        for step in steps {
            match step {
                Step::Reserve(length) => {
                    let lengths = open.iter().map(|&(_, length)| length).chain(submitted.clone());
                    let used: u64 = lengths.map(size).sum();
                    let result = records(&map).reserve(0, length, memory);
                    if let Ok(offset) = result {
                        prop_assert!(used + size(length) <= ROOM.into());
                        prop_assert!(offset % 8 == 0 && offset + length <= memory);
                        for &(other, other_length) in &open {
                            let apart = other + other_length <= offset || offset + length <= other;
                            prop_assert!(apart && other != offset);
                        }
                        open.push((offset, length));
                    } else if used + size(length) <= ROOM.into() {
                        let end = open.iter().map(|&(offset, length)| offset + length.max(1)).max();
                        let end = end.unwrap_or(0).next_multiple_of(8);
                        prop_assert!(open.len() == 8 || end + length.max(1) > memory);
                    }
                }
                Step::Release(number) if number < open.len() => {
                    let (offset, length) = open.remove(number);
                    prop_assert_eq!(records(&map).release(0, offset), Some(length));
                    submitted.push(length);
                }
                Step::Release(_) => {}
                Step::Read => {
                    if let Some(length) = submitted.pop() {
                        map.has_been_read(length);
                    }
                }
            }
            let lengths = open.iter().map(|&(_, length)| length).chain(submitted.clone());
            prop_assert_eq!(records(&map).unread(), lengths.map(size).sum::<u64>());
        }
    }
}
