//! The debug server of Periscope: packets, sessions, the gdbstub target and the command language.
//!
//! The server knows no board. A hypervisor makes one [`Server`] over its [`probes::periscope::Periscope`] and one
//! [`Session`] for each endpoint, tells the session what its channel tells (opened, closed, bytes), polls it while
//! something can happen, and lets it write to the channel. The hypervisor's shell speaks the same language as GDB's
//! `monitor`: [`commands::run`].
//!
//! The way of a packet: [`Session::receive`] → `packet` finds and sorts it → `session` answers it, or gdbstub does,
//! calling `target` → [`Session::flush`].
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod channel;
pub mod commands;
mod events;
mod inferiors;
mod markers;
mod packet;
mod server;
mod session;
mod target;
pub mod tracepoints;

pub use channel::{ByteChannel, Endpoint};
pub use inferiors::{HYP_PID, MachineSession, World};
pub use server::{Log, Server};
pub use session::Session;
pub use target::Commands;

/// A hypervisor keeps sessions and the server where every CPU reaches them.
const _: () = {
    const fn is_send<T: Send>() {}
    const fn is_sync<T: Sync>() {}
    is_send::<Session>();
    is_sync::<Server>();
};
