//! Loading a linked object and running its programs.

use crate::agent::Place;
use crate::arena::{Arena, OutOfMemory};
use crate::asm;
use crate::decode::Step;
use crate::helper::Helper;
use crate::host::{CollectFault, Context, Host};
use crate::insn::{CALL, Insn, PSEUDO_CALL};
use crate::interp::{Code, DEFAULT_BUDGET};
use crate::jit::{self, Compiler, Native, NotCompiled, StackAtEntry};
use crate::linked::{Given, Linked, MapTypes, ParseError, ProgramDef, Types, run_alike, uses_map};
use crate::map::{Map, MapDef, MapError, MapKind, Shape, UpdateFlag};
use crate::memory::Memory;
use crate::run::{Interruption, Run, TailCall};
use crate::signature::Signature;
use crate::stack::{FRAME_SIZE, MAX_FRAMES, Stacks};
use crate::verify::{Verified, VerifyError, verify_object};
use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::fmt;
use spin::Once;

/// Physical CPUs at most.
pub const MAX_CPUS: usize = 64;

/// Bytes that the maps of one object may take together where nobody says otherwise.
pub const MAP_QUOTA: u64 = 16 << 20;

/// Why an object was refused. `Display` tells a user which program and instruction, and why.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LoadError {
    /// There is no built-in object of that name.
    NoSuchBuiltin,
    /// The object is not one that [`Linked::parse`] would give.
    Malformed(ParseError),
    /// A program is refused.
    Verify(Box<VerifyError>),
    /// A map is of a kind that is not implemented.
    MapKind {
        /// The map's name.
        map: String,
        /// Its kind.
        kind: MapKind,
    },
    /// The maps take more than they may.
    Quota {
        /// Bytes that they would take.
        needed: u64,
        /// Bytes that they may take.
        quota: u64,
    },
    /// The heap has no room for the maps.
    OutOfMemory {
        /// Bytes that they take.
        needed: u64,
    },
    /// No CPU, or more than [`MAX_CPUS`].
    Cpus(usize),
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSuchBuiltin => {
                f.write_str("no such built-in program. There are")?;
                crate::builtin::NAMES
                    .iter()
                    .try_for_each(|name| write!(f, " {name}"))
            }
            Self::Malformed(error) => error.fmt(f),
            Self::Verify(error) => error.fmt(f),
            Self::MapKind { map, kind } => {
                write!(f, "map {map}: maps of kind {kind} are not supported")
            }
            Self::Quota { needed, quota } => write!(
                f,
                "the maps take {needed} bytes and may take {quota}: give them fewer entries"
            ),
            Self::OutOfMemory { needed } => write!(
                f,
                "there is no memory for maps of {needed} bytes: give them fewer entries, or \
                 remove other programs"
            ),
            Self::Cpus(cpus) => write!(f, "{cpus} CPUs, where 1 to {MAX_CPUS} are possible"),
        }
    }
}

impl core::error::Error for LoadError {}

/// What an access was for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// A load, or something that a helper reads.
    Read,
    /// A store, or something that a helper writes.
    Write,
    /// An atomic operation.
    Atomic,
}

/// What ended a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RunFault {
    /// The budget is used up.
    Budget,
    /// An access outside context, stack frame and map value, a write to what is read-only, or an
    /// atomic operation at an address that is not aligned.
    BadAccess {
        /// Where.
        address: u64,
        /// How many bytes.
        length: u32,
        /// What for.
        access: Access,
    },
    /// A helper was given something else where it wants a map.
    NotAMap {
        /// What it was given.
        value: u64,
    },
    /// A helper was given something else where it wants memory that the program has reserved.
    NotReserved {
        /// What it was given.
        address: u64,
    },
    /// A helper was given something else where it wants a function.
    NotAFunction {
        /// What it was given.
        value: u64,
    },
    /// Calls nest deeper than the stack.
    CallDepth,
    /// The object was loaded for fewer CPUs than the one that runs it.
    NoSuchCpu {
        /// The CPU.
        cpu: u32,
    },
    /// A program of the object is running on this CPU: whatever it called has run into a probe or
    /// tracepoint with a program of the same object.
    Nested,
    /// An agent expression cannot be evaluated.
    Evaluation {
        /// Which of its bytecodes cannot.
        place: Place,
        /// Why.
        error: EvaluationError,
    },
    /// An instruction that the verifier should have refused: an error of ours.
    Corrupt,
}

