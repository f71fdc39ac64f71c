//! The helper functions that programs call. Numbers, arguments and results are Linux'
//! (`include/uapi/linux/bpf.h`).

mod call;
mod format;

pub(crate) use call::call;

/// Bytes that one call of `trace_printk` or `trace_vprintk` prints at most; what is longer is cut.
pub const MAX_PRINT: usize = 512;

/// `-EPERM`: the map is read-only.
pub(crate) const EPERM: u64 = errno(1);
/// `-ENOENT`: no entry with that key.
pub(crate) const ENOENT: u64 = errno(2);
/// `-E2BIG`: the map is full.
pub(crate) const E2BIG: u64 = errno(7);
/// `-EFAULT`: guest memory cannot be read.
pub(crate) const EFAULT: u64 = errno(14);
/// `-EEXIST`: an entry with that key exists.
pub(crate) const EEXIST: u64 = errno(17);
/// `-EINVAL`: an argument makes no sense.
pub(crate) const EINVAL: u64 = errno(22);

const fn errno(number: i64) -> u64 {
    -number as u64
}

macro_rules! helpers {
    ($($(#[$doc:meta])* $variant:ident = $number:literal $name:literal,)*) => {
        /// The helpers that there are.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(u8)]
        pub enum Helper {
            $($(#[$doc])* $variant = $number,)*
        }

        impl Helper {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The helper that Linux gives that number.
            pub const fn from_number(number: i32) -> Option<Self> {
                match number {
                    $($number => Some(Self::$variant),)*
                    _ => None,
                }
            }

            /// Its name, without `bpf_`.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }
        }
    };
}

helpers! {
    /// `void *map_lookup_elem(map, key)`: address of the value, or 0.
    MapLookupElem = 1 "map_lookup_elem",
    /// `long map_update_elem(map, key, value, flags)`.
    MapUpdateElem = 2 "map_update_elem",
    /// `long map_delete_elem(map, key)`.
    MapDeleteElem = 3 "map_delete_elem",
    /// `long probe_read(destination, size, guest address)`: the same as [`Self::ProbeReadKernel`].
    ProbeRead = 4 "probe_read",
    /// `u64 ktime_get_ns()`.
    KtimeGetNs = 5 "ktime_get_ns",
    /// `long trace_printk(format, size, a, b, c)`: the length, or an error.
    TracePrintk = 6 "trace_printk",
    /// `u32 get_smp_processor_id()`: the physical CPU.
    GetSmpProcessorId = 8 "get_smp_processor_id",
    /// `long probe_read_kernel(destination, size, guest address)`: 0, or `-EFAULT` with the
    /// destination zeroed.
    ProbeReadKernel = 113 "probe_read_kernel",
    /// `long trace_vprintk(format, size, arguments, bytes of arguments)`: the length, or an error.
    TraceVprintk = 177 "trace_vprintk",
    /// `u64 duration_ns()`: at the return of a function, how long the call took; at a tracepoint that
    /// measures a time, that time; 0 anywhere else.
    /// Periscope's own: Linux has no such helper, and gives out no more numbers (its last is 211).
    DurationNs = 250 "duration_ns",
}
