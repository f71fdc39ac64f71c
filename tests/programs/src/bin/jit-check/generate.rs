//! Random programs of the kind that the verifier accepts: every register is written before it is read, every loop ends,
//! every access is in bounds and every pointer checked. On demand some do one thing that ends them.

use crate::machine::GUEST;
use crate::random::Random;
use alloc::vec::Vec;
use alloc::{format, vec};
use ebpf::asm::{
    self, alu, alu_imm, call, exit, load, mov, mov_imm, mov_imm64, store, store_imm32,
};
use ebpf::helper::Helper;
use ebpf::insn::{self, CALL, Insn, PSEUDO_CALL, X, atomic, class, jmp, mode, size};
use ebpf::linked::{Linked, ProgramDef};
use ebpf::map::{MapDef, MapKind, Mutability};

/// What a program may do.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Behaviour {
    /// Only what the verifier proves.
    Proved,
    /// Also accesses that fail.
    Faulty,
    /// Also loads from the guest, which only what the verifier has seen can do.
    ReadsGuest,
    /// Only what other kernels and their verifiers have as well: no maps and helpers of ours, every
    /// access to the stack and to the context aligned, no dead code.
    Anywhere,
}

/// Registers that hold numbers in every function.
const NUMBERS: [u8; 8] = [0, 1, 2, 3, 4, 5, 7, 8];
/// Holds the context in the first function, a number in others.
const CONTEXT: u8 = 6;
/// Holds the address of numbers: of the first value of map 0 in the first function, of its caller's
/// stack in one that a helper calls. A number in others.
const VALUE: u8 = 9;
const FP: u8 = 10;

/// Bytes of the stack that hold numbers, from its end: as many as of a value of map 0.
const STACK: i16 = 64;
/// A key.
const KEY: i16 = -72;
/// Counters of nested loops, downwards.
const COUNTERS: i16 = -80;
/// Bytes of the value of map 0.
const VALUE_SIZE: i16 = 64;

const ARRAY: i32 = 0;
const PER_CPU: i32 = 1;
const HASH: i32 = 2;
const TEXT: i32 = 3;
const MESSAGE: &[u8] = b"%d %llx %u\0";

/// Where programs are that tail calls lead to.
const NEXT: i32 = 4;
/// What is there: the second and the third program, the first, nothing.
const HELD: [u32; 4] = [2, 3, 1, 0];

/// Functions of a program at most.
const FUNCTIONS: usize = 4;
/// Programs, the first of which is run.
const PROGRAMS: usize = 3;

/// A program, others that it may go on with, and their maps.
pub fn linked(seed: u64, behaviour: Behaviour) -> Linked {
    let mut random = Random(seed);
    let names = ["random", "second", "third"];
    let programs: [ProgramDef; PROGRAMS] = names.map(|name| ProgramDef {
        name: name.into(),
        section: format!("seed/{seed}"),
        insns: program(Random(random.next()), behaviour),
        ..ProgramDef::default()
    });
    Linked {
        name: "random".into(),
        license: "GPL".into(),
        maps: maps(),
        programs: programs.into(),
        ..Linked::default()
    }
}

fn program(mut random: Random, behaviour: Behaviour) -> Vec<Insn> {
    let functions = 1 + random.below(FUNCTIONS as u64) as usize;
    let mut generator = Generator {
        random,
        behaviour,
        insns: Vec::new(),
        calls: Vec::new(),
        callbacks: Vec::new(),
        role: Role::First,
        function: 0,
        functions,
    };
    let mut entries = Vec::new();
    for function in 0..functions {
        generator.function = function;
        entries.push(generator.insns.len());
        generator.function();
        generator.role = Role::Called;
    }
    for (at, callee) in generator.calls.clone() {
        generator.insns[at].imm = entries[callee] as i32 - at as i32 - 1;
    }
    // These call nothing, so all that they are named by is known.
    for (at, role) in core::mem::take(&mut generator.callbacks) {
        generator.insns[at].imm = generator.insns.len() as i32 - at as i32 - 1;
        generator.role = role;
        generator.function();
    }
    generator.insns
}

