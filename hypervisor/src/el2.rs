//! Exceptions that EL2 takes from its own code (vectors.rs, "From EL2 itself").

use crate::rendezvous::{self, brk};
use crate::vectors::{Frame, kind};
use crate::{cpu, debugger, esr, hprobes, own_step, panic};

/// Where they all end up. Where it returns, the interrupted code goes on as `frame` says.
#[unsafe(no_mangle)]
extern "C" fn handle_el2_exception(frame: &mut Frame, which: u64) {
    match which {
        kind::IRQ => {
            rendezvous::take_stop_interrupts();
            obey(frame);
        }
        kind::SYNC if esr::class(frame.syndrome) == esr::ec::BRK => breakpoint(frame, which),
        _ => panic::el2_fault(frame, which),
    }
}

fn breakpoint(frame: &mut Frame, which: u64) {
    let immediate = esr::iss(frame.syndrome) as u16;
    match immediate {
        brk::OBEY => {
            frame.regs.pc += 4;
            obey(frame);
        }
        brk::ATTEND => {
            frame.regs.pc += 4;
            debugger::attend(frame);
        }
        brk::STEPPED => {
            own_step::leave_slot(frame);
            if cpu::this().index == rendezvous::MASTER {
                debugger::stepped(frame);
            } else {
                rendezvous::rest_again(frame);
            }
        }
        brk::CRASHED => rendezvous::rest_for_ever(frame),
        _ if hprobes::hit(frame) => {}
        _ => panic::el2_fault(frame, which),
    }
}

/// Does what the stop interrupt asks of this CPU.
fn obey(frame: &mut Frame) {
    if cpu::this().index == rendezvous::MASTER {
        debugger::called(frame);
    } else {
        rendezvous::rest(frame);
    }
}
