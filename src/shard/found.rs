//! What was read back is looked through for each search and handed over.
//!
//! Apart from `fetch`, which decides what is read: here is what becomes of it. Every batch is verified
//! before it leaves (W-15). Does not: start reads.

use super::Shard;
use super::fetch::{PEERS, line_of};
use super::persist::Staged;
use super::stretch::{Behind, Found, Stretch};
use super::wants::{Purpose, Search};
use crate::model::Refusal;
use crate::model::limits::{
    FETCH_HOPS_MAX, FETCH_RETRY, GATHERED_BYTES_MAX, PAGE_HOPS_MAX, SEARCHES_PER_HOP,
};
use crate::raft::LogBatch;
use crate::wal::{DirectoryEntry, Lsn};

/// What a stretch has for a search.
struct Taken {
    /// Consecutive batches, verified, each with how its block lists it.
    got: Vec<(LogBatch, DirectoryEntry)>,
    /// What follows them does not lie before this.
    place: Lsn,
    /// It lies in this stretch, and there is no room for it.
    is_full: bool,
    /// It lies in this stretch and is not what it should be.
    is_damaged: bool,
}

impl Shard {
    /// Takes what a search wants out of a stretch, and lets it go on behind it if that is not all.
    pub(super) fn look_through(&mut self, stretch: &Stretch, mut search: Search) {
        let taken = self.take_batches(stretch, &mut search);
        self.counters.wal_read_corrupt += u64::from(taken.is_damaged);
        if !taken.got.is_empty() || taken.is_damaged {
            let line = &mut self.fetches.lines[line_of(search.purpose)];
            line.followers.insert(search.slot, (search.next, taken.place));
        }
        let is_done = match search.purpose {
            Purpose::Client(_) => self.gather(&mut search, &taken),
            Purpose::Peer(..) | Purpose::Forward => !taken.got.is_empty(),
        };
        if is_done || taken.is_damaged {
            return self.hand_over(search, taken.got);
        }
        let is_found = !taken.got.is_empty();
        let cursor = self.goes_on(stretch, &search);
        if search.hops < self.hops_max(&search) && (is_found || cursor.is_some()) {
            mark!(W15_FETCH_READS_ON);
            // What follows a batch need not lie behind it (W-14): then the index says where.
            search.cursor = cursor.filter(|_| !is_found);
            search.read_bytes = usize::MAX;
            search.hops += 1;
            return self.line_up(search);
        }
        let followers = &mut self.fetches.lines[line_of(search.purpose)].followers;
        if search.page.is_empty() {
            self.counters.wal_read_corrupt += 1;
            // The next attempt begins where the index says.
            followers.remove(&search.slot);
        } else if !is_found {
            // Looked for up to here in vain: whoever asks for the next page goes on here.
            followers.insert(search.slot, (search.next, stretch.end));
        }
        self.hand_over(search, Vec::new());
    }

    /// Stretches that a search may go through. Who has something for its page goes on for a while
    /// only if many wait: alone it hears at once.
    fn hops_max(&self, search: &Search) -> u32 {
        if search.page.is_empty() {
            return FETCH_HOPS_MAX;
        }
        let waiting = self.fetches.of_clients() / SEARCHES_PER_HOP;
        u32::try_from(waiting).map_or(PAGE_HOPS_MAX, |hops| hops.min(PAGE_HOPS_MAX))
    }

    /// Adds what was found to a client's page. Whether the page is done: it is full, the rest is in
    /// memory, or others' pages take what there is for them. With many groups one stretch has little
    /// for each, and many who ask again after every little would not do so together.
    fn gather(&mut self, search: &mut Search, taken: &Taken) -> bool {
        let before = search.page.len();
        for (batch, _) in &taken.got {
            search.page.extend_from_slice(batch.slice.as_ref().expect("just read"));
        }
        if before == 0 && !search.page.is_empty() {
            search.hops = 0;
        }
        self.fetches.gathered_bytes += search.page.len() - before;
        let raft = &self.slots[search.slot].raft;
        let is_in_memory = raft.span_at(search.next).is_some_and(|batch| batch.slice.is_some());
        !search.page.is_empty()
            && (taken.is_full
                || search.upto < search.next
                || is_in_memory
                || GATHERED_BYTES_MAX < self.fetches.gathered_bytes)
    }

