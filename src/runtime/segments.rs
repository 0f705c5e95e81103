//! Segment files on a file system: making, recycling, removing, listing.
//!
//! Blocking calls, so they run on a worker thread, except for opening. A segment is pre-written
//! with zeros once and then recycled by renaming, because a durable write into blocks that the
//! file system has merely reserved costs a journal commit each time (I-08). Does not: know what
//! is in a segment.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use super::datadir::sync_directory;
use super::error::EnvironmentError;
use super::tape::{self, Act};
use super::worker::Stopping;
use crate::base::Arena;
use crate::model::limits::DEVICE_ALIGN_BYTES;
use crate::shard::IoFault;
use crate::wal::SegmentNo;

/// One write of zeros.
const ZEROS_BYTES: usize = 1 << 20;
/// How far zeros may be ahead of a log that is being written, in bytes for each of its bytes.
const ZEROS_PER_LOG_BYTE: u64 = 2;
/// A log that has not grown for this long leaves the device to the zeros.
const LOG_STANDS_STILL: Duration = Duration::from_millis(2);
/// What a file is called until it is whole.
const UNFINISHED_SUFFIX: &str = ".new";

/// How segment files are opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// `O_DIRECT`: what a write completion says is about the device.
    Direct,
    /// Through the page cache, on a file system that has nothing else. Allowed by name only.
    Buffered,
}

/// Finds out how files in `directory` can be opened.
///
/// # Errors
/// If there is no `O_DIRECT` and `allow_buffered` is false, or the directory cannot be written.
pub(super) fn probe_access(
    directory: &Path,
    allow_buffered: bool,
) -> Result<Access, EnvironmentError> {
    match try_direct(directory) {
        Ok(()) => Ok(Access::Direct),
        Err(_) if allow_buffered => Ok(Access::Buffered),
        Err(error) => Err(EnvironmentError::NoDirectIo { directory: directory.to_owned(), error }),
    }
}

fn try_direct(directory: &Path) -> io::Result<()> {
    // Recent kernels accept O_DIRECT on file systems that only live in memory. A log there is as
    // durable as the page cache, which is just what the flag must not hide.
    if lives_in_memory(directory)? {
        return Err(io::Error::other("the file system keeps its files in memory"));
    }
    let path = directory.join("direct-io-probe.new");
    let mut block = Arena::new(1, DEVICE_ALIGN_BYTES).take(DEVICE_ALIGN_BYTES).expect("one block");
    block.fill(0);
    let outcome = options(Access::Direct)
        .create(true)
        .open(&path)
        .and_then(|mut file| file.write_all(&block));
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => outcome.and(Err(error)),
        _ => outcome,
    }
}

fn lives_in_memory(directory: &Path) -> io::Result<bool> {
    let kind = facts_of(directory)?.f_type;
    const RAMFS_MAGIC: i64 = 0x8584_58f6;
    Ok(kind == libc::TMPFS_MAGIC || kind == RAMFS_MAGIC)
}

/// Whether the file system could take so many bytes more. A full one is asked this every second,
/// and trying to allocate instead makes some of them write out their journal each time, for which
/// the log would have to wait.
fn has_room(directory: &Path, bytes: u64) -> io::Result<bool> {
    let facts = facts_of(directory)?;
    // What blocks are counted in; some file systems only have the other size.
    let counted_in = if facts.f_frsize > 0 { facts.f_frsize } else { facts.f_bsize };
    let block_bytes = u64::try_from(counted_in).map_err(io::Error::other)?;
    // Some do not say how many there are.
    Ok(facts.f_blocks == 0 || bytes.div_ceil(block_bytes.max(1)) <= facts.f_bavail)
}

