//! The data directory: who it belongs to, that it is used once at a time, how often.
//!
//! ```text
//! node.toml          format version, cluster, node, uuid, shards, boot counter (+1 per start)
//! LOCK               held with flock(2) for the life of the process (O-01)
//! peers.toml         what is known for good about the other nodes (`pins`)
//! shard-00/          the log of shard 0
//! shard-00.begun     shard 0 has durable blocks: an empty log there is a loss, not a beginning
//! ```
//!
//! Does not: look into a log (`wal::recovery` does) or into a configuration file.

use core::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::config::NodeConfig;
use super::error::ExitCode;
use super::tape::{self, Act};
use crate::model::{BootCounter, ClusterId, NodeId, NodeUuid, RunId, ShardId};

/// The layout this program writes and the only one it reads. 2: `peers.toml` names runs.
pub(super) const FORMAT_VERSION: u32 = 2;
/// No `node.toml` is anywhere near this long; what is longer is not ours.
const NODE_FILE_BYTES_MAX: u64 = 64 << 10;

/// `node.toml`, as written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeFile {
    /// Layout of the directory.
    pub format_version: u32,
    /// The cluster, in the usual notation.
    pub cluster_id: String,
    /// The node.
    pub node_id: u16,
    /// Minted when the directory was formatted, never used again (O-03, H-05).
    pub node_uuid: String,
    /// Number of shards; groups are spread by it, so it never changes.
    pub shards: u16,
    /// Starts with this directory so far (O-04).
    pub boot_counter: u64,
}

/// Why a data directory was refused.
#[derive(Debug)]
pub enum DataDirError {
    /// There is nothing: a wiped disk must not come back as the old node.
    NotFormatted {
        /// Where.
        directory: PathBuf,
    },
    /// `init` on a directory that is a node's already.
    AlreadyFormatted {
        /// Where.
        directory: PathBuf,
        /// Whose.
        node_uuid: String,
    },
    /// `init` on a directory that holds something else.
    NotEmpty {
        /// Where.
        directory: PathBuf,
        /// One of the things in it.
        entry: String,
    },
    /// Formatted by a newer program (O-02).
    Newer {
        /// Where.
        directory: PathBuf,
        /// Its version.
        found: u32,
    },
    /// Formatted by an older program.
    Older {
        /// Where.
        directory: PathBuf,
        /// Its version.
        found: u32,
    },
    /// Formatted for somebody else.
    Foreign {
        /// Where.
        directory: PathBuf,
        /// Which key differs.
        key: &'static str,
        /// What the directory says.
        found: String,
        /// What the configuration says.
        configured: String,
    },
    /// Another process uses it (O-01).
    Locked {
        /// Where.
        directory: PathBuf,
    },
    /// `node.toml` or `peers.toml` cannot be understood.
    Damaged {
        /// Which file.
        file: PathBuf,
        /// What is wrong with it.
        fault: String,
    },
    /// A shard's directory, or the log in it, is gone (W-17).
    Missing {
        /// What is missing.
        path: PathBuf,
    },
    /// Others may write into it.
    Permissions {
        /// Where.
        directory: PathBuf,
        /// Its mode bits.
        mode: u32,
    },
    /// The file system failed.
    Io {
        /// What was being done.
        what: &'static str,
        /// To what.
        path: PathBuf,
        /// What the kernel said.
        error: io::Error,
    },
}

impl DataDirError {
    /// What the process should end with.
    pub const fn exit_code(&self) -> ExitCode {
        match self {
            Self::Io { .. } => ExitCode::Io,
            Self::NotFormatted { .. }
            | Self::AlreadyFormatted { .. }
            | Self::NotEmpty { .. }
            | Self::Newer { .. }
            | Self::Older { .. }
            | Self::Foreign { .. }
            | Self::Locked { .. }
            | Self::Damaged { .. }
            | Self::Missing { .. }
            | Self::Permissions { .. } => ExitCode::DataDir,
        }
    }
}

