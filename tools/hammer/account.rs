//! What became of every record that was sent, and whether the log agrees.
//!
//! Every record is unique and sent once: the library retries only what certainly had no effect. So
//! an acknowledged record must be in the log exactly once, at its index; one that was refused must
//! not be there; and one whose outcome is unknown may be there once. Used by the process tests too.

use std::collections::{BTreeMap, BTreeSet};

use catamaran::client::Client;
use catamaran::model::{LogIndex, Outcome};
use catamaran::wire::client::{AppendReply, Consistency};

use super::cluster::GROUP;

/// What one read asks for.
const READ_BYTES: u32 = 256 << 10;
/// Failures in a row after which reading the log is given up.
const READ_ATTEMPTS: u32 = 20;
/// Text of a record of so many bytes, which begins with its number.
pub(crate) fn record_of(number: u64, bytes: usize) -> String {
    format!("{:<bytes$}", format!("record {number:08}"))
}

/// The number of a record that is not altered.
fn number_of(text: &str) -> Option<u64> {
    let number = text.get(7..15)?.parse().ok()?;
    (text == record_of(number, text.len())).then_some(number)
}

/// The account.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// Index of each acknowledged record, by its number.
    pub(crate) done: BTreeMap<u64, LogIndex>,
    pub(crate) not_done: BTreeSet<u64>,
    pub(crate) unknown: BTreeSet<u64>,
}

/// What the comparison with the log found.
#[derive(Debug, Default)]
pub(crate) struct Audit {
    /// Records in the log.
    pub(crate) found: u64,
    /// Acknowledged, and not in the log, or not at their index.
    pub(crate) lost: Vec<u64>,
    /// In the log more than once.
    pub(crate) duplicated: Vec<u64>,
    /// In the log although they were refused or never sent, or altered.
    pub(crate) wrong: Vec<String>,
}

impl Audit {
    /// Whether the log is what was promised.
    pub(crate) fn is_good(&self) -> bool {
        self.lost.is_empty() && self.duplicated.is_empty() && self.wrong.is_empty()
    }

    /// The first few of everything that is not right.
    pub(crate) fn words(&self) -> String {
        let first =
            |numbers: &[u64]| format!("{} {:?}", numbers.len(), &numbers[..numbers.len().min(5)]);
        format!(
            "lost: {}; duplicated: {}; wrong: {} {:?}",
            first(&self.lost),
            first(&self.duplicated),
            self.wrong.len(),
            self.wrong.first()
        )
    }
}

impl Ledger {
    /// Notes the outcome of a request with `count` records from number `first` on.
    pub(crate) fn settle(&mut self, first: u64, count: u64, outcome: &Outcome<AppendReply>) {
        match outcome {
            Outcome::Done(reply) => {
                let at = reply.first.get();
                self.done.extend((0..count).map(|i| (first + i, LogIndex::new(at + i))));
            }
            Outcome::NotDone(_) => self.not_done.extend(first..first + count),
            Outcome::Unknown(_) => self.unknown.extend(first..first + count),
        }
    }

    /// Takes another writer's account of other records.
    pub(crate) fn join(&mut self, mut other: Self) {
        self.done.append(&mut other.done);
        self.not_done.append(&mut other.not_done);
        self.unknown.append(&mut other.unknown);
    }

    /// Compares the account with the log.
    pub(crate) fn audit(&self, log: &[(LogIndex, String)]) -> Audit {
        let mut audit = Audit { found: log.len() as u64, ..Audit::default() };
        let mut places: BTreeMap<u64, LogIndex> = BTreeMap::new();
        for (index, text) in log {
            let Some(number) = number_of(text) else {
                audit.wrong.push(format!("altered at {index:?}: {text:?}"));
                continue;
            };
            if places.insert(number, *index).is_some() {
                audit.duplicated.push(number);
            }
            if self.not_done.contains(&number) {
                audit.wrong.push(format!("record {number} was refused, and is at {index:?}"));
            } else if !self.done.contains_key(&number) && !self.unknown.contains(&number) {
                audit.wrong.push(format!("record {number} was never sent, and is at {index:?}"));
            }
        }
        let lost = self.done.iter().filter(|(number, index)| places.get(number) != Some(index));
        audit.lost = lost.map(|(number, _)| *number).collect();
        audit
    }
}

/// Every record of the log with its index, by one linearizable reading.
///
/// # Errors
/// It cannot be read.
pub(crate) fn read_log(client: &Client) -> Result<Vec<(LogIndex, String)>, String> {
    let mut records = Vec::new();
    let mut from = LogIndex::new(1);
    let mut failures = 0;
    loop {
        match client.read(GROUP, from, READ_BYTES, Consistency::Linearizable) {
            Ok(batch) => {
                let texts = batch.records.iter();
                records.extend(texts.map(|(at, text)| (*at, String::from_utf8_lossy(text).into())));
                if batch.next > batch.commit {
                    return Ok(records);
                }
                if batch.next <= from {
                    return Err(format!("no progress at {from:?}"));
                }
                from = batch.next;
                failures = 0;
            }
            Err(error) => {
                failures += 1;
                if failures == READ_ATTEMPTS {
                    return Err(format!("reading from {from:?}: {error}"));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(numbers: &[(u64, u64)]) -> Vec<(LogIndex, String)> {
        numbers.iter().map(|(at, number)| (LogIndex::new(*at), record_of(*number, 200))).collect()
    }

    fn ledger() -> Ledger {
        let done = [(1, LogIndex::new(2)), (2, LogIndex::new(3))].into();
        Ledger { done, not_done: [3].into(), unknown: [4].into() }
    }

    #[test]
    fn an_audit_finds_what_is_not_as_promised() {
        assert!(ledger().audit(&log(&[(2, 1), (3, 2)])).is_good());
        assert!(ledger().audit(&log(&[(2, 1), (3, 2), (4, 4)])).is_good(), "unknown may be there");
        assert_eq!(ledger().audit(&log(&[(3, 2)])).lost, [1]);
        assert_eq!(ledger().audit(&log(&[(2, 2), (3, 1)])).lost, [1, 2], "at another index");
        assert_eq!(ledger().audit(&log(&[(2, 1), (3, 2), (4, 2)])).duplicated, [2]);
        assert_eq!(ledger().audit(&log(&[(2, 1), (3, 2), (4, 3)])).wrong.len(), 1, "refused");
        assert_eq!(ledger().audit(&log(&[(2, 1), (3, 2), (4, 9)])).wrong.len(), 1, "never sent");
        let altered = vec![(LogIndex::new(4), record_of(4, 200).replace("record", "rekord"))];
        assert_eq!(ledger().audit(&altered).wrong.len(), 1);
    }
}
