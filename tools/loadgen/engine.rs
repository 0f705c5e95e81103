//! The load itself: one thread, a few non-blocking sockets, a timetable or a window.
//!
//! It shares the machine with the nodes it measures, so a record costs it one patch of eight
//! bytes, one copy, one checksum and a share of a system call. [`Engine`] is declared here with
//! its loop and its pacing; `replies` holds what happens when answers come, `reroute` what happens
//! when links and leaders go. Does not read the log back (`verify`) and does not print.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use catamaran::base::Prng;
use catamaran::model::{LogIndex, Refusal};
use catamaran::wire::FrameHeader;
use catamaran::wire::client::{Consistency, Kind, Read, encode_read};

use crate::args::{Load, Rate};
use crate::control::{Helper, Routes, Topology};
use crate::failure::Failure;
use crate::flight::{Again, Flight, Flying, Gate, Request};
use crate::ledger::Ledger;
use crate::link::{Flushed, Link};
use crate::meter::{Live, Meter};
use crate::payload::Payload;
use crate::schedule::Schedule;
use crate::system::{self, Interest, Poll, Ready};

/// An open loop looks at its timetable this often at most: what falls due between leaves late by
/// up to this much (and is measured from when it was due), but shares a system call.
const TICK: Duration = Duration::from_micros(100);
/// How long answers may take after the last request.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long an open loop may go on sending what was due before its end.
const PATIENCE_OPEN: Duration = Duration::from_secs(1);
/// How often links and routes are looked after.
pub(crate) const WATCH: Duration = Duration::from_millis(20);
/// Pause of a request that has nowhere to go.
pub(crate) const PAUSE_NOWHERE_NS: u64 = 5_000_000;

/// What the requests are.
#[derive(Clone, Debug)]
pub(crate) enum Work {
    /// Append new records.
    Append,
    /// Read one of these records, any.
    Read {
        /// How fresh.
        consistency: Consistency,
        /// Per group what stands where.
        places: Vec<Vec<Place>>,
    },
}

/// One record that can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// Where in the log.
    pub(crate) index: u64,
    /// Which record.
    pub(crate) number: u64,
}

/// How requests are paced.
#[derive(Clone, Copy, Debug)]
enum Pace {
    Open { schedule: Schedule, issued: u64 },
    Closed { left: u64 },
}

/// The links that lead to one endpoint, and the groups that are there at the moment.
#[derive(Debug, Default)]
pub(crate) struct Lane {
    pub(crate) links: Vec<usize>,
    /// Which of them the next request takes.
    pub(crate) turn: usize,
    /// Groups led there.
    pub(crate) groups: Vec<u32>,
    pub(crate) group_turn: usize,
    /// Links that the helper is opening.
    pub(crate) dialling: usize,
}

/// One run of load. One per phase of the program, on a thread of its own.
pub(crate) struct Engine {
    pub(crate) topology: Topology,
    pub(crate) work: Work,
    pub(crate) payload: Payload,
    pub(crate) routes: Routes,
    pub(crate) lanes: Vec<Lane>,
    pub(crate) links_per_lane: usize,
    pub(crate) links: Vec<Option<Link>>,
    pub(crate) poll: Poll,
    pub(crate) flight: Flight,
    pub(crate) again: Again,
    /// Per group.
    pub(crate) gates: Vec<Gate>,
    /// Requests that wait behind them.
    pub(crate) parked: usize,
    pub(crate) ledger: Ledger,
    pub(crate) meter: Meter,
    pub(crate) helper: Helper,
    pub(crate) routes_wished: bool,
    /// Links with something new to flush.
    dirty: Vec<usize>,
    /// Next number per group.
    numbers: Vec<u64>,
    group_turn: usize,
    pace: Pace,
    /// Closed loop: requests that may be sent now.
    pub(crate) credit: u32,
    requests_max: usize,
    start: Instant,
    end_ns: u64,
    watched_ns: u64,
    chance: Prng,
    live: Arc<Live>,
    early: Option<Early>,
}

/// Why a run ends before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Early {
    /// Somebody pressed Ctrl-C.
    Stopped,
    /// The ledger of acknowledgements has reached its bound.
    LedgerFull,
    /// A node refuses what will not get better by waiting.
    Refused(Refusal),
}

impl fmt::Display for Early {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stopped => f.write_str("stopped from outside"),
            Self::LedgerFull => f.write_str(
                "the ledger of acknowledgements is full (1 GiB): take a shorter --duration or more \
                 --records-per-request",
            ),
            Self::Refused(refusal) => write!(f, "a node refused for good: {refusal}"),
        }
    }
}

