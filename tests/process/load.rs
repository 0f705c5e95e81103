//! A client that writes without a pause and keeps the account of it.
//!
//! The account and its comparison with the log are `tools/hammer/account.rs`.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use catamaran::client::{Client, Ticket};
use catamaran::model::{LogIndex, Outcome};

pub(crate) use super::account::Ledger;
use super::account::{read_log, record_of};
use super::nodes::{Cluster, GROUP};

/// Requests on their way at once.
const IN_FLIGHT: usize = 64;

/// A writer in a thread of its own, until it is told to stop.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    thread: JoinHandle<Ledger>,
}

/// Text of a record: 200 bytes that begin with its number.
pub(crate) fn record(number: u64) -> String {
    record_of(number, 200)
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
    let outcome = ticket.wait();
    ledger.settle(first, count, &outcome);
    if let Outcome::NotDone(_) = outcome {
        // Nobody serves at the moment; a real client would wait too.
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
}

/// Every record of the log with its index, by one linearizable reading.
#[track_caller]
pub(crate) fn read_all(client: &Client) -> Vec<(LogIndex, String)> {
    read_log(client).unwrap_or_else(|error| panic!("{error}"))
}

impl Ledger {
    /// Compares the account with the log.
    #[track_caller]
    pub(crate) fn check(&self, log: &[(LogIndex, String)]) {
        let audit = self.audit(log);
        assert!(audit.is_good(), "{}", audit.words());
    }
}
