//! Real processes on loopback: nodes that are killed, logs that are damaged, strangers that talk
//! nonsense. What the simulator cannot show is shown here: kernel, files, sockets, signals.
//!
//! Every wait has a deadline, every child ends with its test, and every node has an address of its
//! own in 127.0.0.0/8, so tests may run at the same time and port numbers need no luck. Data lie
//! under cargo's own directory for tests, which is on the disk that the build is on. Arguments,
//! configuration and start-up refusals are `tests/cli.rs`'s business.

#![expect(
    clippy::disallowed_methods,
    reason = "a test of processes lives in real time and has threads of its own"
)]

#[path = "../tools/hammer/account.rs"]
#[expect(dead_code, reason = "hammer adds up the accounts of many writers")]
mod account;
#[path = "../tools/hammer/cluster.rs"]
mod cluster;
#[path = "process/hostile.rs"]
mod hostile;
#[path = "process/kills.rs"]
mod kills;
#[path = "process/load.rs"]
mod load;
#[path = "process/nodes.rs"]
mod nodes;
#[path = "process/overload.rs"]
mod overload;
#[path = "process/sandbox.rs"]
mod sandbox;
#[path = "process/verdicts.rs"]
mod verdicts;
