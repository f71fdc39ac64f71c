//! What is used of Linux: a few system calls (`include/uapi/asm-generic/unistd.h`, `include/uapi/linux/ptrace.h`,
//! `include/uapi/linux/kexec.h`, `include/uapi/linux/reboot.h`).

use core::arch::asm;
use core::ffi::CStr;
use core::fmt;

/// The number of the system call `getppid`.
pub const GETPPID: usize = 173;
/// What a child stops itself with.
pub const SIGSTOP: i32 = 19;
/// What a step ends with.
pub const SIGTRAP: i32 = 5;

const OPENAT: usize = 56;
const CLOSE: usize = 57;
const LSEEK: usize = 62;
const READ: usize = 63;
const WRITE: usize = 64;
const EXIT_GROUP: usize = 94;
const KEXEC_LOAD: usize = 104;
const PTRACE: usize = 117;
const KILL: usize = 129;
const REBOOT: usize = 142;
const GETPID: usize = 172;
const CLONE: usize = 220;
const EXECVE: usize = 221;
const MMAP: usize = 222;
const WAIT4: usize = 260;

const AT_FDCWD: usize = -100_isize as usize;
const SEEK_END: usize = 2;
const PROT_READ: usize = 1;
const MAP_PRIVATE: usize = 2;

const REBOOT_MAGIC: [usize; 2] = [0xfee1_dead, 0x2812_1969];
const REBOOT_KEXEC: usize = 0x4558_4543;

const SIGKILL: usize = 9;
const SIGCHLD: usize = 17;

const PTRACE_TRACEME: usize = 0;
const PTRACE_CONT: usize = 7;
const PTRACE_SINGLESTEP: usize = 9;
const PTRACE_GETREGSET: usize = 0x4204;
const NT_PRSTATUS: usize = 1;

/// An error number.
#[derive(Clone, Copy, Debug)]
pub struct Errno(pub usize);

/// Calls the kernel.
///
/// # Safety
/// Pointers among the arguments must be what this system call takes.
pub unsafe fn syscall(number: usize, arguments: [usize; 5]) -> Result<usize, Errno> {
    let [first, second, third, fourth, fifth] = arguments;
    let result: isize;
    // SAFETY: a system call changes x0 and memory that the caller has said it may.
    unsafe {
        asm!(
            "svc #0",
            in("x8") number,
            inlateout("x0") first => result,
            in("x1") second,
            in("x2") third,
            in("x3") fourth,
            in("x4") fifth,
            // The offset of a mapping in its file. No other call here has six arguments.
            in("x5") 0,
            options(nostack),
        );
    }
    match usize::try_from(result) {
        Ok(value) => Ok(value),
        Err(_) => Err(Errno(result.unsigned_abs())),
    }
}

/// Standard output.
pub struct Stdout;

impl fmt::Write for Stdout {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        write(1, text)
    }
}

/// Standard error.
pub struct Stderr;

impl fmt::Write for Stderr {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        write(2, text)
    }
}

fn write(file: usize, text: &str) -> fmt::Result {
    let arguments = [file, text.as_ptr() as usize, text.len(), 0, 0];
    // SAFETY: `write` reads these bytes.
    let written = unsafe { syscall(WRITE, arguments) };
    written.map(drop).map_err(|_| fmt::Error)
}

/// Ends the process.
pub fn exit(code: i32) -> ! {
    loop {
        // SAFETY: no pointers.
        let _ = unsafe { syscall(EXIT_GROUP, [code as usize, 0, 0, 0, 0]) };
    }
}

/// The first argument of the program, if it is a number.
///
/// # Safety
/// `stack` must be the stack pointer that the kernel starts a program with.
pub unsafe fn first_argument(stack: *const usize) -> Option<u32> {
    // SAFETY: forwarded to the caller.
    let text = unsafe { argument(stack, 1) }?;
    text.to_str().ok()?.parse().ok()
}

