//! The linearizability checker: the search of Wing and Gong with Lowe's refinements, over one log.
//!
//! Pure, and apart from how histories are recorded (`history`), so that it can be held against
//! brute force. Linearizability is local: each log is checked by itself. The object is an
//! append-only log in which entries that no client asked for (a leader's first) may appear at any
//! time between the clients' own. Does not: know the cluster, or who was right.
//!
//! Two things keep it fast. An index tells the order: the log only grows, so a step that passes an
//! operation by has lost it, and the search turns back at once instead of at the end. And the same
//! order cuts a long history into windows, each searched for itself, once it is certain that no
//! operation of a later one ended before one of an earlier one began.

use core::fmt;
use std::collections::{BTreeMap, BTreeSet};

use crate::base::Prng;

/// What stands at an index that no client's record is at.
pub(super) const NO_RECORD: u64 = 0;
/// What stands at an index that nobody has read.
pub(super) const UNSEEN: u64 = u64::MAX;
/// Operations of one window.
pub(super) const WINDOW_OPS: usize = 5000;

/// One operation, as its client saw it. Times are numbers of events: no two are equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Op {
    /// When it was sent.
    pub(super) invoked: u64,
    /// When it was answered. `None`: the outcome is unknown, and it may happen at any later time
    /// or never.
    pub(super) returned: Option<u64>,
    /// What it did.
    pub(super) does: Does,
}

/// What an operation did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Does {
    /// Puts the records `first`, `first + 1`, ... at the end, at `index` if that was told.
    Append { first: u64, count: u64, index: Option<u64> },
    /// Shows what lies in `from..next` of a log that ends with `commit`.
    Read { from: u64, next: u64, commit: u64 },
}

/// Why a history is none of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Violation {
    /// The operation that found no place.
    pub(super) op: Op,
    /// How far the log had come where the search got stuck for good.
    pub(super) length: u64,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} fits nowhere; the log could grow to {}", self.op, self.length)
    }
}

/// Whether `ops` could have happened one after the other, each between its sending and its answer.
/// `seen` is what reads showed at each index, from 1 on; the caller knows that no two disagree.
pub(super) fn check(ops: &[Op], seen: &[u64]) -> Result<(), Violation> {
    let mut placed = place(ops, seen);
    placed.sort_by_key(Placed::rank);
    if let Some((earlier, later)) = backwards(&placed, WINDOW_OPS) {
        return Err(Violation { op: later.op, length: earlier.end });
    }
    let mut log = Log::default();
    for window in placed.chunks(WINDOW_OPS) {
        Search::new(window).run(&mut log, seen)?;
    }
    Ok(())
}

/// An operation that took effect, and where.
#[derive(Clone, Copy, Debug)]
struct Placed {
    op: Op,
    /// The first index of an append.
    start: u64,
    /// The last index of the log right after it.
    end: u64,
}

impl Placed {
    /// In this order the operations must have happened; reads of one length in any.
    fn rank(&self) -> (u64, bool) {
        (self.end, matches!(self.op.does, Does::Read { .. }))
    }

    fn returned(&self) -> u64 {
        self.op.returned.unwrap_or(u64::MAX)
    }
}

/// Finds the index of every append. One of unknown outcome is where a read shows it; one that no
/// read shows may as well never have happened.
fn place(ops: &[Op], seen: &[u64]) -> Vec<Placed> {
    let mut unknown = BTreeMap::new();
    for (at, op) in ops.iter().enumerate() {
        if let Does::Append { first, count, index: None } = op.does {
            unknown.insert(first, (first + count, at));
        }
    }
    let mut found = vec![None; ops.len()];
    for (index, token) in (1_u64..).zip(seen.iter().copied()) {
        if token == NO_RECORD || token == UNSEEN || unknown.is_empty() {
            continue;
        }
        if let Some((first, (end, at))) = unknown.range(..=token).next_back()
            && token < *end
        {
            found[*at] = found[*at].or(index.checked_sub(token - first));
        }
    }
    let placed = ops.iter().zip(found).filter_map(|(op, found)| match op.does {
        Does::Append { count, index, .. } => {
            let start = index.or(found)?;
            Some(Placed { op: *op, start, end: start + count - 1 })
        }
        Does::Read { commit, .. } => Some(Placed { op: *op, start: commit, end: commit }),
    });
    placed.collect()
}

/// Two operations of different windows whose order is not the one of their clocks.
fn backwards(placed: &[Placed], window: usize) -> Option<(Placed, Placed)> {
    let mut first_to_return: Option<Placed> = None;
    for chunk in placed.chunks(window).rev() {
        if let Some(later) = first_to_return
            && let Some(earlier) = chunk.iter().find(|one| later.returned() < one.op.invoked)
        {
            return Some((*earlier, later));
        }
        let soonest = chunk.iter().chain(&first_to_return).min_by_key(|one| one.returned());
        first_to_return = soonest.copied();
    }
    None
}

/// The object: what stands at each index, from 1 on.
#[derive(Default)]
struct Log {
    content: Vec<u64>,
}

impl Log {
    fn length(&self) -> u64 {
        self.content.len() as u64
    }

