#![no_std]
//! The debug server.
