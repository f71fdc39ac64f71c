//! Registers of a virtio-mmio transport, version 2 (virtio 1.2, 4.2.2), and finding a device behind one.

use super::ProbeError;
use crate::mmio::Mmio;

pub(super) const MAGIC: usize = 0x000;
pub(super) const VERSION: usize = 0x004;
pub(super) const DEVICE_ID: usize = 0x008;
pub(super) const DEVICE_FEATURES: usize = 0x010;
pub(super) const DEVICE_FEATURES_SEL: usize = 0x014;
pub(super) const DRIVER_FEATURES: usize = 0x020;
pub(super) const DRIVER_FEATURES_SEL: usize = 0x024;
pub(super) const QUEUE_SEL: usize = 0x030;
pub(super) const QUEUE_NUM_MAX: usize = 0x034;
pub(super) const QUEUE_NUM: usize = 0x038;
pub(super) const QUEUE_READY: usize = 0x044;
pub(super) const QUEUE_NOTIFY: usize = 0x050;
pub(super) const INTERRUPT_STATUS: usize = 0x060;
pub(super) const INTERRUPT_ACK: usize = 0x064;
pub(super) const STATUS: usize = 0x070;
pub(super) const QUEUE_DESC_LOW: usize = 0x080;
pub(super) const QUEUE_DESC_HIGH: usize = 0x084;
pub(super) const QUEUE_DRIVER_LOW: usize = 0x090;
pub(super) const QUEUE_DRIVER_HIGH: usize = 0x094;
pub(super) const QUEUE_DEVICE_LOW: usize = 0x0a0;
pub(super) const QUEUE_DEVICE_HIGH: usize = 0x0a4;
pub(super) const CONFIG: usize = 0x100;

/// Bytes of registers that a driver uses of a transport with a console.
pub const TRANSPORT_SIZE: usize = 0x200;

pub(super) const MAGIC_VALUE: u32 = u32::from_le_bytes(*b"virt");
const CONSOLE_ID: u32 = 3;

/// Device status bits (2.1).
pub(super) mod status {
    pub(in super::super) const ACKNOWLEDGE: u32 = 1;
    pub(in super::super) const DRIVER: u32 = 2;
    pub(in super::super) const DRIVER_OK: u32 = 4;
    pub(in super::super) const FEATURES_OK: u32 = 8;
    pub(in super::super) const FAILED: u32 = 128;
}

/// How often a reset device is asked whether it has finished.
const MAX_RESET_POLLS: u32 = 1_000_000;

/// Checks that a console is there.
pub(super) fn identify(registers: &impl Mmio) -> Result<(), ProbeError> {
    if registers.read(MAGIC) != MAGIC_VALUE {
        return Err(ProbeError::NotVirtio);
    }
    match registers.read(DEVICE_ID) {
        0 => Err(ProbeError::Empty),
        CONSOLE_ID if registers.read(VERSION) == 2 => Ok(()),
        CONSOLE_ID => Err(ProbeError::Legacy),
        other => Err(ProbeError::OtherDevice(other)),
    }
}

/// Resets the device and agrees on exactly `features` (3.1.1, steps 1 to 6).
pub(super) fn negotiate(registers: &impl Mmio, features: u64) -> Result<(), ProbeError> {
    registers.write(STATUS, 0);
    if !(0..MAX_RESET_POLLS).any(|_| registers.read(STATUS) == 0) {
        return Err(ProbeError::NoReset);
    }
    registers.write(STATUS, status::ACKNOWLEDGE);
    registers.write(STATUS, status::ACKNOWLEDGE | status::DRIVER);
    for half in 0..2 {
        let wanted = (features >> (32 * half)) as u32;
        registers.write(DEVICE_FEATURES_SEL, half);
        if registers.read(DEVICE_FEATURES) & wanted != wanted {
            return Err(ProbeError::NoMultiport);
        }
        registers.write(DRIVER_FEATURES_SEL, half);
        registers.write(DRIVER_FEATURES, wanted);
    }
    registers.write(
        STATUS,
        status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK,
    );
    if registers.read(STATUS) & status::FEATURES_OK == 0 {
        return Err(ProbeError::NoMultiport);
    }
    Ok(())
}

/// Makes the device live.
pub(super) fn go_live(registers: &impl Mmio) {
    use status::{ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK};
    registers.write(STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
}