impl fmt::Display for DataDirError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFormatted { directory } => write!(
                f,
                "data directory is not formatted: {}: run `catamaran init` for a new node; a node \
                 that lost its disk must not come back under its old id",
                directory.display()
            ),
            Self::AlreadyFormatted { directory, node_uuid } => write!(
                f,
                "data directory is formatted already: {}: it belongs to node uuid {node_uuid}: \
                 run `catamaran serve`, or choose another directory",
                directory.display()
            ),
            Self::NotEmpty { directory, entry } => write!(
                f,
                "data directory is not empty: {}: it holds {entry:?}: choose an empty or new one",
                directory.display()
            ),
            Self::Newer { directory, found } => write!(
                f,
                "data directory is newer than this program: {}: format version {found}, known is \
                 {FORMAT_VERSION}: run the program that wrote it, or a later one",
                directory.display()
            ),
            Self::Older { directory, found } => write!(
                f,
                "data directory is older than this program: {}: format version {found}, known is \
                 {FORMAT_VERSION}: run the program that wrote it",
                directory.display()
            ),
            Self::Foreign { directory, key, found, configured } => write!(
                f,
                "data directory belongs to somebody else: {}: {key} is {found} there and \
                 {configured} in the configuration: correct data_dir or {key}",
                directory.display()
            ),
            Self::Locked { directory } => write!(
                f,
                "data directory is in use: {}: another process holds LOCK: stop it first",
                directory.display()
            ),
            Self::Damaged { file, fault } => write!(
                f,
                "file is damaged: {}: {fault}: restore it from a copy; do not make one up, peers \
                 remember the true one",
                file.display()
            ),
            Self::Missing { path } => write!(
                f,
                "part of the data directory is missing: {}: node.toml says that this node has \
                 data: restore it, or replace the node",
                path.display()
            ),
            Self::Permissions { directory, mode } => write!(
                f,
                "data directory can be written by others: {}: its mode is {:o}: run chmod 700 on \
                 it",
                directory.display(),
                mode & 0o7777
            ),
            Self::Io { what, path, error } => {
                write!(f, "{what} failed: {}: {error}: check the file system", path.display())
            }
        }
    }
}

impl core::error::Error for DataDirError {}

