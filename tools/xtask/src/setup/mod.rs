//! What a machine needs to build and run the project, found or installed.

pub(crate) mod apt;
pub mod elsewhere;
pub mod lldb;
pub mod npm;
pub mod packages;
pub mod toolchain;
