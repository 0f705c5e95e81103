//! The one queue of events: what happens next, in virtual time.
//!
//! Apart because the promise "same seed, same trace" rests on its order: by time, and at the same
//! time by the order in which events were put in. Does not: know what an event is.

use core::cmp::{Ordering, Reverse};
use core::time::Duration;
use std::collections::BinaryHeap;

use crate::base::Moment;

/// One event and its place in the order.
struct Entry<E> {
    due: Moment,
    order: u64,
    event: E,
}

impl<E> Entry<E> {
    fn key(&self) -> (Moment, u64) {
        (self.due, self.order)
    }
}

impl<E> PartialEq for Entry<E> {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl<E> Eq for Entry<E> {}

impl<E> PartialOrd for Entry<E> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> Ord for Entry<E> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key().cmp(&other.key())
    }
}

/// Everything that will happen. One per world; it owns the virtual clock.
pub(super) struct Queue<E> {
    heap: BinaryHeap<Reverse<Entry<E>>>,
    now: Moment,
    order: u64,
}

impl<E> Queue<E> {
    /// An empty queue at the beginning of time.
    pub(super) fn new() -> Self {
        Self { heap: BinaryHeap::new(), now: Moment::ZERO, order: 0 }
    }

    /// The virtual time: when the event that was taken last was due.
    pub(super) fn now(&self) -> Moment {
        self.now
    }

    /// Lets `event` happen at `due`, or now if that lies in the past.
    pub(super) fn at(&mut self, due: Moment, event: E) {
        let due = due.max(self.now);
        self.order += 1;
        self.heap.push(Reverse(Entry { due, order: self.order, event }));
    }

    /// Lets `event` happen `delay` from now.
    pub(super) fn after(&mut self, delay: Duration, event: E) {
        self.at(self.now.after(delay), event);
    }

    /// Takes the next event that is due before `end` and moves the clock to it; at the end of
    /// what is due before `end`, moves the clock there and answers `None`.
    pub(super) fn next(&mut self, end: Moment) -> Option<E> {
        if self.heap.peek().is_none_or(|Reverse(entry)| entry.due >= end) {
            self.now = self.now.max(end);
            return None;
        }
        let Reverse(entry) = self.heap.pop()?;
        self.now = entry.due;
        Some(entry.event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_by_time_and_then_by_arrival() {
        let mut queue = Queue::new();
        let at = Moment::from_nanos;
        queue.at(at(20), 'c');
        queue.at(at(10), 'a');
        queue.at(at(10), 'b');
        let end = at(30);
        let order: Vec<char> = core::iter::from_fn(|| queue.next(end)).collect();
        assert_eq!(order, ['a', 'b', 'c']);
        assert_eq!(queue.now(), end);
    }

    #[test]
    fn the_past_is_now() {
        let mut queue = Queue::new();
        queue.at(Moment::from_nanos(10), 1);
        assert_eq!(queue.next(Moment::NEVER), Some(1));
        queue.at(Moment::ZERO, 2);
        assert_eq!(queue.next(Moment::NEVER), Some(2));
        assert_eq!(queue.now(), Moment::from_nanos(10));
    }
}
