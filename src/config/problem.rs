//! What can be wrong with a configuration, and how to mend it.
//!
//! Apart because the report is a product of its own: every problem at once, each with its file,
//! line and cure. Finding the problems lives in `layer` (types, ranges, unknown keys) and
//! `relations`.

use core::fmt;

/// Where a value stands.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The file, as it was named to us.
    pub file: String,
    /// The line, from 1; 0 if the file as a whole is meant.
    pub line: u32,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => f.write_str(&self.file),
            line => write!(f, "{}:{line}", self.file),
        }
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where.
    pub place: Place,
    /// What.
    pub fault: Fault,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.fault)
    }
}

/// What is wrong: the key, what was found there and what would do. The text of each says the cure.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "a variant's doc and its message explain its fields")]
pub enum Fault {
    /// The file cannot be read at all.
    Unreadable { reason: String },
    /// The file is larger than any configuration can be.
    TooLong { bytes_max: u64 },
    /// The file is not UTF-8.
    NotUtf8,
    /// Not TOML.
    Syntax { message: String },
    /// A key that nobody would read.
    UnknownKey { key: String, nearest: Option<&'static str> },
    /// No profile of this name.
    UnknownProfile { name: String, known: String },
    /// A profile sets what only the operator of a node can know.
    NotForProfiles { key: &'static str },
    /// A value of another type.
    WrongType { key: String, expected: &'static str, found: &'static str },
    /// A number out of range.
    OutOfRange { key: String, found: String, min: String, max: String },
    /// A number between two steps.
    NotAMultiple { key: String, found: String, step: String },
    /// A size that cannot be read.
    BadSize { key: String, found: String },
    /// A key that has no default.
    Missing { key: String, example: String },
    /// A cluster id that is no UUID, or all zeros, which means "any" on the wire.
    BadClusterId { found: String },
    /// An address to listen on that is none.
    BadBind { found: String },
    /// An empty path.
    EmptyDataDir,
    /// A host that is neither a name nor an address.
    BadHost { found: String },
    /// No `[[nodes]]` at all.
    NoNodes,
    /// Two entries of one number.
    DuplicateNode { id: u16, first: Place },
    /// An even number of voters tolerates no more failures than one voter fewer.
    EvenVoters { count: usize },
    /// More voters than a group may have.
    TooManyVoters { count: usize, max: usize },
    /// This node is not in the list.
    SelfNotListed { id: u16, listed: String },
    /// A port range leaves the 16 bits that ports have.
    PortsTooHigh { key: &'static str, first: u16, shards: u16 },
    /// Two port ranges on one host share a port.
    PortsOverlap { a: String, b: String, host: String },
    /// Other hosts cannot reach a loopback address.
    BindIsLoopback { host: String },
    /// An election may begin before two heartbeats were missed.
    HeartbeatTooSlow { heartbeat_ms: u64, election_min_ms: u64 },
    /// Election timeouts too alike: candidates would split the vote again and again.
    ElectionSpread { min_ms: u64, max_ms: u64 },
    /// A leader would step down before its followers could have been missed.
    CheckQuorumTooFast { check_quorum_ms: u64, election_min_ms: u64 },
    /// A leader without a majority would serve on for too long.
    CheckQuorumTooSlow { check_quorum_ms: u64, election_max_ms: u64 },
    /// A link's credit does not cover two blocks.
    CreditBelowBlocks { credit: String, block: String },
    /// What the peers may send at once does not fit into half of the arena.
    CreditAboveArena { credit: String, peers: usize, arena: String },
    /// The writes in flight do not fit into half of the arena.
    WritesAboveArena { writes: u64, block: String, arena: String },
    /// One connection may fill the budget of a whole shard.
    ConnectionAboveShard { connection: String, uncommitted: String },
    /// A limit on the log that is smaller than one batch.
    RetentionTooSmall { found: String, min: String },
}

impl fmt::Display for Fault {
    #[expect(clippy::too_many_lines, reason = "one table: each fault's sentence, once")]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable { reason } => {
                write!(f, "cannot be read ({reason}): check the path and its permissions")
            }
            Self::TooLong { bytes_max } => {
                write!(f, "is larger than {bytes_max} bytes: this is not a configuration file")
            }
            Self::NotUtf8 => f.write_str("is not UTF-8 text: save it as UTF-8"),
            Self::Syntax { message } => write!(f, "not TOML: {message}: correct this line"),
            Self::UnknownKey { key, nearest: Some(nearest) } => {
                write!(f, "unknown key {key}: did you mean {nearest}?")
            }
            Self::UnknownKey { key, nearest: None } => {
                write!(f, "unknown key {key}: remove it (tuning/README.md lists every key)")
            }
            Self::UnknownProfile { name, known } => {
                write!(f, "no profile is called {name}: choose one of {known}")
            }
            Self::NotForProfiles { key } => {
                write!(f, "a profile cannot set {key}: set it in the node's own configuration")
            }
            Self::WrongType { key, expected, found } => {
                write!(f, "{key} is {found}: write {expected}")
            }
            Self::OutOfRange { key, found, min, max } => {
                write!(f, "{key} = {found} is out of range: choose {min} to {max}")
            }
            Self::NotAMultiple { key, found, step } => {
                write!(f, "{key} = {found} is not a multiple of {step}: round it")
            }
            Self::BadSize { key, found } => {
                write!(f, "{key} = {found:?} is no size: write bytes, or a text like \"4 MiB\"")
            }
            Self::Missing { key, example } => {
                let leaf = key.rsplit('.').next().unwrap_or(key);
                write!(f, "{key} is missing: add it, for example {leaf} = {example}")
            }
            Self::BadClusterId { found } => write!(
                f,
                "cluster_id = {found:?} is no UUID other than zero: make one with `uuidgen` and \
                 give all nodes the same"
            ),
            Self::BadBind { found } => write!(
                f,
                "bind = {found:?} is no IP address: write \"0.0.0.0\", or an address of this host"
            ),
            Self::EmptyDataDir => f.write_str("data_dir is empty: name a directory"),
            Self::BadHost { found } => write!(
                f,
                "nodes.host = {found:?} is neither a host name nor an address: write it without scheme \
                 and port"
            ),
            Self::NoNodes => {
                f.write_str("no voters: add a [[nodes]] entry for each node, this one included")
            }
            Self::DuplicateNode { id, first } => {
                write!(f, "node {id} is listed twice (first at {first}): number each node once")
            }
            Self::EvenVoters { count } => write!(
                f,
                "{count} nodes survive no more failures than {}: list 1, 3, 5 or 7 of them",
                count - 1
            ),
            Self::TooManyVoters { count, max } => {
                write!(f, "{count} nodes are too many: list at most {max}")
            }
            Self::SelfNotListed { id, listed } => write!(
                f,
                "node_id = {id} is not in [[nodes]] ({listed}): correct it or add the entry"
            ),
            Self::PortsTooHigh { key, first, shards } => write!(
                f,
                "nodes.{key} = {first} leaves no room for {shards} shards, which take a port each: \
                 choose at most {}",
                u32::from(u16::MAX) + 1 - u32::from(*shards)
            ),
            Self::PortsOverlap { a, b, host } => {
                write!(f, "{a} and {b} overlap on host {host}: move one of them")
            }
            Self::BindIsLoopback { host } => write!(
                f,
                "bind is a loopback address, so the other nodes cannot reach this one at {host}: \
                 set bind to \"0.0.0.0\" or to the address of {host} (nothing is encrypted or \
                 authenticated yet: keep strangers off that network)"
            ),
            Self::HeartbeatTooSlow { heartbeat_ms, election_min_ms } => write!(
                f,
                "raft.heartbeat_ms = {heartbeat_ms} is more than a third of raft.election_min_ms \
                 = {election_min_ms}, so one late heartbeat starts an election: lower the first \
                 or raise the second"
            ),
            Self::ElectionSpread { min_ms, max_ms } => write!(
                f,
                "raft.election_max_ms = {max_ms} is less than 4/3 of raft.election_min_ms = \
                 {min_ms}, so candidates split the vote: raise it to at least {}",
                (min_ms * 4).div_ceil(3)
            ),
            Self::CheckQuorumTooFast { check_quorum_ms, election_min_ms } => write!(
                f,
                "raft.check_quorum_ms = {check_quorum_ms} is below raft.election_min_ms = \
                 {election_min_ms}, so a leader gives up sooner than its followers: raise it"
            ),
            Self::CheckQuorumTooSlow { check_quorum_ms, election_max_ms } => write!(
                f,
                "raft.check_quorum_ms = {check_quorum_ms} is above 10 x raft.election_max_ms = \
                 {election_max_ms}, so a cut-off leader keeps its clients waiting: lower it"
            ),
            Self::CreditBelowBlocks { credit, block } => write!(
                f,
                "limits.peer_credit_bytes = {credit} is less than two blocks of \
                 wal.block_target_bytes = {block}, so a link idles between them: raise the first \
                 or lower the second"
            ),
            Self::CreditAboveArena { credit, peers, arena } => write!(
                f,
                "limits.peer_credit_bytes = {credit} from {peers} peers is more than half of \
                 limits.arena_bytes_per_shard = {arena}, where it is received: lower the first or \
                 raise the second"
            ),
            Self::WritesAboveArena { writes, block, arena } => write!(
                f,
                "wal.writes_in_flight = {writes} of wal.block_target_bytes = {block} is more than \
                 half of limits.arena_bytes_per_shard = {arena}: lower one of the first or raise \
                 the last"
            ),
            Self::ConnectionAboveShard { connection, uncommitted } => write!(
                f,
                "limits.connection_bytes = {connection} is more than \
                 limits.uncommitted_bytes_per_shard = {uncommitted}, so one client can fill a \
                 shard: lower the first or raise the second"
            ),
            Self::RetentionTooSmall { found, min } => write!(
                f,
                "retention.bytes_per_group = {found} is less than one batch can have: choose 0 to \
                 keep everything, or at least {min}"
            ),
        }
    }
}

/// Everything that is wrong with a configuration, in order of file and line. Never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems(Vec<Problem>);

impl Problems {
    /// Printed at most; a file with more is not a configuration that slipped.
    const SHOWN_MAX: usize = 100;

    /// Sorted, without repetitions; `None` if there is nothing wrong.
    pub(super) fn of(mut problems: Vec<Problem>) -> Option<Self> {
        problems.sort_by(|a, b| a.place.cmp(&b.place));
        problems.dedup();
        (!problems.is_empty()).then_some(Self(problems))
    }

    /// A single problem.
    pub(super) fn one(place: Place, fault: Fault) -> Self {
        Self(vec![Problem { place, fault }])
    }

    /// Each problem.
    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.0.iter()
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.0.iter().take(Self::SHOWN_MAX).enumerate() {
            let newline = if i == 0 { "" } else { "\n" };
            write!(f, "{newline}{problem}")?;
        }
        match self.0.len().checked_sub(Self::SHOWN_MAX) {
            Some(more @ 1..) => write!(f, "\n... and {more} more"),
            _ => Ok(()),
        }
    }
}

impl std::error::Error for Problems {}
