//! The device tree that a guest boots with (Devicetree Specification v0.4; Linux `Documentation/devicetree/bindings`).

use crate::vgic::{GICD_SIZE, GICR_STRIDE, MAX_VCPUS};
use crate::vuart::VUART_SIZE;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;
use vm_fdt::{FdtWriter, FdtWriterNode};

/// What a guest finds on its board. Addresses are guest physical, sizes in bytes.
#[derive(Clone, Debug)]
pub struct GuestTree<'a> {
    /// Where RAM starts.
    pub memory_base: u64,
    /// How much RAM there is.
    pub memory_size: u64,
    /// How many vCPUs, 1 to [`MAX_VCPUS`]. vCPU n has MPIDR affinity 0.0.0.n.
    pub vcpus: usize,
    /// The GIC distributor.
    pub gicd_base: u64,
    /// The GIC redistributors, one after the other.
    pub gicr_base: u64,
    /// The PL011.
    pub uart_base: u64,
    /// The PL011's interrupt, as an SPI number: INTID − 32.
    pub uart_spi: u32,
    /// The kernel's command line.
    pub bootargs: &'a str,
    /// The initial RAM disk, in RAM.
    pub initrd: Option<Range<u64>>,
    /// What Linux randomises its address with; it overwrites the property.
    pub kaslr_seed: Option<u64>,
    /// Entropy for Linux' random number generator; it overwrites the property.
    pub rng_seed: Option<&'a [u8]>,
}

/// Why there is no tree.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TreeError {
    /// No vCPU, or more than [`MAX_VCPUS`].
    Vcpus(usize),
    /// RAM is empty or wraps around the address space.
    Memory,
    /// The initial RAM disk is not within RAM.
    Initrd(Range<u64>),
    /// The format cannot hold it: a NUL in the command line, for one.
    Format(String),
}

impl fmt::Display for TreeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vcpus(count) => write!(f, "{count} vCPUs asked for: a VM has 1 to {MAX_VCPUS}"),
            Self::Memory => f.write_str("the guest's RAM is empty or exceeds the address space"),
            Self::Initrd(range) => {
                write!(
                    f,
                    "initrd {:#x}..{:#x} is not within the guest's RAM",
                    range.start, range.end
                )
            }
            Self::Format(reason) => write!(f, "the device tree cannot be written: {reason}"),
        }
    }
}

impl From<vm_fdt::Error> for TreeError {
    fn from(error: vm_fdt::Error) -> Self {
        Self::Format(error.to_string())
    }
}

const GIC_PHANDLE: u32 = 1;
const CLOCK_PHANDLE: u32 = 2;
/// Interrupt specifiers of the GIC binding: kind, number, trigger.
const SPI: u32 = 0;
const PPI: u32 = 1;
const LEVEL_HIGH: u32 = 4;
/// PPIs of the timers in the binding's order: secure, non-secure, virtual, hypervisor (SBSA numbers, INTID − 16).
const TIMER_PPIS: [u32; 4] = [13, 14, 11, 10];
/// What the PL011's divisors divide. There is no line behind, so any rate will do; QEMU's `virt` has this one.
const UART_CLOCK_HZ: u32 = 24_000_000;

/// Writes the device tree blob for `tree`.
pub fn build(tree: &GuestTree<'_>) -> Result<Vec<u8>, TreeError> {
    check(tree)?;
    let mut fdt = FdtWriter::new()?;
    let root = fdt.begin_node("")?;
    fdt.property_string("compatible", "linux,dummy-virt")?;
    fdt.property_string("model", "Periscope VM")?;
    fdt.property_u32("#address-cells", 2)?;
    fdt.property_u32("#size-cells", 2)?;
    fdt.property_u32("interrupt-parent", GIC_PHANDLE)?;
    chosen(&mut fdt, tree)?;
    memory(&mut fdt, tree)?;
    cpus(&mut fdt, tree)?;
    psci(&mut fdt)?;
    timer(&mut fdt)?;
    gic(&mut fdt, tree)?;
    clock(&mut fdt)?;
    uart(&mut fdt, tree)?;
    fdt.end_node(root)?;
    Ok(fdt.finish()?)
}