/// Turns an I/O error into a place and a verb.
fn io_at(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DataDirError {
    let path = path.to_owned();
    move |error| DataDirError::Io { what, path, error }
}

/// Formats the data directory of `config` for a new node: creates it with mode 0700 if need be,
/// mints a uuid, makes the shard directories. All of it is durable on return.
///
/// # Errors
/// If the directory holds anything at all, or the file system fails.
pub fn format(config: &NodeConfig) -> Result<NodeFile, DataDirError> {
    let directory = &config.data_dir;
    if directory.join("node.toml").exists() {
        let node_uuid = read_node_file(directory).map_or("?".to_owned(), |file| file.node_uuid);
        return Err(DataDirError::AlreadyFormatted { directory: directory.clone(), node_uuid });
    }
    match fs::read_dir(directory) {
        Ok(mut entries) => {
            if let Some(Ok(entry)) = entries.next() {
                let entry = entry.file_name().to_string_lossy().into_owned();
                return Err(DataDirError::NotEmpty { directory: directory.clone(), entry });
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => make_directory(directory)?,
        Err(error) => return Err(io_at("listing", directory)(error)),
    }
    fs::set_permissions(directory, fs::Permissions::from_mode(0o700))
        .map_err(io_at("chmod", directory))?;
    for shard in 0..config.shards {
        make_directory(&shard_path(directory, ShardId::new(shard)))?;
    }
    let uuid = random_bytes(directory)?;
    let file = NodeFile {
        format_version: FORMAT_VERSION,
        cluster_id: config.cluster.to_string(),
        node_id: config.node.get(),
        node_uuid: NodeUuid::new(uuid).to_string(),
        shards: config.shards,
        boot_counter: 0,
    };
    // Last, because its existence is what makes the directory a node's.
    write_toml(directory, "node.toml", &file)?;
    Ok(file)
}

/// An opened data directory. One per process; the lock is held until it is dropped.
#[derive(Debug)]
pub struct DataDir {
    directory: PathBuf,
    node_uuid: NodeUuid,
    boot: BootCounter,
    run: RunId,
    /// Never read: its life is the lock's.
    _lock: File,
}

impl DataDir {
    /// Locks the directory, checks that it is the one of `config`, and counts this start, durably.
    ///
    /// # Errors
    /// See [`DataDirError`]; nothing is altered by a refusal.
    pub fn open(config: &NodeConfig) -> Result<Self, DataDirError> {
        let directory = config.data_dir.clone();
        if !directory.join("node.toml").exists() {
            return Err(DataDirError::NotFormatted { directory });
        }
        let lock = lock(&directory)?;
        check_mode(&directory)?;
        // Read after locking: another process may just have counted its start.
        let mut file = read_node_file(&directory)?;
        check_owner(config, &directory, &file)?;
        for shard in 0..config.shards {
            let path = shard_path(&directory, ShardId::new(shard));
            if !path.is_dir() {
                return Err(DataDirError::Missing { path });
            }
        }
        let node_uuid = NodeUuid::parse(&file.node_uuid).ok_or_else(|| DataDirError::Damaged {
            file: directory.join("node.toml"),
            fault: format!("node_uuid is {:?}", file.node_uuid),
        })?;
        file.boot_counter += 1;
        write_toml(&directory, "node.toml", &file)?;
        let boot = BootCounter::new(file.boot_counter);
        // Not stored here: it must never be shown again, and a copy must not know it.
        let run = RunId::new(random_bytes(&directory)?);
        Ok(Self { directory, node_uuid, boot, run, _lock: lock })
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.directory
    }

    /// Which incarnation of a node this directory is.
    pub fn node_uuid(&self) -> NodeUuid {
        self.node_uuid
    }

    /// How often it has been started, this time included.
    pub fn boot(&self) -> BootCounter {
        self.boot
    }

    /// This run of it; no other run, of it or of a copy, has the same.
    pub fn run(&self) -> RunId {
        self.run
    }

    /// Where the log of `shard` lies.
    pub fn shard_directory(&self, shard: ShardId) -> PathBuf {
        shard_path(&self.directory, shard)
    }

    /// The file whose existence says that the log of `shard` has been opened, durably.
    pub(super) fn begun_path(&self, shard: ShardId) -> PathBuf {
        self.directory.join(format!("shard-{:02}.begun", shard.get()))
    }

    /// Whether `shard` has ever issued a block behind its first opening (W-17): if so, that opening
    /// is durable, and an empty log is a loss.
    pub fn has_begun(&self, shard: ShardId) -> bool {
        self.begun_path(shard).exists()
    }
}

/// Makes the fact durable that a shard's log has been opened. Called after the opening is durable
/// and before any other block is issued, so before anything can be acknowledged.
pub(super) fn mark_begun(path: &Path) -> io::Result<()> {
    if !path.exists() {
        tape::record(|| Act::Create { path: path.to_owned() });
    }
    OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(false)
        .mode(0o600)
        .open(path)?
        .sync_all()?;
    tape::record(|| Act::SyncFile { path: path.to_owned() });
    sync_directory(path.parent().expect("the mark lies in the data directory"))
}

fn random_bytes(directory: &Path) -> Result<[u8; 16], DataDirError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)
        .map_err(|error| io_at("getrandom", directory)(io::Error::other(error.to_string())))?;
    Ok(bytes)
}

fn shard_path(directory: &Path, shard: ShardId) -> PathBuf {
    directory.join(format!("shard-{:02}", shard.get()))
}

fn make_directory(path: &Path) -> Result<(), DataDirError> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(io_at("mkdir", path))?;
    match path.parent() {
        Some(parent) if parent != Path::new("") => {
            sync_directory(parent).map_err(io_at("fsync", parent))
        }
        _ => sync_directory(Path::new(".")).map_err(io_at("fsync", path)),
    }
}

/// Makes the entries of a directory durable.
pub(super) fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()?;
    tape::record(|| Act::SyncDirectory { path: path.to_owned() });
    Ok(())
}

fn lock(directory: &Path) -> Result<File, DataDirError> {
    let path = directory.join("LOCK");
    let file = OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(io_at("opening", &path))?;
    #[expect(unsafe_code, reason = "std has no flock(2) with this meaning on all targets")]
    // SAFETY: the descriptor is open; flock touches no memory of ours.
    let status = unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) };
    if status == 0 {
        return Ok(file);
    }
    let error = io::Error::last_os_error();
    if error.kind() == io::ErrorKind::WouldBlock {
        return Err(DataDirError::Locked { directory: directory.to_owned() });
    }
    Err(io_at("flock", &path)(error))
}

