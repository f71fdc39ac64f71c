//! How much memory one instruction accesses.

/// Width of a load or store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Width {
    Byte,
    Half,
    Word,
    Double,
}

impl Width {
    /// The width of `bytes` bytes: 1, 2 or 4; every other number is 8, which is how sizes are
    /// encoded.
    pub(crate) const fn of_bytes(bytes: u8) -> Self {
        match bytes {
            1 => Self::Byte,
            2 => Self::Half,
            4 => Self::Word,
            _ => Self::Double,
        }
    }

    /// In bytes.
    pub(crate) const fn bytes(self) -> usize {
        match self {
            Self::Byte => 1,
            Self::Half => 2,
            Self::Word => 4,
            Self::Double => 8,
        }
    }

    /// As many low one bits as a value of this width has.
    pub(crate) const fn mask(self) -> u64 {
        u64::MAX >> (64 - 8 * self.bytes())
    }

    /// Sign-extends the low bits of `value`.
    pub(crate) const fn sign_extend(self, value: u64) -> u64 {
        match self {
            Self::Byte => value as i8 as u64,
            Self::Half => value as i16 as u64,
            Self::Word => value as i32 as u64,
            Self::Double => value,
        }
    }
}

/// Cuts a value of `width` out of two neighbouring little-endian words, `offset` (0 to 7) bytes
/// into the first.
pub(crate) const fn extract(first: u64, second: u64, offset: usize, width: Width) -> u64 {
    let both = first as u128 | (second as u128) << 64;
    (both >> (8 * (offset & 7))) as u64 & width.mask()
}
