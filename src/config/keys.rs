//! Every key of a configuration: its path, kind, default and range, in one table.
//!
//! Apart because four things must agree on it: the reader (types and ranges), the finder of unknown
//! keys (suggestions), the profiles (which may set tuning keys only) and `tuning/README.md` (a test
//! compares the page with this table). Relations between keys live in `relations`.

use crate::model::limits;

/// What a key's number counts; decides how it is written and printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    /// A plain number.
    Count,
    /// Bytes; may also be written as a text such as `"4 MiB"`.
    Bytes,
    /// Milliseconds.
    Millis,
}

/// What a key may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rule {
    /// An integer within `min..=max`, a multiple of `step`. Without a default it must be given.
    Integer { unit: Unit, default: Option<u64>, min: u64, max: u64, step: u64 },
    /// `true` or `false`.
    Flag { default: bool },
    /// A text. Without a default it must be given; `example` shows what is wanted.
    Text { default: Option<&'static str>, example: &'static str },
}

/// Whether a profile may set a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    /// Says who this node is, what it keeps and whom it trusts: only the operator can know.
    Site,
    /// Trades speed, memory and patience: a profile may set it.
    Tuning,
}

/// One key.
#[derive(Debug)]
pub(super) struct Key {
    /// Dotted path from the root of the file.
    pub(super) path: &'static str,
    /// What it may hold.
    pub(super) rule: Rule,
    /// Whether a profile may set it.
    pub(super) used_for: Use,
}

const fn text(path: &'static str, default: Option<&'static str>, example: &'static str) -> Key {
    Key { path, rule: Rule::Text { default, example }, used_for: Use::Site }
}

const fn flag(path: &'static str, default: bool, used_for: Use) -> Key {
    Key { path, rule: Rule::Flag { default }, used_for }
}

const fn site_count(path: &'static str, default: Option<u64>, min: u64, max: u64) -> Key {
    let rule = Rule::Integer { unit: Unit::Count, default, min, max, step: 1 };
    Key { path, rule, used_for: Use::Site }
}

const fn count(path: &'static str, default: u64, min: u64, max: u64) -> Key {
    let rule = Rule::Integer { unit: Unit::Count, default: Some(default), min, max, step: 1 };
    Key { path, rule, used_for: Use::Tuning }
}

const fn millis(path: &'static str, default: u64, min: u64, max: u64) -> Key {
    let rule = Rule::Integer { unit: Unit::Millis, default: Some(default), min, max, step: 1 };
    Key { path, rule, used_for: Use::Tuning }
}

const fn bytes(path: &'static str, default: u64, (min, max): (u64, u64), step: u64) -> Key {
    let rule = Rule::Integer { unit: Unit::Bytes, default: Some(default), min, max, step };
    Key { path, rule, used_for: Use::Tuning }
}

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;
const ALIGN: u64 = limits::DEVICE_ALIGN_BYTES as u64;
const BLOCK: u64 = limits::BLOCK_BYTES_MAX as u64;
const FRAME: u64 = limits::FRAME_BYTES_MAX as u64;

pub(super) const CLUSTER_ID: Key =
    text("cluster_id", None, "\"6f1d3c5e-8a27-4b90-9d44-0c51e7a2b368\"");
pub(super) const NODE_ID: Key = site_count("node_id", None, 1, u16::MAX as u64);
pub(super) const DATA_DIR: Key = text("data_dir", None, "\"/var/lib/catamaran\"");
pub(super) const BIND: Key = text("bind", Some("127.0.0.1"), "\"0.0.0.0\"");
pub(super) const ALLOW_BUFFERED: Key = flag("allow_buffered", false, Use::Site);
pub(super) const SHARDS: Key = site_count("shards", Some(1), 1, limits::SHARDS_MAX as u64);
pub(super) const GROUPS: Key = site_count("groups", Some(1), 1, limits::GROUPS_MAX as u64);
pub(super) const PIN_CORES: Key = flag("pin_cores", true, Use::Tuning);
pub(super) const SPIN: Key = count("spin_us", 0, 0, 1_000);

pub(super) const ARENA: Key =
    bytes("limits.arena_bytes_per_shard", 64 * MIB, (16 * MIB, 16 * GIB), BLOCK);
pub(super) const UNCOMMITTED: Key =
    bytes("limits.uncommitted_bytes_per_shard", 32 * MIB, (BLOCK, 16 * GIB), 1);
pub(super) const CONNECTION: Key = bytes("limits.connection_bytes", MIB, (FRAME, 256 * MIB), 1);
pub(super) const CONNECTIONS: Key = count("limits.connections_max", 1024, 1, 100_000);
pub(super) const SEND_QUEUE: Key =
    bytes("limits.send_queue_bytes", 8 * MIB, (2 * FRAME, 256 * MIB), 1);
pub(super) const PEER_CREDIT: Key =
    bytes("limits.peer_credit_bytes", 4 * MIB, (FRAME, 256 * MIB), ALIGN);

pub(super) const BLOCK_TARGET: Key =
    bytes("wal.block_target_bytes", 256 * KIB, (ALIGN, BLOCK), ALIGN);
pub(super) const WRITES_IN_FLIGHT: Key = count("wal.writes_in_flight", 4, 1, 32);
pub(super) const SEGMENTS_AHEAD: Key = count("wal.segments_ahead", 2, 1, 64);

