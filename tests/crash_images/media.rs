//! What the media of a node may hold: every file and name on the tape, each with what is durable
//! of it and what may be.
//!
//! Apart from the claims because this is the fault model (rule section 2.2, D1, D2, D13) and nothing
//! else: content is durable when its file was synced, a name when its directory was, a block when
//! its write was confirmed. Everything else may be there or not, blocks by 512-byte sectors.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use catamaran::base::Prng;
use catamaran::runtime::Act;

const SECTOR_BYTES: usize = 512;
/// Files from this size on are kept on the image's file system all the time and linked into each
/// image; smaller ones are written anew.
const POOLED_BYTES_MIN: usize = 64 << 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct FileId(usize);

#[derive(Default)]
struct FileState {
    durable: Vec<u8>,
    /// What it gets when it is synced, and may have before.
    unsynced: Option<Vec<u8>>,
}

/// A change of names that no sync of its directory has followed.
#[derive(Clone)]
enum NameOp {
    Add(PathBuf, FileId),
    Remove(PathBuf),
    Rename(PathBuf, PathBuf),
}

impl NameOp {
    fn directory(&self) -> Option<&Path> {
        match self {
            Self::Add(path, _) | Self::Remove(path) | Self::Rename(_, path) => path.parent(),
        }
    }

    fn apply(&self, names: &mut BTreeMap<PathBuf, FileId>) {
        match self {
            Self::Add(path, file) => {
                names.insert(path.clone(), *file);
            }
            Self::Remove(path) => {
                names.remove(path);
            }
            Self::Rename(from, to) => {
                if let Some(file) = names.remove(from) {
                    names.insert(to.clone(), file);
                }
            }
        }
    }
}

struct Block {
    file: FileId,
    offset: u64,
    bytes: Vec<u8>,
}

/// How much of what may be there is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Survives {
    Nothing,
    Everything,
    /// Everything up to some sector, in the order of issue.
    APrefix,
    Anything,
}

/// See the module's documentation. Paths are relative to the data directory.
pub(crate) struct Media {
    /// The data directory on the tape.
    origin: PathBuf,
    /// Where images are made: `pool` beside `image`.
    place: PathBuf,
    files: Vec<FileState>,
    now: BTreeMap<PathBuf, FileId>,
    durable: BTreeMap<PathBuf, FileId>,
    unsynced_names: Vec<NameOp>,
    in_flight: BTreeMap<(PathBuf, u64), Block>,
}

