//! What programs for Linux on arm64 share, most of them inside a guest. They are static and without a C library: they need nothing of the guest's
//! root but the kernel.
#![no_std]

pub mod bpf;
pub mod linux;
pub mod tracing;
