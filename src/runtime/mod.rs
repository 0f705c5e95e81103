//! The real world around a shard: executors, the device ring, files, sockets, clocks, signals.
//!
//! The only room that names glommio, io-uring or a socket (besides `client::tcp`), so that either
//! can be replaced here. It gathers what happened into `shard::Inputs`, lets the shard take a
//! turn and carries out its effects. Does not: decide anything about Raft, the log or a client's
//! request, and never acknowledges: that is born in the shard when `WriteDone` comes in.
//!
//! In reading order: what a node is told ([`NodeConfig`]), why it may refuse ([`StartError`]), its
//! data directory, the ring and the files, the executors.
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the one room that starts threads, reads clocks and shares queues between them"
)]

mod clock;
mod config;
mod datadir;
mod error;
mod place;

pub use config::{NodeAddress, NodeConfig, Timing};
pub use datadir::{DataDir, DataDirError, NodeFile, format};
pub use error::{EnvironmentError, ExitCode, StartError};