fn facts_of(directory: &Path) -> io::Result<libc::statfs> {
    let directory = File::open(directory)?;
    #[expect(unsafe_code, reason = "std has no statfs(2)")]
    // SAFETY: all-zero bytes are a statfs, it is large enough, and the descriptor is open.
    unsafe {
        let mut facts: libc::statfs = core::mem::zeroed();
        if libc::fstatfs(directory.as_raw_fd(), &raw mut facts) != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(facts)
    }
}

fn options(access: Access) -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    if access == Access::Direct {
        options.custom_flags(libc::O_DIRECT);
    }
    options
}

/// Opens the file of a segment that exists.
pub(super) fn open(directory: &Path, segment: SegmentNo, access: Access) -> io::Result<File> {
    options(access).open(directory.join(segment.file_name()))
}

/// The segments in `directory` with their sizes, by number. Removes unfinished files; does not
/// touch or report anything else.
///
/// Each file and the directory are fsynced, so that what recovery reads is what a later crash
/// would leave (I-10).
pub(super) fn list(directory: &Path, access: Access) -> io::Result<Vec<(SegmentNo, u64)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        if name.ends_with(UNFINISHED_SUFFIX) {
            let path = entry.path();
            tape::record(|| Act::Remove { path: path.clone() });
            fs::remove_file(path)?;
        } else if let Some(segment) = SegmentNo::from_file_name(name) {
            let file = open(directory, segment, access)?;
            file.sync_all()?;
            tape::record(|| Act::SyncFile { path: entry.path() });
            found.push((segment, file.metadata()?.len()));
        }
    }
    sync_directory(directory)?;
    found.sort_unstable();
    Ok(found)
}

/// What a worker needs to make one segment.
pub(super) struct Preparation {
    pub(super) directory: PathBuf,
    pub(super) access: Access,
    pub(super) segment: SegmentNo,
    /// A dead segment whose file becomes this one's.
    pub(super) recycle: Option<SegmentNo>,
    pub(super) segment_bytes: u64,
    /// How much log the shard has written so far.
    pub(super) log_bytes: Arc<AtomicU64>,
    /// Whether the node is ending, and nobody wants the segment any more.
    pub(super) stopping: Stopping,
}

impl Preparation {
    /// Makes the file and its directory entry durable and opens it.
    pub(super) fn run(&self) -> Result<File, IoFault> {
        self.make().map_err(|error| fault_of(&error))
    }

