//! What an instruction of a program costs, by the interpreter and compiled.
//!
//! A mix is a body of instructions. A program that has it a few times is measured, and one that has it more often: the
//! difference, by the instructions that are executed between, is free of what a hit and a run cost.

use super::tiny::Bench;
use super::{Page, Sample, Unit, Wanted};
use crate::remote::{Remote, Upload};
use anyhow::{Context, Result, ensure};
use ebpf::asm::reg::{FP, R0, R1, R2, R3, R4, R5, R6};
use ebpf::asm::{
    alu, alu_imm, call, exit, jump_imm, load, map, map_value, mov, mov_imm, store, store_imm32,
};
use ebpf::helper::Helper;
use ebpf::insn::alu::{ADD, AND, ARSH, LSH, MUL, OR, RSH, SUB, XOR};
use ebpf::insn::{CALL, Insn, PSEUDO_CALL, class, jmp};
use ebpf::linked::Linked;
use ebpf::map::{MapDef, MapKind};

/// How often the two programs of a mix have its body.
const TIMES: [usize; 2] = [1, 9];

/// The ways to run a program, and the words of the hypervisor's command line.
const WAYS: [(&str, &str); 2] = [("interpreter", "jit=off"), ("jit", "")];

/// Instructions of one kind.
struct Mix {
    name: &'static str,
    body: fn() -> Vec<Insn>,
    /// How many instructions are executed where the body is: a wide one is one, and subprograms count.
    executed: usize,
}

const MIXES: [Mix; 4] = [
    Mix {
        name: "alu",
        body: arithmetic,
        executed: 16,
    },
    Mix {
        name: "memory",
        body: memory,
        executed: 16,
    },
    Mix {
        name: "map",
        body: lookups,
        executed: 13,
    },
    Mix {
        name: "call",
        body: calls,
        executed: 8,
    },
];

/// 64 and 32 bits, registers and immediates.
fn arithmetic() -> Vec<Insn> {
    let narrow = |insn: Insn| Insn {
        code: insn.code & !class::ALU64 | class::ALU,
        ..insn
    };
    vec![
        alu(ADD, R2, R3),
        alu(XOR, R3, R2),
        alu(MUL, R4, R2),
        alu(SUB, R5, R4),
        alu_imm(AND, R5, 0xff),
        alu(OR, R2, R5),
        alu_imm(LSH, R3, 7),
        alu_imm(RSH, R4, 3),
        alu_imm(ARSH, R5, 1),
        alu_imm(ADD, R2, 1000),
        mov(R4, R2),
        mov_imm(R5, 5),
        narrow(alu(ADD, R2, R3)),
        narrow(alu(XOR, R3, R2)),
        narrow(alu_imm(LSH, R4, 2)),
        narrow(alu_imm(OR, R5, 3)),
    ]
}

/// The stack and the value of a map, to which R6 points.
fn memory() -> Vec<Insn> {
    let pairs = (1..=4_i16).flat_map(|word| {
        let (stack, value) = (-8 * word, 8 * word);
        [
            store(FP, stack, R2),
            load(R3, FP, stack),
            store(R6, value, R2),
            load(R4, R6, value),
        ]
    });
    pairs.collect()
}

/// A value of an array that is there, and one of a hash map that is not.
fn lookups() -> Vec<Insn> {
    [0, 1].into_iter().flat_map(lookup).collect()
}

fn lookup(number: i32) -> Vec<Insn> {
    let mut body = vec![store_imm32(FP, -4, 0)];
    body.extend(map(R1, number));
    body.extend([
        mov(R2, FP),
        alu_imm(ADD, R2, -4),
        call(Helper::MapLookupElem),
        jump_imm(jmp::JEQ, R0, 0, 1),
        load(R3, R0, 0),
    ]);
    body
}

/// Two helpers, of which one is inlined, and a subprogram of two instructions twice.
fn calls() -> Vec<Insn> {
    let subprogram = Insn {
        src: PSEUDO_CALL,
        ..call(Helper::KtimeGetNs)
    };
    vec![
        call(Helper::KtimeGetNs),
        subprogram,
        call(Helper::GetSmpProcessorId),
        subprogram,
    ]
}

