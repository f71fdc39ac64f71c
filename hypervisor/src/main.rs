//! The EL2 program of Periscope: a small partitioning hypervisor with a debug server inside.
//!
//! Principles, in order:
//!
//! 1. **Simple and clear before fast and clever.** A vCPU lives on one physical CPU; memory is partitioned at boot; a
//!    guest's devices are an emulated UART, the architectural timer and a virtual GIC.
//! 2. **Say whose fault it is.** A guest's mistake becomes an exception in the guest and a line in the log, a client's an
//!    error reply, ours a panic with a backtrace on this CPU only.
//! 3. **Nothing on the way of a probe hit allocates, parses, or takes a lock that a stopped CPU can hold.**
//!
//! The rooms: `boot`, `mmu`, `heap`, `platform`, `cpu`, `gic`, `time` bring the machine up; `vectors` and `exits` are the
//! exception path, `trace` is where the static events fire; `vm`, `vcpu`, `psci`, `stage2`, `step`, `hwdebug` are a guest; `hyp`, `hprobes`,
//! `text` make the hypervisor itself something to probe; `service` runs the debug server.

#![no_std]
#![no_main]

extern crate alloc;

mod backtrace;
mod boot;
mod console_log;
mod cost;
mod cpu;
mod crash;
mod debugger;
mod el2;
mod esr;
mod exits;
mod fp;
mod gic;
mod guest_sys;
mod heap;
mod hprobes;
mod hwdebug;
mod hyp;
mod inject;
mod interrupts;
mod ksyms;
mod live;
mod lock;
mod machine;
mod masking;
mod mmu;
mod native;
mod own_memory;
mod own_step;
mod own_sys;
mod panic;
mod platform;
mod psci;
mod rendezvous;
mod service;
mod stage2;
mod step;
mod sysreg;
mod text;
mod time;
mod trace;
mod vcpu;
mod vectors;
mod vm;

use alloc::vec::Vec;
use log::{LevelFilter, info, warn};
use platform::{Platform, Range};
use probes::programs::MapMemory;
use trace::{About, trace};
use vcpu::Resident;

/// Whether there is a debug server, and probes: `false` only in what `cargo xtask bench` compares with.
const PERISCOPE: bool = cfg!(feature = "periscope");

/// Memory for the heap without maps: page tables, shadow pages, symbols, programs.
const HEAP_SIZE: u64 = 64 << 20;

/// Where `boot.rs` enters Rust: x0 of the boot protocol, on the first map.
#[unsafe(no_mangle)]
extern "C" fn boot_cpu_main(device_tree: u64) -> ! {
    cpu::enter(0);
    time::init();
    heap::init_early();
    // SAFETY: the arm64 boot protocol promises a device tree in x0.
    let platform = match unsafe { Platform::read(device_tree) } {
        Ok(platform) => platform,
        Err(missing) => panic!(
            "cannot run on this machine: the device tree names no {}",
            missing.0
        ),
    };
    let level = platform
        .option("log")
        .and_then(|name| name.parse().ok())
        .unwrap_or(LevelFilter::Info);
    // SAFETY: the device tree says that a PL011 is there; the first map covers it as device memory.
    unsafe { console_log::init(platform.uart.start, level) };
    mmu::init(&platform.ram, &devices(&platform));
    text::init();

    let mut free = FreeMemory::new(&platform);
    let heap = free.take_low(HEAP_SIZE).expect("RAM for the heap");
    let (maps, map_memory) = take_map_memory(&mut free, &platform);
    // SAFETY: `FreeMemory` hands out RAM once, and never what is reserved.
    unsafe {
        heap::add(heap);
        heap::add(maps);
    }
    // SAFETY: from the device tree, mapped by mmu::init.
    unsafe { gic::init(&platform) };
    let cpus = cpu::start_others(&platform.cpus);
    info!(
        "periscope: EL2 up, {} MiB RAM, {} modules",
        platform.ram.iter().map(Range::size).sum::<u64>() >> 20,
        platform.modules.len()
    );
    trace::init(&platform, cpus);
    vm::create_all(&platform, cpus, |size| free.take_low(size));
    service::init(&platform, map_memory);
    cost::init(&platform);
    settle_vcpus();
    service::start_vms();
    trace!(
        About::Hypervisor,
        VmmInit {
            cpus: cpus as u64,
            vms: vm::all().len() as u64,
            memory: platform.ram.iter().map(Range::size).sum(),
        }
    );
    info!("periscope: ready cpus={cpus} vms={}", vm::all().len());
    crash::arm(&platform);
    run_cpu()
}

