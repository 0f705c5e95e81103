//! Recovery: what a log's bytes say, as a pure function from reads to a verdict.
//!
//! Sans-I/O: ask [`Recovery::next`] what to read, [`Recovery::feed`] it, until it is done or
//! refuses. One per shard and start. Reads every needed byte once, in order, and verifies every
//! checksum. Does not: alter anything (W-10), repair (this version refuses), or choose when.
//!
//! Three phases. *Probe* reads the first block of each file: the openings tell which positions are
//! void, where to begin, and what was durable. *Replay* follows the blocks from there and applies
//! them to an index, until a block is not sound: the hole at L. *Scan* looks at every 4 KiB step
//! behind L for sound headers, which decide what the hole is:
//!
//! ```text
//! sound header says "durable above L"          L was durable once: corrupt, refuse
//! sound header further than W behind L         cannot have been in flight: corrupt, refuse
//! sound headers within W, none says so         writes in flight at a crash: cut at L, discard them
//! no sound header                              the end of the log
//! ```
//!
//! The first line implies the second as long as the planner keeps its window (W-05); both are
//! checked because the second also holds if a watermark were wrong.

use std::collections::BTreeMap;

use super::format::BlockError;
use super::planner::Resume;
use super::record::SegmentOpen;
use super::{Geometry, Identity, Index, Lsn, RecoveredGroup, SegmentNo};
use crate::model::limits::DEVICE_ALIGN_BYTES;

mod error;
mod walk;

pub use error::{Place, ReadFault, RecoverError};

/// Reads end at multiples of this in their file, or at its end, and are no longer unless a block
/// is: so that whoever carries them out knows what comes next and can have the device stream.
pub const READ_BYTES: u64 = 1 << 20;
const STEP: u64 = DEVICE_ALIGN_BYTES as u64;

/// A segment file as the directory listing shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SegmentFile {
    /// Its number, from its name.
    pub segment: SegmentNo,
    /// Its size.
    pub bytes: u64,
}

/// Whether there must be a log already (W-17).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WalMay {
    /// This data directory has never finished opening its log: finding none is fine.
    BeEmpty,
    /// It has: finding none is corruption.
    NotBeEmpty,
}

/// A read that recovery wants. Lies inside the file; offset and length are multiples of 4 KiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadWish {
    /// Which file.
    pub segment: SegmentNo,
    /// Where in it.
    pub offset: u64,
    /// How many bytes.
    pub bytes: u32,
}

/// What comes next.
#[derive(Debug)]
pub enum Step {
    /// Read this and [`Recovery::feed`] it.
    Read(ReadWish),
    /// The log is recovered.
    Done(Box<Recovered>),
    /// The log is refused.
    Refused(RecoverError),
}

/// The tail that was discarded: writes that were in flight when the node went down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The log ends here.
    pub lsn: Lsn,
    /// What is wrong with the block here.
    pub reason: BlockError,
    /// Blocks from here on whose header is sound; nobody was promised anything about them.
    pub discarded_blocks: u64,
    /// The end of the last of them.
    pub discarded_until: Lsn,
}

/// A recovered log.
#[derive(Debug)]
pub struct Recovered {
    /// What the groups start from, ascending.
    pub groups: Vec<RecoveredGroup>,
    /// Where everything lies; goes on being used.
    pub index: Index,
    /// The end of the log.
    pub end: Lsn,
    /// The highest watermark found.
    pub durable_lsn: Lsn,
    /// Where the planner goes on.
    pub resume: Resume,
    /// Files that hold a part of the log, ascending.
    pub kept: Vec<SegmentNo>,
    /// Files that hold nothing of it: to be recycled or removed, in any order.
    pub spare: Vec<SegmentNo>,
    /// Files that hold nothing of it but some of what was discarded just now: not to be touched
    /// before the next start, so that whoever doubts the verdict can still look (W-10).
    pub set_aside: Vec<SegmentNo>,
    /// What was discarded, if anything was.
    pub cut: Option<Cut>,
}

