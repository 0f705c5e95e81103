//! Who waits for what of the log: searches in lines, by place.
//!
//! A line is what is served in turn: the clients, retention, each peer. Within a line searches are
//! kept by the place in the log where each goes on, so that a read finds all that it concerns.
//! Does not: read, or know the index.

use std::collections::{BTreeMap, BTreeSet};

use super::reads::Confirmed;
use super::stretch::Stretch;
use crate::base::Moment;
use crate::model::{LogIndex, NodeId};
use crate::wal::Lsn;

/// What the batches are for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Purpose {
    /// A peer that needs what is no longer in memory; its link.
    Peer(NodeId, usize),
    /// A client's read.
    Client(Confirmed),
    /// Retention: the batches are written forward.
    Forward,
}

/// One search for consecutive batches of a group.
#[derive(Clone, Debug)]
pub(super) struct Search {
    pub(super) slot: usize,
    pub(super) purpose: Purpose,
    /// The index the next batch must hold.
    pub(super) next: LogIndex,
    /// The last index wanted.
    pub(super) upto: LogIndex,
    /// The first batch is handed over whatever its size, others as long as they fit.
    pub(super) bytes_max: usize,
    /// How much a read takes that is for this search alone.
    pub(super) read_bytes: usize,
    /// Where to go on reading, if the block the index named did not hold the batch.
    pub(super) cursor: Option<Lsn>,
    /// Stretches looked through, from the first on that had something for a client's page: so that a
    /// damaged index cannot make it go on for ever, and a page comes soon.
    pub(super) hops: u32,
    /// Batches for a client that were found so far: copies.
    pub(super) page: Vec<u8>,
}

/// Searches that are served in turn with those of other lines.
#[derive(Default)]
pub(super) struct Line {
    searches: BTreeMap<u64, (Lsn, Search)>,
    by_place: BTreeSet<(Lsn, u64)>,
    /// What was read for it last, in order of place: who asks a moment later finds it here. Each
    /// holds an extent, so they go when memory is short.
    pub(super) stretches: Vec<Stretch>,
    /// Where the last read ended.
    pub(super) swept: Lsn,
    /// When batches were last handed over.
    pub(super) handed_at: Moment,
    /// By slot: the index that followed what was found last, and where to look for it.
    pub(super) followers: BTreeMap<usize, (LogIndex, Lsn)>,
    /// A peer's: nothing can be read for it until it lets go of something.
    pub(super) is_full: bool,
}

impl Line {
    /// Puts a search in line, in the stead of an older one with the same key.
    pub(super) fn insert(&mut self, key: u64, place: Lsn, search: Search) {
        if let Some((old, _)) = self.searches.insert(key, (place, search)) {
            self.by_place.remove(&(old, key));
        }
        self.by_place.insert((place, key));
    }

    /// Takes a search out of line.
    pub(super) fn remove(&mut self, key: u64) -> Option<Search> {
        let (place, search) = self.searches.remove(&key)?;
        self.by_place.remove(&(place, key));
        Some(search)
    }

    /// Keeps a stretch, and at most `most` of them.
    pub(super) fn keep(&mut self, stretch: Stretch, most: usize) {
        let at = self.stretches.partition_point(|kept| kept.start < stretch.start);
        self.stretches.insert(at, stretch);
        let rest = self.stretches.len().saturating_sub(most);
        self.stretches.drain(..rest);
    }

    pub(super) fn holds(&self, key: u64) -> bool {
        self.searches.contains_key(&key)
    }

    pub(super) fn len(&self) -> usize {
        self.searches.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.searches.is_empty()
    }

    /// The first search that goes on at `from` or behind it.
    pub(super) fn first_from(&self, from: Lsn) -> Option<(Lsn, u64)> {
        self.by_place.range((from, 0)..).next().copied()
    }

    /// A search that goes on in `from..to`.
    pub(super) fn first_within(&self, from: Lsn, to: Lsn) -> Option<u64> {
        self.first_from(from).filter(|(place, _)| *place < to).map(|(_, key)| key)
    }

    /// All that go on in `from..to`, in order of place.
    pub(super) fn all_within(&self, from: Lsn, to: Lsn) -> Vec<u64> {
        self.by_place.range((from, 0)..(to, 0)).map(|(_, key)| *key).collect()
    }

    /// How much a read for one search alone takes.
    pub(super) fn read_bytes(&self, key: u64) -> usize {
        self.searches[&key].1.read_bytes
    }

    /// Where a read that begins at `from` and may go up to `most` ends to be of use to all that
    /// wait in that range.
    pub(super) fn useful_end(&self, from: Lsn, most: Lsn) -> Lsn {
        let last = self.by_place.range((from, 0)..(most, 0)).next_back();
        let Some((place, key)) = last else { return from };
        let bytes = self.searches[key].1.read_bytes as u64;
        if most.bytes_since(*place) <= bytes { most } else { place.plus(bytes) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn search(read_bytes: usize) -> Search {
        Search {
            slot: 0,
            purpose: Purpose::Forward,
            next: LogIndex::new(1),
            upto: LogIndex::new(1),
            bytes_max: 0,
            read_bytes,
            cursor: None,
            hops: 0,
            page: Vec::new(),
        }
    }

    #[test]
    fn a_search_is_found_by_its_place_and_stands_in_line_once() {
        let lsn = Lsn::new;
        let mut line = Line::default();
        line.insert(7, lsn(4096), search(0));
        line.insert(8, lsn(8192), search(0));
        line.insert(7, lsn(12288), search(0));
        assert_eq!(line.all_within(lsn(0), lsn(1 << 20)), [8, 7]);
        assert_eq!(line.first_from(lsn(8193)), Some((lsn(12288), 7)));
        assert_eq!(line.first_within(lsn(8193), lsn(12288)), None);
        assert!(line.remove(8).is_some() && line.remove(8).is_none());
        assert_eq!((line.len(), line.holds(7), line.holds(8)), (1, true, false));
    }

    #[test]
    fn a_read_goes_as_far_as_somebody_wants_it() {
        let lsn = Lsn::new;
        let mut line = Line::default();
        line.insert(1, lsn(0), search(10_000));
        assert_eq!(line.useful_end(lsn(0), lsn(100_000)), lsn(10_000));
        line.insert(2, lsn(50_000), search(10_000));
        assert_eq!(line.useful_end(lsn(0), lsn(100_000)), lsn(60_000));
        line.insert(3, lsn(95_000), search(usize::MAX));
        assert_eq!(line.useful_end(lsn(0), lsn(100_000)), lsn(100_000));
    }
}