/// Why an agent expression cannot be evaluated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EvaluationError {
    /// The guest's memory cannot be read.
    Unreadable {
        /// Where.
        address: u64,
        /// How many bytes were to be.
        length: u8,
    },
    /// A string in the guest's memory cannot be read.
    String {
        /// Where it begins.
        address: u64,
    },
    /// The divisor is 0.
    DivisionByZero,
    /// The machine does not say what is in that register.
    NoRegister(u16),
    /// There is no trace state variable of that number.
    NoVariable(u16),
    /// Something was not collected.
    NotCollected(CollectFault),
}

impl fmt::Display for EvaluationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable { address, length } => {
                let plural = if *length == 1 { "" } else { "s" };
                write!(f, "cannot read {length} byte{plural} at {address:#x}")
            }
            Self::String { address } => write!(f, "cannot read the string at {address:#x}"),
            Self::DivisionByZero => f.write_str("the divisor is 0"),
            Self::NoRegister(number) => write!(f, "register {number} cannot be read here"),
            Self::NoVariable(number) | Self::NotCollected(CollectFault::NoVariable(number)) => {
                write!(f, "there is no trace state variable {number}")
            }
            Self::NotCollected(CollectFault::Unreadable { address }) => {
                write!(f, "cannot collect what is at {address:#x}")
            }
            Self::NotCollected(CollectFault::Full) => f.write_str("the trace buffer is full"),
            Self::NotCollected(CollectFault::NoFrame) => {
                f.write_str("no trace frame is being made here")
            }
        }
    }
}

/// Why a run ended without a result: which instruction, and what.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RunError {
    /// The number of the program, in its object, that the run had gone on with by a tail call; `None`
    /// where it was the one that was run.
    pub program: Option<u32>,
    /// The number of the instruction.
    pub insn: u32,
    /// What it did.
    pub fault: RunFault,
}

impl RunError {
    /// Of the program that was run.
    pub(crate) const fn new(insn: u32, fault: RunFault) -> Self {
        Self {
            program: None,
            insn,
            fault,
        }
    }
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(program) = self.program {
            write!(f, "after a tail call, program {program} of the object, ")?;
        }
        if !matches!(self.fault, RunFault::Evaluation { .. }) {
            write!(f, "instruction {}: ", self.insn)?;
        }
        match self.fault {
            RunFault::Budget => f.write_str("the program has used up its instruction budget"),
            RunFault::BadAccess {
                address,
                length,
                access,
            } => {
                let what = match access {
                    Access::Read => "reads",
                    Access::Write => "writes",
                    Access::Atomic => "atomically changes",
                };
                write!(f, "{what} {length} bytes at {address:#x}, which it may not")?;
                if address < 4096 {
                    f.write_str(" (a null pointer?)")
                } else {
                    Ok(())
                }
            }
            RunFault::NotAMap { value } => write!(f, "passes {value:#x} to a helper as a map"),
            RunFault::NotAFunction { value } => {
                write!(f, "passes {value:#x} to a helper as a function")
            }
            RunFault::NotReserved { address } => write!(
                f,
                "gives back a record at {address:#x}, which it has not reserved"
            ),
            RunFault::CallDepth => write!(f, "calls nest deeper than {MAX_FRAMES} functions"),
            RunFault::NoSuchCpu { cpu } => write!(f, "the object was not loaded for CPU {cpu}"),
            RunFault::Nested => {
                f.write_str("a program of this object is already running on this CPU")
            }
            RunFault::Evaluation { place, error } => write!(f, "{place}: {error}"),
            RunFault::Corrupt => f.write_str("the interpreter met what the verifier excludes"),
        }
    }
}

