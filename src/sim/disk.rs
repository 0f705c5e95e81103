//! One shard's simulated device: segment files of 512-byte sectors and what is on its way to them.
//!
//! Apart because what a device may do to a log is the most important fact of this world: a
//! confirmed write is there for ever, of an unconfirmed one any subset of sectors may be (fault
//! model D1, D2), a file appears and vanishes whole (D13), a recycled file still holds its old
//! content (D11). Checks the contract of `shard::Effect::Write` as it goes. What a device does that
//! it must not do is in `lies`. Does not: know blocks, decide latencies or when somebody crashes.

use std::collections::BTreeMap;

use super::lies::{Lie, Stored};
use super::verdict::{Check, fail};
use crate::base::{Checksum, Moment, Prng, Slice};
use crate::model::WriteSeq;
use crate::model::limits::DEVICE_ALIGN_BYTES;
use crate::wal::{Geometry, SegmentNo};

/// What a device writes at once or not at all.
const SECTOR_BYTES: usize = 512;
/// One segment file: what a crash now would leave for certain.
#[derive(Clone)]
pub(super) struct File {
    pub(super) durable: Vec<u8>,
    /// Behind everything submitted since the file got its name: nobody writes twice in one place.
    written_upto: u64,
}

/// A write that the device has not confirmed.
#[derive(Clone)]
pub(super) struct InFlight {
    pub(super) write: WriteSeq,
    pub(super) segment: SegmentNo,
    pub(super) offset: u64,
    pub(super) block: Slice,
    /// Of the block at submission; it must still hold at completion (I-07).
    checksum: Checksum,
}

/// A file that is being made.
#[derive(Clone)]
struct Preparing {
    segment: SegmentNo,
    recycle: Option<SegmentNo>,
}

/// A file that was deleted and whose directory entry may come back: the directory was not synced.
#[derive(Clone)]
struct Removed {
    segment: SegmentNo,
    file: File,
    synced: Moment,
}

/// A completed write, for choosing what rots.
#[derive(Clone)]
pub(super) struct Written {
    pub(super) segment: SegmentNo,
    pub(super) offset: u64,
    pub(super) bytes: usize,
    /// Counts the completed writes of this device.
    pub(super) order: u64,
}

/// What a crash did to the writes in flight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Wreck {
    /// Whether anything was written in this run of the process.
    pub(super) began: bool,
    /// Writes that were in flight.
    pub(super) writes: u64,
    /// Those of which some sectors survived and some did not.
    pub(super) torn: u64,
    /// Deleted files that are there again.
    pub(super) returned: u64,
}

/// One per shard of a node; outlives the process.
#[derive(Clone)]
pub(super) struct Disk {
    pub(super) geometry: Geometry,
    pub(super) files: BTreeMap<SegmentNo, File>,
    pub(super) in_flight: Vec<InFlight>,
    preparing: Vec<Preparing>,
    removed: Vec<Removed>,
    pub(super) history: Vec<Written>,
    /// Completed writes.
    pub(super) completed: u64,
    /// What it confirmed in this run of the process and did not store.
    pub(super) lies: Vec<Lie>,
    last_write: WriteSeq,
}

impl Disk {
    /// An empty directory.
    pub(super) fn new(geometry: Geometry) -> Self {
        Self {
            geometry,
            files: BTreeMap::new(),
            in_flight: Vec::new(),
            preparing: Vec::new(),
            removed: Vec::new(),
            history: Vec::new(),
            completed: 0,
            lies: Vec::new(),
            last_write: WriteSeq::NONE,
        }
    }

