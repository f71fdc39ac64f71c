//! What LLDB asks of a host, a process and its watchpoints.

/// `qHostInfo` (LLDB): the triple is `aarch64-unknown-none` in hexadecimal. A watchpoint stops before the access, which
/// LLDB has to be told or it shows no new value.
pub(super) const HOST_INFO: &[u8] =
    b"triple:616172636836342d756e6b6e6f776e2d6e6f6e65;endian:little;\
    ptrsize:8;watchpoint_exceptions_received:before;";

/// `qProcessInfo` (LLDB): as [`HOST_INFO`], with the one process there is.
pub(super) const PROCESS_INFO: &[u8] =
    b"pid:1;triple:616172636836342d756e6b6e6f776e2d6e6f6e65;endian:little;ptrsize:8;";

/// `qWatchpointSupportInfo` (LLDB): the number that every CPU has (Arm ARM D2.10.1). LLDB looks only whether there are
/// any, and without an answer does not step over the access that a watchpoint has stopped.
pub(super) const WATCHPOINT_INFO: &[u8] = b"num:2;";
