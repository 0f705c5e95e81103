//! The way of one request: to whom it goes, when it is tried again, how it ends.

use core::time::Duration;

use super::links::LinkState;
use super::{Answer, Progress, RequestId, RequestKind, Session, SessionEffect};
use crate::base::Moment;
use crate::model::{Doubt, GroupId, NodeId, Outcome, Refusal};
use crate::wire::client::shard_of;

impl Session {
    /// Time has passed. Call it at [`Session::next_wake`], and once at the start.
    pub fn on_tick(&mut self, now: Moment) {
        self.expire(now);
        while let Some((at, id)) = self.waiting.first().copied()
            && at <= now
        {
            self.waiting.remove(&(at, id));
            self.set_progress(id, Progress::Queued);
            self.route(now, id);
        }
        self.connect_what_is_wanted(now);
    }

    /// When [`Session::on_tick`] has something to do next; [`Moment::NEVER`] if nothing waits.
    pub fn next_wake(&self) -> Moment {
        let oldest = self.requests.first_key_value();
        let deadline =
            oldest.map_or(Moment::NEVER, |(_, r)| r.submitted.after(self.options.request_timeout));
        let waiting = self.waiting.first().map_or(Moment::NEVER, |(at, _)| *at);
        deadline.min(waiting).min(self.next_connect())
    }

    /// Ends what is older than the timeout. All timeouts are equal, so the oldest come first.
    fn expire(&mut self, now: Moment) {
        while let Some((id, request)) = self.requests.first_key_value() {
            let id = *id;
            if now.since(request.submitted) < self.options.request_timeout {
                break;
            }
            let sent = match request.progress {
                Progress::Sent(link) => Some((link, request.submitted)),
                Progress::Queued | Progress::Waiting(_) => None,
            };
            let refusal = match request.last_refusal {
                refusal @ (Refusal::Busy { .. } | Refusal::NotLeader { .. }) => refusal,
                Refusal::DiskFull
                | Refusal::TooLarge { .. }
                | Refusal::UnknownGroup
                | Refusal::Trimmed { .. }
                | Refusal::WrongTail { .. }
                | Refusal::Unsupported
                | Refusal::Malformed
                | Refusal::Unavailable
                | Refusal::TimedOut => Refusal::TimedOut,
            };
            self.give_up(id, refusal, Doubt::TimedOut);
            if let Some((link, since)) = sent {
                self.close_if_silent(now, link, since);
            }
        }
    }

    /// Sends `id` on the link of its group's leader, or queues it there, or with whoever may know
    /// the leader.
    pub(super) fn route(&mut self, now: Moment, id: RequestId) {
        if !self.is_ready() {
            self.unrouted.push_back(id);
            return;
        }
        let request = self.requests.get(&id).expect("routed requests are pending");
        let (group, avoid, attempts) = (request.group, request.refused_by, request.attempts);
        let shard = shard_of(group, self.shard_count);
        let node = match self.leaders.get(&group) {
            Some(leader) if self.nodes.iter().any(|n| n.node == *leader) => *leader,
            _ => self.some_node(shard, avoid, attempts < 3),
        };
        let endpoint = self.endpoint_of(node, shard);
        self.endpoints[endpoint].queue.push_back(id);
        match self.endpoints[endpoint].state {
            LinkState::Ready(_) => self.flush(endpoint),
            LinkState::Down => self.connect_what_is_wanted(now),
            LinkState::Connecting(_) | LinkState::Greeting(_) => (),
        }
    }

    /// Requests that were waiting for the first metadata.
    pub(super) fn route_unrouted(&mut self, now: Moment) {
        for id in core::mem::take(&mut self.unrouted) {
            if self.requests.contains_key(&id) {
                self.route(now, id);
            }
        }
    }

    /// Hands over what the endpoint's queue holds, as far as its budget goes. At least one
    /// request is always in flight, or a request above the budget would never leave.
    pub(super) fn flush(&mut self, endpoint: usize) {
        let LinkState::Ready(link) = self.endpoints[endpoint].state else { return };
        while let Some(id) = self.endpoints[endpoint].queue.front().copied() {
            let Some(request) = self.requests.get_mut(&id) else {
                self.endpoints[endpoint].queue.pop_front();
                continue;
            };
            let bytes = request.frame.len();
            let at = &mut self.endpoints[endpoint];
            if !at.has_room(bytes) {
                return;
            }
            at.queue.pop_front();
            at.in_flight.insert(id);
            at.in_flight_bytes += bytes;
            request.progress = Progress::Sent(link);
            request.attempts += 1;
            let bytes = request.frame.clone();
            self.effects.push(SessionEffect::Send { link, bytes });
        }
    }

