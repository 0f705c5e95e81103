//! A small seeded generator: the only source of chance in the pure rooms.
//!
//! Apart so that a run can be repeated from its seed on any machine. Not for secrets.

/// SplitMix64 (Steele, Lea, Flood 2014): 64 bits of state, every seed is good, the sequence is
/// part of the simulator's "same seed, same trace" promise and so must never change.
#[derive(Clone, Debug)]
pub struct Prng(u64);

impl Prng {
    /// A generator whose whole future is decided by `seed`.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number in `[0, bound)`. The bias of at most `bound / 2^64` is accepted.
    pub fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "an empty range has no member");
        u64::try_from((u128::from(self.next_u64()) * u128::from(bound)) >> 64)
            .expect("the product of two u64 shifted by 64 fits")
    }

    /// A number in `[low, high)`.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        assert!(low < high, "{low}..{high} is empty");
        low + self.below(high - low)
    }

    /// True with probability `numerator / denominator`.
    pub fn chance(&mut self, numerator: u64, denominator: u64) -> bool {
        self.below(denominator) < numerator
    }

    /// A generator of its own for a part of the run, so that parts do not disturb each other.
    #[must_use]
    pub fn fork(&mut self) -> Self {
        Self(self.next_u64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sequence_never_changes() {
        let mut prng = Prng::new(42);
        assert_eq!(prng.next_u64(), 0xbdd7_3226_2feb_6e95);
    }

    #[test]
    fn below_stays_below_and_reaches_both_ends() {
        let mut prng = Prng::new(7);
        let mut seen = [false; 5];
        for _ in 0..200 {
            seen[usize::try_from(prng.below(5)).expect("small")] = true;
        }
        assert_eq!(seen, [true; 5]);
    }
}