const RETENTION_BYTES_RULE: Rule =
    Rule::Integer { unit: Unit::Bytes, default: Some(0), min: 0, max: 64 * TIB, step: 1 };
pub(super) const RETENTION_BYTES: Key =
    Key { path: "retention.bytes_per_group", rule: RETENTION_BYTES_RULE, used_for: Use::Site };
pub(super) const RETENTION_RECORDS: Key =
    site_count("retention.records_per_group", Some(0), 0, i64::MAX as u64);

pub(super) const HEARTBEAT: Key = millis("raft.heartbeat_ms", 50, 10, 10_000);
pub(super) const ELECTION_MIN: Key = millis("raft.election_min_ms", 150, 30, 60_000);
pub(super) const ELECTION_MAX: Key = millis("raft.election_max_ms", 300, 40, 120_000);
pub(super) const CHECK_QUORUM: Key = millis("raft.check_quorum_ms", 300, 30, 120_000);

/// Every key outside `[[nodes]]`, in the order in which `tuning/README.md` explains them.
pub(super) const ALL: [&Key; 24] = [
    &CLUSTER_ID,
    &NODE_ID,
    &DATA_DIR,
    &BIND,
    &ALLOW_BUFFERED,
    &SHARDS,
    &GROUPS,
    &PIN_CORES,
    &SPIN,
    &ARENA,
    &UNCOMMITTED,
    &CONNECTION,
    &SEND_QUEUE,
    &CONNECTIONS,
    &PEER_CREDIT,
    &BLOCK_TARGET,
    &WRITES_IN_FLIGHT,
    &SEGMENTS_AHEAD,
    &RETENTION_BYTES,
    &RETENTION_RECORDS,
    &HEARTBEAT,
    &ELECTION_MIN,
    &ELECTION_MAX,
    &CHECK_QUORUM,
];

pub(super) const NODE_NUMBER: Key = site_count("nodes.id", None, 1, u16::MAX as u64);
pub(super) const NODE_HOST: Key = text("nodes.host", None, "\"10.0.0.1\"");
pub(super) const NODE_CLIENT_PORT: Key = site_count("nodes.client_port", None, 1, u16::MAX as u64);
/// Without it, the client port plus [`PEER_PORT_OFFSET`].
pub(super) const NODE_PEER_PORT: Key = site_count("nodes.peer_port", Some(0), 1, u16::MAX as u64);

/// Every key of one `[[nodes]]` entry.
pub(super) const OF_A_NODE: [&Key; 4] =
    [&NODE_NUMBER, &NODE_HOST, &NODE_CLIENT_PORT, &NODE_PEER_PORT];

/// The peer ports start here above the client ports, unless `peer_port` says otherwise.
pub(super) const PEER_PORT_OFFSET: u16 = 100;

/// The tables a file may have.
pub(super) const TABLES: [&str; 4] = ["limits", "wal", "retention", "raft"];
/// The array of tables that lists the voters.
pub(super) const NODES: &str = "nodes";

/// The known spelling closest to what was written, if any is close enough to be meant.
///
/// `path` is the full dotted path; `known` are full paths too. A key that exists in another table
/// counts as close, because forgetting the table header is as common as a slip of the finger.
pub(super) fn nearest(path: &str, known: &[&'static str]) -> Option<&'static str> {
    // Longer than any key we have; the comparison below is quadratic in the length.
    const CONSIDERED_CHARS_MAX: usize = 64;
    if path.chars().count() > CONSIDERED_CHARS_MAX {
        return None;
    }
    let leaf = |path: &str| path.rsplit('.').next().map(str::to_owned).unwrap_or_default();
    let elsewhere = known.iter().find(|k| leaf(k) == leaf(path)).copied();
    elsewhere.or_else(|| {
        let (distance, best) = known.iter().map(|k| (edits(path, k), *k)).min()?;
        (distance <= 2.max(best.len() / 4)).then_some(best)
    })
}

/// Levenshtein distance: how many characters to insert, delete or replace.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_is_inside_its_own_range() {
        for key in ALL {
            let Rule::Integer { default: Some(default), min, max, step, .. } = key.rule else {
                continue;
            };
            assert!((min..=max).contains(&default), "{}", key.path);
            assert_eq!(default % step, 0, "{}", key.path);
        }
    }

    #[test]
    fn slips_of_the_finger_find_their_key() {
        let known: Vec<&'static str> = ALL.iter().map(|key| key.path).collect();
        let near = |path| nearest(path, &known);
        assert_eq!(near("raft.hearbeat_ms"), Some("raft.heartbeat_ms"));
        assert_eq!(near("heartbeat_ms"), Some("raft.heartbeat_ms"));
        assert_eq!(near("wal.shards"), Some("shards"));
        assert_eq!(near("datadir"), Some("data_dir"));
        assert_eq!(near("colour"), None);
        assert_eq!(near(&"x".repeat(10_000)), None);
    }

    #[test]
    fn edits_are_counted() {
        assert_eq!(edits("", "abc"), 3);
        assert_eq!(edits("abc", "abc"), 0);
        assert_eq!(edits("kitten", "sitting"), 3);
    }
}