    /// Lets an operation happen, if it may now.
    fn take(&mut self, placed: &Placed, seen: &[u64]) -> bool {
        match placed.op.does {
            Does::Append { first, count, .. } => {
                if placed.start <= self.length() {
                    return false;
                }
                self.content.resize(at(placed.start), NO_RECORD);
                self.content.extend(first..first + count);
                true
            }
            Does::Read { from, next, commit } => {
                if commit < self.length() || (from < next && commit.saturating_add(1) < next) {
                    return false;
                }
                // What nobody has appended up to there is nobody's record.
                let known = self.content.len();
                self.content.resize(at(commit + 1), NO_RECORD);
                let fits =
                    next <= from || self.content[at(from)..at(next)] == seen[at(from)..at(next)];
                if !fits {
                    self.content.truncate(known);
                }
                fits
            }
        }
    }

    fn back_to(&mut self, length: u64) {
        self.content.truncate(at(length + 1));
    }
}

/// Where an index stands in a list that begins with index 1.
fn at(index: u64) -> usize {
    usize::try_from(index.checked_sub(1).expect("indexes begin with 1")).expect("short logs")
}

/// One end of an operation, in a list by time.
#[derive(Clone, Copy)]
struct Event {
    op: usize,
    is_call: bool,
    before: usize,
    after: usize,
}

/// The search through one window.
struct Search<'a> {
    ops: &'a [Placed],
    /// A ring in order of time; the last one is its head and no event.
    events: Vec<Event>,
    /// By operation: its two events; the second is missing if it was never answered.
    ends: Vec<(usize, Option<usize>)>,
    /// By rank: whether it has happened. `first_open` is the first that has not.
    taken: Vec<bool>,
    first_open: usize,
    /// Sets of operations that were tried, as sums of random numbers.
    tried: BTreeSet<u128>,
    marks: Vec<u128>,
}

impl<'a> Search<'a> {
    fn new(ops: &'a [Placed]) -> Self {
        let mut times: Vec<(u64, usize, bool)> = Vec::with_capacity(2 * ops.len());
        for (op, placed) in ops.iter().enumerate() {
            times.push((placed.op.invoked, op, true));
            times.extend(placed.op.returned.map(|returned| (returned, op, false)));
        }
        times.sort_unstable();
        let head = times.len();
        let mut ends = vec![(head, None); ops.len()];
        let mut events = Vec::with_capacity(head + 1);
        for (place, (_, op, is_call)) in times.into_iter().enumerate() {
            if is_call {
                ends[op].0 = place;
            } else {
                ends[op].1 = Some(place);
            }
            let before = place.checked_sub(1).unwrap_or(head);
            events.push(Event { op, is_call, before, after: place + 1 });
        }
        let last = head.checked_sub(1).unwrap_or(head);
        events.push(Event { op: usize::MAX, is_call: false, before: last, after: 0 });
        let mut prng = Prng::new(1);
        let marks =
            ops.iter().map(|_| u128::from(prng.next_u64()) << 64 | u128::from(prng.next_u64()));
        Self {
            marks: marks.collect(),
            ops,
            events,
            ends,
            taken: vec![false; ops.len()],
            first_open: 0,
            tried: BTreeSet::new(),
        }
    }

    fn run(&mut self, log: &mut Log, seen: &[u64]) -> Result<(), Violation> {
        let head = self.events.len() - 1;
        let mut path: Vec<(usize, u64)> = Vec::new();
        let mut set = 0_u128;
        let mut place = self.events[head].after;
        let mut stuck: Option<(u64, usize)> = None;
        while self.first_open < self.ops.len() {
            let event = self.events[place];
            if place != head && event.is_call {
                let length = log.length();
                if self.is_next(event.op) && log.take(&self.ops[event.op], seen) {
                    let with = set ^ self.marks[event.op];
                    if self.tried.insert(with) {
                        set = with;
                        path.push((event.op, length));
                        self.lift(event.op);
                        place = self.events[head].after;
                        continue;
                    }
                    log.back_to(length);
                }
                place = event.after;
                continue;
            }
            // An answer to something that has not happened, or nothing left to try.
            let missed = if place == head { self.first_open } else { event.op };
            if stuck.is_none_or(|(length, _)| length <= log.length()) {
                stuck = Some((log.length(), missed));
            }
            let Some((op, length)) = path.pop() else {
                let (length, missed) = stuck.expect("noted above");
                return Err(Violation { op: self.ops[missed].op, length });
            };
            set ^= self.marks[op];
            log.back_to(length);
            self.unlift(op);
            place = self.events[self.ends[op].0].after;
        }
        Ok(())
    }

    /// Whether nothing that has not happened yet would be lost by letting `op` happen.
    fn is_next(&self, op: usize) -> bool {
        self.ops[op].rank() == self.ops[self.first_open].rank()
    }

    fn lift(&mut self, op: usize) {
        let (call, answer) = self.ends[op];
        for place in [Some(call), answer].into_iter().flatten() {
            let Event { before, after, .. } = self.events[place];
            self.events[before].after = after;
            self.events[after].before = before;
        }
        self.taken[op] = true;
        while self.taken.get(self.first_open) == Some(&true) {
            self.first_open += 1;
        }
    }

    fn unlift(&mut self, op: usize) {
        let (call, answer) = self.ends[op];
        for place in [answer, Some(call)].into_iter().flatten() {
            let Event { before, after, .. } = self.events[place];
            self.events[before].after = place;
            self.events[after].before = place;
        }
        self.taken[op] = false;
        self.first_open = self.first_open.min(op);
    }
}

#[cfg(test)]
mod tests;
