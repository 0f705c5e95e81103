//! A client that writes without a pause, remembers every outcome, and settles accounts at the end.
//!
//! Every record is unique and sent once: the library retries only what certainly had no effect. So
//! an acknowledged record must be in the log exactly once, at its index; one that was refused must
//! not be there; and one whose outcome is unknown may be there once.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use catamaran::client::{Client, Ticket};
use catamaran::model::{LogIndex, Outcome};
use catamaran::wire::client::Consistency;

use super::nodes::{Cluster, GROUP};

/// Requests on their way at once.
const IN_FLIGHT: usize = 64;
/// What one read asks for.
const READ_BYTES: u32 = 256 << 10;

/// What became of every record.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// Index of each acknowledged record, by its number.
    pub(crate) done: BTreeMap<u64, LogIndex>,
    pub(crate) not_done: BTreeSet<u64>,
    pub(crate) unknown: BTreeSet<u64>,
}

/// A writer in a thread of its own, until it is told to stop.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    thread: JoinHandle<Ledger>,
}

/// Text of a record: 200 bytes that begin with its number.
pub(crate) fn record(number: u64) -> String {
    format!("{:<200}", format!("record {number:08}"))
}

impl Load {
    pub(crate) fn start(cluster: &Cluster) -> Self {
        let client = cluster.client();
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stop_seen, done_told) = (Arc::clone(&stop), Arc::clone(&done));
        let write = move || write(&client, &stop_seen, &done_told);
        Self { stop, done, thread: std::thread::spawn(write) }
    }

    /// Records acknowledged so far.
    pub(crate) fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// Waits until `more` further records are acknowledged: the cluster serves.
    pub(crate) fn wait_more(&self, cluster: &Cluster, more: u64) {
        let wanted = self.done() + more;
        let what = format!("{more} more acknowledged records");
        cluster.wait_for(&what, || (self.done() >= wanted).then_some(()));
    }

    /// Ends the writing and takes the account.
    pub(crate) fn finish(self) -> Ledger {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the writer does not panic")
    }
}

fn write(client: &Client, stop: &AtomicBool, done: &AtomicU64) -> Ledger {
    let mut ledger = Ledger::default();
    let mut waiting: VecDeque<(u64, u64, Ticket)> = VecDeque::new();
    let mut next = 1;
    while !stop.load(Ordering::Relaxed) {
        // One to three records a request, so that indexes inside requests matter too.
        let count = 1 + next % 3;
        let records: Vec<String> = (next..next + count).map(record).collect();
        waiting.push_back((next, count, client.append_async(GROUP, &records)));
        next += count;
        // A load, not a flood: the account is kept in memory and read back in the end.
        std::thread::sleep(std::time::Duration::from_micros(200));
        if waiting.len() >= IN_FLIGHT {
            settle(&mut ledger, waiting.pop_front().expect("just pushed"));
            done.store(ledger.done.len() as u64, Ordering::Relaxed);
        }
    }
    for request in waiting {
        settle(&mut ledger, request);
    }
    ledger
}

fn settle(ledger: &mut Ledger, (first, count, ticket): (u64, u64, Ticket)) {
    match ticket.wait() {
        Outcome::Done(reply) => {
            let at = reply.first.get();
            ledger.done.extend((0..count).map(|i| (first + i, LogIndex::new(at + i))));
        }
        Outcome::NotDone(_) => {
            ledger.not_done.extend(first..first + count);
            // Nobody serves at the moment; a real client would wait too.
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        Outcome::Unknown(_) => ledger.unknown.extend(first..first + count),
    }
}

/// Every record of the log with its index, by one linearizable reading.
pub(crate) fn read_all(client: &Client) -> Vec<(LogIndex, String)> {
    let mut records = Vec::new();
    let mut from = LogIndex::new(1);
    let mut failures = 0;
    loop {
        match client.read(GROUP, from, READ_BYTES, Consistency::Linearizable) {
            Ok(batch) => {
                let texts = batch.records.iter();
                records.extend(texts.map(|(at, text)| (*at, String::from_utf8_lossy(text).into())));
                if batch.next > batch.commit {
                    return records;
                }
                assert!(from < batch.next, "no progress at {from:?}");
                from = batch.next;
            }
            Err(error) => {
                failures += 1;
                assert!(failures < 20, "reading from {from:?}: {error}");
            }
        }
    }
}

impl Ledger {
    /// Compares the account with the log.
    #[track_caller]
    pub(crate) fn check(&self, log: &[(LogIndex, String)]) {
        let mut places: BTreeMap<u64, LogIndex> = BTreeMap::new();
        for (index, text) in log {
            let number = text.strip_prefix("record ").and_then(|rest| rest[..8].parse().ok());
            let number: u64 = number.unwrap_or_else(|| panic!("{index:?} holds {text:?}"));
            assert_eq!(*text, record(number), "altered at {index:?}");
            let before = places.insert(number, *index);
            assert_eq!(before, None, "record {number} is there twice, also at {index:?}");
        }
        for (number, index) in &self.done {
            assert_eq!(places.get(number), Some(index), "acknowledged record {number}");
        }
        for number in &self.not_done {
            assert_eq!(places.get(number), None, "record {number} was refused");
        }
        let known = |number: &u64| self.done.contains_key(number) || self.unknown.contains(number);
        assert!(places.keys().all(known), "a record that nobody sent");
    }
}