impl Media {
    /// The media as they were when the data directory at `origin` held what `formatted` holds.
    pub(crate) fn new(origin: &Path, formatted: &Path, place: &Path) -> Self {
        fs::create_dir_all(place.join("pool")).unwrap();
        let mut media = Self {
            origin: origin.to_owned(),
            place: place.to_owned(),
            files: Vec::new(),
            now: BTreeMap::new(),
            durable: BTreeMap::new(),
            unsynced_names: Vec::new(),
            in_flight: BTreeMap::new(),
        };
        for entry in fs::read_dir(formatted).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                let file = media.new_file(fs::read(&path).unwrap());
                media.durable.insert(path.file_name().unwrap().into(), file);
            }
        }
        media.now = media.durable.clone();
        media
    }

    fn relative(&self, path: &Path) -> PathBuf {
        path.strip_prefix(&self.origin).expect("inside the data directory").to_owned()
    }

    fn new_file(&mut self, durable: Vec<u8>) -> FileId {
        let file = FileId(self.files.len());
        self.files.push(FileState { durable, unsynced: None });
        self.pool(file);
        file
    }

    fn pool_path(&self, file: FileId) -> PathBuf {
        self.place.join("pool").join(file.0.to_string())
    }

    fn pool(&self, file: FileId) {
        let durable = &self.files[file.0].durable;
        if durable.len() >= POOLED_BYTES_MIN {
            fs::write(self.pool_path(file), durable).unwrap();
        }
    }

    fn named(&self, path: &Path) -> FileId {
        self.now[&self.relative(path)]
    }

    fn change_names(&mut self, op: NameOp) {
        op.apply(&mut self.now);
        self.unsynced_names.push(op);
    }

    /// Blocks, contents and names that may be there or not.
    pub(crate) fn doubts(&self) -> usize {
        self.in_flight.len() + self.unsynced_names.len()
    }

    /// Takes the next act of the tape.
    pub(crate) fn apply(&mut self, act: &Act) {
        match act {
            Act::Create { path } => {
                let file = self.new_file(Vec::new());
                self.change_names(NameOp::Add(self.relative(path), file));
            }
            Act::Fill { path, bytes } => {
                let file = self.named(path);
                self.files[file.0].unsynced = Some(bytes.clone());
            }
            Act::FillZeros { path, bytes } => {
                let file = self.named(path);
                let bytes = usize::try_from(*bytes).expect("small");
                self.files[file.0].unsynced = Some(vec![0; bytes]);
            }
            Act::SyncFile { path } => {
                let file = self.named(path);
                if let Some(bytes) = self.files[file.0].unsynced.take() {
                    self.files[file.0].durable = bytes;
                    self.pool(file);
                }
            }
            Act::Rename { from, to } => {
                self.change_names(NameOp::Rename(self.relative(from), self.relative(to)));
            }
            Act::Remove { path } => self.change_names(NameOp::Remove(self.relative(path))),
            Act::SyncDirectory { path } => {
                let directory = self.relative(path);
                let durable = &mut self.durable;
                self.unsynced_names.retain(|op| {
                    let synced = op.directory() == Some(&directory);
                    if synced {
                        op.apply(durable);
                    }
                    !synced
                });
            }
            Act::Write { path, number, offset, bytes } => {
                let block = Block { file: self.named(path), offset: *offset, bytes: bytes.clone() };
                assert!(self.in_flight.insert((path.clone(), *number), block).is_none());
            }
            Act::WriteDone { path, number } => {
                let block = self.in_flight.remove(&(path.clone(), *number)).expect("in flight");
                let durable = &mut self.files[block.file.0].durable;
                let start = usize::try_from(block.offset).expect("small");
                let end = start + block.bytes.len();
                // Beyond the end only if nothing had synced the file that it is written to.
                durable.resize(durable.len().max(end), 0);
                durable[start..end].copy_from_slice(&block.bytes);
                self.write_pooled(block.file, block.offset, &block.bytes);
            }
            Act::Note(_) => {}
        }
    }

    fn write_pooled(&self, file: FileId, offset: u64, bytes: &[u8]) {
        fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(self.pool_path(file))
            .and_then(|pooled| pooled.write_all_at(bytes, offset))
            .unwrap();
    }

    /// Makes what a crash now may leave, hands it to `look`, and takes it away again.
    pub(crate) fn crash<T>(
        &self,
        survives: Survives,
        prng: &mut Prng,
        look: impl FnOnce(&Path) -> T,
    ) -> T {
        let mut names = self.durable.clone();
        for op in &self.unsynced_names {
            let is_there = match survives {
                Survives::Nothing => false,
                Survives::Everything => true,
                Survives::APrefix | Survives::Anything => prng.chance(1, 2),
            };
            if is_there {
                op.apply(&mut names);
            }
        }
        let image = self.place.join("image");
        fs::create_dir_all(image.join("shard-00")).unwrap();
        for (path, file) in &names {
            let state = &self.files[file.0];
            let content = match (&state.unsynced, survives) {
                (None, _) | (Some(_), Survives::Nothing) => &state.durable[..],
                (Some(bytes), Survives::Everything) => &bytes[..],
                (Some(bytes), Survives::APrefix | Survives::Anything) => {
                    let part = prng.below(bytes.len() as u64 + 1);
                    &bytes[..usize::try_from(part).expect("small")]
                }
            };
            let pooled = state.unsynced.is_none() && content.len() >= POOLED_BYTES_MIN;
            if pooled {
                fs::hard_link(self.pool_path(*file), image.join(path)).unwrap();
            } else {
                fs::write(image.join(path), content).unwrap();
            }
        }
        let landed = self.land(survives, prng);
        let seen = look(&image);
        for (file, start, bytes) in landed {
            let end = start + bytes;
            self.write_pooled(file, start as u64, &self.files[file.0].durable[start..end]);
        }
        fs::remove_dir_all(&image).unwrap();
        seen
    }

    /// Lets sectors of the blocks in flight through; says which, so that they can be taken back.
    fn land(&self, survives: Survives, prng: &mut Prng) -> Vec<(FileId, usize, usize)> {
        let mut landed = Vec::new();
        let sectors: usize =
            self.in_flight.values().map(|block| block.bytes.len() / SECTOR_BYTES).sum();
        let mut left = prng.below(sectors as u64 + 1);
        let of_eight = prng.below(9);
        for block in self.in_flight.values() {
            for (i, sector) in block.bytes.chunks(SECTOR_BYTES).enumerate() {
                let lands = match survives {
                    Survives::Nothing => false,
                    Survives::Everything => true,
                    Survives::APrefix => left > 0,
                    Survives::Anything => prng.chance(of_eight, 8),
                };
                left = left.saturating_sub(1);
                let start = usize::try_from(block.offset).expect("small") + i * SECTOR_BYTES;
                let inside = start + SECTOR_BYTES <= self.files[block.file.0].durable.len();
                if lands && inside {
                    self.write_pooled(block.file, start as u64, sector);
                    landed.push((block.file, start, SECTOR_BYTES));
                }
            }
        }
        landed
    }
}
