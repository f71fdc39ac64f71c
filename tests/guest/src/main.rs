#![no_std]
#![no_main]
//! Tiny guest.
