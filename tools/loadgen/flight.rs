//! Requests that have no answer yet, and those that must be sent again.
//!
//! A request's correlation id is its slot and the slot's generation, so that finding it again is
//! one array access and a late or doubled reply finds nothing. Does not know sockets.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

/// One request, as it is meant: the same when it is sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Request {
    /// Which group, by its place in the run's list.
    pub(crate) group: u32,
    /// An append's first number; a read's place in the list of places.
    pub(crate) number: u64,
    /// When it was meant to leave: latency counts from here.
    pub(crate) intended_ns: u64,
}

/// A request on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Flying {
    /// What.
    pub(crate) request: Request,
    /// On which link.
    pub(crate) link: usize,
    /// Where its frame begins in the link's stream.
    pub(crate) position: u64,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    generation: u32,
    flying: Option<Flying>,
}

/// Every request on its way.
#[derive(Debug, Default)]
pub(crate) struct Flight {
    slots: Vec<Slot>,
    free: Vec<u32>,
}

impl Flight {
    /// How many.
    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Takes one off the ground; returns its correlation id.
    #[inline]
    pub(crate) fn start(&mut self, flying: Flying) -> u64 {
        let at = self.free.pop().unwrap_or_else(|| {
            let at = u32::try_from(self.slots.len()).expect("bounded by the records in flight");
            self.slots.push(Slot { generation: 0, flying: None });
            at
        });
        let slot = &mut self.slots[at as usize];
        slot.generation = slot.generation.wrapping_add(1);
        slot.flying = Some(flying);
        u64::from(slot.generation) << 32 | u64::from(at)
    }

    /// The request with this correlation id has its answer. `None` if there is no such request.
    #[inline]
    pub(crate) fn land(&mut self, correlation: u64) -> Option<Flying> {
        let at = u32::try_from(correlation & u64::from(u32::MAX)).expect("masked");
        let slot = self.slots.get_mut(at as usize)?;
        if u64::from(slot.generation) != correlation >> 32 {
            return None;
        }
        let flying = slot.flying.take()?;
        self.free.push(at);
        Some(flying)
    }

    /// Takes out every request of one link.
    pub(crate) fn crash(&mut self, link: usize) -> Vec<Flying> {
        self.take_if(|flying| flying.link == link)
    }

    /// Takes out every request.
    pub(crate) fn clear(&mut self) -> Vec<Flying> {
        self.take_if(|_| true)
    }

    fn take_if(&mut self, wanted: impl Fn(&Flying) -> bool) -> Vec<Flying> {
        let mut taken = Vec::new();
        for (at, slot) in (0..).zip(&mut self.slots) {
            if let Some(flying) = slot.flying.take_if(|flying| wanted(flying)) {
                self.free.push(at);
                taken.push(flying);
            }
        }
        // Slots are reused in any order; what is sent again should keep its own.
        taken.sort_unstable_by_key(|flying| flying.request);
        taken
    }
}

/// Requests that certainly had no effect and will be sent again, each after its own pause.
#[derive(Debug, Default)]
pub(crate) struct Again {
    waiting: BinaryHeap<Reverse<(u64, Request)>>,
}

impl Again {
    /// How many.
    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Send this one again, not before `when_ns`.
    pub(crate) fn push(&mut self, when_ns: u64, request: Request) {
        self.waiting.push(Reverse((when_ns, request)));
    }

    /// One whose pause is over.
    pub(crate) fn due(&mut self, now_ns: u64) -> Option<Request> {
        let Reverse((when_ns, _)) = self.waiting.peek()?;
        if *when_ns > now_ns {
            return None;
        }
        self.waiting.pop().map(|Reverse((_, request))| request)
    }

    /// When the next pause is over.
    pub(crate) fn next_ns(&self) -> Option<u64> {
        self.waiting.peek().map(|Reverse((when_ns, _))| *when_ns)
    }
}

