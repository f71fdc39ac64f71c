//! `qSupported`: what this server can do.

use super::Session;
use super::settings::Settings;
use crate::packet::PACKET_SIZE;
use crate::packet::request::Errors;
use crate::target::Role;
use alloc::format;
use alloc::string::String;

/// What a debugger is offered. `multiprocess` is not in it: there is one VM behind an endpoint.
const DEBUGGER: &[&str] = &[
    "QStartNoAckMode+",
    "vContSupported+",
    "swbreak+",
    "hwbreak+",
    "binary-upload+",
    "QThreadEvents+",
    "QPassSignals+",
    "QProgramSignals+",
    "ConditionalBreakpoints+",
    "BreakpointCommands+",
    "qXfer:features:read+",
    "qXfer:memory-map:read+",
    "qXfer:threads:read+",
    "qXfer:osdata:read+",
    "qXfer:traceframe-info:read+",
    "qXfer:statictrace:read+",
    "ConditionalTracepoints+",
    "StaticTracepoints+",
    "TracepointSource+",
    "EnableDisableTracepoints+",
    "InstallInTrace+",
    "DisconnectedTracing+",
    "QTBuffer:size+",
    "tracenz+",
    "qXfer:exec-file:read+",
];

/// What a tool is offered.
const TOOL: &[&str] = &["QStartNoAckMode+"];

impl Session {
    /// A client introduces itself.
    pub(super) fn greet(&mut self, errors: Errors) {
        if !self.greeted {
            // What is set was set by packets that a client before it had left in the channel.
            self.settings = Settings {
                errors,
                ..Settings::default()
            };
        }
        self.greeted = true;
        self.reply(greeting(self.target.role()).as_bytes());
    }
}

/// The reply to `qSupported`.
pub(crate) fn greeting(role: Role) -> String {
    let features = match role {
        Role::Debugger => DEBUGGER,
        Role::Tool => TOOL,
    };
    let features = features.join(";");
    format!("PacketSize={PACKET_SIZE:x};{features}")
}
