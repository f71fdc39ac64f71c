//! The context of programs that run at a function as Linux' `fentry` and `fexit` do: not the registers,
//! but the function's arguments.

/// Arguments that functions have in registers, as 64-bit values (AAPCS64 section 6.8.2: x0 to x7).
pub const MAX_ARGUMENTS: usize = 8;

/// When such a program runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum At {
    /// At the function's entry (`fentry`).
    Entry,
    /// At its return (`fexit`): behind the arguments, which are those of the entry, is the result.
    Return,
}

/// What such a program's context holds: 64-bit values, one behind the other.
///
/// The verifier lets a program read through values that are said to be addresses. Nothing depends on
/// whether they are: every such load is checked when it is done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Signature {
    at: At,
    arguments: u8,
    addresses: u16,
}

impl Signature {
    /// A function with so many arguments, as 64-bit values; bit n of `addresses` says that value n may
    /// be an address in the guest. The result comes behind the last argument. `None` where there are
    /// more than [`MAX_ARGUMENTS`], or addresses where no value is.
    pub const fn new(at: At, arguments: usize, addresses: u16) -> Option<Self> {
        if arguments > MAX_ARGUMENTS {
            return None;
        }
        let signature = Self {
            at,
            arguments: arguments as u8,
            addresses,
        };
        if addresses >> signature.values() == 0 {
            Some(signature)
        } else {
            None
        }
    }

    /// When the program runs.
    pub const fn at(self) -> At {
        self.at
    }

    /// How many 64-bit values the arguments are.
    pub const fn arguments(self) -> usize {
        self.arguments as usize
    }

    /// How many 64-bit values the context has.
    pub const fn values(self) -> usize {
        match self.at {
            At::Entry => self.arguments(),
            At::Return => self.arguments() + 1,
        }
    }

    /// Whether value `index` may be an address in the guest.
    pub const fn is_address(self, index: usize) -> bool {
        index < self.values() && self.addresses >> index & 1 != 0
    }

    /// As a linked program has it. `None`: no such thing; `Some(None)`: the context is the registers.
    pub(crate) fn from_words(words: [u32; 3]) -> Option<Option<Self>> {
        let [context, arguments, addresses] = words;
        let at = match context {
            0 => return (arguments == 0 && addresses == 0).then_some(None),
            1 => At::Entry,
            2 => At::Return,
            _ => return None,
        };
        let addresses = u16::try_from(addresses).ok()?;
        Self::new(at, arguments as usize, addresses).map(Some)
    }

    /// See [`Self::from_words`].
    pub(crate) fn to_words(signature: Option<Self>) -> [u32; 3] {
        let Some(signature) = signature else {
            return [0; 3];
        };
        let context = match signature.at {
            At::Entry => 1,
            At::Return => 2,
        };
        [
            context,
            signature.arguments.into(),
            signature.addresses.into(),
        ]
    }
}
