//! The peer links of a shard: two streams each, credit, round robin over groups.
//!
//! What a peer may keep busy of this shard's memory is bounded twice, by link and not by group:
//! bulk bytes that are on their way, and extents that hold what was read from the disk for it (a few
//! hundred bytes keep a whole one). What
//! Raft gives up (a stalled window, a lost office) may still lie in the stream, so it goes on
//! counting until the stream answers beyond it or ends. Does not: dial, shake hands, or know how
//! bytes travel; the world announces streams when they are ready and takes frames for them.

use core::time::Duration;
use std::collections::VecDeque;

use crate::base::Moment;
use crate::model::limits::{FRAME_BYTES_MAX, READ_BACK_EXTENTS_PER_PEER_MAX};
use crate::model::{NodeId, StreamId};
use crate::raft::{Envelope, OnItsWay};
use crate::wire::Assembler;

/// The bulk stream of a link while it is up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bulk {
    pub(super) stream: StreamId,
    /// What the receiver allows to be unacknowledged.
    pub(super) credit_bytes: u64,
}

/// Sent on the present bulk stream by groups that lost their office before they had an answer.
#[derive(Clone, Copy, Debug, Default)]
struct Limbo {
    bytes: u64,
    /// Once more than this was acknowledged, something that was sent later was: streams keep
    /// order, so nothing of this lies in the stream any more. (The answer may be for an earlier
    /// copy of the same batch; then the peer at least made progress, and the error is a window.)
    until_acked_bytes: u64,
}

/// One peer node, as this shard sees it.
pub(super) struct Link {
    pub(super) peer: NodeId,
    pub(super) control: Option<StreamId>,
    pub(super) bulk: Option<Bulk>,
    /// Cuts the control stream into frames; a new one for each incarnation.
    pub(super) assembler: Assembler,
    /// Control messages of this turn, for one frame at its end.
    pub(super) outbox: Vec<Envelope>,
    /// Bulk bytes sent and not acknowledged, over all groups.
    pub(super) in_flight_bytes: u64,
    /// Those among them that their groups gave up.
    given_up_bytes: u64,
    /// Batches read from the disk for this peer and not sent yet, over all groups.
    unsent: usize,
    /// What groups had sent that this node leads no more.
    limbo: Limbo,
    /// Bulk bytes acknowledged since the start.
    acked_bytes: u64,
    /// When bytes were last acknowledged, or the first were given up.
    moved: Moment,
    /// Groups with something to send, served in turn (MR-02).
    pub(super) ready: VecDeque<usize>,
    /// Which groups are in `ready`, by slot.
    pub(super) is_ready: Vec<bool>,
}

/// All links of a shard, by node id.
pub(super) struct Links {
    list: Vec<Link>,
}

impl Links {
    pub(super) fn new(peers: impl Iterator<Item = NodeId>, slots: usize) -> Self {
        let list = peers
            .map(|peer| Link {
                peer,
                control: None,
                bulk: None,
                assembler: Assembler::new(FRAME_BYTES_MAX),
                outbox: Vec::new(),
                in_flight_bytes: 0,
                given_up_bytes: 0,
                unsent: 0,
                limbo: Limbo::default(),
                acked_bytes: 0,
                moved: Moment::ZERO,
                ready: VecDeque::new(),
                is_ready: vec![false; slots],
            })
            .collect();
        Self { list }
    }

    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    pub(super) fn find(&self, peer: NodeId) -> Option<usize> {
        self.list.iter().position(|link| link.peer == peer)
    }

    pub(super) fn at(&mut self, at: usize) -> &mut Link {
        &mut self.list[at]
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Link> {
        self.list.iter()
    }

    /// Puts a control message into its peer's next frame. A peer without a stream gets nothing:
    /// Raft sends again whatever still matters.
    pub(super) fn post(&mut self, envelope: Envelope) {
        if let Some(link) = self.list.iter_mut().find(|link| link.peer == envelope.peer)
            && link.control.is_some()
        {
            link.outbox.push(envelope);
        }
    }
}

impl Link {
    /// Puts a group into the round, once.
    pub(super) fn make_ready(&mut self, slot: usize) {
        if !self.is_ready[slot] {
            self.is_ready[slot] = true;
            self.ready.push_back(slot);
        }
    }

    /// Puts a group back at the head of the round.
    pub(super) fn keep_first(&mut self, slot: usize) {
        if !self.is_ready[slot] {
            self.is_ready[slot] = true;
            self.ready.push_front(slot);
        }
    }

    /// The next group of the round.
    pub(super) fn next_ready(&mut self) -> Option<usize> {
        let slot = self.ready.pop_front()?;
        self.is_ready[slot] = false;
        Some(slot)
    }

    /// Bulk bytes that may be sent now; none while the stream is down.
    pub(super) fn credit_left(&self) -> u64 {
        let taken = self.in_flight_bytes + self.limbo.bytes;
        self.bulk.map_or(0, |bulk| bulk.credit_bytes.saturating_sub(taken))
    }

    /// Extents that what is read back for this peer may hold: as many as it has credit, a few at
    /// most, one at least.
    pub(super) fn extents_max(&self, extent_bytes: usize) -> usize {
        let credit = self.bulk.map_or(0, |bulk| bulk.credit_bytes);
        let extents = usize::try_from(credit).unwrap_or(usize::MAX) / extent_bytes;
        extents.clamp(1, READ_BACK_EXTENTS_PER_PEER_MAX)
    }

    /// Batches that were read back for this peer and wait to be sent.
    pub(super) fn unsent(&self) -> usize {
        self.unsent
    }

    /// Brings the sums up to date for one group, from what was counted for it to what `found` is;
    /// returns what is counted for it now.
    pub(super) fn recount(
        &mut self,
        counted: OnItsWay,
        found: Option<OnItsWay>,
        now: Moment,
    ) -> OnItsWay {
        let lost = if found.is_none() { counted } else { OnItsWay::default() };
        let found = found.unwrap_or_default();
        self.in_flight_bytes = self.in_flight_bytes + found.bytes - counted.bytes;
        self.given_up_bytes = self.given_up_bytes + found.given_up_bytes - counted.given_up_bytes;
        self.unsent = self.unsent + found.unsent - counted.unsent;
        let acked_bytes = counted.bytes.saturating_sub(lost.bytes + found.bytes);
        if acked_bytes > 0 {
            self.acked_bytes += acked_bytes;
            self.moved = now;
        }
        if lost.bytes > 0 && self.bulk.is_some() {
            if self.limbo.bytes == 0 {
                self.moved = now;
            }
            self.limbo.bytes += lost.bytes;
            self.limbo.until_acked_bytes = self.acked_bytes + self.in_flight_bytes;
        } else if self.limbo.bytes > 0 && self.limbo.until_acked_bytes < self.acked_bytes {
            self.limbo = Limbo::default();
        }
        found
    }

    /// The bulk stream is another one, or none: nothing lies in it.
    pub(super) fn renew_bulk(&mut self, bulk: Option<Bulk>) {
        self.bulk = bulk;
        self.limbo = Limbo::default();
    }

    /// Whether the bulk stream holds what nobody waits for, others wait behind it (`is_awaited`: for
    /// memory to read back into), and nothing was acknowledged for `patience`: only its end gives the
    /// memory back.
    pub(super) fn is_wedged(&self, now: Moment, patience: Duration, is_awaited: bool) -> bool {
        self.bulk.is_some()
            && self.limbo.bytes + self.given_up_bytes > 0
            && (!self.ready.is_empty() || is_awaited)
            && patience <= now.since(self.moved)
    }
}
