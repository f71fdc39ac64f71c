use super::*;
use proptest::prelude::*;

fn call(task: u64, sp: u64, time_ns: u64) -> Call {
    Call {
        frame: Frame { task, sp },
        return_address: 0x1000 + time_ns,
        time_ns,
        watched: false,
    }
}

#[test]
fn recursion_returns_in_reverse() {
    let mut calls = Calls::new(4, Keep::Calls);
    for depth in 0..3 {
        assert_eq!(calls.enter(call(1, 0x4_0000 - 0x10 * depth, depth)), 0);
    }
    for depth in (0..3).rev() {
        let frame = Frame {
            task: 1,
            sp: 0x4_0000 - 0x10 * depth,
        };
        let (left, dropped) = calls.leave(frame);
        assert_eq!((left.map(|call| call.time_ns), dropped), (Some(depth), 0));
        assert_eq!(calls.leave(frame).0, None);
    }
}

#[test]
fn one_task_has_several_stacks() {
    // A task is in the function on its own stack, and an interrupt calls it on a higher one.
    let mut calls = Calls::new(4, Keep::Calls);
    assert_eq!(calls.enter(call(1, 0x4_0000, 1)), 0);
    assert_eq!(calls.enter(call(1, 0x8_0000, 2)), 0);
    let left = |calls: &mut Calls, sp| calls.leave(Frame { task: 1, sp }).0.unwrap().time_ns;
    assert_eq!(left(&mut calls, 0x8_0000), 2);
    assert_eq!(left(&mut calls, 0x4_0000), 1);
}

#[test]
fn the_oldest_makes_room() {
    let mut calls = Calls::new(2, Keep::Calls);
    let dropped: Vec<u64> = (1..=3)
        .map(|task| calls.enter(call(task, 0, task)))
        .collect();
    assert_eq!(dropped, [0, 0, 1]);
    let times: Vec<u64> = calls.by_age().iter().map(|call| call.time_ns).collect();
    assert_eq!(times, [2, 3]);
}

/// Of the right call, also where a place is used again.
#[test]
fn arguments_are_kept_where_they_are_wanted() {
    let given = |number: u64| core::array::from_fn(|index| 100 * number + index as u64);
    for (keep, is_kept) in [(Keep::Calls, false), (Keep::Arguments, true)] {
        let mut calls = Calls::new(2, keep);
        for task in 1..=3 {
            calls.enter(call(task, 0, task));
            calls.keep(&given(task));
        }
        let arguments = [1, 2, 3].map(|task| calls.arguments(Frame { task, sp: 0 }));
        let expected = [None, Some(given(2)), Some(given(3))];
        assert_eq!(arguments, if is_kept { expected } else { [None; 3] });
    }
}

#[derive(Clone, Debug)]
enum Operation {
    Enter { task: u64, sp: u64 },
    Leave { task: u64, sp: u64 },
}

fn operation() -> impl Strategy<Value = Operation> {
    // Few of each, in two blocks, so that chains and stacks are shared.
    let frame = || {
        (
            0..4_u64,
            (0..8_u64, 0..2_u64).prop_map(|(low, block)| block << 14 | low << 4),
        )
    };
    prop_oneof![
        3 => frame().prop_map(|(task, sp)| Operation::Enter { task, sp }),
        2 => frame().prop_map(|(task, sp)| Operation::Leave { task, sp }),
    ]
}

/// The same rules on a list in the order of age.
#[derive(Default)]
struct Model(Vec<Call>);

impl Model {
    fn retain(&mut self, keep: impl Fn(&Call) -> bool) -> u64 {
        let before = self.0.len();
        self.0.retain(keep);
        (before - self.0.len()) as u64
    }

    fn enter(&mut self, call: Call, capacity: usize) -> u64 {
        let frame = call.frame;
        let gone = |other: &Call| other.frame.same_stack(&frame) && other.frame.sp <= frame.sp;
        let mut dropped = self.retain(|other| !gone(other));
        if self.0.len() == capacity {
            self.0.remove(0);
            dropped += 1;
        }
        self.0.push(call);
        dropped
    }

    fn leave(&mut self, frame: Frame) -> (Option<Call>, u64) {
        let gone = |other: &Call| other.frame.same_stack(&frame) && other.frame.sp < frame.sp;
        let dropped = self.retain(|other| !gone(other));
        let position = self.0.iter().position(|call| call.frame == frame);
        (position.map(|position| self.0.remove(position)), dropped)
    }
}

proptest! {
    #[test]
    fn as_a_list_would_have_it(
        capacity in 1..8_usize,
        operations in prop::collection::vec(operation(), 0..100),
    ) {
        let mut calls = Calls::new(capacity, Keep::Calls);
        let mut model = Model::default();
        for (time, operation) in operations.iter().enumerate() {
            match *operation {
                Operation::Enter { task, sp } => {
                    let call = call(task, sp, time as u64);
                    prop_assert_eq!(calls.enter(call), model.enter(call, capacity));
                }
                Operation::Leave { task, sp } => {
                    let frame = Frame { task, sp };
                    prop_assert_eq!(calls.find(frame), model.0.iter().find(|call| call.frame == frame));
                    prop_assert_eq!(calls.leave(frame), model.leave(frame));
                }
            }
            prop_assert_eq!(&calls.by_age(), &model.0);
        }
        calls.clear();
        prop_assert_eq!(calls.by_age(), []);
    }
}
