//! `kexec`, inside a Linux guest: starts the kernel `/boot/Image` with the root `/boot/initrd` in the place of the one that
//! runs, with its device tree and a new seed for KASLR. Says what is wrong and exits with 1 otherwise.
#![no_std]
#![no_main]

use core::arch::{asm, global_asm};
use core::ffi::CStr;
use core::fmt::Write;
use guest_programs::linux::{self, Errno, Segment, Stdout};

/// Where everything goes (guest-physical; RAM begins at 1 GiB): the kernel where the first one was loaded.
const KERNEL: usize = 0x4000_0000;
const TREE: usize = 0x4400_0000;
const ENTRY: usize = 0x4420_0000;
const INITRD: usize = 0x4500_0000;

/// Where an Image says how much memory it takes (Linux `Documentation/arch/arm64/booting.rst`).
const IMAGE_SIZE: usize = 16;
/// More than the tree of a guest takes.
const MAX_TREE: usize = 64 << 10;
/// `FDT_PROP` (Devicetree Specification v0.4, 5.4.1).
const PROPERTY: u32 = 3;

// `kexec_load` enters without arguments; a kernel wants its tree in x0 and zeros behind it.
global_asm!(
    "    .globl _start",
    "_start:",
    "    b {start}",
    "    .globl enter, enter_end",
    "enter:",
    "    movz x0, #({tree} >> 16), lsl #16",
    "    mov x1, xzr",
    "    mov x2, xzr",
    "    mov x3, xzr",
    "    movz x4, #({kernel} >> 16), lsl #16",
    "    br x4",
    "enter_end:",
    start = sym start,
    tree = const TREE,
    kernel = const KERNEL,
);

unsafe extern "C" {
    static enter: u8;
    static enter_end: u8;
}

/// What went wrong.
enum Failure {
    /// A file cannot be read.
    File(&'static CStr, Errno),
    /// It is not what it should be.
    Format(&'static CStr),
    /// The tree has no such property.
    Property(&'static str),
    /// Linux refuses.
    Kexec(Errno),
}

extern "C" fn start() -> ! {
    let _ = match kexec() {
        Failure::File(path, Errno(number)) => {
            writeln!(Stdout, "kexec: cannot read {path:?}: errno {number}")
        }
        Failure::Format(path) => writeln!(Stdout, "kexec: {path:?} is not what it should be"),
        Failure::Property(name) => writeln!(Stdout, "kexec: the device tree has no {name}"),
        Failure::Kexec(Errno(number)) => writeln!(Stdout, "kexec: refused: errno {number}"),
    };
    linux::exit(1);
}

fn kexec() -> Failure {
    let mut buffer = [0; MAX_TREE];
    let next = match Next::prepare(&mut buffer) {
        Ok(next) => next,
        Err(failure) => return failure,
    };
    let begin = &raw const enter;
    let length = &raw const enter_end as usize - begin as usize;
    // SAFETY: the code between the two symbols.
    let code = unsafe { core::slice::from_raw_parts(begin, length) };
    let segments = [
        Segment::new(next.kernel, KERNEL, next.memory),
        Segment::new(next.tree, TREE, 0),
        Segment::new(code, ENTRY, 0),
        Segment::new(next.initrd, INITRD, 0),
    ];
    Failure::Kexec(linux::kexec(ENTRY, &segments))
}

/// What is started.
struct Next<'a> {
    kernel: &'static [u8],
    /// How many bytes the kernel takes when it runs.
    memory: usize,
    initrd: &'static [u8],
    tree: &'a [u8],
}

impl<'a> Next<'a> {
    fn prepare(buffer: &'a mut [u8]) -> Result<Self, Failure> {
        let map = |path| linux::map_file(path).map_err(|errno| Failure::File(path, errno));
        let (image, initrd) = (c"/boot/Image", map(c"/boot/initrd")?);
        let kernel = map(image)?;
        let memory = kernel.get(IMAGE_SIZE..).and_then(|rest| rest.first_chunk());
        let memory = memory.ok_or(Failure::Format(image))?;
        let path = c"/sys/firmware/fdt";
        let size = linux::read_file(path, buffer).map_err(|errno| Failure::File(path, errno))?;
        let tree = &mut buffer[..size];
        set_property(tree, "kaslr-seed", seed())?;
        set_property(tree, "linux,initrd-start", INITRD as u64)?;
        set_property(tree, "linux,initrd-end", (INITRD + initrd.len()) as u64)?;
        Ok(Self {
            kernel,
            memory: u64::from_le_bytes(*memory) as usize,
            initrd,
            tree,
        })
    }
}

/// Another number each time.
fn seed() -> u64 {
    let ticks: u64;
    // SAFETY: reads a register.
    unsafe { asm!("mrs {}, cntvct_el0", out(reg) ticks) };
    (ticks | 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// Sets a property of eight bytes whose name stands once in the tree.
fn set_property(tree: &mut [u8], name: &'static str, value: u64) -> Result<(), Failure> {
    const STRUCTURE: usize = 8;
    const STRINGS: usize = 12;
    let word = |tree: &[u8], at: usize| {
        let bytes = tree.get(at..).and_then(|rest| rest.first_chunk());
        bytes.map(|bytes| u32::from_be_bytes(*bytes))
    };
    let missing = || Failure::Property(name);
    let structure = word(tree, STRUCTURE).ok_or_else(missing)? as usize;
    let strings = word(tree, STRINGS).ok_or_else(missing)? as usize;
    let names = tree.get(strings..).ok_or_else(missing)?;
    let mut places = names.windows(name.len() + 1);
    let offset = places.position(|place| place.strip_suffix(b"\0") == Some(name.as_bytes()));
    let offset = offset.ok_or_else(missing)? as u32;
    let wanted = [PROPERTY, 8, offset].map(Some);
    let mut words = (structure..tree.len()).step_by(4);
    let found = words.find(|at| [0, 4, 8].map(|offset| word(tree, at + offset)) == wanted);
    let at = found.ok_or_else(missing)? + 12;
    let place = tree.get_mut(at..at + 8).ok_or_else(missing)?;
    place.copy_from_slice(&value.to_be_bytes());
    Ok(())
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    let _ = writeln!(Stdout, "kexec: {info}");
    linux::exit(1);
}
