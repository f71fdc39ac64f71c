//! A guest's view of the virtual GIC, through a model of the CPU interface that works on list registers.

use super::bank::bits;
use super::lr::{ListReg, OnDeactivation};
use super::*;
use alloc::vec::Vec;
use proptest::prelude::*;

const SPI: u32 = 40;
/// `SGI_base` of vCPU 0.
const SGI_BASE: u64 = 0x1_0000;

/// A CPU that runs a vCPU: what the hardware does with list registers (IHI 0069, 4.8 and 6.1), `EOImode` 0.
struct Cpu {
    regs: ListRegs,
    /// Physical timer interrupts that the guest's deactivations reached.
    timer_deactivations: usize,
    /// Priorities of what was acknowledged and not ended (`ICH_AP1R`).
    running: Vec<u8>,
}

impl Cpu {
    fn new(count: usize) -> Self {
        Self {
            regs: ListRegs::new(count),
            timer_deactivations: 0,
            running: Vec::new(),
        }
    }

    fn enter(&mut self, gic: &mut Vgic, vcpu: usize) -> PhysicalTimer {
        gic.flush(vcpu, &mut self.regs, Delivery::Normal)
    }

    fn exit(&self, gic: &mut Vgic, vcpu: usize) -> VcpuMask {
        gic.sync(vcpu, &self.regs)
    }

    fn listed(&self) -> Vec<ListReg> {
        self.regs
            .lr
            .iter()
            .filter(|lr| **lr != 0)
            .map(|lr| ListReg::decode(*lr))
            .collect()
    }

    fn find(&self, intid: u32) -> Option<ListReg> {
        self.listed().into_iter().find(|lr| lr.intid == intid)
    }

    /// `ICC_IAR1_EL1`.
    fn acknowledge(&mut self) -> Option<u32> {
        let threshold = self.running.last().copied().unwrap_or(0xff);
        let best = (0..self.regs.count)
            .map(|n| (n, ListReg::decode(self.regs.lr[n])))
            .filter(|(_, lr)| lr.pending && lr.priority < threshold)
            .min_by_key(|(_, lr)| lr.priority);
        let (n, lr) = best?;
        self.regs.lr[n] = ListReg {
            pending: false,
            active: true,
            ..lr
        }
        .encode();
        self.running.push(lr.priority);
        Some(lr.intid)
    }

    /// `ICC_EOIR1_EL1`.
    fn end(&mut self, intid: u32) {
        self.running.pop();
        let listed = (0..self.regs.count)
            .map(|n| (n, ListReg::decode(self.regs.lr[n])))
            .find(|(_, lr)| lr.active && lr.intid == intid);
        let Some((n, lr)) = listed else {
            self.regs.hcr += 1 << hcr::EOICOUNT_SHIFT;
            return;
        };
        if lr.on_deactivation == OnDeactivation::Physical(VTIMER_INTID) {
            self.timer_deactivations += 1;
        }
        let left = ListReg {
            active: false,
            ..lr
        };
        self.regs.lr[n] = if left.pending {
            left.encode()
        } else {
            left.encode() & !(3 << 62)
        };
    }
}

/// The accesses that Linux 6.12 makes while it boots on `vcpus` CPUs: `gic_of_init`, `gic_dist_init`,
/// `gic_cpu_init` (drivers/irqchip/irq-gic-v3.c).
fn boot_linux(vcpus: usize) -> Vgic {
    let mut gic = Vgic::new(vcpus);
    assert_eq!(gic.dist_read(0xffe8, 4) & 0xf0, 0x30, "GICv3");
    let lines = (gic.dist_read(0x4, 4) & 0x1f) + 1;
    assert_eq!(32 * lines, 96);
    let _ = gic.dist_write(0x0, 4, 0);
    assert_eq!(gic.dist_read(0x0, 4) >> 31, 0, "no write is pending");
    for word in 1..lines {
        let _ = gic.dist_write(0x80 + 4 * word, 4, 0xffff_ffff);
        let _ = gic.dist_write(0x380 + 4 * word, 4, 0xffff_ffff);
        let _ = gic.dist_write(0x180 + 4 * word, 4, 0xffff_ffff);
    }
    for intid in (32..96).step_by(4) {
        let _ = gic.dist_write(0x400 + intid, 4, 0xa0a0_a0a0);
    }
    for intid in (32..96).step_by(16) {
        let _ = gic.dist_write(0xc00 + intid / 4, 4, 0);
    }
    let _ = gic.dist_write(0x0, 4, 0x13);
    assert_eq!(gic.dist_read(0x0, 4), 0x52);
    for intid in 32..96 {
        let _ = gic.dist_write(0x6000 + 8 * intid, 8, 0);
    }
    for vcpu in 0..vcpus {
        boot_linux_cpu(&mut gic, vcpu);
    }
    gic
}