fn check_mode(directory: &Path) -> Result<(), DataDirError> {
    let mode = fs::metadata(directory).map_err(io_at("stat", directory))?.permissions().mode();
    if mode & 0o022 != 0 {
        return Err(DataDirError::Permissions { directory: directory.to_owned(), mode });
    }
    Ok(())
}

fn check_owner(config: &NodeConfig, directory: &Path, file: &NodeFile) -> Result<(), DataDirError> {
    let facts = [
        ("cluster_id", file.cluster_id.clone(), config.cluster.to_string()),
        ("node_id", file.node_id.to_string(), config.node.to_string()),
        ("shards", file.shards.to_string(), config.shards.to_string()),
    ];
    for (key, found, configured) in facts {
        if found != configured {
            let directory = directory.to_owned();
            return Err(DataDirError::Foreign { directory, key, found, configured });
        }
    }
    Ok(())
}

/// Reads and understands `node.toml`, without judging whose it is.
fn read_node_file(directory: &Path) -> Result<NodeFile, DataDirError> {
    /// What every later version will still have.
    #[derive(Deserialize)]
    struct Version {
        format_version: u32,
    }

    let path = directory.join("node.toml");
    let text = read_text(&path)?;
    let damaged = |fault: String| DataDirError::Damaged { file: path.clone(), fault };
    // The version first: a newer file may have keys that we would call damage.
    let version: Version =
        toml::from_str(&text).map_err(|error| damaged(error.message().to_owned()))?;
    if version.format_version > FORMAT_VERSION {
        let directory = directory.to_owned();
        return Err(DataDirError::Newer { directory, found: version.format_version });
    }
    if version.format_version < FORMAT_VERSION {
        let directory = directory.to_owned();
        return Err(DataDirError::Older { directory, found: version.format_version });
    }
    let file: NodeFile =
        toml::from_str(&text).map_err(|error| damaged(error.message().to_owned()))?;
    match ClusterId::parse(&file.cluster_id) {
        Some(_) if NodeId::new(file.node_id).get() != 0 => Ok(file),
        _ => Err(damaged(format!("cluster_id {:?}, node_id {}", file.cluster_id, file.node_id))),
    }
}

/// Reads a small text file of ours, and no more than a small one.
pub(super) fn read_text(path: &Path) -> Result<String, DataDirError> {
    let mut text = String::new();
    File::open(path)
        .and_then(|file| file.take(NODE_FILE_BYTES_MAX).read_to_string(&mut text))
        .map_err(|error| {
            if error.kind() == io::ErrorKind::InvalidData {
                DataDirError::Damaged { file: path.to_owned(), fault: "not UTF-8".to_owned() }
            } else {
                io_at("reading", path)(error)
            }
        })?;
    Ok(text)
}

