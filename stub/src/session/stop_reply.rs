//! What stop replies hold beside gdbstub's part, and LLDB's other ways to ask for it.

use super::Session;
use crate::packet::{escape, hex_encode};
use crate::target::arch::RegisterId;
use crate::target::tid;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use ebpf::json::Quoted;
use gdbstub::common::Signal;
use probes::machine::{StopReason, VcpuId};

/// The registers that a client looks at after every stop: the frame pointer, the return address, SP, the PC and PSTATE.
/// Having them, it need not ask for all to see where the vCPU stands (GDB manual, E.3 "Stop Reply Packets").
const EXPEDITED: [RegisterId; 5] = [
    RegisterId::X(29),
    RegisterId::X(30),
    RegisterId::Sp,
    RegisterId::Pc,
    RegisterId::Cpsr,
];

/// How many frames of a stopped thread LLDB gets with its registers.
const MAX_FRAMES: usize = 32;
/// A frame record: the frame pointer of the caller and the return address (AAPCS64, 6.4.6 "The Frame Pointer").
const FRAME_RECORD: usize = 16;

/// Why LLDB is told that a thread stands, where it would not find out by itself.
struct Reason {
    keyword: &'static str,
    description: Option<String>,
}

impl Session {
    /// Adds to a stop reply what the client would ask for next.
    pub(super) fn complete_stop_reply(&self, mut body: Vec<u8>, vcpu: VcpuId) -> Vec<u8> {
        if !body.starts_with(b"T") {
            return body;
        }
        for (register, value) in self.expedited(vcpu) {
            body.extend(format!("{:x}:{value};", register.number()).bytes());
        }
        if let Some(core) = self.machine().physical_cpu(vcpu) {
            body.extend(format!("core:{core:x};").bytes());
        }
        // The only place where LLDB looks for names. GDB skips keys that it does not know.
        body.extend(format!("name:{};", self.target.vcpu_name(vcpu)).bytes());
        if self.settings.threads_in_stops {
            self.list_threads_for_lldb(&mut body);
            self.give_reason_to_lldb(&mut body, vcpu);
            body.extend(self.addressing_bits(vcpu).bytes());
        }
        body
    }

    /// `threads:` and `thread-pcs:` (LLDB, "Stop reply packet extensions").
    fn list_threads_for_lldb(&self, body: &mut Vec<u8>) {
        let pc = |vcpu| self.machine().core(vcpu).map_or(0, |core| core.pc);
        let list = |number: &dyn Fn(VcpuId) -> String| {
            let numbers: Vec<String> = self.target.active().map(number).collect();
            numbers.join(",")
        };
        let threads = list(&|vcpu| format!("{:x}", tid(vcpu)));
        let pcs = list(&|vcpu| format!("{:x}", pc(vcpu)));
        body.extend(format!("threads:{threads};thread-pcs:{pcs};").bytes());
    }

    /// `reason:` and `description:` (LLDB, as above). A watchpoint has its own key.
    fn give_reason_to_lldb(&self, body: &mut Vec<u8>, vcpu: VcpuId) {
        let is_watchpoint = matches!(self.last_stop.reason, StopReason::Watchpoint { .. });
        if vcpu != self.last_stop.vcpu || is_watchpoint {
            return;
        }
        let Some(reason) = self.reason_for_lldb() else {
            return;
        };
        body.extend(format!("reason:{};", reason.keyword).bytes());
        if let Some(description) = reason.description {
            body.extend(b"description:");
            hex_encode(description.as_bytes(), body);
            body.push(b';');
        }
    }

    /// The registers that go with a stop, their values as the protocol writes them.
    fn expedited(&self, vcpu: VcpuId) -> Vec<(RegisterId, String)> {
        let Ok(registers) = self.target.registers(vcpu) else {
            return Vec::new();
        };
        let digits = |register: RegisterId| {
            let value = registers.get(register).to_le_bytes();
            let mut digits = Vec::new();
            hex_encode(&value[..register.size()], &mut digits);
            String::from_utf8_lossy(&digits).into_owned()
        };
        EXPEDITED
            .map(|register| (register, digits(register)))
            .to_vec()
    }

    /// `jThreadsInfo`: all threads, why they stand, and the memory that a backtrace needs (LLDB).
    pub(super) fn tell_threads(&mut self) {
        let threads: Vec<String> = self
            .target
            .active()
            .map(|vcpu| self.thread_json(vcpu))
            .collect();
        let mut body = Vec::new();
        escape(format!("[{}]", threads.join(",")).as_bytes(), &mut body);
        self.reply(&body);
    }

    fn thread_json(&self, vcpu: VcpuId) -> String {
        let name = self.target.vcpu_name(vcpu);
        let mut json = format!("{{\"tid\":{},\"name\":{}", tid(vcpu), Quoted(&name));
        if vcpu == self.last_stop.vcpu {
            let signal = match self.last_stop.reason {
                StopReason::Request => Signal::SIGINT,
                _ => Signal::SIGTRAP,
            };
            json.push_str(&format!(",\"signal\":{}", signal.0));
            if let Some(reason) = self.reason_for_lldb() {
                json.push_str(&format!(",\"reason\":{}", Quoted(reason.keyword)));
                if let Some(text) = &reason.description {
                    json.push_str(&format!(",\"description\":{}", Quoted(text)));
                }
            }
        }
        let registers: Vec<String> = self
            .expedited(vcpu)
            .iter()
            .map(|(register, value)| format!("\"{}\":\"{value}\"", register.number()))
            .collect();
        json.push_str(&format!(",\"registers\":{{{}}}", registers.join(",")));
        json.push_str(&format!(",\"memory\":[{}]}}", self.frames(vcpu).join(",")));
        json
    }

    /// The reasons of LLDB for a stop. It finds out about others by itself.
    fn reason_for_lldb(&self) -> Option<Reason> {
        let (keyword, description) = match self.last_stop.reason {
            StopReason::Step => ("trace", None),
            StopReason::Site { probe: None } | StopReason::HwBreakpoint => ("breakpoint", None),
            StopReason::Watchpoint { address, .. } => ("watchpoint", Some(address.0.to_string())),
            StopReason::Site { probe: Some(id) } => ("trap", Some(self.probe_words(id))),
            StopReason::Reset => ("trap", Some("the VM was reset".to_string())),
            StopReason::Request => return None,
        };
        Some(Reason {
            keyword,
            description,
        })
    }

    /// The frame records of a thread, from its frame pointer up.
    fn frames(&self, vcpu: VcpuId) -> Vec<String> {
        let mut frames = Vec::new();
        let mut at = self.machine().core(vcpu).map_or(0, |core| core.x[29]);
        while frames.len() < MAX_FRAMES {
            let mut record = [0; FRAME_RECORD];
            if self.target.read_memory(vcpu, at, &mut record) != Some(FRAME_RECORD) {
                break;
            }
            let mut digits = Vec::new();
            hex_encode(&record, &mut digits);
            let digits = String::from_utf8_lossy(&digits).into_owned();
            frames.push(format!("{{\"address\":{at},\"bytes\":\"{digits}\"}}"));
            let [low, ..] = record.as_chunks::<8>().0 else {
                break;
            };
            // The stack grows down: a caller's frame that is not further up is none.
            let caller = u64::from_le_bytes(*low);
            if caller <= at {
                break;
            }
            at = caller;
        }
        frames
    }
}