fn boot_linux_cpu(gic: &mut Vgic, vcpu: usize) {
    let mut frame = 0;
    loop {
        assert_eq!(gic.redist_read(frame + 0xffe8, 4) & 0xf0, 0x30);
        let typer = gic.redist_read(frame + 0x8, 8);
        if typer >> 32 == vcpu as u64 {
            break;
        }
        assert_eq!(typer & 1 << 4, 0, "not the last: another follows");
        frame += GICR_STRIDE;
    }
    let waker = gic.redist_read(frame + 0x14, 4);
    let _ = gic.redist_write(frame + 0x14, 4, waker & !2);
    assert_eq!(
        gic.redist_read(frame + 0x14, 4) & 4,
        0,
        "the children are awake"
    );
    let sgi_base = frame + 0x1_0000;
    let _ = gic.redist_write(sgi_base + 0x80, 4, 0xffff_ffff);
    let _ = gic.redist_write(sgi_base + 0x380, 4, 0xffff_ffff);
    let _ = gic.redist_write(sgi_base + 0x180, 4, 0xffff_0000);
    for intid in (0..32).step_by(4) {
        let _ = gic.redist_write(sgi_base + 0x400 + intid, 4, 0xa0a0_a0a0);
    }
    let _ = gic.redist_write(sgi_base + 0x100, 4, 0x0000_ffff);
    let _ = gic.redist_write(sgi_base + 0x100, 4, 1 << VTIMER_INTID);
    assert_eq!(gic.redist_read(sgi_base + 0x100, 4), 0x0800_ffff);
}

fn enable_spi(gic: &mut Vgic, intid: u32) {
    let offset = 0x100 + u64::from(intid / 32 * 4);
    let _ = gic.dist_write(offset, 4, 1 << (intid % 32));
}

fn make_edge(gic: &mut Vgic, intid: u32) {
    let offset = 0xc00 + u64::from(intid / 16 * 4);
    let word = gic.dist_read(offset, 4) | 2 << (2 * (intid % 16));
    let _ = gic.dist_write(offset, 4, word);
}

#[test]
fn linux_boots_and_gets_nothing_before_it_asks() {
    let mut gic = Vgic::new(2);
    assert_eq!(gic.set_spi_level(SPI, true), VcpuMask::NONE);
    assert!(!gic.has_pending(0));
    let mut gic = boot_linux(2);
    assert_eq!(gic.set_spi_level(SPI, true), VcpuMask::NONE, "not enabled");
    assert_eq!(gic.dist_read(0x204, 4), 1 << 8);
    enable_spi(&mut gic, SPI);
    assert!(gic.has_pending(0) && !gic.has_pending(1));
}

#[test]
fn registers_outside_what_exists_are_zero() {
    let mut gic = boot_linux(2);
    for size in [0, 1, 2, 3, 4, 8, 16] {
        for offset in [
            0x178,
            0xf00,
            0x7000,
            0xfffc,
            u64::MAX,
            u64::MAX - 7,
            0x10c,
            0x6300,
        ] {
            let _ = gic.dist_write(offset, size, u64::MAX);
            assert_eq!(gic.dist_read(offset, size), 0, "{offset:#x} {size}");
        }
        for offset in [
            2 * GICR_STRIDE,
            u64::MAX,
            0x70,
            SGI_BASE + 0x104,
            SGI_BASE + 0x420,
        ] {
            let _ = gic.redist_write(offset, size, u64::MAX);
            assert_eq!(gic.redist_read(offset, size), 0, "{offset:#x} {size}");
        }
    }
}

