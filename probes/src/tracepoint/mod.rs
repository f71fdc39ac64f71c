//! Tracepoints: static events of the hypervisor, with named and typed fields.
//!
//! [`tracepoints!`](crate::tracepoints) defines them, [`Tracer`] knows them all. One that is off costs its place in the
//! code a load and a branch; its fields are not even computed. One that is on writes an event like a probe's, and runs a
//! program if it has one.

mod field;
mod tracer;

pub use field::{Field, FieldKind};
pub use tracer::{NoSuchTracepoint, Origin, Tracer, WrongProgram};

use crate::event::ARGS;
use crate::programs::ProgramRef;
use alloc::string::String;
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use spin::RwLock;

/// One tracepoint. Made by [`tracepoints!`](crate::tracepoints).
#[derive(Debug)]
pub struct Tracepoint {
    group: &'static str,
    name: &'static str,
    summary: &'static str,
    fields: &'static [Field],
    is_on: AtomicBool,
    /// 0 until a [`Tracer`] knows it.
    number: AtomicU32,
    hits: AtomicU64,
    missed: AtomicU64,
    /// Written by the server only; read where interrupts are masked.
    program: RwLock<Option<ProgramRef>>,
}

/// The fields of one tracepoint, as a type of their own.
pub trait Event {
    /// The tracepoint.
    const POINT: &'static Tracepoint;
    /// The fields in their order; what there is no field for is 0.
    fn words(self) -> [u64; ARGS];
}

impl Tracepoint {
    /// A tracepoint that is off. `summary` says when it fires.
    pub const fn new(
        group: &'static str,
        name: &'static str,
        summary: &'static str,
        fields: &'static [Field],
    ) -> Self {
        assert!(fields.len() <= ARGS, "an event has no room for more fields");
        Self {
            group,
            name,
            summary,
            fields,
            is_on: AtomicBool::new(false),
            number: AtomicU32::new(0),
            hits: AtomicU64::new(0),
            missed: AtomicU64::new(0),
            program: RwLock::new(None),
        }
    }

    /// Whether somebody wants its events. All that it costs where it is off.
    #[inline(always)]
    pub fn is_on(&self) -> bool {
        self.is_on.load(Ordering::Relaxed)
    }

    /// The part before the colon.
    pub fn group(&self) -> &'static str {
        self.group
    }

    /// The part after the colon.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// When it fires.
    pub fn summary(&self) -> &'static str {
        self.summary.trim_start()
    }

    /// Its fields in the order in which events and programs have them.
    pub fn fields(&self) -> &'static [Field] {
        self.fields
    }

    /// Its id in events.
    pub fn number(&self) -> u32 {
        self.number.load(Ordering::Relaxed)
    }

    /// How often it has fired while it was on.
    pub fn hits(&self) -> u64 {
        self.hits.load(Ordering::Relaxed)
    }

    /// How often it has fired inside another's program, or its program ended with an error.
    pub fn missed(&self) -> u64 {
        self.missed.load(Ordering::Relaxed)
    }

    /// The name of its program, where it has one.
    pub fn program(&self) -> Option<String> {
        let program = self.program.read();
        program.as_ref().map(|program| program.name().into())
    }
}

impl fmt::Display for Tracepoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.group, self.name)
    }
}

/// Defines tracepoints: for each a structure of its fields that implements [`Event`], and for all of them `ALL`.
///
/// ```
/// use probes::tracepoint::{Event, FieldKind};
/// probes::tracepoints! {
///     /// A page fault of a guest.
///     PageFault = "vmm:page_fault" {
///         /// The address.
///         address: FieldKind::Hex,
///         /// What it wanted there.
///         access: FieldKind::Names(&["fetch", "read", "write"]),
///     }
/// }
/// assert_eq!(ALL[0].to_string(), "vmm:page_fault");
/// assert!(!PageFault::POINT.is_on());
/// ```
#[macro_export]
macro_rules! tracepoints {
    ($(
        $(#[doc = $summary:literal])+
        $event:ident = $name:literal {
            $($(#[doc = $about:literal])+ $field:ident: $kind:expr),* $(,)?
        }
    )*) => {
        $(
            $(#[doc = $summary])+
            #[derive(Clone, Copy, Debug, Default)]
            #[repr(C)]
            pub struct $event {
                $($(#[doc = $about])+ pub $field: u64,)*
            }

            impl $crate::tracepoint::Event for $event {
                const POINT: &'static $crate::tracepoint::Tracepoint = {
                    static POINT: $crate::tracepoint::Tracepoint =
                        $crate::tracepoint::Tracepoint::new(
                            $crate::tracepoint::split_name($name).0,
                            $crate::tracepoint::split_name($name).1,
                            concat!($($summary),+),
                            &[$($crate::tracepoint::Field {
                                name: stringify!($field),
                                kind: $kind,
                                summary: concat!($($about),+),
                            }),*],
                        );
                    &POINT
                };

                fn words(self) -> [u64; $crate::event::ARGS] {
                    $crate::tracepoint::padded(&[$(self.$field),*])
                }
            }
        )*

        /// All of them, in order.
        pub static ALL: &[&$crate::tracepoint::Tracepoint] =
            &[$(<$event as $crate::tracepoint::Event>::POINT),*];
    };
}

/// `group:name` in two parts. For [`tracepoints!`](crate::tracepoints).
#[doc(hidden)]
pub const fn split_name(name: &'static str) -> (&'static str, &'static str) {
    let bytes = name.as_bytes();
    let mut colon = 0;
    while bytes[colon] != b':' {
        colon += 1;
    }
    let (group, rest) = name.split_at(colon);
    (group, rest.split_at(1).1)
}

/// Fields with zeros behind them. For [`tracepoints!`](crate::tracepoints).
#[doc(hidden)]
pub fn padded(fields: &[u64]) -> [u64; ARGS] {
    let mut words = [0; ARGS];
    words[..fields.len()].copy_from_slice(fields);
    words
}
