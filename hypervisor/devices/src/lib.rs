//! The devices of the hypervisor that need no board: those it emulates for a guest, and its own drivers above a
//! register interface. Everything here runs in unit tests on the host.
//!
//! Nothing here locks: who shares a device between CPUs puts a lock around it.
#![no_std]
#![deny(unsafe_code)]

extern crate alloc;

pub mod channel;
pub mod guest_fdt;
#[expect(unsafe_code, reason = "device registers")]
pub mod mmio;
pub mod scrollback;
pub mod uart;
pub mod vgic;
pub mod virtio;
pub mod vuart;
