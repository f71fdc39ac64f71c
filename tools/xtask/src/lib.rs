//! What `cargo xtask` is made of: set-up of the machine that builds, boot images, guests, and QEMU. The end-to-end
//! tests use the same modules, so a test boots exactly what `cargo xtask run` boots.

pub mod build;
pub mod command;
pub mod guest;
pub mod machine;
pub mod process;
pub mod report;
pub mod setup;
pub mod shell;
pub mod workspace;