/// What a run of load leaves behind.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// What was counted.
    pub(crate) meter: Meter,
    /// What was promised.
    pub(crate) ledger: Ledger,
    /// Records whose time came and that never left.
    pub(crate) unsent: u64,
    /// Records that were refused and not sent again before the end.
    pub(crate) refused: u64,
    /// Why the run ended early, if it did.
    pub(crate) early: Option<Early>,
    /// A node did not stop in good order afterwards; set by whoever stopped it.
    pub(crate) stopped_badly: bool,
    /// When the load ended: when it should, or earlier.
    pub(crate) end: Duration,
}

/// Everything an engine is told.
pub(crate) struct Orders {
    /// The cluster.
    pub(crate) topology: Topology,
    /// Who leads what.
    pub(crate) routes: Routes,
    /// How much of what.
    pub(crate) load: Load,
    /// What the requests are.
    pub(crate) work: Work,
    /// What the records look like.
    pub(crate) payload: Payload,
    /// Closed loop: stop after so many requests.
    pub(crate) requests: Option<u64>,
    /// Where progress is shown.
    pub(crate) live: Arc<Live>,
}

impl Engine {
    /// Opens the connections.
    ///
    /// # Errors
    /// A leader cannot be reached.
    pub(crate) fn new(orders: Orders) -> Result<Self, Failure> {
        let Orders { topology, routes, load, work, payload, requests, live } = orders;
        let length = load.warmup + load.duration;
        let (warmup_ns, end_ns) = (nanos(load.warmup), nanos(length));
        let requests_max = load.requests_in_flight();
        let pace = match load.rate {
            Rate::Max => Pace::Closed { left: requests.unwrap_or(u64::MAX) },
            Rate::PerSecond(rate) => Pace::Open {
                schedule: Schedule::new(rate, load.records_per_request, length),
                issued: 0,
            },
        };
        let mut engine = Self {
            lanes: topology.endpoints.iter().map(|_| Lane::default()).collect(),
            links_per_lane: 1,
            links: Vec::new(),
            poll: Poll::new().map_err(|error| Failure::io("epoll", &error))?,
            flight: Flight::default(),
            again: Again::default(),
            gates: topology.groups.iter().map(|_| Gate::default()).collect(),
            parked: 0,
            ledger: Ledger::new(topology.groups.len()),
            meter: Meter::new(warmup_ns..end_ns),
            helper: Helper::start(topology.clone()),
            routes_wished: false,
            dirty: Vec::new(),
            numbers: vec![0; topology.groups.len()],
            group_turn: 0,
            credit: requests_max,
            requests_max: requests_max as usize,
            watched_ns: 0,
            chance: Prng::new(u64::from(requests_max)),
            early: None,
            topology,
            work,
            payload,
            routes,
            pace,
            start: Instant::now(),
            end_ns,
            live,
        };
        engine.open_links(load.connections as usize)?;
        Ok(engine)
    }

    /// Runs to the end of the load and until its answers are there. Time counts from
    /// [`Engine::start_now`], or from when the engine was made.
    ///
    /// # Errors
    /// Only what makes the rest of the run pointless: the operating system refuses to wait.
    pub(crate) fn run(mut self) -> Result<Outcome, Failure> {
        system::sleep_precisely();
        let mut ready: Vec<Ready> = Vec::new();
        loop {
            let now_ns = self.now_ns();
            if self.is_over(now_ns) {
                break;
            }
            self.send_again(now_ns);
            self.issue(now_ns);
            self.flush_dirty();
            self.watch(now_ns);
            self.live.set(self.meter.records, self.outstanding(), self.meter.errors_total());
            let pause = self.pause(self.now_ns());
            self.poll.wait(pause, &mut ready).map_err(|error| Failure::io("epoll", &error))?;
            let now_ns = self.now_ns();
            for event in &ready {
                if event.room {
                    self.flush(event.key);
                }
                if event.input {
                    self.on_input(event.key, now_ns);
                }
            }
        }
        Ok(self.finish())
    }

    /// Lets time count from now: connecting is not part of the run. Tells since when.
    pub(crate) fn start_now(&mut self) -> Instant {
        self.start = Instant::now();
        self.start
    }

    pub(crate) fn now_ns(&self) -> u64 {
        nanos(self.start.elapsed())
    }

