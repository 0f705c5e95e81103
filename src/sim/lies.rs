//! What a device does that it must not do: bits that change at rest, writes that it confirms and
//! never stores, or stores somewhere else (fault model D3 to D5).
//!
//! Apart because these break the promise that `disk` keeps. A node cannot be safe from all of it:
//! damage of the very last writes cannot be told from a torn tail before a later block carries
//! their watermark (W-05, "residual doubt"), so a device owns up to its newest lies when its process
//! dies, and rot spares the newest writes. Everything older must be found, or not matter. Does not:
//! choose which devices lie; the world keeps them a minority.

use super::disk::{Disk, InFlight, Written, index};
use crate::base::Prng;
use crate::model::limits::DEVICE_ALIGN_BYTES;
use crate::wal::{Lsn, SegmentNo};

/// How many blocks are the end of a log.
const TAIL_BLOCKS: usize = 3;

/// Completed writes that are spared, beside what the window lets follow an open write.
const SPARED_WRITES_MIN: u64 = 24;
/// Where a block has its header: what most of what is read depends on.
const HEADER_BYTES: u64 = 64;

/// What the device does with a write that it confirms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stored {
    /// It keeps it where it belongs.
    Well,
    /// It keeps nothing.
    Nowhere,
    /// It writes over this place instead.
    Elsewhere(SegmentNo, u64),
}

/// A write that was confirmed and is not where it belongs.
#[derive(Clone)]
pub(super) struct Lie {
    pub(super) segment: SegmentNo,
    offset: u64,
    block: Vec<u8>,
    order: u64,
}

impl Disk {
    /// Number of the newest completed write that later ones have vouched for.
    fn settled(&self) -> u64 {
        let window = self.geometry.in_flight_bytes_max / DEVICE_ALIGN_BYTES as u64;
        self.completed.saturating_sub(SPARED_WRITES_MIN + window)
    }

    /// Confirms a write without storing it, or while storing it at another place.
    pub(super) fn lie(&mut self, done: &InFlight, elsewhere: Option<(SegmentNo, u64)>) {
        if let Some((segment, offset)) = elsewhere {
            self.store(segment, offset, &done.block);
        }
        let (segment, offset, block) = (done.segment, done.offset, done.block.to_vec());
        self.lies.push(Lie { segment, offset, block, order: self.completed });
    }

    /// The process dies: what nobody could ever find out has been stored after all.
    pub(super) fn own_up(&mut self) {
        let settled = self.settled();
        for lie in core::mem::take(&mut self.lies) {
            if settled < lie.order {
                self.store(lie.segment, lie.offset, &lie.block);
            }
        }
    }

    /// A place for `bytes` that holds nothing new. `None`: the drawn one does.
    pub(super) fn wrong_place(&self, bytes: u64, prng: &mut Prng) -> Option<(SegmentNo, u64)> {
        let file = prng.below(self.files.len() as u64);
        let (segment, _) = self.files.iter().nth(index(file))?;
        let steps = (self.geometry.segment_bytes - bytes) / DEVICE_ALIGN_BYTES as u64;
        let offset = prng.below(steps + 1) * DEVICE_ALIGN_BYTES as u64;
        let overlaps = |other: SegmentNo, start: u64, length: usize| {
            other == *segment && start < offset + bytes && offset < start + length as u64
        };
        let settled = self.settled();
        let hits_new = (self.history.iter())
            .any(|w| settled < w.order && overlaps(w.segment, w.offset, w.bytes))
            || self.in_flight.iter().any(|w| overlaps(w.segment, w.offset, w.block.len()));
        (!hits_new).then_some((*segment, offset))
    }

    /// How many bytes a write in flight has.
    pub(super) fn bytes_of(&self, write: crate::model::WriteSeq) -> u64 {
        let found = self.in_flight.iter().find(|w| w.write == write);
        found.expect("in flight").block.len() as u64
    }