impl Mix {
    fn id(&self, way: &str) -> String {
        format!("ebpf.{way}.{}", self.name)
    }

    /// A program that has the body `times` times, and a subprogram.
    fn program(&self, times: usize) -> Result<Linked> {
        let mut linked = ebpf::builtin::linked("count").context("there is no built-in `count`")?;
        let array = MapDef {
            value_size: 64,
            ..linked.maps[0].clone()
        };
        let hash = MapDef {
            name: "hash".into(),
            kind: MapKind::Hash,
            ..array.clone()
        };
        let mut insns = map_value(R6, 0, 0).to_vec();
        insns.extend([R2, R3, R4, R5].map(|register| mov_imm(register, 0x1234)));
        for _ in 0..times {
            insns.extend((self.body)());
        }
        insns.extend([mov_imm(R0, 0), exit()]);
        let subprogram = insns.len();
        let mut is_called = false;
        for (index, insn) in insns.iter_mut().enumerate() {
            if insn.code == CALL && insn.src == PSEUDO_CALL {
                insn.imm = (subprogram - index - 1) as i32;
                is_called = true;
            }
        }
        if is_called {
            insns.extend([mov_imm(R0, 1), exit()]);
        }
        linked.maps = vec![array, hash];
        linked.programs[0].insns = insns;
        Ok(linked)
    }

    /// What an instruction of the mix costs.
    fn cost(&self, bench: &mut Bench) -> Result<Sample> {
        let mut costs = Vec::new();
        for times in TIMES {
            let name = format!("{}{times}", self.name);
            let mut client = Remote::attach(bench.machine().ports().vm(1))?;
            let upload = client.put(&format!("{name}.lp"), &self.program(times)?.encode()?)?;
            ensure!(
                upload == Upload::Loaded,
                "{}",
                client.monitor("trace progs")?
            );
            ensure!(client.ask("D")? == "OK", "detach");
            drop(client);
            costs.push(bench.simulated(&name)?);
        }
        let executed = (self.executed * (TIMES[1] - TIMES[0])) as f64;
        let between = costs[1].above(costs[0].median());
        Ok(between.map(|cost| cost / executed))
    }
}

/// A mix of instructions, and what one of them costs.
pub struct MixCost {
    /// What they do, as in the ids of rows.
    pub mix: &'static str,
    /// A64 instructions for one, by the interpreter.
    pub interpreted: f64,
    /// The same, compiled.
    pub compiled: f64,
}

/// Measures what the tests bound: arithmetic and memory, by instructions.
pub fn mixes() -> Result<Vec<MixCost>> {
    let costs_of = |words: &str| -> Result<Vec<f64>> {
        let mut bench = Bench::boot_with(Unit::Instructions, words)?;
        let costs = MIXES[..2].iter().map(|mix| mix.cost(&mut bench));
        costs.map(|cost| Ok(cost?.median())).collect()
    };
    let [interpreted, compiled] = [costs_of(WAYS[0].1)?, costs_of(WAYS[1].1)?];
    let both = interpreted.into_iter().zip(compiled);
    let named = MIXES.iter().zip(both);
    Ok(named
        .map(|(mix, (interpreted, compiled))| MixCost {
            mix: mix.name,
            interpreted,
            compiled,
        })
        .collect())
}

/// Measures what is wanted, by instructions and by time.
pub(super) fn measure(
    wanted: &Wanted<'_>,
    page: &mut Page,
    say: &mut dyn FnMut(&str),
) -> Result<()> {
    for unit in [Unit::Instructions, Unit::Ns] {
        for (way, words) in WAYS {
            let mixes = || MIXES.iter().filter(|mix| wanted.has(&mix.id(way)));
            if mixes().next().is_none() {
                continue;
            }
            let mut bench = Bench::boot_with(unit, words)?;
            for mix in mixes() {
                let id = mix.id(way);
                say(&id);
                let cost = mix.cost(&mut bench).with_context(|| id.clone())?;
                page.add(&id, unit, &cost, None);
            }
        }
    }
    Ok(())
}