    /// Requests without an answer, wherever they are.
    fn outstanding(&self) -> u64 {
        (self.flight.len() + self.again.len() + self.parked) as u64
    }

    fn is_over(&self, now_ns: u64) -> bool {
        let settled = self.outstanding() == 0;
        let issued = self.early.is_some()
            || match self.pace {
                Pace::Open { schedule, issued } => {
                    issued == schedule.total() || now_ns >= self.end_ns + nanos(PATIENCE_OPEN)
                }
                Pace::Closed { left } => left == 0 || now_ns >= self.end_ns,
            };
        issued && (settled || now_ns >= self.end_ns + nanos(PATIENCE))
    }

    /// Sends whatever the pace allows now.
    fn issue(&mut self, now_ns: u64) {
        if self.early.is_some() {
            return;
        }
        if system::stopped() {
            self.end_early(Early::Stopped, now_ns);
        } else if self.ledger.is_full(self.requests_max) {
            self.end_early(Early::LedgerFull, now_ns);
        } else if let Pace::Open { schedule, issued } = self.pace {
            let due = schedule.due(now_ns);
            let room = (self.requests_max as u64).saturating_sub(self.outstanding());
            let upto = due.min(issued + room);
            for number in issued..upto {
                self.issue_anywhere(schedule.time_ns(number), now_ns);
            }
            self.pace = Pace::Open { schedule, issued: upto };
            if upto < due {
                // Not sent for want of room: its waiting shows in the lateness even if it is
                // never sent at all.
                self.meter.left(schedule.time_ns(upto), now_ns);
            }
            for lane in &mut self.lanes {
                lane.turn += 1;
            }
        } else if now_ns < self.end_ns {
            while self.credit > 0 && self.issue_closed(None, now_ns) {
                for lane in &mut self.lanes {
                    lane.turn += 1;
                }
            }
        }
    }

    /// Closed loop: one more request, on `link` if that leads to a group, else on any. Tells
    /// whether there was one to send.
    #[inline]
    pub(crate) fn issue_closed(&mut self, link: Option<usize>, now_ns: u64) -> bool {
        let Pace::Closed { left } = &mut self.pace else { return false };
        if *left == 0 || now_ns >= self.end_ns || self.early.is_some() {
            return false;
        }
        *left -= 1;
        self.credit -= 1;
        let here = link.and_then(|at| {
            let lane = &mut self.lanes[self.links[at].as_ref()?.endpoint];
            lane.group_turn += 1;
            let group = *lane.groups.get(lane.group_turn % lane.groups.len().max(1))?;
            Some((at, group))
        });
        if let Some((at, group)) = here {
            let request = self.next_request(group, now_ns);
            self.send(at, request);
        } else {
            self.issue_anywhere(now_ns, now_ns);
        }
        true
    }

    fn issue_anywhere(&mut self, intended_ns: u64, now_ns: u64) {
        self.group_turn = (self.group_turn + 1) % self.numbers.len();
        let group = u32::try_from(self.group_turn).expect("GROUPS_MAX is small");
        let request = self.next_request(group, intended_ns);
        self.meter.left(intended_ns, now_ns);
        self.route(request, now_ns);
    }

    fn next_request(&mut self, group: u32, intended_ns: u64) -> Request {
        let number = match &self.work {
            Work::Append => {
                let next = &mut self.numbers[group as usize];
                let number = *next;
                *next += u64::from(self.payload.records_per_request());
                number
            }
            Work::Read { places, .. } => self.chance.below(places[group as usize].len() as u64),
        };
        Request { group, number, intended_ns }
    }

    /// Sends a request to wherever its group is led; it waits if nobody knows.
    pub(crate) fn route(&mut self, request: Request, now_ns: u64) {
        if self.gates[request.group as usize].is_shut() {
            self.parked += 1;
            return self.gates[request.group as usize].park(request);
        }
        self.pass(request, now_ns);
    }

    /// Sends a request whatever its gate says.
    pub(crate) fn pass(&mut self, request: Request, now_ns: u64) {
        let lane = self.routes[request.group as usize].map(|endpoint| &self.lanes[endpoint]);
        let link = lane.filter(|lane| !lane.links.is_empty()).map(|lane| {
            let at = lane.links[lane.turn % lane.links.len()];
            (at, self.links[at].as_ref().is_some_and(Link::has_room))
        });
        match link {
            Some((at, true)) => self.send(at, request),
            Some((_, false)) => self.again.push(now_ns + PAUSE_NOWHERE_NS, request),
            None => self.shut_gate(request, now_ns),
        }
    }