/// An argument of the program by its number; 0 is the program's name.
///
/// # Safety
/// `stack` must be the stack pointer that the kernel starts a program with.
pub unsafe fn argument(stack: *const usize, number: usize) -> Option<&'static CStr> {
    // SAFETY: the number of arguments is there, and pointers to them, for as long as the program runs.
    unsafe { (number < *stack).then(|| CStr::from_ptr(*stack.add(1 + number) as *const _)) }
}

/// A system call of its own: nothing happens.
pub fn getppid() {
    // SAFETY: no pointers.
    let _ = unsafe { syscall(GETPPID, [0; 5]) };
}

/// Becomes the program at `path`, with this name. Returns only where that fails.
pub fn exec(path: &CStr, name: &CStr) -> Errno {
    let names = [name.as_ptr() as usize, 0];
    let environment = [0_usize];
    let (names, environment) = (names.as_ptr() as usize, environment.as_ptr() as usize);
    let arguments = [path.as_ptr() as usize, names, environment, 0, 0];
    // SAFETY: `execve` reads strings, and arrays of pointers to them that end with 0.
    match unsafe { syscall(EXECVE, arguments) } {
        Ok(_) => Errno(0),
        Err(errno) => errno,
    }
}

/// Closes a file.
pub fn close(file: usize) {
    // SAFETY: no pointers.
    let _ = unsafe { syscall(CLOSE, [file, 0, 0, 0, 0]) };
}

/// Opens a file to read it.
pub fn open(path: &CStr) -> Result<usize, Errno> {
    // SAFETY: the path ends in a NUL; no flags: to read.
    unsafe { syscall(OPENAT, [AT_FDCWD, path.as_ptr() as usize, 0, 0, 0]) }
}

/// All of a file, for as long as the process lives.
pub fn map_file(path: &CStr) -> Result<&'static [u8], Errno> {
    let file = open(path)?;
    // SAFETY: no pointers.
    let size = unsafe { syscall(LSEEK, [file, 0, SEEK_END, 0, 0]) }?;
    // SAFETY: the kernel chooses free addresses.
    let place = unsafe { syscall(MMAP, [0, size, PROT_READ, MAP_PRIVATE, file]) }?;
    // SAFETY: that many bytes are mapped there now, and nobody unmaps them or writes to the file.
    Ok(unsafe { core::slice::from_raw_parts(place as *const u8, size) })
}

/// Reads a file that need not know its size, up to the end of `buffer`. Returns how many bytes there were.
pub fn read_file(path: &CStr, buffer: &mut [u8]) -> Result<usize, Errno> {
    let file = open(path)?;
    let mut filled = 0;
    loop {
        let rest = &mut buffer[filled..];
        // SAFETY: the kernel writes into `rest`.
        let count = unsafe { syscall(READ, [file, rest.as_mut_ptr() as usize, rest.len(), 0, 0]) }?;
        filled += count;
        if count == 0 {
            return Ok(filled);
        }
    }
}

/// What is to lie in physical memory when the next kernel starts: `struct kexec_segment`.
#[repr(C)]
pub struct Segment {
    buffer: *const u8,
    buffer_size: usize,
    memory: usize,
    memory_size: usize,
}

impl Segment {
    /// `bytes` at `memory`, and zeros behind them up to `size`.
    pub fn new(bytes: &[u8], memory: usize, size: usize) -> Self {
        const PAGE: usize = 4096;
        Self {
            buffer: bytes.as_ptr(),
            buffer_size: bytes.len(),
            memory,
            memory_size: size.max(bytes.len()).next_multiple_of(PAGE),
        }
    }
}

/// Leaves this kernel for what is at `entry` among `segments`. Returns only if that fails.
pub fn kexec(entry: usize, segments: &[Segment]) -> Errno {
    let load = [entry, segments.len(), segments.as_ptr() as usize, 0, 0];
    // SAFETY: the kernel reads the segments and what they point to.
    if let Err(errno) = unsafe { syscall(KEXEC_LOAD, load) } {
        return errno;
    }
    let [first, second] = REBOOT_MAGIC;
    // SAFETY: no pointers.
    match unsafe { syscall(REBOOT, [first, second, REBOOT_KEXEC, 0, 0]) } {
        Ok(_) => Errno(0),
        Err(errno) => errno,
    }
}

