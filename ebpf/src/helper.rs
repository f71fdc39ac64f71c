//! The helper functions that programs call.

/// Bytes that one call of `trace_printk` or `trace_vprintk` prints at most.
pub const MAX_PRINT: usize = 512;
