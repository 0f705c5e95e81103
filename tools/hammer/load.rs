//! The clients that behave: they write at times fixed in advance, keep account, and take the time.
//!
//! A writer is a thread that has one record on its way. Its latency counts from when the record was
//! due, so that waiting for the one before is part of it. Rates are modest on purpose: what is asked
//! is how others fare while something goes wrong, not how much the cluster takes (`overload` asks
//! that, with loadgen).

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use catamaran::client::{Client, Options};
use catamaran::model::{LogIndex, Outcome};

use crate::account::{Ledger, record_of};
use crate::cluster::{GROUP, Nodes};

/// What is offered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    /// Threads, each with one record on its way.
    pub(crate) writers: u32,
    /// Records per second of all of them.
    pub(crate) per_second: u32,
    /// Bytes of a record.
    pub(crate) record_bytes: usize,
}

/// A record that was acknowledged. Times in microseconds since the load began.
#[derive(Clone, Copy, Debug)]
struct Ack {
    due_us: u64,
    done_us: u64,
}

/// What writers and watchers share.
struct Board {
    begun: Instant,
    stop: AtomicBool,
    next: AtomicU64,
    acked: AtomicU64,
    /// The highest index that was acknowledged: a linearizable read must see it.
    highest: AtomicU64,
    acks: Mutex<Vec<Ack>>,
}

/// Writers at work.
pub(crate) struct Load {
    board: Arc<Board>,
    writers: Vec<JoinHandle<Ledger>>,
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// The value that so many of a hundred do not exceed; nearest rank. The largest number if there is
/// no value: where nothing was acknowledged, nothing was fast.
pub(crate) fn percentile(values: &mut [u64], hundredths: usize) -> u64 {
    values.sort_unstable();
    let rank = (values.len() * hundredths).div_ceil(100);
    values.get(rank.saturating_sub(1)).copied().unwrap_or(u64::MAX)
}

impl Load {
    /// Starts writing.
    ///
    /// # Errors
    /// Nobody answers.
    pub(crate) fn start(nodes: &Nodes, shape: Shape) -> Result<Self, String> {
        let client = Arc::new(nodes.client()?);
        let board = Arc::new(Board {
            begun: Instant::now(),
            stop: AtomicBool::new(false),
            next: AtomicU64::new(1),
            acked: AtomicU64::new(0),
            highest: AtomicU64::new(0),
            acks: Mutex::new(Vec::new()),
        });
        let writers = (0..shape.writers)
            .map(|number| {
                let (board, client) = (Arc::clone(&board), Arc::clone(&client));
                std::thread::spawn(move || {
                    write(&board, &client, shape, number, Duration::ZERO..Duration::MAX)
                })
            })
            .collect();
        Ok(Self { board, writers })
    }

    /// Further writers for a while, who know the cluster by `addresses` only: while a leader stands
    /// still, those who know it wait for it.
    ///
    /// # Errors
    /// Nobody answers there.
    pub(crate) fn also(
        &mut self,
        addresses: &[String],
        shape: Shape,
        time: Duration,
    ) -> Result<(), String> {
        let options = Options { request_timeout: Duration::from_secs(2), ..Options::default() };
        let client = Client::connect(addresses, options).map_err(|error| error.to_string())?;
        let client = Arc::new(client);
        for number in 0..shape.writers {
            let (board, client) = (Arc::clone(&self.board), Arc::clone(&client));
            let begin = board.begun.elapsed();
            let span = begin..begin + time;
            let work = move || write(&board, &client, shape, number, span);
            self.writers.push(std::thread::spawn(work));
        }
        Ok(())
    }

    /// Time since the load began.
    pub(crate) fn now(&self) -> Duration {
        self.board.begun.elapsed()
    }

    /// Records acknowledged so far.
    pub(crate) fn acked(&self) -> u64 {
        self.board.acked.load(Ordering::Relaxed)
    }

    /// The highest index acknowledged so far, for whoever reads.
    pub(crate) fn highest(&self) -> Highest {
        Highest(Arc::clone(&self.board))
    }

