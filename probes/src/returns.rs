//! Return probes: when a function returns, what it returns, and how long it took.
//!
//! Nothing of the guest is changed: no return address is replaced, so its stack unwinder, its own
//! kretprobes and its function-graph tracer see what they would see without us. Instead the
//! function's entry and each of its return instructions carry a probe, armed before the first hit
//! ([`body`] finds them), and a hit at a return is paired with the entry of the same call
//! ([`calls`]): the one by the same task with the same stack pointer, which a function leaves as it
//! found it (AAPCS64 6.4.5). A function that leaves by a tail call returns elsewhere: there the
//! instruction behind its caller's call is probed too, from the second call on
//! ([`pairing`]). `docs/return-probes.md` says what that misses.

mod body;
mod calls;
mod occasion;
mod pairing;

pub(crate) use body::decode;
pub(crate) use calls::{Arguments, Keep};
pub(crate) use occasion::Occasion;
pub(crate) use pairing::{Function, Pairing, Role, Signature};
