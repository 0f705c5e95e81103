//! What is counted while the load runs: latencies, acknowledgements, errors by kind.
//!
//! Does not judge and does not print. [`Live`] is the few numbers that another thread may look
//! at meanwhile.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use hdrhistogram::Histogram;

/// Latencies beyond this are counted as this.
const LATENCY_NS_MAX: u64 = 120_000_000_000;

/// One engine's counts.
#[derive(Debug)]
pub(crate) struct Meter {
    window: Range<u64>,
    latency: Histogram<u64>,
    /// Records acknowledged (or read) inside the measured window.
    pub(crate) records_in_window: u64,
    /// Requests acknowledged (or read) inside the measured window.
    pub(crate) requests_in_window: u64,
    /// Records acknowledged (or read) in all.
    pub(crate) records: u64,
    /// Reads whose answer was not the record that was written.
    pub(crate) wrong: u64,
    /// How late the latest request left.
    pub(crate) late_ns_max: u64,
    errors: BTreeMap<&'static str, u64>,
}

impl Meter {
    /// Measures what happens inside `window`, in nanoseconds since the start.
    pub(crate) fn new(window: Range<u64>) -> Self {
        let latency = Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3)
            .expect("1 to 120 s at three digits is a valid histogram");
        Self {
            window,
            latency,
            records_in_window: 0,
            requests_in_window: 0,
            records: 0,
            wrong: 0,
            late_ns_max: 0,
            errors: BTreeMap::new(),
        }
    }

    /// A request meant for `intended_ns` was answered at `now_ns`.
    ///
    /// Rates count answers that came inside the window; latencies count requests that were meant
    /// for it, even if they were answered after its end, or the slowest would not count.
    #[inline]
    pub(crate) fn done(&mut self, intended_ns: u64, now_ns: u64, records: u32) {
        self.records += u64::from(records);
        if self.window.contains(&now_ns) {
            self.records_in_window += u64::from(records);
            self.requests_in_window += 1;
        }
        if self.window.contains(&intended_ns) {
            self.latency.saturating_record(now_ns.saturating_sub(intended_ns).max(1));
        }
    }

    /// A request left at `now_ns` instead of `intended_ns`.
    #[inline]
    pub(crate) fn left(&mut self, intended_ns: u64, now_ns: u64) {
        if self.window.contains(&intended_ns) {
            self.late_ns_max = self.late_ns_max.max(now_ns.saturating_sub(intended_ns));
        }
    }

    /// Something did not go as wished.
    pub(crate) fn error(&mut self, kind: &'static str, count: u64) {
        *self.errors.entry(kind).or_default() += count;
    }

    /// The load ended before the window did: what came later does not count towards rates.
    pub(crate) fn close_window(&mut self, end_ns: u64) {
        self.window.end = self.window.end.min(end_ns).max(self.window.start);
    }

    /// What did not go as wished, by kind.
    pub(crate) fn errors(&self) -> &BTreeMap<&'static str, u64> {
        &self.errors
    }

    /// Everything that did not go as wished.
    pub(crate) fn errors_total(&self) -> u64 {
        self.errors.values().sum()
    }

    /// The latency that this share of the requests stayed below, in microseconds.
    pub(crate) fn quantile_us(&self, share: f64) -> f64 {
        if self.latency.is_empty() { 0.0 } else { us(self.latency.value_at_quantile(share)) }
    }

    /// The longest latency, in microseconds.
    pub(crate) fn latency_us_max(&self) -> f64 {
        us(self.latency.max())
    }

    /// The mean latency, in microseconds.
    pub(crate) fn latency_us_mean(&self) -> f64 {
        self.latency.mean() / 1e3
    }
}

/// Nanoseconds as microseconds with one digit behind the point.
pub(crate) fn us(ns: u64) -> f64 {
    (ns as f64 / 100.0).round() / 10.0
}

/// Numbers that the engine publishes for whoever draws the progress line.
#[derive(Debug, Default)]
pub(crate) struct Live {
    /// Records acknowledged or read.
    pub(crate) records: AtomicU64,
    /// Requests without an answer.
    pub(crate) outstanding: AtomicU64,
    /// What did not go as wished.
    pub(crate) errors: AtomicU64,
    /// The engine has ended.
    pub(crate) ended: AtomicBool,
}

impl Live {
    /// Publishes.
    pub(crate) fn set(&self, records: u64, outstanding: u64, errors: u64) {
        self.records.store(records, Ordering::Relaxed);
        self.outstanding.store(outstanding, Ordering::Relaxed);
        self.errors.store(errors, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_count_answers_and_latencies_count_intentions() {
        let mut meter = Meter::new(1000..2000);
        meter.done(900, 1100, 16); // Meant for the warm-up, answered inside.
        meter.done(1900, 102_000, 16); // Meant for the window, answered long after it.
        assert_eq!((meter.records, meter.records_in_window), (32, 16));
        assert!(meter.quantile_us(0.5) >= 100.0, "the slow one counts");
        assert!(meter.latency_us_max() >= 100.0);
    }

    #[test]
    fn errors_are_counted_by_kind() {
        let mut meter = Meter::new(0..1);
        meter.error("busy", 2);
        meter.error("busy", 1);
        meter.error("not_leader", 1);
        assert_eq!(meter.errors()["busy"], 3);
        assert_eq!(meter.errors_total(), 4);
    }
}
