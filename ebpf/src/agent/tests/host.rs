//! A machine that keeps what expressions do.

use crate::host::{CollectFault, Host, ReadFault};
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cell::RefCell;

/// Where the guest's memory begins.
pub(super) const GUEST: u64 = 0xffff_8000_8000_0000;
const SIZE: usize = 64;
/// The trace state variables that there are.
pub(super) const VARIABLES: core::ops::Range<u16> = 1..4;

pub(super) struct ExpressionHost {
    variables: RefCell<BTreeMap<u16, u64>>,
    log: RefCell<Vec<String>>,
}

impl ExpressionHost {
    pub(super) fn new() -> Self {
        let value = |number| (number, 100 * u64::from(number));
        Self {
            variables: RefCell::new(VARIABLES.map(value).collect()),
            log: RefCell::default(),
        }
    }

    /// What has happened.
    pub(super) fn log(&self) -> Vec<String> {
        self.log.borrow().clone()
    }

    pub(super) fn forget(&self) {
        self.log.borrow_mut().clear();
    }

    fn write(&self, line: String) {
        self.log.borrow_mut().push(line);
    }

    /// What is in the guest's memory: `swapper` at 8, numbers before and behind it.
    fn memory() -> [u8; SIZE] {
        let mut memory = core::array::from_fn(|index| 0xf0_u8.wrapping_add(index as u8));
        memory[8..16].copy_from_slice(b"swapper\0");
        memory
    }
}

impl Host for ExpressionHost {
    fn ktime_ns(&self) -> u64 {
        0
    }

    fn cpu(&self) -> usize {
        0
    }

    fn read_guest(&self, address: u64, buffer: &mut [u8]) -> Result<(), ReadFault> {
        let start = address.checked_sub(GUEST).ok_or(ReadFault)? as usize;
        let memory = Self::memory();
        let bytes = memory
            .get(start..)
            .and_then(|rest| rest.get(..buffer.len()));
        buffer.copy_from_slice(bytes.ok_or(ReadFault)?);
        Ok(())
    }

    fn print(&self, text: &[u8]) {
        self.write(format!("line {}", String::from_utf8_lossy(text)));
    }

    fn printf(&self, text: &[u8]) {
        self.write("print ".to_string() + &String::from_utf8_lossy(text));
    }

    fn register(&self, number: u16) -> Option<u64> {
        Some(0x5000 + u64::from(number))
    }

    fn state_variable(&self, number: u16) -> Option<u64> {
        self.variables.borrow().get(&number).copied()
    }

    fn set_state_variable(&self, number: u16, value: u64) -> Option<()> {
        *self.variables.borrow_mut().get_mut(&number)? = value;
        self.write(format!("set {number} {value:#x}"));
        Some(())
    }

    fn collect(&self, address: u64, length: u64) -> Result<(), CollectFault> {
        self.write(format!("collect {address:#x} {length:#x}"));
        Ok(())
    }

    fn collect_string(&self, address: u64, limit: u64) -> Result<(), CollectFault> {
        self.write(format!("string {address:#x} {limit:#x}"));
        Ok(())
    }

    fn collect_state_variable(&self, number: u16) -> Result<(), CollectFault> {
        if !VARIABLES.contains(&number) {
            return Err(CollectFault::NoVariable(number));
        }
        self.write(format!("variable {number}"));
        Ok(())
    }
}