fn maps() -> Vec<MapDef> {
    let map = |name: &str, kind, value_size, max_entries| MapDef {
        name: name.into(),
        kind,
        key_size: 4,
        value_size,
        max_entries,
        mutability: Mutability::Mutable,
        initial: Vec::new(),
    };
    vec![
        map("array", MapKind::Array, VALUE_SIZE as u32, 4),
        map("per_cpu", MapKind::PerCpuArray, 24, 3),
        map("hash", MapKind::Hash, 8, 8),
        MapDef {
            mutability: Mutability::Frozen,
            initial: MESSAGE.into(),
            ..map("text", MapKind::Array, MESSAGE.len() as u32, 1)
        },
        MapDef {
            initial: HELD.into_iter().flat_map(u32::to_le_bytes).collect(),
            ..map("next", MapKind::ProgArray, 4, HELD.len() as u32)
        },
    ]
}

const fn instruction(code: u8, dst: u8, src: u8, off: i16, imm: i32) -> Insn {
    Insn {
        code,
        dst,
        src,
        off,
        imm,
    }
}

/// What calls a function.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    /// Nothing: it is the program.
    First,
    /// Another function.
    Called,
    /// `bpf_loop`.
    Round,
    /// `bpf_for_each_map_elem`.
    Entry,
}

struct Generator {
    random: Random,
    behaviour: Behaviour,
    insns: Vec<Insn>,
    /// Calls of functions: where, and which.
    calls: Vec<(usize, usize)>,
    /// Addresses of functions that helpers call: where, and which helper.
    callbacks: Vec<(usize, Role)>,
    role: Role,
    /// The function that is being made, and how many there will be.
    function: usize,
    functions: usize,
}

impl Generator {
    fn put(&mut self, insns: &[Insn]) {
        self.insns.extend(insns);
    }

    fn number(&mut self) -> u8 {
        self.random.pick(&NUMBERS)
    }

    fn is_first(&self) -> bool {
        self.role == Role::First
    }

    /// Whether [`VALUE`] holds an address.
    fn has_value(&self) -> bool {
        self.role != Role::Called && self.behaviour != Behaviour::Anywhere
    }

    /// Gives everything a value, does something, and makes one number of all that could differ.
    fn function(&mut self) {
        match self.role {
            Role::First => {
                self.put(&[mov(CONTEXT, 1)]);
                if self.has_value() {
                    self.put(&asm::map_value(VALUE, ARRAY, 0));
                } else {
                    self.put(&[mov_imm(VALUE, 0)]);
                }
            }
            Role::Called => self.put(&[mov(CONTEXT, 2), mov(VALUE, 3)]),
            Role::Round => self.put(&[mov(CONTEXT, 1), mov(VALUE, 2)]),
            Role::Entry => {
                let word = class::LDX | mode::MEM | size::W;
                self.put(&[instruction(word, CONTEXT, 2, 0, 0), mov(VALUE, 4)]);
                self.put(&[asm::atomic_add(3, 0, CONTEXT), load(CONTEXT, 3, 0)]);
            }
        }
        for register in NUMBERS {
            let is_argument = self.role == Role::Called && (1..=5).contains(&register);
            if !is_argument {
                let value = self.random.number();
                self.put(&mov_imm64(register, value));
            }
        }
        for off in (-STACK..0).step_by(8) {
            let register = self.number();
            self.put(&[store(FP, off, register)]);
        }
        let most = match self.behaviour {
            // The verifier, which follows every path, is slow where an emulator runs it.
            Behaviour::ReadsGuest | Behaviour::Anywhere => 8,
            Behaviour::Proved | Behaviour::Faulty => 24,
        };
        let blocks = 4 + self.random.below(most);
        self.blocks(blocks, 0);
        if self.behaviour == Behaviour::Anywhere && self.function + 1 < self.functions {
            // A function that nothing calls is dead code.
            self.calls.push((self.insns.len(), self.function + 1));
            self.put(&[instruction(CALL, 0, PSEUDO_CALL, 0, 0)]);
            self.arguments_again();
        }
        for register in NUMBERS.into_iter().skip(1) {
            self.fold(register);
        }
        for off in (-STACK..0).step_by(8) {
            self.put(&[load(1, FP, off)]);
            self.fold(1);
        }
        if self.is_first() && self.behaviour == Behaviour::Anywhere {
            // Others give the low half of the result.
            self.put(&[mov(1, 0), alu_imm(insn::alu::RSH, 1, 32)]);
            self.put(&[alu(insn::alu::XOR, 0, 1)]);
        }
        if matches!(self.role, Role::Round | Role::Entry) {
            self.put(&[alu_imm(insn::alu::AND, 0, 1)]);
        }
        self.put(&[exit()]);
    }