#[test]
fn priorities_are_bytes_of_five_bits() {
    let mut gic = boot_linux(1);
    let _ = gic.dist_write(0x400 + u64::from(SPI) + 1, 1, 0x47);
    assert_eq!(gic.dist_read(0x400 + u64::from(SPI), 4), 0xa0a0_40a0);
    assert_eq!(gic.dist_read(0x400 + u64::from(SPI) + 1, 1), 0x40);
    let _ = gic.redist_write(SGI_BASE + 0x400 + 3, 1, 0xff);
    assert_eq!(gic.redist_read(SGI_BASE + 0x400, 4), 0xf8a0_a0a0);
}

#[test]
fn routes_and_configuration_read_back() {
    let mut gic = boot_linux(2);
    let _ = gic.dist_write(0x6000 + 8 * u64::from(SPI), 8, 1 << 31 | 1);
    assert_eq!(
        gic.dist_read(0x6000 + 8 * u64::from(SPI), 8),
        1,
        "no 1-of-N"
    );
    make_edge(&mut gic, SPI);
    assert_eq!(gic.dist_read(0xc00 + 8, 4), 2 << 16);
    assert_eq!(
        gic.redist_read(SGI_BASE + 0xc00, 4),
        0xaaaa_aaaa,
        "SGIs are edges"
    );
    let _ = gic.redist_write(SGI_BASE + 0xc04, 4, !0);
    assert_eq!(gic.redist_read(SGI_BASE + 0xc04, 4), 0, "PPIs are levels");
}

#[test]
fn sgis_go_back_and_forth() {
    let mut gic = boot_linux(2);
    let mut cpus = [Cpu::new(4), Cpu::new(4)];
    for round in 0..10 {
        let (from, to) = (round % 2, (round + 1) % 2);
        assert_eq!(gic.sgi1r(from, 3 << 24 | 1 << to), VcpuMask(1 << to));
        assert!(gic.has_pending(to) && !gic.has_pending(from));
        let _ = cpus[to].enter(&mut gic, to);
        assert_eq!(cpus[to].acknowledge(), Some(3));
        assert_eq!(cpus[to].acknowledge(), None);
        cpus[to].end(3);
        assert_eq!(cpus[to].exit(&mut gic, to), VcpuMask::NONE);
        assert!(!gic.has_pending(to));
    }
}

#[test]
fn sgi_targets() {
    let mut gic = boot_linux(3);
    assert_eq!(gic.sgi1r(1, 1 << 40), VcpuMask(0b101), "all but self");
    assert_eq!(gic.sgi1r(1, 0b110), VcpuMask(0b110));
    assert_eq!(gic.sgi1r(1, 1 << 16 | 1), VcpuMask::NONE, "another cluster");
    assert_eq!(gic.sgi1r(1, 1 << 7), VcpuMask::NONE, "no such vCPU");
    assert_eq!(gic.sgi1r(1, 1 << 9), VcpuMask::NONE, "no such vCPU");
}

#[test]
fn an_edge_while_active_is_pending_and_active() {
    let mut gic = boot_linux(1);
    let mut cpu = Cpu::new(4);
    let _ = gic.sgi1r(0, 1);
    let _ = cpu.enter(&mut gic, 0);
    assert_eq!(cpu.acknowledge(), Some(0));
    assert_eq!(gic.sgi1r(0, 1), VcpuMask(1), "runs, so it must come in");
    let _ = cpu.exit(&mut gic, 0);
    let _ = cpu.enter(&mut gic, 0);
    let lr = cpu.find(0).unwrap();
    assert!(lr.pending && lr.active);
    assert_eq!(cpu.acknowledge(), None, "same priority");
    cpu.end(0);
    assert_eq!(cpu.acknowledge(), Some(0));
}

#[test]
fn the_highest_priority_comes_first() {
    let mut gic = boot_linux(1);
    let mut cpu = Cpu::new(4);
    for (intid, priority) in [(1, 0x80), (2, 0x20), (3, 0x60)] {
        let _ = gic.redist_write(SGI_BASE + 0x400 + intid, 1, priority);
        let _ = gic.sgi1r(0, intid << 24 | 1);
    }
    let _ = cpu.enter(&mut gic, 0);
    let order: Vec<u32> = cpu.listed().iter().map(|lr| lr.intid).collect();
    assert_eq!(order, [2, 3, 1]);
    assert_eq!(cpu.acknowledge(), Some(2));
}

