//! Raft: elections, replication, commit, reads, for one group at a time. Pure.
//!
//! The shard feeds a [`Group`] with control messages, batches, completions and time, and carries
//! out the [`Effects`]. The core moves spans, never records; its cost per batch does not depend on
//! what is in it. What is durable comes in as an input, and promises are made from there.
//!
//! Does not: know bytes on disk or wire, files, sockets, clocks or randomness of its own; look
//! inside a batch; hold a request. Leases, leadership transfer and commands that change the
//! membership are not built yet; configurations in the log are obeyed. See `docs/raft.md` for
//! rule, thesis section and script.

mod effects;
mod message;
mod settings;

mod group;
mod role;

mod election;
mod follower;
mod log;
mod persist;
mod progress;
mod replication;

mod commit;
mod read;
mod snapshot;

mod invariants;

pub use commit::COMMIT_NEWS_INTERVAL;
pub use effects::{Effect, Effects, ReadToken};
pub use group::Group;
pub use invariants::Summary;
pub use message::{Envelope, Message};
pub use settings::{
    Append, AppendVerdict, Counters, Device, LogBatch, NextAppend, OnItsWay, PeerPhase, PeerStatus,
    Recovered, RoleName, Settings, Timing, Window,
};
