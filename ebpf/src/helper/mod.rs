//! The helper functions that programs call. Numbers, arguments and results are Linux'
//! (`include/uapi/linux/bpf.h`).

mod arguments;
mod backtrace;
mod call;
mod expression;
mod format;
mod iterate;
mod place;
mod print;
mod printf;
mod private;
mod prototype;
mod queue;
mod random;
mod read;
mod records;
mod tail;
mod task;

pub(crate) use call::call;
pub(crate) use iterate::{Iteration, MAX_ROUNDS, next_element};
pub use printf::BadFormat;
pub(crate) use printf::check_printf;
pub use private::{PRIVATE, Private};
pub(crate) use prototype::{Argument, Returned};
pub(crate) use read::load_guest;
pub use tail::MAX_TAIL_CALLS;
pub(crate) use tail::tail_call;

/// Bytes that one call of `trace_printk` or `trace_vprintk` prints at most; what is longer is cut.
pub const MAX_PRINT: usize = 512;

/// `-EPERM`: the map is read-only.
pub(crate) const EPERM: u64 = errno(1);
/// `-ENOENT`: no entry with that key.
pub(crate) const ENOENT: u64 = errno(2);
/// `-E2BIG`: the map is full.
pub(crate) const E2BIG: u64 = errno(7);
/// `-EAGAIN`: there is no room now, or nothing to compare with.
pub(crate) const EAGAIN: u64 = errno(11);
/// `-ENOMEM`: no entry can be given up.
pub(crate) const ENOMEM: u64 = errno(12);
/// `-EFAULT`: guest memory cannot be read.
pub(crate) const EFAULT: u64 = errno(14);
/// `-EEXIST`: an entry with that key exists.
pub(crate) const EEXIST: u64 = errno(17);
/// `-EINVAL`: an argument makes no sense.
pub(crate) const EINVAL: u64 = errno(22);

/// `-ENOSPC`: there is no room for a record.
pub(crate) const ENOSPC: u64 = errno(28);
/// `-EOPNOTSUPP`: the buffer is another CPU's.
pub(crate) const EOPNOTSUPP: u64 = errno(95);

const fn errno(number: i64) -> u64 {
    -number as u64
}

