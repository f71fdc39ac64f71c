use super::*;
use crate::testing::{FakeHost, context};
use alloc::string::ToString;

fn number(object: &Object, map: &str, index: u32) -> u64 {
    let mut value = [0; 8];
    let map = object.map(map).expect("the object should have that map");
    map.lookup(&index.to_le_bytes(), 0, &mut value)
        .expect("the index should be in range");
    u64::from_le_bytes(value)
}

#[test]
fn every_builtin_loads_and_has_one_program_of_its_name() {
    for name in NAMES {
        let object = load(name, 4).expect("a built-in program should be accepted");
        assert_eq!(object.name(), *name);
        assert_eq!(object.programs().len(), 1);
        assert_eq!(object.programs()[0].name(), *name);
    }
}

#[test]
fn stop_stops_and_the_others_go() {
    for name in NAMES {
        let object = load(name, 1).expect("a built-in program should be accepted");
        let result = object.programs()[0].run(&context(), &FakeHost::new());
        assert_eq!(result, Ok(u64::from(*name == "stop")));
    }
}

#[test]
fn count_counts() {
    let object = load("count", 2).expect("a built-in program should be accepted");
    for cpu in [0, 1, 0] {
        object.programs()[0]
            .run(&context(), &FakeHost::on_cpu(cpu))
            .expect("it should run");
    }
    assert_eq!(number(&object, "count", 0), 3);
}

#[test]
fn args_stores_and_prints() {
    let object = load("args", 1).expect("a built-in program should be accepted");
    let host = FakeHost::new();
    object.programs()[0]
        .run(&context(), &host)
        .expect("it should run");
    assert_eq!(host.printed(), ["x0=0x100 x1=0x101 x2=0x102 x3=0x103"]);
    assert_eq!(
        [0, 1, 2, 3].map(|i| number(&object, "args", i)),
        [0x100, 0x101, 0x102, 0x103]
    );
}

#[test]
fn ret_prints_the_result_and_the_duration() {
    let object = load("ret", 1).expect("a built-in program should be accepted");
    let host = FakeHost::new();
    let run = || object.programs()[0].run(&context(), &host);
    run().expect("it should run");
    host.duration_ns.set(Some(1234));
    run().expect("it should run");
    let printed = ["x0=0x100 after 0 ns", "x0=0x100 after 1234 ns"];
    assert_eq!(host.printed(), printed);
}

#[test]
fn printk_prints() {
    let object = load("printk", 1).expect("a built-in program should be accepted");
    let host = FakeHost::new();
    object.programs()[0]
        .run(&context(), &host)
        .expect("it should run");
    assert_eq!(host.printed(), ["hit"]);
}

#[test]
fn an_unknown_name_is_answered_with_the_known_ones() {
    let error = load("cuont", 1).expect_err("there is no such program");
    assert_eq!(
        error.to_string(),
        "no such built-in program. There are stop count args ret printk"
    );
}
