//! The real world around a shard: executors, the device ring, files, sockets, clocks, signals.
//!
//! The only room that names glommio, io-uring or a socket (besides `client::tcp`), so that either
//! can be replaced here. It gathers what happened into `shard::Inputs`, lets the shard take a
//! turn and carries out its effects. Does not: decide anything about Raft, the log or a client's
//! request, and never acknowledges: that is born in the shard when `WriteDone` comes in.
//!
//! In reading order: what a node is told ([`NodeConfig`]), why it may refuse ([`StartError`]), its
//! data directory, the ring and the files, the executors.
#![expect(clippy::disallowed_types, reason = "the one room that shares queues between threads")]
#![cfg_attr(
    test,
    expect(
        clippy::disallowed_methods,
        clippy::wildcard_enum_match_arm,
        reason = "tests start threads, and panic at whatever they did not expect"
    )
)]

mod config;
mod error;

mod datadir;
mod event;
mod place;
mod signals;
mod spin;

mod node;

mod core;

mod bulk;
mod clients;
mod peers;

mod buffers;
mod flight;
mod link;
mod local;

mod inbox;
mod message;
mod pins;
mod worker;

mod ahead;
mod recover;

mod disk;
pub mod probe;
mod ring;
mod segments;
mod tape;
mod watchdog;

mod clock;

pub use crate::shard::Timing;
pub use config::{NodeAddress, NodeConfig};
pub use datadir::{DataDir, DataDirError, NodeFile, format};
pub use error::{EnvironmentError, ExitCode, StartError};
pub use event::{Event, EventKind};
pub use node::{Drainer, Node, NodeHandle, StopError};
pub use recover::{RecoveredDir, recover_only};
pub use signals::on_termination;
pub use tape::{Act, Tape};