macro_rules! helpers {
    ($($(#[$doc:meta])* $variant:ident = $number:literal $name:literal,)*) => {
        /// The helpers that there are.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(u8)]
        pub enum Helper {
            $($(#[$doc])* $variant = $number,)*
        }

        impl Helper {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The helper that Linux gives that number.
            pub const fn from_number(number: i32) -> Option<Self> {
                match number {
                    $($number => Some(Self::$variant),)*
                    _ => None,
                }
            }

            /// Whether it looks into the guest's current task.
            pub const fn reads_task(self) -> bool {
                matches!(
                    self,
                    Self::GetCurrentPidTgid
                        | Self::GetCurrentUidGid
                        | Self::GetCurrentComm
                        | Self::GetCurrentCgroupId
                )
            }

            /// Whether it calls a function of the program.
            pub(crate) const fn calls_back(self) -> bool {
                matches!(self, Self::Loop | Self::ForEachMapElem)
            }

            /// Whether it is for programs only whose context is a function's arguments.
            pub(crate) const fn is_about_arguments(self) -> bool {
                matches!(self, Self::GetFuncArg | Self::GetFuncRet | Self::GetFuncArgCnt)
            }

            /// Whether it is for what agent expressions are compiled to ([`crate::agent`]), and for no other program.
            pub const fn is_of_expressions(self) -> bool {
                let number = self as u8;
                number >= Self::AgentRead as u8 && number <= Self::AgentCollectVariable as u8
            }

            /// Its name, without `bpf_`.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }
        }
    };
}

helpers! {
    /// `void *map_lookup_elem(map, key)`: address of the value, or 0.
    MapLookupElem = 1 "map_lookup_elem",
    /// `long map_update_elem(map, key, value, flags)`.
    MapUpdateElem = 2 "map_update_elem",
    /// `long map_delete_elem(map, key)`.
    MapDeleteElem = 3 "map_delete_elem",
    /// `long probe_read(destination, size, guest address)`: the same as [`Self::ProbeReadKernel`].
    ProbeRead = 4 "probe_read",
    /// `u64 ktime_get_ns()`.
    KtimeGetNs = 5 "ktime_get_ns",
    /// `long trace_printk(format, size, a, b, c)`: the length, or an error.
    TracePrintk = 6 "trace_printk",
    /// `u32 get_prandom_u32()`: a number that programs cannot foresee.
    GetPrandomU32 = 7 "get_prandom_u32",
    /// `u32 get_smp_processor_id()`: the physical CPU.
    GetSmpProcessorId = 8 "get_smp_processor_id",
    /// `long tail_call(context, map, index)`: goes on with the program in that slot of the map, and does
    /// not return; returns where there is none, or after [`MAX_TAIL_CALLS`].
    TailCall = 12 "tail_call",
    /// `u64 get_current_pid_tgid()`: of the guest's current task, the process above, the thread below.
    GetCurrentPidTgid = 14 "get_current_pid_tgid",
    /// `u64 get_current_uid_gid()`: of the guest's current task, the group above, the user below.
    GetCurrentUidGid = 15 "get_current_uid_gid",
    /// `long get_current_comm(destination, size)`: the name of the guest's current task.
    GetCurrentComm = 16 "get_current_comm",
    /// `long perf_event_output(context, map, flags, data, size)`: 0, or `-ENOSPC` where the record is
    /// lost.
    PerfEventOutput = 25 "perf_event_output",
    /// `long get_stackid(context, map, flags)`: the number that the backtrace of the kernel, or of the
    /// process, has in the map.
    GetStackid = 27 "get_stackid",
    /// `u64 get_current_task()`: the GVA of the guest's current `task_struct`.
    GetCurrentTask = 35 "get_current_task",
    /// `long current_task_under_cgroup(map, index)`: `-EAGAIN`, as where the array has no group at
    /// the index; nobody can put one in.
    CurrentTaskUnderCgroup = 37 "current_task_under_cgroup",
    /// `long probe_read_str(destination, size, guest address)`: the same as
    /// [`Self::ProbeReadKernelStr`].
    ProbeReadStr = 45 "probe_read_str",
    /// `long get_stack(context, destination, size, flags)`: the bytes of the same backtrace.
    GetStack = 67 "get_stack",
    /// `u64 get_current_cgroup_id()`: of the guest's current task.
    GetCurrentCgroupId = 80 "get_current_cgroup_id",
    /// `long map_push_elem(map, value, flags)`.
    MapPushElem = 87 "map_push_elem",
    /// `long map_pop_elem(map, value)`.
    MapPopElem = 88 "map_pop_elem",
    /// `long map_peek_elem(map, value)`.
    MapPeekElem = 89 "map_peek_elem",
    /// `long probe_read_user(destination, size, guest address)`: 0, or `-EFAULT` with the
    /// destination zeroed, also for an address of the kernel's.
    ProbeReadUser = 112 "probe_read_user",
    /// `long probe_read_kernel(destination, size, guest address)`: 0, or `-EFAULT` with the
    /// destination zeroed.
    ProbeReadKernel = 113 "probe_read_kernel",
    /// `long probe_read_user_str(destination, size, guest address)`: the length with its NUL, or
    /// `-EFAULT` with the destination zeroed, also for an address of the kernel's.
    ProbeReadUserStr = 114 "probe_read_user_str",
    /// `long probe_read_kernel_str(destination, size, guest address)`: the length with its NUL, or
    /// `-EFAULT` with the destination zeroed.
    ProbeReadKernelStr = 115 "probe_read_kernel_str",
    /// `u64 ktime_get_boot_ns()`: the same as [`Self::KtimeGetNs`], since nothing suspends.
    KtimeGetBootNs = 125 "ktime_get_boot_ns",
    /// `long ringbuf_output(map, data, size, flags)`: 0, or `-EAGAIN` where the record is lost.
    RingbufOutput = 130 "ringbuf_output",
    /// `void *ringbuf_reserve(map, size, flags)`: memory for a record, or 0.
    RingbufReserve = 131 "ringbuf_reserve",
    /// `void ringbuf_submit(record, flags)`.
    RingbufSubmit = 132 "ringbuf_submit",
    /// `void ringbuf_discard(record, flags)`.
    RingbufDiscard = 133 "ringbuf_discard",
    /// `u64 ringbuf_query(map, question)`.
    RingbufQuery = 134 "ringbuf_query",
    /// `struct task_struct *get_current_task_btf()`: the same as [`Self::GetCurrentTask`], and programs may read
    /// through it.
    GetCurrentTaskBtf = 158 "get_current_task_btf",
    /// `long for_each_map_elem(map, function, its context, flags)`: calls the function with the map, the
    /// key and the value of every entry and its context until it returns 1; how often.
    ForEachMapElem = 164 "for_each_map_elem",
    /// `long snprintf(destination, size, format, arguments, bytes of arguments)`: the length with its
    /// NUL of what would be there if it fitted, or an error.
    Snprintf = 165 "snprintf",
    /// `u64 get_func_ip()`: the GVA of the function whose entry or return is probed; 0 elsewhere.
    GetFuncIp = 173 "get_func_ip",
    /// `u64 get_attach_cookie(context)`: what the user has given to the probe, or 0.
    GetAttachCookie = 174 "get_attach_cookie",
    /// `long trace_vprintk(format, size, arguments, bytes of arguments)`: the length, or an error.
    TraceVprintk = 177 "trace_vprintk",
    /// `long loop(times, function, its context, flags)`: calls the function with 0, 1, 2, … and its
    /// context until it returns 1; how often.
    Loop = 181 "loop",
    /// `int strncmp(text, size, string)`: less than 0, 0, or more.
    Strncmp = 182 "strncmp",
    /// `long get_func_arg(context, n, u64 *value)`: argument n of the function; `-EINVAL` where it has
    /// fewer.
    GetFuncArg = 183 "get_func_arg",
    /// `long get_func_ret(context, u64 *value)`: the function's result; `-EOPNOTSUPP` at its entry.
    GetFuncRet = 184 "get_func_ret",
    /// `long get_func_arg_cnt(context)`: how many arguments the function has.
    GetFuncArgCnt = 185 "get_func_arg_cnt",
    /// `void *map_lookup_percpu_elem(map, key, cpu)`: address of the value that the CPU has, or 0.
    MapLookupPercpuElem = 195 "map_lookup_percpu_elem",
    /// `u64 agent_read(address, length, place)`. This one and those up to [`Self::AgentCollectVariable`] are for
    /// compiled agent expressions only ([`crate::agent`]); `place` says which bytecode is served.
    AgentRead = 240 "agent_read",
    /// `agent_fail(place)`: ends the run with an evaluation error.
    AgentFail = 241 "agent_fail",
    /// `agent_printf(format, size, array, bytes, place)`.
    AgentPrintf = 242 "agent_printf",
    /// `u64 agent_register(number, place)`.
    AgentRegister = 243 "agent_register",
    /// `u64 agent_variable(number, place)`: a trace state variable.
    AgentVariable = 244 "agent_variable",
    /// `agent_set_variable(number, value, place)`.
    AgentSetVariable = 245 "agent_set_variable",
    /// `agent_collect(address, length, place)`: memory, into a trace frame.
    AgentCollect = 246 "agent_collect",
    /// `agent_collect_string(address, limit, place)`.
    AgentCollectString = 247 "agent_collect_string",
    /// `agent_collect_variable(number, place)`.
    AgentCollectVariable = 248 "agent_collect_variable",
    /// `u64 duration_ns()`: at the return of a function, how long the call took; at a tracepoint that
    /// measures a time, that time; 0 anywhere else.
    /// This one and those that follow are Periscope's own ([`PRIVATE`]).
    DurationNs = 250 "duration_ns",
    /// `u32 get_vm_id()`: the VM that the program runs for; 0 is the hypervisor.
    GetVmId = 251 "get_vm_id",
    /// `u32 get_vcpu_id()`: its vCPU.
    GetVcpuId = 252 "get_vcpu_id",
    /// `u64 get_exit_reason()`: `ESR_EL2` as the last exception of a vCPU on this CPU has left it.
    GetExitReason = 253 "get_exit_reason",
    /// `long get_tracepoint_name(destination, size)`: 0, or `-EINVAL` at no tracepoint.
    GetTracepointName = 254 "get_tracepoint_name",
}