    /// Changes one bit of something that was confirmed long ago, of a header as often as of
    /// anything else; or, as often, of one of the last blocks that end at or before `vouched`, where
    /// damage looks most like a torn tail. `false`: there is nothing such.
    pub(super) fn rot(&mut self, vouched: Option<Lsn>, prng: &mut Prng) -> bool {
        let settled = self.settled();
        let end = |w: &Written| {
            let at = self.geometry.start_of(w.segment).plus(w.offset);
            at.plus(w.bytes as u64)
        };
        let tail: Vec<usize> = (0..self.history.len())
            .filter(|at| vouched.is_some_and(|vouched| end(&self.history[*at]) <= vouched))
            .collect();
        let old: Vec<usize> =
            (0..self.history.len()).filter(|at| self.history[*at].order <= settled).collect();
        let last = tail.len().saturating_sub(TAIL_BLOCKS);
        let choices = if prng.chance(1, 2) && !tail.is_empty() { &tail[last..] } else { &old };
        if choices.is_empty() {
            return false;
        }
        let victim = &self.history[choices[index(prng.below(choices.len() as u64))]];
        let span = if prng.chance(1, 2) { HEADER_BYTES } else { victim.bytes as u64 };
        let at = index(victim.offset) + index(prng.below(span));
        let file = self.files.get_mut(&victim.segment).expect("forgotten with its file");
        file.durable[at] ^= 1 << prng.below(8);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Arena, Checksum, Moment};
    use crate::model::WriteSeq;
    use crate::wal::Geometry;

    const GEOMETRY: Geometry = Geometry {
        segment_bytes: 256 << 10,
        block_bytes_max: 4 << 10,
        in_flight_bytes_max: 8 << 10,
        writes_in_flight_max: 2,
    };

    /// `count` blocks of 4 KiB, filled with their number from 1 on; `lies` is what became of the
    /// first.
    fn written(count: u8, first: Stored) -> Disk {
        let (mut disk, mut arena) = (Disk::new(GEOMETRY), Arena::new(1, 256 << 10));
        disk.prepare(SegmentNo(0), None).expect("new");
        disk.prepared(SegmentNo(0));
        let mut write = WriteSeq::NONE;
        for number in 1..=count {
            let mut buf = arena.take(4096).expect("room");
            buf.fill(number);
            let block = arena.close(buf, 4096);
            let checksum = Checksum::of(&block);
            write = write.next();
            let offset = u64::from(number - 1) * 4096;
            disk.submit(write, SegmentNo(0), offset, (block, checksum)).expect("in order");
            let stored = if number == 1 { first } else { Stored::Well };
            disk.complete(write, stored).expect("unchanged");
        }
        disk
    }

    fn first_byte(disk: &Disk, offset: u64) -> u8 {
        let mut buf = [0; 1];
        assert!(disk.read(SegmentNo(0), offset, &mut buf, &mut Prng::new(1)));
        buf[0]
    }

    #[test]
    fn a_lie_lasts_once_later_writes_vouch_for_it() {
        for (count, after) in [(26, 1), (27, 0)] {
            let mut disk = written(count, Stored::Nowhere);
            assert_eq!(first_byte(&disk, 0), 0, "it was never stored");
            disk.crash(Moment::ZERO, true, &mut Prng::new(1));
            assert_eq!(first_byte(&disk, 0), after, "{count} writes");
        }
    }

    #[test]
    fn a_misdirected_write_lands_where_nothing_is_new() {
        let disk = written(30, Stored::Elsewhere(SegmentNo(0), 60 * 4096));
        assert_eq!((first_byte(&disk, 0), first_byte(&disk, 60 * 4096)), (0, 1));
        let places: Vec<u64> = (0..200)
            .filter_map(|seed| disk.wrong_place(4096, &mut Prng::new(seed)))
            .map(|(_, offset)| offset / 4096)
            .collect();
        assert!(places.iter().all(|at| *at < 4 || 30 <= *at), "{places:?}");
        assert!(places.iter().any(|at| *at < 4), "old blocks are hit too");
    }

    #[test]
    fn rot_spares_what_is_new() {
        assert!(!written(26, Stored::Well).rot(None, &mut Prng::new(1)));
        for seed in 0..20 {
            let mut disk = written(28, Stored::Well);
            assert!(disk.rot(None, &mut Prng::new(seed)));
            for number in 3..=28_u8 {
                let mut block = [0; 4096];
                let offset = u64::from(number - 1) * 4096;
                assert!(disk.read(SegmentNo(0), offset, &mut block, &mut Prng::new(1)));
                assert!(block.iter().all(|byte| *byte == number), "block {number}");
            }
        }
    }
}