    fn fold(&mut self, register: u8) {
        self.put(&[
            alu_imm(insn::alu::MUL, 0, 31),
            alu(insn::alu::XOR, 0, register),
        ]);
    }

    fn blocks(&mut self, count: u64, nesting: i16) {
        for _ in 0..count {
            self.block(nesting);
        }
    }

    fn block(&mut self, nesting: i16) {
        let kind = self.random.below(24);
        if self.behaviour == Behaviour::Anywhere && matches!(kind, 19 | 20) {
            return self.arithmetic();
        }
        match kind {
            0..8 => self.arithmetic(),
            8 => self.swap(),
            9 => {
                let [register, value] = [self.number() as u64, self.random.number()];
                self.put(&mov_imm64(register as u8, value));
            }
            10..14 => self.memory(),
            14 if self.behaviour != Behaviour::ReadsGuest => self.variable_offset(),
            15 => self.atomic(),
            16 | 17 => self.branch(nesting),
            18 if nesting < 3 => self.repeat(nesting),
            19 | 20 => self.helper(),
            21 if self.has_value() && self.is_first() && self.random.once_in(4) => self.tail_call(),
            21 if self.behaviour != Behaviour::Anywhere && self.random.once_in(2) => {
                self.call_back();
            }
            21 => self.subprogram(),
            22 if self.behaviour == Behaviour::Faulty && self.random.once_in(4) => self.fault(),
            17.. if self.behaviour == Behaviour::ReadsGuest => self.load_from_guest(),
            _ => self.arithmetic(),
        }
    }

    fn arithmetic(&mut self) {
        use insn::alu::*;
        let class = self.random.pick(&[class::ALU, class::ALU64]);
        let bits = if class == class::ALU { 32 } else { 64 };
        let operation = self.random.pick(&[
            ADD, SUB, MUL, DIV, OR, AND, LSH, RSH, NEG, MOD, XOR, MOV, ARSH,
        ]);
        let [dst, src] = [self.number(), self.number()];
        let by_register = operation != NEG && !self.random.once_in(2);
        let off = match operation {
            DIV | MOD => self.random.pick(&[0, 1]),
            MOV if by_register && bits == 64 => self.random.pick(&[0, 8, 16, 32]),
            MOV if by_register => self.random.pick(&[0, 8, 16]),
            _ => 0,
        };
        let imm = self.random.number() as i32;
        let imm = match operation {
            NEG => 0,
            LSH | RSH | ARSH => imm.rem_euclid(bits),
            DIV | MOD if imm == 0 => 3,
            _ => imm,
        };
        let code = class | operation;
        self.put(&[if by_register {
            instruction(code | X, dst, src, off, 0)
        } else {
            instruction(code, dst, 0, off, imm)
        }]);
    }

    fn swap(&mut self) {
        let end = insn::alu::END;
        let code = self
            .random
            .pick(&[class::ALU | end, class::ALU | end | X, class::ALU64 | end]);
        let bits = self.random.pick(&[16, 32, 64]);
        let register = self.number();
        self.put(&[instruction(code, register, 0, 0, bits)]);
    }

    /// A place in memory that holds numbers: its register, and an offset at which `bytes` fit.
    fn place(&mut self, bytes: i16) -> (u8, i16) {
        let is_value = self.has_value() && self.random.once_in(2);
        let room = if is_value { VALUE_SIZE } else { STACK };
        let off = self.random.below((room - bytes + 1) as u64) as i16;
        let off = self.aligned(off, bytes);
        if is_value {
            (VALUE, off)
        } else {
            (FP, off - STACK)
        }
    }