    /// Takes a write, with the checksum of its bytes. Nothing of it is certain before
    /// [`Disk::complete`].
    pub(super) fn submit(
        &mut self,
        write: WriteSeq,
        segment: SegmentNo,
        offset: u64,
        (block, checksum): (Slice, Checksum),
    ) -> Check {
        let bytes = block.len() as u64;
        let align = DEVICE_ALIGN_BYTES as u64;
        if write != self.last_write.next() {
            fail!(DeviceContract, "write {write:?} follows {:?}", self.last_write);
        }
        self.last_write = write;
        if bytes == 0 || !bytes.is_multiple_of(align) || !offset.is_multiple_of(align) {
            fail!(DeviceContract, "{write:?}: {bytes} bytes at {offset} are not aligned");
        }
        if offset + bytes > self.geometry.segment_bytes {
            fail!(DeviceContract, "{write:?}: {bytes} bytes at {offset} leave {segment:?}");
        }
        let in_flight: u64 = self.in_flight.iter().map(|w| w.block.len() as u64).sum();
        if self.in_flight.len() as u64 >= u64::from(self.geometry.writes_in_flight_max)
            || in_flight + bytes > self.geometry.in_flight_bytes_max
        {
            let writes = self.in_flight.len() + 1;
            let sum = in_flight + bytes;
            fail!(DeviceContract, "{write:?}: {writes} writes of {sum} bytes in flight");
        }
        let Some(file) = self.files.get_mut(&segment) else {
            fail!(DeviceContract, "{write:?}: {segment:?} is not ready");
        };
        if offset < file.written_upto {
            let upto = file.written_upto;
            fail!(DeviceContract, "{write:?}: {segment:?} at {offset} was written up to {upto}");
        }
        file.written_upto = offset + bytes;
        self.in_flight.push(InFlight { write, segment, offset, block, checksum });
        Ok(())
    }

    /// Confirms a write: its bytes are durable from here on, if the device does not lie.
    pub(super) fn complete(&mut self, write: WriteSeq, stored: Stored) -> Check {
        let at = self.in_flight.iter().position(|w| w.write == write);
        let done = self.in_flight.swap_remove(at.expect("the world completes what was submitted"));
        if Checksum::of(&done.block) != done.checksum {
            fail!(DeviceContract, "{write:?} changed while it was in flight");
        }
        if !self.files.contains_key(&done.segment) {
            fail!(DeviceContract, "{:?} was removed under {write:?}", done.segment);
        }
        self.completed += 1;
        match stored {
            Stored::Well => self.store(done.segment, done.offset, &done.block),
            Stored::Nowhere => self.lie(&done, None),
            Stored::Elsewhere(segment, offset) => self.lie(&done, Some((segment, offset))),
        }
        let (segment, offset, bytes) = (done.segment, done.offset, done.block.len());
        self.history.push(Written { segment, offset, bytes, order: self.completed });
        Ok(())
    }

    /// Puts bytes onto the medium.
    pub(super) fn store(&mut self, segment: SegmentNo, offset: u64, bytes: &[u8]) {
        let file = self.files.get_mut(&segment).expect("the caller knows the file");
        file.durable[index(offset)..index(offset) + bytes.len()].copy_from_slice(bytes);
    }

    /// Fills `buf` from a file. Sectors under a write in flight may be old or new. `false`: there
    /// is no such place.
    pub(super) fn read(
        &self,
        segment: SegmentNo,
        offset: u64,
        buf: &mut [u8],
        prng: &mut Prng,
    ) -> bool {
        let Some(file) = self.files.get(&segment) else { return false };
        let start = index(offset);
        let Some(found) = file.durable.get(start..start + buf.len()) else { return false };
        buf.copy_from_slice(found);
        for write in self.in_flight.iter().filter(|write| write.segment == segment) {
            for (i, sector) in write.block.chunks(SECTOR_BYTES).enumerate() {
                let at = index(write.offset) + i * SECTOR_BYTES;
                let inside = start <= at && at + sector.len() <= start + buf.len();
                if inside && prng.chance(1, 2) {
                    buf[at - start..at - start + sector.len()].copy_from_slice(sector);
                }
            }
        }
        true
    }