    /// The batches that come next for a search.
    fn take_batches(&self, stretch: &Stretch, search: &mut Search) -> Taken {
        let mut taken =
            Taken { got: Vec::new(), place: stretch.end, is_full: false, is_damaged: false };
        let mut got_bytes = search.page.len();
        for found in stretch.of(self.slots[search.slot].id) {
            let Found { entry, .. } = *found;
            if !self.is_next(&entry, search) {
                continue;
            }
            let slice = stretch.slice(found);
            taken.is_full = got_bytes > 0 && search.bytes_max < got_bytes + slice.len();
            got_bytes += slice.len();
            if taken.is_full || search.upto < search.next {
                taken.place = stretch.block_of(found);
                break;
            }
            if entry.verify(&slice).is_err() && !planted!(W15_READ_NOT_VERIFIED) {
                mark!(W15_READ_CHECKSUM_WRONG);
                taken.place = stretch.block_of(found);
                taken.is_damaged = true;
                break;
            }
            let batch = LogBatch {
                span: entry.span,
                kind: entry.kind,
                bytes: entry.bytes,
                slice: Some(slice),
            };
            taken.got.push((batch, entry));
            search.next = entry.span.last().next();
        }
        taken
    }

    /// Whether this is the batch that the log holds at the index that a search is at.
    fn is_next(&self, entry: &DirectoryEntry, search: &Search) -> bool {
        let raft = &self.slots[search.slot].raft;
        let span = &entry.span;
        let is_whole = match search.purpose {
            // What does not lie in the log as a whole it would not take, and ask again at once.
            Purpose::Peer(..) => {
                raft.first_index() <= span.first && raft.term_at(span.last()) == Some(span.term)
            }
            Purpose::Client(_) | Purpose::Forward => true,
        };
        is_whole && span.contains(search.next) && raft.term_at(search.next) == Some(span.term)
    }

    /// Where a search that found nothing in a stretch goes on; `None` if nowhere.
    fn goes_on(&self, stretch: &Stretch, search: &Search) -> Option<Lsn> {
        if stretch.behind == Behind::More {
            return Some(stretch.end);
        }
        let located = self.store.index.locate(self.slots[search.slot].id, search.next)?;
        let next_segment = self.config.geometry.segment_of(stretch.end).next();
        if stretch.end < located.block {
            Some(located.block)
        } else if self.store.has_segment(next_segment) {
            Some(self.config.geometry.start_of(next_segment))
        } else {
            None
        }
    }

    /// Hands what was found to whoever asked; nothing found is an answer too.
    pub(super) fn hand_over(&mut self, search: Search, got: Vec<(LogBatch, DirectoryEntry)>) {
        let slot = search.slot;
        match search.purpose {
            Purpose::Peer(..) if got.is_empty() => {
                self.fetches.failed.push_back((self.now.after(FETCH_RETRY), search));
            }
            Purpose::Peer(peer, link) => {
                mark!(R08_FETCHED_FOR_PEER);
                let batches = got.into_iter().map(|(batch, _)| batch).collect();
                self.slots[slot].raft.fetched(peer, batches);
                self.slots.touch(slot);
                self.recount(slot, link);
                self.fetches.lines[PEERS + link].handed_at = self.now;
            }
            Purpose::Client(read) if search.page.is_empty() => {
                let group = self.slots[slot].id;
                let first = self.slots[slot].raft.first_index();
                let refusal = if read.read.from < first {
                    // Trimmed while the search was under way.
                    mark!(L15_TRIMMED_UNDER_A_READ);
                    Refusal::Trimmed { next: first }
                } else {
                    Refusal::Unavailable
                };
                self.replies.refuse(group, read.origin, refusal);
            }
            Purpose::Client(read) => {
                mark!(L15_READ_FROM_DISK);
                self.fetches.gathered_bytes -= search.page.len();
                self.answer_page(read, search.next, core::iter::once(&search.page[..]));
            }
            Purpose::Forward => {
                for (batch, entry) in got {
                    let bytes = batch.slice.expect("just read");
                    self.store.stage(Staged::Rewritten { slot, entry, bytes });
                }
            }
        }
    }
}
