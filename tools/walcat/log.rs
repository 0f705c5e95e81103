//! Finding logs and reading their files: a data directory, a shard of it, or a single segment.
//!
//! Apart because all three commands begin here. Buffered reads of whole segment files; the
//! identity comes from `node.toml` if there is one, else from the first sound block.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use catamaran::model::limits::{BLOCK_BYTES_MAX, DEVICE_ALIGN_BYTES};
use catamaran::model::{ClusterId, NodeUuid, ShardId};
use catamaran::wal::{
    BlockHeader, Geometry, Identity, Lsn, ReadFault, RecoverError, Recovered, Recovery,
    SegmentFile, SegmentNo, SegmentOpen, Step, WalMay, parse_block_of,
};
use serde::Deserialize;

use crate::Failure;

/// The log of one shard, not yet read.
pub(crate) struct Log {
    /// What to call it.
    pub(crate) name: String,
    pub(crate) files: BTreeMap<SegmentNo, PathBuf>,
    pub(crate) identity_tag: u64,
    pub(crate) geometry: Geometry,
}

/// What this program needs of `node.toml`.
#[derive(Deserialize)]
struct NodeFile {
    cluster_id: String,
    node_uuid: String,
}

/// Every log at `path`.
pub(crate) fn open(path: &Path) -> Result<Vec<Log>, Failure> {
    if path.is_file() {
        return Ok(vec![open_file(path)?]);
    }
    let mut shards = Vec::new();
    for entry in read_dir(path)? {
        let name = entry.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        if let Some(number) = name.strip_prefix("shard-")
            && let Ok(number) = number.parse::<u16>()
        {
            shards.push((number, entry));
        }
    }
    shards.sort();
    if shards.is_empty() {
        let parent = path.parent().unwrap_or(path);
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let number = name.strip_prefix("shard-").and_then(|number| number.parse().ok());
        return Ok(vec![open_shard(path, parent, number.unwrap_or(0))?]);
    }
    shards.iter().map(|(number, directory)| open_shard(directory, path, *number)).collect()
}

fn read_dir(path: &Path) -> Result<Vec<PathBuf>, Failure> {
    let entries = fs::read_dir(path).map_err(|error| unreadable(path, &error))?;
    Ok(entries.flatten().map(|entry| entry.path()).collect())
}

fn unreadable(path: &Path, error: &dyn std::fmt::Display) -> Failure {
    Failure::Unreadable(format!(
        "cannot read {}: {error}: check path and permissions",
        path.display()
    ))
}

fn open_shard(directory: &Path, node: &Path, shard: u16) -> Result<Log, Failure> {
    let mut files = BTreeMap::new();
    for path in read_dir(directory)? {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if let Some(segment) = SegmentNo::from_file_name(name) {
            files.insert(segment, path);
        }
    }
    if files.is_empty() {
        return Err(Failure::Unreadable(format!(
            "no log in {}: name a data directory, a shard of it, or a segment file",
            directory.display()
        )));
    }
    let identity = identity_of(node, shard)?;
    finish(directory.display().to_string(), files, identity)
}

fn open_file(path: &Path) -> Result<Log, Failure> {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let segment = SegmentNo::from_file_name(name).ok_or_else(|| {
        Failure::Unreadable(format!("{} is not named like a segment file", path.display()))
    })?;
    let shard = path.parent().unwrap_or(path);
    let number = shard.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let number = number.strip_prefix("shard-").and_then(|number| number.parse().ok()).unwrap_or(0);
    let identity = identity_of(shard.parent().unwrap_or(shard), number)?;
    finish(path.display().to_string(), BTreeMap::from([(segment, path.to_owned())]), identity)
}

fn identity_of(node: &Path, shard: u16) -> Result<Option<u64>, Failure> {
    let path = node.join("node.toml");
    let Ok(text) = fs::read_to_string(&path) else { return Ok(None) };
    let file: NodeFile = toml::from_str(&text).map_err(|error| unreadable(&path, &error))?;
    let (Some(cluster), Some(node)) =
        (ClusterId::parse(&file.cluster_id), NodeUuid::parse(&file.node_uuid))
    else {
        return Err(unreadable(&path, &"cluster_id or node_uuid is not 32 hexadecimal digits"));
    };
    Ok(Some(Identity { cluster, node, shard: ShardId::new(shard) }.tag()))
}

