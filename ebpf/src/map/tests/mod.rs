mod lru;
mod queue;
mod records;

use super::*;
use crate::testing::map;
use alloc::collections::BTreeMap;
use alloc::vec;
use proptest::prelude::*;
use std::thread;

fn allocate(definition: MapDef, cpus: usize) -> Map {
    definition
        .check()
        .expect("the definition should be possible");
    let shape = Shape::of(&definition, cpus);
    let arena = Arena::allocate(shape.bytes()).expect("there should be memory");
    Map::allocate(definition, cpus, &Arc::new(arena), 0).expect("there should be memory")
}

fn get(map: &Map, key: u32, cpu: usize) -> Result<u64, MapError> {
    let mut value = [0; 8];
    map.lookup(&key.to_le_bytes(), cpu, &mut value)?;
    Ok(u64::from_le_bytes(value))
}

fn put(map: &Map, key: u32, value: u64) -> Result<(), MapError> {
    map.update(&key.to_le_bytes(), 0, &value.to_le_bytes(), UpdateFlag::Any)
}

fn entries(map: &Map) -> Vec<(u32, Option<usize>, u64)> {
    let mut entries = Vec::new();
    map.for_each(&mut |entry| {
        let key = u32::from_le_bytes(entry.key.try_into().expect("a key has 4 bytes"));
        let value = u64::from_le_bytes(entry.value.try_into().expect("a value has 8 bytes"));
        entries.push((key, entry.cpu, value));
        true
    });
    entries
}

#[test]
fn an_array_has_all_its_entries_always() {
    let map = allocate(map(MapKind::Array, 3), 4);
    assert_eq!(put(&map, 2, 7), Ok(()));
    assert_eq!(get(&map, 2, 0), Ok(7));
    assert_eq!(get(&map, 3, 0), Err(MapError::NotFound));
    assert_eq!(put(&map, 3, 7), Err(MapError::OutOfRange));
    assert_eq!(map.delete(&[0; 4]), Err(MapError::Unsupported));
    let create = map.update(&[0; 4], 0, &[0; 8], UpdateFlag::NoExist);
    assert_eq!(create, Err(MapError::Exists));
    assert_eq!(entries(&map), [(0, None, 0), (1, None, 0), (2, None, 7)]);
}

#[test]
fn a_per_cpu_array_has_a_value_for_each_cpu() {
    let map = allocate(map(MapKind::PerCpuArray, 2), 3);
    assert_eq!(
        map.update(&1_u32.to_le_bytes(), 2, &[9; 8], UpdateFlag::Any),
        Ok(())
    );
    assert_eq!(get(&map, 1, 2), Ok(u64::from_le_bytes([9; 8])));
    assert_eq!(get(&map, 1, 1), Ok(0));
    assert_eq!(get(&map, 1, 3), Err(MapError::NoSuchCpu));
    assert_eq!(entries(&map).len(), 6);
    assert_eq!(entries(&map)[5], (1, Some(2), u64::from_le_bytes([9; 8])));
}

#[test]
fn a_per_cpu_hash_map_has_a_value_for_each_cpu() {
    for kind in [MapKind::PerCpuHash, MapKind::LruPerCpuHash] {
        let map = allocate(map(kind, 2), 3);
        let update = |key: u32, cpu, value: u64| {
            map.update(
                &key.to_le_bytes(),
                cpu,
                &value.to_le_bytes(),
                UpdateFlag::Any,
            )
        };
        assert_eq!(update(7, 2, 9), Ok(()));
        assert_eq!(
            [0, 1, 2].map(|cpu| get(&map, 7, cpu)),
            [Ok(0), Ok(0), Ok(9)]
        );
        assert_eq!(update(7, 0, 4), Ok(()));
        assert_eq!(
            [0, 1, 2].map(|cpu| get(&map, 7, cpu)),
            [Ok(4), Ok(0), Ok(9)]
        );
        assert_eq!(update(7, 3, 1), Err(MapError::NoSuchCpu));
        // Another key in the same memory begins with zeros.
        assert_eq!(map.delete(&7_u32.to_le_bytes()), Ok(()));
        assert_eq!(update(8, 1, 5), Ok(()));
        let expected = [(8, Some(0), 0), (8, Some(1), 5), (8, Some(2), 0)];
        assert_eq!(entries(&map), expected);
        let places = [0, 1, 2].map(|cpu| map.place(&8_u32.to_le_bytes(), cpu));
        assert!(
            places.is_sorted() && places.iter().all(Option::is_some),
            "{places:?}"
        );
    }
}

