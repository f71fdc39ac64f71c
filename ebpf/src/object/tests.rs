use super::*;
use crate::asm::reg::{FP, R0};
use crate::asm::{self, exit, map_value, mov_imm};
use crate::map::{MapDef, MapKind};
use crate::testing::{FakeHost, context, linked, load, map, program};
use alloc::string::ToString;
use alloc::vec;
use std::thread;

#[test]
fn maps_share_a_quota() {
    let large = |name: &str| MapDef {
        name: name.into(),
        value_size: 1 << 20,
        ..map(MapKind::Array, 9)
    };
    let refused = linked(&[mov_imm(0, 0), exit()], &[large("a"), large("b")]);
    let error = Object::load(&refused, 1).expect_err("18 MiB is too much");
    assert_eq!(
        error,
        LoadError::Quota {
            needed: 18 << 20,
            quota: MAP_QUOTA,
        }
    );
    let per_cpu = MapDef {
        value_size: 1 << 20,
        ..map(MapKind::PerCpuArray, 1)
    };
    let refused = linked(&[mov_imm(0, 0), exit()], &[per_cpu]);
    assert!(Object::load(&refused, 16).is_ok());
    assert_eq!(
        Object::load(&refused, 17).err(),
        Some(LoadError::Quota {
            needed: 17 << 20,
            quota: MAP_QUOTA,
        })
    );
}

#[test]
fn the_largest_definitions_do_not_overflow() {
    let mut maps = vec![];
    for index in 0..crate::linked::MAX_MAPS {
        maps.push(MapDef {
            name: index.to_string(),
            value_size: crate::map::MAX_VALUE_SIZE,
            ..map(MapKind::PerCpuArray, crate::map::MAX_ENTRIES)
        });
    }
    let refused = linked(&[mov_imm(0, 0), exit()], &maps);
    assert!(matches!(
        Object::load(&refused, MAX_CPUS),
        Err(LoadError::Quota { .. })
    ));
}

#[test]
fn the_number_of_cpus_is_checked() {
    let linked = linked(&[mov_imm(0, 0), exit()], &[]);
    assert_eq!(Object::load(&linked, 0).err(), Some(LoadError::Cpus(0)));
    assert_eq!(Object::load(&linked, 65).err(), Some(LoadError::Cpus(65)));
}

#[test]
fn maps_of_a_kind_that_is_not_implemented_are_refused_by_name() {
    let inner = MapDef {
        name: "inner".into(),
        value_size: 4,
        ..map(MapKind::ArrayOfMaps, 4096)
    };
    let refused = linked(&[mov_imm(0, 0), exit()], &[inner]);
    let error = Object::load(&refused, 1).expect_err("there is nothing to run it");
    let expected = "map inner: maps of kind array_of_maps are not supported";
    assert_eq!(error.to_string(), expected);
}

#[test]
fn one_bad_program_refuses_the_object() {
    let mut linked = linked(&[mov_imm(0, 0), exit()], &[]);
    linked.programs.push(program(&[mov_imm(0, 0)]));
    linked.programs[1].name = "other".into();
    assert!(matches!(
        Object::load(&linked, 1),
        Err(LoadError::Verify(_))
    ));
}

#[test]
fn several_cpus_run_one_program() {
    let mut insns = Vec::from(map_value(1, 0, 0));
    insns.extend([
        mov_imm(2, 1),
        crate::asm::atomic_add(1, 0, 2),
        mov_imm(0, 0),
        exit(),
    ]);
    let object = load(&insns, &[map(MapKind::Array, 1)]);
    thread::scope(|scope| {
        for cpu in 0..4 {
            let program = &object.programs()[0];
            scope.spawn(move || {
                let host = FakeHost::on_cpu(cpu);
                for _ in 0..1000 {
                    program.run(&context(), &host).expect("it should run");
                }
            });
        }
    });
    let mut value = [0; 8];
    object.maps()[0]
        .lookup(&[0; 4], 0, &mut value)
        .expect("the array has an entry 0");
    assert_eq!(u64::from_le_bytes(value), 4000);
}

#[test]
fn a_stack_that_is_read_before_it_is_written_holds_zeros() {
    let insns = [asm::load(R0, FP, -16), asm::store_imm(FP, -16, 7), exit()];
    let object = Object::load(&linked(&insns, &[]), 1).expect("reading the stack is allowed");
    let run = || object.programs()[0].run(&context(), &FakeHost::new());
    assert_eq!([run(), run()], [Ok(0), Ok(0)]);
}
