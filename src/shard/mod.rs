//! The shard: one core's worth of groups, one WAL, one set of peer links, composed. Pure.
//!
//! [`Shard::turn`] is the data path; each stage has a file. `runtime` and `sim` are the two worlds
//! that gather its inputs and carry out its effects. Does not: read a clock, a socket or a file.

mod config;
mod effects;
mod input;

mod boot;

mod clients;
mod ingress;
mod peers;
mod slot;
mod timers;

mod batch;

mod links;
mod replicate;

mod persist;

mod commit;

mod apply;
mod memory;

mod fetch;
mod found;
mod reads;
mod stretch;
mod wants;

mod reply;
mod status;
mod trace;

mod invariants;

/// Raft's clock, for whoever configures a shard without speaking to `raft`.
pub use crate::raft::Timing;
pub use config::{NodeAddress, RetentionLimits, ShardConfig, WorldFacts};
pub use effects::{Effect, Effects, Frame, Notice, Part, Returned, STREAM_WEDGED};
pub use input::{ClientTroubles, Input, Inputs, IoFault, Lane, PeerFault, ReadSeq};
pub use status::GroupStatus;

use crate::base::{Arena, Moment};
use crate::model::{ConnId, GroupId};
use crate::raft;
use crate::stats::Counters;

use clients::Clients;
use commit::Replies;
use fetch::Fetches;
use links::Links;
use persist::Store;
use reads::Reads;
use slot::Slots;
use status::Questions;
use trace::Trace;

/// One core's worth of catamaran. One per shard of a node.
pub struct Shard {
    config: ShardConfig,
    /// The time of the current turn.
    now: Moment,
    slots: Slots,
    clients: Clients,
    links: Links,
    store: Store,
    reads: Reads,
    questions: Questions,
    fetches: Fetches,
    replies: Replies,
    /// What the groups want done; drained by `absorb` after each stage that spoke to them.
    wishes: raft::Effects,
    counters: Counters,
    trace: Trace,
    /// When the timers of the groups are looked at next.
    next_scan: Moment,
    /// The group with which the next look begins.
    scan_start: usize,
    /// When retention is looked at next.
    next_frame_scan: Moment,
    next_retention: Moment,
    /// Whether the log device completes writes, as the groups were told (E-13).
    device: raft::Device,
    /// Set by `Input::Drain`: no new work is admitted.
    draining: Draining,
}

/// How far a shutdown has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Draining {
    No,
    /// New work is refused; what was accepted is being written.
    Asked,
    /// `Effect::Drained` was sent.
    Done,
}

impl Shard {
    /// One turn: the whole life of a request, top to bottom.
    ///
    /// The world puts whatever arrived since the last turn into `inputs` and carries out `fx`
    /// afterwards. A turn takes at most `limits::INPUTS_PER_TURN_MAX` inputs, so it has a worst
    /// case and no single client can stretch it; what is left in `inputs` waits for the next.
    pub fn turn(&mut self, now: Moment, inputs: &mut Inputs, arena: &mut Arena, fx: &mut Effects) {
        assert!(fx.is_empty(), "the previous turn's effects were not carried out");
        assert!(self.now <= now, "time runs forward: {:?} after {now:?}", self.now);
        self.now = now;
        self.counters.turns += 1;
        self.trace.arrived = inputs.since.take().unwrap_or(now);

        self.ingress(inputs, fx); //     bytes      -> requests, peer messages, completions
        self.tick(fx); //                time       -> elections, heartbeats, watchdogs
        while self.batch(arena) {
            //                           requests   -> one closed block, a batch per group
            self.propose(); //           batches    -> spans at the tail of each group's log
        }
        self.replicate(fx); //           spans      -> one frame per peer for all groups
        self.persist(arena, fx); //      blocks     -> aligned device writes
        self.commit(fx); //              durable acks -> commit indexes
        self.trace();
        self.apply(arena, fx); //        committed  -> reads served, retention
        self.reply(fx); //               outcomes   -> client frames, in request order

        self.check();
    }

    /// What this shard has done since boot.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Bytes of appends that were taken in and are not committed: what it has to do.
    pub fn uncommitted_bytes(&self) -> usize {
        self.replies.uncommitted_bytes
    }

    /// Counts bytes that the world had to move while receiving bulk frames, because a frame did
    /// not fit into the rest of its block.
    pub fn note_carried(&mut self, bytes: u64) {
        self.counters.copied_bytes_carry += bytes;
    }

    /// Whether a peer has not acknowledged everything that was sent to it.
    pub fn awaits_peers(&self) -> bool {
        self.links.iter().any(|link| link.in_flight_bytes > 0)
    }

    /// Whether a client connection has asked for something that is not answered yet, here or at
    /// another shard. Exact after a turn that took in everything there was.
    pub fn owes_replies(&self, conn: ConnId) -> bool {
        self.clients.owes(conn)
    }

    /// The groups that live here, by id.
    pub fn groups(&self) -> impl Iterator<Item = GroupId> + '_ {
        self.slots.iter().map(|slot| slot.id)
    }

    /// The Raft state of a group, for tests, the simulator's oracles and status.
    pub fn group(&self, id: GroupId) -> Option<&raft::Group> {
        self.slots.find(id).map(|at| &self.slots[at].raft)
    }
}
