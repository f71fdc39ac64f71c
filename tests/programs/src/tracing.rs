//! A kprobe of Linux' own with an eBPF program attached, as libbpf makes them: the program is loaded with `bpf`, the probe is
//! an event of the PMU `kprobe`, and the program is set on the event.

use crate::bpf::{ProgramAttributes, bpf, command};
use crate::linux::{self, Errno, syscall};
use core::ffi::CStr;

const PERF_EVENT_OPEN: usize = 241;
const IOCTL: usize = 29;

/// `BPF_MAP_TYPE_ARRAY`.
const ARRAY: u32 = 2;
/// `BPF_PROG_TYPE_KPROBE`.
const KPROBE: u32 = 2;
/// `_IOC` of `PERF_EVENT_IOC_SET_BPF` and `PERF_EVENT_IOC_ENABLE` (`include/uapi/linux/perf_event.h`).
const SET_BPF: usize = 0x4004_2408;
const ENABLE: usize = 0x2400;
/// Where the PMU of kprobes says its number.
const PMU: &CStr = c"/sys/bus/event_source/devices/kprobe/type";

/// Which step failed.
#[derive(Debug)]
pub struct Failure(pub &'static str, pub Errno);

/// `BPF_MAP_CREATE`'s part of `union bpf_attr`.
#[repr(C)]
struct MapAttributes {
    kind: u32,
    key_size: u32,
    value_size: u32,
    entries: u32,
}

/// `BPF_MAP_LOOKUP_ELEM`'s.
#[repr(C)]
struct LookupAttributes {
    map: u32,
    key: u64,
    value: u64,
}

/// The first of `struct perf_event_attr`: as far as `PERF_ATTR_SIZE_VER1`.
#[repr(C)]
#[derive(Default)]
struct EventAttributes {
    kind: u32,
    size: u32,
    config: u64,
    period: u64,
    sample: u64,
    read: u64,
    flags: u64,
    wakeup: u32,
    breakpoint: u32,
    /// The probe's function.
    function: u64,
    /// Its offset.
    offset: u64,
}

/// A probe that counts, as our built-in program `count` does: it adds to the only entry of an array.
pub struct Counter {
    map: usize,
}

impl Counter {
    /// Attaches one to a function of the kernel's, on CPU 0. It goes with the process.
    pub fn attach(function: &CStr) -> Result<Self, Failure> {
        let map = MapAttributes {
            kind: ARRAY,
            key_size: 4,
            value_size: 8,
            entries: 1,
        };
        let map = bpf(command::MAP_CREATE, &map).map_err(|errno| Failure("a map", errno))?;
        let program = load(map).map_err(|errno| Failure("a program", errno))?;
        let event = open_kprobe(function).map_err(|errno| Failure("a kprobe", errno))?;
        for (request, argument) in [(SET_BPF, program), (ENABLE, 0)] {
            // SAFETY: neither request takes a pointer.
            unsafe { syscall(IOCTL, [event, request, argument, 0, 0]) }
                .map_err(|errno| Failure("the program on the kprobe", errno))?;
        }
        Ok(Self { map })
    }

    /// How often it has run.
    pub fn count(&self) -> Result<u64, Failure> {
        let (key, mut value) = (0_u32, 0_u64);
        let lookup = LookupAttributes {
            map: self.map as u32,
            key: &raw const key as u64,
            value: &raw mut value as u64,
        };
        bpf(command::MAP_LOOKUP_ELEM, &lookup).map_err(|errno| Failure("the count", errno))?;
        Ok(value)
    }
}

fn load(map: usize) -> Result<usize, Errno> {
    /// `BPF_LD | BPF_IMM | BPF_DW` with `BPF_PSEUDO_MAP_VALUE` as the source: r1 is the address of the map's only value.
    const VALUE_TO_R1: u64 = 0x2118;
    let code: [u64; 6] = [
        VALUE_TO_R1 | (map as u64) << 32,
        0,
        // r2 = 1
        0x1_0000_02b7,
        // lock *(u64 *)(r1 + 0) += r2
        0x21db,
        // r0 = 0: no sample for perf
        0xb7,
        // exit
        0x95,
    ];
    let attributes = ProgramAttributes {
        kind: KPROBE,
        instructions: code.len() as u32,
        code: code.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        ..ProgramAttributes::default()
    };
    bpf(command::PROG_LOAD, &attributes)
}

fn open_kprobe(function: &CStr) -> Result<usize, Errno> {
    const CLOSE_ON_EXEC: usize = 8;
    const NONE: usize = usize::MAX;
    let attributes = EventAttributes {
        kind: pmu()?,
        size: size_of::<EventAttributes>() as u32,
        function: function.as_ptr() as u64,
        ..EventAttributes::default()
    };
    let place = &raw const attributes as usize;
    // SAFETY: `perf_event_open` reads the attributes and the name that they point to.
    unsafe { syscall(PERF_EVENT_OPEN, [place, NONE, 0, NONE, CLOSE_ON_EXEC]) }
}

/// The number of the PMU of kprobes.
fn pmu() -> Result<u32, Errno> {
    let mut text = [0; 16];
    let length = linux::read_file(PMU, &mut text)?;
    let digits = text[..length]
        .iter()
        .take_while(|byte| byte.is_ascii_digit());
    Ok(digits.fold(0, |number, digit| 10 * number + u32::from(digit - b'0')))
}
