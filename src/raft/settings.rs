//! What a group is told at its start, and the plain values that cross its border.
//!
//! Apart so that `group.rs` holds behaviour only. Does not: decide anything.

use core::time::Duration;

use crate::base::Slice;
use crate::model::{
    BatchKind, EntryId, GroupId, HardState, LogIndex, Membership, NodeId, ReplicaId, Span, Term,
};

/// The periods of a group (thesis 3.4, 9.3). All nodes of a cluster use the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// How often a leader speaks when it has nothing to say. Default 50 ms.
    pub heartbeat: Duration,
    /// A follower waits at least this long for its leader, and grants no vote for this long after
    /// it heard one (E-09) or was started (L-04). Default 150 ms.
    pub election_min: Duration,
    /// Timeouts are drawn from `[election_min, election_max)` (E-03). Default 300 ms.
    pub election_max: Duration,
    /// A leader that has not heard a quorum for this long steps down (E-10). Default 300 ms.
    pub check_quorum: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(50),
            election_min: Duration::from_millis(150),
            election_max: Duration::from_millis(300),
            check_quorum: Duration::from_millis(300),
        }
    }
}

impl Timing {
    /// How long a follower's match may stand still while there is data for it before the leader
    /// starts over with it: two election timeouts.
    pub fn watchdog(&self) -> Duration {
        self.election_max * 2
    }

    /// How long the own device may complete nothing while writes are pending before this node lays
    /// its offices down (E-13). Not less than any election timeout: a disk that is merely slow
    /// shall not cost an election, and until then the others commit without it.
    pub fn own_write_patience(&self) -> Duration {
        self.election_max.max(self.check_quorum)
    }
}

/// What may be on its way to one peer for one group, on top of the credit of the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Bytes of batches sent and not acknowledged. One batch always fits.
    pub bytes_max: u64,
    /// Batches sent and not acknowledged.
    pub batches_max: u32,
}

impl Default for Window {
    fn default() -> Self {
        Self { bytes_max: 4 << 20, batches_max: 1024 }
    }
}

/// Who a group is and how it is to behave. Fixed for one run of the process.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Which group.
    pub group: GroupId,
    /// The node this replica lives on.
    pub node: NodeId,
    /// This replica.
    pub replica: ReplicaId,
    /// Periods.
    pub timing: Timing,
    /// Per peer.
    pub window: Window,
    /// How many of the newest batches the log remembers one by one; of older ones it knows the
    /// terms only and asks for them with [`NextAppend::Fetch`].
    pub tail_batches_max: usize,
}

/// What recovery found on the disk. Everything in it is durable.
#[derive(Clone, Debug)]
pub struct Recovered {
    /// The newest hard state.
    pub hard_state: HardState,
    /// The entry just before the first one kept: the trim point, or what a snapshot covers.
    pub base: EntryId,
    /// The configuration as of `base`.
    pub base_membership: Membership,
    /// The entry just before the first of `spans`: `base`, unless older batches are known by their
    /// terms only.
    pub before_spans: EntryId,
    /// Terms of what lies behind `base` up to `before_spans`, each with the first index of its run.
    pub runs: Vec<(Term, LogIndex)>,
    /// The newest batches up to the end of the log, in order and without gaps, with the bytes of
    /// the whole batch.
    pub spans: Vec<(Span, BatchKind, u32)>,
    /// Every configuration behind `base`, in order.
    pub memberships: Vec<(LogIndex, Membership)>,
}

/// A batch as the core sees it. What is in it is nobody's business here.
#[derive(Clone, Debug)]
pub struct LogBatch {
    /// Term and indexes.
    pub span: Span,
    /// What it carries.
    pub kind: BatchKind,
    /// Bytes of the whole batch, header included.
    pub bytes: u32,
    /// The encoded batch, if it is still in memory.
    pub slice: Option<Slice>,
}

/// One batch of a bulk frame, as its receiver hands it in.
#[derive(Clone, Debug)]
pub struct Append {
    /// Replica that sends.
    pub from_replica: ReplicaId,
    /// Replica that is meant; a batch for another one is dropped (N-05).
    pub to_replica: ReplicaId,
    /// The leader's term. The batch may be of an older one.
    pub term: Term,
    /// The entry just before the batch.
    pub prev: EntryId,
    /// The leader's commit index.
    pub commit: LogIndex,
    /// The batch, its checksums verified.
    pub batch: LogBatch,
    /// The configuration it carries, if it is of that kind.
    pub membership: Option<Membership>,
}

/// What became of a batch that was handed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppendVerdict {
    /// It is in the log now and the caller must persist it.
    New,
    /// The log has it already: nothing to write, it is acknowledged again.
    Known,
    /// It is not in the log. The sender hears why, unless it deserves no answer.
    Rejected,
}

/// What a leader would send next to one peer on the bulk lane.
#[derive(Clone, Debug)]
pub enum NextAppend {
    /// Nothing now: up to date, the window is full, or the peer is being probed.
    Nothing,
    /// This batch. It counts as on its way from here on.
    Batches {
        /// The entry just before it.
        prev: EntryId,
        /// The leader's commit index.
        commit: LogIndex,
        /// The batch, with its bytes unless they were evicted between fetch and use.
        batch: LogBatch,
    },
    /// The wanted batch is not in memory: read it from the disk and answer with
    /// `Group::fetched`. Nothing more comes for this peer until then.
    Fetch {
        /// The first index wanted; the batch that contains it may start earlier.
        from: LogIndex,
    },
}

/// Whether this node's own log device completes writes, as the shard sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// It does, or has nothing to write.
    Works,
    /// A write is pending and nothing was completed for [`Timing::own_write_patience`] (E-13).
    Stuck,
}

/// What one peer of one led group keeps busy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OnItsWay {
    /// Bytes of batches sent and not acknowledged.
    pub bytes: u64,
    /// Those among them that are not waited for any more, but may still lie in the bulk stream.
    pub given_up_bytes: u64,
    /// Batches that were read from the disk for it and are not sent yet.
    pub unsent: usize,
}

/// The role of a replica, for people and counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RoleName {
    /// Follows a leader, or waits for one.
    Follower,
    /// Asks whether it could win (thesis 9.6).
    PreCandidate,
    /// Asks for votes.
    Candidate,
    /// Leads.
    Leader,
}

/// What a group has seen since it was started that people may want to know about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Messages that made no sense and were dropped: another replica's, a second leader's, an
    /// index that does not exist. Late answers are not counted.
    pub nonsense: u64,
    /// How often replication to a peer was started over because it stood still.
    pub stalled: u64,
    /// How often a peer no longer had what it had acknowledged in the same term. An alarm:
    /// its disk lies or was replaced.
    pub reversions: u64,
    /// Elections started here, pre-votes not counted.
    pub campaigns: u64,
}

/// How a leader deals with one peer, for people and tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerPhase {
    /// Asks what it has.
    Probe,
    /// Sends it batches.
    Stream,
    /// Waits for it to install a snapshot.
    Snapshot,
}

/// One peer as its leader sees it, for people and tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    /// How the leader deals with it.
    pub phase: PeerPhase,
    /// Durable there, by its own word.
    pub matched: LogIndex,
    /// What it gets next.
    pub next: LogIndex,
    /// On its way to it.
    pub in_flight_bytes: u64,
    /// It lost what it had acknowledged and counts for nothing in this term.
    pub amnesiac: bool,
}
