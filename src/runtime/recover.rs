//! From a shard's directory to a recovered log: the reads of `wal::Recovery`, carried out.
//!
//! Runs on the shard's own thread before it serves, with plain blocking reads: nothing else is
//! happening there yet. Alters nothing but unfinished files (W-10). Does not: judge what it reads.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::error::StartError;
use super::segments::{self, Access};
use crate::base::{Arena, BlockBuf};
use crate::model::ShardId;
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
    let mut reader = Reader { log, open: None, buffer: None, read_bytes: 0 };
    loop {
        match recovery.next() {
            Step::Read(wish) => recovery.feed(reader.read(wish)),
            Step::Done(recovered) => {
                return Ok(Outcome { recovered: *recovered, read_bytes: reader.read_bytes });
            }
            Step::Refused(error) => return Err(error),
        }
    }
}

/// Keeps the last file open and one aligned buffer.
struct Reader<'a> {
    log: &'a Log<'a>,
    open: Option<(SegmentNo, File)>,
    buffer: Option<BlockBuf>,
    read_bytes: u64,
}

impl Reader<'_> {
    fn read(&mut self, wish: ReadWish) -> Result<&[u8], ReadFault> {
        let bytes = wish.bytes as usize;
        let file = match self.open.take() {
            Some((segment, file)) if segment == wish.segment => file,
            Some(_) | None => {
                segments::open(self.log.directory, wish.segment, self.log.access).map_err(fault)?
            }
        };
        if self.buffer.as_ref().is_none_or(|buffer| buffer.len() < bytes) {
            self.buffer = Arena::new(1, bytes).take(bytes);
        }
        let buffer = &mut self.buffer.as_mut().expect("a new arena has its one block")[..bytes];
        let outcome = file.read_exact_at(buffer, wish.offset);
        self.open = Some((wish.segment, file));
        self.read_bytes += bytes as u64;
        outcome.map(|()| &*buffer).map_err(fault)
    }
}

fn fault(error: io::Error) -> ReadFault {
    if error.kind() == io::ErrorKind::UnexpectedEof {
        ReadFault::Short
    } else {
        ReadFault::Failed { errno: error.raw_os_error().unwrap_or(libc::EIO) }
    }
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
    use crate::model::{ClusterId, NodeUuid};

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
