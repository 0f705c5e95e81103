//! Nodes as child processes, for tests: what goes wrong is a panic with everything the nodes said.
//!
//! The processes themselves are `tools/hammer/cluster.rs`, which hammer uses with other manners.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use catamaran::client::Client;
use catamaran::model::NodeId;

pub(crate) use super::cluster::{CLIENT_PORT, GROUP, PATIENCE, PEER_PORT};
use super::cluster::{Nodes, Plan};

const ID: &str = "0c9e6b1a-52d4-4f0e-8a57-d1b0c4e2f796";
const SETTINGS: &str = "limits.arena_bytes_per_shard = \"16 MiB\"\nwal.segments_ahead = 1";

/// A cluster whose directory is removed with it.
pub(crate) struct Cluster {
    nodes: Nodes,
    /// Dropped after the processes are gone.
    _dir: tempfile::TempDir,
}

#[track_caller]
fn sure<T>(result: Result<T, String>) -> T {
    result.unwrap_or_else(|error| panic!("{error}"))
}

impl Cluster {
    /// Formats `size` nodes; nothing runs yet.
    pub(crate) fn new(size: usize) -> Self {
        Self::made(size, ID, SETTINGS)
    }

    pub(crate) fn with_id(size: usize, id: &str) -> Self {
        Self::made(size, id, SETTINGS)
    }

    /// With other budgets.
    pub(crate) fn with_settings(size: usize, settings: &str) -> Self {
        Self::made(size, ID, settings)
    }

    fn made(size: usize, id: &str, settings: &str) -> Self {
        let dir =
            tempfile::Builder::new().prefix("process-").tempdir_in(env!("CARGO_TARGET_TMPDIR"));
        let dir = dir.expect("a directory");
        let program = Path::new(env!("CARGO_BIN_EXE_catamaran"));
        let nodes = Nodes::format(&Plan { program, dir: dir.path(), size, id, settings });
        Self { nodes: sure(nodes), _dir: dir }
    }

    pub(crate) fn ip(&self, node: usize) -> Ipv4Addr {
        self.nodes.ip(node)
    }

    pub(crate) fn shard_dir(&self, node: usize) -> PathBuf {
        self.nodes.shard_dir(node)
    }

    /// Starts a node; it may take a moment until it serves.
    pub(crate) fn start(&mut self, node: usize) {
        self.start_with(node, |_| ());
    }

    /// As [`Cluster::start`], in a process that `prepare` has its way with.
    pub(crate) fn start_with(&mut self, node: usize, prepare: impl FnOnce(&mut Command)) {
        sure(self.nodes.start_with(node, prepare));
    }

    pub(crate) fn start_all(&mut self) {
        for node in self.nodes.all() {
            self.start(node);
        }
    }

    /// `kill -9`, and gone when this returns.
    pub(crate) fn kill(&mut self, node: usize) {
        sure(self.nodes.kill(node));
    }

    /// SIGTERM; it ends cleanly.
    pub(crate) fn stop(&mut self, node: usize) {
        self.signal(node, "TERM");
        let status = self.wait_end(node);
        assert_eq!(status.code(), Some(0), "{}", self.tail(node));
    }

    /// Sends a signal by its name.
    pub(crate) fn signal(&self, node: usize, signal: &str) {
        sure(self.nodes.signal(node, signal));
    }

    /// The most resident memory that the node's process ever had.
    pub(crate) fn peak_bytes(&self, node: usize) -> u64 {
        sure(self.nodes.peak_bytes(node))
    }

    /// Waits until the node has ended by itself.
    pub(crate) fn wait_end(&mut self, node: usize) -> ExitStatus {
        sure(self.nodes.wait_end(node))
    }

    /// What the node has said since its last start.
    pub(crate) fn tail(&self, node: usize) -> String {
        self.nodes.tail(node)
    }

    /// A connection to the cluster, once somebody answers.
    pub(crate) fn client(&self) -> Client {
        sure(self.nodes.client())
    }

    /// The node that leads, once all running nodes agree who that is.
    pub(crate) fn leader(&self) -> usize {
        let running: Vec<usize> = self.nodes.running().collect();
        sure(self.nodes.leader_of(&running))
    }

    /// The status text of a node, if it answers.
    pub(crate) fn status(&self, node: usize) -> Option<String> {
        self.nodes.status(node)
    }

    /// The value of a counter or number in a node's status.
    pub(crate) fn counter(&self, node: usize, name: &str) -> u64 {
        sure(self.nodes.counter(node, name))
    }

    /// A number in the line of the group, such as `commit` or `leader`.
    pub(crate) fn group_fact(&self, node: usize, name: &str) -> Option<u64> {
        self.nodes.group_fact(node, name)
    }

    /// Waits until every running node knows the same commit index, and it is at least `least`.
    pub(crate) fn wait_level(&self, least: u64) {
        sure(self.nodes.wait_level(least));
    }

    /// Asks until there is an answer, and fails with everything the nodes said when there is none.
    pub(crate) fn wait_for<T>(&self, what: &str, ask: impl FnMut() -> Option<T>) -> T {
        sure(self.nodes.wait_for(what, ask))
    }

    /// Whether the node's process still runs.
    pub(crate) fn is_alive(&mut self, node: usize) -> bool {
        self.nodes.is_alive(node)
    }
}

/// The number of a node as the program's types have it.
pub(crate) fn node_id(node: usize) -> NodeId {
    NodeId::new(u16::try_from(node).expect("a few nodes"))
}

/// The node's segment files by number, those that hold nothing yet included.
pub(crate) fn segments(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).expect("a shard's directory");
    let paths = entries.map(|entry| entry.expect("readable").path());
    let mut found: Vec<PathBuf> = paths
        .filter(|path| {
            let name = path.file_name().and_then(|name| name.to_str()).expect("UTF-8");
            name.starts_with("wal-segment-") && name.ends_with(".log")
        })
        .collect();
    found.sort();
    assert!(!found.is_empty(), "no segments in {}", dir.display());
    found
}
