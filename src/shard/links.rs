//! The peer links of a shard: two streams each, byte credit, round robin over groups.
//!
//! Does not: dial, shake hands, or know how bytes travel; the world announces streams when they
//! are ready and takes frames for them.

use std::collections::VecDeque;

use crate::model::limits::FRAME_BYTES_MAX;
use crate::model::{NodeId, StreamId};
use crate::raft::Envelope;
use crate::wire::Assembler;

/// The bulk stream of a link while it is up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bulk {
    pub(super) stream: StreamId,
    /// What the receiver allows to be unacknowledged.
    pub(super) credit_bytes: u64,
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
        self.bulk.map_or(0, |bulk| bulk.credit_bytes.saturating_sub(self.in_flight_bytes))
    }
}