    /// An attempt certainly had no effect. Decides whether there is another one.
    pub(super) fn on_refusal(
        &mut self,
        now: Moment,
        id: RequestId,
        from: Option<NodeId>,
        refusal: Refusal,
    ) {
        let Some(request) = self.requests.get_mut(&id) else { return };
        let (group, attempts) = (request.group, request.attempts);
        request.last_refusal = refusal;
        request.refused_by = from;
        let pause = match refusal {
            Refusal::NotLeader { hint } => {
                let news = self.learn_leader(group, from, hint);
                // The first hint is followed at once; when nodes point at each other, slower.
                if news && attempts <= 2 { Duration::ZERO } else { self.backoff(attempts) }
            }
            Refusal::Busy { retry_after } => {
                retry_after.min(self.options.backoff_max).max(Duration::from_micros(100))
            }
            Refusal::Unavailable => {
                self.forget_leader(group, from);
                self.backoff(attempts)
            }
            Refusal::DiskFull
            | Refusal::TooLarge { .. }
            | Refusal::UnknownGroup
            | Refusal::Trimmed { .. }
            | Refusal::WrongTail { .. }
            | Refusal::Unsupported
            | Refusal::Malformed
            | Refusal::TimedOut => {
                self.finish(id, Outcome::NotDone(refusal));
                return;
            }
        };
        if attempts >= self.options.attempts_max {
            self.finish(id, Outcome::NotDone(refusal));
        } else if pause.is_zero() {
            self.set_progress(id, Progress::Queued);
            self.route(now, id);
        } else {
            let at = now.after(pause);
            self.set_progress(id, Progress::Waiting(at));
            self.waiting.insert((at, id));
        }
    }

    /// The link that carried or would have carried `id` is gone.
    pub(super) fn on_lost(&mut self, now: Moment, id: RequestId, node: Option<NodeId>) {
        let Some(request) = self.requests.get_mut(&id) else { return };
        match (request.kind, request.progress) {
            // It may have happened, it may not: nobody but the caller may try again.
            (RequestKind::Append, Progress::Sent(_)) if !planted!(C06_SESSION_SENDS_AGAIN) => {
                let unknown = Outcome::Unknown(Doubt::ConnectionLost);
                let lie = planted!(C06_SESSION_LOST_IS_NOT_DONE);
                self.finish(id, if lie { Outcome::NotDone(Refusal::TimedOut) } else { unknown });
            }
            (RequestKind::Append | RequestKind::Read, Progress::Sent(_) | Progress::Queued) => {
                request.attempts += u32::from(request.progress == Progress::Queued);
                self.on_refusal(now, id, node, Refusal::Unavailable);
            }
            (RequestKind::Append | RequestKind::Read, Progress::Waiting(_)) => (),
        }
    }

    /// The one way out: an answer for the caller.
    pub(super) fn finish(&mut self, id: RequestId, outcome: Outcome<Answer>) {
        let Some(request) = self.requests.remove(&id) else { return };
        self.buffered_bytes -= request.frame.len();
        self.effects.push(SessionEffect::Finished { request: id, outcome });
    }

    /// Ends a request that nobody waits for any longer, truthfully.
    pub(super) fn give_up(&mut self, id: RequestId, refusal: Refusal, doubt: Doubt) {
        let Some(request) = self.requests.get(&id) else { return };
        match request.progress {
            Progress::Sent(link) => {
                let bytes = request.frame.len();
                if let Some(endpoint) = self.links.get(&link).copied() {
                    self.endpoints[endpoint].landed(id, bytes);
                }
                self.finish(id, Outcome::Unknown(doubt));
            }
            Progress::Queued => self.finish(id, Outcome::NotDone(refusal)),
            Progress::Waiting(at) => {
                self.waiting.remove(&(at, id));
                self.finish(id, Outcome::NotDone(refusal));
            }
        }
    }

    /// Whether the hint was news.
    fn learn_leader(&mut self, group: GroupId, from: Option<NodeId>, hint: Option<NodeId>) -> bool {
        match hint {
            Some(leader) if Some(leader) != from => {
                self.leaders.insert(group, leader) != Some(leader)
            }
            Some(_) | None => {
                self.forget_leader(group, from);
                false
            }
        }
    }

    fn forget_leader(&mut self, group: GroupId, node: Option<NodeId>) {
        if self.leaders.get(&group).copied() == node {
            self.leaders.remove(&group);
        }
    }

    fn set_progress(&mut self, id: RequestId, progress: Progress) {
        if let Some(request) = self.requests.get_mut(&id) {
            request.progress = progress;
        }
    }

    /// The pause after so many failures: doubling up to the maximum, of which half is drawn, so
    /// that clients that failed together do not come back together.
    pub(super) fn backoff(&mut self, failures: u32) -> Duration {
        let doubled = self.options.backoff_min.saturating_mul(1 << (failures.clamp(1, 16) - 1));
        let capped = doubled.min(self.options.backoff_max);
        let half = u64::try_from(capped.as_nanos() / 2).unwrap_or(u64::MAX / 4).max(1);
        Duration::from_nanos(half + self.prng.below(half))
    }
}
