//! What the board is: memory, CPUs, GIC, UART, virtio transports and boot modules, from the device tree.

use alloc::string::String;
use alloc::vec::Vec;
use fdt::Fdt;
use fdt::node::FdtNode;

/// A half-open range of physical addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// First address.
    pub start: u64,
    /// First address after.
    pub end: u64,
}

impl Range {
    /// From a start and a length in bytes.
    pub const fn sized(start: u64, size: u64) -> Self {
        Self {
            start,
            end: start + size,
        }
    }

    /// Whether `address` lies inside.
    pub const fn contains(&self, address: u64) -> bool {
        self.start <= address && address < self.end
    }

    /// Whether the two share a byte.
    pub const fn overlaps(&self, other: &Range) -> bool {
        self.start < other.end && other.start < self.end
    }

    /// Length in bytes.
    pub const fn size(&self) -> u64 {
        self.end - self.start
    }
}

/// A boot module as QEMU's `guest-loader` describes it (`multiboot,module` in `/chosen`).
#[derive(Clone, Debug)]
pub struct Module {
    /// Where it lies.
    pub range: Range,
    /// Kernel or initial RAM disk.
    pub kind: ModuleKind,
    /// The guest's kernel command line (kernels only).
    pub bootargs: String,
}

/// What a boot module is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModuleKind {
    /// `multiboot,kernel`: an arm64 Image. Each begins a VM.
    Kernel,
    /// `multiboot,ramdisk`: belongs to the kernel before it in memory.
    Ramdisk,
}

/// A virtio-mmio transport.
#[derive(Clone, Copy, Debug)]
pub struct Transport {
    /// Base address.
    pub base: u64,
    /// GIC interrupt number (SPI + 32).
    pub intid: u32,
}

/// The board.
#[derive(Clone, Debug)]
pub struct Platform {
    /// RAM, ascending.
    pub ram: Vec<Range>,
    /// `MPIDR_EL1` affinities of the CPUs, in the order of the device tree.
    pub cpus: Vec<u64>,
    /// GICv3 distributor.
    pub gicd: Range,
    /// GICv3 redistributors.
    pub gicr: Range,
    /// PL011 for the log.
    pub uart: Range,
    /// Its GIC interrupt number (SPI + 32).
    pub uart_intid: u32,
    /// virtio-mmio transports, ascending.
    pub virtio: Vec<Transport>,
    /// Boot modules, ascending.
    pub modules: Vec<Module>,
    /// Our own command line.
    pub bootargs: String,
    /// Memory that is not free: the device tree itself and what `/reserved-memory` and the memory reservations name.
    pub reserved: Vec<Range>,
}

