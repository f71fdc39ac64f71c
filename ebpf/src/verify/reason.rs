//! Why a program is refused.

use crate::helper::Helper;
use crate::insn::BAD_RELO;
use crate::linked::MAX_INSNS;
use crate::stack::FRAME_SIZE;
use crate::stack::MAX_FRAMES;
use core::fmt;

/// Why a program is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reason {
    /// There are no instructions.
    Empty,
    /// There are more than [`MAX_INSNS`].
    TooLong,
    /// The opcode means nothing.
    Opcode,
    /// A field that the instruction does not use is not 0.
    Reserved,
    /// A register above r10.
    Register(u8),
    /// r10 is written.
    WritesFramePointer,
    /// Division by the constant 0.
    DivisionByZero,
    /// A shift by as many bits as there are, or more.
    Shift,
    /// A byte swap of neither 16, 32 nor 64 bits.
    SwapSize,
    /// An atomic operation that there is not, or on 1 or 2 bytes.
    Atomic,
    /// The second slot of a 64-bit immediate is missing or malformed.
    SecondSlot,
    /// A kind of 64-bit immediate that there is not.
    Immediate(u8),
    /// There is no map of that number.
    Map(i32),
    /// The map is no array, or the offset lies outside its first value.
    MapValue,
    /// There is no helper of that number.
    Helper(i32),
    /// A call of a kernel function: there is no kernel of ours.
    KernelFunction,
    /// The jump leaves the function or goes into the middle of a 64-bit immediate.
    JumpTarget,
    /// The called function is outside the program or begins in the middle of a 64-bit immediate.
    CallTarget,
    /// Control runs past the end of the function.
    FallsThrough,
    /// The function calls itself, directly or through others.
    Recursion,
    /// Calls nest deeper than the stack has frames.
    CallDepth,
    /// The functions of a chain of calls together use that many bytes of stack.
    StackDepth(usize),
    /// A register that is read holds nothing.
    Unset(u8),
    /// A register that is used as an address holds a number.
    NotAPointer(u8),
    /// A register that something is written through holds an address in the guest.
    WritesGuest(u8),
    /// A register that is used as an address may hold null.
    MaybeNull(u8),
    /// A register that is used as an address points to what is no memory.
    NotMemory(u8, &'static str),
    /// An access that may lie outside of what the pointer in the register points to.
    OutOfBounds {
        /// The register.
        register: u8,
        /// What it points to.
        kind: &'static str,
        /// The first byte that may be accessed.
        low: i32,
        /// The byte after the last that may be accessed.
        high: i32,
        /// The first byte that there is.
        start: i32,
        /// The byte after the last that there is.
        end: i32,
    },
    /// The context is accessed at an offset that is no multiple of the size.
    ContextField(i64),
    /// A number that is not constant was added to the pointer to the context that is used.
    ModifiedContext(u8),
    /// A write to what can only be read.
    ReadOnly(&'static str),
    /// An access to the stack, or an atomic one, at an offset that is no multiple of the size.
    Misaligned(i64, usize),
    /// One instruction is used with pointers to different kinds of memory.
    DifferentPointers,
    /// Part of a pointer is stored on the stack.
    StoresPartOfPointer(u8),
    /// Part of a pointer is loaded from the stack.
    LoadsPartOfPointer,
    /// A pointer to a function's stack is stored where it outlives the function.
    StackPointerEscapes,
    /// An operation that is not possible with a pointer.
    PointerArithmetic(u8, &'static str),
    /// A number that is added to a pointer may be anything.
    UnboundedOffset(u8),
    /// Two pointers are combined.
    TwoPointers(u8),
    /// Argument `0` of a helper is not what it takes.
    Argument(u8, &'static str),
    /// A helper that is about the arguments of a function, in a program that is not given any.
    NoArguments(Helper),
    /// A map is given to a helper that does not work on its kind.
    MapKind(&'static str),
    /// A helper is to change a map that is read-only.
    FrozenMap,
    /// A function that a helper calls is not named in the function that calls the helper.
    FunctionFromElsewhere,
    /// A tail call in a function that the program calls.
    TailCallInFunction,
    /// A function that a helper calls returns something else than 0 or 1.
    CallbackResult,
    /// A function that a helper calls gives back what its caller has reserved.
    ReleasedInCallback,
    /// The size that a helper is given may be 0.
    SizeMayBeZero(u8),
    /// The size that a helper is given may be negative or far too large.
    SizeUnbounded(u8),
    /// What a helper gave at that instruction is not given back.
    NotReleased(usize),
    /// A path comes to where it has been, and nothing has changed.
    EndlessLoop,
    /// So many instructions have been followed, and paths are left.
    TooManySteps(usize),
    /// What is to be remembered takes more than so many bytes.
    TooMuchMemory(usize),
    /// So much work has been done, and paths are left.
    TooMuchWork(u64),
    /// There is no memory for what is to be remembered.
    OutOfMemory,
    /// A loop's or a call's bookkeeping is inconsistent: an error of ours.
    Internal,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Empty => f.write_str("the program has no instructions"),
            Self::TooLong => write!(f, "the program has more than {MAX_INSNS} instructions"),
            Self::Opcode => f.write_str("there is no such instruction"),
            Self::Reserved => f.write_str("a field that this instruction does not use is not zero"),
            Self::Register(number) => write!(f, "there is no register r{number}"),
            Self::WritesFramePointer => f.write_str("r10, the frame pointer, is read-only"),
            Self::DivisionByZero => f.write_str("this divides by zero"),
            Self::Shift => f.write_str("this shifts by as many bits as there are, or more"),
            Self::SwapSize => f.write_str("bytes are swapped in 16, 32 or 64 bits"),
            Self::Atomic => f.write_str("there is no such atomic operation"),
            Self::SecondSlot => f.write_str("the second half of the 64-bit immediate is not there"),
            Self::Immediate(kind) => {
                write!(f, "a 64-bit immediate of kind {kind} is not supported")
            }
            Self::Map(index) => write!(f, "the object has no map number {index}"),
            Self::MapValue => f.write_str("this is no address inside the first value of an array"),
            Self::Helper(BAD_RELO) => f.write_str(
                "the guest's kernel does not have the field, type or value that the program wants \
                 here: ask for it first, as with bpf_core_field_exists()",
            ),
            Self::Helper(number) => {
                write!(f, "helper {number} is not one of ours:")?;
                Helper::ALL
                    .iter()
                    .try_for_each(|helper| write!(f, " {}", helper.name()))
            }
            Self::KernelFunction => f.write_str("kernel functions (kfuncs) cannot be called"),
            Self::JumpTarget => {
                f.write_str("the jump leaves the function or hits half an instruction")
            }
            Self::CallTarget => f.write_str("the called function is not in the program"),
            Self::FallsThrough => f.write_str("control runs past the end of the function"),
            Self::Recursion => f.write_str("the function calls itself"),
            Self::CallDepth => write!(f, "calls nest deeper than {MAX_FRAMES} functions"),
            Self::StackDepth(bytes) => write!(
                f,
                "functions that call each other use {bytes} bytes of stack together, and there \
                 are {FRAME_SIZE}: use a per-CPU map for large variables"
            ),
            _ => self.fmt_abstract(f),
        }
    }
}

impl Reason {
    /// The reasons that following values gives.
    fn fmt_abstract(self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unset(register) => write!(f, "r{register} is read, and nothing was put there"),
            Self::NotAPointer(register) => {
                write!(f, "r{register} is a number, and is used as an address")?;
                f.write_str(": to read guest memory, call probe_read_kernel or probe_read_user")
            }
            Self::WritesGuest(register) => write!(
                f,
                "r{register} is an address in the guest, whose memory can only be read"
            ),
            Self::MaybeNull(register) => {
                write!(f, "r{register} may be null: compare it with 0 first")
            }
            Self::NotMemory(register, kind) => {
                write!(f, "r{register} is a {kind}, which is no memory")
            }
            Self::OutOfBounds {
                register,
                kind,
                low,
                high,
                start,
                end,
            } => {
                write!(
                    f,
                    "the access through r{register} may reach bytes {low} to {} of a {kind}, \
                     which has {start} to {}: check the offset first",
                    high.saturating_sub(1),
                    end.saturating_sub(1)
                )
            }
            Self::ContextField(offset) => write!(
                f,
                "there is no field of that size at offset {offset} of the context"
            ),
            Self::ModifiedContext(register) => write!(
                f,
                "r{register} is a pointer to the context that was changed by a number: access \
                 the context at constant offsets"
            ),
            Self::ReadOnly(what) => write!(f, "the {what} is read-only"),
            Self::Misaligned(offset, size) => write!(
                f,
                "{size} bytes at offset {offset}, which is no multiple of {size}"
            ),
            Self::DifferentPointers => f.write_str(
                "the instruction accesses the context or the guest on one path and something else on \
                 another",
            ),
            Self::StoresPartOfPointer(register) => {
                write!(
                    f,
                    "r{register} is a pointer, and only a part of it is stored"
                )
            }
            Self::LoadsPartOfPointer => f.write_str("this loads a part of a pointer"),
            Self::StackPointerEscapes => f.write_str(
                "a pointer to a function's stack is handed to the function's caller, where the \
                 stack is gone",
            ),
            Self::PointerArithmetic(register, what) => {
                write!(
                    f,
                    "r{register} is a pointer, with which {what} is not possible"
                )
            }
            Self::UnboundedOffset(register) => write!(
                f,
                "a number without limits is added to the pointer in r{register}: check it first"
            ),
            Self::TwoPointers(register) => write!(
                f,
                "r{register} and the other operand are pointers, which can only be subtracted"
            ),
            Self::Argument(number, wanted) => write!(f, "the helper wants {wanted} in r{number}"),
            Self::NoArguments(helper) => write!(
                f,
                "{} is for programs that are given a function's arguments: fentry/FUNCTION and \
                 fexit/FUNCTION",
                helper.name()
            ),
            Self::MapKind(kind) => write!(f, "the helper does not work on maps of kind {kind}"),
            Self::FrozenMap => f.write_str("the map is read-only"),
            Self::FunctionFromElsewhere => f.write_str(
                "the function that the helper is to call comes from another function: name it in \
                 the one that calls the helper",
            ),
            Self::TailCallInFunction => f.write_str(
                "a tail call ends the program, so a function that it calls cannot make one: inline \
                 the function",
            ),
            Self::CallbackResult => f.write_str(
                "a function that a helper calls must return 0, to go on, or 1, to stop: r0 may be \
                 something else",
            ),
            Self::ReleasedInCallback => f.write_str(
                "what was reserved outside of the function that a helper calls cannot be given back \
                 in it: it may be called again",
            ),
            Self::SizeMayBeZero(register) => {
                write!(f, "the size in r{register} may be 0: check it first")
            }
            Self::SizeUnbounded(register) => write!(
                f,
                "the size in r{register} may be negative or too large: check it first, as \
                 unsigned"
            ),
            Self::NotReleased(insn) => write!(
                f,
                "what instruction {insn} reserved is neither submitted nor discarded on this path"
            ),
            Self::EndlessLoop => {
                f.write_str("the path comes back to here with nothing changed: it would never end")
            }
            Self::TooManySteps(limit) => write!(
                f,
                "the program is too complex: {limit} instructions were followed and paths are \
                 left: make its loops shorter, or its branches fewer"
            ),
            Self::TooMuchMemory(limit) => write!(
                f,
                "the program is too complex: its states take more than {limit} bytes: make its \
                 loops shorter, or its branches fewer"
            ),
            Self::TooMuchWork(limit) => write!(
                f,
                "the program is too complex: {limit} units of work were spent on following it and \
                 comparing its states, and paths are left: make its loops shorter, or its branches \
                 fewer, or keep less on the stack"
            ),
            Self::OutOfMemory => f.write_str(
                "there is no memory left to verify the program: remove other programs, or make its \
                 loops shorter, or its branches fewer",
            ),
            _ => f.write_str("the verifier has lost its way, which is an error of Periscope"),
        }
    }
}
