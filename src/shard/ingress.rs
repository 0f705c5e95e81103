//! ingress: what arrived is cut, checked, and admitted or refused at the door.
//!
//! Client bytes become requests here, peer bytes become steps of a group in `peers`, completions
//! become durable writes in `persist`. Nothing is copied, and outcomes are only noted for `reply`.

use bytes::Bytes;

use super::effects::{Effect, Effects};
use super::input::{ClientTroubles, Input, Inputs, PeerFault};
use super::slot::{Origin, Request};
use super::status::Question;
use super::{Draining, Shard};
use crate::model::batch::BATCH_HEADER_BYTES;
use crate::model::limits::{BUSY_RETRY_AFTER, INPUTS_PER_TURN_MAX, REQUESTS_PER_CONNECTION_MAX};
use crate::model::{ConnId, GroupId, Refusal};
use crate::raft::RoleName;
use crate::wire::client::{
    Append, ErrorCode, Hello, HelloReply, Kind, Limits, Request as WireRequest, encode_error,
    encode_hello_reply,
};
use crate::wire::{FrameError, InFrame, PROTOCOL_VERSION};

impl Shard {
    /// The ingress stage: at most `INPUTS_PER_TURN_MAX` inputs, in order of arrival.
    pub(super) fn ingress(&mut self, inputs: &mut Inputs, fx: &mut Effects) {
        for _ in 0..INPUTS_PER_TURN_MAX {
            let Some(input) = inputs.queue.pop_front() else { break };
            self.take_in(input, fx);
            self.absorb();
        }
    }

    fn take_in(&mut self, input: Input, fx: &mut Effects) {
        match input {
            Input::ClientOpened { conn } => {
                self.counters.client_connections += 1;
                self.clients.open(conn);
            }
            Input::ClientBytes { conn, bytes } => self.on_client_bytes(conn, bytes, fx),
            Input::ClientClosed { conn } => {
                let was_greeted = self.clients.get(conn).is_none_or(|client| client.is_greeted);
                self.counters.client_strangers += u64::from(!was_greeted);
                self.clients.close(conn);
            }
            Input::ClientTroubles { troubles } => self.on_client_troubles(troubles),
            Input::PeerUp { peer, lane, stream, credit_bytes } => {
                self.on_peer_up(peer, lane, stream, credit_bytes);
            }
            Input::PeerDown { peer, lane, stream } => self.on_peer_down(peer, lane, stream),
            Input::PeerRefused { fault: PeerFault::Handshake } => self.counters.peer_refused += 1,
            Input::PeerRefused { fault: PeerFault::Frame } => self.counters.peer_malformed += 1,
            Input::PeerControl { peer, stream, bytes } => {
                self.on_peer_control(peer, stream, bytes, fx);
            }
            Input::PeerBulk { peer, stream, frame } => self.on_peer_bulk(peer, stream, frame, fx),
            Input::WriteDone { write } => self.on_write_done(write),
            Input::WriteFailed { write, .. } => self.on_write_failed(write, fx),
            Input::ReadDone { read, buf, result } => self.on_read_done(read, buf, result),
            Input::SegmentReady { segment } => self.on_segment_ready(segment),
            Input::SegmentFailed { segment, .. } => self.on_segment_failed(segment),
            Input::Forwarded { from, conn, frame } => {
                let frame = InFrame::from_checked(frame)
                    .expect("a sibling shard forwards whole frames that it checked");
                let correlation = frame.header.correlation;
                self.on_request(Origin { remote: Some(from), conn, correlation }, frame);
            }
            Input::Returned { conn, returned } => {
                self.clients.answer_returned(conn, returned);
            }
            Input::Tick => {}
            Input::Drain => self.on_drain(),
        }
    }

    fn on_client_troubles(&mut self, troubles: ClientTroubles) {
        let ClientTroubles { paused, unread, late, evicted, turned_away } = troubles;
        self.counters.client_paused += paused;
        self.counters.client_cut_unread += unread;
        self.counters.client_cut_late += late;
        self.counters.client_cut_evicted += evicted;
        self.counters.client_turned_away += turned_away;
    }

    fn on_drain(&mut self) {
        if self.draining == Draining::No {
            self.draining = Draining::Asked;
        }
    }

    fn on_client_bytes(&mut self, conn: ConnId, bytes: Bytes, fx: &mut Effects) {
        let Some(connection) = self.clients.get(conn) else { return };
        connection.assembler.push(bytes);
        loop {
            let Some(connection) = self.clients.get(conn) else { return };
            let before = connection.assembler.carried_bytes();
            let held = connection.assembler.held_bytes();
            let next = connection.assembler.next();
            self.counters.copied_bytes_carry += connection.assembler.carried_bytes() - before;
            // What was let go beside the frame was skipped: it is nobody's any more.
            let frame_bytes = next.as_ref().map_or(0, |next| match next {
                Ok(frame) => frame.bytes.len(),
                Err(_) => 0,
            });
            let skipped = held - connection.assembler.held_bytes() - frame_bytes;
            if skipped > 0 {
                let origin = Origin { remote: None, conn, correlation: 0 };
                self.clients.give_room(origin, skipped);
            }
            match next {
                None => return,
                Some(Ok(frame)) => self.on_client_frame(conn, frame, fx),
                Some(Err(error)) => {
                    self.on_client_nonsense(conn, &error);
                    if !error.is_framed() {
                        return;
                    }
                }
            }
        }
    }