impl core::error::Error for RunError {}

/// What runs instead of the interpreter.
#[derive(Debug)]
struct Compiled {
    native: Box<dyn Native>,
    code: jit::Code,
}

/// One verified program, ready to run.
#[derive(Debug)]
pub struct Program {
    name: String,
    section: String,
    signature: Option<Signature>,
    insns: Box<[Insn]>,
    code: Code,
    /// What runs instead of the interpreter, if anything does.
    compiled: Option<Compiled>,
    /// Why nothing does although there is a compiler.
    declined: Option<NotCompiled>,
    /// What the verifier found out; `None` only in tests, which load what it would refuse.
    verified: Option<Verified>,
    data: Arc<Data>,
}

impl Program {
    /// The function's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The section it came from, such as `kprobe/vfs_read`; empty for built-in programs.
    pub fn section(&self) -> &str {
        &self.section
    }

    /// What its context is, where that is a function's arguments and not the registers.
    pub fn signature(&self) -> Option<Signature> {
        self.signature
    }

    fn given(&self) -> Given<'_> {
        (&self.section, self.signature)
    }

    /// How many instructions it has.
    pub fn insn_count(&self) -> usize {
        self.code.len()
    }

    /// Its instructions.
    pub fn insns(&self) -> &[Insn] {
        &self.insns
    }

    /// Whether it calls a helper that is one of those.
    pub fn calls(&self, is_one: impl Fn(Helper) -> bool) -> bool {
        let calls = self
            .insns
            .iter()
            .filter(|insn| insn.code == CALL && insn.src == 0);
        let mut helpers = calls.filter_map(|insn| Helper::from_number(insn.imm));
        helpers.any(is_one)
    }

    /// What the verifier found out.
    pub fn verified(&self) -> Option<&Verified> {
        self.verified.as_ref()
    }

    /// The program as A64 code.
    pub fn to_a64(&self, options: &jit::Options) -> Result<jit::Code, NotCompiled> {
        let Data {
            arena,
            stacks,
            maps,
            ..
        } = &*self.data;
        jit::compile(
            self.code.steps(),
            maps,
            arena.size(),
            stacks.size(),
            self.stack_at_entry(),
            options,
        )
    }

    /// Compiles the program and lets `compiler` install the code: from then on it runs compiled. What
    /// cannot be compiled is interpreted, and [`Self::declined`] says why.
    fn compile(&mut self, compiler: &dyn Compiler) {
        match self.install(compiler) {
            Ok(compiled) => self.compiled = Some(compiled),
            Err(error) => self.declined = Some(error),
        }
    }

    fn install(&self, compiler: &dyn Compiler) -> Result<Compiled, NotCompiled> {
        let code = self.to_a64(&compiler.options())?;
        let native = compiler.install(&code).ok_or(NotCompiled::NoRoom)?;
        Ok(Compiled { code, native })
    }

    /// What it was compiled to, if it runs compiled.
    pub fn compiled(&self) -> Option<&jit::Code> {
        Some(&self.compiled.as_ref()?.code)
    }

    /// Why it is interpreted although there is a compiler.
    pub fn declined(&self) -> Option<NotCompiled> {
        self.declined
    }

    pub(crate) fn steps(&self) -> &[Step] {
        self.code.steps()
    }

    pub(crate) fn data(&self) -> &Data {
        &self.data
    }

    fn stack_at_entry(&self) -> StackAtEntry {
        match &self.verified {
            Some(verified) if verified.reads_unset_stack => StackAtEntry::Cleared,
            _ => StackAtEntry::AsItIs,
        }
    }

    /// Runs the program and returns its r0, within [`DEFAULT_BUDGET`] instructions. May run on
    /// several CPUs at once; on each, nothing that could stop the CPU interrupts it.
    #[inline]
    pub fn run(&self, context: &Context, host: &impl Host) -> Result<u64, RunError> {
        self.run_within(DEFAULT_BUDGET, context, host)
    }

    /// As [`Self::run`], within a budget of `instructions` ([`crate::interp`] says what counts).
    // On the way of every hit, where each instruction counts: what is rare is apart.
    #[inline]
    pub fn run_within(
        &self,
        instructions: u64,
        context: &Context,
        host: &impl Host,
    ) -> Result<u64, RunError> {
        let cpu = host.cpu();
        let Some(_stack) = self.data.stacks.take(cpu) else {
            return Err(self.no_stack(cpu));
        };
        match &self.compiled {
            Some(Compiled { native, .. }) => {
                jit::run(&**native, self, context, host, instructions, cpu)
            }
            None => self.interpret(instructions, context, host, cpu),
        }
    }

    #[inline(never)]
    fn interpret(
        &self,
        budget: u64,
        context: &Context,
        host: &dyn Host,
        cpu: usize,
    ) -> Result<u64, RunError> {
        let result = self.interpret_alone(budget, context, host, cpu);
        result.or_else(|interruption| self.go_on(interruption, context, host, cpu))
    }

    fn interpret_alone(
        &self,
        budget: u64,
        context: &Context,
        host: &dyn Host,
        cpu: usize,
    ) -> Result<u64, Interruption> {
        let mut run = self.data.run(context, host, cpu, budget);
        if self.stack_at_entry() == StackAtEntry::Cleared {
            run.memory.clear_stack();
        }
        self.code.run(&mut run)
    }

    /// Runs the program itself on `cpu`, whose stack is its own.
    fn run_alone(
        &self,
        budget: u64,
        context: &Context,
        host: &dyn Host,
        cpu: usize,
    ) -> Result<u64, Interruption> {
        match &self.compiled {
            Some(Compiled { native, .. }) => {
                jit::run_alone(&**native, self, context, host, budget, cpu)
            }
            None => self.interpret_alone(budget, context, host, cpu),
        }
    }

    /// What becomes of a run that has not come to the end of the program: it goes on with others, or has
    /// failed.
    #[cold]
    pub(crate) fn go_on(
        &self,
        interruption: Interruption,
        context: &Context,
        host: &dyn Host,
        cpu: usize,
    ) -> Result<u64, RunError> {
        let mut result = Err(interruption);
        let mut number = None;
        // There are at most `MAX_TAIL_CALLS`.
        while let Err(Interruption::TailCall(TailCall { program, left })) = result {
            number = Some(program as u32);
            result = match self.data.program(program) {
                Some(program) => program.run_alone(left, context, host, cpu),
                None => Err(Interruption::Failed(RunError::new(0, RunFault::Corrupt))),
            };
        }
        self.data.stacks.forget_tail_calls(cpu);
        result.map_err(|interruption| {
            self.release_records(cpu);
            match interruption {
                Interruption::Failed(error) => RunError {
                    program: number,
                    ..error
                },
                Interruption::TailCall(_) => RunError::new(0, RunFault::Corrupt),
            }
        })
    }

    /// Gives back what a run that has failed on `cpu` has reserved.
    #[cold]
    #[inline(never)]
    fn release_records(&self, cpu: usize) {
        let records = self.data.maps.iter().filter_map(Map::records);
        records.for_each(|records| records.release_all(cpu));
    }

    #[cold]
    fn no_stack(&self, cpu: usize) -> RunError {
        let fault = if self.data.stacks.has(cpu) {
            RunFault::Nested
        } else {
            RunFault::NoSuchCpu { cpu: cpu as u32 }
        };
        RunError::new(0, fault)
    }
}

