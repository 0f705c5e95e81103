//! Reading batches back from the device: for peers that lag, clients that read history, and
//! retention that writes live remainders forward.
//!
//! One loop for all three: find the block, read from it on, take what the group's log still holds.
//! Every batch is verified before it leaves (W-15). Does not: compete with writes for memory
//! beyond its own bound, or know who leads.

use std::collections::{BTreeMap, VecDeque};

use super::Shard;
use super::effects::{Effect, Effects};
use super::input::{IoFault, ReadSeq};
use super::memory;
use super::persist::Staged;
use super::reads::Confirmed;
use crate::base::{Arena, BlockBuf, Slice};
use crate::model::limits::{DEVICE_ALIGN_BYTES, FETCH_BYTES_MIN, FETCH_HOPS_MAX, FETCHES_MAX};
use crate::model::{LogIndex, NodeId, Refusal};
use crate::raft::LogBatch;
use crate::wal::{BlockError, DirectoryEntry, Lsn, parse_block};

/// What the batches are for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Purpose {
    /// A peer that needs what is no longer in memory.
    Peer(NodeId),
    /// A client's read.
    Client(Confirmed),
    /// Retention: the batches are written forward.
    Forward,
}

/// One search for consecutive batches of a group.
struct Fetch {
    slot: usize,
    purpose: Purpose,
    /// The index the next batch must hold.
    next: LogIndex,
    /// The last index wanted.
    upto: LogIndex,
    bytes_max: usize,
    /// How much the next read takes.
    read_bytes: usize,
    /// Where to go on reading, if the block the index named did not hold the batch.
    cursor: Option<Lsn>,
    /// Reads done, so that a damaged index cannot make it go on for ever.
    hops: u32,
    got: Vec<(LogBatch, DirectoryEntry)>,
    got_bytes: usize,
}

/// All of a shard's.
#[derive(Default)]
pub(super) struct Fetches {
    last_read: u64,
    /// For peers and for retention, and for clients: served in turn, so that neither waits behind
    /// all of the other.
    for_log: VecDeque<Fetch>,
    for_clients: VecDeque<Fetch>,
    /// Whose turn is next.
    is_turn_of_clients: bool,
    running: BTreeMap<ReadSeq, (Fetch, Lsn)>,
}

impl Fetches {
    pub(super) fn want_peer(&mut self, slot: usize, peer: NodeId, from: LogIndex, bytes: u64) {
        let upto = LogIndex::new(u64::MAX);
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        self.want(slot, Purpose::Peer(peer), (from, upto), bytes);
    }

    pub(super) fn want_client(&mut self, read: Confirmed, commit: LogIndex) {
        let bytes = read.read.max_bytes as usize;
        self.want(read.slot, Purpose::Client(read), (read.read.from, commit), bytes);
    }

    /// Wants the batches from `from` to `upto` written forward; about `bytes` of them.
    pub(super) fn want_forward(&mut self, slot: usize, range: (LogIndex, LogIndex), bytes: u64) {
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        self.want(slot, Purpose::Forward, range, bytes);
    }

    fn want(&mut self, slot: usize, purpose: Purpose, range: (LogIndex, LogIndex), bytes: usize) {
        let line = match purpose {
            Purpose::Client(_) => &mut self.for_clients,
            Purpose::Peer(_) | Purpose::Forward => &mut self.for_log,
        };
        line.push_back(Fetch {
            slot,
            purpose,
            next: range.0,
            upto: range.1,
            bytes_max: bytes,
            read_bytes: bytes.saturating_add(FETCH_BYTES_MIN),
            cursor: None,
            hops: 0,
            got: Vec::new(),
            got_bytes: 0,
        });
    }

    /// Searches for clients that are not finished, for budgets.
    pub(super) fn of_clients(&self) -> usize {
        self.for_clients.len() + self.running.len()
    }

    /// The next search in line.
    fn take_next(&mut self) -> Option<Fetch> {
        self.is_turn_of_clients = !self.is_turn_of_clients;
        if self.is_turn_of_clients {
            self.for_clients.pop_front().or_else(|| self.for_log.pop_front())
        } else {
            self.for_log.pop_front().or_else(|| self.for_clients.pop_front())
        }
    }

    /// Puts a search back to the head of its line: it cannot go on now, or goes on.
    fn put_back(&mut self, fetch: Fetch) {
        match fetch.purpose {
            Purpose::Client(_) => self.for_clients.push_front(fetch),
            Purpose::Peer(_) | Purpose::Forward => self.for_log.push_front(fetch),
        }
    }

    /// Whether retention has a search under way already.
    pub(super) fn is_forwarding(&self) -> bool {
        let running = self.running.values().map(|(fetch, _)| fetch);
        self.for_log.iter().chain(running).any(|fetch| matches!(fetch.purpose, Purpose::Forward))
    }
}