/// Replaces a file as a whole: the old one or the new one is there after any crash, durable on
/// return.
pub(super) fn write_toml<T: Serialize>(
    directory: &Path,
    name: &str,
    value: &T,
) -> Result<(), DataDirError> {
    let text = toml::to_string(value).expect("plain tables of strings and numbers");
    let path = directory.join(name);
    let temporary = directory.join(format!("{name}.new"));
    tape::record(|| Act::Create { path: temporary.clone() });
    tape::record(|| Act::Fill { path: temporary.clone(), bytes: text.clone().into_bytes() });
    OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)
        .and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.sync_all()
        })
        .map_err(io_at("writing", &temporary))?;
    tape::record(|| Act::SyncFile { path: temporary.clone() });
    tape::record(|| Act::Rename { from: temporary.clone(), to: path.clone() });
    fs::rename(&temporary, &path).map_err(io_at("renaming", &temporary))?;
    sync_directory(directory).map_err(io_at("fsync", directory))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::NodeAddress;

    fn config(directory: &Path) -> NodeConfig {
        let node = NodeAddress {
            id: NodeId::new(1),
            host: "localhost".into(),
            client_port_base: 4000,
            peer_port_base: 4100,
        };
        let cluster = ClusterId::new([7; 16]);
        let mut config =
            NodeConfig::new(cluster, NodeId::new(1), vec![node], directory.join("data"));
        config.shards = 2;
        config
    }

    #[track_caller]
    fn refusal(config: &NodeConfig, words: &[&str]) {
        let error = DataDir::open(config).expect_err("must be refused");
        assert_eq!(error.exit_code(), ExitCode::DataDir, "{error}");
        let text = error.to_string();
        assert!(words.iter().all(|word| text.contains(word)), "{text}");
        assert!(!text.contains('\n'), "one line: {text}");
    }

    #[test]
    fn every_start_is_counted_durably_and_the_uuid_stays() {
        let temp = tempfile::tempdir().unwrap();
        let config = config(temp.path());
        let file = format(&config).unwrap();
        let mut runs = Vec::new();
        for boot in 1..=3 {
            let data = DataDir::open(&config).unwrap();
            assert_eq!(data.boot(), BootCounter::new(boot));
            assert!(!runs.contains(&data.run()), "a run id is never used again");
            runs.push(data.run());
            assert_eq!(data.node_uuid().to_string(), file.node_uuid);
        }
        let mode = fs::metadata(&config.data_dir).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
    }

    #[test]
    fn what_is_empty_foreign_newer_or_incomplete_is_refused() {
        let temp = tempfile::tempdir().unwrap();
        let good = config(temp.path());
        refusal(&good, &["not formatted", "catamaran init"]);
        format(&good).unwrap();

        let mut other = good.clone();
        other.cluster = ClusterId::new([8; 16]);
        refusal(&other, &["somebody else", "cluster_id"]);
        let mut other = good.clone();
        other.node = NodeId::new(2);
        refusal(&other, &["somebody else", "node_id is 1 there and 2"]);
        let mut other = good.clone();
        other.shards = 3;
        refusal(&other, &["somebody else", "shards"]);

        let path = good.data_dir.join("node.toml");
        let text = fs::read_to_string(&path).unwrap();
        let newer = text.replace("format_version = 2", "format_version = 9\nfuture = true");
        fs::write(&path, newer).unwrap();
        refusal(&good, &["newer", "format version 9"]);
        fs::write(&path, text.replace("format_version = 2", "format_version = 1")).unwrap();
        refusal(&good, &["older", "format version 1"]);
        fs::write(&path, "format_version = \"x").unwrap();
        refusal(&good, &["damaged", "node.toml"]);
        fs::write(&path, [0xff, 0xfe]).unwrap();
        refusal(&good, &["damaged"]);
        fs::write(&path, &text).unwrap();

        fs::set_permissions(&good.data_dir, fs::Permissions::from_mode(0o770)).unwrap();
        refusal(&good, &["written by others", "770"]);
        fs::set_permissions(&good.data_dir, fs::Permissions::from_mode(0o700)).unwrap();

        fs::remove_dir(good.data_dir.join("shard-01")).unwrap();
        refusal(&good, &["missing", "shard-01"]);
        // None of the refusals counted as a start.
        make_directory(&good.data_dir.join("shard-01")).unwrap();
        assert_eq!(DataDir::open(&good).unwrap().boot(), BootCounter::new(1));
    }

    #[test]
    fn a_second_process_is_refused_while_the_first_lives() {
        let temp = tempfile::tempdir().unwrap();
        let config = config(temp.path());
        format(&config).unwrap();
        let first = DataDir::open(&config).unwrap();
        refusal(&config, &["in use", "LOCK"]);
        drop(first);
        DataDir::open(&config).unwrap();
    }

    #[test]
    fn init_never_touches_what_is_there() {
        let temp = tempfile::tempdir().unwrap();
        let config = config(temp.path());
        format(&config).unwrap();
        let before = fs::read_to_string(config.data_dir.join("node.toml")).unwrap();
        assert!(matches!(format(&config), Err(DataDirError::AlreadyFormatted { .. })));
        assert_eq!(fs::read_to_string(config.data_dir.join("node.toml")).unwrap(), before);
        fs::remove_file(config.data_dir.join("node.toml")).unwrap();
        assert!(matches!(format(&config), Err(DataDirError::NotEmpty { .. })));
    }

    #[test]
    fn the_mark_of_a_begun_log_stays() {
        let temp = tempfile::tempdir().unwrap();
        let config = config(temp.path());
        format(&config).unwrap();
        let data = DataDir::open(&config).unwrap();
        let shard = ShardId::new(1);
        assert!(!data.has_begun(shard));
        mark_begun(&data.begun_path(shard)).unwrap();
        assert!(data.has_begun(shard) && !data.has_begun(ShardId::new(0)));
    }
}
