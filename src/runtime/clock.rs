//! The clock of a node: CLOCK_BOOTTIME, which goes on while the machine sleeps (L-01), so that a
//! leader that slept knows that its time is over.

use crate::base::Moment;

/// Nanoseconds since the machine was booted.
pub(super) fn now() -> Moment {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    #[expect(unsafe_code, reason = "std reads CLOCK_MONOTONIC only")]
    // SAFETY: the pointer is to a live timespec of ours.
    let status = unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut time) };
    assert!(status == 0, "every Linux since 2.6.39 has CLOCK_BOOTTIME");
    let seconds = u64::try_from(time.tv_sec).expect("time since boot is positive");
    let nanos = u64::try_from(time.tv_nsec).expect("a part of a second is positive");
    Moment::from_nanos(seconds * 1_000_000_000 + nanos)
}

#[cfg(test)]
mod tests {
    #[test]
    fn time_does_not_run_backwards() {
        let earlier = super::now();
        assert!(super::now() >= earlier);
    }
}
