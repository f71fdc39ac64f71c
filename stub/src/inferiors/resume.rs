//! Letting inferiors go on, and stopping them together.

use super::ids::{self, Pid};
use super::{MachineSession, Refused, World};
use crate::packet::Bodies;
use alloc::vec::Vec;

impl MachineSession {
    /// `vCont`: each inferior gets the actions that mean it. The reply is the next stop of any.
    pub(super) fn resume(&mut self, actions: &[u8]) -> Result<(), Refused> {
        let actions: Vec<&[u8]> = actions.split(|byte| *byte == b';').collect();
        let mut plan = Vec::new();
        for index in self.attached() {
            let own = self.actions_for(index, &actions)?;
            if !own.is_empty() {
                plan.push((index, [b"vCont;", &own.join(&b';')[..]].concat()));
            }
        }
        self.carry_out(plan)
    }

    /// Bare `c` and `s`.
    pub(super) fn resume_focused(&mut self, body: &[u8]) -> Result<(), Refused> {
        self.carry_out(Vec::from([(self.focus, body.to_vec())]))
    }

    fn actions_for<'a>(
        &self,
        index: usize,
        actions: &[&'a [u8]],
    ) -> Result<Vec<&'a [u8]>, Refused> {
        let mut own = Vec::new();
        for action in actions {
            let colon = action.iter().position(|byte| *byte == b':');
            let pid = match colon {
                Some(colon) => ids::of_thread(&action[colon + 1..]),
                None => Some(Pid::All),
            };
            match pid.ok_or_else(|| Refused::new("an action of vCont names no thread"))? {
                Pid::All => own.push(*action),
                Pid::Any if index == self.focus => own.push(*action),
                Pid::One(pid) if pid == self.inferiors[index].pid => own.push(*action),
                Pid::Any | Pid::One(_) => {}
            }
        }
        Ok(own)
    }

    fn carry_out(&mut self, plan: Vec<(usize, Vec<u8>)>) -> Result<(), Refused> {
        if plan.is_empty() {
            return Err(Refused::new("no inferior is meant by this vCont"));
        }
        let ground = self.ground(&plan)?;
        // The hypervisor comes last: it goes on when all that runs on it may.
        for (index, body) in plan.into_iter().chain(ground) {
            match self.exchange(index, &body) {
                Ok(replies) => {
                    if let Some(error) = self.take_stop_or_output(index, replies) {
                        self.halt_others(None);
                        self.reply(&error);
                        return Ok(());
                    }
                }
                Err(refused) => {
                    self.halt_others(None);
                    return Err(refused);
                }
            }
            if self.stop.is_some() {
                break;
            }
        }
        self.settle();
        Ok(())
    }

    /// What has to go on besides: VMs run on the hypervisor. GDB steps a thread past a breakpoint alone, whatever the user
    /// wants to go on; for that it is let go unasked.
    fn ground(&self, plan: &[(usize, Vec<u8>)]) -> Result<Option<(usize, Vec<u8>)>, Refused> {
        let Some(hypervisor) = self.hypervisor().filter(|_| self.has_hypervisor()) else {
            return Ok(None);
        };
        let runs = self.inferiors[hypervisor].session.is_running();
        if runs || plan.iter().any(|(index, _)| *index == hypervisor) {
            return Ok(None);
        }
        if plan.iter().all(|(_, body)| is_step(body)) {
            return Ok(Some((hypervisor, b"vCont;c".to_vec())));
        }
        Err(Refused::new(
            "hyp stands, and VMs run on it: `set schedule-multiple on` lets all go on together, or detach hyp",
        ))
    }

    /// Takes what an inferior said that runs or was to run. Returns an error that it answered with.
    pub(super) fn take_stop_or_output(&mut self, index: usize, bodies: Bodies) -> Option<Vec<u8>> {
        for body in bodies {
            match body.first() {
                _ if ids::is_stop_reply(&body) => self.stop = Some((index, body)),
                Some(b'E') => return Some(body),
                _ => self.reply(&body),
            }
        }
        None
    }

    /// Ctrl-C: stops what runs, the current inferior first of all.
    pub(super) fn interrupt(&mut self) {
        let attached = self.attached();
        let mut candidates = [self.focus].into_iter().chain(attached);
        let running = candidates.find(|index| {
            let inferior = &self.inferiors[*index];
            inferior.attached && inferior.session.is_running() && self.is_reachable(*index)
        });
        if let Some(index) = running {
            let bodies = self.inferiors[index].session.exchange_interrupt();
            self.take_stop_or_output(index, bodies);
            self.settle();
        }
    }

    /// Where an inferior has stopped, stops all others and tells the client.
    pub(super) fn settle(&mut self) {
        let Some((index, _)) = &self.stop else {
            return;
        };
        let index = *index;
        let hypervisor = self.hypervisor().filter(|_| self.has_hypervisor());
        let hypervisor_runs =
            hypervisor.is_some_and(|index| self.inferiors[index].session.is_running());
        if hypervisor_runs && self.world == World::Runs {
            return;
        }
        self.halt_others(Some(index));
        if let Some((_, body)) = self.stop.take() {
            self.reply(&ids::stop_reply(self.inferiors[index].pid, &body));
            self.focus = index;
            if !self.inferiors[index].session.has_client() {
                // A VM that is off.
                self.left(index);
            }
        }
    }

    fn halt_others(&mut self, stopped: Option<usize>) {
        for index in self.attached() {
            if Some(index) != stopped && self.is_reachable(index) {
                self.inferiors[index].session.halt();
            }
        }
    }
}

/// Whether a packet that lets an inferior go on says nothing but steps.
fn is_step(body: &[u8]) -> bool {
    let actions = body.strip_prefix(b"vCont;").unwrap_or(body);
    let mut actions = actions.split(|byte| *byte == b';');
    actions.all(|action| matches!(action.first(), Some(b's' | b'S' | b'r')))
}