/// What the programs of an object share.
#[derive(Debug)]
pub(crate) struct Data {
    arena: Arc<Arena>,
    stacks: Stacks,
    maps: Vec<Map>,
    /// The programs themselves, for tail calls: known from when somebody can run one.
    programs: Once<Box<[Weak<Program>]>>,
}

impl Data {
    fn allocate(linked: &Linked, cpus: usize) -> Result<Self, OutOfMemory> {
        let stacks = Stacks::allocate(cpus, frames(linked))?;
        let shapes = linked.maps.iter().map(|map| Shape::of(map, cpus).bytes());
        // Shapes are whole cache lines, and so are stacks.
        let size = stacks.bytes() + shapes.sum::<usize>();
        let arena = Arc::new(Arena::allocate(size)?);
        let mut start = stacks.bytes();
        let allocate = |map: &MapDef| {
            let values = start;
            start += Shape::of(map, cpus).bytes();
            Map::allocate(map.clone(), cpus, &arena, values)
        };
        let maps: Result<_, _> = linked.maps.iter().map(allocate).collect();
        Ok(Self {
            maps: maps?,
            arena,
            stacks,
            programs: Once::new(),
        })
    }

    /// The program of that number. The object has it as long as one of its programs runs.
    fn program(&self, number: usize) -> Option<Arc<Program>> {
        self.programs.get()?.get(number)?.upgrade()
    }