    /// Begins to make the file of `segment`, by renaming `recycle` if given.
    pub(super) fn prepare(&mut self, segment: SegmentNo, recycle: Option<SegmentNo>) -> Check {
        if self.files.contains_key(&segment) {
            fail!(DeviceContract, "{segment:?} exists and is prepared again");
        }
        if self.preparing.iter().any(|p| p.segment == segment) {
            fail!(DeviceContract, "{segment:?} is being prepared already");
        }
        if let Some(old) = recycle {
            self.check_idle(old)?;
        }
        self.preparing.push(Preparing { segment, recycle });
        Ok(())
    }

    /// The file of `segment` is there, durably, with its directory entry, and so is whatever was
    /// done to the directory before.
    pub(super) fn prepared(&mut self, segment: SegmentNo) {
        self.removed.clear();
        let at = self.preparing.iter().position(|p| p.segment == segment);
        let done = self.preparing.swap_remove(at.expect("the world ends what was begun"));
        self.appear(&done);
    }

    /// Making the file of `segment` failed; the file to recycle stays.
    pub(super) fn prepare_failed(&mut self, segment: SegmentNo) {
        self.preparing.retain(|p| p.segment != segment);
    }

    /// Deletes a file at `now`. Its entry may come back as long as nobody synced the directory,
    /// which the process does one entry after the other, this one by `synced`.
    pub(super) fn remove(&mut self, segment: SegmentNo, now: Moment, synced: Moment) -> Check {
        self.check_idle(segment)?;
        let file = self.files.remove(&segment).expect("checked");
        self.removed.retain(|removed| now < removed.synced);
        let before = self.removed.last().map_or(synced, |removed| removed.synced);
        self.removed.push(Removed { segment, file, synced: synced.max(before) });
        self.forget(segment);
        Ok(())
    }

    fn forget(&mut self, segment: SegmentNo) {
        self.history.retain(|w| w.segment != segment);
        self.lies.retain(|lie| lie.segment != segment);
    }

    /// The process died. Power loss: of every write in flight any subset of sectors survives. A
    /// mere kill: the device ends what it began, so each write survives whole or not at all.
    pub(super) fn crash(&mut self, now: Moment, power_loss: bool, prng: &mut Prng) -> Wreck {
        let mut wreck = Wreck { began: self.last_write != WriteSeq::NONE, ..Wreck::default() };
        self.own_up();
        for write in core::mem::take(&mut self.in_flight) {
            wreck.writes += 1;
            let file = self.files.get_mut(&write.segment).expect("checked when it was removed");
            let fate = Fate::draw(power_loss, prng);
            let (mut kept, mut lost) = (0, 0);
            for (i, sector) in write.block.chunks(SECTOR_BYTES).enumerate() {
                if fate.keeps(i, write.block.len() / SECTOR_BYTES, prng) {
                    let at = index(write.offset) + i * SECTOR_BYTES;
                    file.durable[at..at + sector.len()].copy_from_slice(sector);
                    kept += 1;
                } else {
                    lost += 1;
                }
            }
            wreck.torn += u64::from(kept > 0 && lost > 0);
        }
        for entry in core::mem::take(&mut self.preparing) {
            if prng.chance(1, 2) {
                self.appear(&entry);
            }
        }
        wreck.returned = self.bring_back(now, prng);
        self.last_write = WriteSeq::NONE;
        wreck
    }

    /// Of the deletions that nobody synced, in their order, only some have happened.
    fn bring_back(&mut self, now: Moment, prng: &mut Prng) -> u64 {
        let mut open = core::mem::take(&mut self.removed);
        open.retain(|removed| now < removed.synced);
        let happened = index(prng.below(open.len() as u64 + 1));
        let back = open.split_off(happened);
        let returned = back.len() as u64;
        for Removed { segment, file, .. } in back {
            // The number may have been given to another file meanwhile; then it stays away.
            self.files.entry(segment).or_insert(file);
        }
        returned
    }

    /// The files that a directory listing shows, with their sizes.
    pub(super) fn files(&self) -> Vec<(SegmentNo, u64)> {
        self.files.iter().map(|(segment, file)| (*segment, file.durable.len() as u64)).collect()
    }