fn check(tree: &GuestTree<'_>) -> Result<(), TreeError> {
    if tree.vcpus == 0 || tree.vcpus > MAX_VCPUS {
        return Err(TreeError::Vcpus(tree.vcpus));
    }
    let memory_end = tree
        .memory_base
        .checked_add(tree.memory_size)
        .ok_or(TreeError::Memory)?;
    if tree.memory_size == 0 {
        return Err(TreeError::Memory);
    }
    match &tree.initrd {
        Some(initrd)
            if initrd.start > initrd.end
                || initrd.start < tree.memory_base
                || initrd.end > memory_end =>
        {
            Err(TreeError::Initrd(initrd.clone()))
        }
        _ => Ok(()),
    }
}

type Written = Result<(), vm_fdt::Error>;

fn node(fdt: &mut FdtWriter, name: &str, base: u64) -> Result<FdtWriterNode, vm_fdt::Error> {
    fdt.begin_node(&format!("{name}@{base:x}"))
}

fn uart_node_name(tree: &GuestTree<'_>) -> String {
    format!("pl011@{:x}", tree.uart_base)
}

fn chosen(fdt: &mut FdtWriter, tree: &GuestTree<'_>) -> Written {
    let chosen = fdt.begin_node("chosen")?;
    fdt.property_string("bootargs", tree.bootargs)?;
    fdt.property_string("stdout-path", &format!("/{}", uart_node_name(tree)))?;
    if let Some(initrd) = &tree.initrd {
        fdt.property_u64("linux,initrd-start", initrd.start)?;
        fdt.property_u64("linux,initrd-end", initrd.end)?;
    }
    if let Some(seed) = tree.kaslr_seed {
        fdt.property_u64("kaslr-seed", seed)?;
    }
    if let Some(seed) = tree.rng_seed {
        fdt.property("rng-seed", seed)?;
    }
    fdt.end_node(chosen)
}

fn memory(fdt: &mut FdtWriter, tree: &GuestTree<'_>) -> Written {
    let memory = node(fdt, "memory", tree.memory_base)?;
    fdt.property_string("device_type", "memory")?;
    fdt.property_array_u64("reg", &[tree.memory_base, tree.memory_size])?;
    fdt.end_node(memory)
}

fn cpus(fdt: &mut FdtWriter, tree: &GuestTree<'_>) -> Written {
    let cpus = fdt.begin_node("cpus")?;
    fdt.property_u32("#address-cells", 1)?;
    fdt.property_u32("#size-cells", 0)?;
    for vcpu in 0..tree.vcpus as u32 {
        let cpu = node(fdt, "cpu", u64::from(vcpu))?;
        fdt.property_string("device_type", "cpu")?;
        fdt.property_string("compatible", "arm,armv8")?;
        fdt.property_u32("reg", vcpu)?;
        fdt.property_string("enable-method", "psci")?;
        fdt.end_node(cpu)?;
    }
    fdt.end_node(cpus)
}

fn psci(fdt: &mut FdtWriter) -> Written {
    let psci = fdt.begin_node("psci")?;
    strings(fdt, "compatible", &["arm,psci-1.0", "arm,psci-0.2"])?;
    fdt.property_string("method", "hvc")?;
    fdt.end_node(psci)
}

fn timer(fdt: &mut FdtWriter) -> Written {
    let timer = fdt.begin_node("timer")?;
    fdt.property_string("compatible", "arm,armv8-timer")?;
    let interrupts: Vec<u32> = TIMER_PPIS
        .iter()
        .flat_map(|ppi| [PPI, *ppi, LEVEL_HIGH])
        .collect();
    fdt.property_array_u32("interrupts", &interrupts)?;
    fdt.property_null("always-on")?;
    fdt.end_node(timer)
}

