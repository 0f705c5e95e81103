//! Raft: elections, replication, commit, reads, for one group at a time. Pure.
//!
//! Does not: know bytes on disk or wire, files, sockets, clocks or randomness of its own; look
//! inside a batch; hold a request. See `docs/raft.md` for rule, thesis section and script.

mod effects;
mod message;

pub use effects::{Effect, Effects, ReadToken};
pub use message::{Envelope, Message};