#[test]
fn a_map_that_nobody_can_fill_is_empty() {
    let definition = MapDef {
        value_size: 4,
        ..map(MapKind::CgroupArray, 4)
    };
    let map = allocate(definition, 2);
    let found = map.lookup(&[0; 4], 0, &mut [0; 4]);
    assert_eq!(found, Err(MapError::NotFound));
    let update = map.update(&[0; 4], 0, &[0; 4], UpdateFlag::Any);
    assert_eq!(update, Err(MapError::Unsupported));
    assert_eq!(map.delete(&[0; 4]), Err(MapError::NotFound));
    assert_eq!((map.len(), map.definition().memory(2)), (0, 0));
    assert!((0..64).all(|offset| map.values().end_of(offset).is_none()));
}

#[test]
fn maps_have_numbers_of_their_own() {
    let maps = [0; 3].map(|_| allocate(map(MapKind::Array, 1), 1));
    assert!(maps.is_sorted_by(|a, b| a.id() < b.id()));
}

#[test]
fn a_hash_map_obeys_its_flags_and_its_size() {
    let map = allocate(map(MapKind::Hash, 2), 1);
    let update = |key: u32, flag| map.update(&key.to_le_bytes(), 0, &[1; 8], flag);
    assert_eq!(update(1, UpdateFlag::Exist), Err(MapError::NotFound));
    assert_eq!(update(1, UpdateFlag::NoExist), Ok(()));
    assert_eq!(update(1, UpdateFlag::NoExist), Err(MapError::Exists));
    assert_eq!(update(1, UpdateFlag::Exist), Ok(()));
    assert_eq!(update(2, UpdateFlag::Any), Ok(()));
    assert_eq!(update(3, UpdateFlag::Any), Err(MapError::Full));
    assert_eq!(map.delete(&1_u32.to_le_bytes()), Ok(()));
    assert_eq!(map.delete(&1_u32.to_le_bytes()), Err(MapError::NotFound));
    assert_eq!(update(3, UpdateFlag::Any), Ok(()));
}

#[test]
fn keys_and_values_of_the_wrong_size_are_refused() {
    let map = allocate(map(MapKind::Hash, 2), 1);
    assert_eq!(
        map.lookup(&[0; 3], 0, &mut [0; 8]),
        Err(MapError::WrongSize)
    );
    assert_eq!(
        map.lookup(&[0; 4], 0, &mut [0; 7]),
        Err(MapError::WrongSize)
    );
    assert_eq!(
        map.update(&[0; 5], 0, &[0; 8], UpdateFlag::Any),
        Err(MapError::WrongSize)
    );
    assert_eq!(map.delete(&[]), Err(MapError::WrongSize));
}

#[test]
fn a_frozen_map_keeps_what_it_started_with() {
    let definition = MapDef {
        value_size: 3,
        max_entries: 1,
        mutability: Mutability::Frozen,
        initial: vec![1, 2, 3],
        ..map(MapKind::Array, 1)
    };
    let map = allocate(definition, 1);
    let mut value = [0; 3];
    assert_eq!(
        map.update(&[0; 4], 0, &[0; 3], UpdateFlag::Any),
        Err(MapError::Frozen)
    );
    assert_eq!(map.lookup(&[0; 4], 0, &mut value), Ok(()));
    assert_eq!(value, [1, 2, 3]);
}

#[test]
fn impossible_definitions_are_refused() {
    let array = || map(MapKind::Array, 1);
    let cases = [
        (
            MapDef {
                key_size: 8,
                ..array()
            },
            MapDefError::KeySize(8),
        ),
        (
            MapDef {
                key_size: 0,
                ..map(MapKind::Hash, 1)
            },
            MapDefError::KeySize(0),
        ),
        (
            MapDef {
                key_size: 257,
                ..map(MapKind::Hash, 1)
            },
            MapDefError::KeySize(257),
        ),
        (
            MapDef {
                value_size: 0,
                ..array()
            },
            MapDefError::ValueSize(0),
        ),
        (
            MapDef {
                value_size: u32::MAX,
                ..array()
            },
            MapDefError::ValueSize(u32::MAX),
        ),
        (
            MapDef {
                max_entries: 0,
                ..array()
            },
            MapDefError::MaxEntries(0),
        ),
        (
            MapDef {
                initial: vec![0; 7],
                ..array()
            },
            MapDefError::Initial,
        ),
        (
            MapDef {
                initial: vec![0; 8],
                ..map(MapKind::Hash, 1)
            },
            MapDefError::Initial,
        ),
    ];
    for (definition, error) in cases {
        assert_eq!(definition.check(), Err(error));
    }
}

