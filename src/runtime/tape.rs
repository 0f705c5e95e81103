//! A tape of what the runtime asks of the file system, for tests that ask what a crash would leave.
//!
//! A process that has started a tape notes every block write and its completion, and every file
//! made, filled, renamed, removed or synced, in one order. A test takes the tape and builds from it
//! what the media may hold after a crash at any moment. Apart from `flight`, which keeps the last
//! numbers of every process for people. Does not: change what the runtime does, except for the size
//! of a segment, which must be small for rolls and recycling to be worth a tape; exist in a process
//! that never starts one, where each note is a load and a branch
//! (`docs/decisions/0011-a-tape-under-the-runtime.md`).
//!
//! What may become visible is noted before it is asked for, and what is promised after it was
//! promised: so at each moment of the tape the media hold at least what was promised by then, and
//! at most what was asked for.

use std::path::PathBuf;
use std::sync::{Mutex, OnceLock, PoisonError};

/// One thing that the runtime asked of the file system, or that it answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// An empty file is about to be there.
    Create {
        /// Its path.
        path: PathBuf,
    },
    /// The file is about to get this content through a cache, which [`Act::SyncFile`] empties.
    Fill {
        /// Its path.
        path: PathBuf,
        /// All of it.
        bytes: Vec<u8>,
    },
    /// The same with zeros.
    FillZeros {
        /// Its path.
        path: PathBuf,
        /// How many.
        bytes: u64,
    },
    /// The content of the file is durable, its name is not.
    SyncFile {
        /// Its path.
        path: PathBuf,
    },
    /// A file is about to have another name.
    Rename {
        /// The old name.
        from: PathBuf,
        /// The new one.
        to: PathBuf,
    },
    /// A file is about to be gone.
    Remove {
        /// Its path.
        path: PathBuf,
    },
    /// The names in a directory are durable.
    SyncDirectory {
        /// Its path.
        path: PathBuf,
    },
    /// A block is about to be handed to the device.
    Write {
        /// The segment file.
        path: PathBuf,
        /// Number of the write in its shard and start.
        number: u64,
        /// Where in the file.
        offset: u64,
        /// The block.
        bytes: Vec<u8>,
    },
    /// The device said that a block is durable; the shard has not heard of it yet.
    WriteDone {
        /// The segment file.
        path: PathBuf,
        /// Number of the write.
        number: u64,
    },
    /// What the test wants to remember at this moment.
    Note(usize),
}

/// What has been noted. One per process, for ever.
#[derive(Debug)]
pub struct Tape {
    segment_bytes: u64,
    acts: Mutex<Vec<Act>>,
}

static TAPE: OnceLock<Tape> = OnceLock::new();

impl Tape {
    /// Starts the tape of this process. Nodes that start from now on have segments of
    /// `segment_bytes`.
    ///
    /// # Panics
    /// If there is one already.
    pub fn start(segment_bytes: u64) -> &'static Self {
        let tape = Self { segment_bytes, acts: Mutex::new(Vec::new()) };
        assert!(TAPE.set(tape).is_ok(), "a process has one tape");
        TAPE.get().expect("just set")
    }

    /// Notes that the test has seen something.
    pub fn note(&self, what: usize) {
        self.push(Act::Note(what));
    }

    /// What was noted so far.
    pub fn acts(&self) -> Vec<Act> {
        self.acts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn push(&self, act: Act) {
        self.acts.lock().unwrap_or_else(PoisonError::into_inner).push(act);
    }
}

/// Notes an act if this process has a tape.
#[inline]
pub(super) fn record(act: impl FnOnce() -> Act) {
    if let Some(tape) = TAPE.get() {
        tape.push(act());
    }
}

/// The segment size that the tape wants.
pub(super) fn segment_bytes() -> Option<u64> {
    TAPE.get().map(|tape| tape.segment_bytes)
}