/// The device tree lacks something that we cannot do without.
#[derive(Clone, Copy, Debug)]
pub struct Missing(pub &'static str);

impl Platform {
    /// Reads the flattened device tree at physical address `address`.
    ///
    /// # Safety
    ///
    /// `address` is what the boot loader passed: a device tree in mapped memory that nobody writes.
    pub unsafe fn read(address: u64) -> Result<Self, Missing> {
        // SAFETY: forwarded to the caller; `Fdt` checks the magic number before it trusts the size.
        let tree = unsafe { Fdt::from_ptr(address as *const u8) }
            .map_err(|_| Missing("a device tree where x0 points at boot"))?;
        let mut ram: Vec<Range> = tree
            .memory()
            .regions()
            .filter_map(|region| {
                Some(Range::sized(
                    region.starting_address as u64,
                    region.size? as u64,
                ))
            })
            .collect();
        ram.sort_by_key(|range| range.start);
        let cpus = tree.cpus().map(|cpu| cpu.ids().first() as u64).collect();

        let gic = tree
            .find_compatible(&["arm,gic-v3"])
            .ok_or(Missing("arm,gic-v3"))?;
        let mut gic_regs = ranges(&gic);
        let gicd = gic_regs.next().ok_or(Missing("the GIC's distributor"))?;
        let gicr = gic_regs.next().ok_or(Missing("the GIC's redistributors"))?;
        let uart_node = tree
            .find_compatible(&["arm,pl011"])
            .ok_or(Missing("arm,pl011"))?;
        let uart = ranges(&uart_node)
            .next()
            .ok_or(Missing("the PL011's registers"))?;
        let uart_intid = spi(&uart_node).ok_or(Missing("the PL011's interrupt"))?;

        let mut virtio: Vec<Transport> = tree
            .all_nodes()
            .filter_map(|node| transport(&node))
            .collect();
        virtio.sort_by_key(|transport| transport.base);
        let mut modules: Vec<Module> = tree
            .find_node("/chosen")
            .map(|chosen| chosen.children().filter_map(|node| module(&node)).collect())
            .unwrap_or_default();
        modules.sort_by_key(|module| module.range.start);

        let mut reserved = alloc::vec![Range::sized(address, tree.total_size() as u64)];
        reserved.extend(tree.memory_reservations().map(|reservation| {
            Range::sized(reservation.address() as u64, reservation.size() as u64)
        }));
        if let Some(node) = tree.find_node("/reserved-memory") {
            reserved.extend(
                node.children()
                    .flat_map(|child| ranges(&child).collect::<Vec<_>>()),
            );
        }

        Ok(Self {
            ram,
            cpus,
            gicd,
            gicr,
            uart,
            uart_intid,
            virtio,
            modules,
            bootargs: String::from(tree.chosen().bootargs().unwrap_or("")),
            reserved,
        })
    }

    /// The value of `key=value` on our command line.
    pub fn option(&self, key: &str) -> Option<&str> {
        self.bootargs
            .split_ascii_whitespace()
            .find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
    }

    /// Whether the first VM is debugged over the PL011 (`debug=uart`), which then carries no log.
    pub fn debugs_over_uart(&self) -> bool {
        self.option("debug") == Some("uart")
    }

    /// Whether the word `flag` stands on our command line.
    pub fn flag(&self, flag: &str) -> bool {
        self.bootargs
            .split_ascii_whitespace()
            .any(|word| word == flag)
    }
}

fn ranges<'a>(node: &FdtNode<'_, 'a>) -> impl Iterator<Item = Range> + 'a {
    node.reg().into_iter().flatten().filter_map(|region| {
        Some(Range::sized(
            region.starting_address as u64,
            region.size? as u64,
        ))
    })
}

fn has_compatible(node: &FdtNode<'_, '_>, wanted: &str) -> bool {
    node.compatible()
        .is_some_and(|list| list.all().any(|entry| entry == wanted))
}

fn transport(node: &FdtNode<'_, '_>) -> Option<Transport> {
    if !has_compatible(node, "virtio,mmio") {
        return None;
    }
    let base = ranges(node).next()?.start;
    let intid = spi(node)?;
    Some(Transport { base, intid })
}

/// The GIC interrupt number of a device. GIC binding: `<kind number flags>`, kind 0 is an SPI.
fn spi(node: &FdtNode<'_, '_>) -> Option<u32> {
    let cells = node.property("interrupts")?.value;
    let number = u32::from_be_bytes(cells.get(4..8)?.try_into().ok()?);
    Some(number + 32)
}

fn module(node: &FdtNode<'_, '_>) -> Option<Module> {
    let kind = if has_compatible(node, "multiboot,kernel") {
        ModuleKind::Kernel
    } else if has_compatible(node, "multiboot,ramdisk") {
        ModuleKind::Ramdisk
    } else {
        return None;
    };
    let bootargs = node
        .property("bootargs")
        .and_then(|property| property.as_str())
        .unwrap_or("");
    // Two cells each, whatever /chosen says or does not say of its cells (QEMU `hw/core/guest-loader.c`).
    let reg = node.property("reg")?.value;
    let start = u64::from_be_bytes(reg.get(0..8)?.try_into().ok()?);
    let size = u64::from_be_bytes(reg.get(8..16)?.try_into().ok()?);
    let range = Range {
        start,
        end: start.checked_add(size)?,
    };
    Some(Module {
        range,
        kind,
        bootargs: String::from(bootargs),
    })
}
