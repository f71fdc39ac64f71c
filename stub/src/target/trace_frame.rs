//! A trace frame as a client sees it: registers, memory, and as a piece of a trace file (GDB manual, appendix H "Trace File
//! Format").

use super::arch::{RegisterId, RegisterSet, VcpuRegisters};
use super::register_set;
use crate::packet::{hex_encode, hex_number};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use gdbstub::arch::Registers;
use probes::addr::Gva;
use probes::gdb_trace::{Block, Frame, Selected, TIMESTAMP, VCPU};
use probes::space::Space;

/// Bytes of memory that a block of a trace file can have: its length is 16 bits wide.
const MAX_FILE_BLOCK: usize = u16::MAX as usize;

/// A frame that a client looks at.
pub(crate) struct TraceFrame {
    set: RegisterSet,
    selected: Selected,
}

impl TraceFrame {
    /// A frame of a space.
    pub(crate) fn new(space: &Space, selected: Selected) -> Self {
        Self {
            set: register_set(space),
            selected,
        }
    }

    /// Its number.
    pub(crate) fn number(&self) -> u64 {
        self.selected.number
    }

    fn frame(&self) -> &Frame {
        &self.selected.frame
    }

    /// The value of a trace state variable. Those that are always there are in every frame.
    pub(crate) fn variable(&self, number: u32) -> Option<i64> {
        let variables = variables(self.frame());
        let mut found = variables.filter(|(known, _)| *known == number);
        found.next().map(|(_, value)| value)
    }

    fn registers(&self) -> Option<VcpuRegisters> {
        registers(self.set, self.frame())
    }

    /// The reply to `g`: `x` in the place of what was not collected. The PC always was.
    pub(crate) fn all_registers(&self) -> Vec<u8> {
        let registers = self.registers();
        let mut reply = Vec::new();
        for id in self.set.registers() {
            self.spell(registers.as_ref(), id, &mut reply);
        }
        reply
    }

    /// The reply to `p`, by its number in hexadecimal; `None` where there is no such register.
    pub(crate) fn register(&self, number: &[u8]) -> Option<Vec<u8>> {
        let number = usize::try_from(hex_number(number)?).ok()?;
        let id = RegisterId::from_number(number).filter(|id| self.set.contains(*id))?;
        let mut reply = Vec::new();
        self.spell(self.registers().as_ref(), id, &mut reply);
        Some(reply)
    }

    fn spell(&self, registers: Option<&VcpuRegisters>, id: RegisterId, reply: &mut Vec<u8>) {
        match (registers, id) {
            (Some(registers), id) => {
                hex_encode(&registers.get(id).to_le_bytes()[..id.size()], reply)
            }
            (None, RegisterId::Pc) => hex_encode(&self.frame().head.pc.0.to_le_bytes(), reply),
            (None, id) => reply.resize(reply.len() + 2 * id.size(), b'x'),
        }
    }

    /// What the marker has said that the tracepoint is at.
    pub(crate) fn static_data(&self) -> Option<&[u8]> {
        self.frame().static_data()
    }

    /// What was collected of the memory from `address` on.
    pub(crate) fn memory(&self, address: Gva) -> Option<&[u8]> {
        self.frame().memory(address)
    }

    /// What there is in it: the document of `qXfer:traceframe-info:read` (GDB manual, E.? "Traceframe Info Format").
    pub(crate) fn info(&self) -> String {
        let mut xml = String::from(
            "<?xml version=\"1.0\"?>\n\
             <!DOCTYPE traceframe-info SYSTEM \"traceframe-info.dtd\">\n<traceframe-info>\n",
        );
        for block in &self.frame().blocks {
            if let Block::Memory { address, bytes } = block {
                let (start, length) = (address.0, bytes.len());
                xml.push_str(&format!(
                    "<memory start=\"{start:#x}\" length=\"{length:#x}\"/>\n"
                ));
            }
        }
        for (number, _) in variables(self.frame()) {
            xml.push_str(&format!("<tvar id=\"{number:#x}\"/>\n"));
        }
        xml.push_str("</traceframe-info>\n");
        xml
    }
}

fn registers(set: RegisterSet, frame: &Frame) -> Option<VcpuRegisters> {
    let collected = frame.registers()?;
    Some(VcpuRegisters {
        set,
        core: collected.core,
        fp: collected.fp,
        sys: collected.sys,
    })
}

/// The trace state variables of a frame.
fn variables(frame: &Frame) -> impl Iterator<Item = (u32, i64)> {
    let ours = [
        (TIMESTAMP, (frame.head.time_ns / 1000) as i64),
        (VCPU, frame.head.vcpu.0.into()),
    ];
    let collected = frame.blocks.iter().filter_map(|block| match block {
        Block::Variable { number, value } => Some((*number, *value)),
        _ => None,
    });
    let others = collected.filter(|(number, _)| *number != TIMESTAMP && *number != VCPU);
    ours.into_iter().chain(others)
}

/// A frame of a space as a trace file has it. What a marker says is not in there: the format has no place for it.
pub(crate) fn file_bytes(space: &Space, frame: &Frame) -> Vec<u8> {
    let mut blocks = Vec::new();
    if let Some(registers) = registers(register_set(space), frame) {
        blocks.push(b'R');
        registers.gdb_serialize(|byte| blocks.extend(byte));
    }
    for block in &frame.blocks {
        if let Block::Memory { address, bytes } = block {
            let pieces = bytes.chunks(MAX_FILE_BLOCK);
            for (piece, start) in pieces.zip((address.0..).step_by(MAX_FILE_BLOCK)) {
                blocks.push(b'M');
                blocks.extend(start.to_le_bytes());
                blocks.extend((piece.len() as u16).to_le_bytes());
                blocks.extend_from_slice(piece);
            }
        }
    }
    for (number, value) in variables(frame) {
        blocks.push(b'V');
        blocks.extend(number.to_le_bytes());
        blocks.extend(value.to_le_bytes());
    }
    let mut bytes = Vec::with_capacity(6 + blocks.len());
    bytes.extend((frame.head.number as u16).to_le_bytes());
    bytes.extend((blocks.len() as u32).to_le_bytes());
    bytes.append(&mut blocks);
    bytes
}
