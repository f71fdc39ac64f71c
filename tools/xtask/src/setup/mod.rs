//! What a machine needs to build and run the project, found or installed.

mod apt;
pub mod toolchain;
