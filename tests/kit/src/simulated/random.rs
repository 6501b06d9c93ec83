//! Chance that repeats: the same seed draws the same numbers, on every machine.

/// A splitmix64 generator.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// The numbers of this seed.
    pub fn new(seed: u64) -> Self {
        Self(seed ^ 0x6a09_e667_f3bc_c908)
    }

    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number in `0..below`; 0 where that is empty.
    pub fn below(&mut self, below: u64) -> u64 {
        if below == 0 { 0 } else { self.draw() % below }
    }

    /// A number in `least..=most`.
    pub fn between(&mut self, least: u64, most: u64) -> u64 {
        least + self.below(most.saturating_sub(least) + 1)
    }

    /// True so many times in a thousand.
    pub fn permille(&mut self, chance: u64) -> bool {
        self.below(1_000) < chance
    }

    /// One of these.
    pub fn pick<T: Copy>(&mut self, among: &[T], otherwise: T) -> T {
        let at = self.below(among.len() as u64) as usize;
        among.get(at).copied().unwrap_or(otherwise)
    }

    /// A generator of its own for one purpose: what one draws does not shift what the other does.
    pub fn fork(&mut self, purpose: u64) -> Self {
        Self::new(self.draw() ^ purpose.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }
}
