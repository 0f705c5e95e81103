//! Configuration: text in, a validated [`Config`] or every problem out.
//!
//! A node is configured by one TOML file, laid over a profile (a named set of tuning keys that
//! ships inside the program). Everything is checked before anything is used: unknown keys, types,
//! ranges, and relations between keys, all reported at once with file, line and cure.
//!
//! Does not: know the data directory, look up host names, start anything. `tuning/README.md` is the
//! page for people; `keys` is the table behind it.

mod keys;
mod layer;
mod problem;
mod profile;
mod relations;
mod settings;

#[cfg(test)]
mod tests;

use core::time::Duration;
use std::fs::File;
use std::io::Read;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use crate::model::{ClusterId, NodeId};
use layer::Role;
pub use problem::{Fault, Place, Problem, Problems};
pub use profile::{Profile, profiles};
use settings::Settings;

/// Everything a node needs to know. One per process. Only [`Config::load`] and [`Config::parse`]
/// make one, so whoever holds one holds a valid one.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    /// The cluster this node belongs to.
    pub cluster_id: ClusterId,
    /// Which entry of `nodes` this node is.
    pub node_id: NodeId,
    /// Where its log lives.
    pub data_dir: PathBuf,
    /// The address to listen on.
    pub bind: IpAddr,
    /// Whether a file system without O_DIRECT will do.
    pub allow_buffered: bool,
    /// Shards, 1 and up; fixed when the data directory is formatted.
    pub shards: u16,
    /// Groups 1..=groups exist on every node.
    pub groups: u32,
    /// Whether each shard stays on one core, where there are cores enough.
    pub pin_cores: bool,
    /// How long a shard looks on for what is outstanding before it sleeps.
    pub spin: Duration,
    /// The voters by node id, this node included: 1, 3, 5 or 7.
    pub nodes: Vec<NodeEntry>,
    /// Budgets of memory and connections.
    pub limits: Limits,
    /// How the log is written.
    pub wal: Wal,
    /// What the log keeps.
    pub retention: Retention,
    /// Raft's timers.
    pub raft: Timing,
}

/// One voter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeEntry {
    /// Its number.
    pub id: NodeId,
    /// Its host name or address.
    pub host: String,
    /// Shard `s` serves clients at `client_port + s`.
    pub client_port: u16,
    /// Shard `s` serves peers at `peer_port + s`.
    pub peer_port: u16,
}

/// Budgets of memory and connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Block memory of one shard.
    pub arena_bytes_per_shard: u64,
    /// Bytes of appends that a shard has taken in and not yet committed.
    pub uncommitted_bytes_per_shard: u64,
    /// Bytes that one client connection may have unanswered before its reader pauses.
    pub connection_bytes: u64,
    /// Bytes of replies that may wait for one client connection before it is closed.
    pub send_queue_bytes: u64,
    /// Client connections of one shard.
    pub connections_max: u32,
    /// Unacknowledged bulk bytes that one peer may send to one shard.
    pub peer_credit_bytes: u64,
}

/// How the log is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wal {
    /// A block is closed when it holds this much, or when a write slot is free.
    pub block_target_bytes: u32,
    /// Block writes at the device at once.
    pub writes_in_flight: u32,
    /// Segments that are prepared before they are needed.
    pub segments_ahead: u32,
}

/// What the log keeps of each group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retention {
    /// The newest records, up to this many bytes; `None` keeps all.
    pub bytes_per_group: Option<u64>,
    /// The newest records, up to this many; `None` keeps all.
    pub records_per_group: Option<u64>,
}

/// Raft's timers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timing {
    /// A leader is heard this often.
    pub heartbeat: Duration,
    /// A follower waits for a leader at least this long.
    pub election_min: Duration,
    /// A follower waits for a leader less than this.
    pub election_max: Duration,
    /// A leader that has not heard a majority for this long steps down.
    pub check_quorum: Duration,
}

/// A file that is larger than this is no configuration.
const FILE_BYTES_MAX: u64 = 1 << 20;

