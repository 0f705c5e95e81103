//! When each request of an open loop is meant to be sent.
//!
//! The times are fixed by the rate before the first request leaves, and latency is measured from
//! them: a request that waits because the cluster, the socket or this program is slow has waited
//! all the same (no coordinated omission). Does not read clocks and does not send.

use std::time::Duration;

/// The timetable of one run. Requests are numbered from 0; time counts from the run's start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Schedule {
    /// Nanoseconds between two requests. A float, because few rates divide a second evenly; a day
    /// in nanoseconds leaves it exact to a fraction of one.
    step_ns: f64,
    /// Requests in the whole run.
    total: u64,
}

impl Schedule {
    /// `records_per_s` in requests of `records_per_request`, for as long as `length`.
    pub(crate) fn new(records_per_s: u64, records_per_request: u32, length: Duration) -> Self {
        assert!(records_per_s > 0 && records_per_request > 0);
        let step_ns = f64::from(records_per_request) * 1e9 / records_per_s as f64;
        let total = crate::human::whole((length.as_secs_f64() * 1e9 / step_ns).ceil());
        Self { step_ns, total }
    }

    /// How many requests there are.
    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    /// When request `number` is meant to leave.
    pub(crate) fn time_ns(&self, number: u64) -> u64 {
        crate::human::whole(number as f64 * self.step_ns)
    }

    /// How many requests should have left by `now_ns`, the one due right now included.
    pub(crate) fn due(&self, now_ns: u64) -> u64 {
        (crate::human::whole(now_ns as f64 / self.step_ns) + 1).min(self.total)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_due_exactly_at_their_times() {
        for (rate, per_request) in [(1, 1), (3, 1), (100_000, 1), (100_000, 16), (2_999_999, 7)] {
            let schedule = Schedule::new(rate, per_request, Duration::from_secs(10));
            for number in [0, 1, 2, 5, 9].map(|n| n.min(schedule.total() - 1)) {
                let time = schedule.time_ns(number);
                assert!(schedule.due(time + 1) > number, "{rate}/{per_request} at {number}");
                if number > 0 {
                    assert!(schedule.due(time - 1) <= number, "{rate}/{per_request} at {number}");
                }
            }
        }
    }

    #[test]
    fn the_whole_run_is_the_rate_times_the_length() {
        let schedule = Schedule::new(100_000, 1, Duration::from_secs(12));
        assert_eq!(schedule.total(), 1_200_000);
        assert_eq!(schedule.time_ns(100_000), 1_000_000_000);
        assert_eq!(schedule.due(u64::MAX), 1_200_000, "nothing is due after the end");
        assert_eq!(Schedule::new(100_000, 16, Duration::from_secs(1)).total(), 6_250);
    }
}
