//! A group with what the shard keeps about it: waiting requests, replies owed, link accounting.

use core::ops::{Index, IndexMut};
use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use crate::model::limits::{GROUPS_MAX, VOTERS_MAX};
use crate::model::{ConnId, GroupId, LogIndex, RecordCount, ReplicaId, ShardId, Span};
use crate::raft::{self, OnItsWay};

/// Who asked: a connection of this shard, or one of another shard of this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Origin {
    /// The shard that has the connection, if it is not this one.
    pub(super) remote: Option<ShardId>,
    /// The connection there.
    pub(super) conn: ConnId,
    /// The request's number on that connection.
    pub(super) correlation: u64,
}

/// An admitted append that no batch has taken yet. Its records still lie in the receive buffer.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) origin: Origin,
    /// The record run: lengths and bytes, as `model::batch` lays them out.
    pub(super) records: Bytes,
    pub(super) count: RecordCount,
    /// Where the client expects the log to end, if it said.
    pub(super) expected_tail: Option<LogIndex>,
    /// Bytes of the whole frame, given back to the connection when the request is copied.
    pub(super) frame_bytes: usize,
}

/// A proposed append whose client waits for the commit.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiting {
    pub(super) origin: Origin,
    pub(super) span: Span,
    /// Record bytes, counted against the uncommitted budget until answered (F-04).
    pub(super) bytes: usize,
}

/// One group of this shard.
pub(super) struct Slot {
    pub(super) id: GroupId,
    pub(super) replica: ReplicaId,
    pub(super) raft: raft::Group,
    /// Requests that wait for a block, oldest first.
    pub(super) pending: VecDeque<Request>,
    /// Requests that wait for the commit, by index.
    pub(super) waiting: VecDeque<Waiting>,
    /// This node won an election and owes the log a no-op of the term (C-02).
    pub(super) owes_noop: bool,
    /// What is on its way on each link as last counted, so that a link's sums are kept by
    /// differences.
    pub(super) counted: [OnItsWay; VOTERS_MAX],
    /// In the list of groups with pending requests.
    pub(super) is_queued: bool,
    /// In the list of groups something happened to in this turn.
    pub(super) is_touched: bool,
    /// In the list of groups whose hard state must be written.
    pub(super) is_dirty: bool,
}

/// Every group of this shard, by id.
pub(super) struct Slots {
    list: Vec<Slot>,
    /// Where a group is in `list`, by its id. A search here was a sixth of a leader's time with
    /// 1,000 groups: every request and every message of a peer asks.
    by_id: Vec<Option<usize>>,
    /// Groups with ids that no configuration allows: they come from a log alone.
    far: BTreeMap<GroupId, usize>,
    /// Groups something happened to since their links were last looked at.
    pub(super) touched: Vec<usize>,
    /// Groups with pending requests, in the order they became pending.
    pub(super) queued: VecDeque<usize>,
    /// Groups whose hard state must be written.
    pub(super) dirty: Vec<usize>,
}

/// The place of an id in the table, if it has one.
fn near(id: GroupId) -> Option<usize> {
    usize::try_from(id.get()).ok().filter(|id| *id <= GROUPS_MAX)
}

impl Slots {
    pub(super) fn new(list: Vec<Slot>) -> Self {
        let most = list.iter().filter_map(|slot| near(slot.id)).max();
        let mut by_id = vec![None; most.map_or(0, |id| id + 1)];
        let mut far = BTreeMap::new();
        for (at, slot) in list.iter().enumerate() {
            match near(slot.id) {
                Some(id) => by_id[id] = Some(at),
                None => drop(far.insert(slot.id, at)),
            }
        }
        Self { list, by_id, far, touched: Vec::new(), queued: VecDeque::new(), dirty: Vec::new() }
    }

    pub(super) fn find(&self, id: GroupId) -> Option<usize> {
        match near(id) {
            Some(near) => self.by_id.get(near).copied().flatten(),
            None => self.far.get(&id).copied(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Slot> {
        self.list.iter()
    }

    /// Notes that something happened to a group, so that `replicate` looks at it.
    pub(super) fn touch(&mut self, at: usize) {
        if !self.list[at].is_touched {
            self.list[at].is_touched = true;
            self.touched.push(at);
        }
    }

    /// Notes that a group has something for the next block.
    pub(super) fn queue(&mut self, at: usize) {
        if !self.list[at].is_queued {
            self.list[at].is_queued = true;
            self.queued.push_back(at);
        }
    }

    /// Notes that a group's hard state must be written.
    pub(super) fn mark_dirty(&mut self, at: usize) {
        if !self.list[at].is_dirty {
            self.list[at].is_dirty = true;
            self.dirty.push(at);
        }
    }
}

impl Index<usize> for Slots {
    type Output = Slot;

    fn index(&self, at: usize) -> &Slot {
        &self.list[at]
    }
}

impl IndexMut<usize> for Slots {
    fn index_mut(&mut self, at: usize) -> &mut Slot {
        &mut self.list[at]
    }
}