#[test]
fn more_pending_than_list_registers() {
    let mut gic = boot_linux(1);
    let mut cpu = Cpu::new(4);
    for intid in 0..10 {
        let _ = gic.sgi1r(0, intid << 24 | 1);
    }
    let mut taken = Vec::new();
    for _ in 0..10 {
        let _ = cpu.enter(&mut gic, 0);
        let more_wait = taken.len() + 4 < 10;
        assert_eq!(cpu.regs.hcr & hcr::NPIE != 0, more_wait);
        while let Some(intid) = cpu.acknowledge() {
            taken.push(intid);
            cpu.end(intid);
        }
        let _ = cpu.exit(&mut gic, 0);
    }
    assert_eq!(taken, (0..10).collect::<Vec<_>>());
    assert!(!gic.has_pending(0));
}

#[test]
fn more_active_than_list_registers() {
    let mut gic = boot_linux(1);
    let mut cpu = Cpu::new(2);
    let mut nested = Vec::new();
    for intid in 0..4u64 {
        let _ = gic.redist_write(SGI_BASE + 0x400 + intid, 1, 0x80 - 0x10 * intid);
        let _ = gic.sgi1r(0, intid << 24 | 1);
        let _ = cpu.enter(&mut gic, 0);
        nested.push(cpu.acknowledge().unwrap());
        let _ = cpu.exit(&mut gic, 0);
    }
    assert_eq!(nested, [0, 1, 2, 3]);
    let _ = cpu.enter(&mut gic, 0);
    assert_ne!(cpu.regs.hcr & hcr::LRENPIE, 0);
    while let Some(intid) = nested.pop() {
        cpu.end(intid);
    }
    assert_eq!(cpu.regs.hcr >> hcr::EOICOUNT_SHIFT, 2);
    let _ = cpu.exit(&mut gic, 0);
    assert_eq!(gic.redist_read(SGI_BASE + 0x300, 4), 0, "none is active");
}

#[test]
fn a_line_that_stays_high_interrupts_again() {
    let mut gic = boot_linux(1);
    let mut cpu = Cpu::new(4);
    enable_spi(&mut gic, SPI);
    assert_eq!(gic.set_spi_level(SPI, true), VcpuMask(1));
    for _ in 0..3 {
        let _ = cpu.enter(&mut gic, 0);
        assert_eq!(
            cpu.find(SPI).unwrap().on_deactivation,
            OnDeactivation::Maintenance
        );
        assert_eq!(cpu.acknowledge(), Some(SPI));
        let _ = cpu.exit(&mut gic, 0);
        let _ = cpu.enter(&mut gic, 0);
        assert!(!cpu.find(SPI).unwrap().pending, "not while it is active");
        cpu.end(SPI);
        let _ = cpu.exit(&mut gic, 0);
        assert!(gic.has_pending(0));
    }
    let _ = gic.set_spi_level(SPI, false);
    assert!(!gic.has_pending(0));
}

#[test]
fn a_line_that_drops_before_the_guest_looks_is_withdrawn() {
    let mut gic = boot_linux(1);
    let mut cpu = Cpu::new(4);
    enable_spi(&mut gic, SPI);
    let _ = gic.set_spi_level(SPI, true);
    let _ = cpu.enter(&mut gic, 0);
    assert_eq!(
        gic.set_spi_level(SPI, false),
        VcpuMask(1),
        "it is in a list register"
    );
    let _ = cpu.exit(&mut gic, 0);
    let _ = cpu.enter(&mut gic, 0);
    assert_eq!(cpu.listed(), []);
}

