//! What the device tree says: memory, CPUs, console, interrupt controller.

use crate::smp::MAX_CPUS;
use spin::Once;

/// Physical addresses and CPUs of the machine.
#[derive(Clone, Copy)]
pub struct Platform {
    /// First byte of RAM.
    pub ram_start: u64,
    /// First byte after the RAM that starts there.
    pub ram_end: u64,
    /// The PL011.
    pub uart: usize,
    /// The GIC distributor.
    pub gicd: usize,
    /// The first GIC redistributor.
    pub gicr: usize,
    /// `MPIDR_EL1` affinities of the CPUs, by index.
    pub affinities: [u64; MAX_CPUS],
    /// How many of `affinities` are CPUs.
    pub cpus: usize,
}

static PLATFORM: Once<Platform> = Once::new();

/// QEMU `virt`'s, and Periscope's VMs': what is missing in the device tree is there.
const FALLBACK: Platform = Platform {
    ram_start: 0x4000_0000,
    ram_end: 0x4400_0000,
    uart: 0x0900_0000,
    gicd: 0x0800_0000,
    gicr: 0x080a_0000,
    affinities: [0; MAX_CPUS],
    cpus: 1,
};

/// Reads the device tree at `address`. Call once, after the MMU is on: `Once` uses exclusives.
pub fn init(tree: Platform) {
    PLATFORM.call_once(|| tree);
}

/// The machine. Before [`init`], what every machine has.
pub fn get() -> &'static Platform {
    PLATFORM.get().unwrap_or(&FALLBACK)
}

/// What the device tree at `address` says; the fall-back where there is none.
pub fn parse(address: u64) -> Platform {
    // SAFETY: the loader put a device tree there, in RAM that nobody else uses; the parser checks
    // its magic.
    let Ok(tree) = (unsafe { fdt::Fdt::from_ptr(address as *const u8) }) else {
        return FALLBACK;
    };
    let mut platform = FALLBACK;
    if let Some(region) = tree.memory().regions().next() {
        platform.ram_start = region.starting_address as u64;
        platform.ram_end = platform.ram_start + region.size.unwrap_or(0) as u64;
    }
    if let Some(base) = register(&tree, "arm,pl011", 0) {
        platform.uart = base;
    }
    if let Some(base) = register(&tree, "arm,gic-v3", 0) {
        platform.gicd = base;
    }
    if let Some(base) = register(&tree, "arm,gic-v3", 1) {
        platform.gicr = base;
    }
    platform.cpus = 0;
    for cpu in tree.cpus().take(MAX_CPUS) {
        platform.affinities[platform.cpus] = cpu.ids().first() as u64;
        platform.cpus += 1;
    }
    platform
}

/// Start of the `index`-th register range of the first device that is `compatible`.
fn register(tree: &fdt::Fdt<'_>, compatible: &str, index: usize) -> Option<usize> {
    let region = tree.find_compatible(&[compatible])?.reg()?.nth(index)?;
    Some(region.starting_address as usize)
}