    /// Waits until `more` further records are acknowledged: the cluster serves.
    ///
    /// # Errors
    /// It does not.
    pub(crate) fn wait_more(&self, nodes: &Nodes, more: u64) -> Result<(), String> {
        let wanted = self.acked() + more;
        let what = format!("{more} more acknowledged records");
        nodes.wait_for(&what, || (self.acked() >= wanted).then_some(()))
    }

    fn acks(&self) -> Vec<Ack> {
        self.board.acks.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Latencies, in microseconds, of records that were due between two times.
    pub(crate) fn latencies(&self, from: Duration, upto: Duration) -> Vec<u64> {
        let due = micros(from)..micros(upto);
        let acks = self.acks();
        let inside = acks.iter().filter(|ack| due.contains(&ack.due_us));
        inside.map(|ack| ack.done_us - ack.due_us).collect()
    }

    /// The longest time without an acknowledgement, from the last one before `from` to now.
    pub(crate) fn longest_gap(&self, from: Duration) -> Duration {
        let from = micros(from);
        let mut times: Vec<u64> = self.acks().iter().map(|ack| ack.done_us).collect();
        times.sort_unstable();
        let first = times.partition_point(|time| *time < from).saturating_sub(1);
        let gaps = times[first..].windows(2).map(|pair| pair[1] - pair[0]);
        Duration::from_micros(gaps.max().unwrap_or(0))
    }

    /// Ends the writing and takes the account.
    ///
    /// # Errors
    /// A writer ended badly.
    pub(crate) fn finish(mut self) -> Result<Ledger, String> {
        self.board.stop.store(true, Ordering::Relaxed);
        let mut ledger = Ledger::default();
        for writer in self.writers.drain(..) {
            ledger.join(writer.join().map_err(|_| "a writer panicked".to_owned())?);
        }
        Ok(ledger)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // Writers that nobody waits for end by themselves.
        self.board.stop.store(true, Ordering::Relaxed);
    }
}

/// The highest acknowledged index, to be looked at from other threads.
#[derive(Clone)]
pub(crate) struct Highest(Arc<Board>);

impl Highest {
    pub(crate) fn get(&self) -> LogIndex {
        LogIndex::new(self.0.highest.load(Ordering::SeqCst))
    }
}

fn write(
    board: &Board,
    client: &Client,
    shape: Shape,
    number: u32,
    span: std::ops::Range<Duration>,
) -> Ledger {
    let mut ledger = Ledger::default();
    let period = Duration::from_secs(1) * shape.writers / shape.per_second;
    // The writers take turns, so that records are due evenly.
    let mut due = span.start + period * number / shape.writers;
    while !board.stop.load(Ordering::Relaxed) && due < span.end {
        std::thread::sleep(due.saturating_sub(board.begun.elapsed()));
        let record_number = board.next.fetch_add(1, Ordering::Relaxed);
        let outcome = client.append(GROUP, &[record_of(record_number, shape.record_bytes)]);
        let now = board.begun.elapsed();
        ledger.settle(record_number, 1, &outcome);
        match outcome {
            Outcome::Done(reply) => {
                board.highest.fetch_max(reply.first.get(), Ordering::SeqCst);
                board.acked.fetch_add(1, Ordering::Relaxed);
                let ack = Ack { due_us: micros(due), done_us: micros(now.max(due)) };
                board.acks.lock().unwrap_or_else(PoisonError::into_inner).push(ack);
            }
            // Nobody serves at the moment; a real client would wait too.
            Outcome::NotDone(_) => std::thread::sleep(Duration::from_millis(2)),
            Outcome::Unknown(_) => {}
        }
        due += period;
        // Whoever is a second behind starts over: it was an outage, and is told as one.
        if now > due + Duration::from_secs(1) {
            due = now;
        }
    }
    ledger
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_nearest_ranks() {
        let mut values: Vec<u64> = (1..=200).rev().collect();
        assert_eq!(percentile(&mut values, 50), 100);
        assert_eq!(percentile(&mut values, 99), 198);
        assert_eq!(percentile(&mut values, 100), 200);
        assert_eq!(percentile(&mut [7], 99), 7);
        assert_eq!(percentile(&mut [], 99), u64::MAX);
    }
}