/// The opening of a segment as its first block describes it.
#[derive(Clone, Copy, Debug)]
struct Opener {
    open: SegmentOpen,
    durable_lsn: Lsn,
}

/// Why replay stopped.
#[derive(Clone, Copy, Debug)]
struct Hole {
    lsn: Lsn,
    error: BlockError,
}

#[derive(Debug)]
enum Phase {
    /// Reading the first block of the file with this number in the list.
    Probe { file: usize },
    /// Following the blocks.
    Replay,
    /// Looking at what lies behind the hole, 4 KiB at a time.
    Scan { hole: Hole, at: Lsn },
    /// The verdict was given.
    Over,
}

/// What the scan saw.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    blocks: u64,
    until: Lsn,
    /// The furthest sound header beyond the window, if any.
    beyond: Option<Lsn>,
}

/// The bytes read and not used up, and where they begin.
#[derive(Debug, Default)]
struct Window {
    at: Lsn,
    bytes: Vec<u8>,
}

/// A recovery under way.
#[derive(Debug)]
pub struct Recovery {
    identity_tag: u64,
    geometry: Geometry,
    may: WalMay,
    /// Files of full size, ascending.
    files: Vec<SegmentNo>,
    /// Files of another size: being made when the node went down, or damaged.
    odd_files: Vec<SegmentFile>,
    window: Window,
    wish: Option<(Lsn, u64)>,
    /// What the last read came to, if it failed.
    failed: Option<RecoverError>,
    phase: Phase,
    /// Sound openings that no later one declares void.
    openers: BTreeMap<SegmentNo, Opener>,
    /// Why a file has no opening.
    unopened: BTreeMap<SegmentNo, BlockError>,
    index: Index,
    /// The segment replay began in.
    began: SegmentNo,
    /// The newest opening whose `oldest` is relied on.
    trusted: SegmentNo,
    /// Where replay is.
    at: Lsn,
    /// Parts of the current opening still to come: (next part, parts).
    opening: Option<(u32, u32)>,
    /// The newest opening that was replayed whole.
    opened: Option<SegmentNo>,
    /// The highest watermark and the block that carries it.
    watermark: (Lsn, Lsn),
    seen: Seen,
}

impl Recovery {
    /// A recovery of the log in `files`. Sync each file before reading it: what a write left in a
    /// device's volatile cache is not durable although it can be read (I-10).
    ///
    /// # Errors
    /// [`RecoverError::Empty`] if there is no file and there must be one, and
    /// [`RecoverError::Sequence`] if a file's number is beyond any log.
    pub fn new(
        identity: Identity,
        geometry: Geometry,
        may: WalMay,
        files: &[SegmentFile],
    ) -> Result<Self, RecoverError> {
        Self::of_tag(identity.tag(), geometry, may, files)
    }

    /// [`Recovery::new`] for tools that know only the tag, from the log itself. A node never uses
    /// it: then nothing would tell its own log from another's.
    ///
    /// # Errors
    /// As for [`Recovery::new`].
    pub fn of_tag(
        identity_tag: u64,
        geometry: Geometry,
        may: WalMay,
        files: &[SegmentFile],
    ) -> Result<Self, RecoverError> {
        geometry.check();
        if files.is_empty() && may == WalMay::NotBeEmpty && !planted!(W17_LOST_LOG_IS_FRESH) {
            return Err(RecoverError::Empty { files: 0 });
        }
        let mut files = files.to_vec();
        files.sort_unstable();
        if let Some(file) = files.last()
            && file.segment.0 > u64::MAX / 4 / geometry.segment_bytes
        {
            // No log gets there; and no arithmetic on positions below it can overflow.
            let place = Place { segment: file.segment, offset: 0 };
            return Err(RecoverError::Sequence { place });
        }
        let (full, odd_files): (Vec<_>, Vec<_>) =
            files.into_iter().partition(|file| file.bytes == geometry.segment_bytes);
        Ok(Self {
            identity_tag,
            geometry,
            may,
            files: full.into_iter().map(|file| file.segment).collect(),
            odd_files,
            window: Window::default(),
            wish: None,
            failed: None,
            phase: Phase::Probe { file: 0 },
            openers: BTreeMap::new(),
            unopened: BTreeMap::new(),
            index: Index::new(geometry),
            began: SegmentNo(0),
            trusted: SegmentNo(0),
            at: Lsn::ZERO,
            opening: None,
            opened: None,
            watermark: (Lsn::ZERO, Lsn::ZERO),
            seen: Seen::default(),
        })
    }