/// Who returns from [`fork`].
pub enum Forked {
    /// The process itself, and its child.
    Parent(Child),
    /// The new process.
    Child,
}

/// Makes a child with a copy of all memory.
pub fn fork() -> Result<Forked, Errno> {
    // SAFETY: without CLONE_VM parent and child have memory of their own, the stack too.
    let id = unsafe { syscall(CLONE, [SIGCHLD, 0, 0, 0, 0]) }?;
    Ok(match id {
        0 => Forked::Child,
        id => Forked::Parent(Child { id }),
    })
}

/// Lets the parent trace this process, and stops it.
pub fn trace_me_and_stop() {
    // SAFETY: no pointers.
    unsafe {
        let _ = syscall(PTRACE, [PTRACE_TRACEME, 0, 0, 0, 0]);
        let own = syscall(GETPID, [0; 5]);
        let _ = syscall(KILL, [own.unwrap_or_default(), SIGSTOP as usize, 0, 0, 0]);
    }
}

/// A child process.
pub struct Child {
    id: usize,
}

/// Why a child does not run.
pub enum Stop {
    /// It stopped by a signal.
    Signal(i32),
    /// It ended.
    Exit(i32),
    /// It was killed.
    Killed(i32),
    /// There is no such child.
    None,
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Stop::Signal(signal) => write!(f, "it stopped with signal {signal}"),
            Stop::Exit(code) => write!(f, "it ended with {code}"),
            Stop::Killed(signal) => write!(f, "signal {signal} killed it"),
            Stop::None => f.write_str("there is no child"),
        }
    }
}

/// The registers that are looked at.
pub struct Registers {
    /// Where the child stands.
    pub pc: u64,
    /// What it counts in.
    pub x9: u64,
}

impl Child {
    /// Waits until it stops or ends.
    pub fn wait(&self) -> Stop {
        let mut status = 0_i32;
        let place = &raw mut status as usize;
        // SAFETY: `wait4` writes an `int` to its second argument.
        if unsafe { syscall(WAIT4, [self.id, place, 0, 0, 0]) }.is_err() {
            return Stop::None;
        }
        let high = status >> 8 & 0xff;
        match status & 0x7f {
            0x7f => Stop::Signal(high),
            0 => Stop::Exit(high),
            signal => Stop::Killed(signal),
        }
    }

    /// Lets it execute one instruction.
    pub fn step(&self) -> Result<(), Errno> {
        self.go(PTRACE_SINGLESTEP)
    }

    /// Lets it run.
    pub fn resume(&self) -> Result<(), Errno> {
        self.go(PTRACE_CONT)
    }

    fn go(&self, request: usize) -> Result<(), Errno> {
        // SAFETY: these requests take no pointers.
        unsafe { syscall(PTRACE, [request, self.id, 0, 0, 0]) }.map(drop)
    }

    /// Its registers, while it is stopped.
    pub fn registers(&self) -> Result<Registers, Errno> {
        // `struct user_pt_regs` (`arch/arm64/include/uapi/asm/ptrace.h`): x0 to x30, SP, PC, PSTATE.
        let mut regs = [0_u64; 34];
        // `struct iovec`: where, and how many bytes.
        let mut vector = [regs.as_mut_ptr() as usize, size_of_val(&regs)];
        let place = vector.as_mut_ptr() as usize;
        // SAFETY: the kernel fills as many bytes as the vector says.
        unsafe { syscall(PTRACE, [PTRACE_GETREGSET, self.id, NT_PRSTATUS, place, 0]) }?;
        Ok(Registers {
            pc: regs[32],
            x9: regs[9],
        })
    }

    /// Ends it.
    pub fn kill(&self) {
        // SAFETY: no pointers.
        let _ = unsafe { syscall(KILL, [self.id, SIGKILL, 0, 0, 0]) };
        self.wait();
    }
}
