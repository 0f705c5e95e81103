//! Reading batches back from the device: for peers that lag, clients that read history, and
//! retention that writes live remainders forward.
//!
//! A block holds batches of many groups, and so does a read. So it is not groups that read: lines of
//! searches do (`wants`), a stretch of the log at a time (`stretch`), and everyone in line who needs
//! something in it gets his part. What a peer gets points into what was read, so each peer has reads
//! of its own, and as many extents at most as `READ_BACK_EXTENTS_PER_PEER_MAX` says; clients get
//! copies and are served from whatever was read for anyone. What becomes of a read is in `found`.
//! Does not: compete with writes for memory beyond its own bound, or know who leads.

use core::mem;
use std::collections::{BTreeMap, VecDeque};

use super::Shard;
use super::effects::{Effect, Effects};
use super::input::{IoFault, ReadSeq};
use super::memory;
use super::reads::Confirmed;
use super::stretch::Stretch;
use super::wants::{Line, Purpose, Search};
use crate::base::{Arena, BlockBuf, Moment};
use crate::model::LogIndex;
use crate::model::limits::{
    DEVICE_ALIGN_BYTES, FETCH_BYTES_MIN, FETCHES_MAX, READ_BYTES_PER_TURN_MAX, UNSENT_PATIENCE,
};
use crate::wal::Lsn;

/// The line of the clients.
const CLIENTS: usize = 0;
/// The line of retention.
const FORWARD: usize = 1;
/// The lines of the peers begin here, in the order of the links. A line's number is also that of
/// the owner of what is read for it ([`Arena::take_apart`]).
pub(super) const PEERS: usize = 2;

/// A read that the device has.
struct Running {
    line: usize,
    start: Lsn,
    end: Lsn,
}

/// All of a shard's.
pub(super) struct Fetches {
    last_read: u64,
    last_key: u64,
    pub(super) lines: Vec<Line>,
    /// Whose turn is next, so that no line waits behind all of another.
    turn: usize,
    running: BTreeMap<ReadSeq, Running>,
    /// Bytes of pages for clients that are not whole yet.
    pub(super) gathered_bytes: usize,
    /// Peers' groups for which nothing was found, and when they are told: they ask again at once.
    pub(super) failed: VecDeque<(Moment, Search)>,
}

/// What became of the attempt to read something for a line.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Start {
    Begun,
    /// Nobody waits, or not for this.
    Nothing,
    NoMemory,
}

impl Fetches {
    /// For a shard with so many links.
    pub(super) fn new(links: usize) -> Self {
        Self {
            last_read: 0,
            last_key: 0,
            lines: (0..PEERS + links).map(|_| Line::default()).collect(),
            turn: CLIENTS,
            running: BTreeMap::new(),
            gathered_bytes: 0,
            failed: VecDeque::new(),
        }
    }

    /// Searches for clients that are not finished, for budgets.
    pub(super) fn of_clients(&self) -> usize {
        self.lines[CLIENTS].len()
    }

    /// Whether retention has a search under way already.
    pub(super) fn is_forwarding(&self) -> bool {
        !self.lines[FORWARD].is_empty()
    }

    /// Whether groups wait until the peer of a link lets go of what was read back for it.
    pub(super) fn wait_for_peer(&self, link: usize) -> bool {
        self.lines[PEERS + link].is_full
    }

    /// Lets go of what is only kept in case that somebody asks.
    pub(super) fn let_go(&mut self) {
        self.lines.iter_mut().for_each(|line| line.stretches.clear());
    }

    /// A search's name in its line: a peer's group waits for one thing at a time.
    fn key(&mut self, search: &Search) -> u64 {
        match search.purpose {
            Purpose::Peer(..) => search.slot as u64,
            Purpose::Client(_) | Purpose::Forward => {
                self.last_key += 1;
                self.last_key
            }
        }
    }

    /// What `lsn` lies in that is being read, or was read and has not served all yet: where that
    /// ends.
    fn end_of_cover(&self, lsn: Lsn) -> Option<Lsn> {
        let running = self.running.values().map(|running| (running.start, running.end));
        let stretches = self.lines.iter().flat_map(|line| &line.stretches);
        let mut covers = running.chain(stretches.map(|stretch| (stretch.start, stretch.end)));
        covers.find(|(start, end)| *start <= lsn && lsn < *end).map(|(_, end)| end)
    }

