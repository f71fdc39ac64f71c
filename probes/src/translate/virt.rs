//! Guest-virtual memory for the debugger, through the tables of a stopped vCPU.

use super::{TranslationFault, TranslationRegs, translate};
use crate::addr::{Gpa, Gva, PAGE_SIZE};
use crate::machine::{PhysFault, PhysMemory};
use core::fmt;

/// Why an access ended early.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AccessCause {
    /// The address has no translation.
    Translation(TranslationFault),
    /// It has one, but not to RAM.
    Physical(PhysFault),
    /// The range goes over the end of the address space.
    Wraps,
}

/// An access that ended early: what came before `address` is done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AccessError {
    /// Bytes that were read or written.
    pub done: usize,
    /// Where it ended; the start of the range for [`AccessCause::Wraps`].
    pub address: Gva,
    /// Why.
    pub cause: AccessCause,
}

impl fmt::Display for AccessError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = self.address;
        match self.cause {
            AccessCause::Translation(fault) => fault.fmt(f),
            AccessCause::Physical(PhysFault::Unmapped(gpa)) => {
                write!(f, "{address} maps to {gpa}, where there is no memory")
            }
            AccessCause::Physical(PhysFault::Device(gpa)) => {
                write!(f, "{address} maps to {gpa}, which is a device")
            }
            AccessCause::Wraps => f.write_str("the range goes over the end of the address space"),
        }
    }
}

impl core::error::Error for AccessError {}

/// Reads guest-virtual memory, whatever its permissions, page by page. On an error `buffer[..done]`
/// is filled.
pub fn read_virt<M: PhysMemory + ?Sized>(
    regs: &TranslationRegs,
    memory: &M,
    gva: Gva,
    buffer: &mut [u8],
) -> Result<(), AccessError> {
    let length = buffer.len();
    each_page(regs, memory, gva, length, |gpa, start, end| {
        memory.read_phys(gpa, &mut buffer[start..end])
    })
}

/// Writes guest-virtual memory, whatever its permissions, page by page. On an error `bytes[..done]`
/// are written.
pub fn write_virt<M: PhysMemory + ?Sized>(
    regs: &TranslationRegs,
    memory: &M,
    gva: Gva,
    bytes: &[u8],
) -> Result<(), AccessError> {
    each_page(regs, memory, gva, bytes.len(), |gpa, start, end| {
        memory.write_phys(gpa, &bytes[start..end])
    })
}

/// Calls `access(gpa, start, end)` for the parts `start..end` of the range that lie in one 4 KiB
/// page each: stage 2 may have a hole behind any page, even within a block of stage 1.
fn each_page<M: PhysMemory + ?Sized>(
    regs: &TranslationRegs,
    memory: &M,
    gva: Gva,
    length: usize,
    mut access: impl FnMut(Gpa, usize, usize) -> Result<(), PhysFault>,
) -> Result<(), AccessError> {
    let mut done = 0;
    while done < length {
        let fail = |address, cause| AccessError {
            done,
            address,
            cause,
        };
        let address = gva
            .checked_add(done as u64)
            .ok_or_else(|| fail(gva, AccessCause::Wraps))?;
        let rest_of_page = (PAGE_SIZE - address.page_offset()) as usize;
        let end = length.min(done + rest_of_page);
        let gpa = translate(regs, memory, address)
            .map_err(|fault| fail(address, AccessCause::Translation(fault)))?
            .gpa;
        access(gpa, done, end).map_err(|fault| fail(address, AccessCause::Physical(fault)))?;
        done = end;
    }
    Ok(())
}
