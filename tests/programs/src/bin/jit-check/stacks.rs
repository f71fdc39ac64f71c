//! What a program finds on its stack that may read what it has not written there: zeros.

use crate::Failure;
use crate::machine::Machine;
use crate::native::Linux;
use alloc::vec;
use alloc::vec::Vec;
use ebpf::asm::reg::{FP, R0, R1};
use ebpf::asm::{alu, exit, load, mov_imm, store};
use ebpf::insn::alu::OR;
use ebpf::insn::{CALL, Insn, PSEUDO_CALL};
use ebpf::linked::{Linked, ProgramDef};
use ebpf::{Context, Object};

/// Two places of a frame. Functions that call each other share 512 bytes.
const PLACES: [i16; 2] = [-8, -240];

/// Runs a program that fills its frames, and one of the same object that reads its own. Returns what the latter has
/// read, of the frame of the program and of that of a function of its.
pub fn left_over(compiler: &Linux) -> Result<[u64; 2], Failure> {
    let linked = Linked {
        name: "stacks".into(),
        license: "GPL".into(),
        programs: vec![
            with_function("fill", filling()),
            with_function("read", reading()),
            program("own", reading()),
        ],
        ..Linked::default()
    };
    let mut object = Object::load(&linked, 1).map_err(Failure::Load)?;
    object.compile(compiler);
    let context: Context = [0; size_of::<Context>() / 8];
    let mut results = [0; 4];
    for (result, name) in results.iter_mut().zip(["fill", "own", "fill", "read"]) {
        let program = object.program(name).expect("it has that program");
        let declined = program.declined().map(Failure::Compile);
        declined.map_or(Ok(()), Err)?;
        let ran = program.run(&context, &Machine::on_cpu(0));
        *result = ran.map_err(Failure::Run)?;
    }
    let [_, own, _, functions] = results;
    Ok([own, functions])
}

fn program(name: &str, insns: Vec<Insn>) -> ProgramDef {
    ProgramDef {
        name: name.into(),
        section: "kprobe/f".into(),
        insns,
        ..ProgramDef::default()
    }
}

/// A program that does `body` in its own frame and then in that of a function that it calls.
fn with_function(name: &str, body: Vec<Insn>) -> ProgramDef {
    let call = Insn {
        code: CALL,
        dst: 0,
        src: PSEUDO_CALL,
        off: 0,
        imm: 1,
    };
    let mut insns = body[..body.len() - 1].to_vec();
    insns.extend([call, exit()]);
    insns.extend(body);
    program(name, insns)
}

/// Fills both places of the frame.
fn filling() -> Vec<Insn> {
    let mut insns = vec![mov_imm(R0, -1)];
    insns.extend(PLACES.map(|end| store(FP, end, R0)));
    insns.push(exit());
    insns
}

/// Reads both places of the frame into r0.
fn reading() -> Vec<Insn> {
    let mut insns = vec![mov_imm(R0, 0)];
    insns.extend(
        PLACES
            .iter()
            .flat_map(|&end| [load(R1, FP, end), alu(OR, R0, R1)]),
    );
    insns.push(exit());
    insns
}
