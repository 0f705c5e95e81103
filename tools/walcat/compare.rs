//! `compare`: do two replicas hold the same entries?
//!
//! Raft promises that entries of equal index and term are equal (Log Matching, thesis 3.5), and
//! that what is committed is the same everywhere. So over the indexes that both logs hold, batches
//! of equal term must be equal byte for byte, and up to the higher of the two known commit
//! indexes the terms must be equal too. Above that, tails may differ: that is a crash, no fault.

use std::collections::BTreeMap;
use std::path::Path;

use catamaran::model::{BatchHeader, GroupId, LogIndex};
use catamaran::wal::{Index, Recovered, RecoveredGroup, SegmentNo, parse_block_of};
use serde_json::json;

use crate::Failure;
use crate::log::{self, Log};

/// A recovered log with the segment read last.
struct Side {
    log: Log,
    recovered: Recovered,
    segment: Option<(SegmentNo, Vec<u8>)>,
}

/// What comparing one group gave.
struct Verdict {
    group: GroupId,
    first: LogIndex,
    last: LogIndex,
    batches: u64,
    tail_differs_at: Option<LogIndex>,
    fault: Option<String>,
}

/// Compares the groups that both directories have. True if nothing contradicts.
pub(crate) fn run(
    left: &Path,
    right: &Path,
    group: Option<u64>,
    json: bool,
) -> Result<bool, Failure> {
    let (mut left_sides, mut right_sides) = (sides(left)?, sides(right)?);
    let (left, right) = (groups_of(&left_sides), groups_of(&right_sides));
    let (mut is_equal, mut compared) = (true, 0);
    for (id, (left_at, left_group)) in &left {
        if group.is_some_and(|wanted| wanted != id.get()) {
            continue;
        }
        let Some((right_at, right_group)) = right.get(id) else { continue };
        let pair = (&mut left_sides[*left_at], &mut right_sides[*right_at]);
        let verdict = compare(pair, (left_group, right_group))?;
        print(&verdict, json);
        is_equal &= verdict.fault.is_none();
        compared += 1;
    }
    if compared == 0 {
        return Err(Failure::Unreadable("no group is in both directories".to_owned()));
    }
    Ok(is_equal)
}

fn sides(path: &Path) -> Result<Vec<Side>, Failure> {
    let mut sides = Vec::new();
    for log in log::open(path)? {
        match log.recover()? {
            Ok(recovered) => sides.push(Side { log, recovered, segment: None }),
            Err(error) => return Err(Failure::Corrupt(format!("{}: {error}", log.name))),
        }
    }
    Ok(sides)
}

fn groups_of(sides: &[Side]) -> BTreeMap<GroupId, (usize, RecoveredGroup)> {
    let all = sides.iter().enumerate();
    all.flat_map(|(at, side)| {
        side.recovered.groups.iter().map(move |group| (group.group, (at, group.clone())))
    })
    .collect()
}

fn compare(
    (left, right): (&mut Side, &mut Side),
    (a, b): (&RecoveredGroup, &RecoveredGroup),
) -> Result<Verdict, Failure> {
    let first = a.base.index.max(b.base.index).next();
    let last = a.last.index.min(b.last.index);
    let committed = a.hard_state.commit.max(b.hard_state.commit);
    let mut verdict =
        Verdict { group: a.group, first, last, batches: 0, tail_differs_at: None, fault: None };
    let mut at = first;
    while at <= last && verdict.fault.is_none() {
        let terms =
            (left.recovered.index.term_at(a.group, at), right.recovered.index.term_at(a.group, at));
        if terms.0 != terms.1 {
            if at <= committed {
                let why = format!("index {at} is committed and has two terms: {terms:?}");
                verdict.fault = Some(why);
            } else {
                verdict.tail_differs_at = Some(at);
            }
            break;
        }
        let (one, other) = (left.batch(a.group, at)?, right.batch(a.group, at)?);
        if one != other {
            verdict.fault = Some(format!("index {at}: same term, different batches"));
        }
        let header = BatchHeader::decode(&one).expect("verified when it was read");
        at = header.span.last().next();
        verdict.batches += 1;
    }
    Ok(verdict)
}

impl Side {
    /// The bytes of the batch of `group` that holds `index`.
    fn batch(&mut self, group: GroupId, index: LogIndex) -> Result<Vec<u8>, Failure> {
        let lost = |name: &str| {
            Failure::Corrupt(format!("{name}: group {group} index {index} cannot be found"))
        };
        let name = self.log.name.clone();
        let located = self.recovered.index.locate(group, index).ok_or_else(|| lost(&name))?;
        if self.segment.as_ref().is_none_or(|(segment, _)| *segment != located.segment) {
            self.segment = Some((located.segment, self.log.read_segment(located.segment)?));
        }
        let (segment, bytes) = self.segment.as_ref().expect("just read");
        let offset = located.block.bytes_since(self.log.start_of(*segment));
        let mut at = usize::try_from(offset).expect("inside a segment");
        let term = term_of(&self.recovered.index, group, index);
        while let Some(rest) = bytes.get(at..) {
            let lsn = self.log.start_of(*segment).plus(at as u64);
            let Ok(block) = parse_block_of(rest, lsn, self.log.identity_tag) else { break };
            let found = block.entries().find(|entry| {
                entry.group == group && entry.span.contains(index) && Some(entry.span.term) == term
            });
            if let Some(entry) = found {
                return Ok(block.batch_bytes(&entry).to_vec());
            }
            at += block.total_bytes() as usize;
        }
        Err(lost(&name))
    }
}

fn term_of(index: &Index, group: GroupId, at: LogIndex) -> Option<catamaran::model::Term> {
    index.term_at(group, at)
}

fn print(verdict: &Verdict, json: bool) {
    let Verdict { group, first, last, batches, tail_differs_at, fault } = verdict;
    if json {
        let line = json!({
            "group": group.get(),
            "first": first.get(),
            "last": last.get(),
            "batches_equal": batches,
            "tail_differs_at": tail_differs_at.map(LogIndex::get),
            "fault": fault,
        });
        println!("{line}");
        return;
    }
    let tail = tail_differs_at
        .map_or(String::new(), |at| format!(", uncommitted tails differ from index {at} on"));
    match fault {
        Some(fault) => println!("group {group}: DIFFERENT: {fault}"),
        None if first > last => println!("group {group}: nothing in common to compare{tail}"),
        None => println!("group {group}: equal, {batches} batches, index {first}..={last}{tail}"),
    }
}
