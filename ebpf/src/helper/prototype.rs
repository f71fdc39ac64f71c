//! What helpers take and give, as the verifier checks it: the `bpf_func_proto`s of
//! `kernel/bpf/helpers.c` and `kernel/trace/bpf_trace.c`.

use super::Helper;
use crate::map::MapKind;

/// What a helper wants in a register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Argument {
    /// The helper does not look at it.
    Unused,
    /// Anything that was set (`ARG_ANYTHING`).
    Any,
    /// A map of such a kind (`ARG_CONST_MAP_PTR`).
    Map(MapUse),
    /// Memory with a key of the map (`ARG_PTR_TO_MAP_KEY`).
    Key,
    /// Memory with a value of the map (`ARG_PTR_TO_MAP_VALUE`).
    Value,
    /// Memory that a value of the map is written to (the same, `MEM_UNINIT`).
    ValueWritten,
    /// Memory that a 64-bit number is written to (`ARG_PTR_TO_LONG`).
    WordWritten,
    /// Memory that is read; the next argument says how much (`ARG_PTR_TO_MEM`).
    Read,
    /// The same, or null where the size is 0 (`PTR_MAYBE_NULL`).
    ReadOrNull,
    /// Memory that is written; the next argument says how much (`ARG_PTR_TO_UNINIT_MEM`).
    Write,
    /// The same, or null where the size is 0.
    WriteOrNull,
    /// A string with its NUL in a read-only map (`ARG_PTR_TO_CONST_STR`).
    Text,
    /// The context, as the program was given it (`ARG_PTR_TO_CTX`).
    Context,
    /// The size of the memory before it, not 0 (`ARG_CONST_SIZE`).
    Size,
    /// The same, or 0 (`ARG_CONST_SIZE_OR_ZERO`).
    SizeOrZero,
    /// How much memory is wanted: a constant (`ARG_CONST_ALLOC_SIZE_OR_ZERO`).
    Wanted,
    /// Memory that a helper has given, to be given back (`OBJ_RELEASE`).
    Reserved,
    /// A function of the program (`ARG_PTR_TO_FUNC`).
    Function,
    /// The address of something on the stack, or null (`ARG_PTR_TO_STACK`, `PTR_MAYBE_NULL`).
    StackOrNull,
}

/// For what a helper uses a map.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum MapUse {
    /// It looks up an entry by its key.
    Lookup,
    /// It looks up the value that a CPU has for a key.
    LookupPerCpu,
    /// It changes or removes an entry by its key.
    Change,
    /// It puts a value in or takes one out.
    Queue,
    /// It looks at a value.
    Peek,
    /// It puts out a record of a perf buffer.
    PerfOutput,
    /// It works on a ring buffer.
    Ring,
    /// It asks for a control group.
    Group,
    /// It puts a backtrace in.
    Trace,
    /// It goes through all entries.
    Iterate,
    /// It goes on with a program in it.
    TailCall,
}

impl MapUse {
    /// Whether it writes the map.
    pub(crate) const fn changes(self) -> bool {
        matches!(
            self,
            Self::Change | Self::Queue | Self::PerfOutput | Self::Ring | Self::Trace
        )
    }

    /// Whether maps of that kind can be used so (`check_map_func_compatibility`).
    pub(crate) const fn takes(self, kind: MapKind) -> bool {
        use MapKind::{
            Array, CgroupArray, Hash, LruHash, LruPerCpuHash, PerCpuArray, PerCpuHash,
            PerfEventArray, ProgArray, Queue, RingBuf, Stack, StackTrace,
        };
        match self {
            Self::Lookup | Self::Change | Self::Iterate => matches!(
                kind,
                Hash | PerCpuHash | LruHash | LruPerCpuHash | Array | PerCpuArray
            ),
            Self::LookupPerCpu => kind.is_per_cpu(),
            Self::Queue | Self::Peek => matches!(kind, Queue | Stack),
            Self::PerfOutput => matches!(kind, PerfEventArray),
            Self::Ring => matches!(kind, RingBuf),
            Self::Group => matches!(kind, CgroupArray),
            Self::Trace => matches!(kind, StackTrace),
            Self::TailCall => matches!(kind, ProgArray),
        }
    }
}

/// What a helper leaves in r0.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Returned {
    /// Nothing (`RET_VOID`).
    Nothing,
    /// A number.
    Scalar,
    /// A number that may be read through, as the kernel's pointers to its own structures
    /// (`RET_PTR_TO_BTF_ID_TRUSTED`).
    GuestAddress,
    /// A value of the map, or null (`RET_PTR_TO_MAP_VALUE_OR_NULL`).
    MapValueOrNull,
    /// As much memory as was wanted, to be given back, or null (`RET_PTR_TO_RINGBUF_MEM_OR_NULL`).
    ReservedOrNull,
}

/// What a helper takes in r1 to r5 and leaves in r0.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Prototype {
    pub(crate) arguments: [Argument; 5],
    pub(crate) returned: Returned,
}

impl Prototype {
    pub(crate) const fn new<const N: usize>(arguments: [Argument; N], returned: Returned) -> Self {
        let mut all = [Argument::Unused; 5];
        let mut index = 0;
        while index < N {
            all[index] = arguments[index];
            index += 1;
        }
        Self {
            arguments: all,
            returned,
        }
    }

