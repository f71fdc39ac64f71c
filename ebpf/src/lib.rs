#![no_std]
//! eBPF.
