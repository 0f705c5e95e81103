//! catamaran: a thread-per-core Raft log replication appliance.
//!
//! The rooms in reading order. Everything that decides is pure (values in, effects out);
//! everything that acts is in `runtime`, and `sim` is the other world that drives the same code.

#[macro_use]
pub mod base;
pub mod model;

pub mod raft;
pub mod wal;
pub mod wire;

pub mod shard;
pub mod stats;

pub mod client;
pub mod config;
pub mod runtime;
pub mod sim;
