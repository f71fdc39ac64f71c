//! Where things are.

use std::env;
use std::path::{Path, PathBuf};

/// The bare-metal target of the hypervisor and the tiny guest.
pub const BARE_TARGET: &str = "aarch64-unknown-none-softfloat";

/// The root of the clone.
pub fn root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest
        .ancestors()
        .nth(2)
        .unwrap_or(manifest)
        .to_path_buf()
}

/// Cargo's target directory: `CARGO_TARGET_DIR`, or `target` in the root.
pub fn target_dir() -> PathBuf {
    match env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => root().join(dir),
        None => root().join("target"),
    }
}

/// Boot images that [`crate::build`] makes.
pub fn image_dir() -> PathBuf {
    target_dir().join("periscope")
}

/// Downloaded and generated guests.
pub fn guest_dir() -> PathBuf {
    target_dir().join("guest")
}

/// Private state of apt.
pub fn apt_dir() -> PathBuf {
    target_dir().join("apt")
}