#[test]
fn values_of_different_cpus_share_no_cache_line() {
    let map = allocate(map(MapKind::PerCpuArray, 3), 4);
    let place = |index, cpu| map.values().at(index, cpu);
    assert_eq!(place(2, 0), Some(16));
    assert_eq!(place(0, 1), Some(64));
    assert_eq!((place(3, 0), place(0, 4)), (None, None));
}

#[test]
fn several_cpus_share_a_hash_map_while_it_is_dumped() {
    let map = allocate(map(MapKind::Hash, 64), 4);
    // Key 1000 is there all the time: every dump must show it once.
    put(&map, 1000, 1).expect("there is room");
    thread::scope(|scope| {
        for cpu in 0..3_u32 {
            let map = &map;
            scope.spawn(move || {
                for round in 0..2_000 {
                    let key = cpu * 100 + round % 7;
                    put(map, key, key.into()).expect("21 keys fit");
                    assert_eq!(get(map, key, 0), Ok(key.into()));
                    map.delete(&key.to_le_bytes())
                        .expect("nobody else deletes it");
                }
            });
        }
        scope.spawn(|| {
            for _ in 0..200 {
                let entries = entries(&map);
                assert_eq!(
                    entries
                        .iter()
                        .filter(|&&entry| entry == (1000, None, 1))
                        .count(),
                    1
                );
                assert!(
                    entries
                        .iter()
                        .all(|&(key, _, value)| key == 1000 || value == key.into())
                );
            }
        });
    });
    assert_eq!(entries(&map), [(1000, None, 1)]);
}

#[derive(Clone, Debug)]
enum Step {
    Put(u32, u64),
    Delete(u32),
    Get(u32),
}

fn step() -> impl Strategy<Value = Step> {
    let key = 0..12_u32;
    prop_oneof![
        (key.clone(), any::<u64>()).prop_map(|(key, value)| Step::Put(key, value)),
        key.clone().prop_map(Step::Delete),
        key.prop_map(Step::Get),
    ]
}

proptest! {
    #[test]
    fn a_hash_map_is_a_map(steps in prop::collection::vec(step(), 0..200)) {
        const ROOM: usize = 8;
        let map = allocate(map(MapKind::Hash, ROOM as u32), 1);
        let mut model = BTreeMap::new();
        for step in steps {
            match step {
                Step::Put(key, value) => {
                    let fits = model.len() < ROOM || model.contains_key(&key);
                    let expected = if fits { Ok(()) } else { Err(MapError::Full) };
                    prop_assert_eq!(put(&map, key, value), expected);
                    if fits {
                        model.insert(key, value);
                    }
                }
                Step::Delete(key) => {
                    let deleted = map.delete(&key.to_le_bytes()).is_ok();
                    prop_assert_eq!(deleted, model.remove(&key).is_some());
                }
                Step::Get(key) => {
                    prop_assert_eq!(get(&map, key, 0).ok(), model.get(&key).copied());
                }
            }
        }
        let mut shown: Vec<_> = entries(&map).iter().map(|&(key, _, value)| (key, value)).collect();
        shown.sort_unstable();
        prop_assert_eq!(shown, model.into_iter().collect::<Vec<_>>());
    }

    /// Every byte of a value knows where the value ends, and no other byte does.
    #[test]
    fn places_are_inside_values(
        value_size in 1..40_u32, max_entries in 1..5_u32, cpus in 1..4_usize, per_cpu: bool,
    ) {
        let kind = if per_cpu { MapKind::PerCpuArray } else { MapKind::Array };
        let map = allocate(MapDef { value_size, ..map(kind, max_entries) }, cpus);
        let values = map.values();
        let size = values.shape().bytes();
        let mut model = vec![None; size + 16];
        for entry in 0..max_entries as usize {
            for cpu in 0..cpus {
                let start = values.at(entry, cpu).expect("it is there");
                let end = start + value_size as usize;
                model[start..end].fill(Some(end));
            }
        }
        for (offset, end) in model.into_iter().enumerate() {
            prop_assert_eq!(values.end_of(offset), end);
        }
    }

    #[test]
    fn long_keys_differ_in_every_byte(key: [u8; 19], at in 0..19_usize) {
        let map = allocate(MapDef { key_size: 19, ..map(MapKind::Hash, 4) }, 1);
        let mut other = key;
        other[at] ^= 1;
        map.update(&key, 0, &[1; 8], UpdateFlag::Any).expect("there is room");
        prop_assert_eq!(map.lookup(&other, 0, &mut [0; 8]), Err(MapError::NotFound));
        prop_assert_eq!(map.lookup(&key, 0, &mut [0; 8]), Ok(()));
    }
}