    /// The verifier wants offsets on the stack and in the context to be multiples of the size.
    fn aligned(&self, off: i16, bytes: i16) -> i16 {
        match self.behaviour {
            Behaviour::ReadsGuest | Behaviour::Anywhere => off & -bytes,
            _ => off,
        }
    }

    fn memory(&mut self) {
        let (width, bytes) =
            self.random
                .pick(&[(size::B, 1), (size::H, 2), (size::W, 4), (size::DW, 8)]);
        let register = self.number();
        let (base, off) = self.place(bytes);
        let imm = self.random.number() as i32;
        let insn = match self.random.below(5) {
            0 if self.is_first() => {
                let off = self.random.below(34 * 8 - bytes as u64 + 1) as i16;
                let off = self.aligned(off, bytes);
                instruction(class::LDX | mode::MEM | width, register, CONTEXT, off, 0)
            }
            1 if bytes < 8 => instruction(class::LDX | mode::MEMSX | width, register, base, off, 0),
            2 => instruction(class::STX | mode::MEM | width, base, register, off, 0),
            3 => instruction(class::ST | mode::MEM | width, base, 0, off, imm),
            _ => instruction(class::LDX | mode::MEM | width, register, base, off, 0),
        };
        self.put(&[insn]);
    }

    /// An access whose offset is a number of the program's.
    fn variable_offset(&mut self) {
        let (base, last) = if self.has_value() && self.random.once_in(2) {
            (VALUE, 0)
        } else {
            (FP, -STACK)
        };
        let [pointer, register] = [self.number(), self.number()];
        let off = last + self.random.below(STACK as u64 - 31 - 8) as i16;
        let off = self.aligned(off, 8);
        // An address is no number, elsewhere, and is not stored.
        let is_strict = self.behaviour == Behaviour::Anywhere;
        let access = if self.random.once_in(2) || is_strict && pointer == register {
            load(register, pointer, off)
        } else {
            store(pointer, off, register)
        };
        self.put(&[
            alu_imm(insn::alu::AND, pointer, if is_strict { 24 } else { 31 }),
            alu(insn::alu::ADD, pointer, base),
            access,
        ]);
        if is_strict {
            self.put(&[mov_imm(pointer, off.into())]);
        }
    }

    fn atomic(&mut self) {
        let operation = self.random.pick(&[
            atomic::ADD,
            atomic::OR,
            atomic::AND,
            atomic::XOR,
            atomic::ADD | atomic::FETCH,
            atomic::OR | atomic::FETCH,
            atomic::AND | atomic::FETCH,
            atomic::XOR | atomic::FETCH,
            atomic::XCHG,
            atomic::CMPXCHG,
        ]);
        let (width, bytes) = self.random.pick(&[(size::W, 4), (size::DW, 8)]);
        let register = self.number();
        let (base, off) = self.place(bytes);
        let off = off & !(bytes - 1);
        let code = class::STX | mode::ATOMIC | width;
        if operation == atomic::CMPXCHG && self.random.once_in(2) {
            // What is compared with is there: it is exchanged.
            let load = class::LDX | mode::MEM | width;
            self.put(&[instruction(load, 0, base, off, 0)]);
        }
        self.put(&[instruction(code, base, register, off, operation)]);
    }

    /// A jump over some blocks, on a condition or always.
    fn branch(&mut self, nesting: i16) {
        use jmp::*;
        let at = self.insns.len();
        let class = self.random.pick(&[class::JMP, class::JMP32]);
        let operation = self.random.pick(&[
            JEQ, JGT, JGE, JSET, JNE, JSGT, JSGE, JLT, JLE, JSLT, JSLE, JA,
        ]);
        let [dst, src] = [self.number(), self.number()];
        let imm = self.random.number() as i32;
        // What an unconditional jump passes over is dead.
        let jump = if operation == JA && self.behaviour != Behaviour::Anywhere {
            instruction(class, 0, 0, 0, 0)
        } else if self.random.once_in(2) || operation == JA {
            let operation = if operation == JA { JEQ } else { operation };
            instruction(class | operation | X, dst, src, 0, 0)
        } else {
            instruction(class | operation, dst, 0, 0, imm)
        };
        self.put(&[jump]);
        let blocks = self.random.below(5);
        self.blocks(blocks, nesting);
        let distance = self.insns.len() - at - 1;
        let jump = &mut self.insns[at];
        if jump.code == class::JMP32 | JA {
            jump.imm = distance as i32;
        } else {
            jump.off = distance as i16;
        }
    }