#[test]
fn disabled_while_in_a_list_register() {
    let mut gic = boot_linux(2);
    let mut cpu = Cpu::new(4);
    enable_spi(&mut gic, SPI);
    make_edge(&mut gic, SPI);
    let _ = gic.set_spi_level(SPI, true);
    let _ = cpu.enter(&mut gic, 0);
    assert_eq!(gic.dist_write(0x184, 4, 1 << 8), VcpuMask(1));
    assert_eq!(cpu.exit(&mut gic, 0), VcpuMask::NONE);
    let _ = cpu.enter(&mut gic, 0);
    assert_eq!(cpu.listed(), []);
    assert_eq!(gic.dist_read(0x204, 4), 1 << 8, "pending all the same");
    let _ = cpu.exit(&mut gic, 0);
    assert_eq!(gic.dist_write(0x104, 4, 1 << 8), VcpuMask(1));
    let _ = cpu.enter(&mut gic, 0);
    assert_eq!(cpu.acknowledge(), Some(SPI));
}

#[test]
fn pending_cleared_while_in_a_list_register_does_not_come_back() {
    let mut gic = boot_linux(2);
    let mut cpu = Cpu::new(4);
    enable_spi(&mut gic, SPI);
    make_edge(&mut gic, SPI);
    let _ = gic.set_spi_level(SPI, true);
    let _ = cpu.enter(&mut gic, 0);
    assert_eq!(gic.dist_write(0x284, 4, 1 << 8), VcpuMask(1));
    let _ = cpu.exit(&mut gic, 0);
    assert_eq!(gic.dist_read(0x204, 4), 0);
}

#[test]
fn active_written_while_in_a_list_register_counts() {
    let mut gic = boot_linux(2);
    let mut cpu = Cpu::new(4);
    enable_spi(&mut gic, SPI);
    make_edge(&mut gic, SPI);
    let _ = gic.set_spi_level(SPI, true);
    let _ = cpu.enter(&mut gic, 0);
    assert_eq!(cpu.acknowledge(), Some(SPI));
    assert_eq!(gic.dist_write(0x384, 4, 1 << 8), VcpuMask(1));
    let _ = cpu.exit(&mut gic, 0);
    assert_eq!(gic.dist_read(0x304, 4), 0);
}

#[test]
fn a_routed_spi_moves() {
    let mut gic = boot_linux(2);
    let mut cpus = [Cpu::new(4), Cpu::new(4)];
    enable_spi(&mut gic, SPI);
    let _ = gic.set_spi_level(SPI, true);
    let _ = cpus[0].enter(&mut gic, 0);
    let route = 0x6000 + 8 * u64::from(SPI);
    assert_eq!(
        gic.dist_write(route, 8, 1),
        VcpuMask(1),
        "vCPU 0 must give it back"
    );
    let _ = cpus[1].enter(&mut gic, 1);
    assert_eq!(cpus[1].listed(), [], "in one place at a time");
    let _ = cpus[1].exit(&mut gic, 1);
    assert_eq!(cpus[0].exit(&mut gic, 0), VcpuMask(2));
    let _ = cpus[0].enter(&mut gic, 0);
    assert_eq!(cpus[0].listed(), []);
    let _ = cpus[1].enter(&mut gic, 1);
    assert_eq!(cpus[1].acknowledge(), Some(SPI));
    assert_eq!(gic.dist_write(route, 8, 0), VcpuMask(2));
    let _ = cpus[1].exit(&mut gic, 1);
    let _ = cpus[1].enter(&mut gic, 1);
    assert!(
        cpus[1].find(SPI).unwrap().active,
        "an active one stays where it is"
    );
    cpus[1].end(SPI);
    assert_eq!(
        cpus[1].exit(&mut gic, 1),
        VcpuMask(1),
        "the line is still high"
    );
    assert_eq!(gic.dist_write(route, 8, 7), VcpuMask::NONE, "no such vCPU");
    assert!(!gic.has_pending(0) && !gic.has_pending(1));
}