    #[inline]
    fn send(&mut self, at: usize, request: Request) {
        let link = self.links[at].as_mut().expect("lanes list open links only");
        let position = link.position();
        if link.queue.is_empty() {
            self.dirty.push(at);
        }
        let correlation = self.flight.start(Flying { request, link: at, position });
        link.outstanding += 1;
        let group = self.topology.groups[request.group as usize];
        match &self.work {
            Work::Append => {
                let (body, body_crc) = self.payload.append_body(request.group, request.number);
                let body_bytes = u32::try_from(body.len()).expect("a request is below 1 MiB");
                let header = FrameHeader {
                    kind: Kind::Append.number(),
                    body_bytes,
                    covered_bytes: body_bytes,
                    correlation,
                    group,
                    body_crc,
                };
                link.queue.extend_from_slice(&header.encode());
                link.queue.extend_from_slice(body);
            }
            Work::Read { consistency, places } => {
                let place = read_place(places, &request);
                let from = LogIndex::new(place.index);
                // One batch: the prefill makes batches of one record.
                let read = Read { from, max_bytes: 1, consistency: *consistency };
                encode_read(&mut link.queue, correlation, group, &read);
            }
        }
    }

    fn send_again(&mut self, now_ns: u64) {
        // At most once around: what finds no way is parked with a new pause.
        for _ in 0..self.again.len() {
            let Some(request) = self.again.due(now_ns) else { return };
            self.route(request, now_ns);
        }
    }

    fn flush_dirty(&mut self) {
        while let Some(at) = self.dirty.pop() {
            if self.links[at].as_ref().is_some_and(|link| !link.blocked) {
                self.flush(at);
            }
        }
    }

    fn flush(&mut self, at: usize) {
        let Some(link) = self.links[at].as_mut() else { return };
        let result = link.flush().and_then(|flushed| {
            let blocked = flushed == Flushed::Blocked;
            if blocked != link.blocked {
                link.blocked = blocked;
                let interest = if blocked { Interest::InputAndRoom } else { Interest::Input };
                self.poll.set(link, at, interest)?;
            }
            Ok(())
        });
        if result.is_err() {
            self.lose(at);
        }
    }

    /// How long there is nothing to do unless something comes in.
    fn pause(&self, now_ns: u64) -> Duration {
        let mut until_ns = now_ns + nanos(WATCH);
        if let Pace::Open { schedule, issued } = self.pace
            && issued < schedule.total()
            && self.outstanding() < self.requests_max as u64
        {
            until_ns = until_ns.min(schedule.time_ns(issued).max(now_ns + nanos(TICK)));
        }
        if let Some(next_ns) = self.again.next_ns() {
            until_ns = until_ns.min(next_ns);
        }
        Duration::from_nanos(until_ns.saturating_sub(now_ns))
    }

    fn watch(&mut self, now_ns: u64) {
        if now_ns >= self.watched_ns + nanos(WATCH) {
            self.watched_ns = now_ns;
            self.look_after_links(now_ns);
        }
    }

    pub(crate) fn end_early(&mut self, why: Early, now_ns: u64) {
        self.early.get_or_insert(why);
        self.end_ns = self.end_ns.min(now_ns);
        self.meter.close_window(self.end_ns);
    }

    fn finish(mut self) -> Outcome {
        let records = u64::from(self.payload.records_per_request());
        let refused = (self.again.len() + self.parked) as u64 * records;
        for flying in self.flight.clear() {
            self.unknown(flying.request, "no_reply");
        }
        let unsent = match self.pace {
            Pace::Open { schedule, issued } if self.early.is_none() => {
                (schedule.total() - issued) * records
            }
            Pace::Open { .. } | Pace::Closed { .. } => 0,
        };
        self.live.set(self.meter.records, 0, self.meter.errors_total());
        self.live.ended.store(true, Ordering::Relaxed);
        let Self { meter, ledger, early, end_ns, .. } = self;
        let end = Duration::from_nanos(end_ns);
        Outcome { meter, ledger, unsent, refused, early, stopped_badly: false, end }
    }
}

/// The record that a read asks for.
pub(crate) fn read_place(places: &[Vec<Place>], request: &Request) -> Place {
    let at = usize::try_from(request.number).expect("an index into the list");
    places[request.group as usize][at]
}

/// Nanoseconds of a duration of this program: days at most.
pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
