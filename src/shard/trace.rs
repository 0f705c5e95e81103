//! trace: where the time of an append goes, seen on one append at a time.
//!
//! One request is followed from the receive buffer to the reply; when it is answered, another one
//! is picked. So all stages of one line belong to the same requests and add up, and the price is
//! a few comparisons a turn, whatever the number of records. On a follower one frame at a time is
//! followed to its device, and on each link one batch until that peer has it durable. Does not:
//! read a clock; a stage ends in the turn that takes notice of it, which is also when anybody
//! could act on it.

use core::fmt::{self, Write as _};

use super::Shard;
use crate::base::Moment;
use crate::model::LogIndex;
use crate::model::limits::VOTERS_MAX;
use crate::stats::Histogram;

/// A request that is being followed.
#[derive(Clone, Copy, Debug)]
struct Followed {
    slot: usize,
    arrived: Moment,
    admitted: Moment,
    step: Step,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    /// So many requests of its group are to be batched before it.
    Waits { ahead: usize },
    /// Its batch ends at `last` and left for the device and the peers at `at`.
    Flies { last: LogIndex, at: Moment, own: Option<Moment>, peer: Option<Moment> },
    /// It was committed; the reply has not left yet.
    Answered { committed: Moment },
}

/// A batch that a peer, or a follower's own device, is to make durable.
#[derive(Clone, Copy, Debug)]
struct Sent {
    slot: usize,
    last: LogIndex,
    at: Moment,
}

/// The stages of an append, as histograms. One set per shard.
#[derive(Debug, Default)]
struct Stages {
    /// From the first bytes that waited for the turn to the turn.
    receive: Histogram,
    /// From there until a batch took it: the wait for a write slot.
    wait: Histogram,
    /// From the batch until it was durable on the leader's own device.
    own_disk: Histogram,
    /// From the batch until the first peer had said that it is durable there.
    peer: Histogram,
    /// From the batch to the commit.
    commit: Histogram,
    /// From the commit until the reply was handed to the socket.
    reply: Histogram,
    /// From the first bytes to the reply.
    total: Histogram,
    /// On a follower, from the frame's arrival until its batches were durable.
    follower_disk: Histogram,
    /// From the batch until a peer had it durable, for every peer.
    follower_lag: Histogram,
}

/// See the module's documentation. One per shard.
#[derive(Debug, Default)]
pub(super) struct Trace {
    followed: Option<Followed>,
    /// Requests to let pass before the next is picked, so that the picking does not keep step
    /// with clients that answer every reply with a request.
    pass: u64,
    picked: u64,
    frame: Option<Sent>,
    /// By link.
    lags: [Option<Sent>; VOTERS_MAX],
    /// When the oldest input of this turn arrived.
    pub(super) arrived: Moment,
    stages: Stages,
}

impl Trace {
    /// A request was put at the end of its group's line of `pending`, itself included.
    /// `outstanding` requests of all groups have no answer yet: up to twice as many are let pass
    /// before the next pick, or only the first of each burst would ever be seen.
    pub(super) fn on_admitted(
        &mut self,
        (slot, pending): (usize, usize),
        outstanding: u64,
        now: Moment,
    ) {
        if self.followed.is_some() {
            return;
        }
        if self.pass > 0 {
            self.pass -= 1;
            return;
        }
        self.picked += 1;
        self.pass = self.picked.wrapping_mul(0x9e37_79b1) % (2 * outstanding.max(1) - 1);
        let step = Step::Waits { ahead: pending - 1 };
        self.followed = Some(Followed { slot, arrived: self.arrived, admitted: now, step });
    }

    /// A batch up to `last` took the first `requests` of a group's line.
    pub(super) fn on_batched(&mut self, slot: usize, requests: usize, last: LogIndex, now: Moment) {
        for lag in &mut self.lags {
            if lag.is_none() {
                *lag = Some(Sent { slot, last, at: now });
            }
        }
        let Some(followed) = self.followed.as_mut().filter(|followed| followed.slot == slot) else {
            return;
        };
        if let Step::Waits { ahead } = &mut followed.step {
            if requests <= *ahead {
                *ahead -= requests;
                return;
            }
            self.stages.wait.record(now.since(followed.admitted));
            self.stages.receive.record(followed.admitted.since(followed.arrived));
            followed.step = Step::Flies { last, at: now, own: None, peer: None };
        }
    }