    /// A frame that cannot be read: a typed error, and the end of the stream if it is not cut
    /// correctly any more (N-02).
    fn on_client_nonsense(&mut self, conn: ConnId, error: &FrameError) {
        self.counters.client_malformed += 1;
        let origin = Origin { remote: None, conn, correlation: error.correlation() };
        let refusal = match error {
            FrameError::TooLarge { limit_bytes, .. } => {
                Refusal::TooLarge { limit_bytes: u32::try_from(*limit_bytes).unwrap_or(u32::MAX) }
            }
            FrameError::Version { .. } | FrameError::Reserved { .. } => Refusal::Unsupported,
            FrameError::Short { .. }
            | FrameError::Magic { .. }
            | FrameError::HeaderCrc { .. }
            | FrameError::BodyCrc { .. }
            | FrameError::Body { .. } => Refusal::Malformed,
        };
        self.clients.took(conn);
        self.replies.refuse(GroupId::new(0), origin, refusal);
        if !error.is_framed() {
            self.clients.hang_up(conn, error.reason());
        }
    }

    fn on_client_frame(&mut self, conn: ConnId, frame: InFrame, fx: &mut Effects) {
        self.counters.client_frames += 1;
        let correlation = frame.header.correlation;
        let origin = Origin { remote: None, conn, correlation };
        let Some(connection) = self.clients.get(conn) else { return };
        connection.unanswered += 1;
        if !connection.is_greeted {
            return self.on_hello(origin, &frame);
        }
        if connection.unanswered as usize > REQUESTS_PER_CONNECTION_MAX {
            return self.refuse_frame(origin, &frame, busy());
        }
        let is_for_group =
            matches!(Kind::from_number(frame.header.kind), Some(Kind::Append | Kind::Read));
        let home = self.config.shard_of(frame.header.group);
        if is_for_group && home != self.config.shard {
            mark!(F01_FORWARDED_TO_HOME_SHARD);
            self.counters.client_forwarded += 1;
            fx.push(Effect::Forward { to: home, conn, frame: frame.bytes });
            return;
        }
        self.on_request(origin, frame);
    }

    /// The first frame of a connection must be a Hello for this cluster and protocol.
    fn on_hello(&mut self, origin: Origin, frame: &InFrame) {
        self.clients.give_room(origin, frame.bytes.len());
        let verdict = match WireRequest::decode(&frame.header, frame.body()) {
            Ok(WireRequest::Hello(hello)) => self.check_hello(&hello),
            Ok(_) | Err(_) => Err(ErrorCode::HelloFirst),
        };
        let reply = self.hello_reply();
        let group = GroupId::new(0);
        match verdict {
            Ok(()) => {
                if let Some(connection) = self.clients.get(origin.conn) {
                    mark!(N01_CLIENT_GREETED);
                    connection.is_greeted = true;
                    connection.assembler.set_limit(self.config.frame_bytes_max() as usize);
                }
                self.clients.answer(origin, |out| {
                    encode_hello_reply(out, origin.correlation, &reply);
                });
            }
            Err(code) => {
                self.counters.client_malformed += 1;
                let newest = u64::from(PROTOCOL_VERSION);
                let detail = if code == ErrorCode::WrongVersion { newest } else { 0 };
                self.clients.answer(origin, |out| {
                    encode_error(out, origin.correlation, group, code, detail);
                });
                self.clients.hang_up(origin.conn, code.text());
            }
        }
    }

    fn check_hello(&self, hello: &Hello<'_>) -> Result<(), ErrorCode> {
        if !(hello.version_min..=hello.version_max).contains(&PROTOCOL_VERSION) {
            return Err(ErrorCode::WrongVersion);
        }
        let any = crate::model::ClusterId::default();
        if hello.cluster != any && hello.cluster != self.config.cluster {
            return Err(ErrorCode::WrongCluster);
        }
        Ok(())
    }

    fn hello_reply(&self) -> HelloReply {
        HelloReply {
            version: PROTOCOL_VERSION,
            cluster: self.config.cluster,
            node: self.config.node,
            uuid: self.config.uuid,
            shard: self.config.shard,
            shard_count: self.config.shard_count,
            limits: Limits {
                frame_bytes_max: self.config.frame_bytes_max(),
                batch_bytes_max: u32::try_from(self.config.batch_bytes_max())
                    .expect("below a block"),
                requests_max: u32::try_from(REQUESTS_PER_CONNECTION_MAX).expect("a small limit"),
                budget_bytes: self.config.connection_bytes_max,
            },
        }
    }