/// Sizes, and the identity if it is not known, are taken from the first sound opening.
fn finish(
    name: String,
    files: BTreeMap<SegmentNo, PathBuf>,
    identity: Option<u64>,
) -> Result<Log, Failure> {
    let mut found: Option<(u64, SegmentOpen)> = None;
    for path in files.values() {
        let bytes = read(path, 0, BLOCK_BYTES_MAX)?;
        let Ok(header) = BlockHeader::decode(&bytes) else { continue };
        let tag = header.stamp.identity_tag;
        let Ok(block) = parse_block_of(&bytes, header.stamp.lsn, tag) else { continue };
        if let Some(open) = block.segment_open()
            && found.is_none_or(|(known, _)| Some(known) != identity)
        {
            found = Some((tag, open));
        }
    }
    let Some((tag, open)) = found else {
        return Err(Failure::Corrupt(format!("{name}: no segment file has a sound opening")));
    };
    let align = DEVICE_ALIGN_BYTES as u64;
    if open.segment_bytes < 2 * align || !open.segment_bytes.is_multiple_of(align) {
        let bytes = open.segment_bytes;
        return Err(Failure::Corrupt(format!(
            "{name}: the opening says that segments have {bytes} bytes, which is no whole number of \
             {align}-byte steps from two on"
        )));
    }
    let half = open.segment_bytes / 2 / align * align;
    let block_bytes_max = (BLOCK_BYTES_MAX as u64).min(half);
    let in_flight_bytes_max = open.window_bytes.max(block_bytes_max);
    let geometry = Geometry {
        segment_bytes: open.segment_bytes,
        block_bytes_max: u32::try_from(block_bytes_max).expect("at most 1 MiB"),
        in_flight_bytes_max: in_flight_bytes_max.min(open.segment_bytes - align),
        writes_in_flight_max: 1,
    };
    Ok(Log { name, files, identity_tag: identity.unwrap_or(tag), geometry })
}

fn read(path: &Path, offset: u64, bytes_max: usize) -> Result<Vec<u8>, Failure> {
    let file = File::open(path).map_err(|error| unreadable(path, &error))?;
    let length = file.metadata().map_err(|error| unreadable(path, &error))?.len();
    let left = usize::try_from(length.saturating_sub(offset)).unwrap_or(usize::MAX);
    let mut bytes = vec![0; left.min(bytes_max)];
    file.read_exact_at(&mut bytes, offset).map_err(|error| unreadable(path, &error))?;
    Ok(bytes)
}

impl Log {
    /// The bytes of a segment file.
    pub(crate) fn read_segment(&self, segment: SegmentNo) -> Result<Vec<u8>, Failure> {
        let bytes = usize::try_from(self.geometry.segment_bytes).unwrap_or(usize::MAX);
        read(&self.files[&segment], 0, bytes)
    }

    /// Position of the first byte of a segment.
    pub(crate) fn start_of(&self, segment: SegmentNo) -> Lsn {
        self.geometry.start_of(segment)
    }

    /// Recovers the log, as a start would.
    pub(crate) fn recover(&self) -> Result<Result<Recovered, RecoverError>, Failure> {
        let mut files = Vec::new();
        for (segment, path) in &self.files {
            let length = fs::metadata(path).map_err(|error| unreadable(path, &error))?.len();
            files.push(SegmentFile { segment: *segment, bytes: length });
        }
        let may = WalMay::NotBeEmpty;
        let mut recovery = match Recovery::of_tag(self.identity_tag, self.geometry, may, &files) {
            Ok(recovery) => recovery,
            Err(error) => return Ok(Err(error)),
        };
        loop {
            match recovery.next() {
                Step::Read(wish) => {
                    let path = &self.files[&wish.segment];
                    match read(path, wish.offset, wish.bytes as usize) {
                        Ok(bytes) => recovery.feed(Ok(&bytes)),
                        Err(_) => recovery.feed(Err(ReadFault::Failed { errno: 5 })),
                    }
                }
                Step::Done(recovered) => return Ok(Ok(*recovered)),
                Step::Refused(error) => return Ok(Err(error)),
            }
        }
    }
}
