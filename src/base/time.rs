//! Time as the pure rooms see it: a number that somebody else read off a clock.
//!
//! Apart so that no pure room needs `std::time::Instant`. Reading clocks lives in `runtime::clock`
//! (CLOCK_BOOTTIME, rule L-01) and in `sim` (virtual).

use core::time::Duration;

/// A point in time: nanoseconds since an origin that stays fixed for one run of a process.
///
/// Only differences mean anything. Two processes' moments are never compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(u64);

impl Moment {
    /// The origin.
    pub const ZERO: Self = Self(0);
    /// Later than every real moment; "never".
    pub const NEVER: Self = Self(u64::MAX);

    /// A moment `nanos` nanoseconds after the origin.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since the origin.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// The moment `duration` later, saturating at [`Moment::NEVER`].
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// How long after `earlier` this is; zero if it is not after it at all, because clocks of one
    /// process are read in turns and a caller may hold a slightly older reading.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}
