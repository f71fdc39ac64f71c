//! Queues and stacks.

use super::*;
use alloc::collections::VecDeque;

fn definition(kind: MapKind, room: u32) -> MapDef {
    MapDef {
        key_size: 0,
        ..map(kind, room)
    }
}

fn push(map: &Map, value: u64, flag: PushFlag) -> Result<(), MapError> {
    map.push(&value.to_le_bytes(), flag)
}

fn pop(map: &Map) -> Result<u64, MapError> {
    let mut value = [0; 8];
    map.pop(&mut value)?;
    Ok(u64::from_le_bytes(value))
}

fn shown(map: &Map) -> Vec<u64> {
    let mut values = Vec::new();
    map.for_each(&mut |entry| {
        assert_eq!((entry.key, entry.cpu), (&[][..], None));
        values.push(u64::from_le_bytes(
            entry.value.try_into().expect("a value has 8 bytes"),
        ));
        true
    });
    values
}

#[test]
fn they_have_no_keys() {
    let queue = allocate(definition(MapKind::Queue, 2), 1);
    assert_eq!(queue.delete(&[]), Err(MapError::Unsupported));
    let update = queue.update(&[], 0, &[0; 8], UpdateFlag::Any);
    assert_eq!(update, Err(MapError::Unsupported));
    assert_eq!(queue.push(&[0; 7], PushFlag::Any), Err(MapError::WrongSize));
    let hash = allocate(map(MapKind::Hash, 2), 1);
    assert_eq!(hash.pop(&mut [0; 8]), Err(MapError::Unsupported));
    assert_eq!(queue.place(&[], 0), None);
}

/// No value is lost, none comes twice, and those of one CPU come in their order.
#[test]
fn several_cpus_share_a_queue() {
    const EACH: u64 = 5_000;
    let queue = allocate(definition(MapKind::Queue, 16), 4);
    let taken = thread::scope(|scope| {
        for cpu in 0..2 {
            let queue = &queue;
            scope.spawn(move || {
                for number in 0..EACH {
                    while push(queue, cpu << 32 | number, PushFlag::Any).is_err() {
                        thread::yield_now();
                    }
                }
            });
        }
        let taker = || {
            let mut taken: Vec<u64> = Vec::new();
            while taken.len() < EACH as usize {
                match pop(&queue) {
                    Ok(value) => taken.push(value),
                    Err(_) => thread::yield_now(),
                }
            }
            for cpu in 0..2 {
                assert!(
                    taken
                        .iter()
                        .filter(|&&value| value >> 32 == cpu)
                        .is_sorted()
                );
            }
            taken
        };
        let takers = [scope.spawn(taker), scope.spawn(taker)];
        let mut taken = takers
            .map(|taker| taker.join().expect("a taker does not fail"))
            .concat();
        taken.sort_unstable();
        taken
    });
    let all: Vec<u64> = (0..2)
        .flat_map(|cpu| (0..EACH).map(move |number| cpu << 32 | number))
        .collect();
    assert_eq!(taken, all);
}

#[derive(Clone, Debug)]
enum Step {
    Push(u64, PushFlag),
    Pop,
    Peek,
}

fn step() -> impl Strategy<Value = Step> {
    let flag = prop::sample::select(vec![PushFlag::Any, PushFlag::Replace]);
    prop_oneof![
        (any::<u64>(), flag).prop_map(|(value, flag)| Step::Push(value, flag)),
        Just(Step::Pop),
        Just(Step::Peek),
    ]
}

proptest! {
    #[test]
    fn they_are_queues_and_stacks(
        steps in prop::collection::vec(step(), 0..200), room in 1..6_usize, is_stack: bool,
    ) {
        let kind = if is_stack { MapKind::Stack } else { MapKind::Queue };
        let map = allocate(definition(kind, room as u32), 2);
        // The oldest is in front.
        let mut model = VecDeque::new();
        for step in steps {
            let next = if is_stack { model.back() } else { model.front() };
            let next = next.copied().ok_or(MapError::NotFound);
            match step {
                Step::Push(value, flag) => {
                    let fits = model.len() < room || flag == PushFlag::Replace;
                    let expected = if fits { Ok(()) } else { Err(MapError::Full) };
                    prop_assert_eq!(push(&map, value, flag), expected);
                    if fits {
                        model.push_back(value);
                        if model.len() > room {
                            model.pop_front();
                        }
                    }
                }
                Step::Pop => {
                    prop_assert_eq!(pop(&map), next);
                    if is_stack { model.pop_back() } else { model.pop_front() };
                }
                Step::Peek => {
                    let mut value = [0; 8];
                    let peeked = map.peek(&mut value).map(|()| u64::from_le_bytes(value));
                    prop_assert_eq!(peeked, next);
                    let looked_up = map.lookup(&[], 0, &mut value);
                    prop_assert_eq!(looked_up.map(|()| u64::from_le_bytes(value)), next);
                }
            }
            prop_assert_eq!(map.len(), model.len());
        }
        let mut expected: Vec<u64> = model.into_iter().collect();
        if is_stack {
            expected.reverse();
        }
        prop_assert_eq!(shown(&map), expected);
    }
}