/// The door of one group. While nobody knows who leads it, its requests wait here and one after
/// the other is sent to find out: thousands that are refused over and over would load the nodes
/// just when they have an election to hold.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    /// Closed until then; `None` is open.
    shut_until_ns: Option<u64>,
    parked: VecDeque<Request>,
}

impl Gate {
    /// Whether requests must wait.
    pub(crate) fn is_shut(&self) -> bool {
        self.shut_until_ns.is_some()
    }

    /// Nobody is known who would take this one: it waits, and so do those that follow.
    pub(crate) fn shut(&mut self, until_ns: u64, request: Request) {
        self.shut_until_ns = Some(until_ns);
        self.parked.push_back(request);
    }

    /// This one waits with the others.
    pub(crate) fn park(&mut self, request: Request) {
        self.parked.push_back(request);
    }

    /// One request to try with, if it is time; the gate stays shut until `again_ns`.
    pub(crate) fn probe(&mut self, now_ns: u64, again_ns: u64) -> Option<Request> {
        if self.shut_until_ns? > now_ns {
            return None;
        }
        self.shut_until_ns = Some(again_ns);
        self.parked.pop_front()
    }

    /// Somebody takes requests again: everything that waited, in order.
    pub(crate) fn open(&mut self) -> VecDeque<Request> {
        self.shut_until_ns = None;
        std::mem::take(&mut self.parked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flying(link: usize, number: u64) -> Flying {
        let request = Request { group: 0, number, intended_ns: 5 };
        Flying { request, link, position: number }
    }

    #[test]
    fn each_request_lands_once() {
        let mut flight = Flight::default();
        let first = flight.start(flying(0, 1));
        let second = flight.start(flying(0, 2));
        assert_eq!(flight.land(first), Some(flying(0, 1)));
        assert_eq!(flight.land(first), None, "a doubled reply");
        let third = flight.start(flying(0, 3));
        assert_ne!(first, third, "the slot is reused under another generation");
        assert_eq!(flight.land(first), None);
        assert_eq!(flight.land(u64::MAX), None, "a correlation nobody used");
        assert_eq!(flight.len(), 2);
        assert_eq!(flight.land(third).map(|f| f.request.number), Some(3));
        assert_eq!(flight.land(second).map(|f| f.request.number), Some(2));
        assert_eq!(flight.len(), 0);
    }

    #[test]
    fn a_lost_link_takes_only_its_own() {
        let mut flight = Flight::default();
        for number in [3, 1, 2] {
            flight.start(flying(7, number));
        }
        let other = flight.start(flying(8, 9));
        let numbers: Vec<u64> = flight.crash(7).iter().map(|f| f.request.number).collect();
        assert_eq!(numbers, [1, 2, 3]);
        assert!(flight.land(other).is_some());
    }

    #[test]
    fn a_shut_gate_lets_one_through_at_a_time() {
        let request = |number| Request { group: 0, number, intended_ns: 0 };
        let mut gate = Gate::default();
        assert_eq!(gate.probe(5, 10), None, "an open gate needs no probes");
        gate.shut(10, request(1));
        gate.park(request(2));
        gate.park(request(3));
        assert!(gate.is_shut());
        assert_eq!(gate.probe(9, 20), None);
        assert_eq!(gate.probe(10, 20).map(|r| r.number), Some(1));
        assert_eq!(gate.probe(11, 20), None);
        let numbers: Vec<u64> = gate.open().iter().map(|r| r.number).collect();
        assert_eq!((numbers, gate.is_shut()), (vec![2, 3], false));
    }

    #[test]
    fn pauses_are_kept() {
        let mut again = Again::default();
        let request = |number| Request { group: 0, number, intended_ns: 0 };
        again.push(20, request(2));
        again.push(10, request(1));
        assert_eq!(again.due(9), None);
        assert_eq!(again.next_ns(), Some(10));
        assert_eq!(again.due(20).map(|r| r.number), Some(1));
        assert_eq!(again.due(20).map(|r| r.number), Some(2));
        assert_eq!(again.len(), 0);
    }
}