    /// How many registers have to be set.
    pub(crate) fn count(&self) -> u8 {
        let is_used = |argument: &&Argument| **argument != Argument::Unused;
        self.arguments.iter().take_while(is_used).count() as u8
    }
}

impl Helper {
    /// What it takes and gives.
    pub(crate) const fn prototype(self) -> Prototype {
        use Argument::{
            Any, Context, Function, Key, Map, Read, ReadOrNull, Reserved, Size, SizeOrZero,
            StackOrNull, Text, Value, ValueWritten, Wanted, WordWritten, Write, WriteOrNull,
        };
        use Returned::{GuestAddress, MapValueOrNull, Nothing, ReservedOrNull, Scalar};
        match self {
            Self::MapLookupElem => Prototype::new([Map(MapUse::Lookup), Key], MapValueOrNull),
            Self::MapUpdateElem => Prototype::new([Map(MapUse::Change), Key, Value, Any], Scalar),
            Self::MapDeleteElem => Prototype::new([Map(MapUse::Change), Key], Scalar),
            Self::MapLookupPercpuElem => {
                Prototype::new([Map(MapUse::LookupPerCpu), Key, Any], MapValueOrNull)
            }
            Self::MapPushElem => Prototype::new([Map(MapUse::Queue), Value, Any], Scalar),
            Self::MapPopElem => Prototype::new([Map(MapUse::Queue), ValueWritten], Scalar),
            Self::MapPeekElem => Prototype::new([Map(MapUse::Peek), ValueWritten], Scalar),
            Self::PerfEventOutput => Prototype::new(
                [Context, Map(MapUse::PerfOutput), Any, Read, SizeOrZero],
                Scalar,
            ),
            Self::RingbufOutput => {
                Prototype::new([Map(MapUse::Ring), Read, SizeOrZero, Any], Scalar)
            }
            Self::RingbufReserve => {
                Prototype::new([Map(MapUse::Ring), Wanted, Any], ReservedOrNull)
            }
            Self::RingbufSubmit | Self::RingbufDiscard => Prototype::new([Reserved, Any], Nothing),
            Self::RingbufQuery => Prototype::new([Map(MapUse::Ring), Any], Scalar),
            Self::CurrentTaskUnderCgroup => Prototype::new([Map(MapUse::Group), Any], Scalar),
            Self::ProbeRead
            | Self::ProbeReadUser
            | Self::ProbeReadKernel
            | Self::ProbeReadStr
            | Self::ProbeReadUserStr
            | Self::ProbeReadKernelStr => Prototype::new([Write, SizeOrZero, Any], Scalar),
            Self::GetCurrentComm | Self::GetTracepointName => Prototype::new([Write, Size], Scalar),
            Self::GetStackid => Prototype::new([Context, Map(MapUse::Trace), Any], Scalar),
            Self::GetStack => Prototype::new([Context, Write, SizeOrZero, Any], Scalar),
            Self::GetFuncIp | Self::GetAttachCookie | Self::GetFuncArgCnt => {
                Prototype::new([Context], Scalar)
            }
            Self::GetFuncArg => Prototype::new([Context, Any, WordWritten], Scalar),
            Self::GetFuncRet => Prototype::new([Context, WordWritten], Scalar),
            Self::GetCurrentTaskBtf => Prototype::new([], GuestAddress),
            Self::TailCall => Prototype::new([Context, Map(MapUse::TailCall), Any], Nothing),
            Self::Snprintf => Prototype::new(
                [WriteOrNull, SizeOrZero, Text, ReadOrNull, SizeOrZero],
                Scalar,
            ),
            Self::Loop => Prototype::new([Any, Function, StackOrNull, Any], Scalar),
            Self::ForEachMapElem => {
                Prototype::new([Map(MapUse::Iterate), Function, StackOrNull, Any], Scalar)
            }
            Self::Strncmp => Prototype::new([Read, Size, Text], Scalar),
            // What else it prints is not checked: a format may use none of it.
            Self::TracePrintk => Prototype::new([Read, Size], Scalar),
            Self::TraceVprintk => Prototype::new([Read, Size, ReadOrNull, SizeOrZero], Scalar),
            Self::AgentPrintf => Prototype::new([Read, Size, ReadOrNull, SizeOrZero, Any], Scalar),
            Self::AgentFail => Prototype::new([Any], Scalar),
            Self::AgentRegister | Self::AgentVariable | Self::AgentCollectVariable => {
                Prototype::new([Any, Any], Scalar)
            }
            Self::AgentRead
            | Self::AgentSetVariable
            | Self::AgentCollect
            | Self::AgentCollectString => Prototype::new([Any, Any, Any], Scalar),
            Self::KtimeGetNs
            | Self::KtimeGetBootNs
            | Self::GetPrandomU32
            | Self::GetSmpProcessorId
            | Self::GetCurrentPidTgid
            | Self::GetCurrentUidGid
            | Self::GetCurrentTask
            | Self::GetCurrentCgroupId
            | Self::DurationNs
            | Self::GetVmId
            | Self::GetVcpuId
            | Self::GetExitReason => Prototype::new([], Scalar),
        }
    }
}
