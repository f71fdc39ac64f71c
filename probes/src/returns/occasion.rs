//! What a hit is to a program that is bound there: an occasion to run, or not.

use super::calls::{Arguments, Frame};
use super::pairing::{Left, Pairing, Role};
use crate::a64::{Control, control};
use crate::engine::Trap;
use crate::site::Attachment;
use crate::space::Space;
use core::sync::atomic::Ordering;

/// Why a program runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Occasion {
    /// At a return: how long the call took, in nanoseconds, at least 1. 0 where nothing ends.
    pub(crate) duration_ns: u64,
    /// At a return: what the call was given, where that is kept.
    pub(crate) arguments: Option<Arguments>,
}

/// The number of the link register.
const LINK: usize = 30;

impl Trap<'_> {
    fn frame(&self) -> Frame {
        let task = match self.memory.task() {
            // No address: such a guest's thread of execution is the vCPU.
            0 => u64::from(self.vcpu.0),
            task => task,
        };
        Frame {
            task,
            sp: self.regs.sp,
        }
    }

    /// The value of a general register, by its number of five bits.
    fn register(&self, number: u8) -> u64 {
        self.regs.x.get(usize::from(number)).copied().unwrap_or(0)
    }
}

impl Space {
    /// Whether a hit at a site where `attachment` has this role is one for its program.
    /// `instruction` is what the site displaces.
    pub(crate) fn occasion(
        &self,
        attachment: &Attachment,
        role: Role,
        instruction: u32,
        trap: &Trap<'_>,
    ) -> Option<Occasion> {
        let pairing = match (role, &attachment.pairing) {
            (Role::Here, _) => return Some(Occasion::default()),
            (_, Some(pairing)) => pairing,
            (_, None) => return None,
        };
        // A call that a debugger has stopped takes no longer for that.
        let now_ns = trap.stamp.time_ns.saturating_sub(self.machine().held_ns());
        let left = match role {
            Role::Here | Role::Entry => {
                self.enter(attachment, pairing, now_ns, trap);
                return None;
            }
            Role::Return => match control(instruction) {
                Control::Return { register } => {
                    pairing.leave(trap.frame(), trap.register(register))
                }
                // The guest has written something else there.
                _ => return None,
            },
            Role::ReturnSite { address } => pairing.arrive(trap.frame(), address),
        };
        let Left {
            since_ns,
            arguments,
            missed,
        } = left;
        attachment.missed.fetch_add(missed, Ordering::Relaxed);
        let since_ns = since_ns?;
        Some(Occasion {
            duration_ns: now_ns.saturating_sub(since_ns).max(1),
            arguments,
        })
    }

    fn enter(&self, attachment: &Attachment, pairing: &Pairing, now_ns: u64, trap: &Trap<'_>) {
        let link = trap.regs.x[LINK];
        let arguments = core::array::from_fn(|number| trap.regs.x[number]);
        let entered = pairing.enter(trap.frame(), link, &arguments, now_ns);
        attachment
            .missed
            .fetch_add(entered.missed, Ordering::Relaxed);
        if entered.wants_site {
            self.wait();
        }
    }
}
