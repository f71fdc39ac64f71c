#![no_std]
#![no_main]
//! The EL2 program.