    /// One whole request for this shard.
    fn on_request(&mut self, origin: Origin, frame: InFrame) {
        let group = frame.header.group;
        match WireRequest::decode(&frame.header, frame.body()) {
            Ok(WireRequest::Append(append)) => {
                let admitted = self.admit(group, &append);
                let (count, expected_tail) = (append.count, append.expected_tail);
                let run = append.records_offset();
                let record_bytes = append.record_bytes() as u64;
                match admitted {
                    Ok(at) => {
                        self.counters.append_requests += 1;
                        self.counters.append_records += u64::from(count.get());
                        self.counters.append_record_bytes += record_bytes;
                        let frame_bytes = frame.bytes.len();
                        let records = frame.bytes.slice(run..);
                        let request =
                            Request { origin, records, count, expected_tail, frame_bytes };
                        self.queue_request(at, request);
                    }
                    Err(refusal) => self.refuse_frame(origin, &frame, refusal),
                }
            }
            Ok(WireRequest::Read(read)) => {
                self.clients.give_room(origin, frame.bytes.len());
                self.on_read_request(origin, group, read);
            }
            Ok(WireRequest::Metadata) => {
                self.on_question(origin, &frame, Question::Metadata);
            }
            Ok(WireRequest::Status) => {
                self.on_question(origin, &frame, Question::Status);
            }
            Ok(WireRequest::Hello(_)) => {
                self.counters.client_malformed += 1;
                self.refuse_frame(origin, &frame, Refusal::Malformed);
            }
            Err(refusal) => {
                self.counters.client_malformed += 1;
                self.refuse_frame(origin, &frame, refusal);
            }
        }
    }

    /// A question about this shard waits for the end of the turn, or is refused at the door: an
    /// answer can be a hundred times as long as the question.
    fn on_question(&mut self, origin: Origin, frame: &InFrame, question: Question) {
        if self.questions.is_full() || !self.clients.may_ask(origin.conn) {
            return self.refuse_frame(origin, frame, busy());
        }
        self.clients.give_room(origin, frame.bytes.len());
        self.questions.push(origin, question);
    }

    /// Whether an append may come in (F-01, F-02): before any of it is copied.
    fn admit(&self, group: GroupId, append: &Append<'_>) -> Result<usize, Refusal> {
        let at = self.slots.find(group).ok_or(Refusal::UnknownGroup)?;
        if self.draining != Draining::No {
            mark!(O02_APPEND_REFUSED_WHILE_DRAINING);
            return Err(Refusal::Unavailable);
        }
        let raft = &self.slots[at].raft;
        if raft.role() != RoleName::Leader {
            mark!(C06_APPEND_REFUSED_BY_FOLLOWER);
            return Err(Refusal::NotLeader { hint: raft.leader() });
        }
        if self.store.is_disk_full() {
            mark!(D09_APPEND_REFUSED_DISK_FULL);
            return Err(Refusal::DiskFull);
        }
        let limit = self.config.batch_bytes_max();
        if append.records.len() + BATCH_HEADER_BYTES > limit {
            let limit_bytes = u32::try_from(limit - BATCH_HEADER_BYTES).expect("below a block");
            return Err(Refusal::TooLarge { limit_bytes });
        }
        // A request that is larger than the whole budget still gets its chance when it is alone.
        let budget = self.config.uncommitted_bytes_max;
        let taken = self.replies.uncommitted_bytes;
        if taken > 0 && taken + append.records.len() > budget && !planted!(F02_BUDGET_IGNORED) {
            mark!(F02_BUSY);
            return Err(busy());
        }
        Ok(at)
    }

    fn queue_request(&mut self, at: usize, request: Request) {
        self.replies.uncommitted_bytes += request.records.len();
        self.store.pending_bytes += request.records.len();
        self.slots[at].pending.push_back(request);
        let answered = self.counters.append_done + self.counters.append_unknown;
        let outstanding = self.counters.append_requests.saturating_sub(answered);
        self.trace.on_admitted((at, self.slots[at].pending.len()), outstanding, self.now);
        self.slots.queue(at);
    }

    /// Refuses a whole frame and gives its bytes back at once.
    fn refuse_frame(&mut self, origin: Origin, frame: &InFrame, refusal: Refusal) {
        if matches!(refusal, Refusal::Busy { .. }) {
            self.counters.client_busy += 1;
        }
        let held = frame.bytes.len();
        self.clients.give_room(origin, if planted!(F01_ROOM_KEPT) { 0 } else { held });
        self.replies.refuse(frame.header.group, origin, refusal);
    }
}

fn busy() -> Refusal {
    Refusal::Busy { retry_after: BUSY_RETRY_AFTER }
}