    pub(crate) fn stacks(&self) -> &Stacks {
        &self.stacks
    }

    /// Where all bytes are that programs share.
    pub(crate) fn arena(&self) -> &Arena {
        &self.arena
    }

    /// A run on `cpu`, whose stack the caller has taken.
    pub(crate) fn run<'a>(
        &'a self,
        context: &'a Context,
        host: &'a dyn Host,
        cpu: usize,
        budget: u64,
    ) -> Run<'a> {
        let memory = Memory {
            context,
            arena: &self.arena,
            stack: self.stacks.range(cpu),
            maps: &self.maps,
        };
        Run {
            memory,
            stacks: &self.stacks,
            host,
            cpu,
            budget,
        }
    }
}

/// How many frames a stack needs. Most programs call no subprograms and need one.
fn frames(linked: &Linked) -> usize {
    let insns = || linked.programs.iter().flat_map(|program| &program.insns);
    let calls = |helper| move |insn: &Insn| *insn == asm::call(helper);
    if insns().any(calls(Helper::ForEachMapElem)) {
        2 * MAX_FRAMES
    } else if insns().any(|insn| insn.code == CALL && insn.src == PSEUDO_CALL)
        || insns().any(calls(Helper::Loop))
    {
        MAX_FRAMES
    } else {
        1
    }
}

const _: () = assert!(FRAME_SIZE.is_multiple_of(64));

/// A loaded object: verified programs and the maps that they share. Put it into an `Arc` to attach
/// its programs to several probes.
#[derive(Debug)]
pub struct Object {
    name: String,
    programs: Vec<Arc<Program>>,
    types: Types,
    data: Arc<Data>,
}

impl Object {
    /// Verifies the programs and allocates the maps, for a machine with `cpus` physical CPUs.
    pub fn load(linked: &Linked, cpus: usize) -> Result<Self, LoadError> {
        Self::load_within(linked, cpus, MAP_QUOTA)
    }

    /// The same with maps that take at most `quota` bytes.
    pub fn load_within(linked: &Linked, cpus: usize, quota: u64) -> Result<Self, LoadError> {
        if !(1..=MAX_CPUS).contains(&cpus) {
            return Err(LoadError::Cpus(cpus));
        }
        linked.check().map_err(LoadError::Malformed)?;
        let absent = linked.maps.iter().find(|map| !map.kind.is_implemented());
        if let Some(map) = absent {
            return Err(LoadError::MapKind {
                map: map.name.clone(),
                kind: map.kind,
            });
        }
        let verified = verify_object(linked).map_err(|error| LoadError::Verify(error.into()))?;
        let mut object = Self::allocate(linked, cpus, quota)?;
        for (program, verified) in object.own_programs().zip(verified) {
            program.code.load_from_guest(&verified);
            program.verified = Some(verified);
        }
        Ok(object)
    }

    /// Loads programs that the verifier might refuse, to see what becomes of them when they run.
    /// For tests of what is behind the verifier.
    #[cfg(any(test, feature = "unverified"))]
    pub fn load_unverified(linked: &Linked, cpus: usize) -> Result<Self, LoadError> {
        Self::allocate(linked, cpus, MAP_QUOTA)
    }

