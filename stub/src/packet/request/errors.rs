//! Error replies: numbers, and words for those who can show them.

use super::split_name;

/// Error numbers of the protocol's `E` replies. Their meaning is not standardised; these are Linux'.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Errno {
    /// No such file.
    NoEnt = 2,
    /// No such thread.
    Srch = 3,
    /// Interrupted by the client.
    Intr = 4,
    /// The stub failed on the packet.
    Io = 5,
    /// An address is not mapped.
    Fault = 14,
    /// The vCPUs run.
    Busy = 16,
    /// The packet is malformed, or asks for what cannot be honoured.
    Inval = 22,
    /// More than the layer takes.
    TooBig = 7,
}

impl Errno {
    /// What is wrong, and what to do.
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::NoEnt => "no kernel is up there that the debug server knows",
            Self::Srch => "no such thread: the vCPU is off",
            Self::Intr => "interrupted",
            Self::Io => "the debug server could not do this",
            Self::Fault => "there is no memory at this address",
            Self::Busy => "the VM runs: interrupt it first",
            Self::Inval => {
                "the debug server does not understand this packet, or cannot do what it asks"
            }
            Self::TooBig => "that is more than the debug server takes",
        }
    }
}

/// How a client wants errors.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Errors {
    /// As numbers; in words where there are some that say more.
    #[default]
    Numbers,
    /// In words to every packet: `error-message+` of GDB since 16.
    Text,
    /// Numbers with text behind them: `QEnableErrorStrings` of LLDB.
    NumbersAndText,
}

/// What a client says of itself in `qSupported:feature;feature`.
pub(super) fn introduction(body: &[u8]) -> Errors {
    let (_, features) = split_name(body);
    let mut features = features.split(|byte| *byte == b';');
    if features.any(|feature| feature == b"error-message+") {
        Errors::Text
    } else {
        Errors::Numbers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_introduction_says_how_errors_are_wanted() {
        assert_eq!(introduction(b"qSupported"), Errors::Numbers);
        let gdb16 = b"qSupported:multiprocess+;error-message+;memory-tagging+";
        assert_eq!(introduction(gdb16), Errors::Text);
        assert_eq!(introduction(b"qSupported:error-message-"), Errors::Numbers);
    }
}