    /// Some blocks, a few times. The counter is on the stack.
    fn repeat(&mut self, nesting: i16) {
        let counter = COUNTERS - 8 * nesting;
        let rounds = 1 + self.random.below(6) as i32;
        self.put(&[asm::store_imm(FP, counter, rounds)]);
        let start = self.insns.len();
        let blocks = 1 + self.random.below(4);
        self.blocks(blocks, nesting + 1);
        let register = self.number();
        self.put(&[
            load(register, FP, counter),
            alu_imm(insn::alu::ADD, register, -1),
            store(FP, counter, register),
        ]);
        let distance = start as i64 - self.insns.len() as i64 - 1;
        let (operation, imm) = self
            .random
            .pick(&[(jmp::JNE, 0), (jmp::JSGT, 0), (jmp::JGE, 1)]);
        self.put(&[asm::jump_imm(operation, register, imm, distance as i16)]);
    }

    fn helper(&mut self) {
        match self.random.below(8) {
            0..3 => self.lookup(),
            3 => self.update(),
            4 => {
                let helper = self
                    .random
                    .pick(&[Helper::KtimeGetNs, Helper::GetSmpProcessorId]);
                self.put(&[call(helper)]);
            }
            5 => self.probe_read(),
            6 => {
                self.put(&asm::map_value(1, TEXT, 0));
                self.put(&[mov_imm(2, MESSAGE.len() as i32), call(Helper::TracePrintk)]);
            }
            _ => {
                self.key(HASH);
                self.put(&[call(Helper::MapDeleteElem)]);
            }
        }
        self.arguments_again();
    }

    /// r1 = a map, r2 = a key of it.
    fn key(&mut self, map: i32) {
        let key = self.random.below(6) as i32;
        self.put(&asm::map(1, map));
        if self.is_first() && self.random.once_in(3) {
            let value = self.random.below(VALUE_SIZE as u64 - 3) as i32;
            self.put(&[mov(2, VALUE), alu_imm(insn::alu::ADD, 2, value)]);
        } else {
            self.put(&[
                store_imm32(FP, KEY, key),
                mov(2, FP),
                alu_imm(insn::alu::ADD, 2, KEY.into()),
            ]);
        }
    }

    /// Changes a value if it is there.
    fn lookup(&mut self) {
        let map = self.random.pick(&[ARRAY, PER_CPU, HASH]);
        self.key(map);
        let operand = self.random.pick(&[7, 8]);
        self.put(&[
            call(Helper::MapLookupElem),
            asm::jump_imm(jmp::JEQ, 0, 0, 3),
            asm::atomic_add(0, 0, operand),
            load(operand, 0, 0),
            mov(0, operand),
        ]);
    }

    fn update(&mut self) {
        let map = self.random.pick(&[ARRAY, PER_CPU, HASH]);
        self.key(map);
        let flags = self.random.below(4) as i32;
        self.put(&[
            mov(3, FP),
            alu_imm(insn::alu::ADD, 3, (-STACK).into()),
            mov_imm(4, flags),
            call(Helper::MapUpdateElem),
        ]);
    }

    fn probe_read(&mut self) {
        let source = self.random.pick(&[GUEST, GUEST + 4090, 0]);
        let size = self.random.below(STACK as u64) as i32;
        self.put(&[
            mov(1, FP),
            alu_imm(insn::alu::ADD, 1, (-STACK).into()),
            mov_imm(2, size),
        ]);
        self.put(&mov_imm64(3, source));
        self.put(&[call(Helper::ProbeRead)]);
    }

    /// Goes on with another program, or with none.
    fn tail_call(&mut self) {
        let slot = self.random.below(HELD.len() as u64 + 1) as i32;
        self.put(&[mov(1, CONTEXT)]);
        self.put(&asm::map(2, NEXT));
        self.put(&[mov_imm(3, slot), call(Helper::TailCall), mov_imm(0, slot)]);
        self.arguments_again();
    }