    fn allocate(linked: &Linked, cpus: usize, quota: u64) -> Result<Self, LoadError> {
        let needed = linked.maps.iter().map(|map| map.memory(cpus)).sum();
        if needed > quota {
            return Err(LoadError::Quota { needed, quota });
        }
        let data = Data::allocate(linked, cpus).map_err(|_| LoadError::OutOfMemory { needed })?;
        let data = Arc::new(data);
        let load = |program: &ProgramDef| {
            Arc::new(Program {
                name: program.name.clone(),
                section: program.section.clone(),
                signature: program.signature,
                insns: program.insns.as_slice().into(),
                code: Code::decode(&program.insns, &data.maps),
                compiled: None,
                declined: None,
                verified: None,
                data: Arc::clone(&data),
            })
        };
        Ok(Self {
            name: linked.name.clone(),
            programs: linked.programs.iter().map(load).collect(),
            types: linked.types.clone(),
            data,
        })
    }

    /// What a user calls it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Compiles the programs and lets `compiler` install the code: from then on they run compiled. What
    /// cannot be compiled is interpreted, and [`Program::declined`] says why.
    pub fn compile(&mut self, compiler: &dyn Compiler) {
        for program in self.own_programs() {
            program.compile(compiler);
        }
    }

    /// The programs that nobody else has: all, until somebody takes them from [`Self::programs`].
    fn own_programs(&mut self) -> impl Iterator<Item = &mut Program> {
        self.programs.iter_mut().filter_map(Arc::get_mut)
    }

    /// Its programs, at least one. The object must be there while one of them runs that makes tail
    /// calls.
    pub fn programs(&self) -> &[Arc<Program>] {
        let programs = self.programs.iter();
        self.data
            .programs
            .call_once(|| programs.map(Arc::downgrade).collect());
        &self.programs
    }

    /// The program whose function has that name.
    pub fn program(&self, name: &str) -> Option<&Arc<Program>> {
        self.programs().iter().find(|program| program.name == name)
    }

    /// Whether a map of programs holds the program of that name.
    pub fn is_held(&self, program: &str) -> bool {
        let name = |number: usize| self.programs.get(number).map(|it| it.name.as_str());
        let is_it = |number| name(number) == Some(program);
        self.data.maps.iter().flat_map(Map::programs).any(is_it)
    }

    /// Puts the program number `program` into the slot `key` of the map of programs number `map`.
    pub fn set_program(
        &self,
        map: usize,
        key: &[u8],
        program: usize,
        flag: UpdateFlag,
    ) -> Result<(), MapError> {
        let (index, programs) = (map, &self.programs);
        let map = self.data.maps.get(index).ok_or(MapError::NotFound)?;
        let new = programs.get(program).ok_or(MapError::NotFound)?;
        let uses = programs.iter().map(|it| uses_map(&it.insns, index));
        let mut concerned: Vec<bool> = uses.collect();
        for held in map.programs() {
            if let Some(concerned) = concerned.get_mut(held) {
                *concerned = true;
            }
        }
        let mut concerned = programs.iter().zip(concerned).filter(|(_, is_it)| *is_it);
        if concerned.any(|(other, _)| !run_alike(other.given(), new.given())) {
            return Err(MapError::OtherContext);
        }
        map.set_program(key, program, flag)
    }

    /// Its maps.
    pub fn maps(&self) -> &[Map] {
        &self.data.maps
    }

    /// The types that it carries, in the BTF format, and what the keys and values of a map are among them.
    pub fn types_of(&self, map: usize) -> (&[u8], MapTypes) {
        (&self.types.btf, self.types.of_map(map))
    }

    /// The map of that name.
    pub fn map(&self, name: &str) -> Option<&Map> {
        self.data.maps.iter().find(|map| map.name() == name)
    }
}

#[cfg(test)]
mod tests;
