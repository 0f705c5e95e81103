//! What happened, as a hash that two runs can be compared by and, if somebody looks, as text.
//!
//! Apart so that determinism is checked by one number and so that the text costs nothing when
//! nobody reads it. Does not: keep history; a sink that wants some keeps it itself.

use core::fmt;

use crate::base::Moment;

/// Where the lines of a traced run go.
pub type Sink = Box<dyn FnMut(&str)>;

/// The record of one run.
pub(super) struct Trace {
    hash: u64,
    events: u64,
    sink: Option<Sink>,
}

impl Trace {
    /// An empty record; `sink` gets a line for each thing that happens.
    pub(super) fn new(sink: Option<Sink>) -> Self {
        Self { hash: 0xcbf2_9ce4_8422_2325, events: 0, sink }
    }

    /// The chain over everything noted so far.
    pub(super) fn hash(&self) -> u64 {
        self.hash
    }

    /// How many things were noted.
    pub(super) fn events(&self) -> u64 {
        self.events
    }

    /// Notes that `what` happened at `now`; `facts` are all that distinguishes it.
    pub(super) fn note(&mut self, now: Moment, what: &'static str, facts: &[u64]) {
        self.events += 1;
        self.mix(now.as_nanos());
        for byte in what.as_bytes() {
            self.mix(u64::from(*byte));
        }
        for fact in facts {
            self.mix(*fact);
        }
        if self.sink.is_some() {
            self.say(now, format_args!("{what} {facts:?}"));
        }
    }

    /// Prints a line that only explains; the hash does not depend on it.
    pub(super) fn say(&mut self, now: Moment, line: fmt::Arguments<'_>) {
        if let Some(sink) = &mut self.sink {
            let micros = now.as_nanos() / 1000;
            sink(&format!("{:>6}.{:06} {line}", micros / 1_000_000, micros % 1_000_000));
        }
    }

    /// Gives the reader back.
    pub(super) fn into_sink(self) -> Option<Sink> {
        self.sink
    }

    /// Whether somebody reads the lines, so that costly ones are made only then.
    pub(super) fn is_read(&self) -> bool {
        self.sink.is_some()
    }

    fn mix(&mut self, value: u64) {
        // One round of SplitMix64's finaliser over the chain: cheap, and every bit matters.
        let mut z = self.hash ^ value.wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        self.hash = z ^ (z >> 27);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_depends_on_order_time_and_facts_and_not_on_who_reads() {
        let run = |facts: [u64; 2], nanos, sink| {
            let mut trace = Trace::new(sink);
            trace.note(Moment::from_nanos(nanos), "a", &[facts[0]]);
            trace.note(Moment::from_nanos(nanos), "a", &[facts[1]]);
            trace.hash()
        };
        let sink: Sink = Box::new(|line| assert!(line.contains('a')));
        assert_eq!(run([1, 2], 5, None), run([1, 2], 5, Some(sink)));
        assert_ne!(run([1, 2], 5, None), run([2, 1], 5, None));
        assert_ne!(run([1, 2], 5, None), run([1, 2], 6, None));
    }
}