/// Memory for the maps of programs, and how much they may take: `maps=MIB` on our command line.
fn take_map_memory(free: &mut FreeMemory, platform: &Platform) -> (Range, MapMemory) {
    let wanted = platform.option("maps").unwrap_or("32");
    let all = wanted.parse::<u32>().ok().map(|mib| u64::from(mib) << 20);
    let range = all.and_then(|all| Some((free.take_low(all)?, MapMemory::of(all))));
    range.unwrap_or_else(|| {
        let memory = MapMemory::DEFAULT;
        warn!("maps={wanted} is no number of MiB that are free: 32 are for maps");
        (free.take_low(memory.all).expect("RAM for maps"), memory)
    })
}

/// Tells every CPU which vCPU lives on it.
fn settle_vcpus() {
    for vcpu in vm::all().iter().flat_map(|vm| vm.vcpus()) {
        let Some(home) = cpu::get(vcpu.home()) else {
            continue;
        };
        if let Some(resident) = Resident::new(vcpu) {
            home.resident.call_once(|| resident);
            vcpu.kick();
        }
    }
}

/// What a CPU does for the rest of its life: without a vCPU, the service; with one, the guest.
fn run_cpu() -> ! {
    loop {
        if let Some(resident) = cpu::this().resident.get() {
            resident.vcpu.run();
        }
        {
            let _window = masking::Window::open();
            interrupts::serve(None);
            service::run_if_due();
            crash::if_requested();
        }
        sysreg::dsb_ish();
        aarch64_cpu::asm::wfi();
    }
}

fn devices(platform: &Platform) -> Vec<Range> {
    let page = |range: &Range| Range {
        start: range.start & !0xfff,
        end: (range.end + 0xfff) & !0xfff,
    };
    let mut devices = alloc::vec![
        page(&platform.gicd),
        page(&platform.gicr),
        page(&platform.uart)
    ];
    for transport in &platform.virtio {
        let transport = page(&Range::sized(transport.base, 0x200));
        if !devices.contains(&transport) {
            devices.push(transport);
        }
    }
    devices
}

/// RAM that nobody has yet.
struct FreeMemory {
    ranges: Vec<Range>,
}

impl FreeMemory {
    const ALIGNMENT: u64 = 2 << 20;

    fn new(platform: &Platform) -> Self {
        unsafe extern "C" {
            static __text_start: u8;
            static __image_end: u8;
        }
        let image = Range {
            start: &raw const __text_start as u64,
            end: &raw const __image_end as u64,
        };
        let mut free = Self {
            ranges: platform.ram.clone(),
        };
        free.remove(image);
        for range in &platform.reserved {
            free.remove(*range);
        }
        for module in &platform.modules {
            free.remove(module.range);
        }
        free
    }

    fn remove(&mut self, taken: Range) {
        let mut rest = Vec::new();
        for range in &self.ranges {
            if !range.overlaps(&taken) {
                rest.push(*range);
                continue;
            }
            let before = Range {
                start: range.start,
                end: taken.start.max(range.start),
            };
            let after = Range {
                start: taken.end.min(range.end),
                end: range.end,
            };
            rest.extend(
                [before, after]
                    .into_iter()
                    .filter(|part| part.start < part.end),
            );
        }
        self.ranges = rest;
    }

    /// The lowest free `size` bytes, 2 MiB aligned.
    fn take_low(&mut self, size: u64) -> Option<Range> {
        let mask = Self::ALIGNMENT - 1;
        let found = self.ranges.iter().find_map(|range| {
            let start = (range.start + mask) & !mask;
            (start + size <= range.end).then_some(Range::sized(start, size))
        })?;
        self.remove(found);
        Some(found)
    }
}