    /// Whether every write is confirmed.
    pub(super) fn is_idle(&self) -> bool {
        self.in_flight.is_empty()
    }

    fn check_idle(&self, segment: SegmentNo) -> Check {
        if !self.files.contains_key(&segment) {
            fail!(DeviceContract, "{segment:?} is to go and does not exist");
        }
        if self.in_flight.iter().any(|write| write.segment == segment) {
            fail!(DeviceContract, "{segment:?} is to go and has a write in flight");
        }
        if self.preparing.iter().any(|p| p.recycle == Some(segment)) {
            fail!(DeviceContract, "{segment:?} is to go twice");
        }
        Ok(())
    }

    fn appear(&mut self, entry: &Preparing) {
        let durable = match entry.recycle.and_then(|old| self.files.remove(&old)) {
            Some(old) => old.durable,
            None => vec![0; index(self.geometry.segment_bytes)],
        };
        if let Some(old) = entry.recycle {
            self.forget(old);
        }
        self.files.insert(entry.segment, File { durable, written_upto: 0 });
    }
}

/// How a write in flight ends in a crash.
enum Fate {
    /// It reached the medium whole.
    Whole,
    /// It did not begin.
    Nothing,
    /// It reached the medium up to somewhere.
    Prefix(u64),
    /// Each sector for itself.
    Any,
}

impl Fate {
    fn draw(power_loss: bool, prng: &mut Prng) -> Self {
        match prng.below(if power_loss { 5 } else { 2 }) {
            0 => Self::Whole,
            1 => Self::Nothing,
            2 => Self::Prefix(prng.next_u64()),
            _ => Self::Any,
        }
    }

    fn keeps(&self, sector: usize, sectors: usize, prng: &mut Prng) -> bool {
        match self {
            Self::Whole => true,
            Self::Nothing => false,
            Self::Prefix(cut) => (sector as u64) < cut % (sectors as u64 + 1),
            Self::Any => prng.chance(1, 2),
        }
    }
}