    /// Has a helper call a function, which is given numbers on the stack.
    fn call_back(&mut self) {
        if !matches!(self.role, Role::First | Role::Called) {
            return self.arithmetic();
        }
        let role = self.random.pick(&[Role::Round, Role::Entry]);
        let helper = match role {
            Role::Entry => {
                let map = self.random.pick(&[ARRAY, PER_CPU, HASH]);
                self.put(&asm::map(1, map));
                Helper::ForEachMapElem
            }
            _ => {
                let times = self.random.pick(&[0, 1, 2, 5, 1 << 23 | 1, -1]);
                self.put(&[mov_imm(1, times)]);
                Helper::Loop
            }
        };
        self.callbacks.push((self.insns.len(), role));
        self.put(&asm::function(2, 0));
        let flags = i32::from(self.random.once_in(8));
        self.put(&[
            mov(3, FP),
            alu_imm(insn::alu::ADD, 3, (-STACK).into()),
            mov_imm(4, flags),
            call(helper),
        ]);
        self.arguments_again();
    }

    /// Follows pointers from the current task on, which may lead anywhere.
    fn load_from_guest(&mut self) {
        self.put(&[call(Helper::GetCurrentTaskBtf)]);
        self.arguments_again();
        let mut pointer = 0;
        for _ in 0..self.random.below(4) {
            let next = self.number();
            let off = self.random.below(4096) as i16 - 2048;
            self.put(&[load(next, pointer, off)]);
            pointer = next;
        }
        let register = self.number();
        let off = self
            .random
            .pick(&[0, 2, 8, 255, -3, 4093, i16::MIN, i16::MAX]);
        let width = self.random.pick(&[size::B, size::H, size::W, size::DW]);
        let mode = match width {
            size::DW => mode::MEM,
            _ => self.random.pick(&[mode::MEM, mode::MEMSX]),
        };
        self.put(&[
            instruction(class::LDX | mode | width, register, pointer, off, 0),
            mov_imm(pointer, off.into()),
        ]);
    }

    fn subprogram(&mut self) {
        // Of those that helpers call, none is left.
        let left = self.functions - self.function - 1;
        if left == 0 {
            return self.arithmetic();
        }
        let callee = self.function + 1 + self.random.below(left as u64) as usize;
        self.calls.push((self.insns.len(), callee));
        self.put(&[instruction(CALL, 0, PSEUDO_CALL, 0, 0)]);
        self.arguments_again();
    }

    /// After a call nobody knows what r1 to r5 hold.
    fn arguments_again(&mut self) {
        for register in 1..=5 {
            let value = self.random.number() as i32;
            self.put(&[mov_imm(register, value)]);
        }
    }

    /// An access that ends the program.
    fn fault(&mut self) {
        let register = self.number();
        let pointer = self.random.pick(&[7, 8]);
        let off = self.random.below(64) as i16 - 32;
        match self.random.below(4) {
            0 if self.is_first() => {
                // Far behind the arena.
                let distance = 1 << 20 | self.random.next() as i32 & 0xff_ffff;
                self.put(&[
                    mov(pointer, VALUE),
                    alu_imm(insn::alu::ADD, pointer, distance),
                ]);
            }
            1 => {
                let address = self.random.pick(&[0, GUEST, u64::MAX, 8]);
                self.put(&mov_imm64(pointer, address));
            }
            _ => {
                let (base, off) = self.place(8);
                let code = class::STX | mode::ATOMIC | size::DW;
                let off = off & !7 | 1;
                return self.put(&[
                    mov(pointer, base),
                    instruction(code, pointer, register, off, atomic::ADD),
                ]);
            }
        }
        let code = self.random.pick(&[
            class::LDX | mode::MEM | size::W,
            class::LDX | mode::MEMSX | size::B,
            class::STX | mode::MEM | size::H,
        ]);
        if code & 7 == class::LDX {
            self.put(&[instruction(code, register, pointer, off, 0)]);
        } else {
            self.put(&[instruction(code, pointer, register, off, 0)]);
        }
    }
}