#[test]
fn the_timer_is_linked_to_the_physical_one() {
    let mut gic = boot_linux(2);
    let mut cpu = Cpu::new(4);
    for round in 1..4 {
        assert_eq!(gic.timer_fired(1), VcpuMask(2));
        assert_eq!(cpu.enter(&mut gic, 1), PhysicalTimer::Keep);
        let lr = cpu.find(VTIMER_INTID).unwrap();
        assert_eq!(lr.on_deactivation, OnDeactivation::Physical(VTIMER_INTID));
        assert_eq!(cpu.acknowledge(), Some(VTIMER_INTID));
        let _ = cpu.exit(&mut gic, 1);
        gic.timer_sample(1, false);
        assert_eq!(
            cpu.enter(&mut gic, 1),
            PhysicalTimer::Keep,
            "the guest ends it"
        );
        cpu.end(VTIMER_INTID);
        assert_eq!(cpu.timer_deactivations, round);
        let _ = cpu.exit(&mut gic, 1);
        assert!(!gic.has_pending(1));
        assert_eq!(cpu.enter(&mut gic, 1), PhysicalTimer::Keep);
    }
}

#[test]
fn a_timer_whose_condition_goes_is_withdrawn() {
    let mut gic = boot_linux(1);
    let mut cpu = Cpu::new(4);
    let _ = gic.timer_fired(0);
    let _ = cpu.enter(&mut gic, 0);
    let _ = cpu.exit(&mut gic, 0);
    gic.timer_sample(0, true);
    assert!(gic.has_pending(0));
    gic.timer_sample(0, false);
    assert!(!gic.has_pending(0));
    assert_eq!(cpu.enter(&mut gic, 0), PhysicalTimer::Deactivate);
    assert_eq!(cpu.listed(), []);
    assert_eq!(cpu.enter(&mut gic, 0), PhysicalTimer::Keep, "once");
}

#[test]
fn the_guest_or_a_reset_can_drop_an_active_timer() {
    let mut gic = boot_linux(1);
    let mut cpu = Cpu::new(4);
    for reset in [false, true] {
        cpu.running.clear();
        let _ = gic.timer_fired(0);
        let _ = cpu.enter(&mut gic, 0);
        assert_eq!(cpu.acknowledge(), Some(VTIMER_INTID));
        let _ = cpu.exit(&mut gic, 0);
        if reset {
            gic.reset();
        } else {
            let _ = gic.redist_write(SGI_BASE + 0x380, 4, 1 << VTIMER_INTID);
        }
        assert_eq!(cpu.enter(&mut gic, 0), PhysicalTimer::Deactivate);
        assert_eq!(cpu.listed(), []);
        let _ = cpu.exit(&mut gic, 0);
    }
}

#[test]
fn a_timer_deactivated_by_another_vcpu_while_it_is_listed() {
    let mut gic = boot_linux(2);
    let mut cpu = Cpu::new(4);
    let _ = gic.timer_fired(0);
    let _ = cpu.enter(&mut gic, 0);
    assert_eq!(cpu.acknowledge(), Some(VTIMER_INTID));
    assert_eq!(
        gic.redist_write(SGI_BASE + 0x380, 4, 1 << VTIMER_INTID),
        VcpuMask(1)
    );
    let _ = cpu.exit(&mut gic, 0);
    assert_eq!(cpu.enter(&mut gic, 0), PhysicalTimer::Deactivate);
    assert_eq!(cpu.listed(), []);
}

#[test]
fn withheld_for_one_instruction() {
    let mut gic = boot_linux(1);
    let mut cpu = Cpu::new(4);
    enable_spi(&mut gic, SPI);
    let _ = gic.sgi1r(0, 5 << 24 | 1);
    let _ = cpu.enter(&mut gic, 0);
    assert_eq!(cpu.acknowledge(), Some(5));
    let _ = gic.sgi1r(0, 5 << 24 | 1);
    let _ = gic.set_spi_level(SPI, true);
    let _ = cpu.exit(&mut gic, 0);
    assert_eq!(
        gic.flush(0, &mut cpu.regs, Delivery::Withheld),
        PhysicalTimer::Keep
    );
    assert_eq!(cpu.listed().len(), 1);
    assert!(cpu.listed()[0].active && !cpu.listed()[0].pending);
    assert_eq!(cpu.regs.hcr, hcr::EN);
    cpu.end(5);
    let _ = cpu.exit(&mut gic, 0);
    let _ = cpu.enter(&mut gic, 0);
    assert_eq!(cpu.acknowledge(), Some(5));
    assert!(cpu.find(SPI).unwrap().pending);
}

