//! Compares a log with what was promised about it, record by record.
//!
//! Pure: it is shown the records of a group and says at the end what is verified, lost,
//! duplicated or should not be there. Reading the log is `verify`'s business.

use crate::ledger::Account;
use crate::payload::Payload;

/// The verdict, summed over groups.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// Acknowledged records.
    pub(crate) acked: u64,
    /// Those that stand at their index, byte for byte.
    pub(crate) verified: u64,
    /// Those that do not.
    pub(crate) lost: u64,
    /// Records of this run that stand in the log more than once, counted without the first.
    pub(crate) duplicated: u64,
    /// Records of unknown fate that turned out to be there.
    pub(crate) unknown_present: u64,
    /// Records that are there although they were refused or never sent.
    pub(crate) phantom: u64,
    /// Every record that was looked at.
    pub(crate) read: u64,
}

impl Verdict {
    /// Whether the cluster kept its word.
    pub(crate) fn is_good(&self) -> bool {
        self.lost == 0 && self.duplicated == 0 && self.phantom == 0
    }

    /// Adds another group's.
    pub(crate) fn add(&mut self, other: &Self) {
        self.acked += other.acked;
        self.verified += other.verified;
        self.lost += other.lost;
        self.duplicated += other.duplicated;
        self.unknown_present += other.unknown_present;
        self.phantom += other.phantom;
        self.read += other.read;
    }
}

/// One bit a record: 12.5 MB for a hundred million.
#[derive(Debug, Default)]
struct Bits {
    words: Vec<u64>,
}

impl Bits {
    fn new(bits: u64) -> Self {
        let words = usize::try_from(bits.div_ceil(64)).expect("fewer records than memory");
        Self { words: vec![0; words] }
    }

    /// Sets the bit and tells whether it was set before. Beyond the end nothing is ever set.
    fn replace(&mut self, bit: u64) -> Option<bool> {
        let word = self.words.get_mut(usize::try_from(bit / 64).ok()?)?;
        let mask = 1 << (bit % 64);
        let before = *word & mask != 0;
        *word |= mask;
        Some(before)
    }
}

/// A place in a sorted list of runs, for a reader that goes through a stretch of the log.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cursor(usize);

/// The audit of one group.
#[derive(Debug)]
pub(crate) struct Audit {
    group: u32,
    account: Account,
    seen: Bits,
    verdict: Verdict,
    /// Numbers found where nothing was promised and nothing is in doubt. Empty in a good run.
    stray: Vec<u64>,
}

impl Audit {
    /// Of the group at `group` in the run's list.
    pub(crate) fn new(group: u32, account: Account) -> Self {
        let acked = account.runs.iter().map(|run| u64::from(run.count)).sum();
        Self {
            group,
            seen: Bits::new(account.numbers_end()),
            account,
            verdict: Verdict { acked, ..Verdict::default() },
            stray: Vec::new(),
        }
    }

    /// What is being compared with.
    pub(crate) fn account(&self) -> &Account {
        &self.account
    }

    /// A cursor for reading upwards from `index`.
    pub(crate) fn cursor(&self, index: u64) -> Cursor {
        Cursor(self.account.runs.partition_point(|run| run.index + u64::from(run.count) <= index))
    }

    /// The log holds `record` at `index`. Each index is shown once; with one cursor they ascend.
    #[inline]
    pub(crate) fn record(
        &mut self,
        cursor: &mut Cursor,
        payload: &Payload,
        index: u64,
        record: &[u8],
    ) {
        self.verdict.read += 1;
        let promised = self.promised(cursor, index);
        let Some(number) = payload.number_of(self.group, record) else { return };
        let seen_before = self.seen.replace(number) == Some(true);
        if seen_before {
            self.verdict.duplicated += 1;
        }
        if promised == Some(number) {
            self.verdict.verified += 1;
        } else if self.account.doubts(number) {
            self.verdict.unknown_present += u64::from(!seen_before);
        } else {
            self.stray.push(number);
        }
    }