    fn make(&self) -> io::Result<File> {
        let path = self.directory.join(self.segment.file_name());
        let unfinished = self.directory.join(self.segment.file_name() + UNFINISHED_SUFFIX);
        if self.rename_recycled(&path)? {
            sync_directory(&self.directory)?;
            return open(&self.directory, self.segment, self.access);
        }
        if !has_room(&self.directory, self.segment_bytes)? {
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        if let Err(error) = self.write_zeros(&unfinished) {
            // Whatever was reserved is given back; the error is what matters.
            tape::record(|| Act::Remove { path: unfinished.clone() });
            let _ = fs::remove_file(&unfinished);
            return Err(error);
        }
        tape::record(|| Act::Rename { from: unfinished.clone(), to: path.clone() });
        fs::rename(&unfinished, &path)?;
        sync_directory(&self.directory)?;
        open(&self.directory, self.segment, self.access)
    }

    /// Whether there was a file of the right size to recycle.
    fn rename_recycled(&self, path: &Path) -> io::Result<bool> {
        let Some(recycle) = self.recycle else { return Ok(false) };
        let old = self.directory.join(recycle.file_name());
        match fs::metadata(&old) {
            Ok(facts) if facts.len() == self.segment_bytes => {
                tape::record(|| Act::Rename { from: old.clone(), to: path.to_owned() });
                fs::rename(&old, path)?;
                Ok(true)
            }
            Ok(_) => {
                tape::record(|| Act::Remove { path: old.clone() });
                fs::remove_file(&old).map(|()| false)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn write_zeros(&self, path: &Path) -> io::Result<()> {
        tape::record(|| Act::Create { path: path.to_owned() });
        let mut file = options(self.access).create(true).truncate(true).open(path)?;
        tape::record(|| Act::FillZeros { path: path.to_owned(), bytes: self.segment_bytes });
        reserve(&file, self.segment_bytes)?;
        let chunk = usize::try_from(self.segment_bytes).unwrap_or(usize::MAX).min(ZEROS_BYTES);
        let zeros = Arena::new(1, chunk).take(chunk).expect("a new arena has its one block");
        let start = self.log_bytes.load(Ordering::Relaxed);
        let mut done = 0;
        while done < self.segment_bytes {
            if self.stopping.is_set() {
                return Err(io::Error::from(io::ErrorKind::Interrupted));
            }
            self.let_the_log_go_first(done, start);
            let left = self.segment_bytes - done;
            let bytes = usize::try_from(left).unwrap_or(usize::MAX).min(chunk);
            file.write_all(&zeros[..bytes])?;
            done += bytes as u64;
        }
        file.sync_all()?;
        tape::record(|| Act::SyncFile { path: path.to_owned() });
        Ok(())
    }

    /// Waits while the log is being written and the zeros are twice as far as it is since they
    /// were begun. So they take a bounded share of the device, are there when half a segment of
    /// log is, and are as fast as the device while the log stands still.
    #[expect(clippy::disallowed_methods, reason = "a worker's thread may wait")]
    fn let_the_log_go_first(&self, done: u64, start: u64) {
        let mut seen = self.log_bytes.load(Ordering::Relaxed);
        while done > ZEROS_PER_LOG_BYTE * (seen - start) {
            thread::sleep(LOG_STANDS_STILL);
            let now = self.log_bytes.load(Ordering::Relaxed);
            if now == seen {
                return;
            }
            seen = now;
        }
    }
}

/// Asks for contiguous space in one go; file systems that cannot do it get it write by write.
fn reserve(file: &File, bytes: u64) -> io::Result<()> {
    let bytes = libc::off_t::try_from(bytes).map_err(io::Error::other)?;
    #[expect(unsafe_code, reason = "std has no fallocate(2)")]
    // SAFETY: the descriptor is open; no memory is involved.
    let status = unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, bytes) };
    if status == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EOPNOTSUPP | libc::ENOSYS) => Ok(()),
        _ => Err(error),
    }
}

/// Removes the file of a dead segment. Durable or not does not matter: it is dead either way.
pub(super) fn remove(directory: &Path, segment: SegmentNo) -> io::Result<()> {
    let path = directory.join(segment.file_name());
    tape::record(|| Act::Remove { path: path.clone() });
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => sync_directory(directory),
    }
}