#[test]
fn a_flush_without_a_sync_loses_nothing() {
    let mut gic = boot_linux(1);
    let mut cpu = Cpu::new(4);
    let _ = gic.sgi1r(0, 5 << 24 | 1);
    let _ = cpu.enter(&mut gic, 0);
    let _ = gic.flush(0, &mut cpu.regs, Delivery::Withheld);
    let _ = cpu.enter(&mut gic, 0);
    assert_eq!(cpu.acknowledge(), Some(5));
}

#[test]
fn list_registers_of_nonsense_change_nothing() {
    let mut gic = boot_linux(1);
    let mut regs = ListRegs::new(16);
    regs.lr = [!0; 16];
    regs.hcr = !0;
    let _ = gic.sync(0, &regs);
    regs.lr = [3 << 62 | u64::from(SPI); 16];
    regs.count = 99;
    let _ = gic.sync(0, &regs);
    let _ = gic.sync(9, &regs);
    assert_eq!(gic.dist_read(0x304, 4), 0);
}

/// What a random guest with a random world around it does.
#[derive(Clone, Debug)]
enum Act {
    Sgi { to: usize, intid: u64 },
    Line { spi: u32, level: bool },
    Route { spi: u64, to: u64 },
    Enable { spi: u64, on: bool },
    Exit { vcpu: usize },
    Take { vcpu: usize },
    End { vcpu: usize },
}

fn acts() -> impl Strategy<Value = Act> {
    prop_oneof![
        (0..2usize, 0..6u64).prop_map(|(to, intid)| Act::Sgi { to, intid }),
        (32..40u32, any::<bool>()).prop_map(|(spi, level)| Act::Line { spi, level }),
        (32..40u64, 0..2u64).prop_map(|(spi, to)| Act::Route { spi, to }),
        (32..40u64, any::<bool>()).prop_map(|(spi, on)| Act::Enable { spi, on }),
        (0..2usize).prop_map(|vcpu| Act::Exit { vcpu }),
        (0..2usize).prop_map(|vcpu| Act::Take { vcpu }),
        (0..2usize).prop_map(|vcpu| Act::End { vcpu }),
    ]
}

/// Two vCPUs, each always entered, with few list registers.
struct World {
    gic: Vgic,
    cpus: [Cpu; 2],
    /// Interrupts that each vCPU has acknowledged and not ended.
    serving: [Vec<u32>; 2],
    /// SGIs sent to each vCPU since it last took one of that number.
    sent: [u32; 2],
    lines: u64,
}

impl World {
    fn new() -> Self {
        let mut gic = boot_linux(2);
        let _ = gic.dist_write(0x104, 4, 0xff);
        for intid in 0..6 {
            for frame in [0, GICR_STRIDE] {
                let _ = gic.redist_write(frame + SGI_BASE + 0x400 + intid, 1, 0x90 - 8 * intid);
            }
        }
        let mut cpus = [Cpu::new(2), Cpu::new(2)];
        for (vcpu, cpu) in cpus.iter_mut().enumerate() {
            let _ = cpu.enter(&mut gic, vcpu);
        }
        Self {
            gic,
            cpus,
            serving: Default::default(),
            sent: [0; 2],
            lines: 0,
        }
    }

    fn pass(&mut self, kick: VcpuMask) {
        let mut kick = kick;
        // A sync may kick the other one; two rounds settle it.
        for _ in 0..3 {
            let mut next = VcpuMask::NONE;
            for vcpu in kick.iter() {
                next |= self.cpus[vcpu].exit(&mut self.gic, vcpu);
                let _ = self.cpus[vcpu].enter(&mut self.gic, vcpu);
            }
            kick = next;
        }
        assert!(kick.is_empty(), "kicks do not end");
    }

    fn act(&mut self, act: &Act) {
        let kick = match *act {
            Act::Sgi { to, intid } => {
                self.sent[to] |= 1 << intid;
                self.gic.sgi1r(1 - to, intid << 24 | 1 << to)
            }
            Act::Line { spi, level } => {
                self.lines = self.lines & !(1 << spi) | u64::from(level) << spi;
                self.gic.set_spi_level(spi, level)
            }
            Act::Route { spi, to } => self.gic.dist_write(0x6000 + 8 * spi, 8, to),
            Act::Enable { spi, on } => {
                self.gic
                    .dist_write(if on { 0x104 } else { 0x184 }, 4, 1 << (spi - 32))
            }
            Act::Exit { vcpu } => VcpuMask(1 << vcpu),
            Act::Take { vcpu } => self.take(vcpu),
            Act::End { vcpu } => self.end(vcpu),
        };
        self.pass(kick);
    }