fn gic(fdt: &mut FdtWriter, tree: &GuestTree<'_>) -> Written {
    let gic = node(fdt, "interrupt-controller", tree.gicd_base)?;
    fdt.property_string("compatible", "arm,gic-v3")?;
    fdt.property_null("interrupt-controller")?;
    fdt.property_u32("#interrupt-cells", 3)?;
    fdt.property_phandle(GIC_PHANDLE)?;
    let redistributors = GICR_STRIDE * tree.vcpus as u64;
    fdt.property_array_u64(
        "reg",
        &[tree.gicd_base, GICD_SIZE, tree.gicr_base, redistributors],
    )?;
    fdt.end_node(gic)
}

fn clock(fdt: &mut FdtWriter) -> Written {
    let clock = fdt.begin_node("apb-pclk")?;
    fdt.property_string("compatible", "fixed-clock")?;
    fdt.property_u32("#clock-cells", 0)?;
    fdt.property_u32("clock-frequency", UART_CLOCK_HZ)?;
    fdt.property_string("clock-output-names", "clk24mhz")?;
    fdt.property_phandle(CLOCK_PHANDLE)?;
    fdt.end_node(clock)
}

fn uart(fdt: &mut FdtWriter, tree: &GuestTree<'_>) -> Written {
    let uart = fdt.begin_node(&uart_node_name(tree))?;
    strings(fdt, "compatible", &["arm,pl011", "arm,primecell"])?;
    fdt.property_array_u64("reg", &[tree.uart_base, VUART_SIZE])?;
    fdt.property_array_u32("interrupts", &[SPI, tree.uart_spi, LEVEL_HIGH])?;
    fdt.property_array_u32("clocks", &[CLOCK_PHANDLE, CLOCK_PHANDLE])?;
    strings(fdt, "clock-names", &["uartclk", "apb_pclk"])?;
    fdt.end_node(uart)
}

