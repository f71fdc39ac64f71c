//! LRU hash maps.

use super::*;

fn shown(map: &Map) -> BTreeMap<u32, u64> {
    entries(map)
        .into_iter()
        .map(|(key, _, value)| (key, value))
        .collect()
}

#[test]
fn a_full_map_takes_new_keys() {
    let map = allocate(map(MapKind::LruHash, 4), 1);
    for key in 0..100 {
        assert_eq!(put(&map, key, key.into()), Ok(()));
        assert_eq!(get(&map, key, 0), Ok(key.into()), "the newest is there");
        assert_eq!(map.len(), 4.min(key as usize + 1));
    }
}

#[test]
fn what_programs_look_up_stays() {
    let map = allocate(map(MapKind::LruHash, 16), 1);
    put(&map, 1000, 1).expect("there is room");
    for key in 0..200 {
        map.place(&1000_u32.to_le_bytes(), 0).expect("it is used");
        put(&map, key, 0).expect("an unused one makes room");
    }
    assert_eq!(get(&map, 1000, 0), Ok(1));
}

#[test]
fn what_the_debugger_looks_up_may_go() {
    let map = allocate(map(MapKind::LruHash, 4), 1);
    put(&map, 1000, 1).expect("there is room");
    for key in 0..4 {
        assert_eq!(get(&map, 1000, 0), Ok(1));
        put(&map, key, 0).expect("there is room, or an entry makes some");
    }
    assert_eq!(get(&map, 1000, 0), Err(MapError::NotFound));
}

#[test]
fn colliding_keys_push_each_other_out() {
    // One bucket of a map of so many entries cannot hold them all: chains are bounded.
    let map = allocate(map(MapKind::LruHash, 1024), 1);
    let Index::Hash(index) = &map.index else {
        panic!("it is a hash map");
    };
    let colliding = (0_u32..).filter(|key| index.bucket(&key.to_le_bytes()) == 0);
    for key in colliding.take(100) {
        assert_eq!(put(&map, key, 7), Ok(()));
        assert_eq!(get(&map, key, 0), Ok(7));
    }
    assert!((2..100).contains(&map.len()));
}

/// CPUs that fill a small map with keys of their own leave it whole: no entry is lost, none has two
/// keys, and no value belongs to another key.
#[test]
fn several_cpus_evict_at_once() {
    let map = allocate(map(MapKind::LruHash, 8), 4);
    thread::scope(|scope| {
        for cpu in 0..4_u32 {
            let map = &map;
            scope.spawn(move || {
                for round in 0..5_000 {
                    let key = cpu * 10_000 + round;
                    let result = put(map, key, key.into());
                    assert!(matches!(result, Ok(()) | Err(MapError::Contended)));
                    if let Ok(value) = get(map, key, 0) {
                        assert!(value <= 40_000);
                    }
                }
            });
        }
    });
    let left = shown(&map);
    assert!(left.iter().all(|(&key, &value)| u64::from(key) == value));
    // Every entry is still either in a bucket or free: the map can be filled again.
    for key in 50_000..50_008 {
        put(&map, key, 0).expect("nobody else is here");
    }
    assert_eq!(map.len(), 8);
}

proptest! {
    /// What is in the map is what was put in last, and it is full once it had to be.
    #[test]
    fn it_is_a_map_that_forgets(steps in prop::collection::vec(step(), 0..300)) {
        const ROOM: usize = 6;
        let map = allocate(map(MapKind::LruHash, ROOM as u32), 1);
        let mut model = BTreeMap::new();
        for step in steps {
            let before = map.len();
            match step {
                Step::Put(key, value) => {
                    let is_new = get(&map, key, 0).is_err();
                    prop_assert_eq!(put(&map, key, value), Ok(()));
                    prop_assert_eq!(get(&map, key, 0), Ok(value));
                    prop_assert_eq!(map.len(), ROOM.min(before + usize::from(is_new)));
                    model.insert(key, value);
                }
                Step::Delete(key) => {
                    let was_there = get(&map, key, 0).is_ok();
                    prop_assert_eq!(map.delete(&key.to_le_bytes()).is_ok(), was_there);
                    model.remove(&key);
                }
                Step::Get(key) => {
                    if let Ok(value) = get(&map, key, 0) {
                        prop_assert_eq!(model.get(&key), Some(&value));
                    }
                }
            }
        }
        for (key, value) in shown(&map) {
            prop_assert_eq!(model.get(&key), Some(&value));
        }
    }
}