    /// What to do next. After `Done` or `Refused` there is no more.
    ///
    /// # Panics
    /// If the last read was not fed, or after the verdict.
    #[expect(clippy::should_implement_trait, reason = "not an iterator: reads come in between")]
    pub fn next(&mut self) -> Step {
        assert!(self.wish.is_none(), "feed the last read first");
        let outcome = loop {
            let progress = match (self.failed.take(), &self.phase) {
                (Some(error), _) => Err(error),
                (None, Phase::Probe { file }) => self.probe(*file),
                (None, Phase::Replay) => self.replay(),
                (None, Phase::Scan { hole, at }) => self.scan(*hole, *at),
                (None, Phase::Over) => panic!("the verdict was given"),
            };
            match progress {
                Ok(Progress::More) => {}
                Ok(Progress::Read { lsn, bytes }) => return Step::Read(self.wish_for(lsn, bytes)),
                Ok(Progress::Done(recovered)) => break Step::Done(recovered),
                Err(error) => break Step::Refused(error),
            }
        };
        self.phase = Phase::Over;
        outcome
    }

    /// The answer to the last [`Step::Read`]: exactly the bytes asked for, or why not.
    ///
    /// # Panics
    /// If no read was asked for.
    pub fn feed(&mut self, read: Result<&[u8], ReadFault>) {
        let (lsn, bytes) = self.wish.take().expect("a read was asked for");
        match read {
            Ok(read) if read.len() as u64 == bytes => {
                if self.window.end() != lsn {
                    self.window.bytes.clear();
                    self.window.at = lsn;
                }
                self.window.bytes.extend_from_slice(read);
            }
            Ok(_) => self.fail_read(lsn, ReadFault::Short),
            Err(fault) => self.fail_read(lsn, fault),
        }
    }

    /// An unreadable range is never taken for a torn write: the data may well be there (I-09).
    fn fail_read(&mut self, lsn: Lsn, fault: ReadFault) {
        self.failed = Some(RecoverError::Unreadable { place: self.place(lsn), fault });
    }

    fn place(&self, lsn: Lsn) -> Place {
        Place { segment: self.geometry.segment_of(lsn), offset: self.geometry.offset_of(lsn) }
    }

    fn wish_for(&mut self, lsn: Lsn, bytes: u64) -> ReadWish {
        self.wish = Some((lsn, bytes));
        let place = self.place(lsn);
        let bytes = u32::try_from(bytes).expect("a read is a few MiB");
        ReadWish { segment: place.segment, offset: place.offset, bytes }
    }
}

/// What a phase came to.
enum Progress {
    /// The phase or the position changed.
    More,
    /// More bytes are needed, from `lsn` on.
    Read { lsn: Lsn, bytes: u64 },
    /// The log is recovered.
    Done(Box<Recovered>),
}

impl Window {
    fn end(&self) -> Lsn {
        self.at.plus(self.bytes.len() as u64)
    }

    /// The bytes from `lsn` on, as many as there are.
    fn from(&self, lsn: Lsn) -> &[u8] {
        if lsn < self.at || lsn > self.end() {
            return &[];
        }
        let skip = usize::try_from(lsn.bytes_since(self.at)).expect("inside the window");
        &self.bytes[skip..]
    }

    /// Forgets what lies before `lsn`; returns where the next read goes on.
    fn advance(&mut self, lsn: Lsn) -> Lsn {
        if self.from(lsn).is_empty() {
            self.bytes.clear();
            self.at = lsn;
        } else {
            let skip = usize::try_from(lsn.bytes_since(self.at)).expect("inside the window");
            self.bytes.drain(..skip);
            self.at = lsn;
        }
        self.end()
    }
}
