//! What a running program asks of the machine that runs it.

use crate::map::MapId;
use crate::signature::Signature;
use crate::task::TaskFields;

/// The context of a program: Linux' arm64 `struct user_pt_regs`
/// (`arch/arm64/include/uapi/asm/ptrace.h`): x0 to x30, SP, PC, PSTATE, as they were when the vCPU
/// trapped.
pub type Context = [u64; 34];

/// Guest memory that cannot be read: not mapped, not readable for guest EL1, or not RAM.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReadFault;

/// Why something is not collected into a trace frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CollectFault {
    /// The guest's memory cannot be read there.
    Unreadable {
        /// The first address that cannot.
        address: u64,
    },
    /// There is no trace variable of that number.
    NoVariable(u16),
    /// There is no room left for the frame.
    Full,
    /// No trace frame is being made.
    NoFrame,
}

/// There is no room for a record: it is lost.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lost;

/// The machine under a running program. Called on the hit path: an implementation neither allocates
/// nor takes a lock that a stopped CPU can hold.
pub trait Host {
    /// Nanoseconds since the hypervisor started.
    fn ktime_ns(&self) -> u64;
    /// The physical CPU that runs the program, from 0. The same during a whole run.
    fn cpu(&self) -> usize;
    /// At the return of a function: nanoseconds since its entry. `None` anywhere else.
    fn duration_ns(&self) -> Option<u64> {
        None
    }
    /// The guest's current task: the GVA of its `task_struct`. `None` where the vCPU was not in a
    /// Linux kernel.
    fn current(&self) -> Option<u64> {
        None
    }
    /// Where the guest's kernel keeps what it knows of tasks; `None` where that is not known.
    fn task_fields(&self) -> Option<TaskFields> {
        None
    }
    /// The GVA of the function whose entry or return is probed; `None` anywhere else.
    fn function(&self) -> Option<u64> {
        None
    }
    /// What the context of the program is that runs, where that is a function's arguments.
    fn signature(&self) -> Option<Signature> {
        None
    }
    /// The VM that the program runs for; 0 is the hypervisor.
    fn vm(&self) -> u32 {
        0
    }
    /// The vCPU of that VM; of the hypervisor the CPU.
    fn vcpu(&self) -> u32 {
        0
    }
    /// `ESR_EL2` as the last exception of a vCPU on this CPU has left it; 0 where there is no vCPU.
    fn exit_syndrome(&self) -> u64 {
        0
    }
    /// Group and name of the tracepoint that the program runs at.
    fn tracepoint(&self) -> Option<(&'static str, &'static str)> {
        None
    }
    /// What the user has given to the probe for the program (`bpf_get_attach_cookie`); 0 where nothing.
    fn cookie(&self) -> u64 {
        0
    }
    /// Reads the guest's virtual memory as guest EL1 would on the vCPU that trapped. On a fault
    /// nothing is promised about `buffer`.
    fn read_guest(&self, address: u64, buffer: &mut [u8]) -> Result<(), ReadFault>;
    /// Takes a line of text that the program prints, at most [`crate::helper::MAX_PRINT`] bytes,
    /// without a newline unless the program wrote one. Not necessarily UTF-8.
    fn print(&self, text: &[u8]);
    /// Takes text that an agent expression prints, at most [`crate::helper::MAX_PRINT`] bytes, to be shown as it is.
    /// Not necessarily UTF-8.
    fn printf(&self, text: &[u8]) {
        self.print(text);
    }
    /// The register that [`crate::agent::Register::Machine`] has named so.
    fn register(&self, number: u16) -> Option<u64> {
        let _ = number;
        None
    }
    /// The value of a trace state variable of GDB's; `None` where there is none of that number.
    fn state_variable(&self, number: u16) -> Option<u64> {
        let _ = number;
        None
    }
    /// Changes a trace state variable; `None` where there is none of that number.
    fn set_state_variable(&self, number: u16, value: u64) -> Option<()> {
        let _ = (number, value);
        None
    }
    /// Collects the guest's memory into the trace frame that is being made.
    fn collect(&self, address: u64, length: u64) -> Result<(), CollectFault> {
        let _ = (address, length);
        Err(CollectFault::NoFrame)
    }
    /// Collects a string of the guest's with its NUL, or its first `limit` bytes.
    fn collect_string(&self, address: u64, limit: u64) -> Result<(), CollectFault> {
        let _ = (address, limit);
        Err(CollectFault::NoFrame)
    }
    /// Collects the value of a trace state variable.
    fn collect_state_variable(&self, number: u16) -> Result<(), CollectFault> {
        let _ = number;
        Err(CollectFault::NoFrame)
    }
    /// Takes a record of `length` bytes, at most [`crate::map::MAX_RECORD`], that a program puts out
    /// through a map. `words` gives its bytes, eight at a time by number, little-endian; those behind
    /// the end are 0. A machine with nobody who reads records loses them.
    fn record(&self, map: MapId, length: usize, words: &dyn Fn(usize) -> u64) -> Result<(), Lost> {
        let _ = (map, length, words);
        Err(Lost)
    }
}