    /// The client's search to read for next: the sweep goes up the log and begins again below, so
    /// that nobody waits for longer than one passage. Not one that a read under way will serve.
    fn next_of_clients(&self) -> Option<(Lsn, u64)> {
        let line = &self.lines[CLIENTS];
        let uncovered = |mut from: Lsn| {
            loop {
                let (place, key) = line.first_from(from)?;
                match self.end_of_cover(place) {
                    Some(end) => from = end,
                    None => return Some((place, key)),
                }
            }
        };
        uncovered(line.swept).or_else(|| uncovered(Lsn::ZERO))
    }

    /// The search of a line to read for next. Of a peer's groups the one that is behind all others:
    /// the others wait for it, and from there on one read serves them all.
    fn next_of(&self, line: usize) -> Option<(Lsn, u64)> {
        if line == CLIENTS {
            self.next_of_clients()
        } else if self.running.values().any(|running| running.line == line) {
            None
        } else {
            self.lines[line].first_from(Lsn::ZERO)
        }
    }
}

impl Shard {
    /// Wants the batches from `from` on for the peer of a link. They may be there when this
    /// returns, if they were read for another group a moment ago.
    pub(super) fn want_for_peer(&mut self, slot: usize, link: usize, from: LogIndex) {
        let search = Search {
            slot,
            purpose: Purpose::Peer(self.links.at(link).peer, link),
            next: from,
            upto: LogIndex::new(u64::MAX),
            bytes_max: usize::MAX,
            read_bytes: usize::MAX,
            cursor: None,
            hops: 0,
            page: Vec::new(),
        };
        let line = PEERS + link;
        let place = self.place_of(&search);
        let stretches = mem::take(&mut self.fetches.lines[line].stretches);
        match stretches.iter().find(|kept| place.is_some_and(|place| kept.covers(place))) {
            Some(stretch) => {
                mark!(W15_STRETCH_SERVES_LATER);
                self.fetches.lines[line].remove(slot as u64);
                self.look_through(stretch, search);
            }
            None => self.line_up(search),
        }
        self.fetches.lines[line].stretches = stretches;
    }

    /// Wants what a client may read up to `commit`.
    pub(super) fn want_for_client(&mut self, read: Confirmed, commit: LogIndex) {
        let bytes = self.read_bytes_max(&read.read);
        let range = (read.read.from, commit);
        self.line_up(search_of(read.slot, Purpose::Client(read), range, bytes));
    }

    /// Wants the batches of `range` written forward; about `bytes` of them.
    pub(super) fn want_forward(&mut self, slot: usize, range: (LogIndex, LogIndex), bytes: u64) {
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        self.line_up(search_of(slot, Purpose::Forward, range, bytes));
    }

    /// Where a search goes on; `None` if what it wants is not in the log any more.
    fn place_of(&self, search: &Search) -> Option<Lsn> {
        let located = self.store.index.locate(self.slots[search.slot].id, search.next)?;
        let line = &self.fetches.lines[line_of(search.purpose)];
        // The index knows old places to a MiB only. Whoever reads on knows better, as long as the
        // batch before lies where it lay.
        let follows = line.followers.get(&search.slot).filter(|(next, place)| {
            *next == search.next
                && located.since < *next
                && self.config.geometry.segment_of(*place) == located.segment
        });
        let known = [search.cursor, follows.map(|(_, place)| *place)];
        known.into_iter().flatten().chain([located.block]).max()
    }

    /// Puts a search in line where it goes on.
    pub(super) fn line_up(&mut self, search: Search) {
        let Some(place) = self.place_of(&search) else {
            mark!(W15_FETCH_OF_WHAT_IS_GONE);
            return self.hand_over(search, Vec::new());
        };
        let key = self.fetches.key(&search);
        self.fetches.lines[line_of(search.purpose)].insert(key, place, search);
    }

    /// Whether somebody still waits for what a search finds.
    fn is_wanted(&self, search: &Search) -> bool {
        match search.purpose {
            // Given up if not: its stream broke, or this node leads no more.
            Purpose::Peer(peer, _) => self.slots[search.slot].raft.is_fetching(peer),
            Purpose::Client(_) | Purpose::Forward => true,
        }
    }