    /// A frame's batches, the last of which ends at `last`, wait for the device.
    pub(super) fn on_frame(&mut self, slot: usize, last: LogIndex) {
        if self.frame.is_none() {
            self.frame = Some(Sent { slot, last, at: self.arrived });
        }
    }

    /// Requests of this group were refused, or its log changed hands: what was followed there may
    /// never come to its end.
    pub(super) fn forget(&mut self, slot: usize) {
        self.followed = self.followed.filter(|followed| followed.slot != slot);
        self.frame = self.frame.filter(|frame| frame.slot != slot);
        for lag in &mut self.lags {
            *lag = lag.filter(|lag| lag.slot != slot);
        }
    }

    /// Whether [`Shard::note_flushed`] has something to note.
    fn awaits_flush(&self) -> bool {
        matches!(self.followed, Some(Followed { step: Step::Answered { .. }, .. }))
    }

    /// How long the batch has been on its way that a link's lag is measured with.
    pub(super) fn lag_us(&self, link: usize, now: Moment) -> u128 {
        self.lags[link].map_or(0, |lag| now.since(lag.at).as_micros())
    }

    /// Lines of the status: for each stage the sum, and the count of each bucket that has one.
    pub(super) fn write_status(&self, to: &mut String) -> fmt::Result {
        let s = &self.stages;
        let stages = [
            ("receive", &s.receive),
            ("wait", &s.wait),
            ("own_disk", &s.own_disk),
            ("peer", &s.peer),
            ("commit", &s.commit),
            ("reply", &s.reply),
            ("total", &s.total),
            ("follower_disk", &s.follower_disk),
            ("follower_lag", &s.follower_lag),
        ];
        for (name, histogram) in stages {
            writeln!(to, "stage.{name}.sum_ns {}", histogram.sum_ns())?;
            for (bucket, count) in histogram.buckets() {
                writeln!(to, "stage.{name}.b{bucket} {count}")?;
            }
        }
        Ok(())
    }
}

impl Shard {
    /// Looks how far what is followed has come. Once a turn.
    pub(super) fn trace(&mut self) {
        let Self { trace, slots, links, now, .. } = self;
        if trace.awaits_flush() {
            // Answered in an earlier turn, and the world did not say when the reply left.
            trace.followed = None;
        }
        for (lag, link) in trace.lags.iter_mut().zip(links.iter()) {
            if let Some(Sent { slot, last, at }) = *lag
                && slots[slot].raft.match_of(link.peer).is_some_and(|matched| matched >= last)
            {
                trace.stages.follower_lag.record(now.since(at));
                *lag = None;
            }
        }
        if let Some(Sent { slot, last, at }) = trace.frame
            && slots[slot].raft.durable() >= last
        {
            trace.stages.follower_disk.record(now.since(at));
            trace.frame = None;
        }
        let Some(followed) = &mut trace.followed else { return };
        let Step::Flies { last, at, own, peer } = &mut followed.step else { return };
        let raft = &slots[followed.slot].raft;
        if own.is_none() && raft.durable() >= *last {
            *own = Some(*now);
            trace.stages.own_disk.record(now.since(*at));
        }
        let has = |peer| raft.match_of(peer).is_some_and(|matched| matched >= *last);
        if peer.is_none() && links.iter().any(|link| has(link.peer)) {
            *peer = Some(*now);
            trace.stages.peer.record(now.since(*at));
        }
        if raft.commit() >= *last {
            trace.stages.commit.record(now.since(*at));
            followed.step = Step::Answered { committed: *now };
        }
    }

    /// The world has handed the replies of this turn to the sockets, at `now`. Worlds that cannot
    /// tell leave it out, and their replies are never late.
    pub fn note_flushed(&mut self, now: impl FnOnce() -> Moment) {
        if !self.trace.awaits_flush() {
            return;
        }
        if let Some(Followed { arrived, step: Step::Answered { committed }, .. }) =
            self.trace.followed.take()
        {
            let now = now();
            self.trace.stages.reply.record(now.since(committed));
            self.trace.stages.total.record(now.since(arrived));
        }
    }
}
