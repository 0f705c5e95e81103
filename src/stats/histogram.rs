//! A histogram of times in plain counters: eight buckets an octave, so a value is known to an
//! eighth.
//!
//! Apart because it is data for whoever reads a status: buckets of two histograms are added and
//! subtracted one by one, so shards are summed and a window is a difference. Does not: know what
//! was timed, or read a clock.

use core::time::Duration;

/// Buckets an octave, as a power of two.
const FRACTION_BITS: u32 = 3;
const FRACTIONS: usize = 1 << FRACTION_BITS;
/// Up to 2^40 ns, 18 minutes; what is longer counts as that.
const OCTAVES: usize = 40;

/// Number of buckets.
pub const BUCKETS: usize = (OCTAVES - FRACTION_BITS as usize + 1) * FRACTIONS;

/// How often something took how long. 2.4 KiB, taken once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Histogram {
    counts: Box<[u64]>,
    /// Of all values, in nanoseconds.
    sum_ns: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; BUCKETS].into_boxed_slice(), sum_ns: 0 }
    }
}

impl Histogram {
    /// Counts one value.
    pub fn record(&mut self, value: Duration) {
        let ns = u64::try_from(value.as_nanos()).unwrap_or(u64::MAX);
        self.counts[bucket_of(ns)] += 1;
        self.sum_ns = self.sum_ns.saturating_add(ns);
    }

    /// The sum of all values, in nanoseconds.
    pub fn sum_ns(&self) -> u64 {
        self.sum_ns
    }

    /// Buckets with something in them: number and count, the shortest times first.
    pub fn buckets(&self) -> impl Iterator<Item = (usize, u64)> + '_ {
        self.counts.iter().copied().enumerate().filter(|(_, count)| *count > 0)
    }
}

fn bucket_of(ns: u64) -> usize {
    if ns < FRACTIONS as u64 {
        return usize::try_from(ns).expect("below eight");
    }
    let octave = 63 - ns.leading_zeros();
    let fraction = (ns >> (octave - FRACTION_BITS)) & (FRACTIONS as u64 - 1);
    let bucket = u64::from(octave - FRACTION_BITS + 1) * FRACTIONS as u64 + fraction;
    usize::try_from(bucket).expect("below 512").min(BUCKETS - 1)
}

/// The middle of a bucket, in nanoseconds; what its values are taken for.
pub fn middle_ns(bucket: usize) -> u64 {
    if bucket < FRACTIONS {
        return bucket as u64;
    }
    let octave = bucket / FRACTIONS - 1;
    let fraction = (bucket % FRACTIONS) as u64;
    let width = 1_u64 << octave;
    (FRACTIONS as u64 + fraction) * width + width / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_known_to_an_eighth() {
        for ns in [0, 1, 7, 8, 9, 15, 16, 100, 4_095, 4_096, 123_456, 987_654_321, 1 << 39] {
            let middle = middle_ns(bucket_of(ns));
            assert!(middle.abs_diff(ns) <= ns / 8, "{ns} is taken for {middle}");
        }
        assert!((0..BUCKETS - 1).all(|at| middle_ns(at) < middle_ns(at + 1)));
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn counts_and_the_sum_are_of_everything() {
        let mut histogram = Histogram::default();
        for micros in [5, 5, 700] {
            histogram.record(Duration::from_micros(micros));
        }
        let seen: Vec<_> = histogram.buckets().collect();
        assert_eq!(seen, [(bucket_of(5_000), 2), (bucket_of(700_000), 1)]);
        assert_eq!(histogram.sum_ns(), 710_000);
    }
}