    /// Starts device reads for the searches in line, as far as bounds and memory allow.
    pub(super) fn start_fetches(&mut self, arena: &mut Arena, fx: &mut Effects) {
        self.tell_failed();
        self.serve_clients();
        let (lines, mut idle) = (self.fetches.lines.len(), 0);
        while self.fetches.running.len() < FETCHES_MAX && idle < lines {
            let line = self.fetches.turn;
            self.fetches.turn = (line + 1) % lines;
            match self.start_fetch(line, arena, fx) {
                Start::Begun => idle = 0,
                Start::Nothing => idle += 1,
                Start::NoMemory => {
                    mark!(F03_FETCH_WAITS_FOR_MEMORY);
                    return;
                }
            }
        }
    }

    /// Starts one device read for a line.
    fn start_fetch(&mut self, line: usize, arena: &mut Arena, fx: &mut Effects) -> Start {
        self.fetches.lines[line].is_full = false;
        if self.is_unsent(line) {
            return Start::Nothing;
        }
        let Some((start, key)) = self.next_wanted(line) else { return Start::Nothing };
        let end = self.end_of_read(line, start, key, arena.extent_bytes());
        if line >= PEERS {
            let extents = self.links.at(line - PEERS).extents_max(arena.extent_bytes());
            let line_state = &mut self.fetches.lines[line];
            line_state.stretches.clear();
            line_state.is_full = extents <= arena.lent_apart(line);
            if line_state.is_full {
                mark!(F03_FETCH_FOR_PEER_WAITS);
                return Start::Nothing;
            }
        }
        let bytes = usize::try_from(end.bytes_since(start)).expect("at most an extent");
        let buf = memory::take_for_read_back(arena, bytes, line).or_else(|| {
            self.fetches.let_go();
            memory::take_for_read_back(arena, bytes, line)
        });
        let Some(buf) = buf else { return Start::NoMemory };
        self.fetches.last_read += 1;
        let read = ReadSeq(self.fetches.last_read);
        self.fetches.running.insert(read, Running { line, start, end });
        self.fetches.lines[line].swept = end;
        self.counters.wal_reads += 1;
        self.counters.wal_read_bytes += bytes as u64;
        let geometry = self.config.geometry;
        let (segment, offset) = (geometry.segment_of(start), geometry.offset_of(start));
        fx.push(Effect::Read { read, segment, offset, buf });
        Start::Begun
    }

    /// Whether a peer has not been sent what was read for it last: its groups ask for more together
    /// when it has, and one read serves them. A group whose window is full holds the others up for
    /// a moment only.
    fn is_unsent(&mut self, line: usize) -> bool {
        let waits_until = self.fetches.lines[line].handed_at.after(UNSENT_PATIENCE);
        line >= PEERS && self.links.at(line - PEERS).unsent() > 0 && self.now < waits_until
    }

    /// The next search of a line, after those that have ended or moved were seen to, and where it
    /// goes on.
    fn next_wanted(&mut self, line: usize) -> Option<(Lsn, u64)> {
        loop {
            let (place, key) = self.fetches.next_of(line)?;
            let search = self.fetches.lines[line].remove(key).expect("found just now");
            if !self.is_wanted(&search) {
                continue;
            }
            let geometry = self.config.geometry;
            match self.place_of(&search) {
                None => {
                    mark!(W15_FETCH_OF_WHAT_IS_GONE);
                    self.hand_over(search, Vec::new());
                }
                // Read on behind everything that was ever written: the index is wrong.
                Some(place)
                    if self.store.planner.next_lsn() <= place
                        || !self.store.has_segment(geometry.segment_of(place)) =>
                {
                    self.counters.wal_read_corrupt += 1;
                    self.hand_over(search, Vec::new());
                }
                Some(now) => {
                    self.fetches.lines[line].insert(key, now, search);
                    if now == place {
                        return Some((place, key));
                    }
                }
            }
        }
    }

    /// Where the read ends that begins at `start` for the search `key`: where others that wait can
    /// use it, but not behind an extent, a segment, or what was written.
    fn end_of_read(&self, line: usize, start: Lsn, key: u64, extent_bytes: usize) -> Lsn {
        let geometry = self.config.geometry;
        let left = geometry.segment_bytes - geometry.offset_of(start);
        let written = self.store.planner.next_lsn().bytes_since(start);
        let most = left.min(extent_bytes as u64).min(written);
        let line = &self.fetches.lines[line];
        let own = start.plus((line.read_bytes(key) as u64).min(most));
        let wanted = line.useful_end(start, start.plus(most)).max(own).bytes_since(start);
        start.plus(wanted.next_multiple_of(DEVICE_ALIGN_BYTES as u64).min(left))
    }

