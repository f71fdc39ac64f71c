//! The four kinds of address. A bare `u64` never stands for one of them.

use core::fmt;

/// Size of the pages that views and shadows work on, in bytes. Stage 2 always uses the 4 KiB granule.
pub const PAGE_SIZE: u64 = 4096;

macro_rules! address {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        #[repr(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// The address of the first byte of the 4 KiB page that holds this address.
            pub const fn page(self) -> Self {
                Self(self.0 & !(PAGE_SIZE - 1))
            }

            /// Offset into the 4 KiB page, in bytes.
            pub const fn page_offset(self) -> u64 {
                self.0 & (PAGE_SIZE - 1)
            }

            /// The address `bytes` further, or `None` where that wraps.
            pub const fn checked_add(self, bytes: u64) -> Option<Self> {
                match self.0.checked_add(bytes) {
                    Some(sum) => Some(Self(sum)),
                    None => None,
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:#x})"), self.0)
            }
        }
    };
}

address! {
    /// Guest virtual address: what guest code uses; stage 1 of the guest turns it into a [`Gpa`].
    Gva
}
address! {
    /// Guest physical address (the architecture's IPA): stage 2 turns it into an [`Hpa`].
    Gpa
}
address! {
    /// Host physical address: what the memory system sees.
    Hpa
}
address! {
    /// Hypervisor virtual address: what EL2 code uses.
    Hva
}
