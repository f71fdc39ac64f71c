//! What breakpoints are to do: a client's expressions, compiled.

use super::DebugTarget;
use crate::packet::request::Wishes;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use ebpf::agent::{Expression, Purpose, Refused};
use probes::space::{AfterRun, Orders};

/// How many compiled expressions a session keeps. A client sends them anew at every stop.
const MAX_KEPT: usize = 256;

/// What a session has compiled.
#[derive(Default)]
pub(super) struct OrderBook {
    kept: BTreeMap<Wishes, Orders>,
    /// For the breakpoint that is set next.
    pub(super) next: Option<Orders>,
}

impl DebugTarget {
    /// Compiles what a client wants done at the breakpoint that it sets next, unless that is known.
    pub(crate) fn take_orders(&mut self, wishes: Wishes) -> Result<(), Refused> {
        let orders = match self.orders.kept.get(&wishes) {
            Some(known) => known.clone(),
            None => {
                let orders = self.compile(&wishes)?;
                if self.orders.kept.len() >= MAX_KEPT {
                    self.orders.kept.clear();
                }
                self.orders.kept.insert(wishes, orders.clone());
                orders
            }
        };
        self.orders.next = Some(orders);
        Ok(())
    }

    /// There is no breakpoint to set.
    pub(crate) fn drop_orders(&mut self) {
        self.orders.next = None;
    }

    fn compile(&self, wishes: &Wishes) -> Result<Orders, Refused> {
        let conditions = expressions(&wishes.conditions, Purpose::Condition);
        let commands = expressions(&wishes.commands, Purpose::Command);
        let all: Vec<_> = conditions.chain(commands).collect();
        let (name, after) = match (wishes.conditions.is_empty(), wishes.commands.is_empty()) {
            (_, true) => ("condition", AfterRun::Stop),
            (true, false) => ("commands", AfterRun::Go),
            (false, false) => ("condition+commands", AfterRun::Go),
        };
        let registers = super::register_set(self.space);
        let programs = self.server.periscope().programs();
        let program = programs.compile_expressions(name, &all, &registers)?;
        Ok(Orders {
            program,
            after,
            lifetime: wishes.lifetime,
        })
    }
}

fn expressions(codes: &[Vec<u8>], purpose: Purpose) -> impl Iterator<Item = Expression<'_>> {
    codes.iter().map(move |code| Expression { code, purpose })
}
