//! From a shard's directory to a recovered log: the reads of `wal::Recovery`, carried out.
//!
//! Runs on the shard's own thread before it serves, which may block: nothing else is happening
//! there yet. Alters nothing but unfinished files (W-10). Does not: judge what it reads.

use std::io;
use std::path::Path;

use super::ahead::ReadAhead;
use super::config::NodeConfig;
use super::datadir::DataDir;
use super::error::StartError;
use super::node::geometry;
use super::segments::{self, Access, probe_access};
use crate::model::{BootCounter, NodeUuid, ShardId};
use crate::wal::{
    Geometry, Identity, ReadFault, ReadWish, RecoverError, Recovered, Recovery, SegmentFile,
    SegmentNo, Step, WalMay,
};

/// A recovered log and what it took.
pub(super) struct Outcome {
    pub(super) recovered: Recovered,
    pub(super) read_bytes: u64,
}

/// What is to be recovered.
pub(super) struct Log<'a> {
    pub(super) directory: &'a Path,
    pub(super) access: Access,
    pub(super) identity: Identity,
    pub(super) geometry: Geometry,
    pub(super) may: WalMay,
}

/// Reads the log of one shard.
///
/// # Errors
/// If it is refused, or its directory cannot be listed.
pub(super) fn recover(log: &Log<'_>) -> Result<Outcome, StartError> {
    let found = segments::list(log.directory, log.access).map_err(|error| StartError::Io {
        what: "listing the log",
        path: log.directory.to_owned(),
        error,
    })?;
    let files: Vec<SegmentFile> =
        found.into_iter().map(|(segment, bytes)| SegmentFile { segment, bytes }).collect();
    run(log, &files).map_err(|error| StartError::Recovery {
        shard: log.identity.shard,
        directory: log.directory.to_owned(),
        error: error.to_string(),
    })
}

fn run(log: &Log<'_>, files: &[SegmentFile]) -> Result<Outcome, RecoverError> {
    let mut recovery = Recovery::new(log.identity, log.geometry, log.may, files)?;
    std::thread::scope(|scope| {
        let mut reader = Reader { log, open: None, ahead: ReadAhead::start(scope), read_bytes: 0 };
        loop {
            match recovery.next() {
                Step::Read(wish) => recovery.feed(reader.read(wish)),
                Step::Done(recovered) => {
                    return Ok(Outcome { recovered: *recovered, read_bytes: reader.read_bytes });
                }
                Step::Refused(error) => return Err(error),
            }
        }
    })
}

/// Keeps the last file open.
struct Reader<'a> {
    log: &'a Log<'a>,
    open: Option<SegmentNo>,
    ahead: ReadAhead,
    read_bytes: u64,
}

impl Reader<'_> {
    fn read(&mut self, wish: ReadWish) -> Result<&[u8], ReadFault> {
        if self.open != Some(wish.segment) {
            let Log { directory, access, geometry, .. } = self.log;
            let file = segments::open(directory, wish.segment, *access).map_err(fault)?;
            // Recovery reads files of that size only.
            self.ahead.change_file(file, geometry.segment_bytes);
            self.open = Some(wish.segment);
        }
        self.read_bytes += u64::from(wish.bytes);
        self.ahead.read(wish.offset, wish.bytes as usize).map_err(fault)
    }
}

fn fault(error: io::Error) -> ReadFault {
    if error.kind() == io::ErrorKind::UnexpectedEof {
        ReadFault::Short
    } else {
        ReadFault::Failed { errno: error.raw_os_error().unwrap_or(libc::EIO) }
    }
}

/// What [`recover_only`] found.
#[derive(Debug)]
pub struct RecoveredDir {
    /// Which incarnation of the node the directory is.
    pub uuid: NodeUuid,
    /// The number of this opening of it.
    pub boot: BootCounter,
    /// The log of each shard, in order.
    pub logs: Vec<Recovered>,
}

/// Opens the data directory of `config` and recovers its logs as a start does, and ends there. It
/// counts as a start; nothing else is altered. For tests and embedding programs.
///
/// # Errors
/// As for a start.
pub fn recover_only(config: &NodeConfig) -> Result<RecoveredDir, StartError> {
    config.check().map_err(StartError::Config)?;
    let data = DataDir::open(config)?;
    let access = probe_access(data.path(), config.allow_buffered)?;
    let mut logs = Vec::new();
    for shard in (0..config.shards).map(ShardId::new) {
        let log = Log {
            directory: &data.shard_directory(shard),
            access,
            identity: Identity { cluster: config.cluster, node: data.node_uuid(), shard },
            geometry: geometry(config),
            may: may_be_empty(data.has_begun(shard)),
        };
        logs.push(recover(&log)?.recovered);
    }
    Ok(RecoveredDir { uuid: data.node_uuid(), boot: data.boot(), logs })
}

/// Whether the log of `shard` may be empty.
pub(super) fn may_be_empty(has_begun: bool) -> WalMay {
    if has_begun { WalMay::NotBeEmpty } else { WalMay::BeEmpty }
}

/// The name of the thread of a shard.
pub(super) fn shard_name(shard: ShardId) -> String {
    format!("shard-{shard}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ClusterId;

    fn log(directory: &Path, may: WalMay) -> Log<'_> {
        Log {
            directory,
            access: Access::Direct,
            identity: Identity {
                cluster: ClusterId::new([1; 16]),
                node: NodeUuid::new([2; 16]),
                shard: ShardId::new(0),
            },
            geometry: Geometry::PRODUCTION,
            may,
        }
    }

    #[test]
    fn an_empty_log_is_a_beginning_or_a_loss() {
        let temp = tempfile::tempdir_in(".").unwrap();
        assert!(recover(&log(temp.path(), WalMay::BeEmpty)).is_ok());
        let error = recover(&log(temp.path(), may_be_empty(true))).err().unwrap();
        assert_eq!(error.exit_code(), crate::runtime::ExitCode::DataDir);
        assert!(error.to_string().contains("shard 0 is refused"), "{error}");
    }

    #[test]
    fn garbage_is_read_through_the_device_and_judged_by_the_log() {
        let temp = tempfile::tempdir_in(".").unwrap();
        let zeros = vec![0; 64 << 20];
        std::fs::write(temp.path().join("wal-segment-00000.log"), &zeros).unwrap();
        let outcome = recover(&log(temp.path(), WalMay::BeEmpty)).unwrap();
        assert!(outcome.read_bytes >= 4096, "{}", outcome.read_bytes);
    }
}