impl Shard {
    /// Starts device reads for the searches in line, as far as bounds and memory allow.
    pub(super) fn start_fetches(&mut self, arena: &mut Arena, fx: &mut Effects) {
        while self.fetches.running.len() < FETCHES_MAX
            && let Some(mut fetch) = self.fetches.take_next()
        {
            if let Purpose::Peer(peer) = fetch.purpose
                && !self.slots[fetch.slot].raft.is_fetching(peer)
            {
                // Given up meanwhile: its stream broke, or this node leads no more.
                continue;
            }
            let group = self.slots[fetch.slot].id;
            let Some(located) = self.store.index.locate(group, fetch.next) else {
                mark!(W15_FETCH_OF_WHAT_IS_GONE);
                self.end_fetch(fetch);
                continue;
            };
            let lsn = fetch.cursor.map_or(located.block, |cursor| cursor.max(located.block));
            let geometry = self.config.geometry;
            let offset = geometry.offset_of(lsn);
            let left = usize::try_from(geometry.segment_bytes - offset).expect("a segment");
            let bytes = fetch
                .read_bytes
                .min(arena.extent_bytes())
                .next_multiple_of(DEVICE_ALIGN_BYTES)
                .min(left);
            let Some(buf) = memory::take_for_read_back(arena, bytes) else {
                mark!(F03_FETCH_WAITS_FOR_MEMORY);
                self.fetches.put_back(fetch);
                return;
            };
            self.fetches.last_read += 1;
            let read = ReadSeq(self.fetches.last_read);
            fetch.hops += 1;
            self.counters.wal_reads += 1;
            self.counters.wal_read_bytes += bytes as u64;
            self.fetches.running.insert(read, (fetch, lsn));
            let segment = geometry.segment_of(lsn);
            fx.push(Effect::Read { read, segment, offset, buf });
        }
    }

    pub(super) fn on_read_done(
        &mut self,
        read: ReadSeq,
        buf: BlockBuf,
        result: Result<(), IoFault>,
    ) {
        let (mut fetch, lsn) =
            self.fetches.running.remove(&read).expect("the world answers each read once");
        if result.is_err() {
            // As good as a failed checksum (I-09); the node stays up, the asker hears of it.
            mark!(I09_READ_FAILED);
            self.counters.wal_read_corrupt += 1;
            return self.end_fetch(fetch);
        }
        let bytes = buf.len();
        let slice = buf.freeze(bytes);
        match self.take_batches(&mut fetch, &slice, lsn) {
            Scan::Enough => self.end_fetch(fetch),
            Scan::GoOn(cursor) if fetch.got.is_empty() && fetch.hops < FETCH_HOPS_MAX => {
                mark!(W15_FETCH_READS_ON);
                fetch.cursor = Some(cursor);
                fetch.read_bytes = usize::MAX;
                self.fetches.put_back(fetch);
            }
            Scan::GoOn(_) => self.end_fetch(fetch),
            Scan::Corrupt => {
                self.counters.wal_read_corrupt += 1;
                self.end_fetch(fetch);
            }
        }
    }

    /// Walks the blocks in `bytes`, which starts at `lsn`, and takes the batches that come next.
    fn take_batches(&self, fetch: &mut Fetch, bytes: &Slice, lsn: Lsn) -> Scan {
        let slot = &self.slots[fetch.slot];
        let mut at = 0;
        while at < bytes.len() {
            let here = lsn.plus(at as u64);
            let block = match parse_block(&bytes[at..], here, &self.store.identity) {
                Ok(block) => block,
                Err(BlockError::Short { .. }) => return Scan::GoOn(here),
                // The rest of a segment that the next block did not fit into, or damage: the
                // index knows what comes next, if anything does.
                Err(_) => return self.beyond(fetch, here),
            };
            for entry in block.entries() {
                let is_next = entry.group == slot.id
                    && entry.span.contains(fetch.next)
                    && slot.raft.term_at(fetch.next) == Some(entry.span.term);
                if !is_next {
                    continue;
                }
                if block.batch(&entry).is_err() && !planted!(W15_READ_NOT_VERIFIED) {
                    mark!(W15_READ_CHECKSUM_WRONG);
                    return Scan::Corrupt;
                }
                let start = at + entry.offset as usize;
                let slice = bytes.slice(start..start + entry.bytes as usize);
                fetch.got_bytes += slice.len();
                if !fetch.got.is_empty() && fetch.got_bytes > fetch.bytes_max {
                    return Scan::Enough;
                }
                let batch = LogBatch {
                    span: entry.span,
                    kind: entry.kind,
                    bytes: entry.bytes,
                    slice: Some(slice),
                };
                fetch.got.push((batch, entry));
                fetch.next = entry.span.last().next();
                if fetch.next > fetch.upto || fetch.got_bytes >= fetch.bytes_max {
                    return Scan::Enough;
                }
            }
            at += block.header().total_bytes as usize;
        }
        Scan::GoOn(lsn.plus(at as u64))
    }

    /// Where the search goes on when there is no block at `here`.
    fn beyond(&self, fetch: &Fetch, here: Lsn) -> Scan {
        let located = self.store.index.locate(self.slots[fetch.slot].id, fetch.next);
        let next_segment = self.config.geometry.segment_of(here).next();
        match located {
            Some(located) if located.block > here => Scan::GoOn(located.block),
            Some(_) if fetch.got.is_empty() && self.store.has_segment(next_segment) => {
                Scan::GoOn(self.config.geometry.start_of(next_segment))
            }
            Some(_) if fetch.got.is_empty() => Scan::Corrupt,
            Some(_) | None => Scan::Enough,
        }
    }

    /// Hands what was found to whoever asked; nothing found is an answer too.
    fn end_fetch(&mut self, fetch: Fetch) {
        let Fetch { slot, purpose, got, .. } = fetch;
        match purpose {
            Purpose::Peer(peer) => {
                mark!(R08_FETCHED_FOR_PEER if !got.is_empty());
                let batches = got.into_iter().map(|(batch, _)| batch).collect();
                self.slots[slot].raft.fetched(peer, batches);
                self.slots.touch(slot);
            }
            Purpose::Client(read) if got.is_empty() => {
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
                let batches = got.into_iter().map(|(batch, _)| batch).collect();
                self.answer_read(read, batches);
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

/// What a scan of one read came to.
enum Scan {
    /// Everything wanted is there.
    Enough,
    /// Nothing more in these bytes; the search goes on here.
    GoOn(Lsn),
    /// A batch that must be there is not readable.
    Corrupt,
}