    pub(super) fn on_read_done(
        &mut self,
        read: ReadSeq,
        buf: BlockBuf,
        result: Result<(), IoFault>,
    ) {
        let running = self.fetches.running.remove(&read);
        let Running { line, start, .. } = running.expect("the world answers each read once");
        if result.is_err() {
            // As good as a failed checksum (I-09); the node stays up, the asker hears of it. Others
            // that only would have been served too get reads of their own.
            mark!(I09_READ_FAILED);
            self.counters.wal_read_corrupt += 1;
            for key in self.fetches.lines[line].all_within(start, start.plus(1)) {
                let search = self.fetches.lines[line].remove(key).expect("found just now");
                self.hand_over(search, Vec::new());
            }
            return;
        }
        let bytes = buf.len();
        let stretch = Stretch::new(start, buf.freeze(bytes), &self.store.identity);
        if line == CLIENTS && start < stretch.end {
            // They have their turn later in this one, a few at a time.
            self.fetches.lines[line].keep(stretch, FETCHES_MAX);
            return;
        }
        // Without a single block it concerns those who go on right here.
        let keys = self.fetches.lines[line].all_within(start, stretch.end.max(start.plus(1)));
        mark!(W15_ONE_READ_SERVES_MANY if keys.len() > 1);
        for key in keys {
            self.look_for(line, key, &stretch);
        }
        if start < stretch.end {
            self.fetches.lines[line].keep(stretch, 1);
        }
    }

    /// Gives clients what was read for anyone, as much as fits into a turn.
    fn serve_clients(&mut self) {
        for line in 0..self.fetches.lines.len() {
            let stretches = mem::take(&mut self.fetches.lines[line].stretches);
            // In order of place: who finds nothing in one goes on in the next.
            for stretch in &stretches {
                while self.reads.bytes_this_turn() < READ_BYTES_PER_TURN_MAX
                    && let Some(key) =
                        self.fetches.lines[CLIENTS].first_within(stretch.start, stretch.end)
                {
                    self.look_for(CLIENTS, key, stretch);
                }
            }
            self.fetches.lines[line].stretches = stretches;
        }
    }

    /// Looks for what one in line wants, if it is still wanted and may be there.
    fn look_for(&mut self, line: usize, key: u64, stretch: &Stretch) {
        let search = self.fetches.lines[line].remove(key).expect("found just now");
        if !self.is_wanted(&search) {
            return;
        }
        match self.place_of(&search) {
            // Moved or gone meanwhile.
            Some(place) if stretch.covers(place) || place == stretch.start => {
                self.look_through(stretch, search);
            }
            Some(_) | None => self.line_up(search),
        }
    }

    /// Tells groups that nothing was found for a peer. Told at once they would ask at once, and
    /// one damaged batch would keep the device busy.
    fn tell_failed(&mut self) {
        while self.fetches.failed.front().is_some_and(|(due, _)| *due <= self.now) {
            let (_, search) = self.fetches.failed.pop_front().expect("looked at it just now");
            let Purpose::Peer(peer, link) = search.purpose else { unreachable!("only peers wait") };
            if !self.fetches.lines[PEERS + link].holds(search.slot as u64) {
                self.slots[search.slot].raft.fetched(peer, Vec::new());
                self.slots.touch(search.slot);
            }
        }
    }
}

/// The line that a search stands in.
pub(super) fn line_of(purpose: Purpose) -> usize {
    match purpose {
        Purpose::Client(_) => CLIENTS,
        Purpose::Forward => FORWARD,
        Purpose::Peer(_, link) => PEERS + link,
    }
}

fn search_of(
    slot: usize,
    purpose: Purpose,
    range: (LogIndex, LogIndex),
    bytes_max: usize,
) -> Search {
    let read_bytes = bytes_max.saturating_add(FETCH_BYTES_MIN);
    let (next, upto) = range;
    Search {
        slot,
        purpose,
        next,
        upto,
        bytes_max,
        read_bytes,
        cursor: None,
        hops: 0,
        page: Vec::new(),
    }
}