    /// Which record was promised for `index`. Should two promises name one place, at least one of
    /// them is counted as lost.
    fn promised(&self, cursor: &mut Cursor, index: u64) -> Option<u64> {
        let runs = &self.account.runs;
        while runs.get(cursor.0).is_some_and(|run| run.index + u64::from(run.count) <= index) {
            cursor.0 += 1;
        }
        let run = runs.get(cursor.0).filter(|run| run.index <= index)?;
        Some(run.number + (index - run.index))
    }

    /// The whole log was shown.
    pub(crate) fn finish(self) -> Verdict {
        let mut verdict = self.verdict;
        // An acknowledged record is verified or lost; there is nothing between.
        verdict.lost = verdict.acked.saturating_sub(verdict.verified);
        // A stray that was acknowledged stands at the wrong index and is counted as lost; one that
        // was not had no business in the log at all.
        let acked = |number: u64| {
            self.account
                .runs
                .iter()
                .any(|run| run.number <= number && number < run.number + u64::from(run.count))
        };
        verdict.phantom = self.stray.iter().take(1000).filter(|number| !acked(**number)).count()
            as u64
            + self.stray.len().saturating_sub(1000) as u64;
        verdict
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::{Doubtful, Ledger, Run};

    /// Acknowledged: number 0..4 at 2..6 and 10..12 at 6..8; in doubt: 4..6. `log` lists numbers
    /// from index 1 on; `None` is a no-op or a stranger's record.
    fn audit(log: &[Option<u64>]) -> Verdict {
        let mut ledger = Ledger::new(1);
        ledger.ack(Run { group: 0, count: 4, index: 2, number: 0 });
        ledger.ack(Run { group: 0, count: 2, index: 6, number: 10 });
        ledger.doubt(Doubtful { group: 0, count: 2, number: 4 });
        let mut audit = Audit::new(0, ledger.into_accounts().remove(0));
        let mut payload = Payload::new(9, 24, 1);
        let mut cursor = audit.cursor(1);
        for (index, number) in (1..).zip(log) {
            let record = match number {
                Some(number) => payload.append_body(0, *number).0[12..].to_vec(),
                None => Vec::new(),
            };
            audit.record(&mut cursor, &payload, index, &record);
        }
        audit.finish()
    }

    const GOOD: [Option<u64>; 7] = [None, Some(0), Some(1), Some(2), Some(3), Some(10), Some(11)];

    #[test]
    fn a_good_log_is_verified_whole() {
        let verdict = audit(&GOOD);
        assert_eq!((verdict.acked, verdict.verified, verdict.read), (6, 6, 7));
        assert!(verdict.is_good(), "{verdict:?}");
    }

    #[test]
    fn a_missing_tail_and_a_changed_record_are_lost() {
        assert_eq!(audit(&GOOD[..6]).lost, 1);
        let mut log = GOOD;
        log[2] = None;
        assert_eq!((audit(&log).lost, audit(&log).verified), (1, 5));
    }

    #[test]
    fn a_second_copy_is_a_duplicate_wherever_it_stands() {
        let mut log = GOOD.to_vec();
        log.push(Some(2));
        assert_eq!((audit(&log).duplicated, audit(&log).lost), (1, 0));
        assert!(!audit(&log).is_good());
        log[0] = Some(3); // Before its own place: the reader meets the copy first.
        assert_eq!((audit(&log).duplicated, audit(&log).lost), (2, 0));
    }

    #[test]
    fn unknown_ones_may_be_there_once() {
        let mut log = GOOD.to_vec();
        log.push(Some(4));
        assert_eq!(audit(&log).unknown_present, 1);
        assert!(audit(&log).is_good());
        log.push(Some(4));
        assert_eq!(audit(&log).duplicated, 1);
    }

    #[test]
    fn a_shifted_log_is_lost_and_what_nobody_sent_is_a_phantom() {
        let shifted: Vec<_> = std::iter::once(None).chain(GOOD).collect();
        assert_eq!(audit(&shifted).lost, 6);
        let mut log = GOOD.to_vec();
        log.push(Some(7)); // Below the highest number, yet neither acknowledged nor in doubt.
        log.push(Some(99)); // Above every number that was handed out.
        assert_eq!(audit(&log).phantom, 2);
    }
}