    /// What the guest takes must have been asked for, and it takes no interrupt twice at once.
    fn take(&mut self, vcpu: usize) -> VcpuMask {
        let Some(intid) = self.cpus[vcpu].acknowledge() else {
            return VcpuMask::NONE;
        };
        if intid < 16 {
            assert_ne!(self.sent[vcpu] & 1 << intid, 0, "SGI {intid} nobody sent");
            self.sent[vcpu] &= !(1 << intid);
        } else {
            assert_ne!(self.lines & 1 << intid, 0, "SPI {intid} whose line is low");
            assert!(
                !self.serving.iter().flatten().any(|&other| other == intid),
                "SPI {intid} twice"
            );
        }
        self.serving[vcpu].push(intid);
        self.maintenance(vcpu)
    }

    fn end(&mut self, vcpu: usize) -> VcpuMask {
        let Some(intid) = self.serving[vcpu].pop() else {
            return VcpuMask::NONE;
        };
        let unlisted = self.cpus[vcpu].find(intid).is_none_or(|lr| !lr.active);
        let resample = intid >= 32;
        self.cpus[vcpu].end(intid);
        let maintenance = self.maintenance(vcpu);
        if unlisted || resample {
            VcpuMask(1 << vcpu)
        } else {
            maintenance
        }
    }

    /// Whether NPIE asks for an exit.
    fn maintenance(&self, vcpu: usize) -> VcpuMask {
        let cpu = &self.cpus[vcpu];
        let underflow = cpu.regs.hcr & hcr::NPIE != 0 && !cpu.listed().iter().any(|lr| lr.pending);
        if underflow {
            VcpuMask(1 << vcpu)
        } else {
            VcpuMask::NONE
        }
    }

    /// Lets every vCPU take and end all there is, with the lines dropping as their interrupts are served.
    fn drain(&mut self) {
        for _ in 0..200 {
            for vcpu in 0..2 {
                self.act(&Act::Take { vcpu });
                for &intid in self.serving[vcpu]
                    .clone()
                    .iter()
                    .filter(|&&intid| intid >= 32)
                {
                    self.act(&Act::Line {
                        spi: intid,
                        level: false,
                    });
                }
                self.act(&Act::End { vcpu });
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn nothing_is_lost_or_invented(history in prop::collection::vec(acts(), 1..120)) {
        let mut world = World::new();
        for act in &history {
            world.act(act);
        }
        for spi in 32..40 {
            world.act(&Act::Enable { spi, on: true });
        }
        world.drain();
        world.pass(VcpuMask(0b11));
        prop_assert_eq!(world.sent, [0; 2], "SGIs that never arrived");
        let high: Vec<usize> = bits((world.lines >> 32) as u32).collect();
        prop_assert!(high.is_empty(), "lines that stayed high unserved: {high:?}");
        prop_assert!(!world.gic.has_pending(0) && !world.gic.has_pending(1));
        let active = world.gic.dist_read(0x304, 4) | world.gic.redist_read(SGI_BASE + 0x300, 4);
        prop_assert_eq!(active, 0);
    }

    #[test]
    fn no_access_panics(accesses in prop::collection::vec(
        (0..0x4_8000u64, prop::sample::select(&[1usize, 2, 4, 8][..]), any::<u64>(), any::<bool>()), 1..200,
    )) {
        let mut gic = boot_linux(2);
        let mut cpu = Cpu::new(4);
        for (offset, size, value, distributor) in accesses {
            let _ = if distributor { gic.dist_write(offset, size, value) } else { gic.redist_write(offset, size, value) };
            let _ = gic.dist_read(offset, size) ^ gic.redist_read(offset, size);
            let _ = cpu.enter(&mut gic, 1);
            let _ = cpu.exit(&mut gic, 1);
        }
    }
}