pub(super) fn index(offset: u64) -> usize {
    usize::try_from(offset).expect("simulated files are small")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Arena;
    use crate::sim::Oracle;

    const GEOMETRY: Geometry = Geometry {
        segment_bytes: 64 << 10,
        block_bytes_max: 16 << 10,
        in_flight_bytes_max: 32 << 10,
        writes_in_flight_max: 2,
    };

    fn block(arena: &mut Arena, fill: u8) -> (Slice, Checksum) {
        let mut buf = arena.take(8192).expect("room");
        buf.fill(fill);
        let block = arena.close(buf, 8192);
        let checksum = Checksum::of(&block);
        (block, checksum)
    }

    fn ready() -> (Disk, Arena) {
        let mut disk = Disk::new(GEOMETRY);
        disk.prepare(SegmentNo(0), None).expect("new");
        disk.prepared(SegmentNo(0));
        (disk, Arena::new(8, 16 << 10))
    }

    fn content(disk: &Disk, offset: u64) -> Vec<u8> {
        let mut buf = vec![0xff; 8192];
        assert!(disk.read(SegmentNo(0), offset, &mut buf, &mut Prng::new(1)));
        buf
    }

    #[test]
    fn a_confirmed_write_survives_every_crash() {
        let (mut disk, mut arena) = ready();
        let w = WriteSeq::NONE.next();
        disk.submit(w, SegmentNo(0), 0, block(&mut arena, 7)).expect("fits");
        disk.complete(w, Stored::Well).expect("unchanged");
        for seed in 0..50 {
            disk.crash(Moment::ZERO, true, &mut Prng::new(seed));
            assert!(content(&disk, 0).iter().all(|b| *b == 7));
        }
    }

    #[test]
    fn an_unconfirmed_write_may_leave_any_subset_of_its_sectors() {
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..400 {
            let (mut disk, mut arena) = ready();
            let w = WriteSeq::NONE.next();
            disk.submit(w, SegmentNo(0), 4096, block(&mut arena, 7)).expect("fits");
            disk.crash(Moment::ZERO, true, &mut Prng::new(seed));
            let found = content(&disk, 4096);
            for sector in found.chunks(SECTOR_BYTES) {
                assert!(sector.iter().all(|b| *b == sector[0]), "sectors are atomic");
            }
            seen.insert(found.iter().step_by(SECTOR_BYTES).copied().collect::<Vec<_>>());
        }
        assert!(seen.contains(&vec![0; 16]) && seen.contains(&vec![7; 16]));
        assert!(seen.len() > 100, "only {} outcomes", seen.len());
    }

    #[test]
    fn a_kill_tears_nothing() {
        for seed in 0..50 {
            let (mut disk, mut arena) = ready();
            let w = WriteSeq::NONE.next();
            disk.submit(w, SegmentNo(0), 0, block(&mut arena, 7)).expect("fits");
            assert_eq!(disk.crash(Moment::ZERO, false, &mut Prng::new(seed)).torn, 0);
            let found = content(&disk, 0);
            assert!(found.iter().all(|b| *b == found[0]));
        }
    }

    #[test]
    fn a_recycled_file_keeps_its_old_content_under_its_new_name() {
        let (mut disk, mut arena) = ready();
        let w = WriteSeq::NONE.next();
        disk.submit(w, SegmentNo(0), 0, block(&mut arena, 7)).expect("fits");
        disk.complete(w, Stored::Well).expect("unchanged");
        disk.prepare(SegmentNo(3), Some(SegmentNo(0))).expect("idle");
        disk.prepared(SegmentNo(3));
        assert_eq!(disk.files(), [(SegmentNo(3), 64 << 10)]);
        let mut buf = [0; 1];
        assert!(disk.read(SegmentNo(3), 0, &mut buf, &mut Prng::new(1)));
        assert_eq!(buf, [7]);
    }

    #[test]
    fn broken_contracts_are_found() {
        let (mut disk, mut arena) = ready();
        let w1 = WriteSeq::NONE.next();
        let submit = |disk: &mut Disk, w: WriteSeq, segment, offset, arena: &mut Arena| {
            let failure = disk.submit(w, SegmentNo(segment), offset, block(arena, 1)).unwrap_err();
            assert_eq!(failure.oracle, Oracle::DeviceContract);
            failure.detail
        };
        assert!(submit(&mut disk, w1.next(), 0, 0, &mut arena).contains("follows"));
        let (mut disk, mut arena) = ready();
        assert!(submit(&mut disk, w1, 0, 512, &mut arena).contains("aligned"));
        let (mut disk, mut arena) = ready();
        assert!(submit(&mut disk, w1, 1, 0, &mut arena).contains("not ready"));
        let (mut disk, mut arena) = ready();
        disk.submit(w1, SegmentNo(0), 8192, block(&mut arena, 1)).expect("fits");
        assert!(submit(&mut disk, w1.next(), 0, 4096, &mut arena).contains("was written"));
    }

    #[test]
    fn deletions_that_nobody_synced_come_back_from_the_last_one_on() {
        let (at, mut seen) = (Moment::from_nanos, std::collections::BTreeSet::new());
        for seed in 0..60 {
            let (mut disk, _) = ready();
            for segment in 1..=3 {
                disk.prepare(SegmentNo(segment), None).expect("new");
                disk.prepared(SegmentNo(segment));
            }
            disk.remove(SegmentNo(0), at(10), at(20)).expect("idle");
            disk.remove(SegmentNo(1), at(30), at(40)).expect("idle");
            disk.remove(SegmentNo(2), at(31), at(50)).expect("idle");
            disk.crash(at(35), true, &mut Prng::new(seed));
            seen.insert(disk.files().iter().map(|(segment, _)| segment.0).collect::<Vec<_>>());
        }
        let seen: Vec<Vec<u64>> = seen.into_iter().collect();
        assert_eq!(seen, [vec![1, 2, 3], vec![2, 3], vec![3]], "0 was synced");
    }
}