impl Config {
    /// Reads and checks the file at `path`, laid over `profile`.
    pub fn load(path: &Path, profile: Option<Profile>) -> Result<Self, Problems> {
        let name = path.display().to_string();
        let read = || {
            let mut bytes = Vec::new();
            File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        let text = match read() {
            Ok(bytes) if bytes.len() as u64 > FILE_BYTES_MAX => {
                Err(Fault::TooLong { bytes_max: FILE_BYTES_MAX })
            }
            Ok(bytes) => String::from_utf8(bytes).map_err(|_| Fault::NotUtf8),
            Err(error) => {
                let error: std::io::Error = error;
                Err(Fault::Unreadable { reason: error.to_string() })
            }
        };
        match text {
            Ok(text) => Self::parse(&name, &text, profile),
            Err(fault) => Err(Problems::one(Place { file: name, line: 0 }, fault)),
        }
    }

    /// Checks `text`, laid over `profile`. `file` is where it came from: problems name it, and a
    /// relative `data_dir` lies beside it.
    pub fn parse(file: &str, text: &str, profile: Option<Profile>) -> Result<Self, Problems> {
        let mut problems = Vec::new();
        let base = profile.map(|profile| profile.layer(&mut problems)).unwrap_or_default();
        let site = layer::read(file, text, Role::Site, &mut problems);
        let is_toml = site.is_toml;
        let mut beyond_syntax = Vec::new();
        let settings = Settings::new(file, site, base, &mut beyond_syntax);
        relations::check(&settings, &mut beyond_syntax);
        // Of a text that is not TOML nothing is known, so nothing is missing either.
        if is_toml {
            problems.append(&mut beyond_syntax);
        }
        match Problems::of(problems) {
            Some(problems) => Err(problems),
            None => Ok(Self::from_settings(&settings)),
        }
    }

    /// # Panics
    /// If a problem was overlooked: a value is `None` only if something was reported about it.
    fn from_settings(settings: &Settings) -> Self {
        let integer = |key| settings.integer(key).expect("a wrong number was reported");
        let count = |key| u32::try_from(integer(key)).expect("its range ends below 2^32");
        let millis = |key| Duration::from_millis(integer(key));
        let kept = |key| Some(integer(key)).filter(|limit| *limit > 0);
        let flag = |key| settings.flag(key).expect("a wrong flag was reported");
        let entry = |node: &settings::Node| NodeEntry {
            id: NodeId::new(node.id.expect("a wrong id was reported")),
            host: node.host.clone().expect("a wrong host was reported"),
            client_port: node.client_port.expect("a wrong port was reported"),
            peer_port: node.peer_port.expect("a wrong port was reported"),
        };
        let mut nodes: Vec<NodeEntry> = settings.nodes.iter().map(entry).collect();
        nodes.sort_by_key(|node| node.id);
        Self {
            cluster_id: settings.cluster_id.expect("a wrong cluster id was reported"),
            node_id: NodeId::new(settings.node_id.expect("a wrong node id was reported")),
            data_dir: settings.data_dir.clone().expect("a wrong path was reported"),
            bind: settings.bind.expect("a wrong address was reported"),
            allow_buffered: flag(&keys::ALLOW_BUFFERED),
            shards: settings.shards.expect("a wrong number was reported"),
            groups: count(&keys::GROUPS),
            pin_cores: flag(&keys::PIN_CORES),
            spin: Duration::from_micros(integer(&keys::SPIN)),
            nodes,
            limits: Limits {
                arena_bytes_per_shard: integer(&keys::ARENA),
                uncommitted_bytes_per_shard: integer(&keys::UNCOMMITTED),
                connection_bytes: integer(&keys::CONNECTION),
                send_queue_bytes: integer(&keys::SEND_QUEUE),
                connections_max: count(&keys::CONNECTIONS),
                peer_credit_bytes: integer(&keys::PEER_CREDIT),
            },
            wal: Wal {
                block_target_bytes: count(&keys::BLOCK_TARGET),
                writes_in_flight: count(&keys::WRITES_IN_FLIGHT),
                segments_ahead: count(&keys::SEGMENTS_AHEAD),
            },
            retention: Retention {
                bytes_per_group: kept(&keys::RETENTION_BYTES),
                records_per_group: kept(&keys::RETENTION_RECORDS),
            },
            raft: Timing {
                heartbeat: millis(&keys::HEARTBEAT),
                election_min: millis(&keys::ELECTION_MIN),
                election_max: millis(&keys::ELECTION_MAX),
                check_quorum: millis(&keys::CHECK_QUORUM),
            },
        }
    }

    /// This node's own entry.
    pub fn own(&self) -> &NodeEntry {
        self.nodes.iter().find(|node| node.id == self.node_id).expect("checked: we are listed")
    }
}
