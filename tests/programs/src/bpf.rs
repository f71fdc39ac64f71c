//! The kernel's own eBPF, by the system call `bpf` (`include/uapi/linux/bpf.h`).

use crate::linux::{Errno, close, syscall};

const BPF: usize = 280;

/// `enum bpf_cmd`.
pub(crate) mod command {
    pub const MAP_CREATE: usize = 0;
    pub const MAP_LOOKUP_ELEM: usize = 1;
    pub const PROG_LOAD: usize = 5;
    pub const PROG_TEST_RUN: usize = 10;
}

/// `BPF_PROG_TYPE_SYSCALL`: a program that may do what it likes with its context, which whoever runs it
/// gives and gets back.
const SYSCALL: u32 = 31;
/// `BPF_F_SLEEPABLE`, which programs of that type must be.
const SLEEPABLE: u32 = 1 << 4;

/// `BPF_PROG_LOAD`'s part of `union bpf_attr`.
#[repr(C)]
#[derive(Default)]
pub(crate) struct ProgramAttributes {
    pub(crate) kind: u32,
    pub(crate) instructions: u32,
    pub(crate) code: u64,
    pub(crate) license: u64,
    pub(crate) log_level: u32,
    pub(crate) log_size: u32,
    pub(crate) log: u64,
    pub(crate) kernel_version: u32,
    pub(crate) flags: u32,
}

/// `BPF_PROG_TEST_RUN`'s.
#[repr(C)]
#[derive(Default)]
struct RunAttributes {
    program: u32,
    result: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    context_size_in: u32,
    context_size_out: u32,
    context_in: u64,
    context_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u32,
}

/// Does `command` with its attributes.
pub(crate) fn bpf<T>(command: usize, attributes: &T) -> Result<usize, Errno> {
    let place = attributes as *const T as usize;
    // SAFETY: `bpf` reads the attributes, and what they point to is what they say.
    unsafe { syscall(BPF, [command, place, size_of::<T>(), 0, 0]) }
}

/// A program that the kernel has verified and compiled.
pub struct Loaded(usize);

impl Loaded {
    /// Loads a program that reads and writes its context and no more, encoded as the kernel has it. The end of what
    /// the kernel's verifier says goes to `log` (its beginning, before Linux 6.4).
    pub fn load(code: &[[u8; 8]], log: &mut [u8]) -> Result<Self, Errno> {
        // Without a log, none of the three may be set.
        let place = if log.is_empty() {
            0
        } else {
            log.as_mut_ptr() as u64
        };
        let attributes = ProgramAttributes {
            kind: SYSCALL,
            instructions: code.len() as u32,
            code: code.as_ptr() as u64,
            license: c"GPL".as_ptr() as u64,
            log_level: u32::from(!log.is_empty()),
            log_size: log.len() as u32,
            log: place,
            flags: SLEEPABLE,
            ..ProgramAttributes::default()
        };
        bpf(command::PROG_LOAD, &attributes).map(Self)
    }

    /// Runs it on the context. Returns the low half of its result.
    pub fn run(&self, context: &mut [u64]) -> Result<u32, Errno> {
        let mut attributes = RunAttributes {
            program: self.0 as u32,
            context_size_in: size_of_val(context) as u32,
            context_in: context.as_mut_ptr() as u64,
            ..RunAttributes::default()
        };
        let place = &raw mut attributes as usize;
        let arguments = [
            command::PROG_TEST_RUN,
            place,
            size_of::<RunAttributes>(),
            0,
            0,
        ];
        // SAFETY: `bpf` reads and writes the attributes, and the context, which is as large as they say.
        unsafe { syscall(BPF, arguments) }?;
        Ok(attributes.result)
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        close(self.0);
    }
}
