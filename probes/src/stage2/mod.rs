//! Stage-2 translation tables: what a guest-physical address means.
//!
//! The tables use the 4 KiB granule and start at level 1 with one root page, which gives a guest
//! [`IPA_BITS`] = 39 bits (512 GiB) of guest-physical space: Arm ARM D8.2, table D8-21,
//! `VTCR_EL2.SL0 = 1`. Ranges are mapped with 1 GiB and 2 MiB blocks where both addresses are
//! aligned, with 4 KiB pages elsewhere.
//!
//! # Edits
//!
//! Changing the output address, the size or the memory type of a translation that a CPU may hold
//! needs *break-before-make* (Arm ARM D8.16.1): write an invalid descriptor, make that visible,
//! invalidate what was cached from the old one, and only then write the new one. Otherwise a CPU
//! can hold two translations of one address, which is a conflict abort at best and silent
//! corruption at worst. [`Tables`] does it for every edit of a valid descriptor; there is no other
//! way to write one. A CPU that walks the tables in between takes a translation fault, which means
//! "try again": see [`crate::view::Roots::fault`].
//!
//! What is invalidated depends on the old descriptor. One leaf is one translation, and an
//! invalidation by any address in it reaches it. Under a table descriptor there are 512 or more,
//! cached each on its own, so all are invalidated (Linux' KVM does the same:
//! `arch/arm64/kvm/hyp/pgtable.c`, `stage2_unmap_put_pte`).

mod descriptor;
mod tables;

pub use descriptor::Memory;
pub(crate) use descriptor::{Descriptor, Entry, Level};
pub(crate) use tables::walk;
pub use tables::{MapError, Tables};

use crate::addr::{Gpa, Hpa};

/// Width of a guest-physical address in bits. `VTCR_EL2.T0SZ` is `64 - IPA_BITS`.
pub const IPA_BITS: u32 = 39;

/// `VTCR_EL2` for these tables (Arm ARM D23.2.209), but for the field PS: the caller ors in
/// `ID_AA64MMFR0_EL1.PARange << 16`. The walks are inner-shareable and write-back cacheable, hence
/// coherent with the stores of EL2; VS is clear (8-bit VMIDs); HA and HD are clear (every
/// descriptor has its access flag set).
pub const VTCR: u64 = RES1 | SH0_INNER | ORGN0_WRITE_BACK | IRGN0_WRITE_BACK | SL0_LEVEL_1 | T0SZ;

const RES1: u64 = 1 << 31;
const SH0_INNER: u64 = 0b11 << 12;
const ORGN0_WRITE_BACK: u64 = 0b01 << 10;
const IRGN0_WRITE_BACK: u64 = 0b01 << 8;
const SL0_LEVEL_1: u64 = 0b01 << 6;
const T0SZ: u64 = 64 - IPA_BITS as u64;

/// The real memory and instructions under the tables of one VM. The hypervisor implements it with
/// both; the tests with a model that misbehaves wherever the architecture allows.
///
/// `&self` everywhere: an implementation that has state keeps it behind its own lock. [`Tables`]
/// and [`crate::view::Views`] are `&mut` where they edit, so one edit at a time calls into a port.
pub trait Port {
    /// The 64-bit descriptor at `at`, a multiple of 8 in a frame of [`Port::allocate`]. One
    /// single-copy atomic load.
    fn read_descriptor(&self, at: Hpa) -> u64;

    /// Writes a descriptor with one single-copy atomic store. Walkers may see it at any time from
    /// now on, and see it for sure after [`Port::publish`].
    fn write_descriptor(&self, at: Hpa, value: u64);

    /// Makes all descriptors written so far visible to the table walkers of every CPU: `DSB ISHST`,
    /// `ISB`.
    fn publish(&self);

    /// A zeroed 4 KiB frame of memory that no guest can reach, or `None` if the pool is empty.
    fn allocate(&self) -> Option<Hpa>;

    /// Takes back a frame of [`Port::allocate`]. No CPU can reach it any more.
    fn free(&self, frame: Hpa);

    /// The instruction word at `at`, a multiple of 4, in guest RAM or in an allocated frame.
    fn read_word(&self, at: Hpa) -> u32;

    /// Writes a word of an allocated frame with one single-copy atomic store.
    fn write_word(&self, at: Hpa, word: u32);

    /// Makes instruction fetches of `length` bytes from `at` see what was written, on every CPU
    /// that synchronises its context afterwards (an ERET does): `DC CVAC` over the range, `DSB
    /// ISH`, `IC IVAU` over the range (or `IC IALLUIS`: an instruction cache may be VIPT, and then
    /// only that reaches every alias), `DSB ISH`, `ISB`. To the point of coherency, since a guest
    /// with its MMU off fetches past the data caches.
    fn sync_icache(&self, at: Hpa, length: u64);

    /// Drops, on every CPU, what was cached for one guest-physical address under this VM's VMID,
    /// intermediate levels and combined stage 1 and 2 entries included: `TLBI IPAS2E1IS, gpa >>
    /// 12`; `DSB ISH`; `TLBI VMALLE1IS`; `DSB ISH`; `ISB` (Arm ARM D8.16, example K14-9). The
    /// instructions act on the VMID in `VTTBR_EL2`: where the calling CPU has another one, it loads
    /// this VM's for that time.
    fn invalidate_ipa(&self, gpa: Gpa);

    /// Drops, on every CPU, everything cached under this VM's VMID: `TLBI VMALLS12E1IS`, `DSB ISH`,
    /// `ISB`, with the same care for `VTTBR_EL2`.
    fn invalidate_all(&self);
}