fn strings(fdt: &mut FdtWriter, name: &str, values: &[&str]) -> Written {
    fdt.property_string_list(name, values.iter().map(|value| value.to_string()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use fdt::Fdt;

    fn example() -> GuestTree<'static> {
        GuestTree {
            memory_base: 0x4000_0000,
            memory_size: 0x2000_0000,
            vcpus: 2,
            gicd_base: 0x0800_0000,
            gicr_base: 0x080a_0000,
            uart_base: 0x0900_0000,
            uart_spi: 1,
            bootargs: "earlycon console=ttyAMA0",
            initrd: Some(0x4400_0000..0x4480_0123),
            kaslr_seed: Some(0x0123_4567_89ab_cdef),
            rng_seed: Some(&[1, 2, 3]),
        }
    }

    fn cells(blob: &Fdt<'_>, path: &str, name: &str) -> Vec<u32> {
        let property = blob.find_node(path).unwrap().property(name).unwrap();
        property
            .value
            .chunks(4)
            .map(|cell| u32::from_be_bytes(cell.try_into().unwrap()))
            .collect()
    }

    fn strings_of(blob: &Fdt<'_>, path: &str, name: &str) -> Vec<String> {
        let value = blob.find_node(path).unwrap().property(name).unwrap().value;
        value
            .split_inclusive(|byte| *byte == 0)
            .map(|text| String::from_utf8_lossy(text).into())
            .collect()
    }

    #[test]
    fn a_parser_finds_memory_cpus_and_chosen() {
        let blob = build(&example()).unwrap();
        let blob = Fdt::new(&blob).unwrap();
        let regions: Vec<_> = blob
            .memory()
            .regions()
            .map(|region| (region.starting_address as u64, region.size))
            .collect();
        assert_eq!(regions, [(0x4000_0000, Some(0x2000_0000))]);
        let cpus: Vec<_> = blob.cpus().map(|cpu| cpu.ids().first()).collect();
        assert_eq!(cpus, [0, 1]);
        assert!(
            blob.cpus()
                .all(|cpu| cpu.property("enable-method").unwrap().as_str() == Some("psci"))
        );
        assert_eq!(blob.chosen().bootargs(), Some("earlycon console=ttyAMA0"));
        assert_eq!(blob.chosen().stdout().unwrap().name, "pl011@9000000");
        assert_eq!(
            cells(&blob, "/chosen", "linux,initrd-start"),
            [0, 0x4400_0000]
        );
        assert_eq!(
            cells(&blob, "/chosen", "linux,initrd-end"),
            [0, 0x4480_0123]
        );
        assert_eq!(
            cells(&blob, "/chosen", "kaslr-seed"),
            [0x0123_4567, 0x89ab_cdef]
        );
        let chosen = blob.find_node("/chosen").unwrap();
        assert_eq!(chosen.property("rng-seed").unwrap().value, [1, 2, 3]);
    }

    #[test]
    fn a_parser_finds_the_devices_and_their_interrupts() {
        let blob = build(&example()).unwrap();
        let blob = Fdt::new(&blob).unwrap();
        let gic = "/interrupt-controller@8000000";
        assert_eq!(
            cells(&blob, gic, "reg"),
            [0, 0x0800_0000, 0, 0x1_0000, 0, 0x080a_0000, 0, 0x4_0000]
        );
        assert_eq!(
            cells(&blob, "/", "interrupt-parent"),
            cells(&blob, gic, "phandle")
        );
        assert_eq!(
            cells(&blob, "/timer", "interrupts"),
            [1, 13, 4, 1, 14, 4, 1, 11, 4, 1, 10, 4]
        );
        assert_eq!(strings_of(&blob, "/psci", "method"), ["hvc\0"]);
        assert_eq!(
            strings_of(&blob, "/psci", "compatible"),
            ["arm,psci-1.0\0", "arm,psci-0.2\0"]
        );
        let uart = "/pl011@9000000";
        assert_eq!(
            strings_of(&blob, uart, "compatible"),
            ["arm,pl011\0", "arm,primecell\0"]
        );
        assert_eq!(cells(&blob, uart, "interrupts"), [0, 1, 4]);
        let clock = cells(&blob, "/apb-pclk", "phandle")[0];
        assert_eq!(cells(&blob, uart, "clocks"), [clock, clock]);
        assert_eq!(
            strings_of(&blob, uart, "clock-names"),
            ["uartclk\0", "apb_pclk\0"]
        );
    }

    #[test]
    fn what_is_not_given_is_not_there() {
        let tree = GuestTree {
            initrd: None,
            kaslr_seed: None,
            rng_seed: None,
            ..example()
        };
        let blob = build(&tree).unwrap();
        let blob = Fdt::new(&blob).unwrap();
        let chosen = blob.find_node("/chosen").unwrap();
        for name in [
            "linux,initrd-start",
            "linux,initrd-end",
            "kaslr-seed",
            "rng-seed",
        ] {
            assert!(chosen.property(name).is_none(), "{name}");
        }
    }

    #[test]
    fn impossible_guests_are_refused() {
        let refused = |tree: GuestTree<'_>| build(&tree).unwrap_err();
        assert_eq!(
            refused(GuestTree {
                vcpus: 0,
                ..example()
            }),
            TreeError::Vcpus(0)
        );
        assert_eq!(
            refused(GuestTree {
                vcpus: 9,
                ..example()
            }),
            TreeError::Vcpus(9)
        );
        assert_eq!(
            refused(GuestTree {
                memory_size: 0,
                ..example()
            }),
            TreeError::Memory
        );
        assert_eq!(
            refused(GuestTree {
                memory_size: u64::MAX,
                ..example()
            }),
            TreeError::Memory
        );
        let outside = 0x5fff_0000..0x6000_0001;
        let tree = GuestTree {
            initrd: Some(outside.clone()),
            ..example()
        };
        assert_eq!(refused(tree), TreeError::Initrd(outside));
        assert!(matches!(
            refused(GuestTree {
                bootargs: "a\0b",
                ..example()
            }),
            TreeError::Format(_)
        ));
    }
}
