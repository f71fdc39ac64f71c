//! Random numbers, the same for the same seed.

/// SplitMix64 (Steele, Lea and Flood, 2014).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// Whether something happens that happens once in `times`.
    pub fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    /// A number at which arithmetic goes wrong, or another.
    pub fn number(&mut self) -> u64 {
        let any = self.next();
        match self.below(6) {
            0 => any,
            1 => any & 0xffff_ffff,
            2 => any & 0xfff,
            3 => (any % 8).wrapping_sub(4),
            4 => (1_u64 << (any % 64)).wrapping_add((any >> 61).wrapping_sub(4)),
            _ => 0xffff << (any % 64),
        }
    }
}