/// What the pure rooms are told about an error.
pub(super) fn fault_of(error: &io::Error) -> IoFault {
    match error.raw_os_error() {
        Some(libc::ENOSPC | libc::EDQUOT) => IoFault::NoSpace,
        errno => IoFault::Failed { errno: errno.unwrap_or(libc::EIO) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prepare(directory: &Path, segment: u64, recycle: Option<u64>) -> Preparation {
        Preparation {
            directory: directory.to_owned(),
            access: Access::Direct,
            segment: SegmentNo(segment),
            recycle: recycle.map(SegmentNo),
            segment_bytes: 256 << 10,
            log_bytes: Arc::default(),
            stopping: Stopping::default(),
        }
    }

    #[test]
    fn what_a_file_system_has_no_room_for_is_not_begun() {
        let temp = tempfile::tempdir_in(".").unwrap();
        let much = Preparation { segment_bytes: 1 << 50, ..prepare(temp.path(), 1, None) };
        assert!(matches!(much.run(), Err(IoFault::NoSpace)));
        assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_segment_is_made_of_zeros_and_then_recycled_with_what_it_holds() {
        let temp = tempfile::tempdir_in(".").unwrap();
        let directory = temp.path();
        assert_eq!(probe_access(directory, false).unwrap(), Access::Direct);
        prepare(directory, 1, None).run().unwrap();
        let path = directory.join("wal-segment-00001.log");
        let mut bytes = fs::read(&path).unwrap();
        assert!(bytes.len() == 256 << 10 && bytes.iter().all(|byte| *byte == 0));
        bytes[5] = 5;
        fs::write(&path, &bytes).unwrap();
        prepare(directory, 7, Some(1)).run().unwrap();
        assert_eq!(list(directory, Access::Direct).unwrap(), [(SegmentNo(7), 256 << 10)]);
        assert_eq!(fs::read(directory.join("wal-segment-00007.log")).unwrap()[5], 5);
        // A file that is not there any more, or of another size, is replaced by a new one.
        prepare(directory, 8, Some(1)).run().unwrap();
        fs::write(directory.join("wal-segment-00008.log"), "short").unwrap();
        prepare(directory, 9, Some(8)).run().unwrap();
        let sizes = [(SegmentNo(7), 256 << 10), (SegmentNo(9), 256 << 10)];
        assert_eq!(list(directory, Access::Direct).unwrap(), sizes);
        remove(directory, SegmentNo(7)).unwrap();
        remove(directory, SegmentNo(7)).unwrap();
        assert_eq!(list(directory, Access::Direct).unwrap(), [sizes[1]]);
    }

    #[test]
    fn zeros_make_way_for_a_log_that_is_being_written() {
        let temp = tempfile::tempdir_in(".").unwrap();
        let mut preparation = prepare(temp.path(), 1, None);
        preparation.segment_bytes = 8 << 20;
        let log = Arc::clone(&preparation.log_bytes);
        let making = thread::spawn(move || preparation.run().map(drop));
        // A log that grows slowly all the time: the zeros may not run ahead of it.
        let unfinished = temp.path().join("wal-segment-00001.log.new");
        let mut grown = 0;
        while !making.is_finished() {
            log.fetch_add(64 << 10, Ordering::Relaxed);
            grown += 64 << 10;
            thread::sleep(LOG_STANDS_STILL / 4);
        }
        making.join().unwrap().unwrap();
        assert!(!unfinished.exists());
        let least = (8 << 20) / ZEROS_PER_LOG_BYTE - 2 * ZEROS_BYTES as u64;
        assert!(grown >= least, "{grown} bytes of log before the zeros were done");
    }

    #[test]
    fn unfinished_files_are_removed_and_strangers_are_left_alone() {
        let temp = tempfile::tempdir_in(".").unwrap();
        for name in ["wal-segment-00003.log.new", "notes.txt", "wal-segment-x.log"] {
            fs::write(temp.path().join(name), "x").unwrap();
        }
        assert_eq!(list(temp.path(), Access::Direct).unwrap(), []);
        assert!(!temp.path().join("wal-segment-00003.log.new").exists());
        assert!(temp.path().join("notes.txt").exists());
    }

    #[test]
    fn memory_is_no_disk() {
        let Ok(temp) = tempfile::tempdir_in("/dev/shm") else {
            // No such file system here, so nothing to refuse; any directory that does not exist
            // is refused as well.
            assert!(probe_access(Path::new("/nonexistent"), false).is_err());
            return;
        };
        let error = probe_access(temp.path(), false).unwrap_err().to_string();
        assert!(error.contains("--allow-buffered") && error.contains("/dev/shm"), "{error}");
        assert_eq!(probe_access(temp.path(), true).unwrap(), Access::Buffered);
        let mut preparation = prepare(temp.path(), 1, None);
        preparation.access = Access::Buffered;
        preparation.run().unwrap();
    }

    #[test]
    fn a_place_that_does_not_exist_is_a_fault_and_not_a_panic() {
        let fault = prepare(Path::new("/nonexistent"), 1, None).run().unwrap_err();
        assert_eq!(fault, IoFault::Failed { errno: libc::ENOENT });
    }
}
